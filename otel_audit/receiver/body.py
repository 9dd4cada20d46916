"""Reads the body of a request: bounded, as it comes and as it unpacks."""

from __future__ import annotations

import zlib

from otel_audit.receiver.messages import Malformed, Oversized

__all__ = ["Budget", "unpacked"]


class Budget:
    """How many requests, and how many bytes of them, are being worked on. For one event loop.

    Args:
        requests: Most requests.
        size: Most bytes of their bodies, as they came and as they unpack.
    """

    def __init__(self, requests: int, size: int) -> None:
        self._requests = requests
        self._bytes = size

    def enter(self) -> bool:
        """Take room for a request, and return whether there was any."""
        if self._requests <= 0:
            return False
        self._requests -= 1
        return True

    def take(self, size: int) -> bool:
        """Take room for bytes, and return whether there was enough."""
        if size > self._bytes:
            return False
        self._bytes -= size
        return True

    def leave(self, size: int) -> None:
        """Give back the room of a request and its bytes."""
        self._requests += 1
        self._bytes += size


def unpacked(body: bytes, most: int) -> bytes:
    """Return what a body packed with gzip holds.

    Args:
        body: One member: nobody sends several, and millions of empty ones would keep us busy.
        most: Most bytes that it may unpack to.

    Raises:
        Malformed: It is no gzip, or ends too early.
        Oversized: It unpacks to more.
    """
    member = zlib.decompressobj(wbits=31)
    try:
        content = member.decompress(body, most + 1)
    except zlib.error as error:
        raise Malformed(f"the body is no gzip: {error}") from None
    if len(content) > most:
        raise Oversized(f"the body unpacks to more than {most} bytes: send several requests")
    if not member.eof or member.unused_data:
        raise Malformed("the body is not just one gzip member")
    return content
