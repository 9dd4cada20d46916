"""CSV and JSON lines hold what was recorded, whatever that is, and harm neither terminal nor spreadsheet."""

from __future__ import annotations

import csv
import io
import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from otel_audit.errors import ConfigError
from otel_audit.exports import FORMATS, export_lines
from otel_audit.exports.csv import cell, read_cell
from otel_audit.exports.flat import COLUMNS, row
from otel_audit.exports.quoting import quoted, unquoted
from otel_audit.record import AuditRecord, rfc3339, to_json
from tests.record_material import records, texts

FORMULA = ("=", "+", "-", "@", "＝", "＋", "－", "＠")


@given(records())
def test_json_lines_are_the_records(record: AuditRecord) -> None:
    """A line is the JSON form of its record, and printable."""
    (line,) = export_lines([record], "jsonl")
    assert line.endswith("\n")
    assert line[:-1].isprintable()
    assert json.loads(line) == to_json(record)


def parsed(text: str) -> list[dict[str, Any]]:
    """Return the rows of an export as the csv module reads them, strictly, with their recorded values."""
    csv.field_size_limit(2**31 - 1)
    header, *rows = csv.reader(io.StringIO(text, newline=""), strict=True)
    assert tuple(header) == COLUMNS
    return [dict(zip(header, map(read_cell, cells), strict=True)) for cells in rows]


@given(st.lists(records(), max_size=3))
def test_csv_is_the_records(given_records: list[AuditRecord]) -> None:
    """The csv module and `read_cell` give back every value of every record."""
    found = parsed("".join(export_lines(given_records, "csv")))
    assert len(found) == len(given_records)
    for shown, record in zip(found, given_records, strict=True):
        for name, value in zip(COLUMNS, row(record), strict=True):
            if name in {"time", "observed"}:
                assert shown[name] == rfc3339(value)
            elif name in {"sequence", "trace_flags"}:
                assert shown[name] == str(value)
            elif name == "altered":
                assert json.loads(shown[name] or "[]") == value
            else:
                assert shown[name] == value
        assert json.loads(shown["custom"] or "{}") == to_json(record)["custom"]


@given(records())
def test_csv_lines_are_lines(record: AuditRecord) -> None:
    """Each record is one printable line, ended as RFC 4180 has it."""
    lines = list(export_lines([record], "csv"))
    assert len(lines) == 2
    for line in lines:
        assert line.endswith("\r\n")
        assert line[:-2].isprintable()


@given(texts())
@example('"=1')
@example("a;=1")
@example(';"')
@example(';"";"=1')
@example("\n=1")
@example("'")
def test_cells_are_no_formulas_and_reversible(text: str) -> None:
    """No spreadsheet takes a cell for a formula, wherever it splits the line, and the text can be read back."""
    shown = cell(text)
    assert shown.isprintable()
    file = io.StringIO()
    csv.writer(file).writerow(["x", shown])
    # As they are read with a comma and, where the locale has it so, with a semicolon.
    for separator in ",;":
        for found in next(csv.reader(io.StringIO(file.getvalue(), newline=""), delimiter=separator)):
            assert not found.lstrip(' "\t\r\n').startswith(FORMULA)
    assert read_cell(shown) == text


def test_usual_cells_stay_as_they_are() -> None:
    """What is harmless is written as it is; nothing and an empty text can be told apart."""
    assert [cell(text) for text in ("alice", "a=b", "DOMAIN\\alice", "漢字 😀", "a; b")] == [
        "alice", "a=b", "DOMAIN\\alice", "漢字 😀", "a; b",
    ]  # fmt: skip
    assert (cell("=1+1"), cell("a;=1"), cell("'x"), cell("")) == ("'=1+1", "a;'=1", "''x", '""')
    assert cell("\x1b[2J") == '"\\u001b[2J"'
    assert (read_cell(""), read_cell('""')) == (None, "")


@given(texts(), st.sampled_from(["", "\r\n"]))
def test_quoting_is_reversible(text: str, allowed: str) -> None:
    """Quoted text is printable, but for what the form has escapes for, and the text can be had back."""
    shown = quoted(text, allowed=allowed)
    assert "".join(character for character in shown if character not in allowed).isprintable()
    assert unquoted(shown) == text


def test_an_unknown_format() -> None:
    """A format that there is not is refused with those that there are."""
    with pytest.raises(ConfigError, match=r"'xml'.*jsonl, csv"):
        export_lines([], "xml")  # type: ignore[arg-type] # that is the error
    assert set(FORMATS) >= {"jsonl", "csv"}
