"""``otel-audit status`` says what the archive holds and what needs an operator; ``requeue`` and ``ship`` act on it."""

from __future__ import annotations

import json
import re
import signal
import time
from pathlib import Path

import pytest

from otel_audit.archive.query import open_archive
from otel_audit.provider import AuditProvider
from otel_audit.testing.collector import Collector
from otel_audit.testing.records import Reply
from tests.command_line import HOSTILE, fill, on_terminal, otel_audit, popen

KEYS = {"archive", "records", "sequence", "backlog", "oldest_undelivered", "sqlite", "destinations"}
DESTINATION_KEYS = {"name", "endpoint", "cursor", "dead_letters", "blocked", "last_success", "last_error"}
DEAD = "http://127.0.0.1:9"


@pytest.fixture
def archive(archive_path: Path) -> Path:
    fill(archive_path, [{"user": f"user-{n}"} for n in range(5)])
    return archive_path


def status(path: Path, *options: str, expected: int = 0) -> dict[str, object]:
    result = json.loads(otel_audit("status", "--archive", path, "-o", "json", *options, status=expected).stdout)
    assert isinstance(result, dict)
    return result


def test_an_archive_without_destination(archive: Path) -> None:
    """Without a destination nothing waits, and the text says that there is none."""
    text = otel_audit("status", "--archive", archive).stdout
    assert "no destination: archive only" in text
    assert str(archive) in text
    state = status(archive)
    assert state.keys() >= KEYS
    assert state["archive"] == str(archive)
    assert (state["records"], state["sequence"], state["backlog"], state["destinations"]) == (5, 5, 0, [])
    assert state["oldest_undelivered"] is None


def test_times_of_status(archive: Path) -> None:
    """JSON has the times of the first and the last record as the records' own; the text has local ones, or UTC."""
    with open_archive(archive) as opened:
        observed = [record.observed for record in opened.query(oldest_first=True)]
    state = status(archive)
    for key, nanoseconds in (("first", observed[0]), ("last", observed[-1])):
        assert str(state[key]).endswith(f"{nanoseconds % 10**9:09d}Z")
    assert re.search(
        r"first record +\S+ \S+\+05:30 ", otel_audit("status", "--archive", archive, TZ="Asia/Kolkata").stdout
    )
    utc = otel_audit("status", "--archive", archive, "--utc", TZ="Asia/Kolkata").stdout
    assert re.search(r"first record +\S+ \S+Z \(", utc)


def test_the_log_is_told_apart(archive: Path) -> None:
    """The text tells the archive's size from its write-ahead log's; JSON has the sum."""
    assert re.search(r"^size +[0-9.]+ (KiB|MiB)$", otel_audit("status", "--archive", archive).stdout, re.MULTILINE)
    with AuditProvider(archive=archive, ship=False) as provider:
        provider.get_logger("shop", host="example.com").audit("t")
        text = otel_audit("status", "--archive", archive).stdout
        log = Path(f"{archive}-wal").stat().st_size
        assert status(archive)["size"] == archive.stat().st_size + log
    assert log > 0
    assert re.search(r"^size +[0-9.]+ KiB \(\+ [0-9.]+ (KiB|MiB) write-ahead log\)$", text, re.MULTILINE)


def test_ship_once_can_be_ended(archive: Path) -> None:
    """SIGTERM ends `ship --once` at once, while it waits for a collector; the records stay for the next run."""
    with popen("ship", "--once", "--timeout", "60", "--archive", archive, "--endpoint", DEAD) as process:
        assert process.stderr is not None
        assert "otlp" in process.stderr.readline()
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == -signal.SIGTERM
    with Collector() as collector:
        done = otel_audit("ship", "--once", "--archive", archive, "--endpoint", collector.endpoint)
        assert done.stdout == "delivered 5 of 5\n"


def test_the_default_archive_is_printed(archive: Path) -> None:
    """The path is printed also where it came from the environment; a relative one is made absolute."""
    assert str(archive) in otel_audit("status", OTEL_AUDIT_ARCHIVE=str(archive)).stdout
    with popen("status", "--archive", archive.name, "-o", "json", cwd=archive.parent) as process:
        out, _ = process.communicate()
    assert json.loads(out)["archive"] == str(archive)


def test_ship_once_delivers_everything(archive: Path) -> None:
    """`ship --once` sends all, exits with 0 and leaves a status without anything to do; again, it sends nothing."""
    with Collector() as collector:
        done = otel_audit("ship", "--once", "--archive", archive, "--endpoint", collector.endpoint)
        assert done.stdout == "delivered 5 of 5\n"
        assert len(collector.records) == 5
        assert (
            otel_audit("ship", "--once", "--archive", archive, "--endpoint", collector.endpoint).stdout
            == "delivered 0 of 0\n"
        )
        assert len(collector.records) == 5
        endpoint = collector.endpoint
    state = status(archive)
    assert state["backlog"] == 0
    (destination,) = state["destinations"] if isinstance(state["destinations"], list) else []
    assert destination.keys() == DESTINATION_KEYS
    assert (destination["name"], destination["cursor"], destination["dead_letters"], destination["blocked"]) == (
        "otlp",
        5,
        0,
        None,
    )
    assert destination["endpoint"].startswith(endpoint)
    assert destination["last_success"].endswith("Z")
    text = otel_audit("status", "--archive", archive).stdout
    assert re.search(r"destination +otlp\n  endpoint +http", text)


def test_ship_reads_the_environment(archive: Path) -> None:
    """The collector comes from OpenTelemetry's own variables, over gRPC too."""
    with Collector() as collector:
        otel_audit(
            "ship", "--once", "--archive", archive,
            OTEL_EXPORTER_OTLP_ENDPOINT=collector.grpc_endpoint, OTEL_EXPORTER_OTLP_PROTOCOL="grpc",
            OTEL_EXPORTER_OTLP_INSECURE="true",
        )  # fmt: skip
        assert len(collector.records) == 5
        assert {call.protocol for call in collector.calls} == {"grpc"}


def test_ship_goes_on_until_told_to_stop(archive: Path) -> None:
    """Without --once records that come later are sent too; SIGTERM ends it with 0."""
    with Collector() as collector, popen("ship", "--archive", archive, "--endpoint", collector.endpoint) as process:
        assert collector.wait_for(5)
        fill(archive, [{"user": "later"}])
        assert collector.wait_for(6)
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
        assert process.stderr is not None
        assert process.stderr.read() == ""


def test_what_cannot_be_delivered_is_shown(archive: Path) -> None:
    """Where no collector answers, `ship --once` exits with 1, and `status` does when the oldest record is too old."""
    done = otel_audit("ship", "--once", "--timeout", "1", "--archive", archive, "--endpoint", DEAD, status=1)
    assert done.stdout == "delivered 0 of 5\n"
    assert "not all was delivered" in done.stderr
    state = status(archive)
    assert state["backlog"] == 5
    assert str(state["oldest_undelivered"]).endswith("Z")
    time.sleep(1.0)
    assert status(archive, "--max-age", "1s", expected=1)["backlog"] == 5
    err = otel_audit("status", "--archive", archive, "--max-age", "1s", status=1).stderr
    assert re.search(r"the oldest undelivered record has waited for \d+ s: check the collector", err)
    assert "no duration" in otel_audit("status", "--archive", archive, "--max-age", "soon", status=2).stderr


def test_dead_letters_and_requeue(archive: Path) -> None:
    """A refused record makes `status` exit with 1 until `requeue` puts it back and `ship` delivers it."""
    with Collector(script=[Reply(status=400)] * 30) as collector:
        done = otel_audit("ship", "--once", "--archive", archive, "--endpoint", collector.endpoint, status=1)
        assert done.stdout == "delivered 0 of 5, 5 set aside as dead letters: see otel-audit status\n"
        assert "not all was delivered" not in done.stderr
        done = otel_audit("ship", "--once", "--archive", archive, "--endpoint", collector.endpoint, status=1)
        assert done.stdout == "delivered 0 of 0\n"
        assert "5 older dead letters: see otel-audit status" in done.stderr
    done = otel_audit("status", "--archive", archive, status=1)
    assert re.search(r"otlp refused 5 records for good: .*otel-audit requeue --destination otlp", done.stderr)
    assert re.search(r"dead letters +5\n", done.stdout)
    assert (
        otel_audit("requeue", "--archive", archive, "--destination", "otlp", "2", "4").stdout == "put back 2 records\n"
    )
    done = otel_audit("requeue", "--archive", archive, "99999", "3", "3", "2", status=1)
    assert done.stdout == "put back 1 record\n"
    assert done.stderr == "otel-audit: no dead letter: 99999, 2\n"
    assert "nowhere" in otel_audit("requeue", "--archive", archive, "--destination", "nowhere", status=2).stderr
    assert otel_audit("requeue", "--archive", archive).stdout == "put back 2 records\n"
    assert otel_audit("requeue", "--archive", archive).stdout == "put back 0 records\n"
    with Collector() as collector:
        otel_audit("ship", "--once", "--archive", archive, "--endpoint", collector.endpoint)
        assert len(set(collector.record_ids)) == 5
    assert status(archive)["backlog"] == 0


def test_a_blocked_destination_needs_an_operator(archive: Path) -> None:
    """A collector that refuses our credentials is shown as blocked, and `status` exits with 1."""
    reply = Reply(status=401, message=HOSTILE["ansi"])
    with Collector(script=[reply] * 100) as collector:
        sent = otel_audit(
            "ship", "--once", "--timeout", "2", "--archive", archive, "--endpoint", collector.endpoint, status=1
        )
    assert "\x1b" not in sent.stderr
    assert all(line.startswith("otel-audit: ") for line in sent.stderr.splitlines())
    done = otel_audit("status", "--archive", archive, status=1)
    assert "otlp is blocked: " in done.stderr
    assert re.search(r"blocked +\S*401|blocked +.*(authenti|401|denied)", done.stdout, re.IGNORECASE)
    assert "\x1b" not in done.stdout + done.stderr
    assert "\x1b" not in otel_audit("status", "--archive", archive, "-o", "json", status=1).stdout


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("ship", "--once"), "there is no destination to ship to"),
        (("ship", "--once", "--endpoint", "ftp://x"), "ftp://x"),
        (("ship", "--protocol", "smtp"), "'smtp' is not one of"),
        (("ship", "--once", "--timeout", "0"), "0"),
        (("ship", "--timeout", "5", "--endpoint", DEAD), "--timeout is for --once"),
        (("ship", "--once", "--timeout", "soon"), "'soon' is no number of seconds: give one above 0"),
        (("requeue", "0"), "'0' is no sequence: give a number from 1"),
        (("requeue", "abc"), "'abc' is no sequence: give a number from 1"),
        (("stats", "--top", "many"), "'many' is no number of rows: give a number from 1 to 1000"),
    ],
)
def test_wrong_usage_is_explained(archive: Path, arguments: tuple[str, ...], complaint: str) -> None:
    """What cannot be meant ends with 2 and names the value."""
    assert complaint in otel_audit(*arguments, "--archive", archive, status=2).stderr


@pytest.mark.parametrize("command", ["ship", "requeue", "status", "stats"])
def test_no_archive_is_made(tmp_path: Path, command: str) -> None:
    """Only `record` makes an archive; the others say that there is none."""
    path = tmp_path / "none.db"
    assert "there is no archive" in otel_audit(command, "--archive", path, status=2).stderr
    assert not path.exists()


def test_progress_is_shown_on_terminals(archive: Path) -> None:
    """On a terminal `ship --once` shows how far it came."""
    with Collector() as collector:
        text = on_terminal("ship", "--once", "--archive", archive, "--endpoint", collector.endpoint)
    assert "shipping" in text
    assert "5/5" in text
    assert "delivered 5 of 5" in text
