"""What sources still hold is recorded before a provider shuts down."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from otel_audit import provider as provider_module
from otel_audit.archive.query import open_archive
from otel_audit.provider import AuditProvider, configure, get_logger
from tests.archive_material import forked, provider_at


@pytest.fixture
def no_global(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Start without a global provider, and shut down what the test leaves."""
    monkeypatch.setattr(provider_module, "_global", None)
    yield
    if provider_module._global is not None:
        provider_module._global.shutdown()


def types_in(path: Path) -> list[str]:
    with open_archive(path) as archive:
        return [record.type for record in archive.query(oldest_first=True)]


def test_functions_are_called_once_and_can_record(archive_path: Path) -> None:
    """The shutdown calls each function once, the last one first, while recording is still possible."""
    provider = provider_at(archive_path)
    log = provider.get_logger("s")

    def first() -> None:
        log.audit("first")

    def last() -> None:
        log.audit("last")

    assert log.before_shutdown(first)
    assert log.before_shutdown(last)
    assert log.bind(user="alice").before_shutdown(first)
    assert provider.shutdown() is True
    assert provider.shutdown() is True
    assert types_in(archive_path) == ["last", "first"]
    assert log.before_shutdown(first) is False


def test_a_function_that_fails_is_logged(archive_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """What one of them raises neither keeps the others from recording nor the provider from shutting down."""
    provider = provider_at(archive_path)
    log = provider.get_logger("s")

    def fail() -> None:
        raise ZeroDivisionError

    def record() -> None:
        # Too late to be called, or not: it says so.
        assert log.before_shutdown(again) is False
        log.audit("t")

    def again() -> None:
        log.audit("again")

    log.before_shutdown(record)
    log.before_shutdown(fail)
    with caplog.at_level(logging.ERROR, "otel_audit"):
        assert provider.shutdown() is True
    assert [record.getMessage() for record in caplog.records] == [
        f"what was to be recorded before the shutdown of {archive_path} failed"
    ]
    assert types_in(archive_path) == ["t", "again"]


@pytest.mark.usefixtures("no_global")
def test_configuring_anew_is_no_end(archive_path: Path, tmp_path: Path) -> None:
    """Functions of loggers that follow the global provider wait for the new one's end; those of a provider do not."""
    old = configure(archive=archive_path, host="h")
    following, own = get_logger("following"), old.get_logger("own")

    def of_following() -> None:
        following.audit("following")

    def of_own() -> None:
        own.audit("own")

    following.before_shutdown(of_following)
    own.before_shutdown(of_own)
    new = configure(archive=tmp_path / "new.db", host="h")
    assert types_in(archive_path) == ["own"]
    following.audit("t")
    new.shutdown()
    assert types_in(tmp_path / "new.db") == ["t", "following"]


def test_a_child_made_during_a_shutdown(archive_path: Path) -> None:
    """A child that is forked while the parent's provider shuts down has one that has not begun to."""
    provider: AuditProvider = provider_at(archive_path)
    log = provider.get_logger("s")

    def in_child() -> None:
        assert log.before_shutdown(lambda: None) is True

    def fork() -> None:
        assert os.waitpid(forked(in_child), 0)[1] == 0
        log.audit("t")

    log.before_shutdown(fork)
    provider.shutdown()
    assert types_in(archive_path) == ["t"]
