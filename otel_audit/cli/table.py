"""Prints records as a table that fits the terminal and always shows the full type and the outcome."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from otel_audit.cli.fields import lookup, plain_text
from otel_audit.cli.layout import Column, Layout, wrapped
from otel_audit.cli.notes import notes, other_actor
from otel_audit.cli.terminal import Terminal, standard_output
from otel_audit.cli.times import shorter_forms, shown_time
from otel_audit.record import AuditRecord, to_json
from otel_audit.safe import escape

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["TablePrinter", "TableStyle"]

_SAMPLE: Final = 500
"""Rows that the widths are fitted to; tables of any length are printed as they come."""
_SYMBOLS: Final = {"success": "✓", "failure": "✗", "unknown": "?"}
_COLOURS: Final = {"success": "green", "failure": "red", "unknown": "yellow"}
_INDENT: Final = "    "


@dataclass(frozen=True)
class TableStyle:
    """What a table shows.

    Args:
        utc: Times in UTC rather than local.
        host: Whether there is a column for the host.
        address: Likewise for the session's address.
        location: Likewise for its country and continent.
        notes: Whether messages, custom fields and marks follow each row.
        fields: The columns by the names of fields, in place of the usual ones.
        trace_url: Template of links to traces, with ``{trace_id}``.
    """

    utc: bool = False
    host: bool = True
    address: bool = True
    location: bool = False
    notes: bool = False
    fields: Sequence[str] = ()
    trace_url: str | None = None


class TablePrinter:
    """Prints records as aligned lines.

    Args:
        style: What it shows.
        growing: Whether rows will come that are not there yet.
    """

    streams = True

    def __init__(self, style: TableStyle, *, growing: bool = False) -> None:
        self._style = style
        self._growing = growing
        self._out: Terminal = standard_output()
        self._cells = _field_cells(style) if style.fields else _usual_cells(style, self._out)
        self._columns = [column for column, _ in self._cells]
        self._waiting: list[AuditRecord] = []
        self._layout: Layout | None = None
        self._console: Console | None = None
        self.count = 0
        if self._out.interactive:
            # rich.console only for terminals: elsewhere there is nothing to style.
            from rich.console import Console

            self._console = Console(highlight=False, markup=False, emoji=False, force_terminal=True, soft_wrap=True)

    def start(self) -> None:
        """Nothing is printed before the widths are known."""

    def write(self, record: AuditRecord) -> None:
        """Print a record, or keep it for the sample."""
        self.count += 1
        if self._layout is not None:
            self._print(record, self._layout)
            return
        self._waiting.append(record)
        if len(self._waiting) >= _SAMPLE:
            self._open(complete=False)

    def flush(self) -> None:
        """Print what waits, and from now on each record at once."""
        if self._layout is None:
            self._open(complete=False)
        sys.stdout.flush()

    def finish(self) -> None:
        """Print what waits; without any record there is no table."""
        if self.count and self._layout is None:
            self._open(complete=not self._growing)
        sys.stdout.flush()

    def _open(self, *, complete: bool) -> None:
        """Print the heading and what waits.

        Args:
            complete: Whether no other record will follow.
        """
        self._layout = self._fitted_layout(complete=complete)
        for line in self._layout.lines([column.header for column in self._columns]):
            self._line([(text, "bold", None) for _, text in line])
        for record in self._waiting:
            self._print(record, self._layout)
        self._waiting.clear()

    def _fitted_layout(self, *, complete: bool) -> Layout:
        """Return the widths, having shortened the times where that leaves more of the rest."""

        def layout(columns: Sequence[Column], rows: Sequence[Sequence[str]]) -> Layout:
            return Layout(columns, rows, self._out.width, growing=self._growing)

        sample = [[cell(record) for _, cell in self._cells] for record in self._waiting]
        best = layout(self._columns, sample)
        place = next((n for n, column in enumerate(self._columns) if column.header.lower() == "time"), None)
        if place is None or not any(best.strain):
            return best
        column, cell = self._cells[place]
        for form in shorter_forms([row[place] for row in sample], complete=complete):
            # Without seconds only for the type's sake: what is left out can be asked for, what is not shown misleads.
            if not form.seconds and not best.strain[2]:
                continue
            columns = [*self._columns]
            columns[place] = replace(
                column, header=form.header or column.header, usual=len(form.cut(_now(utc=self._style.utc)))
            )
            rows = [[*row[:place], form.cut(row[place]), *row[place + 1 :]] for row in sample]
            other = layout(columns, rows)
            if other.strain < best.strain:
                best = other
                self._cells[place] = (columns[place], lambda record, form=form: form.cut(cell(record)))  # type: ignore[misc]
        self._columns = [column for column, _ in self._cells]
        return best

    def _print(self, record: AuditRecord, layout: Layout) -> None:
        link = None
        if self._style.trace_url is not None and record.trace_id is not None:
            link = escape(self._style.trace_url.replace("{trace_id}", record.trace_id))
        for line in layout.lines([cell(record) for _, cell in self._cells]):
            self._line([
                (
                    text,
                    _COLOURS[record.outcome] if self._columns[n].header.lower() == "outcome" else "",
                    link if self._columns[n].header == "Trace" else None,
                )
                for n, text in line
            ])  # fmt: skip
        if self._style.notes:
            for note in notes(record, self._style.trace_url):
                for text in wrapped(note, self._out.width, _INDENT):
                    self._line([(text, "dim", None)])

    def _line(self, parts: Sequence[tuple[str, str, str | None]]) -> None:
        if self._console is None:
            sys.stdout.write("  ".join(text for text, _, _ in parts).rstrip() + "\n")
            return
        from rich.style import Style  # with the console
        from rich.text import Text

        line = Text()
        for number, (text, style, link) in enumerate(parts):
            line.append("  " if number else "")
            shown = text.rstrip()
            line.append(shown, Style.parse(style) + Style(link=link) if shown else None)
            line.append(" " * (len(text) - len(shown)))
        line.rstrip()
        self._console.print(line, soft_wrap=True)


_Cells = list[tuple[Column, Callable[[AuditRecord], str]]]


def _usual_cells(style: TableStyle, out: Terminal) -> _Cells:
    """Return the columns and what each shows of a record."""
    with_symbols = out.interactive and out.unicode

    def outcome(record: AuditRecord) -> str:
        return f"{_SYMBOLS[record.outcome]} {record.outcome}" if with_symbols else record.outcome

    def client(record: AuditRecord) -> str:
        return escape(record.session.client or "") if record.session else ""

    def address(record: AuditRecord) -> str:
        return escape(str(record.session.ip)) if record.session and record.session.ip is not None else ""

    cells: _Cells = [
        (
            Column("Time", least=25, whole=True, usual=len(_now(utc=style.utc))),
            lambda record: shown_time(record.time, utc=style.utc),
        )
    ]
    if style.host:
        cells.append((Column("Host", 5, 12, usual=12), lambda record: escape(record.host)))
    cells += [
        (Column("User", least=16, bare=8, usual=12), _who),
        (
            Column("Event", least=30, bare=16, whole=True, second=True, usual=22),
            lambda record: escape(record.type),
        ),
        (Column("Outcome", least=9, second=True, usual=9 if with_symbols else 7), outcome),
    ]
    if style.address:
        cells.append((Column("IP", 4, 15, usual=15), address))
    if style.location:
        cells.append((Column("Location", 4, 8, usual=8), _location))
    cells.append((Column("Source", 6, usual=10), lambda record: escape(record.source)))
    if style.trace_url is not None:
        cells.append((Column("Trace", 3), lambda record: record.trace_id or ""))
    cells.append((Column("Client", 7), client))
    return cells


def _location(record: AuditRecord) -> str:
    session = record.session
    known = () if session is None else (session.country, session.continent)
    return escape(", ".join(code for code in known if code))


def _now(*, utc: bool = False) -> str:
    return shown_time(time.time_ns(), utc=utc)


def _who(record: AuditRecord) -> str:
    """Return the user, and the actor in parentheses where that is somebody else."""
    user = record.user or ""
    # Names come from clients: one that looks like a user with an actor stands in quotes.
    if user.startswith(("(", '"')) or " (" in user:
        user = f'"{user}"'
    actor = other_actor(record)
    return escape(user if actor is None else f"{user} ({actor})".lstrip())


def _field_cells(style: TableStyle) -> _Cells:
    """Return a column for each field that was asked for; the first ones are the last to be left out."""

    def cell(name: str) -> Callable[[AuditRecord], str]:
        if name == "time":
            return lambda record: shown_time(record.time, utc=style.utc)
        return lambda record: escape(plain_text(lookup(to_json(record), name)))

    always = {
        "time": Column("time", least=25, whole=True, usual=len(_now(utc=style.utc))),
        "user": Column("user", least=16, bare=8),
        "type": Column("type", least=30, bare=16, whole=True, second=True),
        "outcome": Column("outcome", least=9, second=True),
    }
    return [(always.get(name, Column(name, number)), cell(name)) for number, name in enumerate(style.fields, 1)]
