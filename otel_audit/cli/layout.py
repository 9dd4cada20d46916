"""Lays cells out in columns: as many as the width allows, the least important left out first."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from rich.cells import cell_len, chop_cells, set_cell_size

__all__ = ["UNLIMITED", "Column", "Layout", "fitted", "wrapped"]

UNLIMITED: Final = 1 << 20
"""The width where nothing has to be fitted."""

_GAP: Final = 2
_INDENT: Final = 2
_WIDEST: Final = 48
_NARROWEST: Final = 8
_STACKED: Final = 40
"""Cells of width up to which a record takes two lines, where one line cannot hold it whole."""
_LONG: Final = 30
"""Cells that the longest usual types take; what is longer is folded, and no reason to shorten anything else."""
_BREAKS: Final = " .-_/:"


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Args:
        header: Its heading.
        importance: 0: always there; else the columns with the highest numbers go first.
        least: Cells of width below which it is left out; less where its content needs less. Of a column that is always
            there: the cells that it keeps as long as there is another one to leave out.
        bare: Cells below which a column that is always there does not go; None: `least`.
        whole: Whether its content is folded over several lines rather than cut.
        second: Whether it stands on the second line where a record takes two.
        usual: Cells that its content usually needs, for tables that go on after their sample.
    """

    header: str
    importance: int = 0
    least: int = _NARROWEST
    bare: int | None = None
    whole: bool = False
    second: bool = False
    usual: int = 0


class Layout:
    """Widths for columns, fitted to a sample of rows.

    Args:
        columns: The columns, from left to right.
        sample: Rows of cells, one text for each column, without line breaks.
        width: Cells of the whole line.
        growing: Whether rows will follow that the sample knows nothing of.

    Attributes:
        widths: The cells of each column that has room, by its number.
        strain: How far the rows are from a table that shows everything: fewer is better, item by item. Whether a record
            takes two lines, columns left out, cells that folded columns lack, cells that other columns lack.
    """

    def __init__(
        self, columns: Sequence[Column], sample: Iterable[Sequence[str]], width: int, *, growing: bool = False
    ) -> None:
        self._columns = columns
        wanted = [max(cell_len(column.header), column.usual if growing else 0) for column in columns]
        for row in sample:
            wanted = [max(width, cell_len(text)) for width, text in zip(wanted, row, strict=True)]
        self._wanted = [
            size if column.whole else min(size, _WIDEST) for size, column in zip(wanted, columns, strict=True)
        ]
        self._always = [n for n, column in enumerate(columns) if not column.importance]
        self._optional = sorted(
            (n for n, column in enumerate(columns) if column.importance), key=lambda n: columns[n].importance
        )
        stacked = self._must_stack(width)
        self._rows, self.widths = self._two_lines(width) if stacked else self._one_line(width)
        lack = {n: max(min(self._wanted[n], _LONG) - self.widths[n], 0) for n in self._always}
        folded = sum(cells for n, cells in lack.items() if columns[n].whole)
        self.strain = (stacked, len(columns) - len(self.widths), folded, sum(lack.values()) - folded)

    def lines(self, row: Sequence[str]) -> Iterator[list[tuple[int, str]]]:
        """Return the lines that a row takes, each as (number of the column, text of the column's full width)."""
        for place, numbers in enumerate(self._rows):
            folded = {
                n: _folded(row[n], self.widths[n]) if self._columns[n].whole else [_cut(row[n], self.widths[n])]
                for n in numbers
            }
            for number in range(max(map(len, folded.values()), default=0)):
                line = []
                for n in numbers:
                    text = folded[n][number] if number < len(folded[n]) else ""
                    line.append((n, set_cell_size(text, self.widths[n])))
                if place:
                    line[0] = (line[0][0], " " * _INDENT + line[0][1])
                yield line

    def _least(self, n: int) -> int:
        return min(self._columns[n].least, self._wanted[n])

    def _bare(self, n: int) -> int:
        bare = self._columns[n].bare
        return self._least(n) if bare is None else min(bare, self._wanted[n])

    def _must_stack(self, width: int) -> bool:
        if not any(self._columns[n].second for n in self._always):
            return False
        sizes = [self._wanted[n] if width <= _STACKED else self._bare(n) for n in self._always]
        return sum(sizes) + _GAP * (len(sizes) - 1) > width

    def _one_line(self, width: int) -> tuple[list[list[int]], dict[int, int]]:
        chosen = {n: self._bare(n) for n in self._always}
        room = width - sum(chosen.values()) - _GAP * (len(chosen) - 1)
        if room < 0:
            self._shrink(chosen, width)
        else:
            room = self._grow(chosen, room, {n: self._least(n) for n in self._always})
            if all(chosen[n] >= self._least(n) for n in self._always):
                room = self._add(chosen, room, {n: self._least(n) for n in self._optional})
            # The whole type first, then names: both say what a record is, an agent's version does not.
            order = sorted(self._always, key=lambda n: not self._columns[n].whole) + self._optional
            self._grow(chosen, room, {n: self._wanted[n] for n in order if n in chosen})
        widths = dict(sorted(chosen.items()))
        return [list(widths)], widths

    def _two_lines(self, width: int) -> tuple[list[list[int]], dict[int, int]]:
        first = {n: self._wanted[n] for n in self._always if not self._columns[n].second}
        second = {n: self._wanted[n] for n in self._always if self._columns[n].second}
        self._shrink(first, width)
        self._shrink(second, width - (_INDENT if first else 0))
        if first:
            room = width - sum(first.values()) - _GAP * (len(first) - 1)
            self._add(first, room, {n: self._wanted[n] for n in self._optional})
        return [sorted(line) for line in (first, second) if line], dict(sorted({**first, **second}.items()))

    def _shrink(self, chosen: dict[int, int], width: int) -> None:
        """Take from the widest columns what passes the width: first what they can spare, then whatever it takes."""
        for floors in ({n: self._bare(n) for n in chosen}, dict.fromkeys(chosen, 1)):
            for n in sorted(chosen, key=chosen.__getitem__, reverse=True):
                excess = sum(chosen.values()) + _GAP * (len(chosen) - 1) - width
                chosen[n] = max(min(floors[n], chosen[n]), chosen[n] - max(excess, 0))

    @staticmethod
    def _grow(chosen: dict[int, int], room: int, sizes: dict[int, int]) -> int:
        """Give columns room, one after the other; return what is left of it."""
        for n, size in sizes.items():
            more = min(max(size - chosen[n], 0), room)
            chosen[n] += more
            room -= more
        return room

    @staticmethod
    def _add(chosen: dict[int, int], room: int, sizes: dict[int, int]) -> int:
        """Add columns up to the first that has no room; return what is left of it."""
        for n, size in sizes.items():
            gap = _GAP if chosen else 0
            if room < size + gap:
                break
            chosen[n] = size
            room -= size + gap
        return room


def fitted(text: str, width: int) -> str:
    """Return a text in exactly `width` cells; where it was cut, it ends with ``…``."""
    return set_cell_size(_cut(text, width), width)


def _cut(text: str, width: int) -> str:
    return text if cell_len(text) <= width else set_cell_size(text, width - 1) + "…"


def _folded(text: str, width: int) -> list[str]:
    """Return a text as lines of at most `width` cells, broken behind punctuation where that does not waste half."""
    lines = []
    while cell_len(text) > width:
        # A sign of two cells in a column of one is cut by whoever prints the line.
        head = next(filter(None, chop_cells(text, width)), text[:1])
        end = len(head)
        if text[end : end + 1] != " ":
            place = max(map(head.rfind, _BREAKS)) + 1
            end = place if place > end // 2 else end
        lines.append(text[:end])
        text = text[end:].removeprefix(" ")
    return [*lines, text] if text or not lines else lines


def wrapped(text: str, width: int, indent: str) -> list[str]:
    """Return a text as lines of at most `width` cells, each behind `indent`; broken between words where it is ASCII."""
    import textwrap  # start-up time: for notes only

    room = max(width - len(indent), _NARROWEST)
    lines = textwrap.wrap(text, room) if text.isascii() else chop_cells(text, room)
    return [indent + line for line in lines]
