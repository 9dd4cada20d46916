"""Tables fit their width: the least important columns go; time, user, the whole type and the outcome always stay."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from otel_audit.cli.layout import UNLIMITED, Column, Layout, wrapped

COLUMNS = (
    Column("Time", least=20, whole=True),
    Column("User", least=16, bare=8),
    Column("Event", least=30, bare=16, whole=True, second=True),
    Column("Outcome", least=9, second=True),
    Column("IP", 3, 15),
    Column("Source", 4),
)
TIME = "2026-01-31 12:00:00Z"
WORDS = st.text(st.characters(categories=["L", "N", "P"]), max_size=60)
ROWS = st.tuples(
    st.just(TIME),
    WORDS,
    st.text("abc漢-.", min_size=1, max_size=120),
    st.sampled_from(["success", "failure"]),
    WORDS,
    WORDS,
)


def texts(layout: Layout, row: tuple[str, ...], column: int) -> str:
    return "".join(text.strip() for line in layout.lines(row) for n, text in line if n == column)


@given(st.lists(ROWS, min_size=1, max_size=5), st.integers(17, 200))
def test_lines_fit_and_keep_what_matters(rows: list[tuple[str, ...]], width: int) -> None:
    """No line passes the width, and time, something of the user, the whole type and the outcome are in every row."""
    layout = Layout(COLUMNS, rows, width)
    for row in rows:
        for line in layout.lines(row):
            assert sum(cell_len(text) for _, text in line) + 2 * (len(line) - 1) <= width
        assert texts(layout, row, 0).replace(" ", "") == TIME.replace(" ", "")
        assert bool(texts(layout, row, 1)) == bool(row[1])
        assert texts(layout, row, 2) == row[2]
        assert texts(layout, row, 3) == row[3]


@given(st.lists(ROWS, min_size=1, max_size=5), ROWS, st.integers(17, 200))
def test_rows_after_the_sample_fit_too(sample: list[tuple[str, ...]], row: tuple[str, ...], width: int) -> None:
    """A row that the widths were not made for keeps to them, and keeps its type."""
    layout = Layout(COLUMNS, sample, width)
    for line in layout.lines(row):
        assert sum(cell_len(text) for _, text in line) + 2 * (len(line) - 1) <= width
    assert texts(layout, row, 2) == row[2]


@given(st.lists(ROWS, min_size=1, max_size=5), st.integers(17, 200))
def test_the_least_important_columns_go_first(rows: list[tuple[str, ...]], width: int) -> None:
    """A column is there only where every more important one is."""
    widths = Layout(COLUMNS, rows, width).widths
    there = [n in widths for n in (4, 5)]
    assert there == sorted(there, reverse=True)
    assert widths.keys() >= {0, 1, 2, 3}


def test_eighty_columns_hold_the_longest_types() -> None:
    """At 80 columns time, user, type and outcome are all there, also of the longest built-in types."""
    row = (TIME, "alice", "user.password.reset.requested", "success", "203.0.113.7", "mod_auth")
    layout = Layout(COLUMNS, [row], 80)
    (line,) = layout.lines(row)
    assert [text.strip() for _, text in line][:4] == [TIME, "alice", "user.password.reset.requested", "success"]


def test_a_long_type_is_folded_before_others_go() -> None:
    """A type of 100 characters takes several lines, broken behind dots, beside time, user and address."""
    type_ = "verylongword." * 8
    row = (TIME, "alice", type_, "success", "203.0.113.7", "mod_auth")
    layout = Layout(COLUMNS, [row], 100)
    assert layout.widths.keys() >= {0, 1, 2, 3, 4}
    first, second, *_ = layout.lines(row)
    assert [text.strip() for _, text in first][:3] == [TIME, "alice", "verylongword." * 3]
    assert [text.strip() for _, text in second][:3] == ["", "", "verylongword." * 3]
    assert texts(layout, row, 2) == type_


def test_narrow_tables_take_two_lines_a_record() -> None:
    """At 40 columns time and user stand on the first line, type and outcome on the second."""
    row = (TIME, "alice", "user.login.success", "success", "2001:db8::1:2:3:4", "mod_auth")
    first, second = Layout(COLUMNS, [row], 40).lines(row)
    assert [text.strip() for _, text in first] == [TIME, "alice"]
    assert [text.rstrip() for _, text in second] == ["  user.login.success", "success"]


def test_strain_tells_what_is_missing() -> None:
    """Strain is nothing where all is shown, and names two lines, columns left out, folded and cut cells in turn."""
    row = (TIME, "a" * 20, "b" * 25, "success", "203.0.113.7", "mod_auth")
    assert not any(Layout(COLUMNS, [row], 200).strain)
    assert Layout(COLUMNS, [row], 90).strain == (False, 1, 0, 1) > Layout(COLUMNS, [row], 99).strain
    stacked, left_out, folded, cut = Layout(COLUMNS, [row], 20).strain
    assert (stacked, left_out) == (True, 2)
    assert folded > 0
    assert cut > 0


def test_without_limit_only_excess_is_cut() -> None:
    """Without a width all columns are there; one huge name does not push the others away."""
    row = (TIME, "x" * 5000, "y" * 300, "success", "", "")
    layout = Layout(COLUMNS, [row], UNLIMITED)
    (line,) = layout.lines(row)
    assert len(line) == len(COLUMNS)
    assert line[1][1] == "x" * 47 + "…"
    assert line[2][1] == "y" * 300


def test_growing_tables_leave_room() -> None:
    """A table that will go on is not made for its first rows only."""
    columns = (Column("User", 1, usual=12), Column("Event", whole=True, usual=22))
    assert Layout(columns, [("a", "b")], 80).widths == {0: 4, 1: 5}
    assert Layout(columns, [("a", "b")], 80, growing=True).widths == {0: 12, 1: 22}


@given(st.text(st.characters(categories=["L", "N", "P"]) | st.just(" ")), st.integers(20, 100))
def test_wrapped_lines_fit(text: str, width: int) -> None:
    """Wrapped text keeps to the width and loses nothing but blanks."""
    lines = wrapped(text, width, "    ")
    assert all(cell_len(line) <= width and line.startswith("    ") for line in lines)
    assert "".join("".join(lines).split()) == "".join(text.split())
