"""What the archive records of itself: shown and counted on demand only, and in nobody's way otherwise."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from otel_audit.archive.query import open_archive
from tests.acceptance.test_cli_follow import Follower
from tests.archive_material import wait_until
from tests.command_line import fill, json_lines, on_terminal, otel_audit, popen


@pytest.fixture(autouse=True)
def _default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OTEL_AUDIT_READS")


@pytest.fixture
def archive(archive_path: Path) -> Path:
    fill(archive_path, [{"user": f"user-{n}"} for n in range(5)])
    return archive_path


def reads(path: Path) -> list[dict[str, Any]]:
    """Return what the archive's records of reads say, oldest first."""
    with open_archive(path) as opened:
        found = opened.query(admin=True, types=["audit.read"], oldest_first=True)
        return [dict(record.custom["read"]) for record in found]


def last_sequence(path: Path) -> int:
    with open_archive(path) as opened:
        return opened.status().sequence


def test_show_admin_in_all_forms(archive: Path) -> None:
    """--admin shows the archive's own records instead of events, in each form; none of them is among the events."""
    otel_audit("show", "user-1@example.com", "--archive", archive)
    table = otel_audit("show", "--admin", "--show-note", "--archive", archive).stdout
    assert "Host" not in table.splitlines()[0]
    assert 'read.command=show read.filter={"target": "user-1@example.com"}' in table
    with open_archive(archive) as opened:
        read = next(opened.query(admin=True))
    assert f"({read.actor.id})  audit.read " in table.splitlines()[1]
    assert "audit.archive.created" in table
    assert "user.login.success" not in table
    lines = json_lines(otel_audit("show", "--admin", "-o", "jsonl", "--archive", archive).stdout)
    assert [line["type"] for line in lines] == ["audit.read"] * 3 + ["audit.archive.created"]
    assert [line["sequence"] for line in lines] == [9, 8, 7, 6]
    array = json.loads(otel_audit("show", "--admin", "-o", "json", "--limit", "1", "--archive", archive).stdout)
    assert array[0]["custom"]["read"]["filter"] == {"admin": True, "output": "json", "limit": "1"}
    rows = otel_audit("show", "--admin", "-o", "csv", "--archive", archive, "--fields", "sequence,type,actor.type")
    assert rows.stdout.splitlines()[1] == "11,audit.read,user"
    otlp = otel_audit("show", "--admin", "-o", "otlp", "--reverse", "--archive", archive).stdout.splitlines()
    assert '"eventName": "audit.archive.created"' in otlp[0]
    assert "(otel_audit)" not in on_terminal("show", "--admin", "--archive", archive)
    events = json_lines(otel_audit("show", "-o", "jsonl", "--archive", archive).stdout)
    assert [event["sequence"] for event in events] == [5, 4, 3, 2, 1]


def test_choosing_among_own_records(archive: Path) -> None:
    """All criteria hold for own records; their id finds them with --admin only; a target of others is refused."""
    otel_audit("stats", "--archive", archive)
    with open_archive(archive) as opened:
        (read,) = opened.query(admin=True, types=["audit.read"])
    show = ("show", "--archive", archive, "-o", "jsonl", "--fields", "record_id")
    assert otel_audit(*show, "--id", read.record_id).stdout == ""
    for criteria in (
        ("--id", read.record_id),
        ("--where", "read.command=stats"),
        ("--where", f"actor.id={read.actor.id}", "--type", "audit.*", "--reverse", "-n", "1"),
        ("otel_audit", "--source", "otel_audit", "--grep", "^stats$"),
    ):
        found = json_lines(otel_audit(*show, "--admin", *criteria).stdout)
        assert found == [{"record_id": read.record_id}], criteria
    refused = otel_audit(*show, "--admin", "example.com", status=2)
    assert "which belong to no host or user of yours: leave out the target" in refused.stderr


def test_stats_admin(archive: Path) -> None:
    """`stats --admin` counts own records; `stats` counts none of them, and its chart ends with the last event."""
    plain = json.loads(otel_audit("stats", "-o", "json", "--archive", archive).stdout)
    assert plain["records"] == 5
    own = json.loads(otel_audit("stats", "--admin", "-o", "json", "--archive", archive).stdout)
    assert own["records"] == 3
    assert own["types"] == [
        {"value": "audit.read", "records": 2}, {"value": "audit.archive.created", "records": 1},
    ]  # fmt: skip
    assert sum(bucket["records"] for bucket in own["histogram"]) == 3
    again = json.loads(otel_audit("stats", "-o", "json", "--archive", archive).stdout)
    assert again == plain


def test_status_counts_own_records(archive: Path) -> None:
    """`status` says how many records are the archive's own, and dates its first and last record by events."""
    before = json.loads(otel_audit("status", "-o", "json", "--archive", archive).stdout)
    assert (before["records"], before["own"], before["removed"], before["sequence"]) == (5, 0, 0, 5)
    otel_audit("show", "--archive", archive)
    after = json.loads(otel_audit("status", "-o", "json", "--archive", archive).stdout)
    assert (after["records"], after["own"], after["removed"], after["sequence"]) == (5, 2, 0, 7)
    assert (after["first"], after["last"]) == (before["first"], before["last"])
    text = otel_audit("status", "--archive", archive).stdout
    assert "records             5\nown records         2\nremoved             0\nsequence            7\n" in text


def test_a_checkpoint_among_own_records(archive: Path, tmp_path: Path) -> None:
    """Runs with a checkpoint show each event once, though each run appends a record itself."""
    show = ("show", "--archive", archive, "-o", "jsonl", "--fields", "user", "--checkpoint", tmp_path / "seen")
    seen = []
    for number in range(4):
        seen += [line["user"] for line in json_lines(otel_audit(*show, "-n", "2").stdout)]
        fill(archive, [{"user": f"later-{number}"}])
    for _ in range(3):
        seen += [line["user"] for line in json_lines(otel_audit(*show).stdout)]
    assert seen == [f"user-{n}" for n in range(5)] + [f"later-{n}" for n in range(4)]
    # The last event may lose its content; the file goes on.
    assert json.loads((tmp_path / "seen").read_text())["sequence"] == last_sequence(archive)


def test_follow_is_recorded_once(archive: Path) -> None:
    """A follower is recorded at its start; what other readers append does not disturb it, --admin follows that."""
    show = ("show", "--archive", archive, "-f", "-o", "jsonl", "--fields", "user,custom.read.command")
    with popen(*show) as events, popen(*show, "--admin", "-n", "0") as own:
        try:
            following, watching = Follower(events), Follower(own)
            assert [json.loads(line)["user"] for line in following.lines(5)] == [f"user-{n}" for n in range(5)]
            wait_until(lambda: len(reads(archive)) == 2)
            otel_audit("stats", "--archive", archive)
            fill(archive, [{"user": "later"}])
            assert json.loads(following.line())["user"] == "later"
            # It may have begun before the other one was recorded.
            while '"command": "show"' in (line := watching.line()):
                pass
            assert '"command": "stats"' in line
            assert (following.interrupt(), watching.interrupt()) == (0, 0)
        finally:
            events.kill()
            own.kill()
    assert [read["command"] for read in reads(archive)] == ["show", "show", "stats"]
    assert [read["filter"]["follow"] for read in reads(archive)[:2]] == [True, True]
