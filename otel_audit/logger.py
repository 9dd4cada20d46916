"""The call: an immutable structlog bound logger that records."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from contextvars import copy_context
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final, Protocol, Self, TypedDict, Unpack

import opentelemetry.trace  # noqa: F401 - `build_record` looks it up, and must never find it half loaded
from structlog import BoundLoggerBase, DropEvent
from structlog.contextvars import get_contextvars, merge_contextvars

from otel_audit.build import build_record
from otel_audit.catalog import Catalog, Durability, EventType, OnFailure, Outcome
from otel_audit.clean import MARKS, Marks
from otel_audit.errors import ArchiveError, AuditError, ConfigError, IntegrityError, InvalidRecord
from otel_audit.otlp import Profile, encode
from otel_audit.record import Actor, AuditRecord, Receipt, Session, Target

if TYPE_CHECKING:
    from structlog.typing import Processor

    from otel_audit.archive.writer import Writer

__all__ = ["Arguments", "AuditLogger", "Recorder", "Recording"]

_FIXED: Final = frozenset({"source", "event"})


class Arguments(TypedDict, total=False):
    """What `AuditLogger.audit` takes beside the type, and what `bind` gives a meaning to."""

    user: str | None
    """The account that it is attached to; None: a host-wide record."""
    user_id: str | None
    """The account's id, where it has one beside its name."""
    session: Session | None
    """The connection it came from."""
    actor: str | Actor | None
    """Who acted, where that is not the user; a str takes the catalog's actor type."""
    action: str | None
    """Upper-case verb of the draft."""
    outcome: Outcome | None
    """``success``, ``failure`` or ``unknown``."""
    target: str | Target | None
    """What was acted upon."""
    custom: Mapping[str, Mapping[str, Any]] | None
    """Groups of further fields, e.g. ``{"reason": {"condition": "not-authorized"}}``."""
    message: str | None
    """One line for people; default: made from type, outcome, user and address."""
    timestamp: datetime | int | None
    """When it happened: an aware datetime or nanoseconds since the epoch; default: now."""


_ARGUMENTS: Final = frozenset(Arguments.__annotations__)


class Recording(Protocol):
    """What a logger records through: the provider's settings and its writer."""

    catalog: Catalog
    writer: Writer
    profile: Profile
    durability: Durability
    on_failure: OnFailure
    block_timeout: float
    host: str | None
    processors: tuple[Processor, ...]

    def dropped(self, record: AuditRecord, error: AuditError) -> None:
        """Note a record that could not be recorded and that the failure policy lets go."""

    def before_shutdown(self, recorder: Recorder, function: Callable[[], None]) -> bool:
        """Call a function before nothing can be recorded any more; return False where that has begun."""


class Recorder(Protocol):
    """Gives the logger what it records through, at each call: a provider may be configured after its loggers."""

    def __call__(self) -> Recording:
        """Return it."""


class AuditLogger(BoundLoggerBase):
    """Records audit events for one source. Made by `otel_audit.get_logger`; safe to share between threads and tasks."""

    _logger: Recorder
    _processors: tuple[Processor, ...]
    _context: dict[str, Any]

    def bind(self, **new_values: Any) -> Self:
        """Return a new logger with more bound values; the source stays.

        Args:
            **new_values: Arguments of `audit`, or anything else, which is recorded in the custom group ``context``.

        Raises:
            InvalidRecord: `source` or `event` is among them.
        """
        for name in _FIXED & new_values.keys():
            raise InvalidRecord(
                f"{name}={new_values[name]!r} cannot be bound", "a logger keeps its source: use get_logger()"
            )
        return type(self)(self._logger, self._processors, {**self._context, **new_values})

    def unbind(self, *keys: str) -> Self:
        """Return a new logger without some bound values.

        Raises:
            KeyError: One of them is not bound, or is the source.
        """
        for key in keys:
            if key in _FIXED or key not in self._context:
                raise KeyError(key)
        return self.try_unbind(*keys)

    def try_unbind(self, *keys: str) -> Self:
        """Return a new logger without some values, bound or not; the source stays."""
        kept = {key: value for key, value in self._context.items() if key in _FIXED or key not in keys}
        return type(self)(self._logger, self._processors, kept)

    def new(self, **new_values: Any) -> Self:
        """Return a new logger with these bound values alone; the source stays.

        Raises:
            InvalidRecord: `source` or `event` is among them.
        """
        # structlog's own method empties the context of the old logger, which others may hold.
        return type(self)(self._logger, self._processors, {"source": self._context["source"]}).bind(**new_values)

    def audit(self, type: str, **given: Unpack[Arguments]) -> Receipt:
        """Record one event; when this returns, it is on disk.

        What is not given comes from the bound values, then from ``structlog.contextvars``, then from the catalog.

        Args:
            type: The event type, e.g. ``user.login.failure``.
            **given: See `Arguments`.

        Returns:
            The receipt. With durability ``queued``, or where policy ``log`` let a failure go, it holds the id only.

        Raises:
            InvalidRecord: The call is wrong; nothing was recorded.
            ArchiveError: It could not be recorded, under policy ``raise`` at once, under ``block`` after the deadline.
            IntegrityError: The archive is not what it was.
        """
        started = time.monotonic()
        recording = self._logger()
        record, known = self._record(recording, "audit", type, given)
        return self._write(recording, record, known, started)

    def prepare(self, type: str, **given: Unpack[Arguments]) -> Callable[[], Receipt]:
        """Build the record of one event now, and return the function that records it later.

        For events that may still be undone, e.g. within a transaction: values, context, trace and times are those of
        this call. Until the function was called nothing is on disk, and a crash loses the event.

        Args:
            type: As for `audit`.
            **given: Likewise.

        Returns:
            A function that records and returns as `audit` does; to be called once.

        Raises:
            InvalidRecord: The call is wrong.
        """
        recording = self._logger()
        record, known = self._record(recording, "audit", type, given)
        return lambda: self._write(recording, record, known, time.monotonic())

    def _write(self, recording: Recording, record: AuditRecord, known: EventType, started: float) -> Receipt:
        otlp = encode(record, recording.profile)
        queued = (known.durability or recording.durability) == "queued"
        attempts: _Attempts | None = None
        while True:
            timeout = recording.block_timeout if attempts is None else attempts.remaining()
            try:
                if queued:
                    recording.writer.enqueue(record, otlp, timeout)
                    return Receipt(record.record_id)
                return recording.writer.write(record, otlp, timeout)
            except (ArchiveError, IntegrityError) as error:
                if recording.writer.closed and (current := self._logger()) is not recording:
                    recording = current  # configured anew between the look and the writing
                    continue
                attempts = attempts or _Attempts(recording, record, known, started)
                pause = attempts.failed(error)
                if pause is None:
                    return Receipt(record.record_id)
                time.sleep(pause)

    def relay(self, type: str, **given: Unpack[Arguments]) -> Receipt:
        """Record one event like `audit`, also within a signal handler or finaliser: for bridges from other libraries.

        What interrupted a commit of its own thread cannot wait for another one, and `audit` would refuse it. Here the
        record waits in memory until that commit ended, as with durability ``queued``.

        Args:
            type: As for `audit`.
            **given: Likewise.

        Returns:
            The receipt; where the record waits, it holds the id only.

        Raises:
            InvalidRecord: As `audit`.
            ArchiveError: Likewise.
            IntegrityError: Likewise.
        """
        recording = self._logger()
        if not recording.writer.interrupted:
            return self.audit(type, **given)
        record, _ = self._record(recording, "audit", type, given)
        recording.writer.enqueue(record, encode(record, recording.profile), 0.0)
        return Receipt(record.record_id)

    async def aaudit(self, type: str, **given: Unpack[Arguments]) -> Receipt:
        """Record one event without blocking the event loop; when this returns, it is on disk.

        A task that is cancelled while it waits may have recorded the event all the same. Arguments, result and errors
        are those of `audit`.
        """
        started = time.monotonic()
        recording = self._logger()
        record, known = self._record(recording, "aaudit", type, given)
        otlp = encode(record, recording.profile)
        queued = (known.durability or recording.durability) == "queued"
        attempts: _Attempts | None = None
        while True:
            timeout = recording.block_timeout if attempts is None else attempts.remaining()
            try:
                if queued:
                    await recording.writer.enqueue_async(record, otlp, timeout)
                    return Receipt(record.record_id)
                return await recording.writer.write_async(record, otlp, timeout)
            except (ArchiveError, IntegrityError) as error:
                if recording.writer.closed and (current := self._logger()) is not recording:
                    recording = current  # configured anew between the look and the writing
                    continue
                attempts = attempts or _Attempts(recording, record, known, started)
                pause = attempts.failed(error)
                if pause is None:
                    return Receipt(record.record_id)
                await asyncio.sleep(pause)

    def build(self, type: str, **given: Unpack[Arguments]) -> AuditRecord:
        """Return the record of an event without recording it: for what commits records in another way.

        Args:
            type: As for `audit`.
            **given: Likewise.

        Raises:
            InvalidRecord: The call is wrong.
        """
        return self._record(self._logger(), "build", type, given)[0]

    def before_shutdown(self, function: Callable[[], None]) -> bool:
        """Let a function be called once, while recording is still possible, when the provider shuts down.

        Where `configure` replaces the global provider, the functions of loggers that follow it are called when the new
        one shuts down. What they raise is logged. To be asked for again after the call.

        Args:
            function: Records what is still to be recorded; it is registered once, however often it is given.

        Returns:
            False where the shutdown has begun: the function may or may not be called.
        """
        return self._logger().before_shutdown(self._logger, function)

    def _record(self, recording: Recording, method: str, type_: str, given: Arguments) -> tuple[AuditRecord, EventType]:
        if not given.keys() <= _ARGUMENTS:
            unknown = ", ".join(sorted(given.keys() - _ARGUMENTS))
            raise TypeError(f"{method}() takes no argument {unknown}: bind() values that are no argument")
        values: Any = {**self._context, **given, "event": type_}
        if len(copy_context()):
            marks = values.get(MARKS)
            values = merge_contextvars(None, method, values)
            if marks is not None and isinstance(bound := get_contextvars().get(MARKS), Marks):
                values[MARKS] = Marks((*bound, *marks))  # the logger's alone would hide what came with a message
        if "host" not in values and recording.host is not None:
            values["host"] = recording.host
        if recording.processors:
            for processor in recording.processors:
                values = _processed(processor, self._logger, method, values)
            if isinstance(values.get("timestamp"), (str, float)) and "timestamp" not in given:
                # From structlog's TimeStamper, which is for lines of text: the record has its own time.
                values = {key: value for key, value in values.items() if key != "timestamp"}
        record = build_record(values, recording.catalog, display=recording.profile == "logs")
        return record, recording.catalog[record.type]


def _processed(processor: Processor, logger: Any, method: str, values: Any) -> Any:
    name = getattr(processor, "__qualname__", type(processor).__qualname__)
    try:
        values = processor(logger, method, values)
    except DropEvent as error:
        raise ConfigError(
            f"the processor {name} dropped an audit event",
            "audit records are never dropped: take it out of the audit chain",
        ) from error
    if not isinstance(values, Mapping):
        raise ConfigError(
            f"the processor {name} returned {type(values).__name__}",
            "processors of audit events return the event dictionary: leave out renderers",
        )
    return values


class _Attempts:
    """Applies the failure policy to one record."""

    __slots__ = ("_deadline", "_pause", "_policy", "_record", "_recording")

    def __init__(self, recording: Recording, record: AuditRecord, known: EventType, started: float) -> None:
        self._recording = recording
        self._record = record
        self._policy = known.on_failure or recording.on_failure
        self._pause = 0.01
        self._deadline = started + recording.block_timeout

    def remaining(self) -> float:
        """Return the seconds left to this call."""
        return max(0.001, self._deadline - time.monotonic())

    def failed(self, error: AuditError) -> float | None:
        """Decide on a failure: return the seconds to wait before another try, or None to let it go.

        Raises:
            AuditError: The failure itself, where the policy says so.
        """
        if self._recording.writer.closed:
            raise error  # a programmer's error, which no policy excuses
        if self._policy == "log":
            self._recording.dropped(self._record, error)
            return None
        if self._policy == "raise" or time.monotonic() + self._pause > self._deadline:
            raise error
        pause, self._pause = self._pause, min(self._pause * 2, 0.5)
        return pause
