"""What a request holds, whichever encoding it came in; and what is wrong with one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from otel_audit.foreign import ForeignLog

__all__ = ["DEEPEST", "Counted", "LogGroup", "Malformed", "Oversized", "trace_number"]

DEEPEST: Final = 32
"""Deepest nesting of values that is read; what lies deeper is left out, as a record keeps 8 levels of it."""


class Malformed(Exception):
    """The body is no request."""


class Oversized(Exception):
    """The body, or what it unpacks to, is larger than what is taken."""


@dataclass(slots=True)
class LogGroup:
    """Log records that share resource and scope.

    Args:
        resource: Attributes of the ``Resource``.
        scope_name: Name of the ``InstrumentationScope``.
        scope_version: Its version.
        scope: Its attributes.
        schemas: Schema URLs of resource and scope, where they have any.
        logs: The records.
    """

    resource: Mapping[str, Any] = field(default_factory=dict)
    scope_name: str = ""
    scope_version: str = ""
    scope: Mapping[str, Any] = field(default_factory=dict)
    schemas: dict[str, str] = field(default_factory=dict)
    logs: list[ForeignLog] = field(default_factory=list)


class Counted:
    """Counts records while they are read: an empty one takes two bytes of a request, and hundreds on the disk.

    So it is with the groups that they come in, and the memory.

    Args:
        most: How many records there may be, and how many groups.
    """

    __slots__ = ("_groups", "_left", "_most")

    def __init__(self, most: int) -> None:
        self._most = self._left = self._groups = most

    def one(self) -> None:
        """Count a record.

        Raises:
            Oversized: It is one too many.
        """
        self._left -= 1
        if self._left < 0:
            raise Oversized(f"a request may hold {self._most} records: send several")

    def group(self) -> None:
        """Count the records of one scope, whether there are any or not.

        Raises:
            Oversized: They are one group too many.
        """
        self._groups -= 1
        if self._groups < 0:
            raise Oversized(f"a request may hold records of {self._most} scopes: send several")


def trace_number(identity: bytes, size: int) -> int | str | None:
    """Return a trace's or span's id as a number; text that is none where it has not the right size."""
    if len(identity) == size:
        return int.from_bytes(identity)
    return f"0x{identity[:64].hex()}" if identity else None
