"""The words of the data model: immutable, comparable, and shown as JSON with documented keys."""

from __future__ import annotations

import datetime as dt
import ipaddress
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from otel_audit.record import Actor, AuditRecord, Receipt, Session, Target, Value, address_type, rfc3339, to_json

RECORD = AuditRecord(
    record_id="01890a5d-ac96-774b-bcce-b302099a8057", time=1, observed=2, host="h", source="s", type="t",
    actor=Actor("s", "system"), action="READ", outcome="success",
)  # fmt: skip


@pytest.mark.parametrize("thing", [Session("1"), Actor("a"), Target("t"), Receipt("r"), RECORD])
def test_nothing_can_be_changed(thing: Any) -> None:
    """Records and their parts are immutable."""
    name = "host" if isinstance(thing, AuditRecord) else "record_id" if isinstance(thing, Receipt) else "id"
    with pytest.raises(AttributeError):
        setattr(thing, name, "other")


@pytest.mark.parametrize(
    ("address", "kind"),
    [
        ("203.0.113.7", "ipv4"),
        ("::1", "ipv6"),
        ("fe80::1%eth0", "ipv6"),
        ("::ffff:203.0.113.7", "ipv6"),
        ("host.example.com", "hostname"),
        ("host.example.com.", "hostname"),
        ("localhost", "hostname"),
        ("a_b-c", "hostname"),
        ("1.2.3", "hostname"),
        ("", "unknown"),
        (".", "unknown"),
        ("a..b", "unknown"),
        ("a b", "unknown"),
        ("bücher.example", "unknown"),
        ("x" * 64, "unknown"),
        ("x." * 126 + "x", "hostname"),
        ("x." * 127, "unknown"),
        ("203.0.113.7/24", "unknown"),
        ("<script>", "unknown"),
    ],
)
def test_address_types(address: str, kind: str) -> None:
    """An address is `ipv4`, `ipv6`, a plausible `hostname`, or `unknown`."""
    assert address_type(address) == kind


@given(st.integers(0, 2**63 - 1))
def test_rfc3339_keeps_nanoseconds(nanoseconds: int) -> None:
    """Times are shown in UTC with nine digits, nothing rounded."""
    text = rfc3339(nanoseconds)
    whole, _, fraction = text.removesuffix("Z").partition(".")
    seconds = int(dt.datetime.fromisoformat(f"{whole}+00:00").timestamp())
    assert (len(fraction), seconds * 10**9 + int(fraction)) == (9, nanoseconds)


def test_json_keys() -> None:
    """The JSON form has the documented keys, those of nested objects too, and null for what is not there."""
    assert list(to_json(RECORD)) == [
        "sequence", "record_id", "time", "host", "user", "source", "type", "outcome", "action", "actor", "target",
        "session", "trace_id", "span_id", "custom", "message", "altered",
    ]  # fmt: skip
    assert to_json(RECORD)["session"] is None
    assert to_json(RECORD)["target"] is None
    full = RECORD._replace(
        session=Session("1", "c2s", ipaddress.ip_address("::1"), "c"),
        target=Target("o", "order"),
        altered=("user:empty",),
    )
    shown = to_json(full)
    assert shown["session"] == {"id": "1", "type": "c2s", "ip": "::1", "client": "c"}
    assert shown["target"] == {"id": "o", "type": "order"}
    assert shown["actor"] == {"id": "s", "type": "system"}
    assert shown["altered"] == ["user:empty"]
    assert shown["time"] == "1970-01-01T00:00:00.000000001Z"


def test_json_holds_every_custom_value() -> None:
    """Bytes become base64, NaN and infinities strings; the result is strict JSON."""
    fields: dict[str, Value] = {
        "nan": float("nan"), "inf": float("inf"), "minus": float("-inf"), "bytes": b"\x00\xff", "list": (1, (None,)),
        "map": {"a": True}, "float": 1.5, "text": "ü",
    }  # fmt: skip
    shown = to_json(RECORD._replace(custom={"g": fields}))
    assert json.loads(json.dumps(shown, allow_nan=False))["custom"]["g"] == {
        "nan": "NaN", "inf": "Infinity", "minus": "-Infinity", "bytes": "AP8=", "list": [1, [None]], "map": {"a": True},
        "float": 1.5, "text": "ü",
    }  # fmt: skip
