"""The upkeep thread: when tasks run, and what becomes of their failures."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable

import pytest

from otel_audit import upkeep
from otel_audit.errors import ArchiveError
from otel_audit.upkeep import Upkeep
from tests.archive_material import forked, wait_until


class Task:
    """A task that notes its calls and fails when told to."""

    def __init__(self, wait: float = 3_600.0) -> None:
        self.runs = 0
        self.finished = 0
        self.error: Exception | None = None
        self.wait = wait

    def run(self, _stopping: Callable[[], bool]) -> float:
        """Count, or fail."""
        self.runs += 1
        if self.error is not None:
            raise self.error
        return self.wait

    def finish(self) -> None:
        """Count."""
        self.finished += 1


@pytest.fixture(autouse=True)
def short_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let rounds follow each other at once."""
    monkeypatch.setattr(upkeep, "_PAUSE", 0.01)


def test_rounds() -> None:
    """A task runs after something was recorded and when it asked for it, and finishes at the end, once."""
    rare, frequent = Task(), Task(0.02)
    running = Upkeep([rare, frequent])
    assert (rare.runs, frequent.runs) == (0, 0)
    running.notify()
    wait_until(lambda: frequent.runs > 3)
    before = rare.runs
    running.notify()
    wait_until(lambda: rare.runs > before)
    running.stop(5.0)
    assert (rare.finished, frequent.finished) == (1, 1)
    after = rare.runs
    running.notify()
    assert threading.active_count() < 50
    assert rare.runs == after


def test_nothing_recorded() -> None:
    """A provider that records nothing starts no thread, and its tasks have nothing to finish."""
    task = Task()
    running = Upkeep([task])
    running.stop(1.0)
    assert (task.runs, task.finished) == (0, 0)


def test_a_task_that_does_not_finish(caplog: pytest.LogCaptureFixture) -> None:
    """Whoever stops waits no longer than told to for a task that takes its time to finish, and the log says so."""
    task, released, ended = Task(), threading.Event(), threading.Event()

    def finish() -> None:
        assert released.wait(20.0)
        ended.set()

    task.finish = finish  # type: ignore[method-assign]
    running = Upkeep([task])
    running.notify()
    wait_until(lambda: task.runs)
    running.stop(0.01)
    assert not ended.is_set()
    assert "is not waited for" in caplog.text
    released.set()
    assert ended.wait(20.0)


def test_failures_are_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    """A task that fails in the same way again and again complains once, others go on, and it is tried again."""
    failing, other = Task(0.01), Task(0.01)
    failing.error = ArchiveError("the disk is full", "free some space")
    running = Upkeep([failing, other])
    with caplog.at_level(logging.WARNING, "otel_audit.archive"):
        running.notify()
        while failing.runs < 4:
            running.notify()
        failing.error = ZeroDivisionError("a fault of ours")
        seen = failing.runs
        while failing.runs < seen + 3:
            running.notify()
        running.stop(5.0)
    assert other.runs > 4
    assert [record.getMessage() for record in caplog.records] == [
        "the archive's upkeep: the disk is full: free some space",
        "the archive's upkeep failed unexpectedly",
    ]


def test_a_child_has_its_own_thread() -> None:
    """After a fork the child's upkeep runs once the child records, and the parent's goes on."""
    task = Task(0.01)
    running = Upkeep([task])
    running.notify()
    wait_until(lambda: task.runs)

    def work() -> None:
        before = task.runs
        running.notify()
        wait_until(lambda: task.runs > before)
        running.stop(5.0)

    _, status = os.waitpid(forked(work), 0)
    assert status == 0
    before = task.runs
    wait_until(lambda: task.runs > before)
    running.stop(5.0)
