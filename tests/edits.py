"""Random edits of archives, each of which a verification must find, with a reason code that fits.

``python -m tests.edits 100000`` makes so many; the tests make fewer. Archives are small and in memory, and each edit is
undone, so that a thousand take seconds.
"""

from __future__ import annotations

import json
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import apsw

from otel_audit.archive.report import Report
from otel_audit.archive.verify import Noted, verify_connection
from tests.edit_material import Made, Unfit, make_archives
from tests.owner_edits import make_owned, owner_edit

__all__ = ["Made", "edit", "main", "make_archives", "run"]

_IN_LEAF: Final = {"observed", "host", "type"}
"""What the leaf of a tombstone covers by itself."""
_CODES: Final[dict[str, set[str]]] = {
    "record.sequence": {"missing", "sequence", "truncated", "leaf"},
    "record.kind": {"leaf", "kind"},
    "record.record_id": {"leaf", "record-id"},
    "record.resource": {"resource", "leaf", "content"},
    "record.leaf": {"leaf"},
    "record.node": {"node"},
    "record.salt": {"leaf", "content"},
    "record.otlp": {"leaf", "content"},
    "record.commitment": {"leaf", "content"},
    **{
        f"record.{name}": {"column", "unreadable", *({"leaf", "content"} if name in _IN_LEAF else ())}
        for name in (
            "time", "observed", "host", "user", "source", "type", "outcome", "session", "address", "trace",
        )
    },
    **{f"resource.{name}": {"resource"} for name in ("id", "resource", "scope", "digest")},
    **{f"posting.{name}": {"posting"} for name in ("run", "field", "value", "sequence")},
    **{
        f"zone.{name}": {"zone"}
        for name in ("zone", "records", "first_time", "last_time", "first_observed", "last_observed")
    },
    "meta.key": {"meta", "unreadable"},
    "meta.value": {"meta", "folded", "posting", "zone", "unreadable"},
}  # fmt: skip
_TABLES: Final = {
    table: [name.partition(".")[2] for name in _CODES if name.startswith(f"{table}.")]
    for table in ("record", "resource", "posting", "zone", "meta")
}
_ROWIDS: Final = {"record": "sequence", "resource": "id", "zone": "zone"}
_RIGHT: Final = (
    "SELECT 1 FROM record WHERE ?2 IS CASE ?1 WHEN 1 THEN host WHEN 2 THEN user WHEN 3 THEN trace ELSE address END"
    " AND sequence = ?3 AND sequence > (SELECT value FROM meta WHERE key = 'folded')"
)
_SCHEMA: Final = (
    "CREATE TABLE note (text TEXT)",
    "CREATE TABLE sqlitish (a, b)",
    "CREATE INDEX record_user ON record (user)",
    "CREATE VIEW everybody AS SELECT user FROM record",
    "CREATE TRIGGER forget AFTER INSERT ON record BEGIN UPDATE record SET otlp = NULL; END",
    "ALTER TABLE record ADD COLUMN note TEXT",
    "ALTER TABLE record RENAME COLUMN user TO account",
    "ALTER TABLE zone RENAME TO zones",
    "ALTER TABLE dead_letter DROP COLUMN requeued",
    "DROP INDEX received",
    "DROP TABLE posting",
    "DROP TABLE dead_letter",
    "DROP TABLE meta",
    "DROP TABLE record",
)
# Delivery changes these from minute to minute: what can be told is that a value is out of bounds.
_DELIVERY: Final = (
    ("UPDATE destination SET cursor = (SELECT max(sequence) FROM record) + abs(random() % 1000) + 1", "cursor"),
    ("UPDATE destination SET cursor = -1 - abs(random() % 1000)", "cursor"),
    ("UPDATE destination SET cursor = 1", "dead-letter"),
    ("UPDATE destination SET last_success = -abs(random() % 1000)", "cursor"),
    ("UPDATE destination SET last_error = 'refused', last_error_time = NULL", "cursor"),
    ("UPDATE destination SET blocked = 'no', last_error = NULL, last_error_time = NULL", "cursor"),
    ("UPDATE destination SET endpoint = ''", "cursor"),
    ("UPDATE destination SET name = 'other'", "dead-letter"),
    ("DELETE FROM destination", "dead-letter"),
    ("UPDATE dead_letter SET sequence = sequence + 1000000", "dead-letter"),
    ("UPDATE dead_letter SET sequence = -sequence", "dead-letter"),
    ("UPDATE dead_letter SET requeued = 2 + abs(random() % 100)", "dead-letter"),
    ("UPDATE dead_letter SET time = -time", "dead-letter"),
    ("UPDATE dead_letter SET destination = 'nowhere'", "dead-letter"),
)


def _changed(value: Any, chance: random.Random) -> Any:
    """Return another value of the same kind, or none."""
    kind = chance.randrange(8)
    if value is not None and kind == 0:
        return None
    match value:
        case int():
            return chance.choice(
                (value + 1, value - 1, -value, value ^ 1 << chance.randrange(62), 0, chance.getrandbits(62))
            )
        case str():
            return _changed_bytes(value.encode(), chance)
        case bytes():
            return _changed_bytes(value, chance)
        case _:
            return chance.choice((b"\0" * 16, chance.randbytes(32), chance.randbytes(16)))


def _changed_bytes(value: bytes, chance: random.Random) -> bytes:
    place = chance.randrange(len(value)) if value else 0
    match chance.randrange(4):
        case 0:
            return value[:place] + value[place + 1 :]
        case 1:
            return value[:place] + chance.randbytes(1) + value[place:]
        case 2:
            return value[:place]
        case _:
            return (
                value[:place] + bytes((value[place] ^ 1 << chance.randrange(8),)) + value[place + 1 :]
                if value
                else b"x"
            )


def _pick(
    connection: apsw.Connection, table: str, chance: random.Random
) -> tuple[dict[str, Any], str, tuple[Any, ...]]:
    """Return a random row as a dict, and the condition that finds it."""
    names = (
        _TABLES[table] if table != "record" else [n for (_, n, *_) in connection.execute("PRAGMA table_info(record)")]
    )
    rows = connection.execute(f"SELECT {', '.join(names)} FROM {table}").fetchall()
    if not rows:
        raise Unfit
    row = dict(zip(names, chance.choice(rows), strict=True))
    keys = [_ROWIDS[table]] if table in _ROWIDS else (["key"] if table == "meta" else names)
    return row, " AND ".join(f"{name} IS ?" for name in keys), tuple(row[name] for name in keys)


def _cell(made: Made, chance: random.Random) -> set[str]:
    table = chance.choices(list(_TABLES), (12, 3, 3, 2, 2))[0]
    row, condition, values = _pick(made.connection, table, chance)
    column = chance.choice(_TABLES[table])
    old = row[column]
    new = _pick(made.connection, table, chance)[0][column] if chance.randrange(6) == 0 else _changed(old, chance)
    place = "?"
    if isinstance(old, str) and isinstance(new, bytes):
        place, same = "CAST(? AS TEXT)", new == old.encode()
    else:
        same = type(new) is type(old) and new == old
    if same:
        raise Unfit
    made.connection.execute(f"UPDATE {table} SET {column} = {place} WHERE {condition}", (new, *values))
    return _CODES[f"{table}.{column}"]


def _delete(made: Made, chance: random.Random) -> set[str]:
    table = chance.choice(list(_TABLES))
    _, condition, values = _pick(made.connection, table, chance)
    made.connection.execute(f"DELETE FROM {table} WHERE {condition}", values)
    return {"record": {"missing", "truncated"}, "meta": {"meta"}}.get(table, {table})


def _insert(made: Made, chance: random.Random) -> set[str]:
    table = chance.choice(list(_TABLES))
    row, *_ = _pick(made.connection, table, chance)
    key = _ROWIDS.get(table) or ("key" if table == "meta" else "sequence")
    row[key] = chance.choice((row[key] + 1, -1, 0, 2**40, 2**63 - 1)) if table != "meta" else f"k{chance.random()}"
    if table == "resource":
        row["digest"] = chance.randbytes(32)
    if table == "posting" and made.connection.execute(_RIGHT, tuple(row.values())[1:]).get:
        raise Unfit  # as folding does it before a slice counts
    made.connection.execute(f"INSERT INTO {table} VALUES ({', '.join('?' * len(row))})", tuple(row.values()))
    return {"record": {"missing", "sequence", "leaf"}}.get(table, {table})


def _swap(made: Made, chance: random.Random) -> set[str]:
    if made.root.size < 2:
        raise Unfit
    first, second = chance.sample(range(1, made.root.size + 1), 2)
    names = [name for (_, name, *_) in made.connection.execute("PRAGMA table_info(record)")]
    column = chance.choice(names[1:])
    if chance.randrange(2):
        for old, new in ((first, -1), (second, first), (-1, second)):
            made.connection.execute("UPDATE record SET sequence = ? WHERE sequence = ?", (new, old))
        return {"leaf"}
    found = dict(
        made.connection.execute(f"SELECT sequence, {column} FROM record WHERE sequence IN (?, ?)", (first, second))
    )
    if found[first] == found[second]:
        raise Unfit
    for sequence, value in ((first, found[second]), (second, found[first])):
        made.connection.execute(f"UPDATE record SET {column} = ? WHERE sequence = ?", (value, sequence))
    return _CODES[f"record.{column}"]


def _truncate(made: Made, chance: random.Random) -> set[str]:
    keep = chance.randrange(made.root.size)
    made.connection.execute("DELETE FROM record WHERE sequence > ?", (keep,))
    if chance.randrange(2):
        # With care: nothing but the noted root tells.
        for statement in (
            "DELETE FROM posting WHERE sequence > ?1", "DELETE FROM dead_letter WHERE sequence > ?1",
            "UPDATE destination SET cursor = min(cursor, ?1)", "DELETE FROM zone",
            "DELETE FROM resource WHERE id NOT IN (SELECT resource FROM record)",
            "UPDATE meta SET value = 0 WHERE key = 'folded'", "DELETE FROM posting",
        ):  # fmt: skip
            made.connection.execute(statement, (keep,) if "?1" in statement else ())
    return {"truncated"}


def _schema(made: Made, chance: random.Random) -> set[str]:
    kind = chance.randrange(len(_SCHEMA) + 2)
    if kind == len(_SCHEMA):
        made.connection.execute(f"PRAGMA application_id={chance.getrandbits(31)}")
        return {"application-id"}
    if kind > len(_SCHEMA):
        made.connection.execute(f"PRAGMA user_version={chance.choice((0, 1, chance.randrange(3, 2**31)))}")
        return {"schema-version", "schema"}
    made.connection.execute(_SCHEMA[kind])
    return {"schema"}


def _delivery(made: Made, chance: random.Random) -> set[str]:
    statement, code = chance.choice(_DELIVERY)
    made.connection.execute(statement)
    if made.root.size == 1 and "cursor = 1" in statement:
        raise Unfit
    return {code}


_EDITS: Final[tuple[tuple[Callable[[Made, random.Random], set[str]], int], ...]] = (
    (_cell, 60), (_delete, 8), (_insert, 8), (_swap, 10), (_truncate, 4), (_schema, 5), (_delivery, 5),
)  # fmt: skip


def edit(made: Made, chance: random.Random) -> tuple[str, set[str], Report]:
    """Make one edit that changes something, verify, undo it; return its name, the codes that fit, and the report."""
    if chance.randrange(100) == 0:
        connection, code = chance.choice(made.older)
        return "restore", {code}, verify_connection(connection, made.name, noted=Noted([made.root]))
    connection = made.connection
    while True:
        (change, _), *_ = chance.choices(_EDITS, [weight for _, weight in _EDITS])
        connection.execute("BEGIN")
        try:
            codes = change(made, chance)
            return change.__name__.strip("_"), codes, verify_connection(connection, made.name, noted=Noted([made.root]))
        except (Unfit, apsw.ConstraintError, apsw.MismatchError):
            continue
        finally:
            connection.execute("ROLLBACK")


def run(edits: int, seed: int, folder: Path) -> Counter[str]:
    """Make edits; return how often each kind was made.

    Raises:
        AssertionError: One was not found, or by another code, or an intact archive is said to be none.
    """
    chance = random.Random(seed)
    archives, owned = make_archives(folder), make_owned(folder / "owned")
    made: Counter[str] = Counter()
    for number in range(edits):
        archive = archives[number % len(archives)]
        before = chance.getstate()
        kind, codes, report = owner_edit(owned, chance) if number % 8 == 7 else edit(archive, chance)
        found = {fault.code for fault in report.faults}
        if not found & codes:
            chance.setstate(before)
            raise AssertionError(f"edit {number} of seed {seed} ({kind}, {archive.name}): {codes} expected, {found}")
        made[kind] += 1
    for archive in archives:
        assert verify_connection(archive.connection, archive.name, noted=Noted([archive.root])).intact
    assert verify_connection(owned.connection, "owned", noted=owned.noted).intact
    return made


def main() -> None:
    """Make as many edits as the command line says."""
    edits = int(sys.argv[1]) if len(sys.argv) > 1 else 20_000
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else 1
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        made = run(edits, seed, Path(folder))
    print(f"{edits} edits found in {time.monotonic() - began:.0f} s: {json.dumps(dict(made.most_common()))}")


if __name__ == "__main__":
    main()
