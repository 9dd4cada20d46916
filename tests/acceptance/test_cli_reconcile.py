"""``otel-audit reconcile``: against a collector's file, a ClickHouse over HTTP and a VictoriaLogs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import clickhouse_connect
import pytest

from otel_audit.archive.query import open_archive
from otel_audit.testing import Collector
from tests.archive_material import assert_delivered, ship
from tests.clickhouse_material import exported_rows, insert, make_table
from tests.clickhouse_server import Server, serve
from tests.command_line import HOSTILE, fill, json_lines, on_terminal, otel_audit

START = 1_767_225_600_000_000_000
HOUR = 3_600_000_000_000
RECORDS = 12
SECRET: dict[str, Any] = {"OTEL_AUDIT_CLICKHOUSE_PASSWORD": "s3cret/#"}
LOST = (3, 7, 8)


def events() -> list[dict[str, Any]]:
    texts = list(HOSTILE.values())
    return [{"user": texts[n], "message": texts[n], "timestamp": START + n * HOUR} for n in range(RECORDS)]


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("cli") / "audit.db"
    fill(path, events())
    return path


@pytest.fixture(scope="module")
def server(archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    engine = tmp_path_factory.mktemp("engine")
    rows = list(exported_rows(archive))
    with clickhouse_connect.get_client(interface="chdb", path=str(engine)) as client:
        for name, kept in (("whole", rows), ("lossy", [row for n, row in enumerate(rows, 1) if n not in LOST])):
            make_table(client, name, "seconds")
            insert(client, name, kept)
        insert(client, "lossy", rows[:1])
    with serve(engine) as running:
        yield running


@pytest.fixture
def delivered(archive_path: Path) -> Iterator[tuple[Path, Collector]]:
    """Return an archive whose records a collector has, and the collector."""
    fill(archive_path, events())
    with Collector() as collector:
        assert ship(archive_path, collector)
        yield archive_path, collector


def url(server: Server, table: str) -> str:
    return f"clickhouse://shop@{server.address}/default?table={table}"


def test_a_table_that_has_all(archive: Path, server: Server) -> None:
    """A table that holds every record is equal: status 0, and in words and as JSON how many match."""
    out = otel_audit("reconcile", "--archive", archive, "--against", url(server, "whole"), **SECRET).stdout
    assert out.splitlines() == [
        f"archive    {archive}", f"matching   {RECORDS}", "missing    0", "waiting    0", "doubled    0",
        "of others  0", "faults     none",
    ]  # fmt: skip
    asked = ("reconcile", "--archive", archive, "--against", url(server, "whole"), "-o", "json")
    found = json.loads(otel_audit(*asked, **SECRET).stdout)
    assert (found["equal"], found["matching"], found["faults"], found["put_back"]) == (True, RECORDS, [], None)


def test_a_table_that_lacks_some(archive: Path, server: Server) -> None:
    """What is missing is named by sequence and id, a copy is named and no fault: status 1."""
    asked = ("reconcile", "--archive", archive, "--against", url(server, "lossy"))
    lines = otel_audit(*asked, status=1, **SECRET).stdout.splitlines()
    assert "missing    3: 3,7-8" in lines
    assert "doubled    1" in lines
    assert "faults     3" in lines
    ids = [record["record_id"] for record in json_lines(otel_audit("show", "--archive", archive, "-o", "jsonl").stdout)]
    expected = [f"export-missing: record '{ids[RECORDS - n]}': record {n} of the archive" for n in LOST]
    assert lines[-4:] == [*expected, f"export-doubled: record '{ids[-1]}': record 1 of the archive"]
    assert otel_audit(*asked, "--limit", "1", status=1, **SECRET).stdout.endswith("... and 2 more\n")
    found = json.loads(otel_audit(*asked, "-o", "json", status=1, **SECRET).stdout)
    assert (found["equal"], found["missing_sequences"], found["doubled"]) == (False, "3,7-8", 1)
    ranged = (*asked, "--since", "2026-01-01T03:00:00Z", "--until", "2026-01-01T07:00:00Z")
    assert "missing    1: 7" in otel_audit(*ranged, status=1, **SECRET).stdout.splitlines()
    ranged = (*asked, "--since", "2026-01-01T03:00:00Z", "--until", "2026-01-01T06:00:00Z")
    assert "matching   3" in otel_audit(*ranged, **SECRET).stdout.splitlines()


def lines_without(collector: Collector, lost: tuple[int, ...]) -> str:
    """Return what a collector's file exporter would have written, without some records."""
    from google.protobuf.json_format import MessageToDict

    found = []
    for call in collector.calls:
        data: dict[str, Any] = MessageToDict(call.message())
        for resource in data["resourceLogs"]:
            for scope in resource["scopeLogs"]:
                scope["logRecords"] = [log for log in scope["logRecords"] if number(log) not in lost]
        found.append(json.dumps(data))
    return "\n".join(found)


def number(log: dict[str, Any]) -> int:
    return next(int(a["value"]["intValue"]) for a in log["attributes"] if a["key"] == "audit.sequence.number")


def test_resend(delivered: tuple[Path, Collector], tmp_path: Path) -> None:
    """What is missing goes back into the outbox, once, and the next shipper delivers it: then nothing is missing."""
    path, collector = delivered
    file = tmp_path / "received.jsonl"
    file.write_text(lines_without(collector, LOST), "utf-8")
    asked = ("reconcile", "--archive", path, "--against", file)
    assert "put back   3" in otel_audit(*asked, "--resend", status=1).stdout.splitlines()
    again = otel_audit(*asked, "--resend").stdout.splitlines()
    assert "waiting    3" in again
    assert "put back   0" in again
    assert ship(path, collector)
    came = assert_delivered(path, collector)
    assert sorted(came.values()) == [1] * (RECORDS - 3) + [2] * 3


def test_what_waits_is_not_missing(archive_path: Path, server: Server) -> None:
    """What the destination has not accepted yet waits, and is no fault; an unknown destination is refused."""
    with Collector() as collector:
        fill(archive_path, events()[:5])
        assert ship(archive_path, collector)
        fill(archive_path, events()[5:])
        file = archive_path.with_name("received.jsonl")
        file.write_text(lines_without(collector, ()), "utf-8")
    asked = ("reconcile", "--archive", archive_path, "--against", file)
    out = otel_audit(*asked, "--destination", "otlp").stdout.splitlines()
    assert "matching   5" in out
    assert f"waiting    {RECORDS - 5}" in out
    assert "no destination 'x': known: otlp" in otel_audit(*asked, "--destination", "x", status=2).stderr


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        ((), 3, "Missing option '--against'"),
        (("--against", "x", "--since", "now", "--until", "1d"), 3, "--until is not after --since"),
        (("--against", "none.jsonl"), 2, "none.jsonl: No such file or directory"),
        (("--against", "ftp://u:hunter2@h/x"), 2, "is no backend that can be asked"),
        (("--against", "clickhouse://u:hunter2@127.0.0.1:9/x"), 2, "check host and HTTP port"),
        (("--against", "victorialogs://u:hunter2@127.0.0.1:9"), 2, "check host and port, and that it runs"),
        (("--against", "victorialogs://u:hunter2@127.0.0.1:x"), 2, "has no valid host and port"),
        (("--against", "victorialogs:///x"), 2, "names no host"),
        (("--against", "x", "--resend"), 2, "the archive has 0 destinations: ship to one first"),
    ],
)
def test_what_cannot_be_compared(archive: Path, arguments: tuple[str, ...], status: int, said: str) -> None:
    """Wrong usage is 3, what cannot be compared is 2, each with one line that shows no password."""
    error = otel_audit("reconcile", "--archive", archive, *arguments, status=status).stderr
    assert said in error
    assert "hunter2" not in error
    assert error.count("\n") == 1


def test_it_is_recorded_without_the_password(archive_path: Path, server: Server) -> None:
    """The archive records that it was reconciled, and with what, but not the password."""
    fill(archive_path, events())
    against = f"clickhouse://shop:s3cret%2F%23@{server.address}/default?table=whole"
    otel_audit("reconcile", "--archive", archive_path, "--against", against, status=1, OTEL_AUDIT_READS=None)
    out = otel_audit("show", "--archive", archive_path, "--admin", "-o", "jsonl").stdout
    assert f"clickhouse://{server.address}/default" in out
    assert "s3cret" not in out


def test_hostile_texts_on_a_terminal(archive: Path, tmp_path: Path) -> None:
    """What a backend says is shown without effect on the terminal."""
    file = tmp_path / "received.jsonl"
    with open_archive(archive) as opened:
        stream = opened.id
    attributes = [
        {"key": "audit.sequence.stream_id", "value": {"stringValue": stream}},
        {"key": "audit.record.id", "value": {"stringValue": "\x1b[2J"}},
        {"key": "audit.sequence.number", "value": {"intValue": "1"}},
    ]
    log = {"attributes": attributes}
    file.write_text(json.dumps({"resourceLogs": [{"scopeLogs": [{"logRecords": [log]}]}]}), "utf-8")
    text = on_terminal("reconcile", "--archive", archive, "--against", file, status=1)
    assert "export-unknown" in text
    assert "\x1b[2J" not in text
