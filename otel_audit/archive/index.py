"""Folds recent records into the look-up tables, in slices, apart from the commits that callers wait for.

An index kept inline makes an insert dearer as the archive grows. Here an insert only appends; postings follow in sorted
slices that touch one run's pages, and queries scan what is not folded yet.
"""

from __future__ import annotations

from typing import Final

import apsw

__all__ = ["FIELDS", "RUN", "SLICE", "ZONE", "fold"]

RUN: Final = 32_768
"""Sequences that share a run of postings."""
SLICE: Final = 4_096
"""Most records that one fold takes: it holds the write lock for some 10 ms."""
ZONE: Final = 1_024
"""Sequences that share a zone."""
FIELDS: Final = {"host": 1, "user": 2, "trace": 3, "address": 4}
"""The indexed columns and their numbers in the table."""

_ZONES = f"""
INSERT INTO zone
SELECT (sequence - 1) / {ZONE}, count(*), min(time), max(time), min(observed), max(observed)
FROM record WHERE sequence BETWEEN ? AND ? GROUP BY 1
ON CONFLICT (zone) DO UPDATE SET
    records = records + excluded.records,
    first_time = min(first_time, excluded.first_time),
    last_time = max(last_time, excluded.last_time),
    first_observed = min(first_observed, excluded.first_observed),
    last_observed = max(last_observed, excluded.last_observed)
"""
_POSTINGS = tuple(
    f"INSERT INTO posting SELECT ?, {number}, {column}, sequence FROM record"
    f" WHERE sequence BETWEEN ? AND ? AND {column} IS NOT NULL ORDER BY {column}, sequence"
    for column, number in FIELDS.items()
)


def fold(connection: apsw.Connection) -> int:
    """Fold the next slice in a transaction of its own.

    Returns:
        How many records are still unfolded.
    """
    connection.execute("BEGIN IMMEDIATE")
    try:
        folded = int(connection.execute("SELECT value FROM meta WHERE key = 'folded'").get)
        head = int(connection.execute("SELECT max(sequence) FROM record").get or 0)
        run = folded // RUN
        last = min(head, folded + SLICE, (run + 1) * RUN)
        if last > folded:
            connection.execute(_ZONES, (folded + 1, last))
            for statement in _POSTINGS:
                connection.execute(statement, (run, folded + 1, last))
            connection.execute("UPDATE meta SET value = ? WHERE key = 'folded'", (last,))
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
    return head - last
