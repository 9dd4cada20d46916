"""The logging handler where logging, commits, signals and threads meet: no deadlock, and nothing is lost."""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from otel_audit import ArchiveError, AuditProvider
from otel_audit.archive.query import open_archive
from otel_audit.integrations.logging import AuditHandler
from tests.archive_material import assert_sound, forked, provider_at, run_python, wait_until


@pytest.fixture
def provider(archive_path: Path) -> Iterator[AuditProvider]:
    with provider_at(archive_path, block_timeout=20.0) as made:
        yield made


@pytest.fixture
def log(provider: AuditProvider) -> Iterator[logging.Logger]:
    """Return a logger with a handler that records."""
    logger = logging.getLogger("shop.integration")
    handler = AuditHandler(provider)
    logger.addHandler(handler)
    # The test runner's own handlers write to files, whose locks a forked child inherits as they are.
    logger.propagate = False
    yield logger
    logger.propagate = True
    logger.removeHandler(handler)


def types(path: Path) -> list[str]:
    with open_archive(path) as archive:
        return [record.type for record in archive.query(oldest_first=True)]


def test_the_thread_that_commits_may_log(
    provider: AuditProvider, log: logging.Logger, archive_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While a caller waits in the handler for a commit, the thread that commits logs through the same handler."""
    root = logging.getLogger()
    log.propagate = True
    handler = AuditHandler(provider)
    root.addHandler(handler)
    held, waiting = threading.Event(), threading.Event()
    process = provider.writer._process

    def chatty(batch: list[object]) -> None:
        if batch:
            logging.getLogger("otel_audit.archive").error("about to commit")
            logging.getLogger("elsewhere").error("about to commit")
        process(batch)  # type: ignore[arg-type]

    def hold() -> None:
        with provider.writer._database:
            held.set()
            waiting.wait(10)

    monkeypatch.setattr(provider.writer, "_process", chatty)
    log.warning("x", extra={"audit": "first"})
    holder = threading.Thread(target=hold)
    holder.start()
    assert held.wait(10)
    caller = threading.Thread(target=lambda: log.warning("x", extra={"audit": "second"}))
    caller.start()
    wait_until(lambda: provider.writer.queued)
    waiting.set()
    caller.join(10)
    holder.join(10)
    root.removeHandler(handler)
    assert not caller.is_alive()
    # The logger passes its messages on to the root: each handler records.
    assert types(archive_path) == ["first", "first", "second", "second"]


def test_many_threads(log: logging.Logger, archive_path: Path) -> None:
    """Each of many messages from many threads is recorded once."""

    def work() -> None:
        for number in range(50):
            log.warning("%d", number, extra={"audit": "t"})

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert_sound(archive_path, records=400)


def test_amid_a_commit_of_the_same_thread(provider: AuditProvider, log: logging.Logger, archive_path: Path) -> None:
    """What interrupts a commit of its own thread waits in memory until that is over, however large it is."""
    log.warning("x", extra={"audit": "before"})
    with provider.writer._database:
        log.warning("x", extra={"audit": {"type": "within", "custom": {"g": {"f": "y" * 16_000}}}})
        assert provider.writer.queued == 1
        assert types(archive_path) == ["before"]
    assert provider.force_flush()
    assert types(archive_path) == ["before", "within"]


def test_amid_the_first_commit(archive_path: Path) -> None:
    """Where no thread of the writer runs yet, what waits is written with the next record, or at shutdown."""
    provider = provider_at(archive_path)
    handler = AuditHandler(provider)
    with provider.writer._database:
        handler.handle(logging.makeLogRecord({"name": "n", "audit": "within"}))
    assert provider.writer._thread is None
    assert provider.shutdown()
    assert types(archive_path) == ["within"]


def test_a_refused_call_keeps_off_the_lock(provider: AuditProvider, archive_path: Path) -> None:
    """A call refused amid a commit of its thread leaves the lock with that commit, also where others wait."""
    log = provider.get_logger("test")
    log.audit("t")
    database = provider.writer._database
    free: list[bool] = []

    def look() -> None:
        free.append(database.lock(1.0, blocking=False))
        database.unlock()

    def enter() -> None:
        with database:
            pass

    def amid() -> None:
        with database:
            for _ in range(2):
                with pytest.raises(ArchiveError, match="this very thread"):
                    log.audit("refused")
                with pytest.raises(ArchiveError, match="this very thread"):
                    enter()
                other = threading.Thread(target=look)
                other.start()
                other.join(10)
                if waiting.ident is None:
                    waiting.start()
                wait_until(lambda: provider.writer.queued)

    waiting = threading.Thread(target=lambda: log.audit("waited"))
    amid()
    waiting.join(10)
    assert free == [False, False]
    assert types(archive_path) == ["t", "waited"]


def test_in_signal_handlers(archive_path: Path) -> None:
    """Handlers that log audit events at any moment hang nothing, and each event is recorded once."""
    program = """
        import faulthandler, logging, signal, sys, threading, time
        faulthandler.dump_traceback_later(50, exit=True)
        import otel_audit
        from otel_audit.integrations.logging import AuditHandler

        provider = otel_audit.configure(archive=sys.argv[1], host="example.com", block_timeout=20)
        log = logging.getLogger("shop")
        log.addHandler(AuditHandler())
        handled = 0

        def handle(*_):
            global handled
            log.warning("x", extra={"audit": "from.handler"})
            handled += 1
            if handled < 400:
                # Only now: on a slow disk a steady timer would interrupt its own handler, again and again.
                signal.setitimer(signal.ITIMER_REAL, 0.0017)

        def busy():
            while not stop.is_set():
                log.warning("x", extra={"audit": "from.thread"})
                counts.append(1)

        stop, counts = threading.Event(), []
        thread = threading.Thread(target=busy)
        signal.signal(signal.SIGALRM, handle)
        thread.start()
        signal.setitimer(signal.ITIMER_REAL, 0.01)
        calls = 0
        while handled < 400:
            log.warning("x", extra={"audit": "from.main"})
            calls += 1
        stop.set()
        thread.join()
        assert provider.shutdown(20)
        print(calls + handled + len(counts))
    """
    assert_sound(archive_path, records=int(run_python(program, archive_path)))


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_over_a_fork(provider: AuditProvider, log: logging.Logger, archive_path: Path) -> None:
    """Children of a fork record through the handler made before, while threads of the parent do."""
    stop = threading.Event()
    counts: list[int] = []

    def busy() -> None:
        while not stop.is_set():
            log.warning("x", extra={"audit": "thread"})
            counts.append(1)

    def child() -> None:
        for _ in range(10):
            log.warning("x", extra={"audit": "child"})

    thread = threading.Thread(target=busy)
    thread.start()
    children = [forked(child) for _ in range(4)]
    statuses = [os.waitpid(each, 0)[1] for each in children]
    stop.set()
    thread.join(20)
    assert statuses == [0, 0, 0, 0]
    assert_sound(archive_path, records=40 + len(counts))


def test_logged_means_durable(archive_path: Path) -> None:
    """What was logged before a kill -9 is in the archive."""
    program = """
        import logging, os, signal, sys
        import otel_audit
        from otel_audit.integrations.logging import AuditHandler

        otel_audit.configure(archive=sys.argv[1], host="example.com")
        logging.getLogger().addHandler(AuditHandler())
        for number in range(25):
            logging.getLogger("shop").warning("x", extra={"audit": "t"})
        os.kill(os.getpid(), signal.SIGKILL)
    """
    with pytest.raises(AssertionError, match=f"exit code -{signal.SIGKILL.value}"):
        run_python(program, archive_path)
    assert_sound(archive_path, records=25)
