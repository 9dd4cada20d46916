"""Several processes record into one archive at once; one of them ships, and another takes over when it dies."""

from __future__ import annotations

import fcntl
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from otel_audit.archive.query import open_archive
from otel_audit.delivery.lease import Lease
from otel_audit.testing import Collector
from tests.archive_material import assert_delivered, assert_sound, forked, provider_at, wait_until

RECORDS = 400


@contextmanager
def children() -> Iterator[list[int]]:
    """Collect process ids, and kill what still runs in the end."""
    started: list[int] = []
    try:
        yield started
    finally:
        for child in started:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)


def finish(child: int, running: list[int]) -> None:
    running.remove(child)
    assert os.waitpid(child, 0)[1] == 0


def recording(path: Path, collector: str, number: int, records: int, *, linger: bool = False) -> Callable[[], None]:
    """Return the work of one process: record from two threads, then end properly, or stay."""

    def work() -> None:
        provider = provider_at(path, endpoint=collector)

        def record() -> None:
            log = provider.get_logger(f"process-{number}")
            for count in range(records // 2):
                log.audit("user.login.success", user=f"user{count % 7}")

        threads = [threading.Thread(target=record) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if linger:
            threading.Event().wait()
        assert provider.shutdown(timeout=20)

    return work


def lease_is_held(path: Path) -> bool:
    lease = Path(f"{path}.otlp.lease")
    if not lease.exists():
        return False
    with lease.open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def records_in(path: Path) -> int:
    with open_archive(path) as archive:
        return archive.status().records


def test_another_process_takes_over_when_the_shipping_one_is_killed(archive_path: Path) -> None:
    """Of four processes the first ships and is killed; all records arrive, in one archive without gaps."""
    with Collector() as collector, children() as running:
        shipping = forked(recording(archive_path, collector.endpoint, 0, RECORDS, linger=True))
        running.append(shipping)
        wait_until(lambda: lease_is_held(archive_path))
        wait_until(lambda: collector.wait_for(1, 0))
        others = []
        for number in range(1, 4):
            # They end at different times, and none before it is told that its records arrived.
            others.append(forked(recording(archive_path, collector.endpoint, number, RECORDS * number)))
            running.append(others[-1])
        wait_until(lambda: records_in(archive_path) > 2 * RECORDS)
        os.kill(shipping, signal.SIGKILL)
        os.waitpid(shipping, 0)
        running.remove(shipping)
        for child in others:
            finish(child, running)
        written = records_in(archive_path)
        assert written > RECORDS * 6  # the killed process had recorded some, too
        assert_sound(archive_path, records=written)
        assert_delivered(archive_path, collector)
    assert not lease_is_held(archive_path)


def test_without_a_death_every_record_arrives_once(archive_path: Path) -> None:
    """Four processes record and end properly: each record comes once, whichever process shipped it."""
    with Collector() as collector, children() as running:
        started = [forked(recording(archive_path, collector.endpoint, number, RECORDS)) for number in range(4)]
        running.extend(started)
        for child in started:
            finish(child, running)
        assert_sound(archive_path, records=4 * RECORDS)
        came = assert_delivered(archive_path, collector)
        assert set(came.values()) == {1}


def test_a_process_is_told_that_another_delivered(archive_path: Path) -> None:
    """A flush is true where the process that holds the lease shipped the records, and false while nobody can."""
    with Collector() as collector, children() as running:
        first = forked(recording(archive_path, collector.endpoint, 0, 2, linger=True))
        running.append(first)
        assert collector.wait_for(2, 20)
        provider = provider_at(archive_path, endpoint=collector.endpoint)
        provider.get_logger("second").audit("user.login.success", user="alice")
        assert provider.force_flush(20)
        os.kill(first, signal.SIGSTOP)  # it keeps the lease
        provider.get_logger("second").audit("user.login.success", user="alice")
        assert not provider.force_flush(0.5)
        os.kill(first, signal.SIGCONT)
        assert provider.force_flush(20)
        assert provider.shutdown(5)
        assert_delivered(archive_path, collector)


def test_processes_may_begin_an_archive_at_the_same_moment(tmp_path: Path) -> None:
    """Where none exists yet, whoever comes first makes it, directory included, and all record into it."""
    for turn in range(25):
        path = tmp_path / f"turn{turn}" / "deep" / "audit.db"
        start, go = os.pipe()

        def work(path: Path = path, start: int = start) -> None:
            os.read(start, 1)
            with provider_at(path) as provider:
                assert provider.get_logger("first").audit("user.login.success", user="alice").sequence

        started = [forked(work) for _ in range(4)]
        os.write(go, b"1234")
        assert [os.waitpid(child, 0)[1] for child in started] == [0] * 4
        os.close(start)
        os.close(go)
        assert_sound(path, records=4)


def test_the_lease_is_held_once(tmp_path: Path) -> None:
    """One holder at a time, within a process and between processes; a child that a holder forks does not hold it."""
    archive = tmp_path / "audit.db"
    archive.touch()
    first, second = Lease(archive, "otlp"), Lease(archive, "otlp")
    assert first.acquire()
    assert first.acquire()
    assert not second.acquire()

    def in_child() -> None:
        first.after_fork_in_child()
        assert not first.acquire()
        assert not second.acquire()

    assert os.waitpid(forked(in_child), 0)[1] == 0
    assert not second.acquire()  # what the child closed was a copy
    first.release()
    first.release()
    assert second.acquire()
    second.release()


def test_a_lease_is_no_symbolic_link(tmp_path: Path) -> None:
    """A lock file that somebody made a link of is not opened."""
    (tmp_path / "audit.db.otlp.lease").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="symbolic"):
        Lease(tmp_path / "audit.db", "otlp").acquire()
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_a_lease_that_root_makes_is_the_owners(tmp_path: Path) -> None:
    """After `sudo otel-audit ship` the application's own user can still take the lease."""
    archive = tmp_path / "audit.db"
    archive.touch()
    os.chown(archive, 12345, 12346)
    lease = Lease(archive, "otlp")
    assert lease.acquire()
    status = (tmp_path / "audit.db.otlp.lease").stat()
    assert (status.st_uid, status.st_gid, status.st_mode & 0o777) == (12345, 12346, 0o600)
    lease.release()


def test_a_lease_that_cannot_be_taken_is_seen(archive_path: Path) -> None:
    """Where the lock file cannot be opened, the status says why nothing is sent."""
    archive_path.with_name(f"{archive_path.name}.otlp.lease").mkdir(parents=True)
    with Collector() as collector, provider_at(archive_path, endpoint=collector.endpoint) as provider:
        provider.get_logger("test").audit("user.logout")

        def reason() -> str:
            with open_archive(archive_path) as archive:
                destinations = archive.status().destinations
            return destinations[0].last_error or "" if destinations else ""

        wait_until(lambda: "cannot take the lease" in reason())
        assert not provider.force_flush(0.2)
