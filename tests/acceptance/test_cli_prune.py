"""``otel-audit prune`` removes what is due and says so; ``hold`` keeps it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from otel_audit.archive.administration import Administration, operator
from otel_audit.archive.holds import add_hold, load_holds
from otel_audit.archive.query import open_archive
from otel_audit.archive.verify import verify
from otel_audit.privacy.pseudonyms import Pseudonyms
from tests.archive_material import connect
from tests.command_line import HOSTILE, otel_audit
from tests.retention_material import left, record, told

LOGIN = {"type": "user.login.success", "user": "alice"}
START = {"type": "server-started"}
NEVER = "http://127.0.0.1:9"


@pytest.fixture
def archive(archive_path: Path) -> Path:
    """Return an archive of three old records and a new one."""
    record(archive_path, 100, LOGIN, START, LOGIN)
    record(archive_path, 0, START)
    return archive_path


def prune(path: Path, *options: str, **changes: Any) -> dict[str, Any]:
    done = otel_audit("prune", "--archive", path, "-o", "json", *options, **changes)
    result = json.loads(done.stdout)
    assert isinstance(result, dict)
    return result


def test_pruning(archive: Path) -> None:
    """The text says what went by type, and how large the archive was and is; the archive verifies."""
    text = otel_audit("prune", "--archive", archive, "--rule", "user.*=90d", "--rule", "*=200d").stdout
    assert re.fullmatch(
        r"pruned  2 records, \d+ bytes of content\n  user.login.success  2 records, \d+ bytes\n"
        r"size  [\d.]+ KiB before, [\d.]+ KiB now\n",
        text,
    )
    assert left(archive) == ["server-started", "server-started"]
    report = json.loads(otel_audit("verify", "--archive", archive, "-o", "json").stdout)
    assert (report["intact"], report["pruned"]) == (True, 2)
    (own,) = told(archive)
    assert own["removal"]["rules"] == ("user.*=90d",)
    assert own["process"]["machine"]


def test_rules_of_the_environment(archive: Path) -> None:
    """Without --rule the rules are those of the variable; with it, they alone count."""
    assert prune(archive, OTEL_AUDIT_RETENTION="*=1y")["records"] == 0
    assert prune(archive, "--rule", "server-*=30d", OTEL_AUDIT_RETENTION="*=1s,a=keep")["types"].keys() == {
        "server-started"
    }
    result = prune(archive, OTEL_AUDIT_RETENTION="*=30d")
    assert (result["records"], result["dry_run"], result["held"], result["undelivered"]) == (2, False, 0, 0)
    assert result["types"]["user.login.success"]["content"] == result["content"] > 100
    assert left(archive) == ["server-started"]


def test_a_dry_run(archive: Path) -> None:
    """A dry run says what would go, even from an archive that cannot be written, and changes nothing."""
    before = archive.read_bytes()
    archive.chmod(0o400)
    text = otel_audit("prune", "--archive", archive, "--dry-run", "--rule", "*=30d").stdout
    assert text.startswith("would be pruned  3 records, ")
    assert "size" not in text
    result = prune(archive, "--dry-run", "--rule", "*=30d")
    assert (result["dry_run"], result["records"], result["size_before"]) == (True, 3, result["size_after"])
    assert archive.read_bytes() == before


def test_undelivered_records(archive: Path) -> None:
    """What a configured destination has still to accept stays, and is counted, until it is forced."""
    with connect(archive) as connection:
        connection.execute("INSERT INTO destination (name, endpoint, cursor) VALUES ('otlp', 'x', 1)")
    text = otel_audit("prune", "--archive", archive, "--rule", "*=30d").stdout
    assert "kept  2 records not delivered: see otel-audit status\n" in text
    assert prune(archive, "--rule", "*=30d", "--force")["records"] == 2
    assert told(archive)[-1]["removal"]["forced"] is True


def test_a_destination_of_the_environment(archive: Path) -> None:
    """A destination that the environment names, and that has taken nothing yet, keeps everything."""
    result = prune(archive, "--rule", "*=30d", OTEL_EXPORTER_OTLP_ENDPOINT=NEVER)
    assert (result["records"], result["undelivered"]) == (0, 3)
    assert prune(archive, "--rule", "*=30d", "--dry-run", OTEL_EXPORTER_OTLP_ENDPOINT=NEVER)["undelivered"] == 3


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ((), "there is no retention rule: nothing may be pruned: give --rule PATTERN=AGE, or set OTEL_AUDIT_RETENTION"),
        (("--rule", "*=keep"), "every rule says to keep: nothing may be pruned"),
        (("--rule", "user.*"), "--rule holds 'user.*': write PATTERN=AGE"),
        (("--rule", "*=0d"), "--rule keeps '*' for '0d': give an age of at least 1s"),
        (("--rule", "*=6M"), "--rule keeps '*' for '6M': give an age of at least 1s"),
        (("--rule", "\x1b[2J=x"), "--rule keeps '\\x1b[2J' for 'x'"),
        (("--rule", "a=1d", "--rule", "a=2d"), "two rules for 'a'"),
        (("--rule", b"\xff=x"), "--rule keeps '\\\\udcff' for 'x'"),
    ],
)
def test_wrong_rules(archive: Path, arguments: tuple[Any, ...], complaint: str) -> None:
    """Wrong rules, and none at all, end with 2 and say what to do; nothing is pruned."""
    err = otel_audit("prune", "--archive", archive, *arguments, status=2).stderr
    assert complaint in err
    assert err.count("\n") == 1
    assert len(left(archive)) == 4


def test_a_missing_archive(tmp_path: Path) -> None:
    """Neither command makes an archive."""
    path = tmp_path / "none.db"
    for arguments in (
        ("prune", "--rule", "*=1d"), ("prune", "--rule", "*=1d", "--dry-run"), ("hold", "list"),
        ("hold", "add", "--user", "a", "--reason", "r"), ("hold", "remove", "x", "--reason", "r"),
    ):  # fmt: skip
        assert "there is no archive" in otel_audit(*arguments, "--archive", path, status=2).stderr
    assert not path.exists()


def test_types_are_harmless_to_show(archive_path: Path) -> None:
    """Types that an application made up are shown escaped."""
    record(archive_path, 100, {"type": HOSTILE["ansi"]})
    text = otel_audit("prune", "--archive", archive_path, "--rule", "*=1d").stdout
    assert "\x1b" not in text
    assert r"\x1b[2J" in text


def hold(path: Path, *arguments: str, **changes: Any) -> str:
    return otel_audit("hold", *arguments, "--archive", path, **changes).stdout


def test_holds(archive: Path) -> None:
    """A hold keeps what it is for from being pruned, is listed, and ends by its id."""
    assert hold(archive, "list") == "no hold is in force\n"
    assert json.loads(hold(archive, "list", "-o", "json")) == []
    added = hold(archive, "add", "--user", "alice", "--type", "user.*", "--since", "2020-01-01", "--reason", "case 42")
    match = re.fullmatch("added hold ([0-9a-f]{8})\n", added)
    assert match is not None
    (shown,) = json.loads(hold(archive, "list", "-o", "json"))
    assert (shown["id"], shown["user"], shown["type"], shown["host"]) == (match[1], "alice", "user.*", None)
    assert (shown["since"], shown["until"], shown["reason"]) == ("2020-01-01T00:00:00.000000000Z", None, "case 42")
    line = hold(archive, "list", "--utc")
    assert line.startswith(f"{match[1]}  user alice, type user.*, since 2020-01-01 00:00:00Z  (added ")
    assert line.endswith(f"by {shown['by']}: case 42)\n")
    text = otel_audit("prune", "--archive", archive, "--rule", "*=30d", "--force").stdout
    assert "kept  2 records under a hold: see otel-audit hold list\n" in text
    assert "pruned  1 record," in text
    assert hold(archive, "remove", match[1], "--reason", "settled") == f"removed hold {match[1]}\n"
    assert hold(archive, "list") == "no hold is in force\n"
    assert prune(archive, "--rule", "*=30d")["records"] == 2
    assert verify(archive).intact
    with open_archive(archive) as opened:
        own = list(opened.query(admin=True, types=["audit.hold.*"]))
    assert all((one.custom or {})["process"]["pid"] for one in own)


def test_hold_anywhere_on_the_line(archive: Path) -> None:
    """The archive may be named before, between and after the words of the command."""
    for arguments in (
        ("--archive", archive, "hold", "list"),
        ("hold", "--archive", archive, "list"),
        ("hold", "list", "--archive", archive),
    ):
        assert otel_audit(*arguments).stdout == "no hold is in force\n"


def test_holds_and_pseudonyms(archive: Path, tmp_path: Path) -> None:
    """With the key of the pseudonyms, the records under the user's are held as well."""
    key = tmp_path / "key"
    key.touch(mode=0o600)
    key.write_text("0123456789abcdef" * 4)
    record(archive, 100, {"type": "user.login.success", "user": Pseudonyms(str(key))("alice")})
    hold(archive, "add", "--user", "alice", "--reason", "r", OTEL_AUDIT_PSEUDONYM_KEY=str(key))
    connection = connect(archive)
    assert load_holds(connection).ranges(connection, [(1, 9)]) == [(1, 1), (3, 3), (5, 5)]


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("add", "--reason", "r"), "the hold has no criterion: name a user, a host, a type or a time"),
        (("add", "--user", "a"), "Missing option '--reason'"),
        (("add", "--user", "a", "--reason", " "), "the hold has no reason"),
        (("add", "--since", "today", "--until", "yesterday", "--reason", "r"), "--since is not before --until"),
        (("add", "--since", "soon", "--reason", "r"), "'soon' is no time"),
        (("remove", "\x1b[2J", "--reason", "r"), r"no hold '\x1b[2J' is in force: see otel-audit hold list"),
        (("remove", "1234abcd"), "Missing option '--reason'"),
        (("lift",), "no such command: 'lift' (there are add, list, remove)"),
    ],
)
def test_wrong_holds(archive: Path, arguments: tuple[str, ...], complaint: str) -> None:
    """What is wrong ends with 2 and one line that says what to do; nothing is held."""
    err = otel_audit("hold", *arguments, "--archive", archive, status=2).stderr
    assert complaint in err
    assert err.count("\n") == 1
    assert load_holds(connect(archive)).in_force == ()


def test_listed_holds_are_harmless(archive: Path) -> None:
    """Whatever a hold's user and reason are, its line is one line, and JSON holds escapes."""
    hold(archive, "add", "--user", HOSTILE["ansi"], "--reason", HOSTILE["override"])
    with Administration(archive, b"", b"") as administration:
        for text in HOSTILE.values():
            add_hold(administration, text, operator(), {}, user=text, host=text, type=text)
    shown = hold(archive, "list")
    assert shown.count("\n") == len(HOSTILE) + 1
    assert all(line.isprintable() for line in shown.split("\n"))
    listed = hold(archive, "list", "-o", "json")
    assert all(line.isprintable() for line in listed.split("\n"))
    assert [one["user"] for one in json.loads(listed)[1:]] == [
        text.encode(errors="backslashreplace").decode().replace("\0", "\\x00") for text in HOSTILE.values()
    ]
