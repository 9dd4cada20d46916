"""Records audit events from the standard library's logging."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, Final, Literal, get_args

from otel_audit.clean import MARKS, Marks
from otel_audit.errors import AuditError, ConfigError
from otel_audit.integrations.bridge import relay
from otel_audit.logger import Arguments
from otel_audit.provider import AuditProvider, get_logger

__all__ = ["AuditHandler"]

OnError = Literal["raise", "handle"]

_ARGUMENTS: Final = frozenset(Arguments.__annotations__)
_OWN: Final = "otel_audit"


class AuditHandler(logging.Handler):
    """Records each message that has ``extra={"audit": …}``; others pass by, and all go on to further handlers.

    ``logger.warning("Wrong password", extra={"audit": {"type": "user.login.failure", "user": "alice"}})`` records type
    and user, the text as the message, the logger's name as the source. The mapping takes the arguments of
    `AuditLogger.audit`, ``type``, ``host`` and ``source``; other values go to the custom group ``context``. A str is
    the type alone.

    The record is on disk before the logging call returns. A level or a filter would drop records, and is refused; but a
    message that the logger's own level or ``logging.disable`` holds back reaches no handler. Messages of this library's
    own loggers are never recorded.

    No lock is held while it records: threads commit together, and none can wait for itself. Within a signal handler or
    finaliser that interrupted a commit of its own thread, the record waits in memory until that commit ended.

    Args:
        provider: Records the events; default: the global one.
        host: Host of events that name none; default: the provider's.
        on_error: What becomes of a record that cannot be made, after the provider's failure policy: ``raise`` it from
            the logging call, or ``handle`` it as logging does, with a traceback on stderr and no record.

    Raises:
        ConfigError: `on_error` is neither.
    """

    def __init__(
        self, provider: AuditProvider | None = None, *, host: str | None = None, on_error: OnError = "raise"
    ) -> None:
        if on_error not in get_args(OnError):
            raise ConfigError(f"on_error={on_error!r} is unknown", "use 'raise' or 'handle'")
        super().__init__()
        self._get_logger = get_logger if provider is None else provider.get_logger
        self._host = host
        self._on_error = on_error

    def setLevel(self, level: int | str) -> None:  # noqa: N802 - logging's name
        """Refuse any level but ``NOTSET``: audit records are never dropped.

        Raises:
            ConfigError: It is another one.
        """
        if level not in (logging.NOTSET, "NOTSET"):
            raise ConfigError(f"AuditHandler cannot have the level {level!r}", "audit records have none: leave it out")

    def handle(self, record: logging.LogRecord) -> bool:
        """Record a message that asks for it, without taking the handler's lock.

        The thread that commits may log while others wait for it here.

        Returns:
            Whether the filters let it pass.

        Raises:
            ConfigError: A filter rejected an audit record; or what `emit` raises.
        """
        passed: Any = self.filter(record)  # since Python 3.12 perhaps another record
        if isinstance(passed, logging.LogRecord):
            record = passed
        if passed:
            self.emit(record)
        elif _asks(record):
            self._failed(
                record, ConfigError("a filter of AuditHandler rejected an audit record", "they are never dropped")
            )
        return bool(passed)

    def emit(self, record: logging.LogRecord) -> None:
        """Record a message that asks for it.

        Raises:
            ConfigError: ``audit`` is neither an event type nor a mapping with one.
            InvalidRecord: A value has the wrong type for a record.
            ArchiveError: It could not be recorded; see the provider's failure policy.
            IntegrityError: The archive is not what it was.
        """
        if not _asks(record):
            return
        try:
            self._record(record)
        except AuditError as error:
            self._failed(record, error)

    def _record(self, record: logging.LogRecord) -> None:
        type_, values = _event(record)
        arguments: dict[str, Any] = {name: values.pop(name) for name in _ARGUMENTS & values.keys()}
        arguments.setdefault("timestamp", int(record.created * 1e9))
        marks = []
        if "message" not in arguments:
            arguments["message"], failed = _message(record)
            marks = ["message:not-formatted"] if failed else []
        if record.exc_info and (error := record.exc_info[1]) is not None and _has_room(arguments):
            custom = arguments.get("custom") or {}
            arguments["custom"] = {**custom, "exception": {"type": type(error).__qualname__, "message": _text(error)}}
        source = values.pop("source", record.name)
        if values.get("host") is None:
            values["host"] = self._host
        bound = {key: value for key, value in values.items() if value is not None} | {MARKS: Marks(marks)}
        relay(self._get_logger(source).bind(**bound), type_, arguments)

    def _failed(self, record: logging.LogRecord, error: AuditError) -> None:
        if self._on_error == "raise":
            raise error
        try:
            raise error  # `handleError` shows what is being handled
        except AuditError:
            self.handleError(record)


def _asks(record: logging.LogRecord) -> bool:
    if getattr(record, "audit", None) is None:
        return False
    return record.name != _OWN and not record.name.startswith(f"{_OWN}.")


def _event(record: logging.LogRecord) -> tuple[Any, dict[str, Any]]:
    """Return the type, and all other values of the mapping."""
    given: Any = record.__dict__["audit"]
    if isinstance(given, str):
        return given, {}
    if not isinstance(given, Mapping) or not isinstance(given.get("type"), str):
        raise ConfigError(
            f"audit={given!r} is no audit event", "write extra={'audit': {'type': 'user.login.success', 'user': …}}"
        )
    values = {str(key): value for key, value in given.items() if key != "type"}
    return given["type"], values


def _has_room(arguments: Mapping[str, Any]) -> bool:
    """Tell whether a group of ours can be added; what is wrong with `custom` is said when it is recorded."""
    custom = arguments.get("custom")
    return custom is None or (isinstance(custom, Mapping) and "exception" not in custom)


def _message(record: logging.LogRecord) -> tuple[str, bool]:
    """Return the text, and whether it could not be formatted: an event is worth more than its wording."""
    try:
        return record.getMessage(), False
    except Exception:  # noqa: BLE001 - arguments that do not fit, or foreign objects that fail
        return _text(record.msg), True


def _text(value: object) -> str:
    try:
        return str(value)
    except Exception:  # noqa: BLE001 - a foreign object
        return f"<{type(value).__name__}>"
