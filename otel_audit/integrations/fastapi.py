"""A FastAPI dependency that records how an endpoint ended."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from fastapi import Depends, Request, Response

from otel_audit.integrations.attempts import Custom, Event, Name, Targeted, module_of
from otel_audit.integrations.audited import failed
from otel_audit.logger import AuditLogger
from otel_audit.provider import get_logger

__all__ = ["audited"]


def audited(
    type: str,
    *,
    target: Targeted | None = None,
    user: Name | None = None,
    custom: Custom | None = None,
    logger: AuditLogger | None = None,
) -> Any:
    """Return a dependency that records each call of an endpoint, before its response is sent.

    Use it as ``dependencies=[audited("order.delete", target=lambda order_id: order_id)]``, before others: what raises
    in those behind it is a failure, too, e.g. an `HTTPException` 401, and so is what fails in validation. It cannot see
    a `Response` object with an error status that the endpoint returns: put the decorator
    `otel_audit.integrations.audited.audited` on such endpoints.

    Functions given for `target`, `user` and `custom` are called with the path's parameters and ``request`` that they
    name. Whatever they return is recorded; where one raises, the record goes without, and is marked.

    Args:
        type: The event type, e.g. ``order.delete``.
        target: What is acted upon, or a function that returns it.
        user: Whose action it is, likewise; default: whoever is bound, or the request's user.
        custom: Groups of further fields, likewise.
        logger: Records the events; default: one of the global provider whose source is the endpoint's module.

    Raises:
        ConfigError: One of them is wrong.
    """
    event = Event(type, logger=logger, target=target, user=user, custom=custom, outcome=None)

    async def dependency(request: Request, response: Response) -> AsyncIterator[None]:
        source = module_of(request.scope.get("endpoint")) or "fastapi"
        attempt = event.attempt({**request.path_params, "request": request}, event.logger or get_logger(source))
        try:
            yield
        except GeneratorExit as error:
            failed(attempt, error)  # nothing can be awaited any more
            raise
        except BaseException as error:
            log, arguments = attempt.raised(error)
            await log.aaudit(type, **arguments)
            raise
        # The endpoint may have set a status on the response that it was given.
        log, arguments = attempt.returned(response)
        await log.aaudit(type, **arguments)

    # Scope "function": otherwise it would end after the response is sent, and a client would hear of a success that
    # is not on disk yet.
    return Depends(dependency, scope="function")
