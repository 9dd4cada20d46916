"""What the testing collector received, and what it is told to answer."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import DecodeError
from google.rpc.code_pb2 import Code
from google.rpc.error_details_pb2 import RetryInfo
from google.rpc.status_pb2 import Status
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import (
    ExportLogsPartialSuccess,
    ExportLogsServiceRequest,
    ExportLogsServiceResponse,
)

from otel_audit.attributes import RECORD_ID
from otel_audit.delivery.values import attributes, plain_value

__all__ = ["Call", "LogRecord", "Reply"]

# The status that a collector with both protocols would give over gRPC for one that it gives over HTTP.
_CODES = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "UNIMPLEMENTED",
    409: "ALREADY_EXISTS",
    413: "RESOURCE_EXHAUSTED",
    422: "INVALID_ARGUMENT",
    429: "UNAVAILABLE",
    502: "UNAVAILABLE",
    503: "UNAVAILABLE",
    504: "UNAVAILABLE",
}


@dataclass(frozen=True, kw_only=True)
class Reply:
    """One answer of a scripted collector; ``Reply()`` accepts.

    Args:
        status: The HTTP status. Over gRPC the status that corresponds, where `code` is not given.
        code: The gRPC status by its name, such as ``"UNAVAILABLE"``.
        headers: Further HTTP headers of the answer, such as ``{"Retry-After": "1"}``.
        body: The body over HTTP, the response message over gRPC; what fits the status where not given.
        content_type: Of the body.
        message: The message of the partial success, or of the ``google.rpc.Status`` of an error.
        rejected: How many records of the request are rejected: the last ones, and they are not kept.
        retry_after: Seconds: ``Retry-After`` over HTTP, ``RetryInfo`` over gRPC.
        drop: Drop the connection ``"before"`` reading the request, or ``"after"``; the request is not kept then.
        lose_answer: Keep the records, but drop the connection instead of answering.
        delay: Seconds to wait before answering.
        drip: Seconds to wait after each byte of the answer.
    """

    status: int = 200
    code: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | None = None
    content_type: str = "application/x-protobuf"
    message: str = ""
    rejected: int = 0
    retry_after: float | None = None
    drop: Literal["before", "after"] | None = None
    lose_answer: bool = False
    delay: float = 0.0
    drip: float = 0.0

    def __post_init__(self) -> None:
        if self.code is not None and self.code not in set(Code.keys()):
            raise ValueError(f"{self.code!r} is no gRPC status: use one of {', '.join(Code.keys())}")

    @property
    def grpc_code(self) -> str:
        """The name of the status over gRPC."""
        if self.code is not None:
            return self.code
        return "OK" if 200 <= self.status < 300 else _CODES.get(self.status, "UNKNOWN")

    def keeps(self, protocol: str) -> bool:
        """Tell whether the collector keeps the records of the request that it answers so."""
        if self.drop is not None:
            return False
        return self.grpc_code == "OK" if protocol == "grpc" else 200 <= self.status < 300

    def response(self) -> bytes:
        """Return the body of a success."""
        if self.body is not None:
            return self.body
        if not self.rejected and not self.message:
            return b""
        partial = ExportLogsPartialSuccess(rejected_log_records=self.rejected, error_message=self.message)
        return ExportLogsServiceResponse(partial_success=partial).SerializeToString()

    def error(self) -> bytes:
        """Return the ``google.rpc.Status`` of a failure, which over HTTP is the body."""
        if self.body is not None:
            return self.body
        status = Status(code=Code.Value(self.grpc_code), message=self.message)
        if self.retry_after is not None:
            delay = Duration()
            delay.FromNanoseconds(round(self.retry_after * 1e9))
            status.details.add().Pack(RetryInfo(retry_delay=delay))
        return status.SerializeToString()


@dataclass(frozen=True)
class LogRecord:
    """One record as the collector received it.

    Args:
        attributes: By key; values are str, bool, int, float, bytes, lists and dicts.
        body: Likewise; None where there is none.
        event_name: The type of the event.
        time: Nanoseconds since the epoch; 0 where not set.
        observed_time: Likewise.
        severity: The number, 0 where not set.
        severity_text: The text.
        trace_id: 32 hexadecimal digits; empty where there is none.
        span_id: 16 hexadecimal digits; empty where there is none.
        flags: Trace flags.
        resource: The attributes of the resource.
        scope_name: Name of the instrumentation scope.
        scope_version: Version of the instrumentation scope.
    """

    attributes: dict[str, Any]
    body: Any
    event_name: str
    time: int
    observed_time: int
    severity: int
    severity_text: str
    trace_id: str
    span_id: str
    flags: int
    resource: dict[str, Any]
    scope_name: str
    scope_version: str

    @property
    def record_id(self) -> str | None:
        """The id that stays the same over repetitions; None where the producer gave none."""
        value = self.attributes.get(RECORD_ID)
        return value if isinstance(value, str) else None


@dataclass(frozen=True)
class Call:
    """One request that the collector read to its end.

    Args:
        protocol: ``http`` or ``grpc``.
        path: The path over HTTP, the method over gRPC.
        headers: Headers or metadata, names in lower case.
        body: The bytes as they came, over HTTP perhaps compressed.
        reply: The answer to it.
    """

    protocol: Literal["http", "grpc"]
    path: str
    headers: Mapping[str, str]
    body: bytes = field(repr=False)
    reply: Reply

    @property
    def kept(self) -> bool:
        """Whether the collector keeps the records."""
        return self.reply.keeps(self.protocol)

    def message(self) -> ExportLogsServiceRequest:
        """Decode the request.

        Raises:
            ValueError: The body is not what its headers say.
        """
        try:
            coded = self.headers.get("content-encoding", "").lower() == "gzip"
            body = zlib.decompress(self.body, wbits=31) if self.protocol == "http" and coded else self.body
            return ExportLogsServiceRequest.FromString(body)
        except (zlib.error, DecodeError) as error:
            raise ValueError(f"the request cannot be decoded: {error}") from error

    def count(self) -> int:
        """Return how many records are kept, without decoding each."""
        message = self.message()
        total = sum(len(scope.log_records) for resource in message.resource_logs for scope in resource.scope_logs)
        return max(total - self.reply.rejected, 0) if self.kept else 0

    def records(self) -> list[LogRecord]:
        """Return the records that are kept."""
        return list(_records(self.message()))[: self.count()]


def _records(message: ExportLogsServiceRequest) -> Iterator[LogRecord]:
    for resource_logs in message.resource_logs:
        resource = attributes(resource_logs.resource.attributes)
        for scope_logs in resource_logs.scope_logs:
            for record in scope_logs.log_records:
                yield LogRecord(
                    attributes=attributes(record.attributes),
                    body=plain_value(record.body),
                    event_name=record.event_name,
                    time=record.time_unix_nano,
                    observed_time=record.observed_time_unix_nano,
                    severity=record.severity_number,
                    severity_text=record.severity_text,
                    trace_id=record.trace_id.hex(),
                    span_id=record.span_id.hex(),
                    flags=record.flags,
                    resource=dict(resource),
                    scope_name=scope_logs.scope.name,
                    scope_version=scope_logs.scope.version,
                )
