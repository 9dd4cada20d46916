"""What standard output is: a terminal or not, how wide, and which characters it takes."""

from __future__ import annotations

import shutil
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
    # COLUMNS first, then the terminal; what is written to a file has no width to keep to.
    width = shutil.get_terminal_size((UNLIMITED, 24)).columns
    return Terminal(interactive, width, "utf" in (sys.stdout.encoding or "").lower())
