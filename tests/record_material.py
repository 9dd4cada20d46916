"""Whole records with hostile values, for the tests of what records are turned into."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from otel_audit.catalog import BUILT_IN
from otel_audit.record import Actor, AuditRecord, Session, Target
from tests.command_line import HOSTILE

__all__ = ["records", "texts"]

_VALID = st.characters(exclude_categories=["Cs"])
_BITS = (
    "'", "''", '"', '""', ";", ";=", "=1+1", " =1", '"=1', "';'", ",", "\\", "\\n", "\\=", "|", "\\|", "=", "a=b c=d",
)  # fmt: skip
_WORST = sorted({text.replace("\udcff", "") for text in HOSTILE.values()} | set(_BITS))


def texts() -> st.SearchStrategy[str]:
    """Return texts as an archive can hold them: any characters but surrogates, and what programs stumble over."""
    some = st.sampled_from(_WORST)
    return st.text(_VALID, max_size=20) | some | st.lists(some, max_size=4).map("".join)


def _hex(digits: int) -> st.SearchStrategy[str]:
    return st.text("0123456789abcdef", min_size=digits, max_size=digits)


def _values() -> st.SearchStrategy[Any]:
    plain = st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats() | st.binary(max_size=8) | texts()
    return st.recursive(
        plain,
        lambda inner: st.lists(inner, max_size=3).map(tuple) | st.dictionaries(texts(), inner, max_size=3),
        max_leaves=5,
    )


def records() -> st.SearchStrategy[AuditRecord]:
    """Return records as `Archive.query` gives them, each field hostile."""
    text, some = texts(), st.none() | texts()
    moment = st.integers(1, 2**63 - 2)
    address = some | st.ip_addresses().map(str) | st.sampled_from(["203.0.113.0/24", "fe80::1%eth0", "a.example"])
    return st.builds(
        AuditRecord,
        record_id=st.uuids(version=4).map(str),
        time=moment,
        observed=moment,
        host=text,
        source=text,
        type=text | st.sampled_from([known.name for known in BUILT_IN]),
        actor=st.builds(Actor, text, st.sampled_from(["user", "service", "system"])),
        action=text | st.sampled_from(["LOGIN", "LOGOUT", "CREATE", "READ", "UPDATE", "DELETE", "EXPORT"]),
        outcome=st.sampled_from(["success", "failure", "unknown"]),
        user=some,
        user_id=some,
        session=st.none() | st.builds(Session, some, some, address, some, some, some).filter(any),
        target=st.none() | st.builds(Target, text, some),
        custom=st.dictionaries(
            st.sampled_from(["reason", "context", "role", "permission", "grant"]),
            st.dictionaries(text | st.sampled_from(["name", "condition", "scopes"]), _values(), max_size=3),
            max_size=2,
        ),
        message=some,
        trace_id=st.none() | _hex(32),
        span_id=st.none() | _hex(16),
        trace_flags=st.integers(0, 255),
        altered=st.lists(text, max_size=2).map(tuple),
        sequence=st.integers(1, 2**63 - 1),
        integrity_hash=_hex(64),
        stream_id=_hex(32),
        signature=st.none() | st.binary(min_size=64, max_size=64).map(lambda value: value.hex()),
    )
