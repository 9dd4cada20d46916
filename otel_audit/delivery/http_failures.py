"""What it means for the records when an HTTP attempt fails without an answer."""

from __future__ import annotations

import re
import socket
import ssl
from collections.abc import Iterator
from http.client import BadStatusLine, RemoteDisconnected
from pathlib import Path

import requests
from urllib3.exceptions import NameResolutionError

from otel_audit.delivery.answers import wording
from otel_audit.delivery.sender import Answer, Verdict
from otel_audit.otlp_settings import OtlpSettings

__all__ = ["answer_to_failure"]

# What OpenSSL calls it when the other side does not speak TLS at all.
_NO_TLS = frozenset({"WRONG_VERSION_NUMBER", "HTTP_REQUEST", "HTTPS_PROXY_REQUEST", "PACKET_LENGTH_TOO_LONG",
                     "RECORD_LAYER_FAILURE", "UNKNOWN_PROTOCOL", "BAD_RECORD_TYPE"})  # fmt: skip
_CLIENT_CERTIFICATE = re.compile(r"ALERT_(CERTIFICATE_REQUIRED|BAD_CERTIFICATE|HANDSHAKE_FAILURE|UNKNOWN_CA)")
# A proxy refused to connect us: its status counts like that of the destination.
_TUNNEL = re.compile(r"Tunnel connection failed: (4\d\d)")
# What requests raises for a setting that no network can mend.
_SETTINGS = (
    requests.exceptions.InvalidURL,
    requests.exceptions.InvalidHeader,
    requests.exceptions.InvalidSchema,
    requests.exceptions.MissingSchema,
    UnicodeError,
)


def answer_to_failure(error: Exception, settings: OtlpSettings) -> Answer:
    """Judge an attempt that failed: what an operator has to mend blocks, everything else is retried.

    Args:
        error: As requests, urllib3, `http.client` or `ssl` raised it; the causes that it wraps are looked through.
        settings: Those of the attempt.

    Returns:
        An answer with `Verdict.BLOCKED` or `Verdict.RETRY`.
    """
    causes = list(_causes(error))
    for cause in causes:
        if isinstance(cause, ssl.SSLError):
            return _tls(cause, settings)
        refused = _TUNNEL.search(str(cause))
        if refused:
            return Answer(Verdict.BLOCKED, wording(f"the proxy refuses the connection: HTTP {refused[1]}"))
        if isinstance(cause, BadStatusLine) and not isinstance(cause, RemoteDisconnected):
            return _no_http(cause)
    unreadable = _unreadable_file(settings)
    if unreadable:
        return Answer(Verdict.BLOCKED, wording(unreadable))
    deepest = causes[-1]
    if any(isinstance(cause, _SETTINGS) for cause in causes):
        return Answer(Verdict.BLOCKED, wording(f"the settings cannot be used: {deepest}"))
    if any(isinstance(cause, NameResolutionError | socket.gaierror) for cause in causes):
        # Also "no such name": the name service of a machine that starts, or is cut off, says so for names that exist.
        return Answer(Verdict.RETRY, wording(f"the name cannot be resolved: {deepest}"))
    text = str(deepest) or type(deepest).__name__
    if any(isinstance(cause, ConnectionRefusedError) for cause in causes):
        return Answer(Verdict.RETRY, wording(text))
    return Answer(Verdict.RETRY, wording(f"no connection, or it was lost: {text}"))


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Walk down to the deepest cause: urllib3 keeps it as `reason` or argument, Python as cause or context."""
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        yield current
        inner = [current.__cause__, getattr(current, "reason", None), *current.args, current.__context__]
        current = next((one for one in inner if isinstance(one, BaseException) and id(one) not in seen), None)


def _tls(error: ssl.SSLError, settings: OtlpSettings) -> Answer:
    if isinstance(error, ssl.SSLCertVerificationError):
        said = error.verify_message or str(error)
        return Answer(Verdict.BLOCKED, wording(f"TLS: the destination's certificate is not accepted: {said}"))
    name = error.reason or ""
    if isinstance(error, ssl.SSLEOFError | ssl.SSLZeroReturnError) or "UNEXPECTED_EOF" in name or not name:
        # What a load balancer without a backend, or a restart, looks like.
        return Answer(Verdict.RETRY, wording(f"TLS: the connection ended: {error}"))
    if name in _NO_TLS:
        return Answer(Verdict.BLOCKED, wording(f"TLS: the destination does not speak TLS on this port ({name})"))
    hint = ""
    if _CLIENT_CERTIFICATE.search(name):
        hint = "; it does not accept the client certificate" if settings.client_certificate else (
            "; it may want a client certificate, and none is set"
        )  # fmt: skip
    return Answer(Verdict.BLOCKED, wording(f"TLS: {name.lower().replace('_', ' ')}{hint}"))


def _no_http(error: BadStatusLine) -> Answer:
    # A TLS alert: the record type 21, then version 3.x.
    if str(error).lstrip("'\"").startswith(("\x15\x03", "\\x15\\x03")):
        return Answer(Verdict.BLOCKED, "the destination speaks TLS on this port: the endpoint needs https://")
    return Answer(Verdict.RETRY, wording(f"the answer is not HTTP: {error}"))


def _unreadable_file(settings: OtlpSettings) -> str:
    """Name the certificate or key file that cannot be read; requests says so with a bare OSError."""
    for path in (settings.certificate, settings.client_certificate, settings.client_key):
        if path is not None and not Path(path).is_dir():
            try:
                Path(path).open("rb").close()
            except OSError as error:
                return f"TLS: {error}"
    return ""
