r"""Text in forms that know no escapes of their own for control characters: as it is, or as a JSON string.

One rule for CSV and CEF: text that holds something unprintable, is empty, begins with a quotation mark or has blanks at
its ends is written as a JSON string, quotation marks included (``"a\u001b"``); all other text as it is. So the reader's
terminal is safe, and nothing is lost.
"""

from __future__ import annotations

import json

from otel_audit.safe import json_text

__all__ = ["quoted", "unquoted"]


def quoted(text: str, *, allowed: str = "") -> str:
    """Return `text` as it is, or as a JSON string where it could do harm or could not be told from one.

    Args:
        text: The text.
        allowed: Unprintable characters that need no JSON string, because the form has escapes for them.
    """
    visible = text.isprintable() or all(character in allowed or character.isprintable() for character in text)
    plain = visible and text != "" and text.strip() == text and not text.startswith('"')
    return text if plain else json_text(text)


def unquoted(shown: str) -> str:
    """Return the text that `quoted` was given.

    Args:
        shown: What `quoted` returned.

    Raises:
        ValueError: It begins with a quotation mark and is no JSON string.
    """
    if not shown.startswith('"'):
        return shown
    text: str = json.loads(shown)
    return text
