"""Middleware for Django: session and user of each request, and a record of each one that is refused."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, Final

from asgiref.sync import iscoroutinefunction, markcoroutinefunction, sync_to_async
from django.core.exceptions import PermissionDenied

from otel_audit.integrations.attempts import exception_name
from otel_audit.integrations.django.requests import FOUND, make_requests, request_session, who
from otel_audit.integrations.web import Bound
from otel_audit.logger import Arguments, AuditLogger
from otel_audit.provider import current_provider, get_logger

__all__ = ["AuditMiddleware"]

_ERROR: Final = "otel_audit_error"
_log: Final = get_logger("django.request")


class AuditMiddleware:
    """Binds session and user of each request, and records ``permission.denied`` for each answer 403.

    Put it first in ``MIDDLEWARE``: what the middleware behind it refuses is recorded, too. It stands in synchronous and
    asynchronous stacks. When the server loads it, the archive is opened: where that fails the server does not start.

    Args:
        get_response: What Django calls next.

    Raises:
        ConfigError: The setting ``OTEL_AUDIT`` is missing or wrong.
        ArchiveError: The archive cannot be opened or created.
    """

    sync_capable = True
    async_capable = True

    def __init__(self, get_response: Callable[[Any], Any]) -> None:
        self._requests = make_requests()
        current_provider()
        self._get_response = get_response
        self._async = iscoroutinefunction(get_response)
        self.process_view: Any = _find_user
        if self._async:
            markcoroutinefunction(self)
            self.process_view = _find_user_async

    def __call__(self, request: Any) -> Any:
        """Answer a request, with its session and user bound."""
        if self._async:
            return self._answer_async(request)
        with self._requests.bound(request, request_session(self._requests, request)):
            response = self._get_response(request)
            if response.status_code == 403:
                logger, arguments = _denied(request)
                logger.audit("permission.denied", **arguments)
            return _streamed(response, Bound.now())

    async def _answer_async(self, request: Any) -> Any:
        with self._requests.bound(request, request_session(self._requests, request)):
            response = await self._get_response(request)
            if response.status_code == 403:
                await _find_async(request)
                logger, arguments = _denied(request)
                await logger.aaudit("permission.denied", **arguments)
            return _streamed(response, Bound.now())

    def process_exception(self, request: Any, exception: Exception) -> None:
        """Note why a view refused; what is recorded is the answer, whoever gives it."""
        if isinstance(exception, PermissionDenied):
            setattr(request, _ERROR, exception_name(exception))


def _denied(request: Any) -> tuple[AuditLogger, Arguments]:
    logger, arguments = who(_log)
    kind = getattr(request, _ERROR, None)
    error = {"status": 403} if kind is None else {"status": 403, "type": kind}
    custom = {"error": error, "request": {"method": request.method}}
    return logger, {**arguments, "target": request.path, "custom": custom}


def _find_user(request: Any, view: Any, _args: Any, _kwargs: Any) -> None:
    """Look the user up while that is possible, for a view in which it is not."""
    if iscoroutinefunction(view):
        _find(request)


async def _find_user_async(request: Any, view: Any, _args: Any, _kwargs: Any) -> None:
    if iscoroutinefunction(view):
        await _find_async(request)


def _find(request: Any) -> None:
    try:
        # It is lazy, and looked up by this.
        getattr(request.user, "is_authenticated", None)
    except Exception:  # noqa: BLE001 - the view may do without; a record asks again, and says what went wrong
        return


async def _find_async(request: Any) -> None:
    if not hasattr(request, "auser"):  # before Django 5.0
        await sync_to_async(_find)(request)
        return
    try:
        setattr(request, FOUND, await request.auser())
    except Exception:  # noqa: BLE001 - as above
        return


def _streamed(response: Any, bound: Bound) -> Any:
    """Return the response, whose parts are made with what the request has bound, whenever the server asks for them."""
    # A file is sent as it is: nothing of the application runs any more, and servers do it faster.
    if getattr(response, "streaming", False) and getattr(response, "file_to_stream", None) is None:
        wrap: Callable[..., Any] = _chunks_async if response.is_async else _chunks
        response.streaming_content = wrap(bound, response.streaming_content)
    return response


def _chunks(bound: Bound, content: Any) -> Iterator[bytes]:
    chunks = iter(content)
    while True:
        before = Bound.now()
        bound.restore()
        try:
            chunk = next(chunks)
        except StopIteration:
            return
        finally:
            bound = Bound.now()
            before.restore()
        yield chunk


async def _chunks_async(bound: Bound, content: Any) -> AsyncIterator[bytes]:
    chunks = aiter(content)
    while True:
        before = Bound.now()
        bound.restore()
        try:
            chunk = await anext(chunks)
        except StopAsyncIteration:
            return
        finally:
            bound = Bound.now()
            before.restore()
        yield chunk
