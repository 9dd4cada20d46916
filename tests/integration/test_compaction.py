"""Disk space comes back: rows are packed together as they were, and free pages leave the file."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import apsw
import pytest

from otel_audit.archive import compaction, index
from otel_audit.archive.administration import Administration, Own
from otel_audit.archive.compaction import compact, give_back
from otel_audit.archive.database import Database
from otel_audit.archive.files import size_on_disk
from otel_audit.archive.leaf import ERASURE
from otel_audit.archive.removal import removal_fields, remove
from otel_audit.archive.verify import verify
from otel_audit.errors import IntegrityError
from tests.archive_material import connect
from tests.retention_material import prune, pruning, record, rules

START = {"type": "server-started"}
TEXT = {"type": "user.created", "message": "x" * 600}
ALL = rules({"*": "28d"})
PAGE = 8_192


def pragma(path: Path, name: str) -> int:
    return int(connect(path).execute(f"PRAGMA {name}").get)


def rows(path: Path) -> list[Any]:
    return connect(path).execute("SELECT * FROM record ORDER BY sequence").fetchall()


def erased(path: Path, first: int, last: int) -> None:
    """Erase records, as another process does."""

    def make(connection: apsw.Connection, _tree: object) -> Any:
        remove(connection, [(first, last)])
        return [Own(ERASURE, "audit.records.erased", fields) for fields in removal_fields([(first, last)])]

    with Administration(path, b"", b"") as administration:
        administration.append(make)


@pytest.fixture
def archive(archive_path: Path) -> Path:
    """Return an archive of 3,000 old records and 500 new ones, folded."""
    record(archive_path, 50, TEXT, times=3_000)
    record(archive_path, 1, TEXT, times=500)
    index.fold(connect(archive_path))
    return archive_path


def test_the_file_shrinks(archive: Path) -> None:
    """After pruning the file is smaller by most of what went, has no free page, and the log is empty."""
    before = size_on_disk(archive)
    outcome = prune(archive, ALL)
    assert outcome.records.total() == 3_000
    assert outcome.before >= before
    assert outcome.after == size_on_disk(archive) == archive.stat().st_size
    assert outcome.after < outcome.before - outcome.content.total() * 0.9
    assert pragma(archive, "freelist_count") == 0
    assert pragma(archive, "page_count") * PAGE == archive.stat().st_size
    assert verify(archive).intact


def test_in_the_background_some_room_stays(archive: Path) -> None:
    """A share of the file may stay free, so that it need not grow again at once."""
    prune(archive, ALL, spare=0.25)
    free, pages = pragma(archive, "freelist_count"), pragma(archive, "page_count")
    assert 0 < free <= pages * 0.25 + 1
    prune(archive, ALL)
    assert pragma(archive, "freelist_count") == 0


def test_rows_stay_as_they_are(archive: Path) -> None:
    """Writing rows anew changes none of their values, and is taken back where it would free too little."""
    with Database(archive, "write") as connection:
        remove(connection, [(1, 1_024), (2_000, 2_400)])
    before = rows(archive)
    database = Database(archive, "write")
    try:
        assert compact(database, [0, 1, 2]) > 60
        assert rows(archive) == before
        pages = pragma(archive, "freelist_count")
        assert compact(database, [0, 1, 2, 3, 99]) == 0
        assert pragma(archive, "freelist_count") == pages
        give_back(database)
    finally:
        database.close()
    assert rows(archive) == before
    assert connect(archive).execute("PRAGMA integrity_check").get == "ok"


def test_large_rows_are_written_in_parts(archive_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However large the content that stays beside tombstones, one transaction writes only so much of it."""
    record(archive_path, 50, START, {"type": "user.created", "message": "y" * 15_000}, times=300)
    parts: list[tuple[int, int]] = []
    original = compaction._rewrite

    def rewrite(connection: apsw.Connection, block: tuple[int, int]) -> int:
        parts.append(block)
        return original(connection, block)

    monkeypatch.setattr(compaction, "_rewrite", rewrite)
    prune(archive_path, rules({"server-started": "1d"}))
    covered = [number for first, last in parts[:5] for number in range(first, last + 1)]
    assert len(parts) >= 5
    assert covered == list(range(1, len(covered) + 1))
    assert all(last - first < 150 for first, last in parts)
    assert verify(archive_path).intact


def test_what_others_removed_is_packed_too(archive: Path) -> None:
    """Pages that an erasure, or a pruning that was killed, left half empty are found by the next run."""
    erased(archive, 1, 1_000)
    before = pragma(archive, "page_count")
    with pruning(archive, rules({"server-started": "1d"})) as pruner:
        pruner.prune()
        packed = pragma(archive, "page_count")
        assert packed < before - 50
        erased(archive, 1_001, 2_000)
        pruner.prune()
    assert pragma(archive, "page_count") < packed - 50
    assert verify(archive).intact


def test_a_reader_holds_nothing_up(archive: Path) -> None:
    """While somebody reads an older state, pruning goes on, and the log is emptied by a later run."""
    with contextlib.closing(connect(archive)) as reader:
        reader.execute("BEGIN")
        count = reader.execute("SELECT count(*) FROM record WHERE otlp IS NOT NULL").get
        assert prune(archive, ALL).records.total() == 3_000
        assert reader.execute("SELECT count(*) FROM record WHERE otlp IS NOT NULL").get == count == 3_500
    prune(archive, ALL)
    assert size_on_disk(archive) < 4_000_000


def test_a_file_without_the_ability(archive: Path) -> None:
    """Where the file was made without incremental vacuum, free pages stay in it, and nothing waits for ever."""
    with contextlib.closing(connect(archive)) as connection:
        connection.execute("PRAGMA journal_mode=DELETE").fetchall()
        connection.execute("PRAGMA auto_vacuum=NONE")
        connection.execute("VACUUM")
    assert prune(archive, ALL).records.total() == 3_000
    assert pragma(archive, "freelist_count") > 100
    assert verify(archive).intact


def test_text_that_is_none(archive: Path) -> None:
    """A row that cannot be read is not written anew: the error says where it is."""
    with Database(archive, "write") as connection:
        remove(connection, [(1, 1_000)])
        connection.execute("UPDATE record SET source = CAST(x'ff' AS TEXT) WHERE sequence = 1010")
    database = Database(archive, "write")
    with pytest.raises(IntegrityError, match="one of the records 1 to 1024 holds text that is no UTF-8"):
        compact(database, [0])
    assert not database.locked_connection().in_transaction
    database.close()


def test_stopping(archive: Path) -> None:
    """What is told to stop does so before the next step."""
    with Database(archive, "write") as connection:
        remove(connection, [(1, 3_000)])
    database = Database(archive, "write")
    answers = iter([False, True])
    first = compact(database, [0, 1, 2], lambda: next(answers))
    assert 0 < first < 150
    give_back(database, stopping=lambda: True)
    assert pragma(archive, "freelist_count") >= first
    database.close()
