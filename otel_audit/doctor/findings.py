"""What an examination finds."""

from __future__ import annotations

from typing import Final, Literal, NamedTuple

__all__ = ["SEVERITIES", "Finding", "Severity"]

Severity = Literal["error", "warning", "note"]
SEVERITIES: Final[tuple[Severity, ...]] = ("error", "warning", "note")
"""The gravest first."""


class Finding(NamedTuple):
    """One thing that an operator should know.

    Args:
        severity: ``error``: records are lost, or cannot be recorded, read or delivered. ``warning``: they are exposed
            or changed, or will be in trouble. ``note``: good to know.
        code: What it is, for machines; words with hyphens.
        what: What was found, naming the value.
        why: What that means for audit records; empty where `what` says it.
        remedy: What to do, or what to write instead; empty where there is nothing to do.
        file: The file that it was found in; None where it is about no line of a file.
        line: The line in this file, from 1.
    """

    severity: Severity
    code: str
    what: str
    why: str = ""
    remedy: str = ""
    file: str | None = None
    line: int | None = None

    @property
    def place(self) -> str:
        """``FILE:LINE``, the file alone, or nothing."""
        if self.file is None:
            return ""
        return self.file if self.line is None else f"{self.file}:{self.line}"
