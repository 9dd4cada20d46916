r"""Makes what a client sent recordable: escapes, cuts and converts, and lists each alteration; never refuses.

A mark reads ``field:what[:detail…]``:

=================================  =====================================================================
``user:empty``                     the name was the empty string; so with ``actor.id`` and ``target.id``
``user:control``                   holds control or bidirectional characters (kept as they are)
``user:escaped``                   invalid Unicode or NUL was replaced by ``\ud800``, ``\x00``, …
``custom.g.f:cut:20000:<sha256>``  was 20,000 bytes of UTF-8 with this digest; the first 16 KiB were kept
``custom.g.f:converted:Decimal``   a type that OTLP lacks; its text was kept
``custom.g.f:deep``                nested too deeply; the rest was left out
``custom.g:large:1200``            1,200 entries; the rest was left out, as where all custom fields have no room left
``custom.g.a_b:renamed``           the field's name, or a name within it, held other characters or was taken
``session.ip:not-an-address``      neither IPv4 nor IPv6
``timestamp:future``               later than the moment of recording
``timestamp:out-of-range:-1``      not between 1970 and 2262; the moment of recording took its place
``user:long:70000``                more characters than `otel_audit.privacy` looks at; the rest was left out
``target:unresolved:KeyError``       the application's function that was asked for it raised this
``carried:refused``                a message of another process held what it may not say; also ``carried:unreadable``
``session.ip:truncated``           the processors of `otel_audit.privacy`; also ``dropped``, ``pseudonym``, ``redacted``
=================================  =====================================================================
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from itertools import islice
from typing import Any, Final

from otel_audit.record import Value

__all__ = ["MARKS", "MAX_BYTES", "MAX_CUSTOM_BYTES", "MAX_DEPTH", "MAX_ITEMS", "Cleaner", "Marks"]

MARKS: Final = "_altered"
"""Key of an event dictionary under which processors pass `Marks` on to the record."""

MAX_BYTES: Final = 16_384
"""Longest string or byte string that is kept, in bytes of UTF-8."""
MAX_DEPTH: Final = 8
"""Deepest nesting of a custom field."""
MAX_ITEMS: Final = 256
"""Most entries of one list, map or group."""
MAX_CUSTOM_BYTES: Final = 262_144
"""Most bytes that all custom fields of one record keep together."""

# C0, DEL and C1 controls; line and paragraph separators; the bidirectional marks, overrides and isolates, which make
# text display as another text.
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")
_NOT_NAME = re.compile(r"[^A-Za-z0-9_-]")


class Marks(tuple[str, ...]):
    """What processors altered. A class of its own: no value that a client sent can pass for it."""

    __slots__ = ()


class Cleaner:
    """Cleans the values of one record and keeps the marks of what it altered.

    Args:
        marks: Those of earlier alterations.
    """

    __slots__ = ("_marks", "_room")

    def __init__(self, marks: Iterable[str] = ()) -> None:
        self._marks: dict[str, None] = dict.fromkeys(marks)
        self._room = MAX_CUSTOM_BYTES

    @property
    def marks(self) -> tuple[str, ...]:
        """What was altered, each mark once, in the order of its making."""
        return tuple(self._marks)

    def mark(self, mark: str) -> None:
        """Note an alteration."""
        self._marks[mark] = None

    def text(self, value: str, name: str, limit: int = MAX_BYTES) -> str:
        """Return `value` as valid Unicode without NUL, at most `limit` bytes of UTF-8 long."""
        if type(value) is not str:
            # A subclass may have methods of its own, which fail or say something else than the text.
            value = str.__str__(value)
        # Four bytes are the most that a character takes.
        if len(value) * 4 <= limit and value.isprintable():
            return value
        try:
            encoded = value.encode()
        except UnicodeEncodeError:
            encoded = value.encode(errors="backslashreplace")
            self.mark(f"{name}:escaped")
        original = encoded
        if b"\x00" in encoded:
            encoded = encoded.replace(b"\x00", b"\\x00")
            self.mark(f"{name}:escaped")
        if len(encoded) > limit:
            self.mark(f"{name}:cut:{len(original)}:{hashlib.sha256(original).hexdigest()}")
            encoded = encoded[:limit]
        kept = encoded.decode(errors="ignore")
        if _CONTROL.search(kept):
            self.mark(f"{name}:control")
        return kept

    def custom(self, groups: Mapping[str, Mapping[Any, Any]]) -> dict[str, dict[str, Value]]:
        """Return custom groups with clean field names and values that OTLP can hold; empty groups are left out."""
        kept: dict[str, dict[str, Value]] = {}
        for group, fields in islice(groups.items(), MAX_ITEMS):
            if clean := self._group(f"custom.{group}", fields):
                kept[group] = clean
        if len(groups) > MAX_ITEMS:
            self.mark(f"custom:large:{len(groups)}")
        return kept

    def _group(self, name: str, fields: Mapping[Any, Any]) -> dict[str, Value]:
        kept: dict[str, Value] = {}
        try:
            size = len(fields)
            for key, value in islice(fields.items(), MAX_ITEMS):
                if self._room <= 0:
                    break
                field = self._field_name(key, name, kept)
                kept[field] = self._field(self._entry(key, value, f"{name}.{field}"), f"{name}.{field}")
            if len(kept) < size:
                self.mark(f"{name}:large:{size}")
        except Exception:  # noqa: BLE001 - a foreign mapping: whatever it raises must not suppress the record
            self.mark(f"{name}:converted:{_type_name(fields)}")
        return kept

    def _field_name(self, key: Any, group: str, taken: Mapping[str, Value]) -> str:
        text = self._key(key, group)
        field = _free(_NOT_NAME.sub("_", text[:128]) or "_", taken)
        self._room -= len(field)
        if field != text or not isinstance(key, str):
            self._note(f"{group}.{field}:renamed")
        return field

    def _key(self, key: Any, name: str) -> str:  # noqa: ARG002 - for `otel_audit.privacy`
        """Return the text of a field's key; `name` is its group."""
        return _key_text(key)

    def _entry(self, key: Any, value: Any, name: str) -> Any:  # noqa: ARG002 - for `otel_audit.privacy`
        """Return what is recorded as the value of an entry."""
        return value

    def _field(self, value: Any, name: str) -> Value:
        try:
            return self._value(value, name, 1)
        except Exception:  # noqa: BLE001 - a foreign object: whatever it raises must not suppress the record
            self._note(f"{name}:converted:{_type_name(value)}")
            return f"<{_type_name(value)}>"

    def _value(self, value: Any, name: str, depth: int) -> Value:
        if self._room <= 0:
            self._note(f"{name}:large")
            return None
        match value:
            case None | bool():
                self._room -= 8
                return value
            case float():
                self._room -= 8
                return float.__float__(value)
            case int():
                self._room -= 8
                return self._integer(int.__int__(value), name)
            case str():
                kept = self.text(value, name)
                self._room -= len(kept) if kept.isascii() else len(kept.encode())
                return kept
            case bytes() | bytearray() | memoryview():
                return self._bytes(bytes(value), name)
            case Mapping() | list() | tuple() | set() | frozenset():
                return self._container(value, name, depth)
            case _:
                self._note(f"{name}:converted:{_type_name(value)}")
                return self._value(_as_text(value), name, depth)

    def _container(self, value: Any, name: str, depth: int) -> Value:
        if depth >= MAX_DEPTH:
            self._note(f"{name}:deep")
            return None
        size = len(value)
        self._room -= 8
        if not isinstance(value, Mapping):
            items: list[Value] = []
            for item in islice(value, MAX_ITEMS):
                if self._room <= 0:
                    break
                items.append(self._value(item, name, depth + 1))
            if len(items) < size:
                self._note(f"{name}:large:{size}")
            return tuple(items)
        kept: dict[str, Value] = {}
        for key, item in islice(value.items(), MAX_ITEMS):
            if self._room <= 0:
                break
            text = _key_text(key)
            clean = _free(self.text(text, name, 1024), kept)
            self._room -= len(clean)
            if clean != text or not isinstance(key, str):
                self._note(f"{name}:renamed")
            kept[clean] = self._value(self._entry(key, item, name), name, depth + 1)
        if len(kept) < size:
            self._note(f"{name}:large:{size}")
        return kept

    def _integer(self, value: int, name: str) -> Value:
        if -(2**63) <= value < 2**63:
            return value
        self._note(f"{name}:converted:int")
        # Decimal text of a huge number takes quadratic time, and Python refuses it.
        text = self.text(str(value) if value.bit_length() <= 4096 else hex(value), name)
        self._room -= len(text)
        return text

    def _bytes(self, value: bytes, name: str) -> bytes:
        if len(value) > MAX_BYTES:
            self._note(f"{name}:cut:{len(value)}:{hashlib.sha256(value).hexdigest()}")
            value = value[:MAX_BYTES]
        self._room -= len(value)
        return value

    def _note(self, mark: str) -> None:
        """Note an alteration inside the custom fields, whose marks take from their room."""
        if mark not in self._marks:
            self._room -= len(mark)
            self.mark(mark)


def _free(name: str, taken: Mapping[str, Value]) -> str:
    """Return a name, numbered where it is taken: two names may be the same once they are clean."""
    if name not in taken:
        return name
    return next(numbered for n in range(2, MAX_ITEMS + 2) if (numbered := f"{name}_{n}") not in taken)


def _type_name(value: Any) -> str:
    return type(value).__name__[:128]


def _key_text(key: Any) -> str:
    return str.__str__(key) if isinstance(key, str) else _as_text(key)


def _as_text(value: Any) -> str:
    """Return the text of any object, also of one whose own conversion fails."""
    try:
        text = value.isoformat() if hasattr(value, "isoformat") else str(value)
        return text if isinstance(text, str) else str(value)
    except Exception:  # noqa: BLE001 - the object is foreign: whatever it raises must not suppress the record
        return f"<{_type_name(value)}>"
