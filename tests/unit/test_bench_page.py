"""The page of a benchmark: marks, tables, and the picture of what grows."""

from __future__ import annotations

import json
import struct
from pathlib import Path

from tests.bench.__main__ import _write
from tests.bench.page import put
from tests.bench.plots import draw
from tests.bench.table import Goal, Row

PLAIN = Row(figure="a call / another", unit="µs", ours=1.0, other=2.0, ratio=0.5, goal=Goal(ratio_at_most=1.0))
GROWN = [
    Row(
        figure=f"growth: {name}, at 3,000 records / at 1,000", unit=unit, ours=9.0, other=3.0, ratio=3.0,
        note=f"about {name}", series=((1_000, 3.0), (3_000, 9.0)),
    )
    for name, unit in (("inserts", "records/s"), ("a trace", "ms"), ("a user", "ms"), ("verify", "µs"))
]  # fmt: skip
MACHINE = [("CPU", "some"), ("run", "full")]


def test_what_stands_outside_the_marks_stays() -> None:
    """A text goes between its marks, again and again; a page without them gets them at its end."""
    page = put("# Page\n", "one", "first")
    assert page == "# Page\n\n<!-- one: begin -->\n\nfirst\n\n<!-- one: end -->\n"
    page = put(page + "\nby hand\n", "one", "second\n")
    assert page == "# Page\n\n<!-- one: begin -->\n\nsecond\n\n<!-- one: end -->\n\nby hand\n"
    assert put(page, "one", "second") == page


def test_a_run_of_one_part_leaves_the_other(tmp_path: Path) -> None:
    """Rows with a series become a section with a picture of their own; a run without them changes neither."""
    page = tmp_path / "page.md"
    _write(page, [PLAIN, *GROWN], MACHINE, "make bench")
    whole = page.read_text(encoding="utf-8")
    assert "| a call / another | 1.0 µs | 2.0 µs | 0.50 | ≤ 1 | yes |" in whole
    assert "| records | 1,000 | 3,000 | last / first |" in whole
    assert "| a trace | 3.00 ms | 9.00 ms | 3.00 |" in whole
    assert "- verify: about verify" in whole
    assert "](growth.png)" in whole
    assert "growth: " not in whole.partition("<!-- growth: begin -->")[0]
    (tmp_path / "growth.png").unlink()
    _write(page, [PLAIN], MACHINE, "make bench")
    assert page.read_text(encoding="utf-8") == whole
    assert not (tmp_path / "growth.png").exists()


def test_the_picture_is_small_and_always_the_same(tmp_path: Path) -> None:
    """The same figures make the same PNG, of a size that a page can show."""
    first, second = tmp_path / "a.png", tmp_path / "b.png"
    draw(GROWN, first)
    draw(GROWN, second)
    content = first.read_bytes()
    assert content.startswith(b"\x89PNG")
    width, height = struct.unpack(">II", content[16:24])
    assert (width, height) == (900, 600)
    assert len(content) < 100_000
    assert content == second.read_bytes()


def test_rows_survive_the_way_between_processes() -> None:
    """A row that went through JSON is the same row, its goal and its series included."""
    for row in (PLAIN, *GROWN):
        assert Row.from_json(json.loads(json.dumps(row.to_json()))) == row
