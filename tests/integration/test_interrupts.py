"""Signals, lost threads, lost files: what strikes between two steps neither stops the recording nor loses a record."""

from __future__ import annotations

import json
import multiprocessing
import os
import threading
import time
from pathlib import Path

import pytest

from otel_audit import ArchiveError, AuditProvider
from otel_audit.archive.query import open_archive
from otel_audit.testing import Collector, Reply
from tests.archive_material import assert_sound, connect, provider_at, run_python, wait_until

INTERRUPTED = """
    import json, random, signal, sys, time
    import otel_audit

    def interrupt(*_):
        raise KeyboardInterrupt

    signal.signal(signal.SIGALRM, interrupt)
    provider = otel_audit.AuditProvider(archive=sys.argv[1], host="example.com", block_timeout=5)
    log = provider.get_logger("test")
    acknowledged, interrupts, end = [], 0, time.monotonic() + 4
    while time.monotonic() < end:
        try:
            signal.setitimer(signal.ITIMER_REAL, random.uniform(0.00001, 0.0006))
            while True:
                acknowledged.append(log.audit("user.logout").record_id)
        except KeyboardInterrupt:
            interrupts += 1
        signal.setitimer(signal.ITIMER_REAL, 0)
        acknowledged.append(log.audit("after").record_id)
    provider.shutdown()
    print(json.dumps([interrupts, acknowledged]))
"""


def test_interrupts_stop_nothing(archive_path: Path) -> None:
    """After each of thousands of Ctrl-C, wherever it struck, the next call records; nothing acknowledged is lost."""
    interrupts, acknowledged = json.loads(run_python(INTERRUPTED, archive_path))
    assert interrupts > 500
    with open_archive(archive_path) as archive:
        ids = [record.record_id for record in archive.query()]
    assert set(acknowledged) <= set(ids)
    assert len(ids) == len(set(ids))
    assert_sound(archive_path)


def test_a_signal_handler_that_audits_is_refused_amid_a_commit(archive_path: Path) -> None:
    """Called from a handler that interrupted a commit of the same thread, audit() raises at once; else it records."""
    program = """
        import signal, sys, time
        import otel_audit

        provider = otel_audit.AuditProvider(archive=sys.argv[1], host="example.com", block_timeout=20)
        log = provider.get_logger("test")
        refused = recorded = 0

        def handle(*_):
            global refused, recorded
            started = time.monotonic()
            try:
                log.audit("from.handler")
                recorded += 1
            except otel_audit.ArchiveError as error:
                assert "this very thread" in str(error), error
                refused += 1
            assert time.monotonic() - started < 5

        signal.signal(signal.SIGALRM, handle)
        signal.setitimer(signal.ITIMER_REAL, 0.01, 0.0037)
        calls = 0
        end = time.monotonic() + 20
        while not (refused and recorded) and time.monotonic() < end:
            log.audit("user.logout")
            calls += 1
            time.sleep(0.0001)
        signal.setitimer(signal.ITIMER_REAL, 0)
        assert refused and recorded, (refused, recorded)
        assert provider.shutdown()
        print(calls + recorded)
    """
    assert_sound(archive_path, records=int(run_python(program, archive_path)))


def test_shutdown_in_a_signal_handler_ends(archive_path: Path) -> None:
    """A SIGTERM handler that shuts the provider down does not wait for the commit that it interrupted."""
    program = """
        import os, signal, sys, time
        import otel_audit

        for _ in range(15):
            provider = otel_audit.AuditProvider(archive=sys.argv[1], host="example.com")
            log = provider.get_logger("test")
            signal.signal(signal.SIGALRM, lambda *_: provider.shutdown(1))
            signal.setitimer(signal.ITIMER_REAL, 0.02)
            try:
                while True:
                    log.audit("user.logout")
            except otel_audit.ArchiveError:
                pass
    """
    started = time.monotonic()
    run_python(program, archive_path)
    assert time.monotonic() - started < 30
    assert_sound(archive_path)


def test_a_deleted_log_takes_nothing_with_it(archive_path: Path) -> None:
    """Where somebody deletes the -wal file, what it held goes into the archive; a kill -9 later all is there."""
    program = """
        import os, signal, sys
        import otel_audit

        log = otel_audit.AuditProvider(archive=sys.argv[1], host="example.com").get_logger("test")
        for _ in range(20):
            log.audit("user.logout")
        os.unlink(sys.argv[1] + "-wal")
        for _ in range(20):
            log.audit("user.logout")
        if os.fork() == 0:
            os.kill(os.getppid(), signal.SIGKILL)
            os._exit(0)
        signal.pause()
    """
    with pytest.raises(AssertionError, match="exit code -9"):
        run_python(program, archive_path)
    assert_sound(archive_path, records=40)


def record_queued(path: Path) -> None:
    """Leave 50 records in the queue of a provider that nobody shuts down."""
    log = AuditProvider(archive=path, host="example.com", durability="queued").get_logger("test")
    for _ in range(50):
        log.audit("user.logout")


@pytest.mark.parametrize("method", ["fork", "spawn"])
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_what_a_child_of_multiprocessing_queued_is_written(archive_path: Path, method: str) -> None:
    """Such children end without atexit; what they queued is written all the same."""
    context = multiprocessing.get_context(method)
    children = [context.Process(target=record_queued, args=(archive_path,)) for _ in range(3)]  # type: ignore[attr-defined]
    for child in children:
        child.start()
    for child in children:
        child.join(30)
        assert child.exitcode == 0
    assert_sound(archive_path, records=150)


def test_without_threads_records_are_kept(archive_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no thread can be started, a commit succeeds, a queued record is refused, and both go on once there are."""

    def refuse(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with provider_at(archive_path) as provider, monkeypatch.context() as patch:
        log = provider.get_logger("test")
        patch.setattr(threading.Thread, "start", refuse)
        assert log.audit("user.logout").sequence == 1
        patch.undo()
        assert log.audit("user.logout").sequence == 2
        wait_until(lambda: provider.writer._thread is not None)
    assert_sound(archive_path, records=2)


def test_a_lost_cursor_comes_back(archive_path: Path) -> None:
    """Where somebody deletes the destination's row, the shipper puts its cursor back and does not begin anew."""
    with Collector() as collector, provider_at(archive_path, endpoint=collector.endpoint) as provider:
        log = provider.get_logger("test")
        for _ in range(10):
            log.audit("user.logout")
        assert provider.force_flush(10)
        connect(archive_path).execute("DELETE FROM destination")
        log.audit("user.logout")
        assert provider.force_flush(10)
        assert len(collector.record_ids) == 11


def test_deadlines_hold_while_another_process_writes(archive_path: Path) -> None:
    """With the write lock held elsewhere and a dead destination, flush and shutdown end near their time-outs."""
    with Collector(script=lambda: Reply(status=503)) as collector:
        provider = provider_at(archive_path, endpoint=collector.endpoint, block_timeout=1.0)
        provider.get_logger("test").audit("user.logout")
        wait_until(lambda: collector.requests)
        holder = connect(archive_path)
        holder.execute("BEGIN IMMEDIATE")
        started = time.monotonic()
        assert not provider.force_flush(0.5)
        assert time.monotonic() - started < 3
        started = time.monotonic()
        assert not provider.shutdown(0.5)
        assert time.monotonic() - started < 8
        holder.execute("ROLLBACK")


def test_flush_ends_while_others_go_on_queueing(archive_path: Path) -> None:
    """`force_flush` waits for what was queued before it, however much is queued meanwhile."""
    with provider_at(archive_path, durability="queued") as provider:
        log = provider.get_logger("test")
        stop = threading.Event()

        def record() -> None:
            while not stop.is_set():
                log.audit("user.logout")

        thread = threading.Thread(target=record)
        thread.start()
        try:
            assert all(provider.force_flush(15) for _ in range(3))
        finally:
            stop.set()
            thread.join()


def test_a_pipe_is_no_archive(tmp_path: Path) -> None:
    """A FIFO in the archive's place is refused at once, not waited for."""
    os.mkfifo(tmp_path / "audit.db")
    with pytest.raises(ArchiveError, match="no regular file"):
        open_archive(tmp_path / "audit.db")
    with pytest.raises(ArchiveError, match="no regular file"):
        provider_at(tmp_path / "audit.db")
