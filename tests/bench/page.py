"""Puts what a run wrote into a page, between two marks, and leaves the rest of it alone."""

from __future__ import annotations

__all__ = ["put"]


def put(page: str, name: str, text: str) -> str:
    """Return a page with another text between the marks of a name; where it has none, they go to its end.

    Args:
        page: The page.
        name: The marks are the comments ``name: begin`` and ``name: end``.
        text: What shall stand between them.
    """
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    if begin not in page or end not in page:
        page = f"{page.rstrip()}\n\n{begin}\n{end}\n"
    before, _, rest = page.partition(begin)
    return f"{before}{begin}\n\n{text.strip()}\n\n{end}{rest.partition(end)[2]}"
