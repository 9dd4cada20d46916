"""Every form of ``otel-audit show`` holds what was recorded, and is harmless whatever clients sent."""

from __future__ import annotations

import base64
import csv
import io
import json
import re
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.json_format import ParseDict
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from rich.cells import cell_len

from otel_audit import attributes as keys
from otel_audit.archive.filters import Filter
from otel_audit.archive.query import open_archive
from otel_audit.otlp import frame, shipped, stream_attribute
from otel_audit.record import Actor, Session, to_json
from tests.command_line import HOSTILE, SPAN, TRACE, fill, json_lines, otel_audit

FORMS = ("table", "json", "jsonl", "csv", "otlp")
TYPE = "user.password.reset.requested"
ADDRESS = "203.0.113.77"
KEYS = [
    "sequence",
    "record_id",
    "time",
    "host",
    "user",
    "source",
    "type",
    "outcome",
    "action",
    "actor",
    "target",
    "session",
    "trace_id",
    "span_id",
    "custom",
    "message",
    "altered",
]


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An archive in which every field that a client can fill holds each of what clients send."""
    path = tmp_path_factory.mktemp("hostile") / "audit.db"
    fill(
        path,
        [
            {
                "type": TYPE, "user": text, "target": text, "message": text, "actor": text or None,
                "session": Session(text, text, text, text), "custom": {"sent": {"text": text, "deep": {text: [text]}}},
            }
            for text in HOSTILE.values()
        ],
    )  # fmt: skip
    return path


@pytest.fixture(scope="module")
def rich_archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An archive with one record that uses every field, and one that uses none."""
    path = tmp_path_factory.mktemp("rich") / "audit.db"
    fill(
        path,
        [
            {"type": "plain"},
            {
                "type": TYPE, "user": "zoë", "user_id": "17", "target": "order-7", "outcome": "failure", "trace": TRACE,
                "message": f"first\nsecond from {ADDRESS}",
                "session": Session("s-1", "http", ADDRESS, f"agent at {ADDRESS}"),
                "custom": {"reason": {"tries": -3, "rate": 0.5, "ok": True, "raw": b"\x00\xff", "none": float("nan")},
                           "seen": {"at": [ADDRESS, {"by": f"proxy of {ADDRESS}"}]}},
            },
        ],
    )  # fmt: skip
    return path


@pytest.mark.parametrize("form", FORMS)
def test_no_form_lets_controls_through(hostile: Path, form: str) -> None:
    """No output holds a control character, override or other invisible character, in any form, notes included."""
    text = otel_audit("show", "--archive", hostile, "-o", form, "-n", "all", "--show-note").stdout
    assert text
    bad = {ascii(c) for c in text if not c.isprintable() and c != "\n"}
    assert bad == set()


@pytest.mark.parametrize("form", ["jsonl", "csv", "otlp"])
def test_each_record_is_one_line(hostile: Path, form: str) -> None:
    """Line breaks in data break no line."""
    lines = otel_audit("show", "--archive", hostile, "-o", form).stdout.splitlines()
    assert len(lines) == len(HOSTILE) + (form == "csv")


@pytest.mark.parametrize("width", [20, 40, 60, 80, 132, 400])
@pytest.mark.parametrize("notes", [(), ("--show-note",)])
def test_tables_fit_every_width(hostile: Path, width: int, notes: tuple[str, ...]) -> None:
    """At any width no line is longer, and time, user, type and outcome of every record are there."""
    lines = otel_audit("show", "--archive", hostile, "--utc", *notes, COLUMNS=str(width)).stdout.splitlines()
    assert "User" in lines[0]
    assert sum(bool(re.match(r"(\d{4}-\d\d-\d\d )?\d\d:\d\d(:\d\d)?Z +\S", line)) for line in lines) == len(HOSTILE)
    assert max(map(cell_len, lines)) <= width
    assert sum("success" in line for line in lines) >= len(HOSTILE)
    if width >= 80 or width == 40:
        assert sum(TYPE in line for line in lines) >= len(HOSTILE)
    if width in (40, 80, 132, 400):
        assert notes or len(lines) == (len(HOSTILE) + 1) * (1 + (width == 40))


def test_eighty_columns_show_what_matters(rich_archive: Path) -> None:
    """At 80 columns, time, user, the full type and the outcome of the longest built-in types are there."""
    header, first, second = otel_audit("show", "--archive", rich_archive, "--utc", COLUMNS="80").stdout.splitlines()
    assert header.split()[:4] == ["Time", "User", "Event", "Outcome"]
    assert re.match(rf"\d{{4}}-\d\d-\d\d \d\d:\d\d:\d\dZ  zoë +{re.escape(TYPE)}  failure", first)
    assert "plain" in second


def test_times_are_shortened_first(rich_archive: Path) -> None:
    """Where rows of one day lack width, the heading has the date; at 40 columns a record takes two lines."""
    header, first, second = otel_audit("show", "--archive", rich_archive, "--utc", COLUMNS="65").stdout.splitlines()
    assert re.match(r"\d{4}-\d\d-\d\d  User +Event +Outcome$", header)
    assert re.match(rf"\d\d:\d\d:\d\dZ   zoë +{re.escape(TYPE)}  failure$", first)
    assert "plain" in second
    lines = otel_audit("show", "--archive", rich_archive, "--utc", COLUMNS="40").stdout.splitlines()
    assert re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\dZ  zoë|\d\d:\d\d:\d\dZ +zoë", lines[2])
    assert lines[3].split() == [TYPE, "failure"]
    assert len(lines) == 6


def test_times_keep_their_date_where_it_differs(tmp_path: Path) -> None:
    """Where the rows are of two days, each has its date, also where the width is short of other columns."""
    path = tmp_path / "audit.db"
    noon = 1_769_860_800 * 10**9
    fill(path, [{"user": "alice", "timestamp": noon + day * 86_400 * 10**9, "type": TYPE} for day in (0, 1)])
    for width in ("100", "80", "40"):
        text = otel_audit("show", "--archive", path, "--utc", "example.com", COLUMNS=width).stdout
        assert text.startswith("Time ")
        assert "2026-02-01 12:00:00Z  alice" in text
        assert "2026-01-31 12:00:00Z  alice" in text


def test_rows_after_the_sample_keep_their_date(tmp_path: Path) -> None:
    """A long table does not take the day of its first 500 rows for that of all."""
    path = tmp_path / "audit.db"
    noon = 1_769_860_800 * 10**9
    fill(path, [{"timestamp": noon - (n < 5) * 86_400 * 10**9, "type": TYPE} for n in range(510)])
    lines = otel_audit("show", "--archive", path, "--utc", "-n", "all", COLUMNS="60").stdout.splitlines()
    assert any(line.startswith("2026-01-31 12:00") for line in lines)
    assert any(line.startswith("2026-01-30 12:00") for line in lines)


def test_actors_are_shown(tmp_path: Path) -> None:
    """The column of users names the actor where it is another; names that only look so stand in quotes."""
    path = tmp_path / "audit.db"
    fill(
        path,
        [
            {"type": "a", "actor": "deploy-bot", "target": "feature-x"},
            {"type": "b", "user": "alice", "actor": Actor("root", "service")},
            {"type": "c", "user": "alice"},
            {"type": "d"},
            {"type": "e", "user": ""},
            {"type": "f", "user": "alice (root)"},
            {"type": "g", "user": "(deploy-bot)"},
            {"type": "h", "user": "", "actor": "root"},
        ],
    )
    text = otel_audit("show", "--archive", path, "--reverse", "--show-note", COLUMNS="120").stdout
    header, *rows = text.splitlines()
    notes = [row.strip() for row in rows if row.startswith("    ")]
    users = [row[header.index("User") : header.index("Event")].strip() for row in rows if not row.startswith("    ")]
    assert users == ["(deploy-bot)", "alice (root)", "alice", "", "", '"alice (root)"', '"(deploy-bot)"', "(root)"]
    assert [note for note in notes if note.startswith(("actor=", "target="))] == [
        "actor=deploy-bot",
        "target=feature-x",
        "actor=service:root",
        "actor=root",
    ]


def test_tables_without_a_width_are_not_cut(rich_archive: Path) -> None:
    """In a file or a pipe, where nothing gives a width, all columns are there."""
    header = otel_audit("show", "--archive", rich_archive, COLUMNS=None).stdout.splitlines()[0]
    assert header.split() == ["Time", "Host", "User", "Event", "Outcome", "IP", "Source", "Client"]
    header = otel_audit("show", "example.com", "--archive", rich_archive, COLUMNS=None).stdout.splitlines()[0]
    assert header.split() == ["Time", "User", "Event", "Outcome", "IP", "Source", "Client"]


def test_times_of_tables_are_local_unless_asked(rich_archive: Path) -> None:
    """Tables have local time with its zone, or UTC; JSON always has UTC."""
    local = otel_audit("show", "--archive", rich_archive, TZ="Asia/Kolkata", COLUMNS=None).stdout.splitlines()[1]
    assert re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\+05:30 ", local)
    utc = otel_audit("show", "--archive", rich_archive, "--utc", TZ="Asia/Kolkata", COLUMNS=None).stdout.splitlines()[1]
    assert re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\dZ ", utc)
    record = json_lines(otel_audit("show", "--archive", rich_archive, "-o", "jsonl", TZ="Asia/Kolkata").stdout)[0]
    assert record["time"].endswith("Z")


def test_notes_stand_below_their_row(rich_archive: Path) -> None:
    """With --show-note message, target, custom fields and the trace's link follow each row, a line each."""
    lines = otel_audit(
        "show",
        "--archive",
        rich_archive,
        "--show-note",
        COLUMNS="200",
        OTEL_AUDIT_TRACE_URL="https://t.example/{trace_id}",
    ).stdout.splitlines()
    notes = [line.strip() for line in lines if line.startswith("    ")]
    assert notes[0] == f"first\\nsecond from {ADDRESS}"
    assert notes[1] == "target=order-7"
    assert notes[2].startswith(
        'reason.tries=-3 reason.rate=0.5 reason.ok=true reason.raw=AP8= reason.none=NaN seen.at=["203'
    )
    assert f"https://t.example/{TRACE}" in notes
    # The sentence that the library makes where the call gives no message only repeats the row.
    assert not any("plain (unknown)" in note for note in notes)


def test_json_holds_the_documented_keys(rich_archive: Path) -> None:
    """JSON and JSON lines hold the same records, with the keys in their documented order."""
    lines = json_lines(otel_audit("show", "--archive", rich_archive, "-o", "jsonl").stdout)
    assert json.loads(otel_audit("show", "--archive", rich_archive, "-o", "json").stdout) == lines
    assert [list(line) for line in lines] == [KEYS, KEYS]
    with open_archive(rich_archive) as archive:
        assert [to_json(record) for record in archive.query()] == lines
    record = lines[0]
    assert record["session"] == {"id": "s-1", "type": "http", "ip": ADDRESS, "client": f"agent at {ADDRESS}"}
    assert (record["trace_id"], record["span_id"]) == (TRACE, SPAN)
    assert record["custom"]["reason"] == {"tries": -3, "rate": 0.5, "ok": True, "raw": "AP8=", "none": "NaN"}
    assert lines[1]["session"] is None


def test_json_holds_hostile_text_unchanged(hostile: Path) -> None:
    """What was recorded of each text comes back exactly, escapes being JSON's own."""
    with open_archive(hostile) as archive:
        expected = [to_json(record) for record in archive.query()]
    assert json_lines(otel_audit("show", "--archive", hostile, "-o", "jsonl").stdout) == expected
    assert "\x1b[2J\x1b[31mred\x1b]0;title\x07" in {record["user"] for record in expected}


def test_machine_forms_are_utf8_in_any_locale(rich_archive: Path) -> None:
    """JSON, CSV and OTLP are UTF-8 whatever the locale says; tables escape what it lacks."""
    for form in ("json", "jsonl", "csv", "otlp"):
        text = otel_audit("show", "--archive", rich_archive, "-o", form, PYTHONIOENCODING="latin-1").stdout
        assert "zoë" in text
    assert "zo\\xeb" in otel_audit("show", "--archive", rich_archive, PYTHONIOENCODING="ascii").stdout


def test_fields_are_selected(rich_archive: Path) -> None:
    """--fields keeps these fields where they stood, in all forms that have fields."""
    asked = ("show", "--archive", rich_archive, "--fields", "type,session.ip,custom.reason.tries", "-n", "1")
    expected = {"type": TYPE, "session": {"ip": ADDRESS}, "custom": {"reason": {"tries": -3}}}
    assert json.loads(otel_audit(*asked, "-o", "json").stdout) == [expected]
    assert json_lines(otel_audit(*asked, "-o", "jsonl").stdout) == [expected]
    assert otel_audit(*asked, "-o", "csv").stdout == f"type,session.ip,custom.reason.tries\n{TYPE},{ADDRESS},-3\n"
    header, row = otel_audit(*asked).stdout.splitlines()
    assert header.split() == ["type", "session.ip", "custom.reason.tries"]
    assert row.split() == [TYPE, ADDRESS, "-3"]
    assert otel_audit("show", "--archive", rich_archive, "--fields", "user", "-n1", COLUMNS="3").returncode == 0


def test_csv_is_safe_for_spreadsheets(hostile: Path) -> None:
    """The csv module reads every row with all its columns, and no cell begins a formula."""
    text = otel_audit("show", "--archive", hostile, "-o", "csv").stdout
    rows = list(csv.reader(io.StringIO(text)))
    assert {len(row) for row in rows} == {22}
    assert all(not cell.lstrip().startswith(("=", "+", "-", "@", "＝")) for row in rows for cell in row)
    users = {row[rows[0].index("user")] for row in rows}
    assert {
        '\'=HYPERLINK("http://evil.example")',
        "'+1+1",
        "'-2+3|cmd",
        "'@SUM(1)",
        "'\\t=1+1",
        "say \"hi\", 'x'; \\",
    } <= users


def test_csv_keeps_numbers(rich_archive: Path) -> None:
    """Negative numbers are numbers, not text."""
    text = otel_audit(
        "show", "--archive", rich_archive, "-o", "csv", "--fields", "custom.reason.tries,custom.reason.ok"
    ).stdout
    assert text == "custom.reason.tries,custom.reason.ok\n-3,true\n,\n"


def otlp_requests(text: str) -> list[ExportLogsServiceRequest]:
    """Read OTLP/JSON as a collector does: hexadecimal ids, the rest as protobuf's JSON."""
    requests = []
    for line in json_lines(text):
        for record in line["resourceLogs"][0]["scopeLogs"][0]["logRecords"]:
            for name in ("traceId", "spanId"):
                if name in record:
                    assert re.fullmatch("[0-9a-f]{16}|[0-9a-f]{32}", record[name])
                    # protobuf's JSON has base64 there.
                    record[name] = base64.b64encode(bytes.fromhex(record[name])).decode()
        requests.append(ParseDict(line, ExportLogsServiceRequest()))
    return requests


@pytest.mark.parametrize("which", ["hostile", "rich_archive"])
def test_otlp_is_what_is_shipped(which: str, request: pytest.FixtureRequest) -> None:
    """Each line of OTLP/JSON is the request that ships the record, attributes of the commit included."""
    path = request.getfixturevalue(which)
    requests = otlp_requests(otel_audit("show", "--archive", path, "-o", "otlp", "--reverse").stdout)
    with open_archive(path) as archive:
        stream = stream_attribute(archive.id)
        expected = [
            frame([(*archive.header(row.resource), [shipped(row.otlp, row.record_id, row.sequence, stream)])])
            for row in archive.rows(Filter(), oldest_first=True)
        ]
    assert requests == [ExportLogsServiceRequest.FromString(data) for data in expected]


def test_otlp_follows_the_json_encoding(rich_archive: Path) -> None:
    """Ids are hexadecimal, 64-bit integers text, enumerations numbers, bytes base64, as OTLP/JSON wants it."""
    line = json_lines(otel_audit("show", "--archive", rich_archive, "-o", "otlp", "-n", "1").stdout)[0]
    record = line["resourceLogs"][0]["scopeLogs"][0]["logRecords"][0]
    values = {pair["key"]: pair["value"] for pair in record["attributes"]}
    assert (record["traceId"], record["spanId"]) == (TRACE, SPAN)
    assert record["severityNumber"] == 13
    assert record["timeUnixNano"].isdecimal()
    assert values[keys.SEQUENCE_NUMBER] == {"intValue": "2"}
    assert values["otel_audit.custom.reason.tries"] == {"intValue": "-3"}
    assert values["otel_audit.custom.reason.raw"] == {"bytesValue": "AP8="}
    assert record["eventName"] == TYPE


@pytest.mark.parametrize("form", FORMS)
def test_addresses_can_be_left_out(rich_archive: Path, form: str) -> None:
    """With --no-show-ip the address is in no form and no text, and all else still is."""
    shown = otel_audit("show", "--archive", rich_archive, "-o", form, "--show-note", COLUMNS="300").stdout
    hidden = otel_audit(
        "show", "--archive", rich_archive, "-o", form, "--show-note", "--no-show-ip", COLUMNS="300"
    ).stdout
    assert ADDRESS in shown
    assert ADDRESS not in hidden
    assert "agent at ‹ip›" in hidden
    assert "zoë" in hidden


def test_hidden_addresses_leave_otlp_valid(rich_archive: Path) -> None:
    """Without the address a request lacks exactly the attributes of the address; the profile stays."""

    def attributes(*options: str) -> dict[str, Any]:
        request = otlp_requests(otel_audit("show", "--archive", rich_archive, "-o", "otlp", "-n1", *options).stdout)[0]
        record = request.resource_logs[0].scope_logs[0].log_records[0]
        assert record.severity_number == 13
        return {pair.key: pair.value for pair in record.attributes}

    assert attributes().keys() - attributes("--no-show-ip").keys() == {
        keys.CLIENT_ADDRESS,
        keys.SOURCE_ID,
        keys.SOURCE_TYPE,
    }
