"""What clients sent is harmless to show: as text, as JSON, in spreadsheets."""

from __future__ import annotations

import csv
import io
import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from otel_audit.safe import escape, json_text, spreadsheet_cell
from tests.command_line import HOSTILE

TEXT = st.text() | st.sampled_from(sorted(HOSTILE.values()))
# What JSON holds; surrogates have no place in what was recorded.
VALID = st.text(st.characters(exclude_categories=["Cs"]))
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | VALID,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(VALID, inner, max_size=3),
    max_leaves=8,
)


@given(TEXT)
def test_escaped_text_is_one_printable_line(text: str) -> None:
    """No control character, override, line break or surrogate survives, and nothing printable is touched."""
    escaped = escape(text)
    assert escaped.isprintable()
    escaped.encode()  # raises on surrogates
    assert len(escaped.splitlines()) <= 1
    if text.isprintable():
        assert escaped == text


@given(TEXT)
def test_escaping_twice_changes_nothing(text: str) -> None:
    """Escapes are themselves printable."""
    assert escape(escape(text)) == escape(text)


@given(st.text(), st.text())
def test_escapes_keep_printable_text_in_place(before: str, after: str) -> None:
    """Each character is escaped for itself, whatever stands beside it."""
    assert escape(before + "\x1b" + after) == f"{escape(before)}\\x1b{escape(after)}"


@pytest.mark.parametrize(
    ("text", "escaped"),
    [
        ("\x1b[31m", "\\x1b[31m"),
        ("a\nb\r\tc", "a\\nb\\r\\tc"),
        ("\u202etxt", "\\u202etxt"),
        ("\x9b2J", "\\x9b2J"),
        ("\x7f", "\\x7f"),
        ("a\u200bb", "a\\u200bb"),
        ("\U000e0041", "\\U000e0041"),
        ("\udcff", "\\udcff"),
        ("naïve 漢字 😀", "naïve 漢字 😀"),
        ("DOMAIN\\alice", "DOMAIN\\alice"),
    ],
)
def test_escapes(text: str, escaped: str) -> None:
    """Escapes are those of Python; letters of any script are no danger."""
    assert escape(text) == escaped


@given(JSON)
def test_json_keeps_its_values_and_is_harmless(value: object) -> None:
    """JSON text holds the same values, on one printable line."""
    text = json_text(value)
    assert json.loads(text) == value
    assert text.isprintable()


@given(JSON)
def test_indented_json_has_its_own_line_breaks_only(value: object) -> None:
    """With an indent, line breaks are those of the layout."""
    text = json_text(value, indent=2)
    assert json.loads(text) == value
    assert all(line.isprintable() for line in text.split("\n"))


def test_json_keeps_letters() -> None:
    """Letters of any script stay readable, what is invisible becomes an escape."""
    assert json_text(["é漢😀", "\u202e", "\x9b", "\U000e0041"]) == '["é漢😀", "\\u202e", "\\u009b", "\\udb40\\udc41"]'


@given(TEXT)
@example(";=")
def test_cells_are_no_formulas(text: str) -> None:
    """No cell begins with what a spreadsheet computes, blanks before it included, and every cell is one line."""
    cell = spreadsheet_cell(text)
    assert cell.isprintable()
    # A semicolon begins a new cell where the locale says so.
    for shown, sent in zip(cell.split(";"), text.split(";"), strict=True):
        assert not shown.lstrip(" ").startswith(("=", "+", "-", "@", "＝", "＋", "－", "＠"))
        assert shown in {escape(sent), "'" + escape(sent)}


@given(st.lists(VALID, min_size=1, max_size=4))
def test_cells_keep_their_columns(row: list[str]) -> None:
    """The csv module reads as many cells, and the same text in them, as were written."""
    cells = [spreadsheet_cell(text) for text in row]
    file = io.StringIO()
    csv.writer(file, lineterminator="\n").writerow(cells)
    assert list(csv.reader(io.StringIO(file.getvalue()))) == [cells]


def test_harmless_cells_stay_as_they_are() -> None:
    """An apostrophe is added where it is needed only."""
    assert spreadsheet_cell("alice") == "alice"
    assert spreadsheet_cell("a=b") == "a=b"
    assert spreadsheet_cell("") == ""
    assert spreadsheet_cell("=1+1") == "'=1+1"
    assert spreadsheet_cell(" -1") == "' -1"
    assert spreadsheet_cell("\t=1") == "'\\t=1"


def test_a_semicolon_begins_no_formula() -> None:
    """Where spreadsheets split cells at semicolons, what follows one is no formula either."""
    assert spreadsheet_cell("mallory;=HYPERLINK(1)") == "mallory;'=HYPERLINK(1)"
    assert spreadsheet_cell("a; b;c") == "a; b;c"


@given(TEXT)
@example('a;"=1')
def test_lines_hold_no_formulas(text: str) -> None:
    """Neither a comma nor a semicolon splits a whole line into cells that are computed."""
    file = io.StringIO()
    csv.writer(file, lineterminator="\n").writerow(["x", spreadsheet_cell(text)])
    for separator in ",;":
        for found in next(csv.reader(io.StringIO(file.getvalue()), delimiter=separator)):
            assert not found.lstrip(' "\n').startswith(("=", "+", "-", "@", "＝", "＋", "－", "＠"))
