"""Reads the archives of Prosody's mod_audit and imports them, each entry once."""
