"""Reads what a backend holds of an archive, to compare the two record by record."""
