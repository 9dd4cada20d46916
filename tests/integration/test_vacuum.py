"""The file written anew after an erasure: nothing changes, and it is known when that is still to be done."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from otel_audit.archive.database import Database
from otel_audit.archive.subjects import Subject
from otel_audit.archive.vacuum import is_pending, note_pending, vacuum
from otel_audit.archive.verify import verify
from otel_audit.errors import ArchiveError
from tests.archive_material import connect, provider_at
from tests.erasure_material import erased, fill


def test_the_file_written_anew(archive_path: Path) -> None:
    """Everything is as it was: the file's identity, its settings, and what running writers know of it."""
    with provider_at(archive_path) as provider:
        log = provider.get_logger("shop")
        for n in range(200):
            log.audit("user.login.success", user=f"user-{n % 20}")
        before = [connect(archive_path).execute(f"PRAGMA {name}").get for name in SETTINGS]
        inode = archive_path.stat().st_ino
        erased(archive_path, Subject("user-3", "example.com"))
        assert is_pending(connect(archive_path))
        assert verify(archive_path).intact
        database = Database(archive_path, "write", must_exist=True)
        vacuum(database, 10.0)
        database.close()
        assert not is_pending(connect(archive_path))
        assert log.audit("user.login.success", user="bob").sequence == 203
        assert archive_path.stat().st_ino == inode
        assert [connect(archive_path).execute(f"PRAGMA {name}").get for name in SETTINGS] == before
    report = verify(archive_path)
    assert report.intact, report.faults
    assert report.erased == 10


SETTINGS = ("auto_vacuum", "page_size", "application_id", "user_version", "journal_mode")


def test_a_reader_holds_the_log(archive_path: Path) -> None:
    """While a reader sees the state of before, the log cannot be emptied, and that is told; later it can."""
    fill(archive_path, {"user": "alice"})
    reader = connect(archive_path)
    reader.execute("BEGIN")
    assert reader.execute("SELECT count(*) FROM record").get == 1
    erased(archive_path)
    database = Database(archive_path, "write", must_exist=True, busy_timeout=0.1)
    with pytest.raises(ArchiveError, match=r"others were using .* for all of 0.3 s"):
        vacuum(database, 0.3)
    assert is_pending(connect(archive_path))
    reader.execute("COMMIT")
    vacuum(database, 10.0)
    database.close()
    assert not is_pending(connect(archive_path))
    assert verify(archive_path).intact


def test_an_erasure_meanwhile_still_waits(archive_path: Path) -> None:
    """The mark of an erasure that came after the file was written anew stays."""
    fill(archive_path, {"user": "alice"}, {"user": "bob"})
    erased(archive_path)
    database = Database(archive_path, "write", must_exist=True)
    with database as connection:
        original = connection.wal_checkpoint

        class Racing:
            """The connection, beside a process that erases just before the log is emptied."""

            def __getattr__(self, name: str) -> Any:
                return getattr(connection, name)

            def wal_checkpoint(self, **given: Any) -> Any:
                with connect(archive_path) as other:
                    note_pending(other, 5)
                return original(**given)

        database._connection = Racing()  # type: ignore[assignment]
    vacuum(database, 10.0)
    database._connection = connection
    database.close()
    assert connect(archive_path).execute("SELECT value FROM meta WHERE key = 'unvacuumed'").get == 5


@pytest.mark.parametrize("value", [0, 99, "x", -1])
def test_a_mark_that_cannot_be(archive_path: Path, value: object) -> None:
    """The mark that copies may remain names a record of the archive; anything else is a fault."""
    fill(archive_path, {"user": "alice"})
    connect(archive_path).execute("INSERT INTO meta VALUES ('unvacuumed', ?)", (value,))
    assert [(fault.code, fault.place) for fault in verify(archive_path).faults] == [("meta", "meta unvacuumed")]
