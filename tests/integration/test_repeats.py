"""Counted repeats with a real archive: what shutdown, reconfiguration, forks and kills leave of a count."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path

import pytest

from otel_audit.archive.query import open_archive
from otel_audit.errors import ArchiveError
from otel_audit.record import AuditRecord
from otel_audit.sources.auth import Auth
from otel_audit.testing import Collector
from tests.archive_material import assert_delivered, assert_sound, forked, provider_at, run_python, wait_until

LONG = 3_600.0
START = """
import multiprocessing, os, sys, threading, time, warnings
warnings.simplefilter("ignore", DeprecationWarning)
import otel_audit
from otel_audit.sources.auth import Auth
path = sys.argv[1]
"""


def records_in(path: Path) -> list[AuditRecord]:
    with open_archive(path) as archive:
        return list(archive.query(oldest_first=True))


def counts(path: Path) -> dict[str | None, list[object]]:
    """Return of each user, in order, the count of each record; None for what was recorded by itself."""
    found: dict[str | None, list[object]] = {}
    for record in records_in(path):
        found.setdefault(record.user, []).append(record.custom.get("repeat", {}).get("count"))
    return found


def test_shutdown_records_the_counts(archive_path: Path) -> None:
    """The provider's shutdown records what was counted, ships it as well, and later events raise as any do."""
    with Collector() as collector:
        provider = provider_at(archive_path, endpoint=collector.endpoint)
        auth = Auth(provider.get_logger("auth"), repeat_failures=LONG)
        for number in range(10):
            auth.failure(f"user{number % 2}")
        assert provider.shutdown(20.0)
        assert counts(archive_path) == {"user0": [None, 4], "user1": [None, 4]}
        assert_delivered(archive_path, collector)
    assert_sound(archive_path, records=4)
    for _ in range(2):
        with pytest.raises(ArchiveError, match="closed"):
            auth.failure("user0")


def test_the_interpreter_s_end_records_the_counts(archive_path: Path) -> None:
    """A program that just ends loses no count, whether its source was made before or after the provider."""
    program = """
    early = Auth(repeat_failures=3600)
    otel_audit.configure(archive=path, host="h")
    late = Auth(repeat_failures=3600)
    for _ in range(5):
        early.failure("early")
        late.failure("late")
    """
    run_python(START + _dedented(program), archive_path)
    assert counts(archive_path) == {"early": [None, 4], "late": [None, 4]}


def _dedented(program: str) -> str:
    return "\n".join(line.removeprefix("    ") for line in program.splitlines())


def test_reconfiguring_keeps_the_counts(archive_path: Path, tmp_path: Path) -> None:
    """Where `configure` replaces the provider, what was counted goes into the new archive, once."""
    program = """
    auth = Auth(repeat_failures=3600)
    otel_audit.configure(archive=path, host="h")
    for _ in range(5):
        auth.failure("alice")
    otel_audit.configure(archive=sys.argv[2], host="h")
    for _ in range(5):
        auth.failure("alice")
    """
    run_python(START + _dedented(program), archive_path, tmp_path / "other.db")
    assert counts(archive_path) == {"alice": [None]}
    assert counts(tmp_path / "other.db") == {"alice": [9]}


def test_a_fork_counts_nothing_twice(archive_path: Path) -> None:
    """What was counted before a fork the parent records; the child's first is recorded, and its own count."""
    provider = provider_at(archive_path)
    auth = Auth(provider.get_logger("auth"), repeat_failures=LONG)
    for _ in range(5):
        auth.failure("alice")

    def work() -> None:
        for _ in range(3):
            auth.failure("alice")
        assert provider.shutdown(20.0)

    assert os.waitpid(forked(work), 0)[1] == 0
    assert counts(archive_path) == {"alice": [None, None, 2]}
    auth.failure("alice")
    assert provider.shutdown(20.0)
    assert counts(archive_path) == {"alice": [None, None, 2, 5]}
    assert_sound(archive_path)


def test_children_of_multiprocessing_record_their_counts(archive_path: Path) -> None:
    """Workers that end without a shutdown record what they counted."""
    program = """
    otel_audit.configure(archive=path, host="h")
    auth = Auth(repeat_failures=3600)
    auth.failure("parent")
    def work():
        for _ in range(4):
            auth.failure("child")
    children = [multiprocessing.get_context("fork").Process(target=work) for _ in range(2)]
    for child in children:
        child.start()
    for child in children:
        child.join()
        assert child.exitcode == 0
    auth.failure("parent")
    """
    run_python(START + _dedented(program), archive_path)
    found = counts(archive_path)
    assert sorted(found["child"], key=str) == [3, 3, None, None]
    assert found["parent"] == [None, 1]


def test_what_a_kill_loses(archive_path: Path) -> None:
    """A kill loses less than a thousand repeats of a window; its first, and each full thousand, are on disk."""
    reading, writing = os.pipe()

    def work() -> None:
        auth = Auth(provider_at(archive_path).get_logger("auth"), repeat_failures=LONG)
        for _ in range(1 + 2_999):
            auth.failure("alice")
        wait_until(lambda: len(records_in(archive_path)) == 3)
        os.write(writing, b"!")
        threading.Event().wait()

    child = forked(work)
    os.close(writing)
    assert os.read(reading, 1) == b"!"
    os.kill(child, signal.SIGKILL)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL
    os.close(reading)
    assert counts(archive_path) == {"alice": [None, 1_000, 1_000]}
    assert_sound(archive_path, records=3)


def test_queued_records_are_counted_too(archive_path: Path) -> None:
    """With durability `queued` firsts and counts go the same way, and all are there after the shutdown."""
    with provider_at(archive_path, durability="queued") as provider:
        auth = Auth(provider.get_logger("auth"), repeat_successes=LONG)
        for _ in range(50):
            auth.success("alice")
    assert counts(archive_path) == {"alice": [None, 49]}
