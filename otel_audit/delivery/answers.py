"""What the senders share: how answers are worded, and how a destination's response message becomes an answer."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from google.protobuf.message import DecodeError
from google.rpc.status_pb2 import Status
from opentelemetry import context
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceResponse

from otel_audit._version import __version__
from otel_audit.delivery.sender import Answer, Verdict

__all__ = [
    "MAX_REQUEST",
    "MAX_RESPONSE",
    "USER_AGENT",
    "answer_to_message",
    "answer_to_response",
    "parse_response",
    "parse_status",
    "quiet",
    "too_large",
    "usable_delay",
    "wording",
]

USER_AGENT = f"otel-audit/{__version__}"
MAX_REQUEST = 64 * 1024 * 1024
"""Bytes of a request before compression (OTLP 1.11)."""
MAX_RESPONSE = 4 * 1024 * 1024
"""Bytes of a response after decompression (OTLP 1.11)."""
_MAX_WORDING = 300
_MAX_DELAY = 3600.0
# The instrumentations of requests, urllib3 and grpcio look for this key; without it every shipped batch would make a
# span, and where spans are logged and the logs audited, shipping would feed itself.
_SUPPRESS = "suppress_instrumentation"


def wording(text: str) -> str:
    """Return `text` as one line for a person: a peer wrote it, so what could steer a terminal is escaped.

    Args:
        text: Anything, also with control characters, lone surrogates or overrides of writing direction.

    Returns:
        At most 300 characters.
    """
    # Cut first: escaping makes a character at most ten times as long, and the text may be megabytes.
    line = " ".join(text[: _MAX_WORDING * 4].split(" ")).strip()
    escaped = "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode("ascii")
        for character in line
    )
    return escaped if len(escaped) <= _MAX_WORDING else escaped[: _MAX_WORDING - 1] + "…"


def usable_delay(seconds: float) -> float | None:
    """Return a delay that a peer asked for, at most an hour; None where it is no usable number."""
    # Not "seconds < 0": a NaN must fail as well.
    return min(seconds, _MAX_DELAY) if seconds >= 0 else None


def too_large(request: bytes) -> Answer | None:
    """Answer for the destination where a request is above what OTLP allows; None where it is not."""
    if len(request) <= MAX_REQUEST:
        return None
    return Answer(Verdict.TOO_LARGE, f"the request of {len(request)} bytes is above the 64 MiB that OTLP allows")


def parse_response(body: bytes, *, strict: bool = False) -> ExportLogsServiceResponse | None:
    """Parse a response message.

    Args:
        body: The serialized message; empty is a valid, empty message.
        strict: Refuse unknown fields too. A peer that says it sends protobuf may send a newer message; one that does
            not say so may send any text, and short texts can pass for a message of unknown fields.

    Returns:
        The message, or None where `body` is none.
    """
    try:
        message = ExportLogsServiceResponse.FromString(body)
    except DecodeError:
        return None
    if strict:
        message.DiscardUnknownFields()
        if message.ByteSize() != len(body):
            return None
    return message


def parse_status(body: bytes) -> Status | None:
    """Parse a ``google.rpc.Status``; None where `body` is none."""
    try:
        return Status.FromString(body)
    except DecodeError:
        return None


def answer_to_response(rejected: int, message: str) -> Answer:
    """Turn the partial success of a response into an answer.

    Args:
        rejected: How many records were rejected; 0 also where the response says nothing about it.
        message: The destination's words; with 0 rejected a warning, which stays as the reason.
    """
    if rejected < 0:
        # Nonsense, and read as "none were rejected" it could drop records: keep them and show it.
        return Answer(Verdict.RETRY, wording(f"unreadable answer: {rejected} records rejected"))
    if rejected == 0:
        return Answer(Verdict.ACCEPTED, wording(f"warning: {message}") if message.strip() else "")
    said = f": {message}" if message.strip() else ""
    return Answer(Verdict.PARTIAL, wording(f"{rejected} records rejected{said}"), rejected=rejected)


def answer_to_message(message: ExportLogsServiceResponse) -> Answer:
    """Turn a response message into an answer; one without a partial success means that all is well."""
    partial = message.partial_success
    return answer_to_response(partial.rejected_log_records, partial.error_message)


@contextmanager
def quiet() -> Iterator[None]:
    """Keep instrumentations of the HTTP and gRPC libraries from tracing what the senders do."""
    token = context.attach(context.set_value(_SUPPRESS, True))
    try:
        yield
    finally:
        context.detach(token)
