"""The hash that stands for one record in the archive's Merkle tree (RFC 6962 leaf), version 1.

The leaf covers what stays when content is erased or pruned: kind, position, time of recording, id, host, type, and the
commitment C to everything else. The salt keeps an erased record's content from being guessed back from C.
"""

from __future__ import annotations

import struct
from functools import lru_cache
from hashlib import sha256
from typing import Final

__all__ = [
    "ADMINISTRATION",
    "ERASURE",
    "EVENT",
    "GENESIS",
    "KINDS",
    "PRUNE",
    "RECEIVED",
    "ROTATION",
    "commitment",
    "header_digest",
    "leaf_hash",
    "seal",
]

RECEIVED: Final = 0
"""The kind of a record that was made elsewhere and came with its id."""
EVENT: Final = 1
"""The kind of a record that was made here. Greater ones are the archive's own."""
ERASURE: Final = 2
"""Names records whose content was erased at somebody's request."""
PRUNE: Final = 3
"""Names records whose content was removed when its time was over."""
ROTATION: Final = 4
"""Hands over from one signing key to the next."""
GENESIS: Final = 5
"""Binds the archive's id, its time of creation and its first key; the first of the archive's own records."""
ADMINISTRATION: Final = 6
"""A checkpoint, or what somebody did with the archive."""
KINDS: Final = range(RECEIVED, ADMINISTRATION + 1)

_VERSION: Final = b"\0OAL1"
_HEAD: Final = struct.Struct(">BQQ")
_COMMIT: Final = b"otel-audit/v1/commit\0"
_SEAL: Final = b"otel-audit/v1/archive\0"


def header_digest(resource: bytes, scope: bytes) -> bytes:
    """Return SHA-256 over the bytes of a record's ``Resource`` and ``InstrumentationScope``."""
    return sha256(len(resource).to_bytes(4) + resource + scope).digest()


def commitment(salt: bytes, header: bytes, otlp: bytes) -> bytes:
    """Return C, the commitment to a record's content.

    Args:
        salt: 32 random bytes, kept with the content and removed with it.
        header: `header_digest` of what the record is shipped under.
        otlp: The stored bytes.
    """
    return sha256(_COMMIT + salt + header + otlp).digest()


def leaf_hash(  # noqa: PLR0917 - the parts of the leaf, in their order
    kind: int, sequence: int, observed: int, record_id: bytes, host: str, type_: str, content: bytes
) -> bytes:
    """Return a record's leaf hash.

    Args:
        kind: One of `KINDS`.
        sequence: Position in the archive.
        observed: Nanoseconds since the epoch.
        record_id: 16 bytes.
        host: At most 255 bytes of UTF-8.
        type_: At most 255 bytes of UTF-8.
        content: The `commitment`.

    Raises:
        OverflowError: A number is out of its range, or none.
    """
    try:
        head = _VERSION + _HEAD.pack(kind, sequence, observed)
    except struct.error as error:
        raise OverflowError(str(error)) from error
    return sha256(head + record_id + _names(host, type_) + content).digest()


@lru_cache(4096)
def _names(host: str, type_: str) -> bytes:
    host_bytes, type_bytes = host.encode(), type_.encode()
    return bytes((len(host_bytes),)) + host_bytes + bytes((len(type_bytes),)) + type_bytes


def seal(archive_id: str, created: int) -> bytes:
    """Return the hash that an archive keeps of its own id and time of creation, which no leaf covers."""
    return sha256(_SEAL + f"{archive_id}\n{created}".encode()).digest()
