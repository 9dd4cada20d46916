"""A durable audit endpoint for every language: OTLP/HTTP in, committed records out. Needs the extra ``server``."""
