"""Derives the columns of a record from its bytes again, at the speed that a verification of millions needs."""

from __future__ import annotations

import struct
from functools import lru_cache
from typing import Any, Final

from otel_audit import attributes as keys
from otel_audit.otlp import read_log
from otel_audit.protobuf import delimited

__all__ = ["DERIVED", "SIGNED", "Deriver", "derived"]

DERIVED: Final = (
    "time", "observed", "host", "user", "source", "type", "outcome", "session", "address", "trace",
)  # fmt: skip
"""The columns that are derived, in the order of the table."""

_COLUMN: Final = {
    keys.HOST: 2,
    keys.USER_NAME: 3,
    keys.SOURCE: 4,
    keys.OUTCOME: 6,
    keys.SESSION_ID: 7,
    keys.CLIENT_ADDRESS: 8,
}
_TRACE: Final = 9
_TIMES: Final = struct.Struct("<BQBQ")
_ACTOR_KEY: Final = delimited(1, keys.ACTOR_ID.encode()) + b"\x12"
_ADDRESS: Final = delimited(1, keys.CLIENT_ADDRESS.encode())
SIGNED: Final = keys.INTEGRITY_VALUE.encode()
"""What the bytes of every signed record hold."""
_SIGNATURE: Final = delimited(1, keys.INTEGRITY_VALUE.encode())
_SCHEMA: Final = delimited(1, keys.SCHEMA_VERSION.encode())
_IMPOSSIBLE: Final = (IndexError, TypeError, AttributeError, UnicodeEncodeError, struct.error)
_KEPT: Final = 65_536
"""Most attributes and beginnings that are remembered."""
_LONGEST: Final = 160
"""Longest attribute that is remembered, in bytes."""


class Deriver:
    """Compares columns with records' bytes, and remembers what recurs among them.

    The result is that of `derived`, which reads every field of a record (a property test compares). Nearly all records
    are laid out as this library does it: for those it is enough to see that each column's value stands at its place,
    and that nothing between them is a column's. That takes an eighth of the time.
    """

    def __init__(self) -> None:
        # Attributes that no column holds, and what all events of a type begin with, by the columns that it gives.
        self._others: set[bytes] = set()
        self._runs: set[bytes] = set()
        self._usual = b""
        self.signed = False
        self._beginnings: dict[tuple[Any, ...], bytes] = {}

    def columns(self, otlp: bytes, like: tuple[Any, ...]) -> tuple[Any, ...]:
        """Return the columns of `DERIVED`.

        Args:
            otlp: A record's bytes.
            like: What the columns are expected to be; it changes the speed alone.

        Raises:
            ValueError: The bytes are no ``LogRecord``.
        """
        if self.agrees(otlp, like):
            return like
        values = derived(otlp)
        if (like[2], like[4], like[5], like[6]) not in self._beginnings:
            self._learn_beginning(otlp)
        return values

    def agrees(self, otlp: bytes, like: tuple[Any, ...]) -> bool:
        """Tell whether the bytes are laid out as usual and give these columns; False where that is not known.

        It sets `signed` where they hold a signature.
        """
        time, observed, host, user, source, type_, outcome, session, address, trace = like
        beginning = self._beginnings.get((host, source, type_, outcome))
        try:
            if beginning is None or _TIMES.pack(0x09, time, 0x59, observed) + beginning != otlp[: 18 + len(beginning)]:
                return False
            position = self._after_session(otlp, 18 + len(beginning), user, session)
            if position and address is not None:
                encoded = address.encode()
                size = len(encoded)
                position = self._before(otlp, position, _CLIENT[size] + encoded + _SOURCE[size] + encoded)
            if not position:
                return False
            if trace is None:
                return self._are_others(otlp, position, len(otlp))
            # Trace, span and flags; only what was altered is named behind them.
            end = len(otlp) - 33
            if not self._are_others(otlp, position, end):
                end = self._skip(otlp, position)
                if self._skip(otlp, end + 33) != len(otlp):
                    return False
            start = b"\x4a\x10" + trace + b"\x52\x08"
            return len(trace) == 16 and otlp.startswith(start, end) and otlp[end + 28] == 0x45
        except _IMPOSSIBLE:
            return False  # the bytes end within a field, or a column holds what no record gives

    def _after_session(self, otlp: bytes, position: int, user: str | None, session: str | None) -> int:
        """Return where actor, body, user and session end that stand at a position; 0 where they do not."""
        text = b""
        if user is None:
            position = _after_actor(otlp, position)
        else:
            encoded = user.encode()
            size = len(encoded)
            text = _USER[size] + encoded
            # Nearly always it is the user who acts.
            actor = _ACTOR[size] + encoded
            position = position + len(actor) if otlp.startswith(actor, position) else _after_actor(otlp, position)
        if session is not None:
            encoded = session.encode()
            text += _SESSION[len(encoded)] + encoded
        position = _after_body(otlp, position)
        return position + len(text) if position and otlp.startswith(text, position) else 0

    def _before(self, otlp: bytes, position: int, text: bytes) -> int:
        """Return where a text ends that follows attributes that no column holds; 0 where that is not so."""
        # The same ones stand there in nearly all records of an application.
        if otlp.startswith(self._usual, position):
            after = position + len(self._usual)
            if otlp.startswith(text, after):
                return after + len(text)
        after = self._skip(otlp, position)
        if not otlp.startswith(text, after):
            return 0
        between = otlp[position:after]
        if len(between) <= _LONGEST and SIGNED not in between:
            self._usual = between
        return after + len(text)

    def _are_others(self, otlp: bytes, position: int, end: int) -> bool:
        """Tell whether what stands between two positions is nothing but attributes that no column holds."""
        between = otlp[position:end]
        if between in self._runs and position <= end:
            return True
        if self._skip(otlp, position) != end:
            return False
        # Every record has another signature: not worth remembering.
        if len(between) <= _LONGEST and SIGNED not in between:
            if len(self._runs) >= _KEPT:
                self._runs.clear()
            self._runs.add(between)
        return True

    def _skip(self, otlp: bytes, position: int) -> int:
        """Return where the attributes end that stand at a position and that no column holds."""
        others, end = self._others, len(otlp)
        while position < end and otlp[position] == 0x32:
            size, start = otlp[position + 1], position + 2
            if size >= 0x80:
                size, start = size & 0x7F | otlp[start] << 7, start + 1
                if size >= 0x4000:
                    return position
            after = start + size
            pair = otlp[start:after]
            # The address ends the first of two such rows in nearly every record.
            if pair.startswith(_SIGNATURE) and otlp.startswith(_signature(pair), position):
                # Every record has another: not worth remembering.
                self.signed = True
                position = after
                continue
            if pair not in others and (pair.startswith(_ADDRESS) or after > end or not self._is_other(pair)):
                return position
            position = after
        return position

    def _is_other(self, pair: bytes) -> bool:
        """Tell whether an attribute is one that no column holds."""
        try:
            # A log record of this attribute alone: one reader of attributes is enough.
            (name,) = read_log(delimited(6, pair)).attributes
        except ValueError:
            return False
        if name in _COLUMN:
            return False
        if SIGNED in pair:
            self.signed = True
        elif len(pair) <= _LONGEST:
            if len(self._others) >= _KEPT:
                self._others.clear()
            self._others.add(pair)
        return True

    def _learn_beginning(self, otlp: bytes) -> None:
        """Remember what stands between a record's times and its actor, where that is laid out as usual."""
        place = otlp.find(_SCHEMA)
        end = place + len(_SCHEMA) + 4 + len(keys.SCHEMA_VERSION_VALUE)
        if place < 18 or end > 8 * _LONGEST or otlp[0] != 0x09 or otlp[9] != 0x59:
            return
        beginning = otlp[18:end]
        try:
            # Read by itself: it holds whole fields, and gives nothing but what all events of the type have.
            values = derived(beginning)
        except ValueError:
            return
        if (
            SIGNED not in beginning
            and values[:2] == (0, 0)
            and values[3] is values[7] is values[8] is values[9] is None
        ):
            if len(self._beginnings) >= _KEPT:
                self._beginnings.clear()
            self._beginnings[values[2], values[4], values[5], values[6]] = beginning


def _after_actor(otlp: bytes, position: int) -> int:
    """Return where the actor ends that stands at a position; 0 where there is none."""
    size = otlp[position + 1]
    if otlp[position] != 0x32 or size >= 0x80 or not otlp.startswith(_ACTOR_KEY, position + 2):
        return 0
    return position + 2 + size if otlp[position + 19] == size - 18 else 0


def _after_body(otlp: bytes, position: int) -> int:
    """Return where the body ends that may stand at a position; 0 where that is not known."""
    if otlp[position : position + 1] != b"\x2a":
        return position
    size = otlp[position + 1]
    if size < 0x80:
        return position + 2 + size
    if otlp[position + 2] < 0x80:
        return position + 3 + (size & 0x7F | otlp[position + 2] << 7)
    return 0


@lru_cache(4096)
def _head(key: str, size: int) -> bytes:
    """Return what precedes the text of a string attribute."""
    return delimited(6, delimited(1, key.encode()) + delimited(2, delimited(1, bytes(size))))[: -size or None]


def _signature(pair: bytes) -> bytes:
    """Return the signature's attribute, were its value the end of this one; nothing where that is no base64."""
    short = len(pair) - len(_SIGNATURE) - 4
    size = short if short < 0x7E else short - 2
    value = pair[-size:]
    return _head(keys.INTEGRITY_VALUE, size) + value if size > 0 and value.isascii() else b"\0"


class _Heads(dict[int, bytes]):
    """What precedes the text of an attribute, by the text's size."""

    def __init__(self, key: str) -> None:
        self._key = key

    def __missing__(self, size: int) -> bytes:
        head = _head(self._key, size)
        if size <= _LONGEST:
            self[size] = head
        return head


_ACTOR: Final = _Heads(keys.ACTOR_ID)
_USER: Final = _Heads(keys.USER_NAME)
_SESSION: Final = _Heads(keys.SESSION_ID)
_CLIENT: Final = _Heads(keys.CLIENT_ADDRESS)
_SOURCE: Final = _Heads(keys.SOURCE_ID)


def derived(otlp: bytes) -> tuple[Any, ...]:
    """Return the columns of `DERIVED`, read plainly.

    Raises:
        ValueError: The bytes are no ``LogRecord``.
    """
    log = read_log(otlp)
    values: list[Any] = [log.time, log.observed, None, None, None, log.event_name, None, None, None, None]
    for name, column in _COLUMN.items():
        values[column] = log.attributes.get(name)
    values[_TRACE] = bytes.fromhex(log.trace_id) or None
    return tuple(values)
