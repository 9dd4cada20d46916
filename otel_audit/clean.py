r"""Makes what a client sent recordable: escapes, cuts and converts, and lists each alteration; never refuses.

A mark reads ``field:what[:detail…]``:

=================================  =====================================================================
``user:empty``                     the name was the empty string
``user:control``                   holds control or bidirectional-override characters (kept as they are)
``user:escaped``                   invalid Unicode or NUL was replaced by ``\ud800``, ``\x00``, …
``custom.g.f:cut:20000:<sha256>``  was 20,000 bytes of UTF-8 with this digest; the first 16 KiB were kept
``custom.g.f:converted:Decimal``   a type that OTLP lacks; its text was kept
``custom.g.f:deep``                nested too deeply; the rest was left out
``custom.g:large:1200``            1,200 entries; the rest was left out
``custom.g.a_b:renamed``           the field's name held other characters
``session.ip:not-an-address``      neither IPv4 nor IPv6
``timestamp:future``               later than the moment of recording
=================================  =====================================================================
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from itertools import islice
from typing import Any, Final

from otel_audit.record import Value

__all__ = ["MAX_BYTES", "MAX_CUSTOM_BYTES", "MAX_DEPTH", "MAX_ITEMS", "Cleaner"]

MAX_BYTES: Final = 16_384
"""Longest string or byte string that is kept, in bytes of UTF-8."""
MAX_DEPTH: Final = 8
"""Deepest nesting of a custom field."""
MAX_ITEMS: Final = 256
"""Most entries of one list, map or group."""
MAX_CUSTOM_BYTES: Final = 262_144
"""Most bytes that all custom fields of one record keep together."""

# C0, DEL and C1 controls; the bidirectional overrides and isolates, which make text display as another text.
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")
_NOT_NAME = re.compile(r"[^A-Za-z0-9_-]")


class Cleaner:
    """Cleans the values of one record and keeps the marks of what it altered."""

    __slots__ = ("_room", "marks")

    def __init__(self) -> None:
        self.marks: list[str] = []
        self._room = MAX_CUSTOM_BYTES

    def text(self, value: str, name: str, limit: int = MAX_BYTES) -> str:
        """Return `value` as valid Unicode without NUL, at most `limit` bytes of UTF-8 long."""
        # Four bytes are the most that a character takes.
        if len(value) * 4 <= limit and value.isprintable():
            return str(value)
        try:
            encoded = value.encode()
        except UnicodeEncodeError:
            encoded = value.encode(errors="backslashreplace")
            self.marks.append(f"{name}:escaped")
        if b"\x00" in encoded:
            encoded = encoded.replace(b"\x00", b"\\x00")
            self.marks.append(f"{name}:escaped")
        if len(encoded) > limit:
            self.marks.append(f"{name}:cut:{len(encoded)}:{hashlib.sha256(encoded).hexdigest()}")
            encoded = encoded[:limit]
        kept = encoded.decode(errors="ignore")
        if _CONTROL.search(kept):
            self.marks.append(f"{name}:control")
        return kept

    def custom(self, groups: Mapping[str, Mapping[Any, Any]]) -> dict[str, dict[str, Value]]:
        """Return custom groups with clean field names and values that OTLP can hold."""
        return {group: self._group(f"custom.{group}", fields) for group, fields in groups.items()}

    def _group(self, name: str, fields: Mapping[Any, Any]) -> dict[str, Value]:
        kept: dict[str, Value] = {}
        for key, value in islice(fields.items(), MAX_ITEMS):
            field = self._field_name(key, name, kept)
            kept[field] = self._value(value, f"{name}.{field}", 1)
        if len(fields) > MAX_ITEMS:
            self.marks.append(f"{name}:large:{len(fields)}")
        return kept

    def _field_name(self, key: Any, group: str, taken: Mapping[str, Value]) -> str:
        text = key if isinstance(key, str) else _as_text(key)
        field = _NOT_NAME.sub("_", text[:128]) or "_"
        if field in taken:
            field = next(new for n in range(2, MAX_ITEMS + 2) if (new := f"{field}_{n}") not in taken)
        if field != key:
            self.marks.append(f"{group}.{field}:renamed")
        return field

    def _value(self, value: Any, name: str, depth: int) -> Value:
        if self._room <= 0:
            self._mark_once(f"{name}:large")
            return None
        match value:
            case None | bool():
                self._room -= 8
                return value
            case float():
                self._room -= 8
                return float(value)
            case int():
                self._room -= 8
                return self._integer(value, name)
            case str():
                kept = self.text(value, name)
                self._room -= len(kept)
                return kept
            case bytes() | bytearray() | memoryview():
                return self._bytes(bytes(value), name)
            case Mapping() | list() | tuple() | set() | frozenset():
                return self._container(value, name, depth)
            case _:
                self._mark_once(f"{name}:converted:{type(value).__name__}")
                return self._value(_as_text(value), name, depth)

    def _container(self, value: Any, name: str, depth: int) -> Value:
        if depth >= MAX_DEPTH:
            self._mark_once(f"{name}:deep")
            return None
        if len(value) > MAX_ITEMS:
            self._mark_once(f"{name}:large:{len(value)}")
        self._room -= 8
        if not isinstance(value, Mapping):
            return tuple(self._value(item, name, depth + 1) for item in islice(value, MAX_ITEMS))
        kept: dict[str, Value] = {}
        for key, item in islice(value.items(), MAX_ITEMS):
            clean = self.text(key if isinstance(key, str) else _as_text(key), name, 1024)
            self._room -= len(clean)
            kept[clean] = self._value(item, name, depth + 1)
        return kept

    def _integer(self, value: int, name: str) -> Value:
        if -(2**63) <= value < 2**63:
            return int(value)
        self._mark_once(f"{name}:converted:int")
        # Decimal text of a huge number takes quadratic time, and Python refuses it.
        return self.text(str(value) if value.bit_length() <= 4096 else hex(value)[: MAX_BYTES + 1], name)

    def _bytes(self, value: bytes, name: str) -> bytes:
        if len(value) > MAX_BYTES:
            self.marks.append(f"{name}:cut:{len(value)}:{hashlib.sha256(value).hexdigest()}")
            value = value[:MAX_BYTES]
        self._room -= len(value)
        return value

    def _mark_once(self, mark: str) -> None:
        if mark not in self.marks:
            self.marks.append(mark)


def _as_text(value: Any) -> str:
    """Return the text of any object, also of one whose own conversion fails."""
    try:
        return value.isoformat() if hasattr(value, "isoformat") else str(value)
    except Exception:  # noqa: BLE001 - the object is foreign: whatever it raises must not suppress the record
        return f"<{type(value).__name__}>"
