"""Makes hostile input out of bytes: a fuzzer changes the bytes, and so walks from one input to a similar one."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import Any, Final, TypeVar

__all__ = ["WORDS", "Source"]

_T = TypeVar("_T")

WORDS: Final = (
    "", " ", "\x00", "\x1b[2J", "\x1b]0;x\x07", "\x9b2J", "\r", "\n", "\t", "\u2028", "\u202e", "\u200b",
    "\ud800", "\udcff", "\ufeff", "é", "漢", "😀", "\U000e0041", "a", "b", "x" * 300, "0", "1", "9",
    "99999999999999999999", "-1", "1e9", "0x10", "٣", "nan", "inf", "true", "null", "none", "now", "today",
    "yesterday", "2026-11-22", "2026-11-22T05:00:00Z", "T", "Z", "+01:00", "30s", "15m", "2h", "7d", "1w",
    "2y", "keep", "forever", "s", "d", "KiB", "MiB", "GiB", "%", "/", "//", "..", "\\", ":", "::", ";", ",",
    ".", "=", "==", ":=", "*", "?", "[", "]", "{", "}", "(", ")", "|", "^", "$", "+", "-", "--", "@", "#",
    "!", "'", '"', "`", "<", ">", "&", "~", "_", "%s", "%n", "{0}", "${x}", "'; DROP TABLE record; --",
    "' OR 1=1", "=cmd|' /C calc'!A0", "+1", "@SUM(1)", "＝1", "203.0.113.7", "10.0.0.0/8", "::1",
    "fe80::1%eth0", "example.com", "alice", "user.login.success", "user.*", "reason.condition",
    "audit.target.id", "target.id", "message", "host", "user", "type", "outcome", "success", "failure",
    "http", "https", "grpc", "://", "localhost", "4318", "gzip", "off", "on", "signal", "logs", "commit",
    "queued", "raise", "block", "otlp", "console", "origin", "audit", "— ", "+", "AAAA", "BEGIN",
    "-----BEGIN PRIVATE KEY-----\n", "-----END PRIVATE KEY-----\n", "PRIVATE+KEY+", "[retention]\n",
    '"*" = "28d"\n', "0af7651916cd43dd8448eb211c80319c", "00000000-0000-0000-0000-000000000000", "f" * 64,
    "jsonl", "csv", "all",
)  # fmt: skip
"""Pieces of texts: what the parsers look for, and what terminals, SQL, spreadsheets and shells look for."""


class Source:
    """Bytes that are used up by whoever asks for a value; used up, they give the plainest one.

    Args:
        data: The bytes.
    """

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._position = 0

    def byte(self) -> int:
        """Return the next byte."""
        position, self._position = self._position, self._position + 1
        return self._data[position] if position < len(self._data) else 0

    def piece(self, longest: int = 64) -> bytes:
        """Return some of the bytes."""
        size = self.byte() * longest // 255
        start, self._position = self._position, self._position + size
        return self._data[start : start + size]

    def rest(self) -> bytes:
        """Return what is left."""
        start, self._position = self._position, len(self._data)
        return self._data[start:]

    def number(self, highest: int) -> int:
        """Return a number from 0 to `highest`."""
        value = 0
        for _ in range((highest.bit_length() + 7) // 8):
            value = value << 8 | self.byte()
        return value % (highest + 1)

    def flag(self) -> bool:
        """Return one of two."""
        return bool(self.byte() & 1)

    def choice(self, of: Sequence[_T]) -> _T:
        """Return one of several."""
        return of[self.number(len(of) - 1)]

    def text(self, pieces: int = 6) -> str:
        """Return a text of words, and of bytes read as UTF-8 with what is none kept as surrogates."""
        parts = []
        for _ in range(self.byte() % (pieces + 1)):
            if self.byte() < 200:
                parts.append(self.choice(WORDS))
            else:
                parts.append(self.piece(24).decode("utf-8", "surrogateescape"))
        return "".join(parts)

    def passed(self, pieces: int = 6) -> str:
        """Return a text as the system passes it, in arguments and variables: bytes, as Python shows them."""
        text = self.text(pieces)
        return "".join(sign for sign in text if sign != "\0" and not "\ud800" <= sign < "\udc80")

    def value(self, depth: int = 3) -> Any:
        """Return anything that Python code may hand over."""
        kind = self.byte() % (13 if depth > 0 else 10)
        if kind < 2:
            return self.text()
        return self._plain[kind - 2]() if kind < 10 else self._nested[kind - 10](depth - 1)

    @property
    def _plain(self) -> tuple[Callable[[], Any], ...]:
        return (
            lambda: self.number(2**72) - 2**71,
            lambda: self.choice((0.0, -0.0, 1.5, float("nan"), float("inf"), -1e308, 5e-324)),
            self.flag,
            self.piece,
            lambda: None,
            lambda: Decimal(self.number(10**6)) / 7,
            object,
            lambda: 10 ** self.number(5_000),
        )

    def _list(self, depth: int) -> list[Any]:
        return [self.value(depth) for _ in range(self.byte() % 4)]

    def _map(self, depth: int) -> dict[str, Any]:
        return {self.text(2): self.value(depth) for _ in range(self.byte() % 4)}

    @property
    def _nested(self) -> tuple[Callable[[int], Any], ...]:
        return (self._list, lambda depth: tuple(self._list(depth)), self._map)

    def json(self, depth: int = 3) -> Any:
        """Return a value as JSON can give it."""
        try:
            return json.loads(json.dumps(self.value(depth)))
        except (TypeError, ValueError):
            return self.text()

    def changed(self, content: bytes) -> bytes:
        """Return bytes with some of them exchanged, left out, doubled or cut off."""
        buffer = bytearray(content)
        for _ in range(self.byte() % 9):
            place = self.number(max(len(buffer), 1) - 1) if buffer else 0
            match self.byte() % 5:
                case 0:
                    buffer[place : place + 1] = bytes((self.byte(),))
                case 1:
                    buffer[place:place] = self.piece(16)
                case 2:
                    del buffer[place : place + 1 + self.byte() % 16]
                case 3:
                    buffer[place : place + 1] = bytes((self.choice((0, 1, 0x7F, 0x80, 0xFF)),))
                case _:
                    del buffer[place:]
        return bytes(buffer)
