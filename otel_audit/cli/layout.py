"""Lays cells out in columns: as many as the width allows, the least important left out first."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from rich.cells import cell_len, chop_cells, set_cell_size

__all__ = ["UNLIMITED", "Column", "Layout", "fitted", "wrapped"]

UNLIMITED: Final = 1 << 20
"""The width where nothing has to be fitted."""

_GAP: Final = 2
_WIDEST: Final = 48
_NARROWEST: Final = 8


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Args:
        header: Its heading.
        importance: 0: always there; else the columns with the highest numbers go first.
        least: Cells of width below which it is left out; less where its content needs less.
        whole: Whether its content is folded over several lines rather than cut.
        usual: Cells that its content usually needs, for tables that go on after their sample.
    """

    header: str
    importance: int = 0
    least: int = _NARROWEST
    whole: bool = False
    usual: int = 0


class Layout:
    """Widths for columns, fitted to a sample of rows.

    Args:
        columns: The columns, from left to right.
        sample: Rows of cells, one text for each column, without line breaks.
        width: Cells of the whole line.
        growing: Whether rows will follow that the sample knows nothing of.
    """

    def __init__(
        self, columns: Sequence[Column], sample: Iterable[Sequence[str]], width: int, *, growing: bool = False
    ) -> None:
        self._columns = columns
        wanted = [max(cell_len(column.header), column.usual if growing else 0) for column in columns]
        for row in sample:
            wanted = [max(width, cell_len(text)) for width, text in zip(wanted, row, strict=True)]
        wanted = [
            size if column.whole or not column.importance else min(size, _WIDEST)
            for size, column in zip(wanted, columns, strict=True)
        ]
        self.widths = _fit(columns, wanted, width)

    def lines(self, row: Sequence[str]) -> Iterator[list[tuple[int, str]]]:
        """Return the lines that a row takes, each as (number of the column, text of the column's full width)."""
        folded = {
            n: chop_cells(row[n], size) or [""] if self._columns[n].whole else [_cut(row[n], size)]
            for n, size in self.widths.items()
        }
        for number in range(max(map(len, folded.values()), default=0)):
            line = []
            for n, size in self.widths.items():
                text = folded[n][number] if number < len(folded[n]) else ""
                line.append((n, set_cell_size(text, size)))
            yield line


def _fit(columns: Sequence[Column], wanted: Sequence[int], width: int) -> dict[int, int]:
    """Return the widths of the columns that have room."""
    chosen = {n: wanted[n] for n, column in enumerate(columns) if not column.importance}
    room = width - sum(chosen.values()) - _GAP * (len(chosen) - 1)
    if room < 0:
        # The widest is the type's, which is folded then.
        widest = max((n for n in chosen if columns[n].whole), key=chosen.__getitem__, default=0)
        chosen[widest] = max(_NARROWEST, chosen[widest] + room)
    optional = sorted((n for n, column in enumerate(columns) if column.importance), key=lambda n: columns[n].importance)
    for n in optional:
        least = min(columns[n].least, wanted[n])
        if room < least + _GAP:
            break
        chosen[n] = least
        room -= least + _GAP
    for n in optional:
        if n in chosen:
            more = min(wanted[n] - chosen[n], room)
            chosen[n] += more
            room -= more
    return dict(sorted(chosen.items()))


def fitted(text: str, width: int) -> str:
    """Return a text in exactly `width` cells; where it was cut, it ends with ``…``."""
    return set_cell_size(_cut(text, width), width)


def _cut(text: str, width: int) -> str:
    return text if cell_len(text) <= width else set_cell_size(text, width - 1) + "…"


def wrapped(text: str, width: int, indent: str) -> list[str]:
    """Return a text as lines of at most `width` cells, each behind `indent`; broken between words where it is ASCII."""
    room = max(width - len(indent), _NARROWEST)
    lines = textwrap.wrap(text, room) if text.isascii() else chop_cells(text, room)
    return [indent + line for line in lines]
