"""The command line on a fleet: over HTTP, before ClickHouse's own engine, with what goes wrong there."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import clickhouse_connect
import pytest

import otel_audit as library
from otel_audit import Session
from otel_audit.errors import ArchiveError, AuditError, ConfigError
from tests.clickhouse_material import exported_rows, insert, make_table
from tests.clickhouse_server import Server, serve
from tests.command_line import HOSTILE, TRACE, fill, json_lines, otel_audit

PASSWORD = "s3cret/#"
SECRET: dict[str, Any] = {"OTEL_AUDIT_CLICKHOUSE_PASSWORD": PASSWORD}
START = 1_767_225_600_000_000_000
HOUR = 3_600_000_000_000


def events() -> list[dict[str, Any]]:
    made: list[dict[str, Any]] = [
        {
            "user": user,
            "session": Session("s", "http", "203.0.113.7", text),
            "message": text,
            "custom": {"g": {"f": text}},
        }
        for user, text in HOSTILE.items()
    ]
    made += [{"type": "user.login.failure", "user": "alice", "trace": TRACE if n == 2 else None} for n in range(5)]
    made += [{"type": "cron.ran", "host": "example.org"}]
    return [{**event, "timestamp": START + n * HOUR} for n, event in enumerate(made)]


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("cli") / "audit.db"
    fill(path, events())
    return path


@pytest.fixture(scope="module")
def server(archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    engine = tmp_path_factory.mktemp("engine")
    with clickhouse_connect.get_client(interface="chdb", path=str(engine)) as client:
        client.command("CREATE DATABASE otel")
        client.command("CREATE TABLE otel.other (Timestamp DateTime, Message String) ENGINE = Memory")
        make_table(client, "otel.otel_logs", "timestamp")
        client.command(
            "CREATE TABLE otel.json ENGINE = Memory AS"
            " SELECT * REPLACE (CAST('{}' AS JSON) AS LogAttributes) FROM otel.otel_logs LIMIT 0"
        )
        client.command("CREATE TABLE otel.old ENGINE = Memory AS SELECT * EXCEPT EventName FROM otel.otel_logs LIMIT 0")
        insert(client, "otel.otel_logs", exported_rows(archive))
    with serve(engine, password=PASSWORD) as running:
        yield running


def url(server: Server, rest: str = "/otel", user: str = "shop") -> str:
    return f"clickhouse://{user}@{server.address}{rest}"


def same(record: dict[str, Any]) -> dict[str, Any]:
    """Return a record as JSON without what the exporter does not keep."""
    return {name: value for name, value in record.items() if name not in {"observed", "integrity_hash"}}


def test_all_forms(archive: Path, server: Server) -> None:
    """Tables, JSON, JSON lines, CSV and OTLP of a fleet are those of the archive, but for what is not kept."""
    for form in ("jsonl", "json", "csv", "table"):
        asked = ("show", "-n", "all", "--utc", "-o", form)
        ours = otel_audit(*asked, "--archive", archive).stdout
        theirs = otel_audit(*asked, "--archive", url(server), **SECRET).stdout
        if form == "jsonl":
            assert list(map(same, json_lines(theirs))) == list(map(same, json_lines(ours)))
        elif form == "json":
            assert list(map(same, json.loads(theirs))) == list(map(same, json.loads(ours)))
        else:
            assert theirs == ours
    sent = json_lines(otel_audit("show", "-n", "all", "-o", "otlp", "--archive", url(server), **SECRET).stdout)
    known = json_lines(otel_audit("show", "-n", "all", "-o", "otlp", "--archive", archive).stdout)
    assert list(map(plain, sent)) == list(map(plain, known))


def plain(request: dict[str, Any]) -> dict[str, Any]:
    """Return an OTLP request with its attributes by name, and without what the exporter does not keep."""
    (resource,) = request["resourceLogs"]
    (scope,) = resource["scopeLogs"]
    (log,) = scope["logRecords"]
    attributes = {pair["key"]: pair["value"] for pair in log.pop("attributes")}
    log.pop("observedTimeUnixNano")
    if "otel_audit.altered" in attributes:
        attributes["otel_audit.altered"] = str(attributes["otel_audit.altered"])
    return {"log": log, "attributes": attributes, "scope": scope["scope"], "resource": resource["resource"]}


def test_filters_and_stats(archive: Path, server: Server) -> None:
    """Filters, fields, limits and counts of a fleet give the archive's answers."""
    for asked in (
        ("show", "alice@example.com", "-o", "csv", "--fields", "time,user,type,sequence"),
        ("show", "example.com", "-n", "3", "--reverse", "-o", "csv"),
        ("show", "--trace-id", TRACE, "-o", "csv"),
        ("show", "--grep", "cron", "--no-show-ip", "-o", "csv"),
        ("show", "--ip", "203.0.113.0/24", "--since", "2026-01-01T05:00:00Z", "-o", "csv"),
        ("stats", "--utc"),
        ("stats", "example.com", "-o", "json", "--type", "*.failure"),
    ):
        ours = otel_audit(*asked, "--archive", archive).stdout
        assert otel_audit(*asked, "--archive", url(server), **SECRET).stdout == ours
        assert ours.count("\n") > 1


def test_exports(archive: Path, server: Server, tmp_path: Path) -> None:
    """A fleet is exported like an archive: the same records in the same order, to a file or a pipe, in every form."""
    asked = ("export", "example.com")
    ours = json_lines(otel_audit(*asked, "--archive", archive).stdout)
    theirs = json_lines(otel_audit(*asked, "--archive", url(server), **SECRET).stdout)
    assert list(map(same, theirs)) == list(map(same, ours))
    for form in ("csv", "cef", "ecs", "ocsf", "parquet"):
        file = tmp_path / f"fleet.{form}"
        otel_audit(*asked, "--format", form, "-O", file, "--archive", url(server), **SECRET)
        assert file.stat().st_size > 1000


def test_values_are_bound(server: Server) -> None:
    """What is asked for never stands in a statement, and nothing but SELECT and DESCRIBE is sent."""
    server.asked.clear()
    evil = "x' OR 1=1; DROP TABLE otel_logs --"
    out = otel_audit("show", f"{evil}@{evil}", "--where", f"g.f={evil}", "--archive", url(server), **SECRET)
    assert out.stdout == ""
    statements = [statement for statement, _ in server.asked]
    assert not any("DROP" in statement or "OR 1=1" in statement for statement in statements)
    assert {statement.split()[0] for statement in statements} <= {"SELECT", "DESCRIBE"}
    assert any("DROP TABLE" in query.get("param_v0", "") for _, query in server.asked)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("show", "-f"), "--follow goes by the order of recording, and a fleet has none in common"),
        (("show", "--checkpoint", "x"), "--checkpoint goes by the order of recording"),
        (("status",), "is a fleet, and no archive: give the archive's file"),
        (("verify",), "is a fleet, and no archive: give the archive's file"),
    ],
)
def test_what_a_fleet_has_not(server: Server, arguments: tuple[str, ...], said: str) -> None:
    """What goes by sequence, or needs the archive's file, is refused, with what to do."""
    secret = f"clickhouse://shop:hunter2@{server.address}/otel"
    assert said in otel_audit(*arguments, "--archive", secret, status=2).stderr
    assert "hunter2" not in otel_audit(*arguments, "--archive", secret, status=2).stderr


@pytest.mark.parametrize("command", [("show",), ("status",), ("record", "example.com", "any")])
@pytest.mark.parametrize("scheme", ["clickhouse", "clickhous"])
def test_a_url_is_no_file(
    command: tuple[str, ...], scheme: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a file is meant, a URL makes no folders that are named by its password, nor is that said."""
    monkeypatch.chdir(tmp_path)
    secret = f"{scheme}://shop:hunter2@localhost/otel"
    stderr = otel_audit(*command, status=2, OTEL_AUDIT_ARCHIVE=secret).stderr
    if scheme != "clickhouse":
        stderr += otel_audit(*command, "--archive", secret, status=2).stderr
    with pytest.raises(ConfigError) as caught:
        library.AuditProvider(archive=secret)
    stderr += str(caught.value)
    assert "no archive's file" in stderr
    assert "hunter2" not in stderr
    assert not list(tmp_path.glob(f"{scheme}*"))


@pytest.mark.parametrize(
    ("rest", "said"),
    [
        ("/otel?table=none", "name the table that the Collector's exporter writes"),
        ("/none", "name the database that the Collector's exporter writes to"),
        ("/otel?table=other", "the column Timestamp of 'other' is of type DateTime"),
        ("/otel?table=json", "the exporter's setting json: true makes such tables"),
        ("/otel?table=old", "has no column EventName: add it: ALTER TABLE"),
        ("/otel?tables=x", "'tables' is no option of a fleet's location: give table or ca"),
        ("/a/b", "names no host, or more than a database"),
        (":x/otel", "has no valid host and port"),
    ],
)
def test_wrong_tables(server: Server, rest: str, said: str) -> None:
    """A table that is missing or of another layout is named, with the remedy."""
    error = otel_audit("stats", "--archive", url(server, rest), status=2, **SECRET).stderr
    assert said in error
    assert error.count("\n") == 1


def test_passwords(server: Server) -> None:
    """A password stands in the URL or in the environment; a wrong one is refused, and none is ever shown."""
    quoted = url(server, user="shop:s3cret%2F%23")
    assert otel_audit("stats", "--archive", quoted).stdout
    for wrong in (url(server, user="shop:hunter2"), url(server, user="other:hunter2"), url(server, user="shop")):
        error = otel_audit("stats", "--archive", wrong, status=2).stderr
        assert "Authentication failed" in error
        assert "check user and password" in error
        assert "hunter2" not in error
    # A password that was not escaped breaks the URL.
    for broken in (
        "clickhouse://shop:hunter2/x@h:1/otel",
        "clickhouse://shop:hunter2",
        "clickhouse://shop:hun#ter2@h/x",
    ):
        error = otel_audit("stats", "--archive", broken, status=2).stderr
        assert "hunter2" not in error
        assert "hun#" not in error
        assert "ter2" not in error


def test_no_server(tmp_path: Path) -> None:
    """A server that is not there is one line that says where it was looked for."""
    error = otel_audit("show", "--archive", "clickhouse://shop:hunter2@127.0.0.1:9/otel", status=2).stderr
    assert error.startswith("otel-audit: clickhouse://shop@127.0.0.1:9/otel: ")
    assert "check host and HTTP port" in error
    assert "hunter2" not in error
    assert error.count("\n") == 1


def test_an_answer_that_breaks_off(server: Server) -> None:
    """An answer that ends early is an error, never a shorter list."""
    server.break_off = True
    try:
        done = otel_audit("show", "-n", "all", "-o", "jsonl", "--archive", url(server), status=2, **SECRET)
    finally:
        server.break_off = False
    assert "clickhouse://shop@" in done.stderr


def test_reads_are_not_recorded_in_silence(server: Server) -> None:
    """Since a fleet is not changed, the command says that this read is recorded by ClickHouse alone."""
    done = otel_audit("stats", "--archive", url(server), OTEL_AUDIT_READS=None, **SECRET)
    assert "this read is not recorded: a fleet is read without being changed" in done.stderr


def test_in_python(server: Server, archive: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`open_archive` opens a fleet by its URL, and says what is wrong with one."""
    monkeypatch.setenv("OTEL_AUDIT_CLICKHOUSE_PASSWORD", PASSWORD)
    with library.open_archive(url(server)) as opened, library.open_archive(archive) as own:
        assert [record.user for record in opened.query(host="example.com")] == [
            record.user for record in own.query(host="example.com")
        ]
        with pytest.raises(ConfigError, match="limit=-1 is negative"):
            list(opened.query(limit=-1))
        with pytest.raises(TypeError):
            list(opened.query(hots="x"))
    with pytest.raises(ArchiveError) as failed:
        library.open_archive(url(server, user="shop:hunter2"))
    assert "hunter2" not in repr(failed.value)
    assert issubclass(ArchiveError, AuditError)


def test_csv_is_safe(server: Server) -> None:
    """Formulas that clients sent come out of a fleet as harmless as out of an archive."""
    text = otel_audit(
        "show", "formula@example.com", "-n", "all", "-o", "csv", "--archive", url(server), **SECRET
    ).stdout
    cells = [cell for row in csv.reader(io.StringIO(text)) for cell in row]
    assert any("HYPERLINK" in cell for cell in cells)
    assert not any(cell.startswith(("=", "+", "@")) for cell in cells)
