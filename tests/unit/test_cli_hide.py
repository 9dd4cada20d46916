"""An address that is to be hidden is nowhere in what is shown."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from otel_audit.build import build_record
from otel_audit.catalog import Catalog
from otel_audit.cli.hide import HIDDEN, without_address
from otel_audit.otlp import encode
from otel_audit.record import AuditRecord, Session, to_json

ADDRESSES = st.ip_addresses().map(str)
TEXT = st.text(st.characters(categories=["L", "P"]), max_size=10)


def record(address: str, text: str, **values: object) -> AuditRecord:
    given = {
        "event": "user.login.failure", "host": "h", "source": "s", "session": Session(ip=address, client=text),
        "user": text, "target": text, "message": text, "custom": {"g": {"f": [text, {"k": text}], "b": text.encode()}},
    }  # fmt: skip
    return build_record({**given, **values}, Catalog())


@given(ADDRESSES, TEXT, TEXT)
def test_addresses_are_nowhere(address: str, before: str, after: str) -> None:
    """Neither the JSON form nor the OTLP bytes hold the address, wherever it stood and in any case."""
    original = record(address, f"{before} {address.upper()} {after}")
    hidden = without_address(original)
    assert address in json.dumps(to_json(original)).lower()
    assert address not in json.dumps(to_json(hidden), ensure_ascii=False).lower()
    assert address.encode() not in encode(hidden).lower()
    assert hidden.message == f"{before} {HIDDEN} {after}"


@pytest.mark.parametrize("address", ["203.0.113.7", "2001:db8::1", "client.example", "a\x1b[31mb", "x" * 400])
def test_addresses_are_not_in_the_sentence(address: str) -> None:
    """The display sentence of a record without a message loses the address, whatever a client gave for one."""
    hidden = without_address(record(address, "text", message=None))
    assert hidden.message == f"user.login.failure (failure) text@h from {HIDDEN}"
    assert hidden.session is not None
    assert hidden.session.ip is None


def test_other_texts_stay() -> None:
    """Longer addresses and words that contain the address stay as they are; so do records without one."""
    original = record("192.0.2.1", "192.0.2.10 and 1192.0.2.1")
    hidden = without_address(original)
    assert hidden.message == original.message
    assert without_address(record("a", "a man at a bar")).message == f"{HIDDEN} man at {HIDDEN} bar"
    bare = record("192.0.2.1", "from 192.0.2.1", session=None)
    assert without_address(bare) is bare
    empty = record("", "text")
    assert without_address(empty).message == "text"
