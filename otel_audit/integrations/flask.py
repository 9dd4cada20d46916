"""The decorator for Flask's views, which may return a status beside the body."""

from __future__ import annotations

from collections.abc import Callable
from typing import ParamSpec, TypeVar

from otel_audit.integrations.attempts import Custom, Event, Judge, Name, Targeted, response_status
from otel_audit.integrations.audited import wrap
from otel_audit.logger import AuditLogger

__all__ = ["audited"]

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
    """Return a decorator that records each call of a view, as `otel_audit.integrations.audited.audited` does.

    It knows the tuples that a view may return: ``return {"error": "no"}, 403`` is a failure.

    Args:
        type: The event type, e.g. ``order.delete``.
        target: What is acted upon, or a function that returns it.
        user: Whose action it is, likewise; default: whoever is bound, or the request's user.
        custom: Groups of further fields, likewise.
        outcome: Returns the outcome for what the view returned.
        logger: Records the events; default: one of the global provider whose source is the view's module.

    Raises:
        ConfigError: One of them is wrong, or the view is a generator function.
    """
    event = Event(type, logger=logger, target=target, user=user, custom=custom, outcome=outcome, status=_status)
    return lambda view: wrap(event, view)


def _status(result: object) -> int | None:
    """Return the status of what a view returned: a response, or a tuple of a body and a status, as number or text."""
    if not isinstance(result, tuple) or len(result) not in {2, 3}:
        return response_status(result)
    given = result[1]
    if isinstance(given, str):
        number = given.split(" ", 1)[0]
        given = int(number) if number.isascii() and number.isdigit() and len(number) == 3 else None
    if isinstance(given, int) and not isinstance(given, bool):
        return int(given)
    return response_status(result[0])  # (body, headers)
