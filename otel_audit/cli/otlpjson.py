"""Records as OTLP/JSON, as they are shipped: the stored bytes with what the commit added."""

from __future__ import annotations

import base64
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

# The only module of the command line that needs the generated classes, which take 60-90 ms to import.
from google.protobuf.json_format import MessageToDict
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest

from otel_audit.archive.query import Archive, Row
from otel_audit.cli.hide import without_address
from otel_audit.errors import ArchiveError
from otel_audit.otlp import Profile, decode, encode, frame, read_log, shipped, stream_attribute
from otel_audit.safe import json_text

if TYPE_CHECKING:
    from otel_audit.fleet.fleet import Fleet

__all__ = ["request_text"]

_IDS: Final = ("traceId", "spanId")


def request_text(source: Archive | Fleet, *, show_address: bool) -> Callable[[Row], str]:
    """Return a function that gives a row as an ``ExportLogsServiceRequest`` in OTLP/JSON.

    Source: OTLP 1.11, *JSON Protobuf Encoding*: trace and span ids are hexadecimal, enumerations are integers.

    Args:
        source: Where the rows come from.
        show_address: False: without the sessions' addresses.
    """
    own = source.id if isinstance(source, Archive) else ""
    streams: dict[str | None, bytes] = {}
    headers: dict[int, tuple[bytes, bytes]] = {}

    def text(row: Row) -> str:
        if row.resource not in headers:
            headers[row.resource] = source.header(row.resource)
        otlp = row.otlp if show_address else _without_address(row)
        resource, scope = headers[row.resource]
        if row.stream_id not in streams:
            streams[row.stream_id] = stream_attribute(row.stream_id or own)
        field = shipped(otlp, row.record_id, row.sequence, streams[row.stream_id])
        request = ExportLogsServiceRequest.FromString(frame([(resource, scope, [field])]))
        data: dict[str, Any] = MessageToDict(request, use_integers_for_enums=True)
        for resource_logs in data["resourceLogs"]:
            for scope_logs in resource_logs["scopeLogs"]:
                for log in scope_logs["logRecords"]:
                    log.update({name: base64.b64decode(log[name]).hex() for name in _IDS if name in log})
        return json_text(data)

    return text


def _without_address(row: Row) -> bytes:
    try:
        record = decode(row.otlp, row.record_id)
        # What has no severity was recorded in the profile without one.
        profile: Profile = "logs" if read_log(row.otlp).severity else "signal"
    except ValueError as error:
        raise ArchiveError(f"record {row.sequence} cannot be decoded: {error}", "the archive was damaged") from error
    return encode(without_address(record), profile)
