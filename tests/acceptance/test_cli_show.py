"""``otel-audit show`` finds the records that were asked for, and says clearly what it cannot do."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from otel_audit.record import Session
from tests.command_line import TRACE, environment, fill, json_lines, otel_audit, popen

NOON = 1_769_860_800 * 10**9  # 2026-01-31T12:00:00Z
HOUR = 3600 * 10**9

# Sequence 1 is the oldest.
EVENTS = (
    {"type": "server-started", "source": "main", "timestamp": NOON - 48 * HOUR},
    {"user": "alice", "timestamp": NOON - 2 * HOUR, "session": Session("s-1", "http", "203.0.113.7", "curl/8")},
    {"user": "alice", "type": "user.login.failure", "timestamp": NOON - HOUR, "session": Session("s-2", ip="10.1.2.3"),
     "custom": {"reason": {"condition": "expired", "tries": 3}}},
    {"user": "bob@work", "type": "user.logout", "timestamp": NOON, "source": "billing.api", "target": "order-7"},
    {"user": "alice", "host": "other.example", "trace": TRACE, "timestamp": NOON + HOUR, "message": "Willkommen"},
    {"user": "", "host": "other.example", "timestamp": NOON + 2 * HOUR, "session": Session(ip="2001:db8::7")},
)  # fmt: skip


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("show") / "audit.db"
    fill(path, EVENTS)
    return path


@pytest.mark.parametrize(
    ("arguments", "sequences"),
    [
        ((), [6, 5, 4, 3, 2, 1]),
        (("example.com",), [4, 3, 2, 1]),
        (("alice@example.com",), [3, 2]),
        (("bob@work@example.com",), [4]),
        (("@other.example",), [6]),
        (("nobody@example.com",), []),
        (("--global",), [1]),
        (("example.com", "--no-global"), [4, 3, 2]),
        (("--type", "user.login.*"), [6, 5, 3, 2]),
        (("--type", "*-started", "--type", "*.logout"), [4, 1]),
        (("--type", "user.login"), []),
        (("--source", "billing.*", "--source", "main"), [4, 1]),
        (("--outcome", "failure"), [3]),
        (("--session", "s-1"), [2]),
        (("--ip", "203.0.113.7"), [2]),
        (("--ip", "10.0.0.0/8"), [3]),
        (("--ip", "2001:db8::/32"), [6]),
        (("--trace-id", TRACE), [5]),
        (("--trace-id", TRACE.upper()), [5]),
        (("--where", "reason.condition=expired"), [3]),
        (("--where", "reason.tries=3", "--where", "user=alice"), [3]),
        (("--where", "audit.target.id=order-7"), [4]),
        (("--where", "user=bob@work"), [4]),
        (("--grep", "WILL[a-z]+en"), [5]),
        (("--since", "2026-01-31T12:00:00Z"), [6, 5, 4]),
        (("--since", "2026-01-31"), [6, 5, 4, 3, 2]),
        (("--until", "2026-01-31T12:00:00Z"), [3, 2, 1]),
        (("--since", "2026-01-31T10:00:00Z", "--until", "2026-01-31T12:00:00.000000001Z"), [4, 3, 2]),
        (("--until", "365000d"), []),
        (("-n", "2"), [6, 5]),
        (("-n", "0"), []),
        (("-n", "all"), [6, 5, 4, 3, 2, 1]),
        (("-n", "999999999999999999"), [6, 5, 4, 3, 2, 1]),
        (("--reverse", "-n", "2"), [1, 2]),
        (("-n", "1", "--where", "reason.condition=expired"), [3]),
        (("--grep", "alice", "--limit=1", "--reverse"), [2]),
    ],
)  # fmt: skip
def test_records_are_found(archive: Path, arguments: tuple[str, ...], sequences: list[int]) -> None:
    """Each option asks for what it says, limits count after filtering, and the order is that of recording."""
    done = otel_audit("show", "--archive", archive, "-o", "jsonl", *arguments)
    assert [record["sequence"] for record in json_lines(done.stdout)] == sequences


def test_one_record_is_found_by_its_id(archive: Path) -> None:
    """The id of a receipt finds its record, with and without hyphens."""
    record = json_lines(otel_audit("show", "--archive", archive, "-o", "jsonl", "--outcome", "failure").stdout)[0]
    for identity in (record["record_id"], record["record_id"].replace("-", "").upper()):
        found = json_lines(otel_audit("show", "--archive", archive, "-o", "jsonl", "--id", identity).stdout)
        assert found == [record]


@pytest.mark.parametrize(
    "line",
    [
        ("--archive", "ARCHIVE", "show", "-o", "jsonl", "alice@example.com", "-n", "1"),
        ("show", "alice@example.com", "-n", "1", "-ojsonl", "--archive", "ARCHIVE"),
        ("-n", "1", "-o", "jsonl", "show", "--archive=ARCHIVE", "alice@example.com"),
        ("-o", "jsonl", "--archive", "ARCHIVE", "-n1", "show", "alice@example.com"),
        ("show", "-n", "1", "--archive", "ARCHIVE", "-o", "jsonl", "--", "alice@example.com"),
    ],
)
def test_options_stand_anywhere(archive: Path, line: tuple[str, ...]) -> None:
    """Options count before the command, behind it, and behind its arguments."""
    done = otel_audit(*(word.replace("ARCHIVE", str(archive)) for word in line))
    assert [record["sequence"] for record in json_lines(done.stdout)] == [3]


def test_a_value_that_is_a_command_is_a_value(archive: Path) -> None:
    """The value of an option before the command is not taken for the command."""
    done = otel_audit("--type", "stats", "show", "--archive", archive, "-o", "jsonl")
    assert done.stdout == ""
    done = otel_audit("--type", "show", "--archive", archive, "show", "-o", "json")
    assert done.stdout == "[]\n"


def test_the_archive_comes_from_the_environment(archive: Path, tmp_path: Path) -> None:
    """OTEL_AUDIT_ARCHIVE names the archive, --archive wins over it, and without both it is the user's own."""
    assert len(json_lines(otel_audit("show", "-o", "jsonl", OTEL_AUDIT_ARCHIVE=str(archive)).stdout)) == len(EVENTS)
    named = otel_audit("show", "--archive", archive, "-o", "jsonl", OTEL_AUDIT_ARCHIVE=str(tmp_path / "none.db"))
    assert len(json_lines(named.stdout)) == len(EVENTS)
    err = otel_audit("show", status=2, OTEL_AUDIT_ARCHIVE=None).stderr
    assert re.fullmatch(r"otel-audit: there is no archive at \S+/audit\.db: give --archive .*\n", err)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("--bogus",), "No such option '--bogus'"),
        (("--tpye", "x"), "No such option '--tpye'. Did you mean '--type'?: see"),
        (("--where", "usr=alice"), "--where 'usr' is no field that can be asked for (did you mean user?)"),
        (("--where", "sequence=1"), "--where 'sequence' is no field that can be asked for: give host"),
        (("--where", "actor=x"), "give actor.id or actor.type"),
        (("--fields", "usr"), "'usr' is no field (did you mean user?)"),
        (("-f", "--until", "1h"), "--until is past already"),
        (("--limit", "many"), "'many' is no number of records"),
        (("-n", "-1"), "'-1' is no number of records"),
        (("--since", "tomorrow"), "'tomorrow' is no time: give 2026-01-31"),
        (("--trace-id", "xyz"), "trace id 'xyz' is none: give 32 hexadecimal digits"),
        (("--id", "7"), "record id '7' is none"),
        (("--where", "user"), "--where 'user' is no FIELD=VALUE"),
        (("--where", "user=a", "--where", "user=b"), "two values of 'user'"),
        (("--grep", "("), "'(' is no regular expression"),
        (("--ip", "10.0.0.0/33"), "'10.0.0.0/33' is no network"),
        (("--outcome", "maybe"), "'maybe' is not one of"),
        (("-o", "yaml"), "'yaml' is not one of"),
        (("--fields", "user,nothing"), "'nothing' is no field: give some of action"),
        (("--fields", "custom.g."), "'custom.g.' is no field"),
        (("-o", "otlp", "--fields", "user"), "--fields cannot choose among OTLP's fields"),
        (("-f", "-o", "json"), "use -o jsonl"),
        (("alice@",), "the target 'alice@' names no host"),
        (("--global", "alice@example.com"), "--global asks for records without a user"),
        (("a.example", "b.example"), "unexpected extra argument"),
        (("--trace-url", "https://traces.example/"), "has no {trace_id}"),
        (("--checkpoint", "/nowhere/at/all"), "/nowhere/at/all"),
    ],
)
def test_wrong_usage_is_explained(archive: Path, arguments: tuple[str, ...], complaint: str) -> None:
    """What cannot be meant ends with 2 and one line on standard error that names it; nothing is printed."""
    done = otel_audit("show", "--archive", archive, *arguments, status=2)
    assert complaint in done.stderr
    assert done.stderr.startswith("otel-audit: ")
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""


@pytest.mark.parametrize("line", [("nothing",), ("--archive", "x"), ("--bogus", "show"), ("show", "--archive", "")])
def test_wrong_commands_are_explained(line: tuple[str, ...]) -> None:
    """A command that is none, or none at all, ends with 2."""
    assert otel_audit(*line, status=2).stderr


def test_hostile_arguments_are_harmless(archive: Path, tmp_path: Path) -> None:
    """Arguments with escape sequences come back escaped, those that are no UTF-8 ask for what was recorded of them."""
    err = otel_audit("show", "--archive", archive, "--since", "\x1b[31m\u202e", status=2).stderr
    assert "\x1b" not in err
    assert "\u202e" not in err
    path = tmp_path / "bytes.db"
    fill(path, [{"user": "caf\udce9"}, {"user": "other"}])
    found = json_lines(otel_audit("show", "--archive", path, "-o", "jsonl", b"caf\xe9@example.com").stdout)
    assert [record["user"] for record in found] == ["caf\\udce9"]
    assert "UTF-8" in otel_audit("show", "--archive", b"\xff.db", status=2).stderr


def test_what_is_no_archive_is_explained(tmp_path: Path) -> None:
    """A missing file, a text file and a directory end with 2 and say what to do; none is created or changed."""
    text = tmp_path / "notes.txt"
    text.write_text("not a database, but long enough to look at: " * 50, "utf-8")
    for path in (tmp_path / "none.db", text, tmp_path):
        err = otel_audit("show", "--archive", path, status=2).stderr
        assert err.startswith("otel-audit: ")
        assert ": " in err.removeprefix("otel-audit: ")
    assert not (tmp_path / "none.db").exists()


def test_an_empty_archive_shows_nothing(tmp_path: Path) -> None:
    """Without records every form is empty and valid."""
    path = tmp_path / "empty.db"
    fill(path, [])
    assert otel_audit("show", "--archive", path).stdout == ""
    assert otel_audit("show", "--archive", path, "-o", "json").stdout == "[]\n"
    assert otel_audit("show", "--archive", path, "-o", "jsonl").stdout == ""
    assert otel_audit("show", "--archive", path, "-o", "csv").stdout.count("\n") == 1


def test_a_reader_that_leaves_is_no_error(tmp_path: Path) -> None:
    """Where the reader of a pipe has enough, the command ends quietly with 0, in every form."""
    path = tmp_path / "many.db"
    fill(path, [{"user": f"user-{n}", "message": "x" * 2000} for n in range(200)])
    for form in ("table", "json", "jsonl", "csv"):
        with popen("show", "--archive", path, "-n", "all", "-o", form, "--show-note", env=environment()) as process:
            assert process.stdout is not None
            assert process.stderr is not None
            assert process.stdout.read(10)
            process.stdout.close()
            assert process.stderr.read() == ""
        assert process.returncode == 0


def test_a_full_disk_is_explained(archive: Path) -> None:
    """Output that cannot be written ends with 2, and says so."""
    with Path("/dev/full").open("w", encoding="utf-8") as full:
        done = subprocess.run(
            [sys.executable, "-m", "otel_audit", "show", "--archive", archive],
            stdout=full, stderr=subprocess.PIPE, env=environment(), encoding="utf-8", check=False,
        )  # fmt: skip
    assert done.returncode == 2
    assert (
        done.stderr
        == "otel-audit: standard output: No space left on device: check the path, its permissions and the disk\n"
    )


def test_defaults_of_the_limit(tmp_path: Path) -> None:
    """Tables show the newest 50, other forms all."""
    path = tmp_path / "many.db"
    fill(path, [{"user": f"user-{n}"} for n in range(60)])
    assert otel_audit("show", "--archive", path).stdout.count("\n") == 51
    assert otel_audit("show", "--archive", path, "-n", "all").stdout.count("\n") == 61
    assert otel_audit("show", "--archive", path, "-o", "jsonl").stdout.count("\n") == 60
