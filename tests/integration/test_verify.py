"""Verification of whole archives: what is intact is said to be, in any state and beside writers; damage is a fault."""

from __future__ import annotations

import contextlib
import os
import random
from dataclasses import replace
from pathlib import Path

import apsw
import pytest

from otel_audit.archive import index
from otel_audit.archive.connecting import APPLICATION_ID
from otel_audit.archive.faults import CODES
from otel_audit.archive.merkle import EMPTY_ROOT, root
from otel_audit.archive.report import Report, Root, Since
from otel_audit.archive.signatures import Signatures
from otel_audit.archive.verify import Noted, verify, verify_connection
from otel_audit.errors import ArchiveError
from tests.archive_material import connect, forked, provider_at
from tests.edits import make_archives

ROOT = Path(__file__).parents[2]


def fill(path: Path, records: int) -> None:
    with provider_at(path, durability="queued") as provider:
        log = provider.get_logger("verify")
        for n in range(records):
            log.audit("user.login.success", user=f"user-{n % 7}")


def fold(path: Path) -> None:
    with contextlib.closing(connect(path)) as connection:
        while index.fold(connection):
            pass


def nodes(path: Path) -> dict[int, bytes]:
    with contextlib.closing(connect(path)) as connection:
        return dict(connection.execute("SELECT sequence, coalesce(node, leaf) FROM record"))


def codes(report: Report) -> set[str]:
    assert report.intact == (not report.faults)
    return {fault.code for fault in report.faults}


def test_an_empty_archive_is_intact(archive_path: Path) -> None:
    """Without records there is nothing to find, and the root is that of an empty tree."""
    fill(archive_path, 0)
    report = verify(archive_path, noted=Noted([Root(0, EMPTY_ROOT)]))
    assert (report.intact, report.last, report.valid, report.root) == (True, 0, 0, EMPTY_ROOT)
    assert report.roots[0].holds


@pytest.mark.parametrize("records", [1, 2, 3, 100, 1_025])
def test_archives_are_intact(archive_path: Path, records: int) -> None:
    """Archives of any size are intact before and after they are folded, and the report says what was found."""
    fill(archive_path, records)
    before = verify(archive_path)
    fold(archive_path)
    assert verify(archive_path) == before
    assert (before.intact, before.first, before.last) == (True, 1, records)
    assert (before.valid, before.invalid, before.missing) == (records, 0, 0)
    assert before.root == root(records, nodes(archive_path).__getitem__)


@pytest.mark.parametrize("steps", range(1, index.STEPS))
def test_a_slice_that_is_half_folded(tmp_path: Path, steps: int) -> None:
    """Entries of a slice that does not count yet may be there or not; one that is wrong is a fault."""
    connection = make_archives(tmp_path, (24,))[0].connection
    part = index.next_slice(connection)
    for step in range(steps):
        index.fold_step(connection, part, step)
    assert connection.execute("SELECT count(*) FROM posting").get > 0
    assert verify_connection(connection, "archive").intact
    connection.execute("UPDATE posting SET value = 'mallory' WHERE sequence = 7")
    assert codes(verify_connection(connection, "archive")) == {"posting"}


def test_spans_are_joined(archive_path: Path) -> None:
    """However the records are cut into spans, the tree, its past roots and the faults are the same."""
    fill(archive_path, 203)
    fold(archive_path)
    stored = nodes(archive_path)
    roots = [Root(size, root(size, stored.__getitem__)) for size in range(204)]
    with contextlib.closing(connect(archive_path)) as connection:
        whole = verify_connection(connection, "archive", noted=Noted(roots))
        assert whole.intact
        assert all(check.holds for check in whole.roots)
        for length in (1, 2, 8, 64, 256):
            assert verify_connection(connection, "archive", noted=Noted(roots), length=length) == whole
            for first in (2, 3, 8, 9, 100, 128, 129, 203, 204, 1000):
                found = verify_connection(connection, "archive", noted=Noted(roots), length=length, since=Since(first))
                expected = replace(
                    whole,
                    asked=Since(first),
                    first=min(first, 204),
                    valid=max(0, 204 - first),
                    signatures=Signatures(unsigned=max(0, 204 - first)),
                    faults=(),
                    fault_count=0,
                )
                assert found == expected
        for sequence in (2, 64, 128, 192):
            connection.execute("BEGIN")
            connection.execute("UPDATE record SET node = zeroblob(32) WHERE sequence = ?", (sequence,))
            for length in (1, 8, 64, 256):
                report = verify_connection(connection, "archive", noted=Noted(roots), length=length)
                assert [(fault.code, fault.place) for fault in report.faults] == [("node", f"record {sequence}")]
            connection.execute("ROLLBACK")


def test_a_wrong_root_does_not_hold(archive_path: Path) -> None:
    """Another root of any size, past ones and those beyond the end too, is a fault of its own."""
    fill(archive_path, 20)
    for size in (0, 1, 7, 16, 20):
        report = verify(archive_path, noted=Noted([Root(size, bytes(32))]))
        assert codes(report) == {"root"}
        assert not report.roots[0].holds
    assert codes(verify(archive_path, noted=Noted([Root(21, bytes(32))]))) == {"truncated"}
    assert codes(verify(archive_path, noted=Noted([Root(7, bytes(32))]), since=Since(15))) == {"root"}


def test_since_a_time(archive_path: Path) -> None:
    """A verification since a time begins just before the first record that was recorded then or later."""
    fill(archive_path, 20)
    with contextlib.closing(connect(archive_path)) as connection:
        moment = connection.execute("SELECT observed FROM record WHERE sequence = 9").get
    report = verify(archive_path, since=Since(observed=moment))
    assert (report.intact, report.first, report.last, report.valid) == (True, 8, 20, 13)
    assert verify(archive_path, since=Since(observed=2**62)).first == 20


def test_times_that_were_set_back(archive_path: Path) -> None:
    """Whoever sets the times of recording back does not choose what a verification since a time looks at."""
    fill(archive_path, 20)
    with contextlib.closing(connect(archive_path)) as connection:
        moment = connection.execute("SELECT observed FROM record WHERE sequence = 9").get
        connection.execute("UPDATE record SET outcome = 'failure' WHERE sequence = 12")
        for last in (12, 20):
            connection.execute("UPDATE record SET observed = 1 WHERE sequence <= ?", (last,))
            report = verify(archive_path, since=Since(observed=moment))
            assert f"record {last}" in {fault.place for fault in report.faults}


def test_what_precedes_is_not_verified(archive_path: Path) -> None:
    """A fault before the beginning is not reported, one behind it is."""
    fill(archive_path, 20)
    with contextlib.closing(connect(archive_path)) as connection:
        connection.execute("UPDATE record SET outcome = 'failure' WHERE sequence IN (3, 12)")
    assert [fault.place for fault in verify(archive_path).faults] == ["record 3", "record 12"]
    assert [fault.place for fault in verify(archive_path, since=Since(4)).faults] == ["record 12"]
    assert verify(archive_path, since=Since(13)).intact


def test_faults_are_limited_and_counted(archive_path: Path) -> None:
    """Only so many faults are kept; all are counted, and so are the records that have them."""
    fill(archive_path, 50)
    with contextlib.closing(connect(archive_path)) as connection:
        connection.execute("UPDATE record SET outcome = 'failure'")
    report = verify(archive_path, keep=7)
    assert (len(report.faults), report.fault_count, report.invalid, report.valid) == (7, 50, 50, 0)


def test_beside_writers(archive_path: Path) -> None:
    """While four processes write and fold, each verification is intact, and roots noted meanwhile hold in the end."""
    fill(archive_path, 10)

    def write() -> None:
        for _ in range(4):
            with provider_at(archive_path) as provider:
                log = provider.get_logger("writer")
                for n in range(400):
                    log.audit("user.login.success", user=f"user-{n % 7}")
            fold(archive_path)

    children = [forked(write) for _ in range(4)]
    roots: list[Root] = []
    while children:
        report = verify(archive_path, noted=Noted(roots[-3:]))
        assert report.intact, report
        assert report.root is not None
        roots.append(Root(report.last, report.root))
        for child in list(children):
            done, status = os.waitpid(child, os.WNOHANG)
            if done:
                assert status == 0
                children.remove(child)
    final = verify(archive_path, noted=Noted(roots))
    assert final.intact
    assert final.last == 10 + 4 * 4 * 400
    assert len({noted.size for noted in roots}) > 2


def content(data: bytes) -> list[object] | None:
    """Return all that a database holds; None where it cannot be read."""
    connection = apsw.Connection(":memory:")
    try:
        connection.deserialize("main", data)
        found: list[object] = [connection.execute(f"PRAGMA {name}").get for name in ("application_id", "user_version")]
        found += connection.execute("SELECT type, name, tbl_name, sql FROM sqlite_schema").fetchall()
        for table in ("meta", "resource", "record", "posting", "zone", "destination", "dead_letter"):
            found += connection.execute(f"SELECT * FROM {table}").fetchall()
    except (apsw.Error, UnicodeDecodeError):
        return None
    finally:
        connection.close()
    return found


def test_flipped_bytes_of_the_file(tmp_path: Path) -> None:
    """A flipped byte anywhere in the file is a fault, or changes nothing that the archive holds; never a traceback."""
    made = make_archives(tmp_path, (24,))[-1]
    # Delivery is asserted, not hashed: what is in bounds cannot be told.
    made.connection.execute("DELETE FROM dead_letter; DELETE FROM destination; VACUUM")
    data = made.connection.serialize("main")
    expected = content(data)
    chance = random.Random(5)
    found = 0
    for _ in range(1_500):
        place = chance.randrange(len(data))
        flipped = data[:place] + bytes((data[place] ^ 1 << chance.randrange(8),)) + data[place + 1 :]
        connection = apsw.Connection(":memory:")
        connection.deserialize("main", flipped)
        try:
            report = verify_connection(connection, "flipped", noted=Noted([made.root]))
        except (apsw.NotADBError, apsw.CorruptError, apsw.CantOpenError):
            # As with a file that is no database: `verify` says that it cannot be opened.
            assert content(flipped) is None
            continue
        finally:
            connection.close()
        found += not report.intact
        assert not report.intact or content(flipped) == expected, place
        assert codes(report) <= CODES.keys()
    assert found > 200


def test_overwritten_pages(archive_path: Path) -> None:
    """Pages of garbage in the file are faults, and the records beside them are verified."""
    fill(archive_path, 200)
    with contextlib.closing(connect(archive_path)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        size = int(connection.execute("PRAGMA page_size").get)
    data = bytearray(archive_path.read_bytes())
    for page in range(3, len(data) // size):
        damaged = data.copy()
        damaged[page * size : page * size + size] = random.Random(page).randbytes(size)
        archive_path.write_bytes(damaged)
        report = verify(archive_path)
        assert codes(report) & {"damaged", "unreadable"}


def test_what_cannot_be_verified(tmp_path: Path) -> None:
    """No file, no database, and a database of another program are errors, not faults."""
    with pytest.raises(ArchiveError, match="there is no archive"):
        verify(tmp_path / "none.db")
    garbage = tmp_path / "garbage.db"
    garbage.write_bytes(b"\x00garbage" * 1000)
    with pytest.raises(ArchiveError, match="not a database"):
        verify(garbage)
    with contextlib.closing(apsw.Connection(str(tmp_path / "other.db"))) as other:
        other.execute("CREATE TABLE record (sequence INTEGER PRIMARY KEY)")
    with pytest.raises(ArchiveError, match="is no audit archive"):
        verify(tmp_path / "other.db")
    (tmp_path / "empty.db").touch()
    with pytest.raises(ArchiveError, match="is no audit archive"):
        verify(tmp_path / "empty.db")
    with contextlib.closing(apsw.Connection(str(tmp_path / "stripped.db"))) as stripped:
        stripped.execute(f"PRAGMA application_id={APPLICATION_ID}")
    assert "schema" in codes(verify(tmp_path / "stripped.db"))


def test_reading_changes_nothing(archive_path: Path) -> None:
    """A verification leaves the file as it is, and works on one that nobody may write."""
    fill(archive_path, 20)
    fold(archive_path)
    with contextlib.closing(connect(archive_path)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    before = archive_path.read_bytes()
    archive_path.chmod(0o400)
    assert verify(archive_path, jobs=2).intact
    assert archive_path.read_bytes() == before


def test_all_codes_are_documented() -> None:
    """docs/integrity.md lists each reason code with its meaning, and no other."""
    document = (ROOT / "docs" / "integrity.md").read_text("utf-8")
    listed = {line.split("`")[1] for line in document.splitlines() if line.startswith("| `")}
    assert listed == CODES.keys()
