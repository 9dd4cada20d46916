"""Log tables as the Collector's ClickHouse exporter makes and fills them, on ClickHouse's own engine (chDB).

Source of layouts and values: OpenTelemetry Collector Contrib, exporter/clickhouseexporter 0.149 and 0.161, and the
Collector's pdata, whose ``Value.AsString`` makes the texts. Tables are made from these facts; no statement is copied.
"""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any, Final, Literal

from clickhouse_connect.driver.client import Client

from otel_audit.archive.query import open_archive
from otel_audit.otlp import read_log
from otel_audit.protobuf import delimited, fields
from otel_audit.record import Value

__all__ = ["COLUMNS", "LAYOUTS", "Layout", "exported_rows", "go_text", "insert", "make_table"]

Layout = Literal["seconds", "timestamp"]
LAYOUTS: Final[tuple[Layout, ...]] = ("seconds", "timestamp")
"""Before 0.151, with a column of whole seconds; and since."""

_MAP: Final = "Map(LowCardinality(String), String)"
_TYPES: Final = {
    "Timestamp": "DateTime64(9)", "TraceId": "String", "SpanId": "String", "TraceFlags": "UInt8",
    "SeverityText": "LowCardinality(String)", "SeverityNumber": "UInt8", "ServiceName": "LowCardinality(String)",
    "Body": "String", "ResourceSchemaUrl": "LowCardinality(String)", "ResourceAttributes": _MAP,
    "ScopeSchemaUrl": "LowCardinality(String)", "ScopeName": "String", "ScopeVersion": "LowCardinality(String)",
    "ScopeAttributes": _MAP, "LogAttributes": _MAP, "EventName": "String",
}  # fmt: skip
COLUMNS: Final = tuple(_TYPES)
_KEYS: Final = {
    "seconds": "PARTITION BY toDate(TimestampTime) PRIMARY KEY (ServiceName, TimestampTime)"
    " ORDER BY (ServiceName, TimestampTime, Timestamp)",
    "timestamp": "PARTITION BY toDate(Timestamp) ORDER BY (toStartOfFiveMinutes(Timestamp), ServiceName, Timestamp)",
}


def make_table(client: Client, name: str, layout: Layout) -> None:
    """Make an empty table of a layout."""
    types = dict(_TYPES)
    if layout == "seconds":
        types["TimestampTime"] = "DateTime DEFAULT toDateTime(Timestamp)"
    lines = [
        f"{column} {kind}" + ("" if "DEFAULT" in kind else f" CODEC({'Delta(8), ' * (n == 0)}ZSTD(1))")
        for n, (column, kind) in enumerate(types.items())
    ]
    lines.append("INDEX trace TraceId TYPE bloom_filter(0.001) GRANULARITY 1")
    for column in ("ResourceAttributes", "ScopeAttributes", "LogAttributes"):
        lines += [
            f"INDEX {part}{column} map{part}({column}) TYPE bloom_filter(0.01) GRANULARITY 1"
            for part in ("Keys", "Values")
        ]
    client.command(
        f"CREATE TABLE {name} ({', '.join(lines)}) ENGINE = MergeTree() {_KEYS[layout]}"
        " SETTINGS index_granularity = 8192, ttl_only_drop_parts = 1"
    )


def go_text(value: Value) -> str:
    """Return the text that the exporter makes of an attribute's value."""
    match value:
        case None:
            return ""
        case str():
            return value
        case bool():
            return "true" if value else "false"
        case int():
            return str(value)
        case float():
            return _go_float(value)
        case bytes():
            return base64.b64encode(value).decode()
        case _:
            try:
                return _go_json(value)
            except OverflowError:
                return ""


def _go_float(value: float) -> str:
    if not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if value == 0:
        return "-0" if math.copysign(1, value) < 0 else "0"
    if 1e-6 <= abs(value) < 1e21:
        return f"{Decimal(repr(value)):f}".removesuffix(".0")
    mantissa, _, exponent = repr(value).partition("e")
    # Python's exponents have two digits at least, as Go's; negative ones below ten lose the zero.
    exponent = f"-{exponent[2:]}" if exponent.startswith("-0") else exponent
    return f"{mantissa.removesuffix('.0')}e{exponent}"


def _go_json(value: Any) -> str:
    match value:
        case Mapping():
            items = sorted(value.items(), key=lambda item: str(item[0]).encode())
            return "{" + ",".join(f"{_go_json(key)}:{_go_json(item)}" for key, item in items) + "}"
        case tuple():
            return "[" + ",".join(map(_go_json, value)) + "]"
        case bytes():
            return _go_json(base64.b64encode(value).decode())
        case float():
            if not math.isfinite(value):
                raise OverflowError("JSON has no such number, and the exporter then writes nothing")
            return _go_float(value)
        case _:
            text = json.dumps(value, ensure_ascii=False)
            return text.replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def exported_rows(path: Path) -> Iterator[list[Any]]:
    """Iterate over what the exporter writes of an archive's records, by their sequence."""
    with open_archive(path) as archive:
        stream, database = archive.id, archive.database
        with database as connection:
            rows: Any = connection.execute(
                "SELECT record.otlp, lower(hex(record_id)), sequence, resource.resource, scope FROM record"
                " JOIN resource ON id = record.resource WHERE otlp IS NOT NULL ORDER BY sequence"
            ).fetchall()
    for otlp, t, sequence, resource, scope in rows:
        record_id = f"{t[:8]}-{t[8:12]}-{t[12:16]}-{t[16:20]}-{t[20:]}"
        added = {
            "audit.record.id": record_id, "log.record.uid": record_id, "audit.sequence.number": sequence,
            "audit.sequence.stream_id": stream,
        }  # fmt: skip
        yield _exported(otlp, added, resource, scope)


def _exported(otlp: bytes, added: Mapping[str, Value], resource: bytes, scope: bytes) -> list[Any]:
    log = read_log(otlp)
    pairs = [value for n, _, value in fields(resource) if n == 1 and isinstance(value, bytes)]
    of_resource = _texts(read_log(b"".join(delimited(6, pair) for pair in pairs)).attributes)
    texts = {n: value.decode() for n, _, value in fields(scope) if isinstance(value, bytes)}
    severity = next((v.decode() for n, _, v in fields(otlp) if n == 3 and isinstance(v, bytes)), "")
    return [
        log.time or log.observed, log.trace_id, log.span_id, log.flags & 0xFF, severity, log.severity,
        of_resource.get("service.name", ""), go_text(log.body), "", of_resource, "", texts.get(1, ""), texts.get(2, ""),
        {}, _texts({**log.attributes, **added}), log.event_name,
    ]  # fmt: skip


def _texts(attributes: Mapping[str, Value]) -> dict[str, str]:
    return {key: go_text(value) for key, value in attributes.items()}


def insert(client: Client, table: str, rows: Iterable[Sequence[Any]]) -> None:
    """Insert rows as one batch."""
    client.insert(table, list(rows), column_names=COLUMNS)
