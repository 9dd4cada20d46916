"""What a call does when the record cannot be written: raise, log, or block until a deadline; with a real archive."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import apsw
import pytest

from otel_audit.archive.query import open_archive
from otel_audit.catalog import EventType, OnFailure
from otel_audit.errors import ArchiveError, IntegrityError
from otel_audit.logger import AuditLogger
from otel_audit.provider import AuditProvider
from otel_audit.record import Receipt


def call(log: AuditLogger, way: str, type_: str = "t") -> Receipt:
    return log.audit(type_) if way == "audit" else asyncio.run(log.aaudit(type_))


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the archive's write lock, as a stuck process would."""
    connection = apsw.Connection(str(path))
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
    finally:
        connection.execute("ROLLBACK")
        connection.close()


@contextmanager
def removed(path: Path) -> Iterator[None]:
    """Take the archive's file away and put it back."""
    hidden = path.with_name("hidden.db")
    path.rename(hidden)
    try:
        yield
    finally:
        hidden.rename(path)


@contextmanager
def provider_of(path: Path, policy: OnFailure, timeout: float = 0.3, **more: Any) -> Iterator[AuditProvider]:
    with AuditProvider(archive=path, host="h", on_failure=policy, block_timeout=timeout, **more) as provider:
        provider.get_logger("s").audit("first")
        yield provider


def types_in(path: Path) -> list[str]:
    with open_archive(path) as archive:
        return [record.type for record in archive.query(oldest_first=True)]


@pytest.mark.parametrize("way", ["audit", "aaudit"])
def test_raise(archive_path: Path, way: str) -> None:
    """By default what cannot be recorded raises at the call, and recording goes on when the fault is gone."""
    with provider_of(archive_path, "raise") as provider:
        log = provider.get_logger("s")
        with locked(archive_path), pytest.raises(ArchiveError, match=r"lock|commit"):
            call(log, way)
        with removed(archive_path), pytest.raises(IntegrityError, match="removed or replaced"):
            call(log, way)
        assert call(log, way, "last").sequence is not None
    assert types_in(archive_path)[-1] == "last"


@pytest.mark.parametrize("way", ["audit", "aaudit"])
def test_log(archive_path: Path, way: str, caplog: pytest.LogCaptureFixture) -> None:
    """Policy `log` writes id, type and reason to the error log, returns the id alone, and the application goes on."""
    with provider_of(archive_path, "log") as provider:
        log = provider.get_logger("s")
        with removed(archive_path), caplog.at_level(logging.ERROR, "otel_audit"):
            receipt = call(log, way, "lost")
        assert tuple(receipt) == (receipt.record_id, None, None, None)
        (entry,) = [entry for entry in caplog.records if entry.name == "otel_audit"]
        assert entry.levelno == logging.ERROR
        assert all(word in entry.getMessage() for word in (receipt.record_id, "(lost)", "removed or replaced"))
        assert call(log, way, "kept").sequence == 2
    assert types_in(archive_path) == ["first", "kept"]


@pytest.mark.parametrize("way", ["audit", "aaudit"])
def test_block_until_the_deadline(archive_path: Path, way: str) -> None:
    """Policy `block` tries again until its deadline, then raises."""
    with provider_of(archive_path, "block", 0.5) as provider:
        started = time.monotonic()
        with removed(archive_path), pytest.raises(IntegrityError):
            call(provider.get_logger("s"), way)
        assert 0.2 < time.monotonic() - started < 5


@pytest.mark.parametrize("way", ["audit", "aaudit"])
def test_block_until_the_fault_is_gone(archive_path: Path, way: str) -> None:
    """Policy `block` records once what was wrong is right again, within the deadline, exactly once."""
    with provider_of(archive_path, "block", 20.0) as provider:
        with removed(archive_path):
            done: list[Receipt] = []
            log = provider.get_logger("s")
            thread = threading.Thread(target=lambda: done.append(call(log, way, "late")))
            thread.start()
            time.sleep(0.3)
            assert not done
        thread.join(15)
        assert done[0].sequence == 2
    assert types_in(archive_path) == ["first", "late"]


def test_policies_of_types(archive_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A type's own policy and durability count instead of the provider's, with the real archive."""
    types = [
        EventType("minor", "READ", on_failure="log"),
        EventType("view", "READ", durability="queued"),
    ]
    with provider_of(archive_path, "raise", event_types=types) as provider:
        log = provider.get_logger("s")
        with removed(archive_path):
            assert log.audit("minor").sequence is None
            with pytest.raises(IntegrityError):
                log.audit("major")
        assert log.audit("view").sequence is None
        assert provider.force_flush(5.0)
    assert types_in(archive_path) == ["first", "view"]
    assert "(minor) was not recorded" in caplog.text


def test_after_shutdown_a_call_raises(archive_path: Path) -> None:
    """A shut-down provider records nothing, and says so at the call, for every way of calling."""
    with provider_of(archive_path, "raise") as provider:
        log = provider.get_logger("s")
    for way in ("audit", "aaudit"):
        with pytest.raises(ArchiveError, match="closed"):
            call(log, way)
    assert types_in(archive_path) == ["first"]
