"""What all sources share: a logger, one method per event, and a subscription to the signals of the same names."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from typing import Any, ClassVar, Final, Self, TypedDict

import structlog
from structlog.contextvars import get_contextvars

from otel_audit.catalog import Outcome
from otel_audit.errors import ConfigError, InvalidRecord
from otel_audit.logger import Arguments, AuditLogger
from otel_audit.provider import get_logger
from otel_audit.record import Actor, Receipt, Session, Target
from otel_audit.signals import ANY, AuditSignal, RecordingReceiver

__all__ = ["Call", "Further", "Source", "listed", "moment"]


class Further(TypedDict, total=False):
    """What every method of a source takes beside its own arguments."""

    host: str | None
    """The tenant or virtual host, where the logger's is not the right one."""
    user_id: str | None
    """The account's id, where it has one beside its name."""
    actor: str | Actor | None
    """Who acted, where that is not the user: the administrator."""
    action: str | None
    """Upper-case verb of the draft."""
    outcome: Outcome | None
    """``success``, ``failure`` or ``unknown``, where it is not the type's."""
    target: str | Target | None
    """What was acted upon."""
    custom: Mapping[str, Mapping[str, Any]] | None
    """Groups of further fields."""
    message: str | None
    """One line for people."""
    timestamp: datetime | int | None
    """When it happened: an aware datetime or nanoseconds since the epoch; default: now."""


class Call:
    """One event on its way to the logger.

    Args:
        logger: The source's logger.
        type: The event type.
        groups: The custom groups that the source makes; fields that are None are left out.
        given: The arguments of `AuditLogger.audit`, and the host; what is None counts as not given.
    """

    __slots__ = ("arguments", "groups", "logger", "says_more", "type", "values")

    def __init__(
        self, logger: AuditLogger, type: str, groups: Mapping[str, Mapping[str, Any]], given: Mapping[str, Any]
    ) -> None:
        self.type = type
        arguments: Any = {name: value for name, value in given.items() if value is not None}
        host = arguments.pop("host", None)
        self.logger = logger if host is None else logger.bind(host=host)
        self.groups: dict[str, dict[str, Any]] = {}
        for group, fields in groups.items():
            if kept := {field: value for field, value in fields.items() if value is not None}:
                self.groups[group] = kept
        self.values: dict[str, Any] = {**get_contextvars(), **structlog.get_context(self.logger), **arguments}
        # Bound custom fields, which an argument of the call would push aside, stay.
        others = self.values.get("custom")
        self.says_more = others is not None or any(
            self.values.get(name) is not None for name in ("target", "message", "timestamp")
        )
        if self.groups:
            arguments["custom"] = _joined(self.groups, others)
        self.arguments: Arguments = arguments

    def record(self) -> Receipt:
        """Record it."""
        return self.logger.audit(self.type, **self.arguments)


def _joined(groups: dict[str, dict[str, Any]], others: Any) -> Any:
    if others is None:
        return groups
    if not isinstance(others, Mapping) or not all(isinstance(others.get(group, {}), Mapping) for group in groups):
        return others  # the logger says what is wrong with it
    return {**others, **{group: {**fields, **others.get(group, {})} for group, fields in groups.items()}}


class _Subscription(RecordingReceiver):
    """Calls a source's method for a signal."""

    def __init__(self, method: Callable[..., Receipt | None]) -> None:
        self._method = method

    def __call__(self, _sender: Any, **given: Any) -> Receipt | None:
        return self._method(**given)


class Source:
    """Records the events of one kind, called or by signal.

    A source that is subscribed records until `unsubscribe`, whether or not anybody else holds it.

    Args:
        logger: Records the events; default: of the global provider, with the source's own name.
    """

    name: ClassVar[str]
    """Source of the records, where no logger is given."""
    signals: ClassVar[Mapping[str, AuditSignal]]
    """The signal of each method."""

    def __init__(self, logger: AuditLogger | None = None) -> None:
        if logger is not None and not isinstance(logger, AuditLogger):
            raise ConfigError(f"logger={logger!r} is no AuditLogger", "give what otel_audit.get_logger() returns")
        self._logger: Final = get_logger(self.name) if logger is None else logger
        self._subscriptions: Final = {
            method: (signal, _Subscription(getattr(self, method))) for method, signal in self.signals.items()
        }

    def subscribe(self, sender: Any = ANY) -> Self:
        """Record what is sent to the signals from now on.

        A signal's arguments are those of the method, by name.

        Args:
            sender: Only what this object sends; default: what anybody sends.

        Returns:
            The source itself.
        """
        for signal, subscription in self._subscriptions.values():
            # A weak reference would end the recording silently, with the last other one.
            signal.connect(subscription, sender, weak=False)
        return self

    def unsubscribe(self, sender: Any = ANY) -> None:
        """Record no more of what is sent to the signals.

        Args:
            sender: What was given to `subscribe`; default: whatever was.
        """
        for signal, subscription in self._subscriptions.values():
            signal.disconnect(subscription, sender)

    def _call(
        self,
        type: str,
        user: str | None,
        session: Session | None,
        given: Mapping[str, Any],
        **groups: Mapping[str, Any],
    ) -> Call:
        """Return the event; group names are written with underscores here."""
        named = {group.replace("_", "-"): fields for group, fields in groups.items()}
        return Call(self._logger, type, named, {"user": user, "session": session, **given})


def moment(name: str, value: Any) -> str | None:
    """Return a time as RFC 3339 text; texts stay as they are.

    Args:
        name: The argument's name.
        value: An aware datetime, a text, or None.

    Raises:
        InvalidRecord: It is something else, or a naive datetime.
    """
    if value is None or isinstance(value, str):
        return value
    if not isinstance(value, datetime) or value.utcoffset() is None:
        raise InvalidRecord(f"{name}={value!r} cannot be recorded", "give an aware datetime, or a str")
    return value.isoformat()


def listed(name: str, value: Any) -> tuple[Any, ...] | None:
    """Return names as a tuple, sorted where they come as a set.

    Args:
        name: The argument's name.
        value: One name, several, or None.

    Raises:
        InvalidRecord: It is something else.
    """
    if value is None or isinstance(value, str):
        return None if value is None else (value,)
    if not isinstance(value, Iterable) or isinstance(value, (bytes, Mapping)):
        raise InvalidRecord(f"{name}={value!r} cannot be recorded", "give names: a list of str, or one str")
    return tuple(sorted(value, key=str) if isinstance(value, (set, frozenset)) else value)
