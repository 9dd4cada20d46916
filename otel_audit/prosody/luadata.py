r"""Reads the ``.list`` files of Prosody's internal storage: Lua source text that is parsed, and never run.

Such a file is a sequence of ``item({...});``, one for each entry, with tables, quoted strings, numbers and booleans.
Strings hold no raw line breaks, so that an entry begins where a line begins with ``item(``. An entry that was cut off,
or is no such data, ends there, and does not hide the next one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import BinaryIO, Final, NamedTuple, NoReturn

__all__ = ["Item", "Table", "read_items"]

_LONGEST: Final = 4 << 20
"""Most bytes of one entry."""
_DEEPEST: Final = 100
_TRIES: Final = 16
"""How often an entry is looked for in what lies between two lines that begin one."""
_BEGIN: Final = b"item("

_SPACE = re.compile(rb"[ \t\r\n\v\f]*")
_STRING = re.compile(rb'"([^"\\\n]*(?:\\[^\n][^"\\\n]*)*)"')
_NUMBER = re.compile(rb"-?[0-9]+(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?")
_WORD = re.compile(rb"true|false|nil|\((-?[01])/0\)")
_ESCAPE = re.compile(rb"\\([0-9]{1,3}|x[0-9a-fA-F]{2}|[^\n])")
_ESCAPES: Final = {
    b"a": b"\a", b"b": b"\b", b"f": b"\f", b"n": b"\n", b"r": b"\r", b"t": b"\t", b"v": b"\v",
    b"\\": b"\\", b'"': b'"', b"'": b"'",
}  # fmt: skip
_WORDS: Final = {b"true": True, b"false": False, b"nil": None}
_DIVISIONS: Final = {b"1": float("inf"), b"-1": float("-inf")}

Scalar = str | int | float | bool | None
Table = dict[Scalar, "Scalar | Table"]
"""A Lua table; bytes of strings that are no UTF-8 are lone surrogates."""


class Item(NamedTuple):
    """One entry of a file.

    Args:
        line: The number of its first line, from 1.
        raw: Its text.
        table: What it holds; None where it cannot be read.
        fault: Why it cannot.
    """

    line: int
    raw: bytes
    table: Table | None
    fault: str = ""


def read_items(file: BinaryIO) -> Iterator[Item]:
    """Iterate over the entries of a file, in constant memory; what is no entry comes with a fault.

    Args:
        file: Opened to read bytes.
    """
    for line, raw in _chunks(file):
        yield from _items(line, raw)


def _chunks(file: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """Iterate over what lies between the lines that begin an entry, with the number of its first line."""
    number, first, size = 1, 1, 0
    parts: list[bytes] = []
    while text := file.readline(_LONGEST):
        # Where an append failed, Prosody leaves spaces.
        if parts and (text.lstrip(b" ").startswith(_BEGIN) or size + len(text) > _LONGEST):
            yield first, b"".join(parts)
            parts, size = [], 0
        if not parts:
            first = number
        parts.append(text)
        size += len(text)
        number += text.endswith(b"\n")
    if parts:
        yield first, b"".join(parts)


def _items(line: int, raw: bytes) -> Iterator[Item]:
    """Iterate over the entries that a text holds, as a rule one, and over what stands around them."""
    done, start, fault = 0, -1, ""
    for _ in range(_TRIES):
        start = raw.find(_BEGIN, max(done, start + 1))
        if start < 0:
            break
        try:
            table, end = _Parser(raw, start + len(_BEGIN)).item()
        except ValueError as error:
            fault = fault or str(error)
            continue
        yield from _rest(line, raw, done, start, fault)
        yield Item(line + raw.count(b"\n", 0, start), raw[start:end], table)
        done, fault = end, ""
    yield from _rest(line, raw, done, len(raw), fault)


def _rest(line: int, raw: bytes, start: int, end: int, fault: str) -> Iterator[Item]:
    """Yield what is no entry, unless it is white space."""
    if text := raw[start:end].strip():
        yield Item(line + raw.count(b"\n", 0, raw.index(text, start)), text, None, fault or "it is no entry")


class _Parser:
    """Parses one entry.

    Args:
        data: The text.
        position: Where the value begins.
    """

    def __init__(self, data: bytes, position: int) -> None:
        self._data, self._position = data, position

    def item(self) -> tuple[Table, int]:
        """Return the table of an entry, and where the entry ends.

        Raises:
            ValueError: It is none.
        """
        value = self._value(0)
        self._expect(b")")
        self._accept(b";")
        if not isinstance(value, dict):
            self._fail("it is no table")
        return value, self._position

    def _value(self, depth: int) -> Scalar | Table:
        self._skip()
        data, position = self._data, self._position
        if data.startswith(b"{", position):
            return self._table(depth)
        if match := _STRING.match(data, position):
            self._position = match.end()
            return _unescaped(match[1])
        if match := _NUMBER.match(data, position):
            self._position = match.end()
            return int(match[0]) if match[0].lstrip(b"-").isdigit() else float(match[0])
        match = _WORD.match(data, position)
        if match is None:
            self._fail("a value is missing" if position < len(data) else "it is cut off")
        self._position = match.end()
        return _WORDS[match[0]] if match[1] is None else _DIVISIONS.get(match[1], float("nan"))

    def _table(self, depth: int) -> Table:
        if depth >= _DEEPEST:
            self._fail("it is nested too deeply")
        self._position += 1
        table: Table = {}
        index = 1
        while not self._accept(b"}"):
            if self._accept(b"["):
                key = self._value(depth + 1)
                self._expect(b"]")
                self._expect(b"=")
                if isinstance(key, dict):
                    self._fail("a key is a table")
                table[key] = self._value(depth + 1)
            else:
                table[index] = self._value(depth + 1)
                index += 1
            if not self._accept(b";") and not self._accept(b","):
                self._expect(b"}")
                break
        return table

    def _skip(self) -> None:
        match = _SPACE.match(self._data, self._position)
        if match is not None:
            self._position = match.end()

    def _accept(self, sign: bytes) -> bool:
        self._skip()
        there = self._data.startswith(sign, self._position)
        self._position += there
        return there

    def _expect(self, sign: bytes) -> None:
        if not self._accept(sign):
            missing = f"{sign.decode()} is missing"
            self._fail(missing if self._position < len(self._data) else "it is cut off")

    def _fail(self, reason: str) -> NoReturn:
        raise ValueError(f"{reason} at byte {self._position}")


def _unescaped(text: bytes) -> str:
    if b"\\" in text:
        text = _ESCAPE.sub(_character, text)
    return text.decode("utf-8", "surrogateescape")


def _character(match: re.Match[bytes]) -> bytes:
    escape = match[1]
    if escape.isdigit() and int(escape) < 256:
        return bytes((int(escape),))
    if escape.startswith(b"x") and len(escape) == 3:
        return bytes.fromhex(escape[1:].decode())
    if escape not in _ESCAPES:
        raise ValueError(f"a string has the escape {escape!r}")
    return _ESCAPES[escape]
