"""Celery: what tasks record, called eagerly in this process and by real workers in processes of their own."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from celery import Celery, signals
from structlog.contextvars import bound_contextvars, get_contextvars

from otel_audit import provider as provider_module
from otel_audit.archive.query import open_archive
from otel_audit.errors import ConfigError
from otel_audit.integrations.audited import audited
from otel_audit.integrations.celery import HEADER, CeleryAudit
from otel_audit.provider import AuditProvider, configure, get_logger
from otel_audit.record import AuditRecord, Session
from tests.archive_material import assert_sound

ROOT = Path(__file__).parents[2]
log = get_logger("jobs")


def records(archive: Path) -> list[AuditRecord]:
    with open_archive(archive) as opened:
        return list(opened.query())[::-1]


# -- In this process --


@pytest.fixture
def provider(archive_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[AuditProvider]:
    monkeypatch.setattr(provider_module, "_global", None)
    with configure(archive=archive_path, host="example.com", ship=False) as opened:
        yield opened


@pytest.fixture
def carrying() -> Iterator[CeleryAudit]:
    audit = CeleryAudit(record={"failure", "retry"})
    yield audit
    audit.disconnect()


@pytest.fixture
def app() -> Celery:
    made = Celery("jobs", broker="memory://", set_as_current=False)
    made.conf.update(task_always_eager=True, task_eager_propagates=False)
    return made


@pytest.mark.usefixtures("carrying")
def test_eager_tasks(provider: AuditProvider, app: Celery) -> None:
    """A task that runs in its sender's process has what is bound there, and leaves it as it was."""

    @app.task(name="inner")
    @audited("inner.done", logger=log)
    def inner() -> None:
        pass

    @app.task(name="outer", bind=True, max_retries=1)
    def outer(self: Any) -> None:
        inner.delay()
        log.audit("outer.began")
        raise self.retry(exc=ConnectionError("with a secret"), countdown=0)

    with bound_contextvars(user="alice", session=Session(id="s-1"), request_id="r-1"):
        outer.delay()
        assert get_contextvars().keys() == {"user", "session", "request_id"}
    found = records(provider.config.archive)
    assert [record.type for record in found] == [
        "inner.done", "outer.began", "task.retry", "inner.done", "outer.began", "task.failure",
    ]  # fmt: skip
    assert {(record.user, record.session) for record in found} == {("alice", Session(id="s-1"))}
    failure = found[5]
    assert failure.custom == {
        "task": {"name": "outer", "retries": 1}, "error": {"type": "ConnectionError"}, "context": {"request_id": "r-1"},
    }  # fmt: skip
    assert (failure.target and failure.target.type, failure.outcome, failure.source) == ("outer", "failure", "celery")


def test_endings_are_recorded_by_choice(provider: AuditProvider, app: Celery) -> None:
    """Without being asked to, the integration records nothing itself; a wrong word is refused."""

    @app.task(name="broken")
    def broken() -> None:
        raise ZeroDivisionError

    audit = CeleryAudit()
    try:
        broken.delay()
    finally:
        audit.disconnect()
    assert records(provider.config.archive) == []
    wrong: Any
    for wrong in ({"failed"}, "failure", [5]):
        with pytest.raises(ConfigError, match="is unknown"):
            CeleryAudit(record=wrong)


def test_one_of_two_counts() -> None:
    """A module that is imported twice does not record or carry twice; after the end nothing is connected."""
    first, second = CeleryAudit(record={"failure"}), CeleryAudit(record={"failure"})
    headers: dict[str, Any] = {}
    with bound_contextvars(user="alice"):
        sent = signals.before_task_publish.send(sender="x", headers=headers)
    assert len(sent) == 1
    assert headers[HEADER] == '{"user": "alice"}'
    second.disconnect()
    first.disconnect()
    assert signals.before_task_publish.send(sender="x", headers={}) == []
    assert not signals.task_failure.has_listeners()


# -- Workers --

APP = """
    import os, sys
    from pathlib import Path
    from celery import Celery, chain
    from structlog.contextvars import bound_contextvars
    import otel_audit
    from otel_audit.integrations.audited import audited
    from otel_audit.integrations.celery import CeleryAudit

    here = Path(__file__).parent
    app = Celery("jobs", broker="filesystem://")
    app.conf.update(
        broker_transport_options={
            "data_folder_in": str(here / "queue"), "data_folder_out": str(here / "queue"),
            "control_folder": str(here / "control"), "store_processed": False,
        },
        broker_connection_retry_on_startup=True, task_ignore_result=True, task_acks_late=True,
        worker_prefetch_multiplier=1,
    )
    (here / "queue").mkdir(exist_ok=True)
    otel_audit.configure(
        archive=here / "audit.db", host="example.com", ship=False, durability=os.environ.get("DURABILITY")
    )
    CeleryAudit(record={"failure", "retry"})
    log = otel_audit.get_logger("jobs")

    @app.task(name="note")
    def note(number):
        log.audit("noted", target=str(number), custom={"worker": {"pid": os.getpid()}})

    @app.task(name="step")
    def step(*_):
        log.audit("stepped")

    @app.task(name="fail", bind=True, max_retries=1, default_retry_delay=0)
    def fail(self):
        raise self.retry(exc=LookupError("x"))
"""


@contextlib.contextmanager
def jobs(directory: Path, *options: str, **environ: str) -> Iterator[Any]:
    """Write the application down, and give the function that sends by a script and lets a worker record so many."""
    (directory / "jobs_app.py").write_text(textwrap.dedent(APP))
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{directory}", "C_FORCE_ROOT": "1", **environ}

    def run(script: str, count: int) -> list[AuditRecord]:
        code = "from jobs_app import *\n" + textwrap.dedent(script)
        subprocess.run([sys.executable, "-c", code], env=environment, cwd=directory, check=True, timeout=60)
        words = [sys.executable, "-m", "celery", "--app", "jobs_app", "worker", "--loglevel", "WARNING"]
        worker = subprocess.Popen(
            [*words, "--without-mingle", "--without-gossip", "--without-heartbeat", *options],
            env=environment, cwd=directory, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, encoding="utf-8",
        )  # fmt: skip
        deadline = time.monotonic() + 60
        while len(records(directory / "audit.db")) < count and worker.poll() is None and time.monotonic() < deadline:
            time.sleep(0.1)
        worker.send_signal(signal.SIGTERM)
        try:
            output, _ = worker.communicate(timeout=20)
        except subprocess.TimeoutExpired:
            # billiard's pool for brokers without an event loop now and then waits for its own lock at the very end.
            worker.kill()
            output, _ = worker.communicate()
        found = records(directory / "audit.db")
        assert len(found) == count, output
        return found

    yield run


@pytest.mark.parametrize("pool", ["prefork", "threads", "solo"])
def test_a_worker_records_for_the_sender(tmp_path: Path, pool: str) -> None:
    """In each kind of pool a task has its sender's session, user, host and trace, the next one has nothing of it."""
    with jobs(tmp_path, "--pool", pool, "--concurrency", "1") as run:
        script = """
            from opentelemetry import context, trace
            span = trace.SpanContext(0xabc, 0xdef, is_remote=False, trace_flags=trace.TraceFlags(1))
            session = otel_audit.Session("s-1", "http", "203.0.113.7", "curl/8")
            with bound_contextvars(user="alice", session=session, host="tenant.example", request_id="r-1"):
                context.attach(trace.set_span_in_context(trace.NonRecordingSpan(span)))
                chain(note.si(1), step.si()).delay()
                fail.delay()
            context.attach(context.Context())
            note.delay(2)
        """
        found = run(script, 5)
    assert sorted(record.type for record in found) == [
        "noted", "noted", "stepped", "task.failure", "task.retry",
    ]  # fmt: skip
    (other,) = [record for record in found if record.target and record.target.id == "2"]
    assert (other.user, other.session, other.trace_id, other.host) == (None, None, None, "example.com")
    for record in found:
        if record is not other:
            assert (record.user, record.host) == ("alice", "tenant.example")
            assert record.session == Session("s-1", "http", "203.0.113.7", "curl/8")
            assert record.custom["context"] == {"request_id": "r-1"}
            assert (record.trace_id, record.altered) == (f"{0xABC:032x}", ())


@pytest.mark.parametrize("durability", ["commit", "queued"])
def test_recycled_workers(tmp_path: Path, durability: str) -> None:
    """Processes that end after one task each lose nothing, also of what was only queued when they ended."""
    options = ("--pool", "prefork", "--concurrency", "2", "--max-tasks-per-child", "1")
    with jobs(tmp_path, *options, DURABILITY=durability) as run:
        script = """
            with bound_contextvars(user="alice"):
                for number in range(12):
                    note.delay(number)
        """
        found = run(script, 12)
    assert sorted(int(record.target.id) for record in found if record.target) == list(range(12))
    assert {record.user for record in found} == {"alice"}
    assert len({record.custom["worker"]["pid"] for record in found}) == 12
    assert_sound(tmp_path / "audit.db")


def test_the_example(tmp_path: Path) -> None:
    """The example's worker records the report that was sent, and the one that never came."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "JOBS_DIRECTORY": str(tmp_path), "C_FORCE_ROOT": "1"}
    words = ["--app", "examples.celery_jobs", "worker", "--concurrency", "1", "--loglevel", "WARNING"]
    run: Any = {"env": environment, "cwd": tmp_path, "stderr": subprocess.DEVNULL}
    subprocess.run([sys.executable, "-m", "examples.celery_jobs", "alice", "report.pdf"], check=True, **run)
    worker = subprocess.Popen([sys.executable, "-m", "celery", *words], **run)
    deadline = time.monotonic() + 60
    try:
        while len(records(tmp_path / "audit.db")) < 3:
            assert time.monotonic() < deadline
            assert worker.poll() is None
            time.sleep(0.1)
    finally:
        worker.send_signal(signal.SIGTERM)
        worker.wait(30)
    found = sorted((record.type, record.user, record.outcome) for record in records(tmp_path / "audit.db"))
    assert found == [
        ("report.sent", "alice", "success"), ("task.failure", "alice", "failure"), ("task.retry", "alice", "failure"),
    ]  # fmt: skip
