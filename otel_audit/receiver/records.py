"""From a log record that was received to the record that is kept: fills in what is missing, and marks it."""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final, NamedTuple

from opentelemetry import context, trace

from otel_audit import attributes as keys
from otel_audit.archive.received import Foreign
from otel_audit.build import named_record_id
from otel_audit.clean import MARKS, Cleaner, Marks
from otel_audit.foreign import GROUP, OBSERVED, ORIGIN, AuditCall, ForeignLog, read_call
from otel_audit.otlp import encode, encode_resource, encode_scope
from otel_audit.provider import AuditProvider
from otel_audit.receiver.messages import LogGroup, Oversized

__all__ = ["UNNAMED_HOST", "Translator"]

UNNAMED_HOST: Final = "unknown"
"""The host of records for which nothing names one."""

_DEMANDED: Final = {
    keys.ACTOR_ID: "actor.id",
    keys.ACTOR_TYPE: "actor.type",
    keys.ACTION: "action",
    keys.OUTCOME: "outcome",
}
_PREFIXES: Final = ("audit.sequence.", keys.INTEGRITY_PREFIX)
"""What this archive gives each record itself."""
_TOLD: Final = {keys.ALTERED: "altered", keys.UNSIGNED: "unsigned"}
_NOT_FIELD: Final = re.compile(r"[^A-Za-z0-9_-]")
_UUID: Final = re.compile(r"[0-9a-fA-F]{8}(-?)[0-9a-fA-F]{4}\1[0-9a-fA-F]{4}\1[0-9a-fA-F]{4}\1[0-9a-fA-F]{12}")
_NIL: Final = "0" * 32
_RESERVED: Final = frozenset({GROUP, ORIGIN})
_SEVERITIES: Final = {"success": (9, "INFO"), "unknown": (9, "INFO"), "failure": (13, "WARN")}
"""What the outcome says already."""
_MOST_HEADERS: Final = 16 * 1024 * 1024
"""Bytes of resources and scopes of one request, each resource as often as it has scopes: so they are stored."""


class _Resource(NamedTuple):
    """A resource that was read: as it came, encoded, the service that it names, and what was altered."""

    given: Mapping[str, Any]
    encoded: bytes
    service: str
    marks: tuple[str, ...]


class Translator:
    """Makes records of what was received, as a provider's loggers would.

    Args:
        provider: Gives privacy, catalog, the profile and the host of records that name none.
    """

    def __init__(self, provider: AuditProvider) -> None:
        self._provider = provider
        self._host = provider.host or UNNAMED_HOST
        # The resource says how records are signed: here it is this archive that signs them.
        self._own = {
            key: value for key, value in provider.config.resource.items() if key.startswith(keys.INTEGRITY_PREFIX)
        }

    def records(self, groups: Iterable[LogGroup], *, rename: bool) -> list[Foreign]:
        """Return the records of a request.

        Args:
            groups: What it holds.
            rename: Whether a record whose id is taken is to be recorded under another one.

        Raises:
            Oversized: Its resources and scopes would take too much of the disk.
        """
        records: list[Foreign] = []
        read, room = None, _MOST_HEADERS
        for group in groups:
            if not group.logs:
                continue
            # Many scopes share one, which may be large: it is read once.
            if read is None or read.given is not group.resource:
                read = self._resource(group.resource)
            made = self._group(group, read)
            room -= len(made[0].resource) + len(made[0].scope)
            if room < 0:
                raise Oversized(
                    f"the resources and scopes of a request may take {_MOST_HEADERS} bytes, each resource as often as"
                    " it has scopes: send several"
                )
            records += (foreign._replace(rename=rename) for foreign in made)
        return records

    def _resource(self, given: Mapping[str, Any]) -> _Resource:
        marks: list[str] = []
        attributes = _clean(given, "resource", marks)
        named = attributes.get("service.name")
        service = named if isinstance(named, str) and named else "opentelemetry"
        # What came through a receiver before has such names already, beside those of that receiver.
        claimed = (*_PREFIXES, keys.ORIGIN_PREFIX)
        renamed = {
            keys.ORIGIN_PREFIX + key if key.startswith(claimed) else key: value for key, value in attributes.items()
        }
        if not attributes:
            marks.append("resource:missing")
        return _Resource(given, encode_resource(renamed | self._own), service, tuple(marks))

    def _group(self, group: LogGroup, read: _Resource) -> list[Foreign]:
        marks = list(read.marks)
        texts = Cleaner()
        name, version = texts.text(group.scope_name, "scope"), texts.text(group.scope_version, "scope")
        scope = encode_scope(name, version, _clean(group.scope, "scope", marks).items())
        marks += texts.marks
        made: list[Foreign] = []
        for log in group.logs:
            log.scope_name, log.source = name, read.service
            foreign = self._foreign(log, group.schemas, [*marks, *_missing(log)])
            made.append(foreign._replace(resource=read.encoded, scope=scope))
        return made

    def _foreign(self, log: ForeignLog, schemas: Mapping[str, str], marks: list[str]) -> Foreign:
        log.attributes = attributes = dict(log.attributes)
        origin = _take_origin(attributes)
        record_id = _take_id(attributes, origin, marks)
        if log.observed:
            origin[OBSERVED] = log.observed
            # As good a time of the event as there is.
            log.time = log.time or log.observed
        log.observed = None
        if (log.severity_number, log.severity_text) == _SEVERITIES.get(str(attributes.get(keys.OUTCOME))):
            log.severity_number = log.severity_text = None
        call = read_call(log, _RESERVED)
        custom = call.arguments.setdefault("custom", {})
        rest = custom.setdefault(GROUP, {})
        rest.pop("scope", None)  # it is kept as the scope
        rest.update(schemas)
        custom[ORIGIN] = origin
        return self._built(call, record_id, [*marks, *call.marks])

    def _built(self, call: AuditCall, record_id: str | None, marks: list[str]) -> Foreign:
        host = call.host
        if host is None:
            host = self._host
            if self._provider.host is None:
                marks.append("host:missing")
        logger = self._provider.get_logger(call.source, host, **{MARKS: Marks(marks)})
        token = context.attach(trace.set_span_in_context(trace.NonRecordingSpan(call.span)))
        try:
            record = logger.build(call.type, **call.arguments)
        finally:
            context.detach(token)
        if record_id is not None:
            record = record._replace(record_id=record_id)
        return Foreign(record, encode(record, self._provider.profile), profile=self._provider.profile)


def _clean(attributes: Mapping[str, Any], name: str, marks: list[str]) -> dict[str, Any]:
    """Return attributes that can be encoded, and add the marks of what was altered."""
    cleaner = Cleaner()
    clean: Any = cleaner.custom({"_": {"_": attributes}})["_"]["_"]
    marks += (f"{name}:{mark.partition(':')[2]}" for mark in cleaner.marks)
    return dict(clean)


def _missing(log: ForeignLog) -> Iterator[str]:
    """Iterate over the marks of what the draft demands and the record lacks."""
    if not log.time:
        yield "timestamp:missing"
    for key, name in _DEMANDED.items():
        if log.attributes.get(key) is None:
            yield f"{name}:missing"


def _take_id(attributes: dict[str, Any], origin: dict[str, Any], marks: list[str]) -> str | None:
    """Take a record's id; None where it has none, and is to get one."""
    given = attributes.get(keys.RECORD_ID) or attributes.get(keys.LOG_RECORD_UID)
    if not given:
        marks.append("record_id:missing")
        return None
    for key in (keys.RECORD_ID, keys.LOG_RECORD_UID):
        if attributes.get(key) == given:
            del attributes[key]
    text = given if isinstance(given, str) else repr(given)
    digits = text.replace("-", "").lower()
    if _UUID.fullmatch(text) and digits != _NIL:
        return str(uuid.UUID(digits))
    # Always the same, so that it is recognised when it comes again.
    origin["record_id"] = given
    marks.append("record_id:malformed")
    return named_record_id(text)


def _take_origin(attributes: dict[str, Any]) -> dict[str, Any]:
    """Take what an earlier recorder said of the record: this archive says the same of it in its own name."""
    origin: dict[str, Any] = {}
    for key in [key for key in attributes if key.startswith(_PREFIXES) or key in _TOLD]:
        name = _TOLD.get(key) or _NOT_FIELD.sub("_", key.removeprefix("audit."))
        origin[key if name in origin else name] = attributes.pop(key)
    return origin
