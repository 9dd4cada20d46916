"""Measures that act before a record is built, so that what must not be kept is never written.

Each function returns a structlog processor for ``configure(processors=[…])``; the options of `otel_audit.configure` of
the same names put them together in the right order. None of them changes an object of the caller's, none raises on what
a client sent, and what they did stands among the record's `altered` marks.
"""

from __future__ import annotations

from otel_audit.privacy.addresses import drop_ip, truncate_ip
from otel_audit.privacy.location import locate
from otel_audit.privacy.pseudonyms import Pseudonyms, load_key, pseudonymise
from otel_audit.privacy.redaction import DEFAULT_KEYS, DEFAULT_PATTERNS, redact
from otel_audit.privacy.scrub import Privacy, merged

__all__ = [
    "DEFAULT_KEYS",
    "DEFAULT_PATTERNS",
    "Privacy",
    "Pseudonyms",
    "drop_ip",
    "load_key",
    "locate",
    "merged",
    "pseudonymise",
    "redact",
    "truncate_ip",
]
