"""Processes that come and go: os.fork, multiprocessing, gunicorn with a preloaded application, Celery's workers."""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil

from otel_audit.logger import AuditLogger
from otel_audit.provider import AuditProvider
from tests.archive_material import provider_at
from tests.faults.checks import check
from tests.faults.frame import Stage
from tests.faults.ledger import Crew, Ledger, Scribe

__all__ = ["celery_workers", "forking", "gunicorn_workers", "pools"]

ROOT = Path(__file__).parents[2]
FORKS = 10


def forking(stage: Stage) -> None:
    """Fork children and grandchildren while threads record; end them properly, or kill them."""
    stage.repeat(_fork_one)


def _fork_one(stage: Stage) -> None:
    path, ledger, seed = stage.archive(), Ledger(), stage.outcome.cycles

    def work(scribe: Scribe) -> None:
        _fork_on_and_on(provider_at(path), scribe, seed)

    with Crew(ledger) as crew:
        crew.start(work, f"{stage.outcome.cycles}")
        stage.outcome.demand(crew.finish() == [0], "a forking writer did not end properly")
    stage.cycle(FORKS)
    check(path, ledger, stage.outcome, deliver=stage.outcome.cycles % (8 * FORKS) == FORKS)


def _fork_on_and_on(provider: AuditProvider, scribe: Scribe, seed: int) -> None:
    log = provider.get_logger("forks")
    for number in range(FORKS):
        scribe.audit(log, number)
        child = os.fork()
        if not child:
            _in_child(provider, Scribe(scribe._pipe, f"{scribe.tag}c{number}"), log, doomed=(seed + number) % 3 == 0)
        scribe.audit(log, 1_000 + number)
        if (seed + number) % 3 == 0:
            time.sleep(0.01)
            os.kill(child, signal.SIGKILL)
        status = os.waitpid(child, 0)[1]
        if status not in (0, signal.SIGKILL):
            raise RuntimeError(f"a child ended with {status}")
    provider.shutdown()


def _in_child(provider: AuditProvider, scribe: Scribe, log: AuditLogger, *, doomed: bool) -> None:
    code = 1
    try:
        number = 0
        while number < 5 or doomed:
            number += scribe.audit(log, number)
        grandchild = os.fork()
        if not grandchild:
            Scribe(scribe._pipe, f"{scribe.tag}g").audit(log, 0)
            os._exit(0)
        os.waitpid(grandchild, 0)
        scribe.audit(log, 10_000)
        code = 0
    finally:
        os._exit(code)


def pools(stage: Stage) -> None:
    """Let a pool of processes record that replaces each after a few tasks."""
    stage.repeat(_use_one_pool)


def _use_one_pool(stage: Stage) -> None:
    path, ledger = stage.archive(), Ledger()

    def work(scribe: Scribe) -> None:
        provider = provider_at(path)
        global _task  # noqa: PLW0603 - a pool takes functions of a module only
        _task = _Task(scribe, provider.get_logger("pool"))
        scribe.audit(_task.log, 10_000)
        with multiprocessing.get_context("fork").Pool(3, maxtasksperchild=2) as pool:
            if not all(pool.map(_record, range(12), chunksize=1)):
                raise RuntimeError("a task was refused")
        scribe.audit(_task.log, 10_001)
        provider.shutdown()

    with Crew(ledger) as crew:
        crew.start(work, f"{stage.outcome.cycles}")
        stage.outcome.demand(crew.finish() == [0], "a pool did not end properly")
    stage.outcome.demand(len(ledger.acknowledged) == 14, f"{len(ledger.acknowledged)} receipts of 14")
    stage.cycle(6)
    check(path, ledger, stage.outcome, deliver=False)


class _Task:
    def __init__(self, scribe: Scribe, log: AuditLogger) -> None:
        self.scribe = scribe
        self.log = log


_task: _Task | None = None


def _record(number: int) -> bool:
    return _task is not None and _task.scribe.audit(_task.log, number)


def gunicorn_workers(stage: Stage) -> None:
    """Kill and replace gunicorn's workers, forked from one that opened the archive, amid requests."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = ["gunicorn", "--preload", "--workers", "3", "--max-requests", "30", "--bind", f"127.0.0.1:{port}"]
    command += ["--log-level", "critical", "--graceful-timeout", "2", "tests.faults.served:application"]

    def request() -> None:
        # A worker that is killed takes its request along.
        with suppress(urllib.error.URLError, ConnectionError, TimeoutError):
            urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=5).read()

    _served(stage, command, request)


def celery_workers(stage: Stage) -> None:
    """Kill and replace Celery's prefork workers, each after a few tasks, with a broker of files."""
    command = ["celery", "--app", "tests.faults.served:tasks", "--quiet", "worker", "--pool", "prefork"]
    command += ["--concurrency", "2", "--max-tasks-per-child", "5", "--loglevel", "CRITICAL", "--without-mingle"]
    command += ["--without-gossip", "--without-heartbeat"]
    broker = stage.folder / "broker"
    broker.mkdir()
    # Before the import: it is made as the module is loaded.
    os.environ["FAULTS_BROKER"] = str(broker)
    from tests.faults import served

    def request() -> None:
        served.record.delay()
        # Not faster than they are done: the broker lists its whole directory for each.
        time.sleep(0.02)

    _served(stage, command, request)


def _served(stage: Stage, command: list[str], request: Callable[[], None]) -> None:
    """Run a server, make requests, kill its workers at random; end it, and check."""
    path, ledger = stage.archive(), Ledger()
    fifo = stage.folder / "receipts"
    os.mkfifo(fifo)
    # Opened to read and write: it neither waits for a writer nor ends with the last one.
    pipe = os.open(fifo, os.O_RDWR | os.O_NONBLOCK)
    environment = {**os.environ, "FAULTS_ARCHIVE": str(path), "FAULTS_RECEIPTS": str(fifo), "PYTHONPATH": str(ROOT)}
    server = subprocess.Popen(
        [sys.executable, "-m", *command],
        env=environment,
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    reader = _Reader(pipe, ledger)
    try:
        while stage.wants_more():
            seen, deadline = len(ledger.acknowledged), time.monotonic() + 30.0
            while len(ledger.acknowledged) < seen + 15 and time.monotonic() < deadline:
                request()
                reader.read()
            stage.outcome.demand(len(ledger.acknowledged) > seen, "the server records nothing any more")
            _kill_one(server.pid, stage)
            stage.cycle()
    finally:
        server.terminate()
        try:
            server.wait(20)
        except subprocess.TimeoutExpired:
            for process in psutil.Process(server.pid).children(recursive=True):
                process.kill()
            server.kill()
            server.wait()
    reader.read()
    os.close(pipe)
    check(path, ledger, stage.outcome)


class _Reader:
    def __init__(self, pipe: int, ledger: Ledger) -> None:
        self._pipe = pipe
        self._ledger = ledger
        self._rest = b""

    def read(self) -> None:
        with suppress(BlockingIOError):
            while data := os.read(self._pipe, 65_536):
                *lines, self._rest = (self._rest + data).split(b"\n")
                for line in lines:
                    self._ledger.read(line.decode())


def _kill_one(server: int, stage: Stage) -> None:
    with suppress(psutil.NoSuchProcess):
        workers = psutil.Process(server).children(recursive=True)
        if workers:
            stage.chance.choice(workers).kill()
