"""Reads the audit records of many hosts from the log table of a ClickHouse, which the Collector's exporter fills."""
