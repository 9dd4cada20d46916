"""Writes small databases in MaxMind's format, version 2.0: networks, and what is known of each."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from pathlib import Path
from typing import Any

__all__ = ["write_mmdb"]

MARKER = b"\xab\xcd\xefMaxMind.com"
SEPARATOR = 16
"""Zero bytes between the tree and the data, counted by the pointers into the data."""


def write_mmdb(path: Path, networks: Mapping[str, Mapping[str, Any]], version: int = 6) -> Path:
    """Write a database, and return its path.

    Args:
        path: The file.
        networks: What is known of each network, in CIDR notation; IPv4 networks stand under ``::/96``.
        version: 6, or 4 for IPv4 only.
    """
    nodes: list[list[int | None]] = [[None, None]]
    data = bytearray()
    leaves: dict[tuple[int, int], int] = {}
    for text, known in networks.items():
        bits = _bits(ipaddress.ip_network(text), version)
        node = 0
        for bit in bits[:-1]:
            below = nodes[node][bit]
            if below is None:
                below = nodes[node][bit] = len(nodes)
                nodes.append([None, None])
            node = below
        leaves[node, bits[-1]] = len(data)
        data += _encode(dict(known))
    count = len(nodes)
    tree = bytearray()
    for number, sides in enumerate(nodes):
        for bit, below in enumerate(sides):
            leaf = leaves.get((number, bit))
            value = count + SEPARATOR + leaf if leaf is not None else count if below is None else below
            tree += value.to_bytes(4)
    metadata = {
        "node_count": _Unsigned(count, 6),
        "record_size": _Unsigned(32, 5),
        "ip_version": _Unsigned(version, 5),
        "database_type": "Test",
        "languages": ["en"],
        "binary_format_major_version": _Unsigned(2, 5),
        "binary_format_minor_version": _Unsigned(0, 5),
        "build_epoch": _Unsigned(1_767_225_600, 9),
        "description": {"en": "for tests"},
    }
    path.write_bytes(bytes(tree) + bytes(SEPARATOR) + bytes(data) + MARKER + _encode(metadata))
    return path


class _Unsigned:
    def __init__(self, value: int, kind: int) -> None:
        self.value = value
        self.kind = kind


def _bits(network: ipaddress.IPv4Network | ipaddress.IPv6Network, version: int) -> list[int]:
    lead = 96 if version == 6 and network.version == 4 else 0
    length = network.max_prefixlen
    number = int(network.network_address)
    return [0] * lead + [number >> (length - 1 - n) & 1 for n in range(network.prefixlen)]


def _encode(value: Any) -> bytes:
    match value:
        case dict():
            return _control(7, len(value)) + b"".join(_encode(key) + _encode(item) for key, item in value.items())
        case list():
            return _control(11, len(value)) + b"".join(map(_encode, value))
        case str():
            return _control(2, len(value.encode())) + value.encode()
        case _Unsigned():
            number = value.value.to_bytes((value.value.bit_length() + 7) // 8)
            return _control(value.kind, len(number)) + number
        case _:
            raise TypeError(f"{value!r} is not written here")


def _control(kind: int, size: int) -> bytes:
    assert size < 29
    return bytes((kind << 5 | size,)) if kind < 8 else bytes((size, kind - 7))
