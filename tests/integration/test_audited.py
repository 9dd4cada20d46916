"""Recording a read never keeps anybody from reading, and never waits for long."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

import apsw
import click
import pytest

from otel_audit import keys
from otel_audit.archive import administration
from otel_audit.archive.query import open_archive
from otel_audit.archive.verify import verify
from otel_audit.cli import audited as module
from otel_audit.cli.audited import audited, given
from otel_audit.config import reads_recorded, record_settings
from otel_audit.errors import ConfigError
from tests.command_line import fill, otel_audit

NEEDS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="mounts file systems")
NOTICE = "otel-audit: this read is not recorded: "


@pytest.fixture(autouse=True)
def _default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OTEL_AUDIT_READS")


@pytest.fixture
def archive(archive_path: Path) -> Path:
    fill(archive_path, [{"user": "alice"}] * 3)
    return archive_path


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """Mount a file system of 1 MiB, with an archive on it."""
    point = tmp_path / "disk"
    point.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m,mode=0700", "tmpfs", point], check=False).returncode:
        pytest.skip("tmpfs cannot be mounted here")
    fill(point / "audit.db", [{"user": "alice"}] * 3)
    yield point
    subprocess.run(["umount", "--lazy", point], check=True)


def test_outside_of_a_command(archive: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Without a command line nothing stays open; what is None was not asked for."""
    audited(archive, "export", target="a@b", since=None, global_=False)
    assert sorted(path.name for path in archive.parent.iterdir()) == ["audit.db"]
    with open_archive(archive) as opened:
        (read,) = opened.query(admin=True, types=["audit.read"])
    assert read.custom["read"] == {"command": "export", "filter": {"target": "a@b", "global_": False}}
    assert capsys.readouterr().err == ""


def test_within_a_command_its_end_closes(archive: Path) -> None:
    """The connection is closed when the command is over, not while somebody waits for the first line."""
    with click.Context(click.Command("show")):
        audited(archive, "show", **given())
        assert archive.with_name("audit.db-wal").stat().st_size
    assert not archive.with_name("audit.db-wal").exists()


def test_a_stuck_lock_holder(
    archive: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """While another process keeps the write lock, the reader waits for a moment and goes on with a notice."""
    monkeypatch.setattr(module, "_PATIENCE", 0.1)
    with closing(apsw.Connection(str(archive))) as other:
        other.execute("BEGIN IMMEDIATE")
        began = time.monotonic()
        audited(archive, "show")
        assert time.monotonic() - began < 5
        other.execute("ROLLBACK")
    err = capsys.readouterr().err
    assert err.startswith(f"{NOTICE}{archive}: ")
    assert "another process holds the archive's write lock" in err
    audited(archive, "show")
    assert capsys.readouterr().err == ""


def test_a_reader_waits_for_a_writer_that_closes(archive: Path) -> None:
    """The last writer to close has the file to itself for a moment: whoever opens it then waits, and reads."""
    # The bytes by which SQLite locks a file: all of the shared ones, as for itself alone.
    script = """
        import fcntl, sys, time
        with open(sys.argv[1], "r+b") as file:
            fcntl.lockf(file, fcntl.LOCK_EX, 510, 0x40000002)
            print(flush=True)
            time.sleep(0.5)
    """
    command = [sys.executable, "-c", textwrap.dedent(script), str(archive)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.read(1)
        with open_archive(archive) as reader:
            assert len(list(reader.query())) == 3


def test_an_interrupt_ends_the_command(archive: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C while the read is recorded is no notice: nothing is recorded, and nothing is to be shown."""

    def interrupt() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(administration, "operator", interrupt)
    with pytest.raises(KeyboardInterrupt):
        audited(archive, "show")
    monkeypatch.undo()
    monkeypatch.delenv("OTEL_AUDIT_READS", raising=False)
    audited(archive, "show")
    report = verify(archive)
    assert (report.intact, report.last) == (True, 5)


def test_whatever_fails_is_one_harmless_line(
    archive: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """An error that nobody foresaw, and a path of control characters, give one line."""

    def fail() -> None:
        raise RuntimeError("\x1b[2J\nunforeseen")

    monkeypatch.setattr(administration, "operator", fail)
    audited(archive, "show")
    assert capsys.readouterr().err == f"{NOTICE}\\x1b[2J\\nunforeseen\n"
    audited(archive.with_name("\x1b[31mnone.db"), "show")
    err = capsys.readouterr().err
    assert err.startswith(NOTICE)
    assert "\x1b" not in err
    assert err.count("\n") == 1


@NEEDS_ROOT
@pytest.mark.parametrize("command", ["show", "stats", "verify"])
def test_a_read_only_disk(disk: Path, command: str) -> None:
    """An archive on a disk that is mounted read-only is shown, with a notice."""
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    done = otel_audit(command, "--archive", disk / "audit.db")
    assert done.stderr.startswith(f"{NOTICE}{disk}/audit.db: ")
    assert "mounted read-only" in done.stderr
    assert done.stderr.count("\n") == 1
    assert "alice" in done.stdout or "3 valid" in done.stdout


@NEEDS_ROOT
def test_a_full_disk(disk: Path) -> None:
    """An archive on a full disk is shown, with a notice; with space, reads are recorded again."""
    path = disk / "audit.db"
    # Another reader keeps the log's index, for which there would be no room either.
    with open_archive(path) as opened:
        opened.status()
        with (disk / "filler").open("wb", buffering=0) as filler, suppress(OSError):
            while True:
                filler.write(b"\0" * 4096)
        done = otel_audit("show", "--archive", path)
        assert done.stderr.startswith(NOTICE)
        assert "disk" in done.stderr
        assert "alice" in done.stdout
        assert opened.status().sequence == 3
    (disk / "filler").unlink()
    assert otel_audit("show", "--archive", path).stderr == ""
    report = verify(path)
    assert (report.intact, report.last) == (True, 5)


def test_a_reader_that_nobody_named(archive: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An account without a name is recorded by its number, and sudo tells who stands behind it."""
    monkeypatch.setattr(os, "getuid", lambda: 987_654)
    monkeypatch.setenv("SUDO_USER", "mallory\x1b[2J")
    audited(archive, "show")
    with open_archive(archive) as opened:
        (read,) = opened.query(admin=True, types=["audit.read"])
    assert read.actor.id == "uid 987654"
    assert read.custom["process"]["sudo_user"] == "mallory\x1b[2J"
    assert "custom.process.sudo_user:control" in read.altered


def test_the_settings() -> None:
    """`OTEL_AUDIT_READS` is on or off; of the other settings only profile and resource count."""
    assert reads_recorded({})
    assert reads_recorded({"OTEL_AUDIT_READS": ""})
    assert reads_recorded({"OTEL_AUDIT_READS": "on"})
    assert not reads_recorded({"OTEL_AUDIT_READS": "off"})
    assert not reads_recorded({"OTEL_AUDIT_READS": "OFF"})
    for value in ("0", "false", " off", "o\u017ff"):
        with pytest.raises(ConfigError, match="OTEL_AUDIT_READS") as raised:
            reads_recorded({"OTEL_AUDIT_READS": value})
        assert repr(value) in raised.value.message
    wrong = {"OTEL_EXPORTER_OTLP_ENDPOINT": "nonsense", "OTEL_AUDIT_DURABILITY": "?"}
    assert record_settings(wrong) == ("logs", {"service.name": "unknown_service"})
    assert record_settings({"OTEL_AUDIT_PROFILE": "signal", "OTEL_SERVICE_NAME": "ops"}) == (
        "signal", {"service.name": "ops"},
    )  # fmt: skip
    with pytest.raises(ConfigError, match="OTEL_AUDIT_PROFILE"):
        record_settings({"OTEL_AUDIT_PROFILE": "?"})


def test_the_signing_key_is_asked_for_once(archive: Path, tmp_path: Path) -> None:
    """The first own record binds the key to the archive; a key that a reader may not use keeps nobody from reading."""
    path = tmp_path / "signing.key"
    verifier = str(keys.create(path, "k").verifier)
    path.chmod(0o644)
    refused = otel_audit("show", "--archive", archive, OTEL_AUDIT_SIGNING_KEY=str(path))
    assert refused.stderr.startswith(f"{NOTICE}")
    assert "0644" in refused.stderr
    assert "alice" in refused.stdout
    path.chmod(0o600)
    assert otel_audit("show", "--archive", archive, OTEL_AUDIT_SIGNING_KEY=str(path)).stderr == ""
    with open_archive(archive) as opened:
        (genesis,) = opened.query(admin=True, types=["audit.archive.created"])
    assert genesis.custom["archive"]["verifier"] == verifier
    path.unlink()
    assert otel_audit("show", "--archive", archive, OTEL_AUDIT_SIGNING_KEY=str(path)).stderr == ""
    assert verify(archive).intact


def test_in_the_profile_of_the_draft(archive: Path) -> None:
    """With the profile `signal` the record has no severity and no sentence, like the events."""
    done = otel_audit("show", "--archive", archive, OTEL_AUDIT_PROFILE="signal")
    assert done.stderr == ""
    with open_archive(archive) as opened:
        (read,) = opened.query(admin=True, types=["audit.read"])
    assert read.message is None
    assert "process" in read.custom
