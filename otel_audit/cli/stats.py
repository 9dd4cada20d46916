"""``otel-audit stats``: counts by type, user, outcome and time, as charts for terminals or as JSON."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import click
from rich.cells import cell_len

from otel_audit.archive.filters import Filter, nanoseconds
from otel_audit.archive.query import Archive
from otel_audit.archive.stats import Counts
from otel_audit.cli.audited import audited_source, given
from otel_audit.cli.buckets import edges
from otel_audit.cli.layout import fitted
from otel_audit.cli.options import chosen_source, filter_options, form_option, make_filter, source_option
from otel_audit.cli.terminal import Terminal, standard_output
from otel_audit.cli.times import shown_time
from otel_audit.cli.values import Whole
from otel_audit.opening import Statistics, open_source, statistics
from otel_audit.record import rfc3339
from otel_audit.safe import escape, json_text

__all__ = ["command"]

_BLOCKS: Final = " ▏▎▍▌▋▊▉█"
_BAR: Final = 40
_WIDEST: Final = 100


@dataclass(frozen=True)
class _Stats:
    """What was counted.

    Args:
        total: Records that match.
        edges: Borders of the buckets, nanoseconds; empty where there is no record.
        histogram: Records in each bucket.
        types: The most frequent types.
        users: The most frequent users; None stands for host-wide records.
        outcomes: All outcomes.
    """

    total: int
    edges: Sequence[int]
    histogram: Sequence[int]
    types: Counts
    users: Counts
    outcomes: Counts


@click.command(short_help="Count records by time, type, user and outcome.")
@filter_options
@click.option(
    "--top",
    type=Whole("number of rows", 1000),
    default=10,
    show_default=True,
    metavar="N",
    help="Types and users to list.",
)
@click.option("--utc", is_flag=True, help="Days and hours of the charts in UTC; JSON always has UTC.")
@form_option
@source_option
def command(*, archive: str | None, top: int, utc: bool, form: str, **chosen: Any) -> None:
    """Count the records of a host or a user, or of all: over time, and by type, user and outcome.

    Without --since and --until the histogram reaches from the first to the last event that matches.
    """
    wanted = make_filter(chosen)
    with open_source(chosen_source(archive)) as opened:
        audited_source(opened.path if isinstance(opened, Archive) else None, "stats", **given())
        stats = _count(statistics(opened), wanted, top, utc=utc)
    out = standard_output()
    if form == "json":
        sys.stdout.write(json_text(_json(stats), indent=2) + "\n")
        return
    for line in _text(stats, out, utc=utc):
        sys.stdout.write(line.rstrip() + "\n")


def _count(source: Statistics, wanted: Filter, top: int, *, utc: bool) -> _Stats:
    outcomes = source.counts("outcome", wanted, limit=3)
    total = sum(number for _, number in outcomes)
    if not total:
        return _Stats(0, (), (), [], [], [])
    borders = _range(source, wanted, utc=utc)
    return _Stats(
        total,
        borders,
        source.histogram(borders, replace(wanted, since=None, until=None)),
        source.counts("type", wanted, limit=top),
        source.counts("user", wanted, limit=top),
        outcomes,
    )


def _range(source: Statistics, wanted: Filter, *, utc: bool) -> list[int]:
    """Return the borders of the buckets: what was asked for, else where the events lie."""
    since, until = wanted.since, wanted.until
    if since is None or until is None:
        # Without any other criterion the question for all of the archive is answered from its zones, at once.
        everything = replace(wanted, since=None, until=None)
        span = source.extent(everything if everything == Filter() else wanted) or (0, 0)
        since, until = (span[0] if since is None else since), (span[1] + 1 if until is None else until)
    start, end = max(nanoseconds(since), 0), nanoseconds(until)
    return edges(start, max(end, start + 1), utc=utc)


def _json(stats: _Stats) -> dict[str, Any]:
    def values(counted: Counts) -> list[dict[str, Any]]:
        return [{"value": value, "records": number} for value, number in counted]

    return {
        "records": stats.total,
        "histogram": [
            {"since": rfc3339(start), "until": rfc3339(end), "records": number}
            for start, end, number in zip(stats.edges[:-1], stats.edges[1:], stats.histogram, strict=True)
        ],
        "types": values(stats.types),
        "users": values(stats.users),
        "outcomes": values(stats.outcomes),
    }


def _text(stats: _Stats, out: Terminal, *, utc: bool) -> Iterator[str]:
    yield f"{stats.total} {'record' if stats.total == 1 else 'records'}"
    if not stats.total:
        return
    times = [(shown_time(start, utc=utc), number) for start, number in zip(stats.edges, stats.histogram, strict=False)]
    yield from _chart("Since", times, out)
    for title, counted, nothing in (
        ("Type", stats.types, ""),
        ("User", stats.users, "(host-wide)"),
        ("Outcome", stats.outcomes, ""),
    ):
        yield from _chart(
            title, [(nothing if value is None else escape(value), number) for value, number in counted], out
        )


def _chart(title: str, rows: Sequence[tuple[str, int]], out: Terminal) -> Iterator[str]:
    """Return a heading and a bar for each row, within the width."""
    width = min(out.width, _WIDEST)
    number = max(len("Records"), *(len(str(count)) for _, count in rows))
    longest = max(cell_len(title), *(cell_len(label) for label, _ in rows))
    label_width = max(min(longest, width - number - 12), 4)
    room = max(min(_BAR, width - label_width - number - 4), 0)
    most = max(count for _, count in rows)
    yield ""
    yield f"{fitted(title, label_width)}  {'Records':>{number}}"
    for label, count in rows:
        yield f"{fitted(label, label_width)}  {count:>{number}}  {_bar(count, most, room, out)}"


def _bar(count: int, most: int, room: int, out: Terminal) -> str:
    """Return a bar; what is not nothing is at least a sliver."""
    if not count or not room:
        return ""
    if not (out.interactive and out.unicode):
        return "#" * max(round(count * room / most), 1)
    eighths = max(round(count * room * 8 / most), 1)
    return _BLOCKS[8] * (eighths // 8) + _BLOCKS[eighths % 8].strip()
