"""The table of a run, for a terminal and for a page."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from tests.faults.frame import Outcome

__all__ = ["as_markdown", "as_text"]

_HEAD: Final = ("fault", "cycles", "acknowledged", "lost", "refused", "duplicated", "detected", "as promised?")
_PARTS: Final = (
    ("ours", "otel_audit"),
    ("teeth", "otel_audit with a fault built in by the harness, which must see the losses"),
    ("sdk", "The SDK's BatchLogRecordProcessor and OTLP exporter, at their defaults"),
)


def _cells(outcome: Outcome) -> tuple[str, ...]:
    if outcome.skipped:
        return (outcome.fault, *("",) * 6, f"skipped: {outcome.skipped}")
    detected = "" if outcome.detected is None else f"{outcome.detected:,}"
    counts = (outcome.cycles, outcome.acknowledged, outcome.lost, outcome.refused, outcome.duplicated)
    return (outcome.fault, *(f"{count:,}" for count in counts), detected, _verdict(outcome))


def _verdict(outcome: Outcome) -> str:
    match outcome.subject:
        case "sdk":
            return ""
        case "teeth":
            return "losses seen" if outcome.as_promised else "NO LOSS SEEN"
        case _:
            return "yes" if outcome.as_promised else "NO"


def as_text(outcomes: Sequence[Outcome]) -> str:
    """Return the table for a terminal, with what went wrong below it."""
    lines = [_HEAD, *map(_cells, outcomes)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(_HEAD))]

    def line(cells: Sequence[str]) -> str:
        aligned = [
            cell.rjust(width) if 1 <= n <= 6 else cell.ljust(width)
            for n, (cell, width) in enumerate(zip(cells, widths, strict=True))
        ]
        return "  ".join(aligned).rstrip()

    rule = "  ".join("-" * width for width in widths)
    return "\n".join([line(_HEAD), rule, *map(line, lines[1:]), "", *_remarks(outcomes)])


def as_markdown(outcomes: Sequence[Outcome], machine: Iterable[tuple[str, str]]) -> str:
    """Return the tables as they stand in the page, and the machine."""
    lines: list[str] = []
    for subject, title in _PARTS:
        rows = [outcome for outcome in outcomes if outcome.subject == subject]
        if rows:
            lines += [f"### {title}", "", "| " + " | ".join(_HEAD) + " |", "|---|--:|--:|--:|--:|--:|--:|---|"]
            lines += ["| " + " | ".join(_cells(row)) + " |" for row in rows]
            lines.append("")
    lines += [*_remarks(outcomes), "", "| machine | |", "|---|---|"]
    return "\n".join([*lines, *(f"| {name} | {value} |" for name, value in machine)]) + "\n"


def _remarks(outcomes: Sequence[Outcome]) -> list[str]:
    ours = [outcome for outcome in outcomes if outcome.subject == "ours" and not outcome.skipped]
    cycles, told = sum(each.cycles for each in ours), sum(each.acknowledged for each in ours)
    head = f"otel_audit: {cycles:,} faults, {told:,} records acknowledged, {sum(each.lost for each in ours):,} lost."
    wrong = [f"- {outcome.name}: {text}" for outcome in ours for text in outcome.wrong]
    failed = [f"- {outcome.name}: not as promised" for outcome in outcomes if not outcome.as_promised]
    figures = [f"- {outcome.name}: {text}" for outcome in ours for text in outcome.figures]
    return [head, *([""] if figures or wrong or failed else []), *failed, *wrong, *figures]
