"""A decorator that records how a function ended."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from functools import wraps
from inspect import (
    Parameter,
    Signature,
    isasyncgenfunction,
    iscoroutine,
    iscoroutinefunction,
    isgeneratorfunction,
    signature,
)
from typing import Any, ParamSpec, TypeVar, cast

from otel_audit.errors import ConfigError
from otel_audit.integrations.attempts import Attempt, Custom, Event, Judge, Name, Targeted, module_of
from otel_audit.logger import AuditLogger
from otel_audit.provider import get_logger

__all__ = ["audited", "finish", "wrap"]

P = ParamSpec("P")
R = TypeVar("R")


def audited(
    type: str,
    *,
    target: Targeted | None = None,
    user: Name | None = None,
    custom: Custom | None = None,
    outcome: Judge | None = None,
    logger: AuditLogger | None = None,
) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Return a decorator that records each call: ``success`` where it returned, ``failure`` where it raised.

    A failure has the exception's type in the custom group ``error``, with the HTTP status where it stands for one;
    cancellation is a failure, too. A response with status 400 and above is one as well. For functions and coroutine
    functions; what is returned passes through untouched, also a generator.

    Functions given for `target`, `user` and `custom` are called with those arguments of the call that they name, before
    it; one that names ``result`` is called after a success, with what was returned. Whatever they return is recorded;
    where one raises, the record goes without, and is marked.

    Args:
        type: The event type, e.g. ``order.delete``.
        target: What is acted upon, or a function that returns it.
        user: Whose action it is, likewise; default: whoever is bound, or the request's user.
        custom: Groups of further fields, likewise.
        outcome: Returns the outcome for what the function returned.
        logger: Records the events; default: one of the global provider whose source is the function's module.

    Raises:
        ConfigError: One of them is wrong, or the function is a generator function.
    """
    event = Event(type, logger=logger, target=target, user=user, custom=custom, outcome=outcome)
    return lambda function: wrap(event, function)


def wrap(event: Event, function: Callable[P, R]) -> Callable[P, R]:
    """Return a function whose calls are recorded.

    Raises:
        ConfigError: It is no function that could be, or lacks an argument that the event needs.
    """
    if not callable(function):
        raise ConfigError(f"{function!r} cannot be audited", "put audited() on a function, under the route's decorator")
    if isgeneratorfunction(function) or isasyncgenfunction(function):
        raise ConfigError(
            f"{function!r} is a generator function, whose call does nothing yet", "audit the function that consumes it"
        )
    try:
        known = signature(function)
    except (TypeError, ValueError):
        known = signature(lambda *_, **__: None)  # some functions written in C have none
    if not any(each.kind is Parameter.VAR_KEYWORD for each in known.parameters.values()):
        event.check(frozenset(known.parameters))
    logger = event.logger or get_logger(module_of(function) or "audited")

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        attempt = event.attempt(_arguments(known, args, kwargs), logger)
        try:
            result = function(*args, **kwargs)
        except BaseException as error:
            failed(attempt, error)
            raise
        if iscoroutine(result):
            return cast("R", finish(attempt, result))  # it has not run yet
        log, arguments = attempt.returned(result)
        log.audit(event.type, **arguments)
        return result

    if not iscoroutinefunction(function):
        return call

    @wraps(function)
    async def call_async(*args: P.args, **kwargs: P.kwargs) -> Any:
        result: Any = call(*args, **kwargs)
        return await result

    return cast("Callable[P, R]", call_async)


async def finish(attempt: Attempt, coroutine: Coroutine[Any, Any, R]) -> R:
    """Await a coroutine and record how it ended."""
    try:
        result = await coroutine
    except GeneratorExit as error:
        failed(attempt, error)  # nothing can be awaited any more
        raise
    except BaseException as error:
        log, arguments = attempt.raised(error)
        # Also in a task that is cancelled anew: the record is with the writer before the first wait.
        await log.aaudit(attempt.event.type, **arguments)
        raise
    log, arguments = attempt.returned(result)
    await log.aaudit(attempt.event.type, **arguments)
    return result


def failed(attempt: Attempt, error: BaseException) -> None:
    """Record a failure."""
    log, arguments = attempt.raised(error)
    log.audit(attempt.event.type, **arguments)


def _arguments(known: Signature, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """Return a call's arguments by name."""
    try:
        bound = known.bind(*args, **kwargs)
    except TypeError:
        return dict(kwargs)  # the call is wrong, and will say so
    bound.apply_defaults()
    given: dict[str, Any] = {}
    for name, parameter in known.parameters.items():
        if parameter.kind is Parameter.VAR_KEYWORD:
            given = {**bound.arguments[name], **given}
        else:
            given[name] = bound.arguments[name]
    return given
