"""The OTLP/HTTP sender: one POST of ready bytes, and what the answer means for the records in it."""

from __future__ import annotations

import email.utils
import json
import os
import threading
import time
import zlib
from http import HTTPStatus
from typing import Any
from urllib.parse import urlsplit

import requests

from otel_audit.delivery.answers import (
    MAX_RESPONSE,
    USER_AGENT,
    answer_to_message,
    answer_to_response,
    parse_response,
    parse_status,
    quiet,
    too_large,
    usable_delay,
    wording,
)
from otel_audit.delivery.connections import Guard, GuardedSession
from otel_audit.delivery.http_failures import answer_to_failure
from otel_audit.delivery.sender import Answer, Verdict
from otel_audit.errors import ConfigError
from otel_audit.otlp_settings import OtlpSettings

__all__ = ["HttpSender"]

_CHUNK = 64 * 1024
_PROTOBUF = ("application/x-protobuf", "application/protobuf")

# The four that OTLP allows to retry.
_RETRY = frozenset({429, 502, 503, 504})
# These speak of us, of the request's form or of the way to the destination, never of a record: taking the batch apart
# would set every record aside, one by one, for a wrong token. OTLP forbids to retry them, so they are probed and shown.
_BLOCKED = frozenset({401, 402, 403, 404, 405, 406, 407, 408, 410, 411, 415, 417, 421, 425, 426, 431, 451})
# Profile `signal` (path /v1/audit): 202 is "not yet durable", and 409 "same id, other content".
_SIGNAL_PATH = "/v1/audit"


class HttpSender:
    """Sends OTLP over HTTP/1.1 with binary protobuf.

    One request at a time: a second thread waits for the first, within its own time. Works in a child process that was
    forked at any moment, with connections of its own. Proxies are taken from the environment as requests does.

    Args:
        settings: Where and how; `OtlpSettings.endpoint` is the whole URL.

    Raises:
        ConfigError: The settings are those of another protocol.
    """

    def __init__(self, settings: OtlpSettings) -> None:
        if settings.protocol != "http/protobuf":
            raise ConfigError(f"protocol is {settings.protocol!r}", "HttpSender takes http/protobuf")
        self._settings = settings
        parts = urlsplit(settings.endpoint)
        # A query may hold a token.
        self._shown = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
        self._signal = parts.path.rstrip("/").endswith(_SIGNAL_PATH)
        self._headers = self._fixed_headers()
        self._state = _State()
        self._closed = False

    @property
    def endpoint(self) -> str:
        """Return the URL without query and user information."""
        return self._shown

    def send(self, request: bytes, timeout: float) -> Answer:
        """Send one request and wait for the answer.

        Args:
            request: A serialized ``ExportLogsServiceRequest``.
            timeout: Seconds for the whole attempt, from resolving the name to the last byte of the answer.

        Returns:
            The answer; every failure of network and peer is one too.
        """
        oversize = too_large(request)
        if oversize is not None:
            return oversize
        deadline = time.monotonic() + timeout
        state = self._own_state()
        if timeout <= 0 or not state.lock.acquire(timeout=timeout):
            return Answer(Verdict.RETRY, "no time left for an attempt")
        try:
            if self._closed:
                return Answer(Verdict.RETRY, "the sender is closed")
            with quiet():
                return self._attempt(state, request, deadline, timeout)
        finally:
            state.lock.release()

    def close(self) -> None:
        """Close all connections, for good; a `send` that waits in another thread answers at once."""
        self._closed = True
        state = self._own_state()
        state.guard.cut()
        # An attempt under way sees its connection end, and closes the session itself.
        if state.lock.acquire(blocking=False):
            try:
                state.close()
            finally:
                state.lock.release()

    def _own_state(self) -> _State:
        """Return the connections of this process; those of the parent are let go without a word to the peer."""
        if self._state.pid != os.getpid():
            inherited, self._state = self._state, _State()
            inherited.abandon()
        return self._state

    def _attempt(self, state: _State, request: bytes, deadline: float, timeout: float) -> Answer:
        guard = state.guard
        guard.start(deadline)
        try:
            body = zlib.compress(request, 1, wbits=31) if self._settings.gzip else request
            with self._post(state.open(), body, guard.left) as response:
                content = _read(response)
                if guard.expired:
                    # Without a length, a body that was cut at the deadline looks complete.
                    return Answer(Verdict.RETRY, f"no complete answer within {timeout:g} s")
                return self._judge(response, content)
        except Exception as error:  # noqa: BLE001 - whatever a peer provokes in four libraries is an answer, not a crash
            if guard.closed:
                return Answer(Verdict.RETRY, "the sender was closed meanwhile")
            if guard.expired:
                return Answer(Verdict.RETRY, f"no complete answer within {timeout:g} s")
            return answer_to_failure(error, self._settings)
        finally:
            guard.stop()
            if self._closed:
                state.close()

    def _post(self, session: requests.Session, body: bytes, seconds: float) -> requests.Response:
        settings = self._settings
        certificate: str | tuple[str, str] | None = settings.client_certificate
        if certificate and settings.client_key:
            certificate = (settings.client_certificate or "", settings.client_key)
        return session.request(
            "POST",
            settings.endpoint,
            data=body,
            headers=self._headers,
            timeout=seconds,
            allow_redirects=False,
            stream=True,
            # Given with the request: set on the session, REQUESTS_CA_BUNDLE would win over it.
            verify=settings.certificate or True,
            cert=certificate,
        )

    def _fixed_headers(self) -> dict[str, str | bytes]:
        headers: dict[str, str | bytes] = {"user-agent": USER_AGENT}
        # http.client would write text as Latin-1.
        headers.update((name, value.encode()) for name, value in self._settings.headers)
        for name in ("content-length", "content-encoding", "transfer-encoding", "host"):
            headers.pop(name, None)  # the frame of the request is ours
        headers["content-type"] = "application/x-protobuf"
        headers["accept-encoding"] = "identity"
        if self._settings.gzip:
            headers["content-encoding"] = "gzip"
        return headers

    def _judge(self, response: requests.Response, content: bytes | None) -> Answer:
        status = response.status_code
        if 200 <= status < 300 and not (self._signal and status == 202):
            return _success(response, content)
        said = _message(response, content)
        if self._speaks_to_tls(status, said):
            return Answer(Verdict.BLOCKED, wording(f"HTTP {status}: the destination wants https:// ({said})"))
        reason = wording(_status_line(response) + (f": {said}" if said else ""))
        if status in _RETRY or status == 202:
            return Answer(Verdict.RETRY, reason, retry_after=_retry_after(response))
        if status == 413:
            return Answer(Verdict.TOO_LARGE, reason)
        if 400 <= status < 500 and status not in _BLOCKED:
            return Answer(Verdict.REFUSED, reason)
        # 1xx and 3xx lead elsewhere; _BLOCKED is explained there. All other 5xx must not be retried as 503 is, says
        # OTLP, and must not cost a record, say we: whether the records or the destination are at fault is not known,
        # so nothing is set aside, the destination is probed at leisure, and an operator sees it.
        return Answer(Verdict.BLOCKED, reason, retry_after=_retry_after(response))

    def _speaks_to_tls(self, status: int, said: str) -> bool:
        """Tell whether a server with TLS complains about plain HTTP: as a mere 400 it would condemn every record."""
        lowered = said.lower()
        plain = self._settings.endpoint.startswith("http:")
        return plain and status in (400, 497) and "http request" in lowered and "https" in lowered


class _State:
    """What belongs to one process: the session, its connections, and the lock around them."""

    def __init__(self) -> None:
        self.pid = os.getpid()
        self.lock = threading.Lock()
        self.guard = Guard()
        self._session: GuardedSession | None = None

    def open(self) -> GuardedSession:
        """Return the session, made at the first use."""
        if self._session is None:
            self._session = GuardedSession(self.guard)
        return self._session

    def close(self) -> None:
        """Close the session; the next `open` makes a new one."""
        session, self._session = self._session, None
        if session is not None:
            session.close()
        self.guard.close_connections()

    def abandon(self) -> None:
        """Close the inherited file descriptors, taking no lock: any of them may have been held at the fork."""
        self.guard.abandon()


def _read(response: requests.Response) -> bytes | None:
    """Read and decompress a body, both bounded; None where it is too large or its compression is broken.

    The connection is not reused then: leaving the response's context closes it.
    """
    coding = response.headers.get("Content-Encoding", "").strip().lower()
    if coding not in ("", "identity", "gzip", "x-gzip", "deflate"):
        return None
    inflater = zlib.decompressobj(wbits=47) if coding not in ("", "identity") else None
    content = bytearray()
    received = 0
    while piece := response.raw.read(_CHUNK, decode_content=False):
        received += len(piece)
        if inflater is not None:
            try:
                piece = inflater.decompress(piece, MAX_RESPONSE + 1 - len(content))
            except zlib.error:
                return None
        content += piece
        if max(received, len(content)) > MAX_RESPONSE:
            return None
    if inflater is not None and received and not inflater.eof:
        return None
    return bytes(content)


def _media_type(response: requests.Response) -> str:
    return response.headers.get("Content-Type", "").partition(";")[0].strip().lower()


def _success(response: requests.Response, content: bytes | None) -> Answer:
    """Judge a 2xx by its body, which alone tells of records that were rejected.

    A body that cannot be read is an error: it is often a web page, from a proxy or a portal that never passed the
    request on, and even the collector's own may have held a rejection. Nothing is known to have arrived, so the request
    is repeated; a collector that did take it sees the same record ids again, which costs less than a lost record.
    """
    if content is None:
        return Answer(Verdict.RETRY, wording(f"{_status_line(response)}: body above 4 MiB, or wrongly compressed"))
    if not content:
        return Answer(Verdict.ACCEPTED)  # an empty body is an empty message, in protobuf, and 204 has none
    media = _media_type(response)
    if media == "application/json":
        answer = _json_success(content)
    else:
        message = parse_response(content, strict=media not in _PROTOBUF)
        answer = None if message is None else answer_to_message(message)
    unreadable = f"{_status_line(response)}: the body ({media or 'of no type'}) is no answer of an OTLP collector"
    return answer or Answer(Verdict.RETRY, wording(unreadable))


def _json_success(content: bytes) -> Answer | None:
    """Judge the JSON form of the response; some collectors use it whatever the request was. None where it is none."""
    try:
        document = json.loads(content)
        partial = document.get("partialSuccess") or {}
        rejected = partial.get("rejectedLogRecords", partial.get("rejectedAuditRecords")) or 0
        # Protobuf's JSON writes 64-bit integers as text.
        return answer_to_response(int(rejected), str(partial.get("errorMessage") or ""))
    except (ValueError, AttributeError, TypeError, RecursionError, OverflowError):
        return None


def _message(response: requests.Response, content: bytes | None) -> str:
    """Return what the destination says about an error, where it says so in a form made for that."""
    if not content:
        location = response.headers.get("Location", "") if 300 <= response.status_code < 400 else ""
        return f"redirects to {location.partition('?')[0]}, which is not followed" if location else ""
    media = _media_type(response)
    if media in _PROTOBUF:
        status = parse_status(content)
        return status.message if status is not None else ""
    text = content[:2000].decode("utf-8", "replace")
    if media == "application/json":
        try:
            document: Any = json.loads(content)
            said = document.get("message") or document.get("error") or ""
            return said if isinstance(said, str) else ""
        except (ValueError, AttributeError, RecursionError):
            return text
    return text if media == "text/plain" else ""


def _status_line(response: requests.Response) -> str:
    code = response.status_code
    phrase = response.reason or (HTTPStatus(code).phrase if code in HTTPStatus._value2member_map_ else "")
    return f"HTTP {code} {phrase}".rstrip()


def _retry_after(response: requests.Response) -> float | None:
    """Return the seconds of a ``Retry-After`` header, which is a number or a date; None where it is neither."""
    value = response.headers.get("Retry-After", "").strip()
    if value.isascii() and value.isdigit():
        return usable_delay(float(value[:9]))
    try:
        moment = email.utils.parsedate_to_datetime(value)
        # A date in the past means "now".
        return usable_delay(max(moment.timestamp() - time.time(), 0.0))
    except (ValueError, OverflowError, TypeError, IndexError):
        return None
