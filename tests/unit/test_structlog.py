"""Entries of an existing structlog chain are recorded, too, and pass on unchanged."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog
from structlog.testing import CapturingLogger

from otel_audit import provider as provider_module
from otel_audit.archive.query import open_archive
from otel_audit.errors import ConfigError, InvalidRecord
from otel_audit.integrations.structlog import AuditProcessor
from otel_audit.provider import configure
from otel_audit.record import Session, Target
from tests.recording import Tape, bound_logger


@pytest.fixture
def tape() -> Tape:
    return Tape()


@pytest.fixture(autouse=True)
def _no_context() -> Iterator[None]:
    structlog.contextvars.clear_contextvars()
    yield
    structlog.contextvars.clear_contextvars()


def chain(tape: Tape, *before: Any) -> tuple[Any, CapturingLogger]:
    """Return a structlog logger whose entries go through the processor, and what comes out at the end."""
    output = CapturingLogger()
    processors = [*before, AuditProcessor(bound_logger(tape, "web"))]
    return structlog.wrap_logger(output, processors=processors, wrapper_class=structlog.BoundLogger), output


def test_an_entry_is_recorded_and_passes_on(tape: Tape) -> None:
    """An entry with `audit` becomes a record with its arguments, its text as message, the rest as context."""
    log, output = chain(tape)
    session = Session("s-1", "http", "203.0.113.7")
    entry = {
        "audit": "user.login.success", "user": "alice", "user_id": "7", "session": session, "target": Target("o"),
        "outcome": "failure", "action": "enter", "actor": "cron", "custom": {"g": {"f": 1}}, "timestamp": 5,
        "attempt": 3,
    }  # fmt: skip
    log.info("Alice logged in", **entry)
    record = tape.record
    assert (record.type, record.source, record.host) == ("user.login.success", "web", "example.com")
    assert (record.user, record.user_id, record.session, record.target) == ("alice", "7", session, Target("o"))
    assert (record.outcome, record.action, record.actor.id, record.time) == ("failure", "ENTER", "cron", 5)
    assert record.custom == {"g": {"f": 1}, "context": {"attempt": 3}}
    assert record.message == "Alice logged in"
    (call,) = output.calls
    assert call.kwargs == {**entry, "event": "Alice logged in"}


def test_other_entries_only_pass_on(tape: Tape) -> None:
    """An entry without `audit` is not recorded."""
    log, output = chain(tape)
    log.info("hello", user=42)
    assert tape.written == []
    assert [call.kwargs for call in output.calls] == [{"event": "hello", "user": 42}]


def test_an_explicit_message_wins(tape: Tape) -> None:
    """A value called `message` is the message rather than the entry's text."""
    log, _ = chain(tape)
    log.info("text", audit="t", message="explicit")
    assert tape.record.message == "explicit"


def test_what_structlog_adds_is_left_out(tape: Tape) -> None:
    """Level, a time stamp as text and a logger's name are structlog's own and not recorded; the host is taken."""
    log, output = chain(tape, structlog.processors.add_log_level, structlog.processors.TimeStamper(fmt="iso"))
    log.warning("text", audit="t", logger="app", host="other.example", source="x", exc_info=False)
    assert tape.record.custom == {}
    assert (tape.record.host, tape.record.source) == ("other.example", "web")
    assert tape.record.time == tape.record.observed
    assert {"level", "timestamp"} <= output.calls[0].kwargs.keys()


def test_context_variables_of_the_chain(tape: Tape) -> None:
    """Values that `merge_contextvars` put into the entry are recorded once."""
    log, _ = chain(tape, structlog.contextvars.merge_contextvars)
    with structlog.contextvars.bound_contextvars(user="alice", request_id="r"):
        log.info("text", audit="t", user="bob")
    assert (tape.record.user, tape.record.custom) == ("bob", {"context": {"request_id": "r"}})


@pytest.mark.parametrize("type_", [5, True, b"t", ["t"]])
def test_a_wrong_type_is_refused(tape: Tape, type_: Any) -> None:
    """`audit` must be an event type."""
    log, output = chain(tape)
    with pytest.raises(ConfigError, match=r"audit=.* is no event type"):
        log.info("text", audit=type_)
    assert (tape.written, output.calls) == ([], [])


def test_a_programmer_s_error_raises_at_the_entry(tape: Tape) -> None:
    """A value of a wrong type raises where the entry is written, as it does in an audit call."""
    log, _ = chain(tape)
    with pytest.raises(InvalidRecord, match="user=42"):
        log.info("text", audit="t", user=42)
    with pytest.raises(InvalidRecord, match="type=''"):
        log.info("text", audit="")


def test_by_default_the_global_provider_records(archive_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a logger of its own the processor records through the global provider, as source `structlog`."""
    monkeypatch.setattr(provider_module, "_global", None)
    processor = AuditProcessor()
    with configure(archive=archive_path, host="h"):
        processor(None, "info", {"event": "text", "audit": "t"})
    with open_archive(archive_path) as archive:
        assert [(record.source, record.message) for record in archive.query()] == [("structlog", "text")]
