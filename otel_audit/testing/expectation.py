"""What a test expects of a record, and how a record differs from it."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

from otel_audit.record import Actor, AuditRecord, Session, Target

__all__ = ["Expectation", "listing"]

_MOST: Final = 20
_WIDEST: Final = 160
_SESSION: Final = {"session_id": "id", "session_type": "type", "ip": "ip", "client": "client"}
_NAMES: Final = tuple(sorted({*AuditRecord._fields, *_SESSION} - {"type"}))
_ABSENT: Final = "(absent)"


class Expectation:
    """A type, and fields with their values.

    Args:
        type: The event type, which may hold ``*``.
        fields: As `otel_audit.testing.AuditCapture` describes them.

    Raises:
        TypeError: There is no such field.
    """

    def __init__(self, type: str, fields: Mapping[str, Any]) -> None:
        unknown = sorted(fields.keys() - set(_NAMES))
        if unknown:
            raise TypeError(f"records have no field {', '.join(unknown)}: there are {', '.join(_NAMES)}")
        self._type = type
        self._matches_type: Callable[[str], Any] = re.compile(fnmatch.translate(type.replace("[", "[[]"))).match
        self._fields = fields

    def __str__(self) -> str:
        """Return it as it was written."""
        given = "".join(f", {name}={_shown(value)}" for name, value in self._fields.items())
        return f"{self._type!r}{given}"

    def met_by(self, record: AuditRecord) -> bool:
        """Tell whether a record matches."""
        return bool(self._matches_type(record.type)) and not any(self._differences(record))

    def missing_among(self, records: Sequence[AuditRecord]) -> str:
        """Return why none of some records matches: the nearest one with its differences, and a list of all."""
        lines = [f"no record matches {self}"]
        if not records:
            return f"{lines[0]}: nothing was recorded"
        nearest = min(reversed(records), key=self._distance)
        differences = list(self._differences(nearest))
        if not self._matches_type(nearest.type):
            differences.insert(0, ("type", self._type, nearest.type))
        lines.append(f"the nearest of {len(records)} differs in (- expected, + recorded):")
        lines.append(f"  {_line(nearest)}")
        for name, expected, actual in differences:
            lines += (f"    - {name}={_shown(expected)}", f"    + {name}={_shown(actual)}")
        return "\n".join([*lines, "all records:", listing(records)])

    def _distance(self, record: AuditRecord) -> tuple[bool, int]:
        return not self._matches_type(record.type), sum(1 for _ in self._differences(record))

    def _differences(self, record: AuditRecord) -> Iterator[tuple[str, Any, Any]]:
        """Return the name of each field that differs, its expected and its actual value."""
        for name, expected in self._fields.items():
            if name == "custom" and isinstance(expected, Mapping):
                yield from _inner_differences("custom", expected, record.custom)
                continue
            actual = _actual(record, name, expected)
            if not _equal(expected, actual):
                yield name, expected, actual


def _actual(record: AuditRecord, name: str, expected: Any) -> Any:
    """Return a record's value in the form in which it is expected."""
    if name in _SESSION:
        return None if record.session is None else getattr(record.session, _SESSION[name])
    value = getattr(record, name)
    whole = isinstance(expected, (Actor, Target))
    if isinstance(value, (Actor, Target)) and not whole and isinstance(expected, (str, re.Pattern)):
        return value.id
    if name == "session" and isinstance(value, Session) and value.ip is not None:
        # The archive holds text, whatever the call gave.
        return value._replace(ip=expected.ip if _same_ip(expected, value) else value.ip)
    return value


def _same_ip(expected: Any, value: Session) -> bool:
    return isinstance(expected, Session) and str(expected.ip) == str(value.ip)


def _inner_differences(name: str, expected: Mapping[Any, Any], actual: Any) -> Iterator[tuple[str, Any, Any]]:
    """Compare mappings: what is expected must be there, and more may be."""
    for key, value in expected.items():
        found = actual.get(key, _ABSENT) if isinstance(actual, Mapping) else _ABSENT
        if isinstance(value, Mapping) and isinstance(found, Mapping):
            yield from _inner_differences(f"{name}.{key}", value, found)
        elif found is _ABSENT or not _equal(value, found):
            yield f"{name}.{key}", value, found


def _equal(expected: Any, actual: Any) -> bool:
    if isinstance(expected, re.Pattern):
        return isinstance(actual, str) and expected.search(actual) is not None
    if isinstance(expected, list):
        expected = tuple(expected)  # which the archive makes of a list
    # 1 and True are equal to Python alone.
    if isinstance(expected, bool) != isinstance(actual, bool) and isinstance(expected, (bool, int, float)):
        return False
    return bool(expected == actual)


def _shown(value: Any) -> str:
    if value is _ABSENT:
        return _ABSENT
    text = f"re.compile({value.pattern!r})" if isinstance(value, re.Pattern) else repr(value)
    return text if len(text) <= _WIDEST else f"{text[: _WIDEST - 1]}…"


def _line(record: AuditRecord) -> str:
    fields = {
        "user": record.user,
        "outcome": record.outcome,
        "host": record.host,
        "source": record.source,
        "target": record.target and record.target.id,
        "ip": record.session and record.session.ip,
        "custom": dict(record.custom) or None,
    }
    shown = " ".join(f"{name}={_shown(value)}" for name, value in fields.items() if value is not None)
    return f"#{record.sequence} {record.type!r} {shown}"


def listing(records: Sequence[AuditRecord]) -> str:
    """Return records, a line each, the last ones where there are many."""
    left_out = len(records) - _MOST
    lines = [f"  … {left_out} before"] if left_out > 0 else []
    return "\n".join([*lines, *(f"  {_line(record)}" for record in records[-_MOST:])]) or "  nothing was recorded"
