"""One call that is audited: what is known of it before, and the record of how it ended."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from inspect import Parameter, signature
from pathlib import Path
from typing import Any, Final, get_args

import structlog
from structlog.contextvars import get_contextvars

from otel_audit.catalog import Outcome
from otel_audit.clean import MARKS, Marks
from otel_audit.errors import ConfigError
from otel_audit.integrations.values import as_groups, as_name
from otel_audit.integrations.web import late_user
from otel_audit.logger import Arguments, AuditLogger
from otel_audit.record import Target

__all__ = [
    "RESULT",
    "Attempt",
    "Custom",
    "Event",
    "Judge",
    "Name",
    "Targeted",
    "exception_name",
    "module_of",
    "response_status",
]

Name = str | Callable[..., Any]
Targeted = str | Target | Callable[..., Any]
Custom = Mapping[str, Mapping[str, Any]] | Callable[..., Any]
Judge = Callable[[Any], Outcome]

RESULT: Final = "result"
"""The parameter that is given what the audited function returned."""

_log = logging.getLogger("otel_audit")


def response_status(result: object) -> int | None:
    """Return the HTTP status of a response object, or of an exception that stands for one; None where it is none."""
    for name in ("status_code", "code"):
        if name == "code" and not isinstance(result, BaseException):
            continue  # werkzeug's exceptions call it so; of a result it may mean anything
        status = getattr(result, name, None)
        if isinstance(status, int) and not isinstance(status, bool) and 100 <= status <= 599:
            return int(status)
    return None


def module_of(function: object) -> str | None:
    """Return the module of a function; of the program that was started, the name that it is imported by."""
    name: str | None = getattr(function, "__module__", None)
    if name != "__main__":
        return name
    main = sys.modules.get(name)
    spec, file = getattr(main, "__spec__", None), getattr(main, "__file__", None)
    if spec is not None:  # python -m
        return str(spec.name).removesuffix(".__main__")
    return Path(file).stem if file else name


def exception_name(error: BaseException) -> str:
    """Return the name of an exception's type, with its module unless it is a built-in one."""
    kind = type(error)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


class _Asked:
    """A function for one field, asked with those of the call's arguments that it names."""

    def __init__(self, function: Callable[..., Any], name: str) -> None:
        self.function = function
        self.name = name
        try:
            parameters = signature(function).parameters.values()
        except (TypeError, ValueError) as error:
            raise ConfigError(f"{name}={function!r} has no signature", "give a lambda") from error
        if any(each.kind in {Parameter.POSITIONAL_ONLY, Parameter.VAR_POSITIONAL} for each in parameters):
            raise ConfigError(
                f"{name}={function!r} takes arguments by position", "name those of the audited function that it needs"
            )
        self.all = any(each.kind is Parameter.VAR_KEYWORD for each in parameters)
        named = [each for each in parameters if each.kind is not Parameter.VAR_KEYWORD]
        self.names = frozenset(each.name for each in named)
        self.required = frozenset(each.name for each in named if each.default is Parameter.empty)

    def __call__(self, given: Mapping[str, Any]) -> Any:
        """Call the function."""
        return self.function(**{key: value for key, value in given.items() if self.all or key in self.names})


class Event:
    """What `audited` was told: the type, and where the fields of its records come from.

    Args:
        type_: The event type.
        logger: Records the events.
        target: What is acted upon, or a function of the call's arguments that returns it.
        user: Whose action it is, likewise; None: whoever is bound, or the request's user.
        custom: Groups of further fields, likewise.
        outcome: Judges what the function returned; None: ``failure`` for a response with status 400 and above.
        status: Finds the HTTP status of what the function returned.

    Raises:
        ConfigError: One of them is wrong.
    """

    def __init__(
        self,
        type_: str,
        *,
        logger: AuditLogger | None,
        target: Targeted | None,
        user: Name | None,
        custom: Custom | None,
        outcome: Judge | None,
        status: Callable[[object], int | None] = response_status,
    ) -> None:
        given: object = type_
        if not isinstance(given, str) or not given:
            raise ConfigError(f"{type_!r} is no event type", "write audited('order.delete')")
        for name, constant, kinds in (
            ("target", target, (str, Target)),
            ("user", user, str),
            ("custom", custom, Mapping),
        ):
            if constant is not None and not callable(constant) and not isinstance(constant, kinds):
                raise ConfigError(
                    f"{name}={constant!r} cannot be recorded", f"give a {name} or a function that returns it"
                )
        if outcome is not None and not callable(outcome):
            raise ConfigError(f"outcome={outcome!r} is no function", "give one that takes what the function returned")
        self.type = type_
        self.logger = logger
        self.judge = outcome
        self.status = status
        fields: dict[str, Any] = {"target": target, "user": user, "custom": custom}
        # A `Target` is a tuple, which cannot be called.
        self.constants = {name: value for name, value in fields.items() if value is not None and not callable(value)}
        self.asked = [_Asked(value, name) for name, value in fields.items() if callable(value)]

    def check(self, known: frozenset[str]) -> None:
        """Refuse functions that name an argument which the audited function does not have.

        Raises:
            ConfigError: One of them does.
        """
        for each in self.asked:
            if missing := each.required - known - {RESULT}:
                raise ConfigError(
                    f"the function for {each.name} takes {', '.join(sorted(missing))}",
                    f"the audited function has {', '.join(sorted(known)) or 'no arguments'}, and there is {RESULT}",
                )

    def attempt(self, given: Mapping[str, Any], logger: AuditLogger) -> Attempt:
        """Return the record to be of one call, with all that can be known before it.

        Before: once an order is deleted, its number may be gone.
        """
        attempt = Attempt(self, dict(given), self.logger or logger, dict(self.constants))
        for each in self.asked:
            if RESULT not in each.names or RESULT in given:
                attempt.ask(each)
        return attempt


@dataclass
class Attempt:
    """One call under way.

    Args:
        event: What to record.
        given: The call's arguments by name.
        logger: Records it.
        fields: What is known of it so far.
        marks: What had to be altered so far.
    """

    event: Event
    given: dict[str, Any]
    logger: AuditLogger
    fields: dict[str, Any]
    marks: list[str] = field(default_factory=list)

    def ask(self, asked: _Asked) -> None:
        """Take what a function says; where it fails, the record goes without, and is marked."""
        name = asked.name
        try:
            value = asked(self.given)
        except Exception as error:  # noqa: BLE001 - it read what a client sent, which must not suppress the record
            _log.exception("the %s of %s could not be found: the record goes without", name, self.event.type)
            self.marks.append(f"{name}:unresolved:{type(error).__name__}")
            return
        if value is None or (name == "target" and isinstance(value, Target)):
            marks: tuple[str, ...] = ()
        else:
            value, marks = as_groups(value) if name == "custom" else as_name(value, name)
        self.fields[name] = value
        self.marks += marks

    def returned(self, result: object) -> tuple[AuditLogger, Arguments]:
        """Return the logger and the arguments for the record of a call that returned."""
        if RESULT not in self.given:
            self.given[RESULT] = result
            for each in self.event.asked:
                if RESULT in each.names:
                    self.ask(each)
        status = self.event.status(result)
        outcome: Outcome = "success" if status is None or status < 400 else "failure"
        if self.event.judge is not None:
            outcome = self._judged(self.event.judge, result)
        return self._arguments(outcome, None if outcome == "success" or status is None else {"status": status})

    def raised(self, error: BaseException) -> tuple[AuditLogger, Arguments]:
        """Return the logger and the arguments for the record of a call that raised."""
        status = response_status(error)
        return self._arguments(
            "failure", {"type": exception_name(error), **({} if status is None else {"status": status})}
        )

    def _judged(self, judge: Judge, result: object) -> Outcome:
        try:
            outcome = judge(result)
        except Exception as error:  # noqa: BLE001 - what was done is done, and must be recorded
            _log.exception("the outcome of %s could not be judged: it is recorded as unknown", self.event.type)
            self.marks.append(f"outcome:unresolved:{type(error).__name__}")
            return "unknown"
        if outcome in get_args(Outcome):
            return outcome
        self.marks.append(f"outcome:unresolved:{type(outcome).__name__}")
        return "unknown"

    def _arguments(self, outcome: Outcome, error: dict[str, Any] | None) -> tuple[AuditLogger, Arguments]:
        if "user" not in self.fields and not {"user"} & (get_contextvars().keys() | structlog.get_context(self.logger)):
            user, marks = late_user()
            self.marks += marks
            if user is not None:
                self.fields["user"] = user
        if error is not None:
            custom = self.fields.get("custom") or {}
            self.fields["custom"] = {**custom, "error": {**custom.get("error", {}), **error}}
        logger = self.logger.bind(**{MARKS: Marks(self.marks)}) if self.marks else self.logger
        arguments: Any = {**self.fields, "outcome": outcome}
        return logger, arguments
