"""Compares an archive with what a collector received: the lines that its file exporter wrote (OTLP/JSON)."""

from __future__ import annotations

import base64
import json
import math
import uuid
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from otel_audit import attributes as keys
from otel_audit.archive.database import archive_errors
from otel_audit.archive.faults import Fault, Faults
from otel_audit.archive.query import Archive
from otel_audit.archive.ranges import Range
from otel_audit.archive.windows import next_window
from otel_audit.errors import ConfigError
from otel_audit.otlp import read_log
from otel_audit.protobuf import delimited, fields

__all__ = ["Comparison", "compare"]

_ADDED: Final = (keys.RECORD_ID, keys.LOG_RECORD_UID, keys.SEQUENCE_NUMBER, keys.SEQUENCE_STREAM_ID)
"""Attributes that shipping adds to the stored bytes."""
_EMPTY: Final = {
    "timeUnixNano": 0, "observedTimeUnixNano": 0, "severityNumber": 0, "severityText": "", "body": None,
    "traceId": "", "spanId": "", "flags": 0, "eventName": "",
}  # fmt: skip
_SEVERITIES: Final = {"SEVERITY_NUMBER_INFO": 9, "SEVERITY_NUMBER_WARN": 13}
"""The names that some writers give in place of the numbers, against the specification."""
_STEP: Final = 4_096
_COLUMNS: Final = "record_id, otlp, resource.resource, scope"
_PAGE: Final = "SELECT sequence, record_id, otlp IS NULL FROM record WHERE sequence BETWEEN ? AND ?"


@dataclass(frozen=True, slots=True)
class Comparison:
    """What comparing an archive with a collector's file gave.

    Args:
        matching: Records of the file that are those of the archive; a record that came twice counts twice.
        foreign: Log records of the file that are not of this archive.
        waiting: Records of the archive that no destination has accepted yet, or that are dead letters.
        missing: Records that a destination accepted, and the file lacks.
        removed: Records of the file whose content the archive has erased or pruned: only their ids could be compared.
        faults: The first faults.
        fault_count: How many there are.
    """

    matching: int
    foreign: int
    waiting: int
    missing: int
    removed: int
    faults: tuple[Fault, ...]
    fault_count: int


def compare(
    archive: Archive, file: Path, *, keep: int, progress: Callable[[int, int], None] = lambda _done, _total: None
) -> Comparison:
    """Compare each log record of a collector's file with the archive, and the archive's records with the file.

    One bit of memory is used for each record of the archive, and one line of the file at a time.

    Args:
        archive: The archive.
        file: Lines of OTLP/JSON, or one ``ExportLogsServiceRequest`` in any layout.
        keep: Most faults to keep; all are counted.
        progress: Called with bytes of the file that were read, and its size.

    Raises:
        ArchiveError: The archive cannot be read.
        ConfigError: The file cannot be read, or is no OTLP/JSON.
    """
    with archive.database as connection, archive_errors(archive.path):
        head = int(connection.execute("SELECT max(sequence) FROM record").get or 0)
    comparing = _Comparing(archive, head, Faults(keep))
    for request in _requests(file, progress):
        comparing.request(request)
    waiting, missing = comparing.rest()
    faults = comparing.faults
    return Comparison(
        comparing.matching, comparing.foreign, waiting, missing, comparing.removed, tuple(faults.kept), faults.count
    )


def _requests(file: Path, progress: Callable[[int, int], None]) -> Iterator[Mapping[str, Any]]:
    """Iterate over the requests of a file."""
    done = 0
    try:
        total = file.stat().st_size
        with file.open("rb") as lines:
            for number, line in enumerate(lines, 1):
                done += len(line)
                if not line.strip():
                    continue
                request = _object(line)
                if request is None and number == 1:
                    request, done = _object(line + lines.read()), total
                if request is None:
                    raise ConfigError(f"{file}:{number} is no OTLP/JSON", _REMEDY)
                yield request
                progress(done, total)
    except OSError as error:
        raise ConfigError(f"{file}: {error.strerror or error}", _REMEDY) from error


_REMEDY: Final = "give a file that the collector's file exporter wrote as JSON"


def _object(text: bytes) -> Mapping[str, Any] | None:
    """Return the JSON object that a text holds; None where it holds none."""
    try:
        value = json.loads(text, parse_int=_integer)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, Mapping) else None


def _integer(text: str) -> int | float:
    # So the Collector writes the double -0.0, whose sign an int would lose.
    return -0.0 if text == "-0" else int(text)


class _Comparing:
    def __init__(self, archive: Archive, head: int, faults: Faults) -> None:
        self._archive = archive
        self._head = head
        # A bit for each record, in pages: nothing is kept where there are none, however large the sequences are.
        self._seen: defaultdict[int, bytearray] = defaultdict(lambda: bytearray(_STEP // 8))
        self.faults = faults
        self.matching = self.foreign = self.removed = 0

    def request(self, request: Mapping[str, Any]) -> None:
        """Compare the records of a request.

        Raises:
            ConfigError: It is none.
        """
        try:
            for of_resource in request.get("resourceLogs") or ():
                resource = _attributes((of_resource.get("resource") or {}).get("attributes"))
                for of_scope in of_resource.get("scopeLogs") or ():
                    scope = of_scope.get("scope") or {}
                    for log in of_scope.get("logRecords") or ():
                        self._log(log, resource, (scope.get("name") or "", scope.get("version") or ""))
        except (TypeError, AttributeError, KeyError, ValueError, RecursionError) as error:
            raise ConfigError(f"a log record cannot be read ({type(error).__name__})", _REMEDY) from error

    def _log(self, log: Mapping[str, Any], resource: Mapping[str, Any], scope: tuple[str, str]) -> None:
        attributes = _attributes(log.get("attributes"))
        if attributes.get(keys.SEQUENCE_STREAM_ID) != self._archive.id:
            self.foreign += 1
            return
        record_id, sequence = attributes.get(keys.RECORD_ID), attributes.get(keys.SEQUENCE_NUMBER)
        place = f"record {ascii(record_id)[:60]}"
        if type(sequence) is not int or not 1 <= sequence <= self._head:
            self.faults.add("export-unknown", place, f"sequence {ascii(sequence)[:30]}")
            return
        with self._archive.database as connection, archive_errors(self._archive.path):
            row: Any = connection.execute(
                f"SELECT {_COLUMNS} FROM record LEFT JOIN resource ON id = record.resource WHERE sequence = ?",
                (sequence,),
            ).fetchone()
        if row is None or len(row[0]) != 16 or str(uuid.UUID(bytes=row[0])) != record_id:
            self.faults.add("export-unknown", place, f"the archive has another record, or none, as {sequence}")
            return
        page, bit = divmod(sequence, _STEP)
        self._seen[page][bit >> 3] |= 1 << (bit & 7)
        if row[1] is None:
            self.removed += 1
            return
        differing = _differences(row, log, attributes, resource, scope)
        if differing:
            self.faults.add("export-differs", place, f"record {sequence} of the archive: {', '.join(differing)}")
        else:
            self.matching += 1

    def _was_seen(self, sequence: int) -> bool:
        page, bit = divmod(sequence, _STEP)
        return page in self._seen and bool(self._seen[page][bit >> 3] >> (bit & 7) & 1)

    def rest(self) -> tuple[int, int]:
        """Return how many records wait for their delivery, and how many that were delivered the file lacks."""
        waiting = missing = 0
        with self._archive.database as connection, archive_errors(self._archive.path):
            cursor = connection.execute("SELECT max(cursor) FROM destination").get
            cursor = self._head if cursor is None else int(cursor)
            dead = {number for (number,) in connection.execute("SELECT sequence FROM dead_letter")}
        window: Range | None = (0, 0)
        while window is not None:
            with self._archive.database as connection, archive_errors(self._archive.path):
                window = next_window(connection, window[1] + 1, self._head, _STEP)
                rows: Any = [] if window is None else connection.execute(_PAGE, window).fetchall()
            for sequence, record_id, removed in rows:
                if removed or self._was_seen(sequence):
                    continue  # what was removed may have been so before it was sent
                if sequence > cursor or sequence in dead:
                    waiting += 1
                else:
                    missing += 1
                    name = str(uuid.UUID(bytes=record_id)) if len(record_id) == 16 else record_id.hex()[:60]
                    self.faults.add("export-missing", f"record '{name}'", f"record {sequence} of the archive")
        return waiting, missing


def _differences(
    row: Any, log: Mapping[str, Any], attributes: dict[str, Any], resource: Mapping[str, Any], scope: tuple[str, str]
) -> list[str]:
    """Return the names of what the collector's record says otherwise than the archive's."""
    _, otlp, stored_resource, stored_scope = row
    if stored_resource is None:
        return ["content"]
    try:
        stored = read_log(otlp)
        # A resource's attributes are encoded as a record's, but for the number of the field.
        pairs = [value for n, _, value in fields(stored_resource) if n == 1 and isinstance(value, bytes)]
        own = read_log(b"".join(delimited(6, pair) for pair in pairs)).attributes
        texts = {n: value.decode() for n, _, value in fields(stored_scope) if isinstance(value, bytes)}
        severity = next((v.decode() for n, _, v in fields(otlp) if n == 3 and isinstance(v, bytes)), "")
    except ValueError:
        return ["content"]
    expected = {
        "timeUnixNano": stored.time, "observedTimeUnixNano": stored.observed, "severityNumber": stored.severity,
        "severityText": severity, "body": _plain(stored.body), "traceId": stored.trace_id, "spanId": stored.span_id,
        "flags": stored.flags, "eventName": stored.event_name,
    }  # fmt: skip
    found = {**_EMPTY, **{name: log[name] for name in _EMPTY if log.get(name) is not None}}
    found["severityNumber"] = _SEVERITIES.get(found["severityNumber"], found["severityNumber"])
    for name in ("timeUnixNano", "observedTimeUnixNano", "severityNumber", "flags"):
        found[name] = int(found[name])
    for name in ("traceId", "spanId"):
        found[name] = str(found[name]).lower()
    found["body"] = _value(found["body"] or {})
    differing = [name for name in expected if expected[name] != found[name]]
    wanted = {name: _plain(value) for name, value in stored.attributes.items()}
    own_values = {name: _plain(value) for name, value in own.items()}
    sent = {name: value for name, value in attributes.items() if name not in _ADDED}
    differing += sorted(ascii(name)[1:-1] for name in wanted.keys() | sent.keys() if _other(wanted, sent, name))
    # Collectors add to resources: what we sent must be there, and may not be alone.
    differing += sorted(f"resource {ascii(name)[1:-1]}" for name in own_values if _other(own_values, resource, name))
    if (texts.get(1, ""), texts.get(2, "")) != scope:
        differing.append("scope")
    return differing


def _other(one: Mapping[str, Any], other: Mapping[str, Any], name: str) -> bool:
    return name not in one or name not in other or one[name] != other[name]


def _plain(value: Any) -> Any:
    """Return a stored value in the form of `_value`, in which 1, 1.0 and True are different."""
    match value:
        case bool() | None | str():
            return value
        case bytes():
            return ("bytes", value)
        case float():
            return ("double", "NaN" if math.isnan(value) else repr(value))
        case Mapping():
            return ("map", {name: _plain(item) for name, item in value.items()})
        case tuple():
            return ("list", [_plain(item) for item in value])
        case _:
            return ("int", value)


def _attributes(pairs: Any) -> dict[str, Any]:
    # The identity of a record is compared as it is.
    # What is empty is left out by the Collector, an empty name as well.
    found = {pair.get("key", ""): _value(pair.get("value") or {}) for pair in pairs or ()}
    number = found.get(keys.SEQUENCE_NUMBER)
    if isinstance(number, tuple):
        found[keys.SEQUENCE_NUMBER] = number[1]
    return found


def _value(value: Mapping[str, Any]) -> Any:
    """Return an ``AnyValue`` in OTLP/JSON as a plain value."""
    for name, item in value.items():
        match name:
            case "stringValue":
                return str(item)
            case "boolValue":
                return bool(item)
            case "intValue":
                return ("int", int(item))
            case "doubleValue":
                number = float(item)
                return ("double", "NaN" if math.isnan(number) else repr(number))
            case "bytesValue":
                return ("bytes", base64.b64decode(item))
            case "arrayValue":
                return ("list", [_value(one or {}) for one in item.get("values") or ()])
            case "kvlistValue":
                return ("map", {one.get("key", ""): _value(one.get("value") or {}) for one in item.get("values") or ()})
    return None
