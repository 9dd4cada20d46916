"""Makes what clients sent harmless to show: on terminals, in JSON text, in spreadsheets."""

from __future__ import annotations

from typing import Any, Final

__all__ = ["escape", "json_text", "spreadsheet_cell"]

# What spreadsheets take for a formula; the last four are the full-width forms of the first.
_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")


def escape(text: str) -> str:
    r"""Return `text` with everything that is not printable as a visible escape such as ``\x1b`` or ``\u202e``.

    That covers control characters and so ANSI escape sequences, line breaks, bidirectional overrides, and characters
    that show as nothing and let one name pass for another. The result is one line, whatever was sent.
    """
    return text if text.isprintable() else "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def json_text(value: Any, *, indent: int | None = None) -> str:
    r"""Return a value as JSON text in which strings hold what is not printable as ``\u`` escapes only."""
    import json  # start-up time: tables do without it

    text = json.dumps(value, ensure_ascii=False, allow_nan=False, indent=indent)
    if text.isprintable():
        return text
    # Only strings can hold such characters; line breaks are the layout's.
    return "".join(c if c == "\n" or c.isprintable() else json.dumps(c)[1:-1] for c in text)


def spreadsheet_cell(text: str) -> str:
    """Return `text` as a cell that no spreadsheet takes for a formula, escaped as by `escape`.

    Source: OWASP, *CSV Injection*: a leading apostrophe marks a cell as text. Where the locale's separator is the
    semicolon, one within the text begins a new cell, and a quotation mark after it is the spreadsheet's own.
    """
    return ";".join(
        f"'{escape(cell)}" if cell.lstrip(' "').startswith(_FORMULA) else escape(cell) for cell in text.split(";")
    )
