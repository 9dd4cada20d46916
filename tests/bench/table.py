"""The rows of the benchmark's one table, and how it is written."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self

__all__ = ["Goal", "Row", "as_markdown", "as_text"]

_HEAD = ("figure", "ours", "other", "ratio", "goal", "met?")
_DECIMALS = {"µs": 1, "ms": 2, "MB": 1, "%": 1, "records/s": 0}


@dataclass(frozen=True, kw_only=True)
class Goal:
    """What a figure is to reach; every limit that is given must hold."""

    ratio_at_most: float | None = None
    ratio_at_least: float | None = None
    ours_at_most: float | None = None


@dataclass(frozen=True, kw_only=True)
class Row:
    """One figure.

    Args:
        figure: What was measured, and against what.
        unit: Unit of `ours` and `other`.
        ours: Median of the library's blocks.
        other: Median of the other's blocks; None where there is nothing beside it.
        ratio: Median of the ratios of neighbouring blocks.
        goal: What is to be reached; None for a mere comparison.
        note: What a reader must know to judge the figure.
        series: Sizes of the archive, in records, and the figure at each, for a plot.
    """

    figure: str
    unit: str
    ours: float
    other: float | None = None
    ratio: float | None = None
    goal: Goal | None = None
    note: str = ""
    series: tuple[tuple[int, float], ...] = ()

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> Self:
        """Return the row that `asdict` made plain."""
        goal = document.pop("goal")
        series = tuple((size, value) for size, value in document.pop("series"))
        return cls(**document, goal=Goal(**goal) if goal else None, series=series)

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self)

    @property
    def met(self) -> bool | None:
        """Whether the goal is reached; None without one."""
        if self.goal is None:
            return None
        goal, ratio = self.goal, self.ratio
        return not (
            (goal.ratio_at_most is not None and (ratio is None or ratio > goal.ratio_at_most))
            or (goal.ratio_at_least is not None and (ratio is None or ratio < goal.ratio_at_least))
            or (goal.ours_at_most is not None and self.ours > goal.ours_at_most)
        )

    def cells(self) -> tuple[str, ...]:
        """Return the texts of the columns."""
        met = {None: "", True: "yes", False: "NO"}[self.met]
        ratio = "" if self.ratio is None else f"{self.ratio:.2f}"
        return (self.figure, self.value(self.ours), self.value(self.other), ratio, self._goal(), met)

    def value(self, value: float | None) -> str:
        """Return a value as text, with the unit; empty where there is none."""
        return "" if value is None else f"{value:,.{_DECIMALS[self.unit]}f} {self.unit}"

    def _goal(self) -> str:
        if self.goal is None:
            return ""
        parts = [
            f"{sign} {limit:g}{unit}"
            for sign, limit, unit in (
                ("≤", self.goal.ratio_at_most, ""),
                ("≥", self.goal.ratio_at_least, ""),
                ("≤", self.goal.ours_at_most, f" {self.unit}"),
            )
            if limit is not None
        ]
        return ", ".join(parts)


def as_text(rows: Sequence[Row]) -> str:
    """Return the table for a terminal, with the shortfalls and the notes below it."""
    lines = [_HEAD, *(row.cells() for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(_HEAD))]

    def line(cells: Sequence[str]) -> str:
        aligned = [
            cell.rjust(width) if 1 <= n <= 3 else cell.ljust(width)
            for n, (cell, width) in enumerate(zip(cells, widths, strict=True))
        ]
        return "  ".join(aligned).rstrip()

    rule = "  ".join("-" * width for width in widths)
    table = [line(_HEAD), rule, *map(line, lines[1:])]
    return "\n".join([*table, "", *_remarks(rows)])


def as_markdown(rows: Sequence[Row], machine: Iterable[tuple[str, str]], *, command: str) -> str:
    """Return a part of a page with the machine, the table, the shortfalls and the notes."""
    lines = [
        f"Written by `{command}`. Each pair was measured side by side in one run: alternating blocks after a warm-up,",
        "a fresh user and session for each call, garbage collection on. *ours* and *other* are medians of the blocks,",
        "*ratio* is the median of the ratios of neighbouring blocks.",
        "",
        "| machine | |",
        "|---|---|",
        *(f"| {name} | {value} |" for name, value in machine),
        "",
        "| " + " | ".join(_HEAD) + " |",
        "|---|--:|--:|--:|---|---|",
        *("| " + " | ".join(row.cells()) + " |" for row in rows),
        "",
        *_remarks(rows),
    ]
    return "\n".join(lines) + "\n"


def _remarks(rows: Sequence[Row]) -> list[str]:
    short = [row for row in rows if row.met is False]
    judged = sum(row.met is not None for row in rows)
    head = f"{judged - len(short)} of {judged} goals are met." + (" These figures fall short:" if short else "")
    lines = [head, "", *(f"- {row.figure}: {_shortfall(row)}" for row in short)]
    notes = [f"- {row.figure}: {row.note}" for row in rows if row.note]
    if short:
        lines.append("")
    return [*lines, "Notes:", "", *notes] if notes else lines


def _shortfall(row: Row) -> str:
    _, ours, _, ratio, goal, _ = row.cells()
    return f"{ours}{f', ratio {ratio}' if ratio else ''}; goal {goal}"
