"""The client's address behind proxies: read from the right, where the trusted ones wrote."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final, Literal

from otel_audit.record import canonical_address

__all__ = ["ProxyHeader", "client_address"]

ProxyHeader = Literal["x-forwarded-for", "forwarded"]

# A pair of RFC 7239. A quoted value is taken as a whole: proxies put the client's own Host header into one.
_PAIR: Final = re.compile(r'\s*([^\s=;,"]+)\s*=\s*("(?:[^"\\]|\\.)*"|[^;"]*)\s*(?:;|$)', re.DOTALL)
_BRACKETS: Final = re.compile(r"\[([^\[\]]*)\](?::[\w.-]*)?")
_V4_PORT: Final = re.compile(r"(\d{1,3}(?:\.\d{1,3}){3}):[\w.-]*", re.ASCII)


def client_address(peer: str | None, values: Sequence[str], trusted: int, header: ProxyHeader) -> str | None:
    """Return the address that the outermost trusted proxy was reached from.

    Each proxy appends the address of its peer, so the client's is as far from the right as there are proxies; what
    stands further left was sent by the client and is not looked at. Where there are fewer entries than proxies, the
    request did not come through all of them, and the peer is all that is known.

    Args:
        peer: The address of the connection itself.
        values: The values of the header, one a line, in order.
        trusted: How many proxies are in front, each of which appends one entry; 0: the header is not looked at.
        header: What the proxies write, and how it is read.

    Returns:
        The address without its port; what is no address is returned as it is, to be recorded and marked.
    """
    if not trusted or not values:
        return peer
    text = ",".join(values)
    if header == "forwarded":
        elements = _last_elements(text, trusted)
        found = _for(elements[-1]) if len(elements) == trusted else None
    else:
        parts = text.rsplit(",", trusted)
        found = parts[-trusted].strip() if len(parts) >= trusted else None
    return _without_port(found) if found else peer


def _last_elements(text: str, count: int) -> list[str]:
    """Return the last elements, the very last one first.

    From the right: a quote that the client opened and never closed would otherwise swallow what the proxies wrote.
    """
    elements: list[str] = []
    end, quoted = len(text), False
    for position in range(len(text) - 1, -1, -1):
        character = text[position]
        if character == '"' and not _escaped(text, position):
            quoted = not quoted
        elif character == "," and not quoted:
            elements.append(text[position + 1 : end])
            end = position
            if len(elements) == count:
                return elements
    return [*elements, text[:end]]


def _escaped(text: str, position: int) -> bool:
    start = position
    while start and text[start - 1] == "\\":
        start -= 1
    return (position - start) % 2 == 1


def _for(element: str) -> str | None:
    """Return the value of ``for`` in one element of a Forwarded header."""
    position = 0
    while position < len(element) and (pair := _PAIR.match(element, position)):
        if pair[1].lower() == "for":
            value = pair[2].strip()
            return re.sub(r"\\(.)", r"\1", value[1:-1], flags=re.DOTALL) if value.startswith('"') else value
        position = pair.end()
    return None


def _without_port(node: str) -> str:
    if match := _BRACKETS.fullmatch(node):
        return match[1] if canonical_address(match[1]) else node
    if match := _V4_PORT.fullmatch(node):
        return match[1]
    return node
