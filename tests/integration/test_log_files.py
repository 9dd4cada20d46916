"""The log (``-wal``) and its index (``-shm``) removed under those who have the archive open: nothing is lost by it."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import subprocess
import sys
import textwrap
import time
from contextlib import closing
from pathlib import Path
from typing import Self

import pytest

from otel_audit.archive import commit, connecting, openers
from otel_audit.archive.connecting import connect_to_read, transaction
from otel_audit.archive.database import Database
from otel_audit.archive.leaf import commitment
from otel_audit.archive.logindex import LogIndexLostError
from otel_audit.archive.query import open_archive
from otel_audit.archive.space import lay_by
from otel_audit.errors import ArchiveError
from otel_audit.testing import Collector
from tests.archive_material import assert_delivered, assert_sound, connect, forked, provider_at, record, wait_until
from tests.faults.injection import needs_root, small_tmpfs

REMOVED = [("-shm",), ("-wal",), ("-wal", "-shm")]


def remove(path: Path, *suffixes: str) -> None:
    for suffix in suffixes:
        path.with_name(f"{path.name}{suffix}").unlink(missing_ok=True)


@pytest.mark.parametrize("suffixes", REMOVED)
def test_all_goes_on(suffixes: tuple[str, ...], archive_path: Path) -> None:
    """What was recorded is there, recording and delivery go on, and an open reader sees what is new."""
    with (
        Collector() as collector,
        provider_at(archive_path, endpoint=collector.endpoint) as provider,
        open_archive(archive_path) as reader,
    ):
        for number in range(1, 5):
            record(provider, 3)
            assert reader.status().sequence == 3 * number
            remove(archive_path, *suffixes)
        # Also where a reader is the first to notice.
        assert reader.status().sequence == 12
        record(provider, 3)
        assert reader.status().sequence == 15
        assert provider.force_flush(20)
        assert_sound(archive_path, records=15)
        assert_delivered(archive_path, collector)


class Other:
    """Another process that records whenever it is told to."""

    _PROGRAM = """
        import sys
        from pathlib import Path
        from tests.archive_material import provider_at
        with provider_at(Path(sys.argv[1])) as provider:
            log = provider.get_logger("other")
            for line in sys.stdin:
                print(log.audit("any", user=line.strip()).sequence, flush=True)
    """

    def __init__(self, path: Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(self._PROGRAM), path], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            text=True, cwd=Path(__file__).parents[2],
        )  # fmt: skip

    def record(self) -> int:
        """Let it record, and return the sequence; fails where it ended instead."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write("somebody\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())

    def pause(self) -> None:
        """Stop it, as a debugger does."""
        self._process.send_signal(signal.SIGSTOP)
        stat = Path(f"/proc/{self.pid}/stat")
        wait_until(lambda: stat.read_text().rpartition(")")[2].split()[0] == "T")

    def resume(self) -> None:
        """Let it go on."""
        self._process.send_signal(signal.SIGCONT)

    @property
    def pid(self) -> int:
        """The process."""
        return self._process.pid

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.resume()
        self._process.communicate(timeout=30)
        assert self._process.returncode == 0


@pytest.mark.parametrize("suffixes", REMOVED)
def test_several_processes(suffixes: tuple[str, ...], archive_path: Path) -> None:
    """Processes that have the archive open, and one that opens it when all others are idle, go on in one archive."""
    with provider_at(archive_path) as provider, Other(archive_path) as second:
        record(provider, 3)
        assert second.record() == 4
        remove(archive_path, *suffixes)
        assert second.record() == 5
        record(provider, 3)
        assert second.record() == 9
        remove(archive_path, *suffixes)
        with Other(archive_path) as third:
            assert third.record() == 10
            record(provider, 3)
            assert (second.record(), third.record()) == (14, 15)
    assert_sound(archive_path, records=15)


def change_without_index(path: Path) -> None:
    with Database(path, "write") as connection, transaction(connection):
        connection.execute("UPDATE meta SET value = value WHERE key = 'folded'")
        remove(path, "-shm")


def test_a_commit_under_way_is_taken_back(archive_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A commit whose index is removed before it ends is made anew, once, through the present one."""
    with provider_at(archive_path) as provider:
        record(provider, 3)
        attempts: list[int] = []

        def hashing(*given: bytes) -> bytes:
            if not attempts:
                remove(archive_path, "-shm")
            attempts.append(1)
            return commitment(*given)

        monkeypatch.setattr(commit, "commitment", hashing)
        assert provider.get_logger("m").audit("any").sequence == 4
        assert len(attempts) == 2
        # Another transaction, such as that of a cursor, is refused with the reason.
        with pytest.raises(LogIndexLostError, match="-shm was removed while the archive was in use"):
            change_without_index(archive_path)
        record(provider, 3)
    assert_sound(archive_path, records=7)


def test_what_else_this_process_has_open(archive_path: Path) -> None:
    """A connection of this process that nobody can close keeps it from opening the archive anew, and that is said."""
    with provider_at(archive_path, block_timeout=0.2) as provider:
        record(provider, 3)
        with closing(connect_to_read(archive_path).connection):
            remove(archive_path, "-shm")
            with pytest.raises(ArchiveError, match=r"this process still reads the archive by it|no commit within"):
                record(provider, 3)
        record(provider, 3)
    assert_sound(archive_path, records=6)


def test_nobody_is_there_to_save_the_log(archive_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the process that had the removed log open does nothing, others do not begin another one, and name it."""
    monkeypatch.setattr(connecting, "_PATIENCE", 0.2)
    with Other(archive_path) as other:
        assert other.record() == 1
        other.pause()
        remove(archive_path, "-wal", "-shm")
        said = rf"\(-wal, -shm\) were removed while process {other.pid} had it open"
        with pytest.raises(ArchiveError, match=said), open_archive(archive_path):
            pass
        with pytest.raises(ArchiveError, match=said), provider_at(archive_path, block_timeout=0.2) as provider:
            record(provider, 3)
        assert not archive_path.with_name("audit.db-wal").exists()
        other.resume()
        assert other.record() == 2
    assert_sound(archive_path, records=2)


def test_where_the_kernel_does_not_tell(archive_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the kernel's table of locks, or where it has other words, an archive is opened as ever."""
    with provider_at(archive_path) as provider:
        record(provider, 3)
    odd = "1: POSIX ADVISORY READ x fe:00:1 128 128\n2: POSIX ADVISORY READ 1 none 128 128\n"
    for content in (None, "", "nonsense\n1: POSIX\n", "\xff", odd):
        table = tmp_path / "locks"
        if content is not None:
            table.write_text(content, "latin-1")
        monkeypatch.setattr(openers, "_LOCKS", table)
        with provider_at(archive_path) as provider:
            record(provider, 3)
    assert_sound(archive_path, records=18)


def test_a_disk_that_tells_nothing(archive_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a disk that failed does not say whether the index is there, the thread that looks after it lives on."""
    with provider_at(archive_path) as provider:
        record(provider, 3)
        thread = provider.writer._thread
        assert thread is not None

        def failing(path: object, *given: object, **named: object) -> os.stat_result:
            if str(path).endswith(("-shm", "-wal")):
                raise OSError(errno.EIO, "Input/output error", str(path))
            return real(path, *given, **named)  # type: ignore[arg-type]

        real = os.stat
        monkeypatch.setattr(os, "stat", failing)
        record(provider, 3)
        provider.writer._log_keeping.run(idle=True)
        monkeypatch.undo()
        record(provider, 3)
        assert thread.is_alive()
    assert_sound(archive_path, records=9)


@pytest.mark.parametrize("suffixes", REMOVED)
@pytest.mark.parametrize("end", ["shutdown", "fork"])
def test_the_end_follows_at_once(end: str, suffixes: tuple[str, ...], archive_path: Path) -> None:
    """Where the process ends, or forks, before it has noticed, what the removed log holds is saved all the same."""
    provider = provider_at(archive_path)
    record(provider, 3)
    remove(archive_path, *suffixes)
    if end == "fork":
        forked(lambda: None)
    provider.shutdown()
    assert_sound(archive_path, records=3)


class Idle(Other):
    """Another process that has an archive open to read, within a transaction or not, and does nothing with it."""

    _PROGRAM = """
        import sys
        from pathlib import Path
        from otel_audit.archive.query import open_archive
        from tests.archive_material import connect
        with open_archive(Path(sys.argv[1])) as archive:
            connection = connect(Path(sys.argv[1]))
            for line in sys.stdin:
                connection.execute("BEGIN")
                print(len(connection.execute("SELECT sequence FROM record").fetchall()), flush=True)
    """


@pytest.mark.parametrize("suffixes", REMOVED)
def test_an_idle_reader_holds_up_nobody(suffixes: tuple[str, ...], archive_path: Path) -> None:
    """Who records does not wait for another process that merely has the archive open, also in a transaction."""
    with provider_at(archive_path, block_timeout=5.0) as provider:
        record(provider, 3)
        with Idle(archive_path) as reader:
            assert reader.record() == 3
            remove(archive_path, *suffixes)
            began = time.monotonic()
            record(provider, 3)
            assert time.monotonic() - began < 5.0
        record(provider, 3)
    assert_sound(archive_path, records=9)


def test_a_copy_without_a_log(archive_path: Path, tmp_path: Path) -> None:
    """A copy that SQLite made has no log: nobody is waited for because of that."""
    with provider_at(archive_path) as provider:
        record(provider, 3)
    copy = tmp_path / "copy.db"
    with closing(connect(archive_path)) as connection:
        connection.execute("VACUUM INTO ?", (str(copy),))
    with Idle(copy) as reader:
        assert reader.record() == 3
        began = time.monotonic()
        with open_archive(copy) as archive:
            assert archive.status().sequence == 3
        assert time.monotonic() - began < 5.0


def test_another_name_of_the_directory(archive_path: Path, tmp_path: Path) -> None:
    """An archive that one process opened by two names, of which one leads through a link, is one archive."""
    with provider_at(archive_path, block_timeout=5.0) as provider:
        record(provider, 3)
        (tmp_path / "link").symlink_to(archive_path.parent)
        with open_archive(tmp_path / "link" / archive_path.name) as reader:
            assert reader.status().sequence == 3
            remove(archive_path, "-shm")
            record(provider, 3)
            assert reader.status().sequence == 6
    assert_sound(archive_path, records=6)


def test_a_file_system_with_another_device(archive_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the kernel names another device than the file has, as on btrfs, who has the archive open is found too."""
    with Other(archive_path) as other:
        assert other.record() == 1
        inode = archive_path.stat().st_ino
        table = tmp_path / "locks"
        table.write_text(
            f"1: POSIX  ADVISORY  READ 1 ff:fe:{inode} 0 EOF\n"
            f"1: -> POSIX  ADVISORY  READ {other.pid} ff:fe:{inode} 0 1\n"
            f"2: POSIX  ADVISORY  READ {other.pid} ff:fe:{inode} 1073741826 1073742335\n"
            f"3: POSIX  ADVISORY  READ {other.pid} ff:fe:{inode + 9} 128 128\n"
        )
        monkeypatch.setattr(openers, "_LOCKS", table)
        assert openers.holder(archive_path, 0) == other.pid
        # It uses an index that was saved; it uses none at all; it has another file open.
        assert openers.holder(archive_path, inode + 9) is None
        table.write_text(table.read_text().replace("128 128", "120 120"))
        assert openers.holder(archive_path, 0) is None
        table.write_text(table.read_text().replace("120 120", "128 128").replace(f"{inode} ", f"{inode + 1} "))
        assert openers.holder(archive_path, 0) is None


@pytest.mark.skipif(needs_root() != "", reason="mounts a file system")
def test_a_full_disk(tmp_path: Path) -> None:
    """Where there is no room to save a removed log in, the reserve makes it."""
    with small_tmpfs(tmp_path / "small", "12m") as point:
        path = point / "audit.db"
        with provider_at(path, block_timeout=5.0) as provider:
            for _ in range(60):
                provider.get_logger("m").audit("any", message="x" * 20_000)
            assert lay_by(path, 2 * 2**20, 0)
            with contextlib.suppress(OSError), (point / "ballast").open("wb", buffering=0) as ballast:
                while True:
                    ballast.write(bytes(4_096))
            remove(path, "-wal", "-shm")
            record(provider, 3)
        assert_sound(path, records=63)
