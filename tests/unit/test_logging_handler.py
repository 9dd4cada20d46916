"""Messages of the standard library's logging that ask for it are recorded, before the logging call returns."""

from __future__ import annotations

import logging
import logging.config
import logging.handlers
import queue
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from otel_audit import AuditProvider, Session
from otel_audit.errors import ArchiveError, ConfigError, InvalidRecord
from otel_audit.integrations.logging import AuditHandler
from otel_audit.testing import AuditCapture, capture_audit
from tests.recording import Unprintable


@pytest.fixture
def audit() -> Iterator[AuditCapture]:
    with capture_audit() as captured:
        yield captured


@pytest.fixture
def log() -> Iterator[logging.Logger]:
    logger = logging.getLogger("shop.orders")
    yield logger
    for handler in list(logger.handlers):
        logger.removeHandler(handler)
    logger.setLevel(logging.NOTSET)


def test_a_message_is_recorded(audit: AuditCapture, log: logging.Logger) -> None:
    """Type, arguments and further values come from the mapping, message and source from logging."""
    log.addHandler(AuditHandler())
    session = Session("s-1", "http", "203.0.113.7")
    event = {
        "type": "user.login.failure", "user": "alice", "session": session, "attempt": 3,
        "custom": {"reason": {"condition": "x"}},
    }  # fmt: skip
    log.warning("%s failed", "Alice", extra={"audit": event})
    record = audit.assert_recorded("user.login.failure", count=1, user="alice", session=session, source="shop.orders")
    assert (record.message, record.host, record.altered) == ("Alice failed", "test", ())
    assert record.custom == {"reason": {"condition": "x"}, "context": {"attempt": 3}}
    assert record.time <= record.observed
    assert event["type"] == "user.login.failure"  # the mapping is the caller's


def test_what_the_mapping_says_wins(audit: AuditCapture, log: logging.Logger) -> None:
    """Message, time, host and source of the mapping win over logging's and the handler's; a str is the type alone."""
    log.addHandler(AuditHandler(host="default.example"))
    log.warning("x", extra={"audit": {"type": "t", "message": "m", "timestamp": 5, "host": "h.example", "source": "s"}})
    log.warning("y", extra={"audit": "u"})
    record = audit.assert_recorded("t", message="m", host="h.example", source="s")
    assert record.time == 5
    audit.assert_recorded("u", message="y", host="default.example", user=None)


def test_other_messages_pass_by(audit: AuditCapture, log: logging.Logger) -> None:
    """Messages that do not ask for it, and any of this library's own loggers, are not recorded."""
    log.addHandler(AuditHandler())
    log.error("nothing to see")
    handler = AuditHandler()
    for name, number in (("otel_audit", 0), ("otel_audit.archive", 0), ("otel_audits", 1)):
        handler.handle(logging.makeLogRecord({"name": name, "audit": "t"}))
        assert len(audit) == number


def test_an_exception_is_noted(audit: AuditCapture, log: logging.Logger) -> None:
    """The type and text of an exception go to a custom group, unless the caller has one of that name."""
    log.addHandler(AuditHandler())
    try:
        raise KeyError("order")
    except KeyError:
        log.exception("x", extra={"audit": "a"})
        log.exception("x", extra={"audit": {"type": "b", "custom": {"exception": {"type": "own"}}}})
    assert audit.assert_recorded("a").custom == {"exception": {"type": "KeyError", "message": "'order'"}}
    assert audit.assert_recorded("b").custom == {"exception": {"type": "own"}}


@pytest.mark.parametrize(
    ("message", "arguments"), [("%d orders", ("x",)), ("%s", (Unprintable(),)), (Unprintable(), ())]
)
def test_a_message_that_cannot_be_formatted(audit: AuditCapture, message: Any, arguments: Any) -> None:
    """An event is recorded all the same, and marked."""
    record = logging.LogRecord("n", logging.INFO, "f", 1, message, arguments, None)
    record.audit = "t"
    AuditHandler().handle(record)
    assert audit.assert_recorded("t").altered == ("message:not-formatted",)


@pytest.mark.parametrize("given", [5, True, ["t"], {}, {"type": 5}, {"user": "alice"}])
def test_a_wrong_event_is_refused(audit: AuditCapture, log: logging.Logger, given: Any) -> None:
    """`audit` must be a type or a mapping with one: a programmer's error raises from the logging call."""
    log.addHandler(AuditHandler())
    with pytest.raises(ConfigError, match=r"audit=.* is no audit event"):
        log.warning("x", extra={"audit": given})
    audit.assert_not_recorded()


def test_errors_raise_or_are_handled(
    audit: AuditCapture, log: logging.Logger, capsys: pytest.CaptureFixture[str], archive_path: Path
) -> None:
    """By default an event that cannot be recorded raises; with `handle` logging reports it, and the program goes on."""
    provider = AuditProvider(archive=archive_path, host="h")
    provider.shutdown()
    log.addHandler(AuditHandler(provider))
    with pytest.raises(ArchiveError, match="closed"):
        log.warning("x", extra={"audit": "t"})
    with pytest.raises(InvalidRecord, match="user=42"):
        log.warning("x", extra={"audit": {"type": "t", "user": 42}})
    log.handlers[:] = [AuditHandler(provider, on_error="handle")]
    log.warning("x", extra={"audit": "t"})
    shown = capsys.readouterr().err
    assert "--- Logging error ---" in shown
    assert "ArchiveError" in shown
    audit.assert_not_recorded()


def test_nothing_may_hold_records_back(audit: AuditCapture, log: logging.Logger) -> None:
    """A level is refused when it is set, a filter that rejects an audit record when it does; one that adds works."""
    handler = AuditHandler()
    with pytest.raises(ConfigError, match="level"):
        handler.setLevel(logging.ERROR)
    handler.setLevel(logging.NOTSET)
    log.addHandler(handler)
    log.setLevel(logging.DEBUG)

    def enrich(record: logging.LogRecord) -> bool:
        record.msg = f"enriched {record.msg}"
        return True

    handler.addFilter(enrich)
    log.debug("x", extra={"audit": "t"})
    audit.assert_recorded("t", message="enriched x")
    handler.addFilter(lambda record: False)
    log.warning("dropped by choice")
    with pytest.raises(ConfigError, match="filter"):
        log.warning("x", extra={"audit": "t"})


def test_an_unknown_policy_is_refused() -> None:
    """A wrong word for `on_error` shows when the handler is made."""
    wrong: Any = "ignore"
    with pytest.raises(ConfigError, match="on_error='ignore'"):
        AuditHandler(on_error=wrong)


def test_configured_by_dictionary(audit: AuditCapture, log: logging.Logger) -> None:
    """The handler can be set up by `logging.config.dictConfig`."""
    logging.config.dictConfig({
        "version": 1,
        "disable_existing_loggers": False,
        "handlers": {"audit": {"class": "otel_audit.integrations.logging.AuditHandler", "host": "dict.example"}},
        "loggers": {"shop.orders": {"handlers": ["audit"]}},
    })  # fmt: skip
    log.warning("x", extra={"audit": "t"})
    audit.assert_recorded("t", host="dict.example")


def test_behind_a_queue(audit: AuditCapture, log: logging.Logger) -> None:
    """A message that a QueueListener hands on later is recorded with the time at which it was made."""
    waiting: queue.SimpleQueue[Any] = queue.SimpleQueue()
    log.addHandler(logging.handlers.QueueHandler(waiting))
    log.warning("%s", "x", extra={"audit": {"type": "t", "user": "alice"}})
    message = waiting.get()
    AuditHandler().handle(message)
    assert audit.assert_recorded("t", user="alice", message="x").time == int(message.created * 1e9)


def test_a_processor_that_audits_what_is_audited(log: logging.Logger) -> None:
    """An event made by recording an event, without end, is a programmer's error that says so."""

    def again(_logger: Any, _method: str, values: Any) -> Any:
        log.warning("x", extra={"audit": "inner"})
        return values

    with capture_audit(processors=[again]) as audit:
        log.addHandler(AuditHandler())
        with pytest.raises(ConfigError, match="without end"):
            log.warning("x", extra={"audit": "outer"})
        audit.assert_not_recorded()


def test_a_processor_that_audits_once() -> None:
    """An event that is made while another is recorded is recorded, too."""
    inner = logging.getLogger("shop.inner")
    inner.addHandler(AuditHandler())

    def once(_logger: Any, _method: str, values: Any) -> Any:
        if values["event"] == "outer":
            inner.warning("x", extra={"audit": "inner"})
        return values

    try:
        with capture_audit(processors=[once]) as audit:
            AuditHandler().handle(logging.makeLogRecord({"name": "n", "audit": "outer"}))
            assert [record.type for record in audit] == ["inner", "outer"]
    finally:
        inner.handlers.clear()
