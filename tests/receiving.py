"""``otel-audit receive`` as a process, and requests to it."""

from __future__ import annotations

import gzip
import http.client
import json
import re
import ssl
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self
from urllib.parse import urlsplit

from google.rpc.status_pb2 import Status
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord

from otel_audit.archive.query import open_archive
from otel_audit.record import AuditRecord
from tests.command_line import environment, popen

__all__ = [
    "COMPLETE",
    "TIME",
    "Answer",
    "Receiving",
    "binary",
    "json_request",
    "message",
    "post",
    "records",
    "status_of",
]

TIME = 1_700_000_000_000_000_000
COMPLETE = {
    "audit.actor.id": "alice",
    "audit.actor.type": "user",
    "audit.action": "DELETE",
    "audit.outcome": "success",
    "otel_audit.host": "example.com",
}
"""The attributes that the draft demands, and a host."""
_START_SECONDS = 60


class Answer(NamedTuple):
    """An answer of the receiver."""

    status: int
    headers: http.client.HTTPMessage
    body: bytes


class Receiving:
    """``otel-audit receive`` on a free port of the loopback.

    As a context manager it starts on entry, and on exit it ends by SIGTERM with status 0 and without complaints.

    Args:
        archive: The archive.
        options: Further options of the command.
        changes: Changes to the environment.
    """

    def __init__(self, archive: Path, *options: str | Path, listen: str = "127.0.0.1:0", **changes: str | None) -> None:
        self.archive = archive
        self._arguments = ("receive", "--archive", archive, "--listen", listen, *options)
        self._changes = changes
        self.process: subprocess.Popen[str] | None = None
        self.url = ""
        self.complaints = ""

    def __enter__(self) -> Self:
        """Start."""
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Stop."""
        self.stop(check=kind is None)

    def start(self) -> None:
        """Start, at the same address as before, and wait until it listens."""
        arguments = list(self._arguments)
        if self.url:
            arguments[4] = self.url.rpartition("/")[2]
        self.process = process = popen(*arguments, env=environment(**self._changes))
        assert process.stdout is not None
        line = process.stdout.readline()
        found = re.match(r"listening on (https?://\S+), recording to ", line)
        if found is None:
            process.kill()
            raise AssertionError(f"{line}{process.communicate()[1]}")
        self.url = found[1]

    def stop(self, *, check: bool = True) -> None:
        """Stop as a service manager does."""
        process, self.process = self.process, None
        if process is None:
            return
        process.terminate()
        try:
            _, self.complaints = process.communicate(timeout=_START_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            raise
        if check:
            assert (process.returncode, self.complaints) == (0, "")

    def kill(self) -> None:
        """Kill it, as a machine that crashes does."""
        process, self.process = self.process, None
        if process is not None:
            process.kill()
            process.communicate()


def message(attributes: Mapping[str, Any] = COMPLETE, record_id: str | None = None, **fields: Any) -> LogRecord:
    """Return a log record."""
    log = LogRecord(**{"time_unix_nano": TIME, "event_name": "order.deleted", **fields})
    identity = {} if record_id is None else {"audit.record.id": record_id}
    for key, value in {**attributes, **identity}.items():
        log.attributes.append(KeyValue(key=key, value=AnyValue(**_any(value))))
    return log


def _any(value: Any) -> dict[str, Any]:
    if isinstance(value, bool):
        return {"bool_value": value}
    kind = {str: "string_value", int: "int_value", float: "double_value", bytes: "bytes_value"}[type(value)]
    return {kind: value}


def binary(*logs: LogRecord, service: str = "shop", scope: str = "shop.orders") -> bytes:
    """Return a request that holds some log records."""
    request = ExportLogsServiceRequest()
    group = request.resource_logs.add()
    if service:
        group.resource.attributes.add(key="service.name", value=AnyValue(string_value=service))
    scope_logs = group.scope_logs.add()
    scope_logs.scope.name = scope
    scope_logs.log_records.extend(logs)
    return request.SerializeToString()


def json_request(*logs: Mapping[str, Any]) -> bytes:
    """Return a request in JSON that holds some log records."""
    resource = {"attributes": [{"key": "service.name", "value": {"stringValue": "shop"}}]}
    scope_logs = {"scope": {"name": "shop.orders"}, "logRecords": list(logs)}
    return json.dumps({"resourceLogs": [{"resource": resource, "scopeLogs": [scope_logs]}]}).encode()


def post(
    url: str,
    body: bytes,
    path: str = "/v1/logs",
    *,
    form: str = "application/x-protobuf",
    pack: bool = False,
    method: str = "POST",
    trust: Path | None = None,
    **headers: str,
) -> Answer:
    """Send a request and return the answer; header names with ``_`` for ``-``."""
    parts = urlsplit(url)
    assert parts.hostname is not None
    connection: http.client.HTTPConnection
    if parts.scheme == "https":
        context = ssl.create_default_context(cafile=None if trust is None else str(trust))
        connection = http.client.HTTPSConnection(parts.hostname, parts.port, timeout=60, context=context)
    else:
        connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=60)
    sent = {"Content-Type": form, **{name.replace("_", "-"): value for name, value in headers.items()}}
    if pack:
        body, sent["Content-Encoding"] = gzip.compress(body), "gzip"
    try:
        connection.request(method, path, body, sent)
        answer = connection.getresponse()
        return Answer(answer.status, answer.headers, answer.read())
    finally:
        connection.close()


def status_of(answer: Answer) -> tuple[int, str]:
    """Return code and message of a refusal, in either encoding."""
    if answer.headers["content-type"] == "application/json":
        told = json.loads(answer.body)
        return told["code"], told["message"]
    status = Status.FromString(answer.body)
    return status.code, status.message


def records(archive: Path) -> Sequence[AuditRecord]:
    """Return the records of an archive, oldest first."""
    with open_archive(archive) as opened:
        return list(opened.query(oldest_first=True))
