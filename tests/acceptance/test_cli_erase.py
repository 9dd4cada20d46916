"""``erase`` and ``subject-export`` as commands: what they print, what they refuse, and hostile names."""

from __future__ import annotations

import json
import os
import re
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from otel_audit import Session
from otel_audit.archive.verify import verify
from tests.archive_material import connect
from tests.command_line import HOSTILE, environment, fill, json_lines, on_terminal, otel_audit, popen

EVENTS = (
    {"user": "alice", "session": Session("s-1", "http", "203.0.113.7")},
    {"user": "bob", "actor": "alice@example.com"},
    {"user": "bob", "message": "alice was here"},
    {"user": "alice", "host": "other.com"},
    {"user": "bob"},
)


@pytest.fixture
def archive(archive_path: Path) -> Path:
    """Return an archive of alice and bob."""
    fill(archive_path, EVENTS)
    return archive_path


def exported(*arguments: str | bytes | Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(otel_audit("subject-export", *arguments).stdout)
    return document


def bytes_of(path: Path) -> bytes:
    return b"".join(file.read_bytes() for file in path.parent.iterdir())


def test_erase(archive: Path) -> None:
    """The sequences and counts are printed, never the name; then the archive verifies, and nothing is left in it."""
    done = otel_audit("erase", "alice@example.com", "--reason", "request 7", "--archive", archive)
    assert done.stdout == (
        "erased 2 records: 1-2\nmentioned by others in 1 record: 3; --mentions erases these, too\n"
        "the file was written anew: no copies remain in it\n"
    )
    assert done.stderr == ""
    assert "content     2 erased, 0 pruned" in otel_audit("verify", "--archive", archive).stdout
    assert b"s-1" not in bytes_of(archive)
    assert b"203.0.113.7" not in bytes_of(archive)
    again = otel_audit("erase", "alice@example.com", "--reason", "request 7", "--archive", archive)
    assert again.stdout.startswith("there is no such record\n")
    done = otel_audit("erase", "alice@example.com", "--mentions", "--reason", "x", "--archive", archive, "-o", "json")
    assert json.loads(done.stdout) == {
        "dry_run": False, "records": 1, "sequences": "3", "delivered": {}, "held": {"records": 0, "sequences": ""},
        "mentions": {"records": 0, "sequences": ""}, "copies": "removed",
    }  # fmt: skip
    assert [
        record["sequence"] for record in json_lines(otel_audit("show", "-o", "jsonl", "--archive", archive).stdout)
    ] == [
        5,
        4,
    ]


def test_dry_run(archive: Path) -> None:
    """A dry run lists the same and changes nothing; it needs no reason, nor an archive that can be written."""
    before = archive.read_bytes()
    archive.chmod(0o400)
    archive.parent.chmod(0o500)
    done = otel_audit("erase", "alice@example.com", "--dry-run", "--archive", archive)
    assert done.stdout == (
        "would erase 2 records: 1-2\nmentioned by others in 1 record: 3; --mentions erases these, too\n"
    )
    done = otel_audit("erase", "alice@example.com", "--dry-run", "--mentions", "-o", "json", "--archive", archive)
    assert json.loads(done.stdout)["sequences"] == "1-3"
    assert json.loads(done.stdout)["dry_run"] is True
    archive.parent.chmod(0o700)
    assert archive.read_bytes() == before
    assert verify(archive).erased == 0


def test_later(archive: Path) -> None:
    """With --no-vacuum the file is left as it is, which is told until it was written anew."""
    path = ("--archive", archive)
    done = otel_audit("erase", "alice@example.com", "--reason", "x", "--no-vacuum", *path)
    assert done.stdout.endswith(
        "copies may remain in unused space of the file until otel-audit erase --vacuum has run\n"
    )
    dry = otel_audit("erase", "alice@example.com", "--dry-run", "-o", "json", *path)
    assert json.loads(dry.stdout)["copies"] == "remain"
    done = otel_audit("erase", "--vacuum", *path)
    assert done.stdout == "the file was written anew: no copies remain in it\n"
    assert json.loads(otel_audit("erase", "--vacuum", "-o", "json", *path).stdout) == {"copies": "removed"}
    # An erasure that finds nothing completes one that was not: killed, or put off.
    otel_audit("erase", "bob@example.com", "--reason", "x", "--no-vacuum", *path)
    done = otel_audit("erase", "bob@example.com", "--reason", "x", *path)
    assert done.stdout == "there is no such record\nthe file was written anew: no copies remain in it\n"
    done = otel_audit("erase", "bob@example.com", "--reason", "x", *path)
    assert done.stdout == "there is no such record\n"


def test_not_complete(archive: Path) -> None:
    """Where somebody reads all the time, the records are erased, and 1 says that copies may remain."""
    reader = connect(archive)
    reader.execute("BEGIN")
    assert reader.execute("SELECT count(*) FROM record").get
    arguments = ("erase", "alice@example.com", "--reason", "x", "--timeout", "0.3", "--archive", archive)
    done = otel_audit(*arguments, status=1)
    assert done.stdout.startswith("erased 2 records: 1-2\n")
    assert re.fullmatch(
        r"otel-audit: copies of what was erased may remain in unused space of the file until otel-audit erase --vacuum"
        r" has run: others were using .* for all of 0.3 s: find out who reads for so long \(fuser\), or give more"
        r" time\n",
        done.stderr,
    )
    assert json.loads(
        otel_audit("erase", "--vacuum", "--timeout", "0.3", "-o", "json", "--archive", archive, status=1).stdout
    ) == {"copies": "remain"}
    reader.execute("COMMIT")
    otel_audit("erase", "--vacuum", "--archive", archive)
    assert b"s-1" not in bytes_of(archive)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ((), "give USER@HOST, or --vacuum alone"),
        (("--no-vacuum",), "give USER@HOST, or --vacuum alone"),
        (("--vacuum", "--dry-run"), "give USER@HOST, or --vacuum alone"),
        (("--vacuum", "--reason", "x"), "--reason, --authority and --mentions are for USER@HOST"),
        (("alice@example.com",), "give --reason TEXT, or --dry-run"),
        (("alice@example.com", "--reason", " "), "the reason is empty: say why"),
        (("alice@example.com", "--reason", "by Alice"), "the reason names the person"),
        (("alice@example.com", "--reason", "x", "--authority", "alice"), "the authority names the person"),
        (("alice", "--reason", "x"), "the target 'alice' names no user: give USER@HOST"),
        (("alice@", "--reason", "x"), "the target 'alice@' names no host"),
        (("alice@example.com", "--reason", "x", "--pseudonym-key", "none"), "none cannot be read"),
        (("alice@example.com", "--reason", "x", "--timeout", "0"), "no number of seconds"),
        (("alice@example.com", "--reason", "x", "--archive", "none.db"), "there is no archive at"),
        (("alice@example.com", "--dry-run", "--archive", "none.db"), "there is no archive at"),
    ],
)
def test_wrong_usage(archive: Path, arguments: tuple[str, ...], complaint: str) -> None:
    """What cannot be meant is refused with one line that says what to do, and nothing is erased."""
    done = otel_audit("erase", *arguments, OTEL_AUDIT_ARCHIVE=str(archive), status=2)
    assert complaint in done.stderr
    assert done.stderr.count("\n") == 1
    assert verify(archive).erased == 0


def test_a_hold_refuses(archive: Path) -> None:
    """As long as a hold names the person, nothing is erased; a dry run says why."""
    from otel_audit.archive.administration import Administration, Own
    from otel_audit.archive.leaf import ADMINISTRATION

    custom = {"hold": {"id": "a1", "user": "dave", "reason": "a lawsuit"}}
    with Administration(archive, b"", b"") as administration:
        administration.append(lambda _connection, _tree: [Own(ADMINISTRATION, "audit.hold.added", custom)])
    done = otel_audit("erase", "dave@example.com", "--reason", "x", "--archive", archive, status=2)
    assert done.stderr.startswith("otel-audit: nothing was erased: a legal hold covers record 7: ")
    custom = {"hold": {"id": "b2", "user": "carol", "reason": "against dave"}}
    with Administration(archive, b"", b"") as administration:
        administration.append(lambda _connection, _tree: [Own(ADMINISTRATION, "audit.hold.added", custom)])
    done = otel_audit("erase", "dave@example.com", "--dry-run", "--mentions", "--archive", archive)
    assert "mentioned by others in 1 record: 8; which stay with their legal holds\n" in done.stdout
    assert "under a legal hold, so that nothing can be erased: 1 record: 7\n" in done.stdout


@pytest.mark.parametrize("name", [*HOSTILE, "percent", "emoji"])
def test_hostile_names(archive_path: Path, name: str) -> None:
    """Whatever a client calls itself can be exported and erased as it was sent, and does a terminal no harm."""
    sent = {**HOSTILE, "percent": "%s%d{0}' OR 1=1 --", "emoji": "😀\U0001f3f4\u200d☠️"}[name]
    fill(archive_path, [{"user": sent}, {"user": f"{sent}2"}, {"user": "bob", "actor": sent}, {"user": "bob"}])
    # A command line cannot hold NUL: it is given as it is shown.
    target = f"{sent.replace(chr(0), chr(92) + 'x00')}@example.com".encode(errors="surrogateescape")
    shown = on_terminal("subject-export", "--archive", archive_path, "--", os.fsdecode(target))
    assert all(character.isprintable() or character == "\n" for character in shown)
    assert [record["sequence"] for record in json.loads(shown)["records"]] == [1, 3]
    done = otel_audit("erase", "--reason", "request 7", "--archive", archive_path, "--", target)
    assert done.stdout.startswith("erased 2 records: 1,3\n")
    rows = connect(archive_path).execute("SELECT sequence FROM record WHERE otlp IS NOT NULL").fetchall()
    assert [sequence for (sequence,) in rows] == [2, 4, 5, 6]
    assert verify(archive_path).intact


def test_a_name_that_is_no_utf8(archive_path: Path) -> None:
    """A name of invalid UTF-8 is given to the shell as it was sent, and found in the form that was recorded."""
    otel_audit("record", "example.com", "user.login.success", "--user", b"a\xffb", "--archive", archive_path)
    assert len(exported(b"a\xffb@example.com", "--archive", archive_path)["records"]) == 1
    done = otel_audit("erase", b"a\xffb@example.com", "--reason", b"no\xff", "--archive", archive_path)
    assert done.stdout.startswith("erased 1 record: 1\n")


def test_pseudonyms(archive_path: Path, tmp_path: Path) -> None:
    """With the key, given as option or in the environment, records under the pseudonym are exported and erased."""
    key = tmp_path / "key"
    key.write_text("0123456789abcdef")
    key.chmod(0o600)
    settings: Any = {"OTEL_AUDIT_PSEUDONYM_KEY": str(key), "OTEL_AUDIT_ARCHIVE": str(archive_path)}
    otel_audit("record", "example.com", "user.login.success", "--user", "alice", **settings)
    without: Any = {"OTEL_AUDIT_ARCHIVE": str(archive_path)}
    assert json.loads(otel_audit("subject-export", "alice@example.com", **without).stdout)["records"] == []
    done = otel_audit("subject-export", "alice@example.com", "--pseudonym-key", key, **without)
    assert len(json.loads(done.stdout)["records"]) == 1
    done = otel_audit("erase", "alice@example.com", "--reason", "x", **settings)
    assert done.stdout.startswith("erased 1 record: 1\n")


def test_subject_export(archive: Path) -> None:
    """The document holds the person's records, oldest first; mentions when asked; nothing once they are erased."""
    document = exported("alice@example.com", "--archive", archive)
    assert list(document) == ["subject", "host", "archive_id", "exported", "records"]
    assert (document["subject"], document["host"]) == ("alice", "example.com")
    assert re.fullmatch("[0-9a-f]{32}", document["archive_id"])
    assert [record["sequence"] for record in document["records"]] == [1, 2]
    shown = json_lines(otel_audit("show", "--reverse", "-n", "2", "-o", "jsonl", "--archive", archive).stdout)
    assert document["records"] == shown
    document = exported("alice@example.com", "--mentions", "--archive", archive)
    assert [record["sequence"] for record in document["records"]] == [1, 2, 3]
    otel_audit("erase", "alice@example.com", "--mentions", "--reason", "x", "--archive", archive)
    assert exported("alice@example.com", "--mentions", "--archive", archive)["records"] == []


def test_export_to_a_file(archive: Path, tmp_path: Path) -> None:
    """The file is private and never one that is there already; where the export fails, none is left behind."""
    file = tmp_path / "alice.json"
    done = otel_audit("subject-export", "alice@example.com", "-O", file, "--archive", archive)
    assert done.stdout == ""
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert len(json.loads(file.read_text())["records"]) == 2
    done = otel_audit("subject-export", "alice@example.com", "--output-file", file, "--archive", archive, status=2)
    assert done.stderr == f"otel-audit: {file} is there already: give a file that does not exist yet\n"
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "elsewhere")
    otel_audit("subject-export", "alice@example.com", "-O", link, "--archive", archive, status=2)
    assert not (tmp_path / "elsewhere").exists()
    connect(archive).execute("UPDATE record SET otlp = CAST('alice' AS BLOB) WHERE sequence = 5")
    other = tmp_path / "other.json"
    done = otel_audit("subject-export", "alice@example.com", "-O", other, "--archive", archive, status=2)
    assert done.stderr.startswith("otel-audit: record 5 cannot be decoded")
    assert not other.exists()
    missing = tmp_path / "none" / "x.json"
    done = otel_audit("subject-export", "alice@example.com", "-O", missing, "--archive", archive, status=2)
    assert "No such file or directory" in done.stderr


@pytest.mark.parametrize("target", ["example.com", "alice@", ""])
def test_an_export_of_nobody(archive: Path, target: str) -> None:
    """A target without a user or a host is refused."""
    done = otel_audit("subject-export", target, "--archive", archive, status=2)
    assert "give" in done.stderr


def test_an_export_is_streamed(archive_path: Path) -> None:
    """A reader that has enough ends the export, quietly."""
    fill(archive_path, [{"user": "alice", "message": "x" * 10_000}] * 100)
    with popen("subject-export", "alice@example.com", "--archive", archive_path) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline().startswith('{"subject": "alice"')
        process.stdout.close()
        assert process.stderr.read() == ""
        assert process.wait(20) == 0


def test_little_is_imported(archive: Path) -> None:
    """Exporting and a dry run import nothing that only recording and shipping need."""
    for arguments in (("subject-export", "alice@example.com"), ("erase", "alice@example.com", "--dry-run")):
        script = "import sys; from otel_audit.cli.run import run; run(sys.argv[1:]);"
        script += "print(*sys.modules, sep=chr(10), file=sys.stderr)"
        done = subprocess.run(
            [sys.executable, "-c", script, *arguments, "--archive", archive],
            env=environment(), capture_output=True, encoding="utf-8", check=True,
        )  # fmt: skip
        slow = {"opentelemetry.proto", "google.protobuf", "grpc", "requests", "opentelemetry.sdk", "asyncio"}
        assert not slow & set(done.stderr.split())
