"""Reads numbers that a backend keeps as text."""

from __future__ import annotations

import re
from typing import Any, Final

__all__ = ["sequence_of"]

_NUMBER: Final = re.compile(r"[1-9][0-9]{0,18}")


def sequence_of(text: Any) -> Any:
    """Return the sequence that a text states; the text itself where it states none."""
    return int(text) if isinstance(text, str) and _NUMBER.fullmatch(text) else text
