"""Parquet: the columns of `otel_audit.exports.flat` with their types, in row groups of bounded size."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import IO, Any, Final

from otel_audit.errors import ConfigError
from otel_audit.exports.flat import COLUMNS, row
from otel_audit.record import AuditRecord

__all__ = ["load_pyarrow", "write"]

_ROWS: Final = 16_384
_CHARACTERS: Final = 16_000_000
"""Rows and characters of text of a row group: it is in memory until it is written."""
_OPTIONAL: Final = frozenset({
    "user", "user_id", "target_id", "target_type", "session_id", "session_type", "session_ip", "session_client",
    "session_country", "session_continent", "trace_id", "span_id", "message", "custom", "signature", "sequence",
    "integrity_hash", "stream_id",
})  # fmt: skip


def load_pyarrow() -> Any:
    """Import pyarrow.

    Raises:
        ConfigError: It is not installed.
    """
    try:
        import pyarrow as pa  # an extra
        import pyarrow.parquet
    except ImportError as error:
        raise ConfigError("Parquet needs the extra `parquet`", "pip install 'otel-audit[parquet]'") from error
    return pa


def write(records: Iterable[AuditRecord], file: IO[bytes]) -> None:
    """Write records to a Parquet file.

    ``time`` and ``observed`` are timestamps in nanoseconds, UTC; ``custom`` is the text of a JSON object; ``altered``
    is a list of texts; what the record does not have is null.

    Args:
        records: The records.
        file: The file, opened to write bytes.

    Raises:
        ConfigError: pyarrow is not installed.
    """
    arrow = load_pyarrow()
    schema = _schema(arrow)
    with arrow.parquet.ParquetWriter(file, schema, compression="zstd") as writer:
        for rows in _groups(records):
            columns = [
                arrow.array(values, field.type) for values, field in zip(zip(*rows, strict=True), schema, strict=True)
            ]
            writer.write_batch(arrow.record_batch(columns, schema=schema), row_group_size=_ROWS)


def _groups(records: Iterable[AuditRecord]) -> Iterator[list[tuple[Any, ...]]]:
    """Put rows together into row groups."""
    rows: list[tuple[Any, ...]] = []
    characters = 0
    for record in records:
        values = row(record)
        rows.append(values)
        characters += sum(len(value) for value in values if isinstance(value, str))
        if len(rows) == _ROWS or characters > _CHARACTERS:
            yield rows
            rows, characters = [], 0
    if rows:
        yield rows


def _schema(arrow: Any) -> Any:
    types = {
        "sequence": arrow.int64(),
        "trace_flags": arrow.int32(),
        "time": arrow.timestamp("ns", tz="UTC"),
        "observed": arrow.timestamp("ns", tz="UTC"),
        "altered": arrow.list_(arrow.string()),
    }
    return arrow.schema(
        [arrow.field(name, types.get(name, arrow.string()), nullable=name in _OPTIONAL) for name in COLUMNS]
    )
