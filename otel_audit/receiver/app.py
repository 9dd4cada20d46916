"""The ASGI application: what comes in over OTLP/HTTP is answered once it is committed."""

from __future__ import annotations

import asyncio
import hmac
import logging
import time
from collections.abc import AsyncIterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from otel_audit.errors import AuditError
from otel_audit.receiver.answers import JSON, PROTOBUF, accepted, receipts, refused
from otel_audit.receiver.binary import read_binary
from otel_audit.receiver.body import Budget, unpacked
from otel_audit.receiver.intake import Intake
from otel_audit.receiver.json_form import read_json
from otel_audit.receiver.messages import Counted, Malformed, Oversized
from otel_audit.receiver.records import Translator

if TYPE_CHECKING:
    from otel_audit.archive.received import Foreign, Kept
    from otel_audit.provider import AuditProvider

__all__ = ["Limits", "Receiver"]

_AGAIN: Final = {"Retry-After": "1"}
_LATER: Final = {"Retry-After": "5"}
_READERS: Final = {PROTOBUF: read_binary, JSON: read_json}
_SHOWN: Final = 20
"""Most ids that an answer names."""
_DRAINING: Final = 2.0
"""Seconds for what is still to come of a request that is refused."""
_UNHEALTHY: Final = 15.0
"""Seconds after a commit that failed during which the receiver says of itself that it is not well."""

_log = logging.getLogger("otel_audit.receiver")


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What is taken at most.

    Args:
        body: Bytes of one request, as it comes and as it unpacks.
        records: Records of one request.
        requests: Requests that are worked on at once.
        in_flight: Bytes of all of them.
        seconds: How long the body of a request may take to come.
    """

    body: int = 16 * 1024 * 1024
    records: int = 16_384
    requests: int = 128
    in_flight: int = 128 * 1024 * 1024
    seconds: float = 30.0


@dataclass(slots=True)
class _Held:
    """The room that a request takes."""

    size: int = 0


class _Refusal(Exception):
    """Ends a request that is not recorded."""

    def __init__(self, status: int, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.headers = status, message, headers


class Receiver:
    """Takes OTLP/HTTP requests for one archive, as an ASGI application.

    Args:
        provider: Records, and ships on what was received. Stays the caller's.
        token: What clients must send as ``Authorization: Bearer …``; None: nothing.
        limits: What is taken at most.
    """

    def __init__(self, provider: AuditProvider, *, token: str | None = None, limits: Limits | None = None) -> None:
        self._limits = limits or Limits()
        self._budget = Budget(self._limits.requests, self._limits.in_flight)
        self._token = None if token is None else token.encode()
        self._translator = Translator(provider)
        self._intake = Intake(provider.writer, provider.block_timeout)
        # Two: one reads while the other waits for the interpreter.
        self._readers = ThreadPoolExecutor(2, "otel-audit-reader")
        self.app = Starlette(
            routes=[
                Route("/v1/logs", self._logs, methods=["POST"]),
                Route("/v1/audit", self._audit, methods=["POST"]),
                Route("/healthz", self._healthz, methods=["GET"]),
            ],
            exception_handlers={HTTPException: _not_here},
        )
        # To where the client says that it is: records and token have no business there.
        self.app.router.redirect_slashes = False

    def close(self) -> None:
        """Commit what waits, and stop; the application must not be called any more."""
        self._readers.shutdown()
        self._intake.close()

    async def _healthz(self, _request: Request) -> Response:
        failed = self._intake.failed_at
        well = not failed or time.monotonic() - failed > _UNHEALTHY
        status = "ok" if well else "records cannot be kept"
        return JSONResponse({"status": status}, 200 if well else 503, None if well else _LATER)

    async def _logs(self, request: Request) -> Response:
        return await self._answered(request, audit=False)

    async def _audit(self, request: Request) -> Response:
        return await self._answered(request, audit=True)

    async def _answered(self, request: Request, *, audit: bool) -> Response:
        form = _form(request)
        try:
            self._check_caller(request)
            if form not in _READERS:
                raise _Refusal(415, f"send {PROTOBUF} or {JSON}")
            kept = await self._kept(request, form, audit=audit)
        except _Refusal as refusal:
            with suppress(ClientDisconnect):
                await self._drain(request)
            return refused(form, refusal.status, refusal.message, refusal.headers)
        except ClientDisconnect:
            return refused(form, 400, "the request ended early")  # nobody reads it
        except Exception as error:  # noqa: BLE001 - whatever it is, the client must keep its records
            _log.error("a request could not be answered: %r: please report this as a fault", error)
            return refused(form, 503, "this is a fault of the receiver; its log says more", _LATER)
        if taken := [one.receipt.record_id for one in kept if one.outcome == "conflict"]:
            more = f" and {len(taken) - _SHOWN} more" if len(taken) > _SHOWN else ""
            return refused(
                form,
                409,
                f"{len(taken)} of {len(kept)} records were not recorded, since other records have their ids:"
                f" {', '.join(taken[:_SHOWN])}{more}; all others are recorded",
            )
        return receipts(form, kept) if audit else accepted(form)

    def _check_caller(self, request: Request) -> None:
        if self._token is not None:
            scheme, _, given = request.headers.get("authorization", "").partition(" ")
            right = hmac.compare_digest(given.strip().encode("latin-1"), self._token)
            if scheme.lower() != "bearer" or not right:
                raise _Refusal(401, "give the receiver's token", {"WWW-Authenticate": "Bearer"})

    async def _kept(self, request: Request, form: str, *, audit: bool) -> list[Kept]:
        async with self._room() as held:
            packed = _packed(request)
            body = await self._body(request, held)
            loop = asyncio.get_running_loop()
            try:
                if packed:
                    body = await loop.run_in_executor(self._readers, unpacked, body, self._limits.body)
                    self._hold(held, len(body))
                records = await loop.run_in_executor(self._readers, self._read, form, body, audit)
            except Malformed as error:
                raise _Refusal(400, str(error)) from None
            except Oversized as error:
                raise _Refusal(413, str(error)) from None
            try:
                return await asyncio.wrap_future(self._intake.submit(records))
            except AuditError as error:
                raise _Refusal(503, "the archive takes no records now: try again", _LATER) from error

    def _read(self, form: str, body: bytes, audit: bool) -> list[Foreign]:  # noqa: FBT001 - by position, into a thread
        groups = _READERS[form](body, Counted(self._limits.records))
        return self._translator.records(groups, rename=not audit)

    @asynccontextmanager
    async def _room(self) -> AsyncIterator[_Held]:
        if not self._budget.enter():
            raise _Refusal(503, "too many requests are being worked on: try again", _AGAIN)
        held = _Held()
        try:
            yield held
        finally:
            self._budget.leave(held.size)

    def _hold(self, held: _Held, size: int) -> None:
        if not self._budget.take(size):
            raise _Refusal(503, "too much is being worked on: try again", _AGAIN)
        held.size += size

    async def _body(self, request: Request, held: _Held) -> bytes:
        too_large = _Refusal(413, f"the body is larger than {self._limits.body} bytes: send several requests")
        announced = request.headers.get("content-length", "")
        if announced.isdecimal() and int(announced[:20]) > self._limits.body:
            raise too_large
        parts: list[bytes] = []
        try:
            async with asyncio.timeout(self._limits.seconds):
                async for part in request.stream():
                    self._hold(held, len(part))
                    parts.append(part)
                    if held.size > self._limits.body:
                        raise too_large
        except TimeoutError:
            raise _Refusal(503, f"the body did not come within {self._limits.seconds:g} s", _AGAIN) from None
        request.state.complete = True
        return b"".join(parts)

    async def _drain(self, request: Request) -> None:
        """Take the rest of a body that is refused: a client that still sends would miss the answer."""
        left, more = self._limits.body, not getattr(request.state, "complete", False)
        with suppress(TimeoutError):
            async with asyncio.timeout(_DRAINING):
                while more and left > 0:
                    message = await request.receive()
                    left -= len(message.get("body", b""))
                    more = message.get("more_body", False)


def _form(request: Request) -> str:
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def _packed(request: Request) -> bool:
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    if encoding not in {"gzip", "identity", ""}:
        raise _Refusal(415, "send the body as it is, or packed with gzip")
    return encoding == "gzip"


def _not_here(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101 - what it is registered for
    message = "use POST" if error.status_code == 405 else "send to /v1/logs or /v1/audit"
    return refused(_form(request), error.status_code if error.status_code == 405 else 404, message, error.headers)
