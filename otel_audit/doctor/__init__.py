"""Examines what audit records depend on: the archive, its disk and keys, the settings, the destination, a Collector."""
