"""Sizes as people read them."""

from __future__ import annotations

__all__ = ["size_text"]


def size_text(size: int) -> str:
    """Return a number of bytes in its largest unit, e.g. ``3.4 MiB``."""
    number = float(size)
    for unit in ("bytes", "KiB", "MiB"):
        if number < 1024:
            return f"{number:.0f} {unit}" if unit == "bytes" else f"{number:.1f} {unit}"
        number /= 1024
    return f"{number:.1f} GiB"
