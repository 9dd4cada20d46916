"""CEF lines are read back by a parser that knows nothing but the format, and hold all that was recorded."""

from __future__ import annotations

import json
import re
from typing import Any

from hypothesis import given

from otel_audit._version import __version__
from otel_audit.catalog import Catalog, EventType
from otel_audit.exports import export_lines
from otel_audit.exports.cef import line
from otel_audit.exports.quoting import unquoted
from otel_audit.record import Actor, AuditRecord, Session, Target, rfc3339, to_json
from tests.record_material import records

CATALOG = Catalog()
LOGIN = AuditRecord(
    record_id="01890a5d-ac96-774b-bcce-b302099a8057",
    time=1_700_000_000_123_456_789,
    observed=1_700_000_000_223_456_789,
    host="example.com",
    source="shop",
    type="user.login.failure",
    actor=Actor("alice"),
    action="LOGIN",
    outcome="failure",
    user="alice",
    session=Session("s-1", "http", "203.0.113.7", "a=b | c\\d"),
    custom={"reason": {"condition": "expired"}},
    message="one\ntwo",
    sequence=3,
)
# The keys of the format's dictionary; all others must have our prefix.
DICTIONARY = {
    "rt", "start", "externalId", "act", "outcome", "reason", "suser", "duser", "duid", "src", "c6a2", "c6a2Label",
    "shost", "requestClientApplication", "msg", "cn1", "cn1Label",
    *(f"cs{number}{label}" for number in range(1, 7) for label in ("", "Label")),
}  # fmt: skip
ESCAPES = {"\\\\": "\\", "\\|": "|", "\\=": "=", "\\n": "\n", "\\r": "\r"}


def unescape(text: str, known: str) -> str:
    """Undo the escapes that a part of the line has; any other backslash is an error."""

    def one(match: re.Match[str]) -> str:
        assert match[0][1:] in known, match[0]
        return ESCAPES[match[0]]

    return re.sub(r"\\.?", one, text)


def parse(text: str) -> tuple[list[str], dict[str, str]]:
    """Return the header of a CEF line and its extension, as the format's description has it."""
    assert "\n" not in text
    assert "\r" not in text
    parts = re.fullmatch(r"CEF:0" + r"\|((?:[^|\\]|\\.)*)" * 6 + r"\|(.*)", text)
    assert parts is not None
    *header, extension = parts.groups()
    # A key stands before each equals sign that is not escaped, after a blank.
    found = list(re.finditer(r"(?:^| )(\w+)=", re.sub(r"\\.", "__", extension)))
    ends = [match.start() for match in found[1:]] + [len(extension)]
    values = {match[1]: extension[match.end() : end] for match, end in zip(found, ends, strict=True)}
    assert len(values) == len(found)
    assert found[0].start() == 0
    return [unescape(part, "\\|") for part in header], {
        key: unescape(value, "\\=nr") for key, value in values.items()
    }  # fmt: skip


@given(records())
def test_cef_is_the_record(record: AuditRecord) -> None:
    """Every value of every record comes back from its line, by the escapes of the format and those alone."""
    (text,) = export_lines([record], "cef")
    assert text.endswith("\n")
    assert text[:-1].isprintable()
    header, shown = parse(text[:-1])
    assert header[:3] == ["otel_audit", "otel_audit", __version__]
    assert unquoted(header[3]) == record.type
    values = {key: unquoted(value) for key, value in shown.items()}
    assert all(key in DICTIONARY or key.startswith("otelAudit") for key in values)
    session = record.session or Session()
    expected: dict[str, Any] = {
        "externalId": record.record_id, "act": record.action, "outcome": record.outcome, "suser": record.actor.id,
        "duser": record.user, "duid": record.user_id, "requestClientApplication": session.client, "cs1": record.host,
        "cs2": record.source, "cs3": session.id, "cs4": record.trace_id, "cs5": record.target and record.target.id,
        "cn1": str(record.sequence), "otelAuditTime": rfc3339(record.time),
        "otelAuditObserved": rfc3339(record.observed),
        "otelAuditActorType": record.actor.type, "otelAuditTargetType": record.target and record.target.type,
        "otelAuditSessionType": session.type, "otelAuditCountry": session.country,
        "otelAuditContinent": session.continent, "otelAuditSpanId": record.span_id,
        "otelAuditTraceFlags": str(record.trace_flags), "otelAuditSignature": record.signature,
        "otelAuditIntegrityHash": record.integrity_hash, "otelAuditStreamId": record.stream_id, "msg": record.message,
    }  # fmt: skip
    assert {key: values.get(key) for key in expected} == expected
    assert next((values[key] for key in ("src", "c6a2", "shost") if key in values), None) == session.ip
    assert json.loads(values.get("cs6", "{}")) == to_json(record)["custom"]
    assert json.loads(values.get("otelAuditAltered", "[]")) == list(record.altered)
    for key in [key for key in values if re.fullmatch("c[sn6].?[0-9]", key)]:
        assert values[f"{key}Label"]


def test_a_login() -> None:
    """A usual line has no quoting, and the escapes where the format wants them."""
    assert line(LOGIN, CATALOG) == (
        f"CEF:0|otel_audit|otel_audit|{__version__}|user.login.failure|A login failed|6|"
        "rt=1700000000223 start=1700000000123 externalId=01890a5d-ac96-774b-bcce-b302099a8057 act=LOGIN outcome=failure"
        " reason=expired suser=alice duser=alice src=203.0.113.7 requestClientApplication=a\\=b | c\\\\d"
        " cs1Label=host cs1=example.com cs2Label=source cs2=shop cs3Label=session cs3=s-1"
        ' cs6Label=custom cs6={"reason": {"condition": "expired"}} cn1Label=sequence cn1=3'
        " otelAuditTime=2023-11-14T22:13:20.123456789Z otelAuditObserved=2023-11-14T22:13:20.223456789Z"
        " otelAuditActorType=user otelAuditSessionType=http otelAuditTraceFlags=0 msg=one\\ntwo"
    )


def test_the_header_is_escaped() -> None:
    """Bars and backslashes in the header are escaped; a line break is none, for the header has no escape for it."""
    found = line(LOGIN._replace(type="a|b\\c"), CATALOG)
    assert "|a\\|b\\\\c|a\\|b\\\\c|6|" in found
    assert '|"a\\\\nb"|' in line(LOGIN._replace(type="a\nb"), CATALOG)


def test_addresses() -> None:
    """Each kind of address has the key that takes it."""
    for address, key in (
        ("203.0.113.7", "src"), ("2001:db8::1", "c6a2"), ("a.example", "shost"), ("203.0.113.0/24", "shost"),
        ("fe80::1%eth0", "shost"),
    ):  # fmt: skip
        _, values = parse(line(LOGIN._replace(session=Session(ip=address)), CATALOG))
        assert {name: values.get(name) for name in ("src", "c6a2", "shost") if name in values} == {key: address}


def test_names_and_severities() -> None:
    """The name is the type's description, also of the application's own types; failures are more severe."""
    own = EventType("invoice.approved", "APPROVE", description="An invoice was approved.")
    record = LOGIN._replace(type="invoice.approved", outcome="success", target=Target("7"))
    assert "|invoice.approved|An invoice was approved|3|" in next(export_lines([record], "cef", event_types=[own]))
    assert "|invoice.approved|invoice.approved|3|" in next(export_lines([record], "cef"))
