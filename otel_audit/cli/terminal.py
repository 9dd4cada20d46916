"""What standard output is: a terminal or not, how wide, and which characters it takes."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass

from otel_audit.cli.layout import UNLIMITED

__all__ = ["Terminal", "standard_output"]


@dataclass(frozen=True)
class Terminal:
    """Properties of standard output.

    Args:
        interactive: Whether it is a terminal: colour, symbols and links go to terminals only.
        width: Cells of a line; practically unlimited where nothing says so and nobody looks.
        unicode: Whether it takes any character.
    """

    interactive: bool
    width: int
    unicode: bool


def standard_output() -> Terminal:
    """Return what standard output is; from now on it writes what it cannot encode as backslash escapes."""
    # Not there where a test captures the output.
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="backslashreplace")
    interactive = sys.stdout.isatty()
    return Terminal(interactive, _width(), "utf" in (sys.stdout.encoding or "").lower())


def _width() -> int:
    """Return the width that COLUMNS says, else the terminal; what is written to a file has none to keep to."""
    # Not by shutil, whose archivers take a twentieth of the command's start.
    columns = os.environ.get("COLUMNS", "")
    if columns.isascii() and columns.isdecimal() and len(columns) < 10 and int(columns) > 0:
        return int(columns)
    try:
        return os.get_terminal_size(1).columns or UNLIMITED
    except OSError:
        return UNLIMITED
