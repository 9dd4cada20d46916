"""The commands that show records leave one of their own: before anything is shown, or they say why they cannot."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import apsw
import pytest

from otel_audit.archive.query import open_archive
from otel_audit.archive.verify import verify
from otel_audit.provider import AuditProvider
from tests.acceptance.test_cli_start import SLOW, imported
from tests.command_line import HOSTILE, environment, fill, json_lines, otel_audit, popen

NOTICE = "otel-audit: this read is not recorded: "


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


@pytest.mark.parametrize(
    ("arguments", "asked"),
    [
        (("show",), {}),
        (
            ("show", "user-1@example.com", "--since", "7d", "-n", "3", "--outcome", "success", "--no-show-ip"),
            {"target": "user-1@example.com", "since": "7d", "limit": "3", "outcome": "success", "show-ip": False},
        ),
        (
            ("show", "--where", "a.b=c", "--where", "d.e=f", "--no-global", "--ip", "10.0.0.0/8", "-o", "jsonl"),
            {"where": ("a.b=c", "d.e=f"), "global": False, "ip": "10.0.0.0/8", "output": "jsonl"},
        ),
        (("stats", "--type", "user.*", "--until", "now"), {"type": ("user.*",), "until": "now"}),
        (("verify", "--since", "2", "--jobs", "1"), {"since": "2", "jobs": "1"}),
        (("export", "user-1@example.com", "--format", "csv"), {"target": "user-1@example.com", "format": "csv"}),
        (("prove", "3"), {"sequence": "3"}),
        (("prove", "--consistency", "2", "4"), {"consistency": ("2", "4")}),
        (("hold list", "--utc"), {"utc": True}),
        (("prune", "--rule", "*=1y", "--dry-run"), {"rule": ("*=1y",), "dry-run": True}),
        (("prune", "--rule", "*=1y"), {"rule": ("*=1y",)}),
        (("subject-export", "user-1@example.com", "--mentions"), {"target": "user-1@example.com", "mentions": True}),
        (("erase", "user-1@example.com", "--dry-run"), {"target": "user-1@example.com", "dry-run": True}),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_each_reading_command_is_recorded(archive: Path, arguments: tuple[str, ...], asked: dict[str, Any]) -> None:
    """A command that shows records appends who read, where, which command, and what was asked as it was typed."""
    done = otel_audit(*arguments[0].split(), *arguments[1:], "--archive", archive)
    assert done.stderr == ""
    with open_archive(archive) as opened:
        read, genesis = opened.query(admin=True)
    assert genesis.type == "audit.archive.created"
    assert (read.type, read.host, read.user, read.outcome) == ("audit.read", "otel_audit", None, "success")
    assert read.custom["read"] == {"command": arguments[0], "filter": asked}
    assert {"pid", "machine"} <= read.custom["process"].keys()
    assert read.actor.type == "user"
    assert verify(archive).intact


@pytest.mark.parametrize(
    "arguments",
    [
        ("status",), ("show", "--help"), ("stats", "-h"), ("--version",), ("requeue",),
        ("record", "example.com", "x", "--user", "y"),
    ],
    ids=" ".join,
)  # fmt: skip
def test_other_commands_are_not(archive: Path, arguments: tuple[str, ...]) -> None:
    """What shows no records leaves none."""
    otel_audit(*arguments, OTEL_AUDIT_ARCHIVE=str(archive))
    assert reads(archive) == []


@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        (("show", "--limit", "x"), 2),
        (("show", "--where", "nonsense"), 2),
        (("show", "--checkpoint", "/nowhere/at/all"), 2),
        (("show", "--admin", "alice@example.com"), 2),
        (("prove", "99"), 2),
        (("prove", "6"), 2),
        (("prove", "--consistency", "3", "9"), 2),
        (("stats", "--top", "0"), 2),
    ],
)
def test_what_is_refused_is_no_read(archive: Path, arguments: tuple[str, ...], status: int) -> None:
    """A command that shows nothing because it was asked wrongly leaves no record either."""
    otel_audit(*arguments, "--archive", archive, status=status)
    assert last_sequence(archive) == 5


def test_off_and_other_values(archive: Path) -> None:
    """`off` records nothing and says nothing; any other value but `on` is an error before the work."""
    assert otel_audit("show", "--archive", archive, OTEL_AUDIT_READS="off").stderr == ""
    assert reads(archive) == []
    for command in ("show", "stats", "verify"):
        refused = otel_audit(command, "--archive", archive, status=2, OTEL_AUDIT_READS="no")
        assert refused.stdout == ""
        assert refused.stderr == "otel-audit: OTEL_AUDIT_READS='no' is unknown: use 'on' or 'off'\n"
    otel_audit("show", "--archive", archive, OTEL_AUDIT_READS="on")
    otel_audit("show", "--archive", archive, OTEL_AUDIT_READS="")
    assert len(reads(archive)) == 2


def test_settings_of_others_do_not_matter(archive: Path) -> None:
    """Mistakes in the settings of delivery and privacy keep nobody from reading; the record has the resource's."""
    otel_audit(
        "show", "--archive", archive,
        OTEL_SERVICE_NAME="console-of-ops", OTEL_EXPORTER_OTLP_ENDPOINT="nonsense", OTEL_AUDIT_REDACT="?",
    )  # fmt: skip
    exported = otel_audit("show", "--admin", "-o", "otlp", "-n", "2", "--archive", archive).stdout
    assert "console-of-ops" in exported.splitlines()[1]
    refused = otel_audit("show", "--archive", archive, status=2, OTEL_RESOURCE_ATTRIBUTES="nonsense")
    assert "OTEL_RESOURCE_ATTRIBUTES" in refused.stderr
    assert refused.stdout == ""


def test_the_record_is_there_before_the_first_byte(archive: Path) -> None:
    """Whoever reads the first byte of the output finds the read recorded: a reader that is killed then is, too."""
    fill(archive, [{"message": "x" * 10_000}] * 30)
    with popen("show", "--archive", archive, "-o", "jsonl", "-n", "all") as process:
        assert process.stdout is not None
        process.stdout.read(1)
        assert [read["command"] for read in reads(archive)] == ["show"]
        process.kill()
    assert verify(archive).intact


@pytest.mark.parametrize("name", sorted(set(HOSTILE) - {"nul"}))
def test_hostile_filters_are_recorded(archive: Path, name: str) -> None:
    """Whatever the filter holds is recorded, with a mark where it was altered, and shown harmlessly."""
    text = HOSTILE[name]
    otel_audit("show", "--session", text, "--archive", archive, "-o", "jsonl", "--", f"{text}@example.com")
    (read,) = reads(archive)
    recorded = text.encode("utf-8", "backslashreplace").decode()
    assert read["filter"]["target"] == f"{recorded}@example.com"
    shown = otel_audit("show", "--admin", "--show-note", "--archive", archive).stdout
    assert all(character.isprintable() or character == "\n" for character in shown)
    assert ("custom.read.filter:control" in shown) == _has_control(recorded)


def _has_control(text: str) -> bool:
    return any(ord(c) < 32 or 0x7F <= ord(c) < 0xA0 or c in "\u2028\u202e\u2066\u2069" for c in text)


def test_arguments_that_are_no_text(archive: Path) -> None:
    """An argument that is no UTF-8 is recorded with escapes, and the record is marked."""
    otel_audit("show", b"\xff\xfe@example.com", "--archive", archive)
    with open_archive(archive) as opened:
        (read,) = opened.query(admin=True, types=["audit.read"])
    assert read.custom["read"]["filter"] == {"target": "\\udcff\\udcfe@example.com"}
    assert read.altered == ("custom.read.filter:escaped",)


def test_a_tampered_archive_is_left_alone(archive: Path) -> None:
    """Where `verify` finds faults it appends nothing and says so; each later verification finds the same."""
    with closing(apsw.Connection(str(archive))) as connection:
        connection.execute("UPDATE record SET outcome = 'failure' WHERE sequence = 3")
    before = archive.read_bytes()
    for _ in range(2):
        done = otel_audit("verify", "--archive", archive, status=1)
        assert done.stderr == f"{NOTICE}faults were found, and the archive stays as it is\n"
        assert "column: record 3: outcome" in done.stdout
        assert last_sequence(archive) == 5
    assert archive.read_bytes() == before
    assert otel_audit("verify", "--archive", archive, status=1, OTEL_AUDIT_READS="off").stderr == ""


def test_a_collector_that_lacks_records_is_a_fault_too(archive: Path, tmp_path: Path) -> None:
    """Faults of the comparison keep `verify` from appending as well."""
    received = tmp_path / "received.jsonl"
    lines = otel_audit("show", "--reverse", "-o", "otlp", "--archive", archive, OTEL_AUDIT_READS="off").stdout
    received.write_text("".join(lines.splitlines(keepends=True)[:-1]))
    done = otel_audit("verify", "--against", received, "--archive", archive, status=1)
    assert NOTICE in done.stderr
    assert last_sequence(archive) == 5
    received.write_text(lines)
    otel_audit("verify", "--against", received, "--archive", archive)
    assert last_sequence(archive) == 7


def test_a_damaged_archive_can_be_shown(archive: Path) -> None:
    """Where the tree is broken no record can be appended; what can be read is shown, with the notice."""
    with closing(apsw.Connection(str(archive))) as connection:
        connection.execute("DELETE FROM record WHERE sequence = 4")
    done = otel_audit("show", "--archive", archive, "-o", "jsonl", "--fields", "sequence")
    assert [line["sequence"] for line in json_lines(done.stdout)] == [5, 3, 2, 1]
    assert done.stderr.startswith(NOTICE)
    assert last_sequence(archive) == 5


def test_verify_reports_what_it_found(archive: Path) -> None:
    """The report is about the archive before `verify` itself was recorded; its root holds afterwards."""
    found = json.loads(otel_audit("verify", "-o", "json", "--archive", archive).stdout)
    assert (found["last"], last_sequence(archive)) == (5, 7)
    otel_audit("verify", "--root", f"5:{found['root']}", "--archive", archive)


def test_a_proof_is_in_the_tree_that_status_shows(archive: Path, tmp_path: Path) -> None:
    """The record of proving is part of the tree that the proof is about, so that the present root checks it."""
    proof = tmp_path / "proof.json"
    proof.write_text(otel_audit("prove", "2", "--archive", archive).stdout)
    status = json.loads(otel_audit("status", "-o", "json", "--archive", archive).stdout)
    assert status["sequence"] == 7
    shown = otel_audit("verify-proof", proof, "--root", f"7:{status['root']}").stdout
    assert shown.startswith("record 2 is in the tree of 7: ")
    own = otel_audit("prove", "7", "--archive", archive).stdout
    assert json.loads(own)["leaf"]["type"] == "audit.read"


@pytest.mark.parametrize("command", ["show", "stats", "verify"])
def test_permissions_that_let_nobody_write(archive: Path, command: str) -> None:
    """A file without the right to write is read as it is, its mode kept, with one line of notice; by root as well."""
    archive.chmod(0o444)
    before = archive.read_bytes()
    done = otel_audit(command, "--archive", archive)
    assert done.stderr == f"{NOTICE}{archive} is read-only: its permissions let nobody write\n"
    assert "user.login.success" in done.stdout or "faults      none" in done.stdout
    assert archive.read_bytes() == before
    assert stat.S_IMODE(archive.stat().st_mode) == 0o444


@pytest.fixture
def open_directory() -> Iterator[Path]:
    directory = Path(tempfile.mkdtemp(prefix="reads-"))
    directory.chmod(0o755)
    yield directory
    shutil.rmtree(directory)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")
@pytest.mark.parametrize("command", ["show", "stats", "verify", "prove"])
def test_somebody_else_reads(open_directory: Path, tmp_path: Path, command: str) -> None:
    """Another user, who may read the file and not write it, is shown its records, with one line of notice."""
    path = open_directory / "audit.db"
    fill(path, [{"user": "alice"}] * 3)
    path.chmod(0o644)
    fill(tmp_path / "own.db", [{}])
    # Others may not be allowed to read Python itself: all modules are loaded by a first run.
    script = """
        import contextlib, io, os, sys
        from otel_audit.cli.run import run
        own, path, *arguments = sys.argv[1:]
        with contextlib.redirect_stdout(io.StringIO()):
            assert run([*arguments, "--archive", own]) == 0
        os.setegid(65534); os.seteuid(65534)
        sys.exit(run([*arguments, "--archive", path]))
    """
    arguments = [command, "1"] if command == "prove" else [command]
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), tmp_path / "own.db", path, *arguments],
        env=environment(OTEL_AUDIT_HIGH_WATER="off"), capture_output=True, encoding="utf-8", timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stderr.startswith(f"{NOTICE}{path}: ")
    assert done.stderr.count("\n") == 1
    assert "alice" in done.stdout or "3 valid" in done.stdout or "otel-audit/inclusion/1" in done.stdout
    assert (last_sequence(path), stat.S_IMODE(path.stat().st_mode)) == (3, 0o644)


def test_recording_imports_nothing_slow(archive: Path) -> None:
    """The record is made without what shipping, tracing and the settings of both need: the first line waits for it."""
    modules = imported("show", "--archive", archive)
    assert "otel_audit.archive.administration" in modules
    slow = (*SLOW, "opentelemetry.trace", "otel_audit.otlp_settings", "otel_audit.privacy")
    assert {name for name in modules for other in slow if name == other or name.startswith(f"{other}.")} == set()
    assert len(reads(archive)) == 1


def test_a_link_is_followed(archive: Path, tmp_path: Path) -> None:
    """Reading through a symbolic link is recorded in the archive that it leads to."""
    link = tmp_path / "link.db"
    link.symlink_to(archive)
    assert otel_audit("show", "--archive", link).stderr == ""
    assert len(reads(archive)) == 1


def test_readers_at_once(archive: Path) -> None:
    """Readers that start together are all recorded, behind one first record of the archive's own."""
    processes = [popen("show", f"user-{n}@example.com", "--archive", archive) for n in range(4)]
    for process in processes:
        with process:
            _, err = process.communicate(timeout=60)
        assert (process.returncode, err) == (0, "")
    assert sorted(read["filter"]["target"] for read in reads(archive)) == [f"user-{n}@example.com" for n in range(4)]
    with open_archive(archive) as opened:
        assert len(list(opened.query(admin=True, types=["audit.archive.created"]))) == 1
    assert verify(archive).intact


def test_reading_beside_a_writer(archive: Path) -> None:
    """Reads are recorded in between the events of a running application, which goes on recording."""
    stop = threading.Event()

    def write() -> None:
        with AuditProvider(archive=archive, ship=False) as provider:
            log = provider.get_logger("shop", host="example.com")
            while not stop.wait(0.002):
                log.audit("user.login.success", user="writer")

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for _ in range(4):
            assert otel_audit("show", "--archive", archive).stderr == ""
    finally:
        stop.set()
        writer.join(20)
    assert len(reads(archive)) == 4
    assert verify(archive).intact


@pytest.mark.parametrize(
    "arguments",
    [
        ("checkpoint",),
        ("hold", "add", "--user", "user-1", "--reason", "case 1"),
        ("erase", "user-1@example.com", "--reason", "request 1"),
        ("prune", "--rule", "*=1s"),
    ],
)
def test_nothing_hides_an_older_copy(archive: Path, tmp_path: Path, arguments: tuple[str, ...]) -> None:
    """Where an older copy was put in place of the archive, no command appends to it, nor replaces the mark."""
    older = tmp_path / "older.db"
    shutil.copy(archive, older)
    fill(archive, [{}])
    shutil.copy(older, archive)
    for command in ("show", "stats"):
        assert otel_audit(command, "--archive", archive).stderr.startswith(f"{NOTICE}the archive {archive} is not the")
    if "*=1s" in arguments:
        time.sleep(1.1)  # the shortest age that there is
    assert "had 6 records here" in otel_audit(*arguments, "--archive", archive, status=2).stderr
    assert last_sequence(archive) == 5
    assert "high-water: " in otel_audit("verify", "--archive", archive, status=1).stdout
