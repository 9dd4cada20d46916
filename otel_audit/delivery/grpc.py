"""The OTLP/gRPC sender: one call with ready bytes, and what the status means for the records in it."""

from __future__ import annotations

import re
import threading
import time
from pathlib import Path
from typing import TypeAlias

import grpc
from google.protobuf.message import DecodeError
from google.rpc.error_details_pb2 import RetryInfo

from otel_audit import forksafe
from otel_audit.delivery.answers import (
    MAX_REQUEST,
    MAX_RESPONSE,
    USER_AGENT,
    answer_to_message,
    parse_response,
    parse_status,
    quiet,
    too_large,
    usable_delay,
    wording,
)
from otel_audit.delivery.sender import Answer, Verdict
from otel_audit.errors import ConfigError
from otel_audit.otlp_settings import OtlpSettings

__all__ = ["GrpcSender"]

_METHOD = "/opentelemetry.proto.collector.logs.v1.LogsService/Export"
_Call: TypeAlias = "grpc.UnaryUnaryMultiCallable[bytes, bytes]"

_RETRY = frozenset(
    {
        grpc.StatusCode.CANCELLED,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.ABORTED,
        grpc.StatusCode.OUT_OF_RANGE,
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DATA_LOSS,
    }
)
_REFUSED = frozenset(
    {grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.FAILED_PRECONDITION, grpc.StatusCode.ALREADY_EXISTS}
)
# A connection that ended so may be dead without knowing, or wait in gRPC's own backoff of up to two minutes, which
# would come on top of ours: the next attempt makes a new one.
_RECONNECT = frozenset({grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED})
# How the implementations say that a message is too long: C++ and Python "Received message larger than max (8 vs. 4)",
# Go "grpc: received message larger than max", Java "gRPC message exceeds maximum size", Rust (with OUT_OF_RANGE)
# "decoded message length too large: found 8 bytes, the limit is: 4 bytes".
_TOO_LARGE = re.compile(r"larger than max|too large|exceeds (the )?max", re.IGNORECASE)
# How long a fork waits for a call to be answered, and then, once it was ended, to return, which takes a millisecond.
_GRACE_SECONDS = 0.2
_FORK_SECONDS = 2.0
_SETTLE_SECONDS = 0.05
# The default limit of gRPC servers; a request below it meets no limit that nobody lowered.
_USUAL_LIMIT = 4 * 1024 * 1024
# BoringSSL's own names, and gRPC's words for a name that the certificate lacks.
# They stand in the details of UNAVAILABLE.
_TLS = (
    (re.compile(r"CERTIFICATE_VERIFY_FAILED(?:: [a-z' -]+)?"), "the destination's certificate is not accepted"),
    (
        re.compile(r"is not in peer certificate|Hostname Verification Check failed"),
        "the certificate is for another name",
    ),
    (re.compile(r"WRONG_VERSION_NUMBER|HTTP_REQUEST"), "the destination does not speak TLS on this port"),
    (re.compile(r"(TLSV1_ALERT|TLSV13_ALERT|SSLV3_ALERT)_[A-Z_]+"), "the destination refuses the handshake"),
    (re.compile(r"Failed to create security handshaker"), "a certificate or key file cannot be used"),
    (re.compile(r"NO_SHARED_CIPHER|UNSUPPORTED_PROTOCOL|HANDSHAKE_FAILURE"), "no common version or cipher"),
)


class GrpcSender(forksafe.ForkAware):
    """Sends OTLP over gRPC.

    A fork waits a moment for the call under way, then ends it, with the answer `RETRY`: gRPC aborts children that are
    forked during a call. The child makes a channel of its own.

    Args:
        settings: Where and how; `OtlpSettings.endpoint` is ``host:port``.

    Raises:
        ConfigError: The settings are those of another protocol.
    """

    def __init__(self, settings: OtlpSettings) -> None:
        if settings.protocol != "grpc":
            raise ConfigError(f"protocol is {settings.protocol!r}", "GrpcSender takes grpc")
        self._settings = settings
        # User agents are the channel's business.
        self._metadata = tuple((name, value) for name, value in settings.headers if name != "user-agent")
        self._compression = grpc.Compression.Gzip if settings.gzip else grpc.Compression.NoCompression
        self._condition = threading.Condition()
        self._channel: grpc.Channel | None = None
        self._call: _Call | None = None
        self._in_flight = 0
        self._forking = self._held = self._closed = False
        forksafe.register(self)

    @property
    def endpoint(self) -> str:
        """Return the destination as a URL; the scheme tells whether there is TLS."""
        return f"{'http' if self._settings.insecure else 'https'}://{self._settings.endpoint}"

    def send(self, request: bytes, timeout: float) -> Answer:
        """Send one request and wait for the answer.

        Args:
            request: A serialized ``ExportLogsServiceRequest``.
            timeout: Seconds for the whole attempt, connecting included.

        Returns:
            The answer; every failure of network and peer is one too.
        """
        oversize = too_large(request)
        if oversize is not None:
            return oversize
        if timeout <= 0:
            return Answer(Verdict.RETRY, "no time left for an attempt")
        deadline = time.monotonic() + timeout
        try:
            call = self._begin()
        except OSError as error:
            return Answer(Verdict.BLOCKED, wording(f"TLS: {error}"))
        if call is None:
            return Answer(Verdict.RETRY, "the sender is closed")
        try:
            with quiet():
                body, _ = call.with_call(
                    request,
                    timeout=max(deadline - time.monotonic(), 0.001),
                    metadata=self._metadata,
                    compression=self._compression,
                )
        except grpc.RpcError as error:
            return self._failure(error, call, request, timeout)
        except ValueError as error:
            # grpcio says so about metadata that it cannot send, and about a channel that was closed a moment ago: by
            # `close`, before a fork, or by a call that failed in another thread.
            verdict = Verdict.BLOCKED if self._call is call else Verdict.RETRY
            return Answer(verdict, wording(f"gRPC: {error}"))
        finally:
            self._end()
        message = parse_response(body)
        if message is None:
            # As over HTTP: nothing is known to have arrived, and a repetition carries the same record ids.
            return Answer(Verdict.RETRY, "OK, but the answer is none of an OTLP collector")
        return answer_to_message(message)

    def close(self) -> None:
        """Close the channel, for good; a `send` that waits in another thread answers at once."""
        self._closed = True
        with self._condition:
            self._drop()

    def before_fork(self) -> None:
        """Wait for the call under way, end it if it takes long, and hold off new ones until the fork is done."""
        self._forking = True
        # Bounded, since a signal handler may fork in the middle of anything: better a risk than a process that hangs.
        self._held = self._condition.acquire(timeout=_FORK_SECONDS)
        if self._held and not self._condition.wait_for(lambda: not self._in_flight, timeout=_GRACE_SECONDS):
            self._drop()
            self._condition.wait_for(lambda: not self._in_flight, timeout=_FORK_SECONDS)
            # gRPC's own threads go on closing after that; forked under them, one child in a hundred hung.
            time.sleep(_SETTLE_SECONDS)

    def after_fork_in_parent(self) -> None:
        """Go on, in the parent."""
        self._forking = False
        if self._held:
            self._held = False
            self._condition.notify_all()
            self._condition.release()

    def after_fork_in_child(self) -> None:
        """Begin anew, in the child: threads that held the lock or were in a call do not exist here."""
        self._condition = threading.Condition()
        self._in_flight = 0
        self._forking = self._held = False
        if self._channel is not None:
            # Forked by C code, which runs no handler before. Closing the channel here could end the parent's calls.
            _inherited.append(self._channel)
        self._channel = self._call = None

    def _begin(self) -> _Call | None:
        """Return the method to call, with a channel made at the first use; None after `close`."""
        with self._condition:
            self._condition.wait_for(lambda: not self._forking)
            if self._closed:
                return None
            if self._call is None:
                self._channel = self._connect()
                # Bytes in and bytes out: without serializers grpcio passes them as they are.
                self._call = self._channel.unary_unary(_METHOD)
            self._in_flight += 1
            return self._call

    def _end(self) -> None:
        with self._condition:
            self._in_flight -= 1
            self._condition.notify_all()

    def _connect(self) -> grpc.Channel:
        settings = self._settings
        options = (
            ("grpc.max_receive_message_length", MAX_RESPONSE),
            ("grpc.max_send_message_length", MAX_REQUEST),
            ("grpc.primary_user_agent", USER_AGENT),
            # The retries are ours; gRPC's own would run within one attempt and hide what the destination said.
            ("grpc.enable_retries", 0),
            # Otherwise a new channel would share connection and backoff with the one it replaces.
            ("grpc.use_local_subchannel_pool", 1),
        )
        if settings.insecure:
            return grpc.insecure_channel(settings.endpoint, options=options)
        # A certificate file may hold the key as well.
        key = settings.client_key or settings.client_certificate
        credentials = grpc.ssl_channel_credentials(
            root_certificates=_content(settings.certificate),
            private_key=_content(key),
            certificate_chain=_content(settings.client_certificate),
        )
        return grpc.secure_channel(settings.endpoint, credentials, options=options)

    def _drop(self) -> None:
        """Close the channel, which ends its calls; the next one makes a new channel. Needs the lock."""
        channel, self._channel, self._call = self._channel, None, None
        if channel is not None:
            channel.close()

    def _failure(self, error: grpc.RpcError, call: _Call, request: bytes, timeout: float) -> Answer:
        code, details = error.code(), error.details() or ""
        if code in _RECONNECT:
            with self._condition:
                if self._call is call:
                    self._drop()
        if code is grpc.StatusCode.DEADLINE_EXCEEDED:
            details = details or f"no answer within {timeout:g} s"
        message, delay = _status_details(error)
        reason = f"{code.name}: {details}" if details else code.name
        if message and message not in details:
            reason = f"{reason} ({message})"
        verdict, hint = _judge(code, details, request, has_delay=delay is not None)
        if not self._settings.insecure and not self._settings.client_certificate and "Socket closed" in details:
            # All that TLS 1.3 lets gRPC see where a client certificate is wanted; a restart looks the same.
            reason += " (no client certificate is set: it may want one)"
        return Answer(verdict, wording(f"{hint}{reason}"), retry_after=delay)


# Channels of a parent process, kept so that the garbage collector does not close them either.
_inherited: list[grpc.Channel] = []


def _content(path: str | None) -> bytes | None:
    return Path(path).read_bytes() if path else None


def _status_details(error: grpc.RpcError) -> tuple[str, float | None]:
    """Return message and retry delay of the ``google.rpc.Status`` that comes with a failure, where there is one."""
    for entry in error.trailing_metadata() or ():
        if entry.key == "grpc-status-details-bin" and isinstance(entry.value, bytes):
            status = parse_status(entry.value)
            for detail in status.details if status is not None else ():
                if detail.type_url.endswith("/google.rpc.RetryInfo"):
                    try:
                        delay = RetryInfo.FromString(detail.value).retry_delay
                    except DecodeError:
                        continue
                    return status.message if status else "", usable_delay(delay.seconds + delay.nanos / 1e9)
            return status.message if status is not None else "", None
    return "", None


def _judge(code: grpc.StatusCode, details: str, request: bytes, *, has_delay: bool) -> tuple[Verdict, str]:
    """Return the verdict on a failed call, and words to put before the status."""
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED:
        return _exhausted(details, request, has_delay=has_delay), ""
    if code is grpc.StatusCode.OUT_OF_RANGE and _TOO_LARGE.search(details):
        # The code is one to retry, but Rust's tonic uses it for a message above its limit: retried, it would stand in
        # the way of all that follows, for ever.
        return Verdict.TOO_LARGE, ""
    if code is grpc.StatusCode.UNAVAILABLE:
        for pattern, meaning in _TLS:
            found = pattern.search(details)
            if found:
                return Verdict.BLOCKED, f"TLS: {meaning} [{found[0]}]: "
    if code in _RETRY or (code is grpc.StatusCode.UNKNOWN and "Stream removed" in details):
        # "Stream removed" is what grpcio says of its own accord where a connection is lost in the middle of a call.
        return Verdict.RETRY, ""
    if code in _REFUSED:
        return Verdict.REFUSED, ""
    # UNAUTHENTICATED, PERMISSION_DENIED, UNIMPLEMENTED, NOT_FOUND: an operator's work. INTERNAL and UNKNOWN are, like
    # HTTP 500, not to be retried and not known to be the records' fault: probed and shown, nothing set aside.
    return Verdict.BLOCKED, ""


def _exhausted(details: str, request: bytes, *, has_delay: bool) -> Verdict:
    """Judge RESOURCE_EXHAUSTED, which means "later" with RetryInfo, and otherwise one of three things.

    A message above a limit is said with this code, and only taking the batch apart gets it through. But a collector
    short of memory and a tenant above its quota are said with it too, and there bisecting would set aside every record
    of the backlog, one by one. So: words about size, or a request above the usual limit, mean too large; anything else
    blocks, which sets nothing aside, probes, and is shown.
    """
    if has_delay:
        return Verdict.RETRY
    if "CLIENT:" in details:
        # grpcio's own limit on the *response*: the request may have been accepted. As with an unreadable response.
        return Verdict.RETRY
    if _TOO_LARGE.search(details) or len(request) > _USUAL_LIMIT:
        return Verdict.TOO_LARGE
    return Verdict.BLOCKED
