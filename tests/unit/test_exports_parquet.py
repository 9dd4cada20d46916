"""Parquet holds what was recorded, typed, as pyarrow reads it."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st

from otel_audit.errors import ConfigError
from otel_audit.exports import export_file, export_lines, parquet
from otel_audit.exports.flat import COLUMNS, row
from otel_audit.record import Actor, AuditRecord, to_json
from tests.record_material import records

PLAIN = AuditRecord("01890a5d-ac96-774b-bcce-b302099a8057", 1, 2, "h", "s", "t", Actor("s", "system"), "X", "unknown")


def written(given_records: list[AuditRecord]) -> pa.Table:
    file = io.BytesIO()
    parquet.write(given_records, file)
    return pa.parquet.read_table(io.BytesIO(file.getvalue()))


@given(st.lists(records(), max_size=3))
def test_parquet_is_the_records(given_records: list[AuditRecord]) -> None:
    """Every value of every record comes back, times to the nanosecond."""
    table = written(given_records)
    assert table.num_rows == len(given_records)
    plain = table.set_column(2, "time", table["time"].cast("int64")).set_column(
        3, "observed", table["observed"].cast("int64")
    )
    for found, record in zip(plain.to_pylist(), given_records, strict=True):
        assert tuple(found.values()) == row(record)
        assert json.loads(found["custom"] or "{}") == to_json(record)["custom"]


def test_columns_have_types() -> None:
    """Times are timestamps of UTC, numbers are numbers, and also without a record all columns are there."""
    schema = written([]).schema
    assert tuple(schema.names) == COLUMNS
    assert {str(schema.field(name).type) for name in ("time", "observed")} == {"timestamp[ns, tz=UTC]"}
    assert (str(schema.field("sequence").type), str(schema.field("altered").type)) == ("int64", "list<element: string>")
    assert not schema.field("type").nullable
    assert schema.field("user").nullable


@pytest.mark.parametrize(("rows", "characters", "groups"), [(2, 10**9, [2, 2, 1]), (100, 500, [3, 2])])
def test_row_groups(monkeypatch: pytest.MonkeyPatch, rows: int, characters: int, groups: list[int]) -> None:
    """A row group ends at so many rows, or so much text, whichever comes first."""
    monkeypatch.setattr(parquet, "_ROWS", rows)
    monkeypatch.setattr(parquet, "_CHARACTERS", characters)
    file = io.BytesIO()
    parquet.write([PLAIN._replace(message="x" * 150)] * 5, file)
    found = pa.parquet.ParquetFile(io.BytesIO(file.getvalue())).metadata
    assert [found.row_group(n).num_rows for n in range(found.num_row_groups)] == groups


def test_without_pyarrow(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Without the extra an error names it, and no file is begun."""
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ConfigError, match=r"otel-audit\[parquet\]"):
        export_file([PLAIN], tmp_path / "x.parquet", "parquet")
    assert not list(tmp_path.glob("*x.parquet*"))


def test_parquet_is_no_text() -> None:
    """It has no lines."""
    with pytest.raises(ConfigError, match="no text"):
        export_lines([PLAIN], "parquet")
