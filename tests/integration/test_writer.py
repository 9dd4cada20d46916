"""Commits are shared, loops are not blocked, waiting ends at its deadline, and memory stays bounded."""

from __future__ import annotations

import asyncio
import collections
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import apsw
import psutil
import pytest

from otel_audit.archive import writer as writer_module
from otel_audit.errors import ArchiveError
from otel_audit.provider import AuditProvider
from otel_audit.record import Receipt
from tests.archive_material import assert_sound, connect, provider_at, record_ids, wait_until


@pytest.fixture
def provider(archive_path: Path) -> Iterator[AuditProvider]:
    made = provider_at(archive_path)
    yield made
    made.shutdown()


@contextmanager
def write_lock(path: Path) -> Iterator[apsw.Connection]:
    """Hold the archive's write lock, as another process that was stopped in a transaction does."""
    connection = connect(path)
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield connection
    finally:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        connection.close()


def impatient(path: Path, **settings: Any) -> AuditProvider:
    """Return a provider that has recorded once, and waits half a second at most."""
    provider = provider_at(path, block_timeout=0.5, **settings)
    provider.get_logger("w").audit("user.login.success", user="first")
    return provider


def count_commits(provider: AuditProvider) -> list[int]:
    """Count the writer's commits by SQLite's own hook."""
    commits: list[int] = []

    def hook(_connection: apsw.Connection, _name: str, pages: int) -> int:
        commits.append(pages)
        return apsw.SQLITE_OK

    with provider.writer._database as connection:
        connection.set_wal_hook(hook)
    return commits


def test_many_threads_share_commits(provider: AuditProvider, archive_path: Path) -> None:
    """64 threads that record at once get by with far fewer commits than records, and each gets its own receipt."""
    log = provider.get_logger("w")
    commits = count_commits(provider)
    barrier = threading.Barrier(64)

    def work(number: int) -> list[Receipt]:
        barrier.wait()
        return [log.audit("user.login.success", user=f"user{number}") for _ in range(20)]

    with ThreadPoolExecutor(64) as pool:
        receipts = [receipt for done in pool.map(work, range(64)) for receipt in done]
    assert len({receipt.sequence for receipt in receipts}) == 64 * 20
    assert 0 < len(commits) < 64 * 20 / 3
    provider.shutdown()
    assert_sound(archive_path, receipts, records=64 * 20)


def test_a_lone_thread_commits_each_record(provider: AuditProvider) -> None:
    """Without company every record has a commit of its own: none is acknowledged early."""
    log = provider.get_logger("w")
    commits = count_commits(provider)
    for number in range(1, 11):
        log.audit("user.login.success", user="alice")
        assert len(commits) >= number


def test_tasks_share_commits(provider: AuditProvider, archive_path: Path) -> None:
    """256 tasks get their receipts from a handful of commits."""
    log = provider.get_logger("w")
    commits = count_commits(provider)

    async def work() -> list[Receipt]:
        return await asyncio.gather(*(log.aaudit("user.login.success", user=f"u{n}") for n in range(256)))

    receipts = asyncio.run(work())
    assert 0 < len(commits) <= 32
    provider.shutdown()
    assert_sound(archive_path, receipts, records=256)


def test_the_event_loop_goes_on_while_the_archive_is_locked(provider: AuditProvider, archive_path: Path) -> None:
    """While another process holds the write lock other tasks keep running, and the receipt comes when it is free."""
    log = provider.get_logger("w")

    async def work() -> tuple[int, Receipt]:
        with write_lock(archive_path) as holder:
            waiting = asyncio.create_task(log.aaudit("user.login.success", user="alice"))
            ticks = 0
            end = time.monotonic() + 0.5
            while time.monotonic() < end:
                await asyncio.sleep(0.005)
                ticks += 1
            assert not waiting.done()
            holder.execute("ROLLBACK")
        return ticks, await asyncio.wait_for(waiting, 20)

    ticks, receipt = asyncio.run(work())
    assert ticks > 25  # undisturbed it would be about 90
    provider.shutdown()
    assert_sound(archive_path, [receipt], records=1)


def test_a_cancelled_task_may_have_recorded(provider: AuditProvider, archive_path: Path) -> None:
    """Cancelling the wait leaves loop and writer sound; the record is there, and later ones follow."""
    log = provider.get_logger("w")

    async def work() -> Receipt:
        with write_lock(archive_path):
            waiting = [asyncio.create_task(log.aaudit("user.login.success", user="cancelled")) for _ in range(5)]
            await asyncio.sleep(0.1)
            for task in waiting:
                task.cancel()
            outcomes = await asyncio.gather(*waiting, return_exceptions=True)
            assert all(isinstance(outcome, asyncio.CancelledError) for outcome in outcomes)
        return await log.aaudit("user.login.success", user="later")

    receipt = asyncio.run(work())
    assert provider.shutdown()
    assert_sound(archive_path, [receipt], records=receipt.sequence)


@pytest.mark.parametrize("from_a_task", [False, True])
def test_a_lock_that_is_never_released_raises_at_the_deadline(archive_path: Path, from_a_task: bool) -> None:
    """The call ends in time, with the reason and a remedy; recording goes on once the lock is free."""
    provider = impatient(archive_path)
    log = provider.get_logger("w")

    def call() -> None:
        if from_a_task:
            asyncio.run(log.aaudit("user.login.success", user="alice"))
        else:
            log.audit("user.login.success", user="alice")

    with write_lock(archive_path):
        started = time.monotonic()
        with pytest.raises(ArchiveError) as caught:
            call()
        assert 0.4 < time.monotonic() - started < 3
        assert caught.value.hint
        if not from_a_task:
            assert "lock" in str(caught.value)
    # What a task gave up on may have been under way; what a thread gave up on was not recorded.
    assert log.audit("user.login.success", user="bob").sequence in ({2, 3} if from_a_task else {2})
    assert provider.shutdown()
    assert_sound(archive_path)


def test_blocking_succeeds_once_the_lock_is_free(archive_path: Path) -> None:
    """Under policy ``block`` a lock that goes away in time costs time only."""
    provider = provider_at(archive_path, on_failure="block", block_timeout=20)
    log = provider.get_logger("w")
    log.audit("user.login.success", user="first")
    provider.writer._database.busy_timeout = 0.1  # so that the commit fails, and the policy decides
    with ThreadPoolExecutor(1) as pool, write_lock(archive_path) as holder:
        waiting = pool.submit(log.audit, "user.login.success", user="alice")
        time.sleep(0.5)
        assert not waiting.done()
        holder.execute("ROLLBACK")
        receipt = waiting.result(20)
    assert receipt.sequence == 2
    assert provider.shutdown()
    assert_sound(archive_path, [receipt], records=2)


def test_policy_log_returns_and_tells(archive_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Under policy ``log`` the call returns an empty receipt in time; the loss is logged with the record's id."""
    provider = impatient(archive_path, on_failure="log")
    log = provider.get_logger("w")
    with write_lock(archive_path):
        started = time.monotonic()
        receipt = log.audit("user.login.success", user="alice")
        assert time.monotonic() - started < 3
    assert (receipt.sequence, receipt.integrity_hash, receipt.timestamp) == (None, None, None)
    assert receipt.record_id in caplog.text
    assert provider.shutdown()
    assert receipt.record_id not in record_ids(archive_path)


def test_queued_records_are_all_written_within_bounded_memory(archive_path: Path) -> None:
    """200,000 records go through memory quickly without piling up there, and all are on disk after the shutdown."""
    provider = provider_at(archive_path, durability="queued", block_timeout=60)
    log = provider.get_logger("w")
    process = psutil.Process()
    for _ in range(20_000):
        log.audit("user.login.success", user="warm")
    before = process.memory_info().rss
    deepest = 0
    for number in range(180_000):
        log.audit("user.login.success", user="alice")
        if number % 1000 == 0:
            deepest = max(deepest, provider.writer.queued)
    grown = process.memory_info().rss - before
    assert deepest <= writer_module._QUEUE + writer_module._BATCH + 8
    assert grown < 60 * 1024 * 1024
    assert provider.shutdown(timeout=60)
    connection = connect(archive_path)
    assert connection.execute("SELECT count(*), max(sequence) FROM record").fetchone() == (200_000, 200_000)


def test_a_full_queue_holds_callers_up_and_then_raises(archive_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Callers of a full queue wait idly until their deadline; what was queued is written once the archive is free."""
    monkeypatch.setattr(writer_module, "_QUEUE", 50)
    provider = provider_at(archive_path, durability="queued", block_timeout=1.0)
    log = provider.get_logger("w")
    log.audit("user.login.success", user="first")
    assert provider.force_flush(10)
    accepted: list[str] = []
    with write_lock(archive_path):

        def enqueue() -> None:
            accepted.append(log.audit("user.login.success", user="alice").record_id)

        def fill() -> None:
            with pytest.raises(ArchiveError, match="wait in memory"):
                collections.deque(iter(enqueue, 0), maxlen=0)  # until it raises

        busy = time.process_time()
        started = time.monotonic()
        with ThreadPoolExecutor(4) as pool:
            for done in [pool.submit(fill) for _ in range(4)]:
                done.result(20)
        assert 0.9 < time.monotonic() - started < 5
        assert time.process_time() - busy < 0.6  # they sleep, rather than wake each other
    assert len(accepted) >= 50
    assert provider.shutdown(timeout=30)
    assert set(accepted) <= set(record_ids(archive_path))
    assert_sound(archive_path, records=1 + len(accepted))


def test_a_full_queue_does_not_block_the_event_loop(archive_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A task that meets a full queue waits alone; others run on."""
    monkeypatch.setattr(writer_module, "_QUEUE", 20)
    provider = provider_at(archive_path, durability="queued", block_timeout=20)
    log = provider.get_logger("w")

    async def work() -> int:
        ticks = 0
        with write_lock(archive_path):
            tasks = [asyncio.create_task(log.aaudit("user.login.success", user="a")) for _ in range(60)]
            end = time.monotonic() + 0.3
            while time.monotonic() < end:
                await asyncio.sleep(0.005)
                ticks += 1
            assert not all(task.done() for task in tasks)
        await asyncio.gather(*tasks)
        return ticks

    assert asyncio.run(work()) > 15
    assert provider.shutdown(timeout=20)
    assert_sound(archive_path, records=60)


def test_recording_after_shutdown_raises(provider: AuditProvider, archive_path: Path) -> None:
    """A provider that was shut down refuses records from threads, tasks and queues, and says why."""
    log = provider.get_logger("w")
    log.audit("user.login.success", user="alice")
    assert provider.shutdown()
    assert provider.shutdown()
    with pytest.raises(ArchiveError, match="shutdown"):
        log.audit("user.login.success", user="alice")
    with pytest.raises(ArchiveError, match="shutdown"):
        asyncio.run(log.aaudit("user.login.success", user="alice"))
    provider.durability = "queued"
    with pytest.raises(ArchiveError, match="shutdown"):
        log.audit("user.login.success", user="alice")
    assert_sound(archive_path, records=1)


def test_archives_that_only_short_processes_write_are_folded(archive_path: Path) -> None:
    """A process that records and ends at once leaves nothing to scan behind."""
    for _ in range(3):
        with provider_at(archive_path) as provider:
            provider.get_logger("w").audit("user.login.success", user="alice")
    wait_until(lambda: connect(archive_path).execute("SELECT value FROM meta WHERE key = 'folded'").get == 3)
