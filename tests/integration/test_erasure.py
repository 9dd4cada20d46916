"""Erasing a person's records: which ones go, what is told of it, and what refuses it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import apsw
import pytest

from otel_audit import Actor, Session, privacy
from otel_audit.archive import erasure, index
from otel_audit.archive.administration import Administration, Own
from otel_audit.archive.database import Database
from otel_audit.archive.erasure import FORGOTTEN, Order, Plan, erase, plan
from otel_audit.archive.leaf import ADMINISTRATION
from otel_audit.archive.query import open_archive
from otel_audit.archive.ranges import Range
from otel_audit.archive.subjects import Subject
from otel_audit.archive.vacuum import is_pending, note_pending, vacuum
from otel_audit.archive.verify import verify
from otel_audit.errors import ArchiveError, ConfigError
from otel_audit.testing import Collector
from tests.archive_material import assert_sound, connect, provider_at, ship

ALICE = Subject("alice", "example.com")
ORDER = Order("request 7", "Article 17", Actor("operator"), {"pid": 1})
KEY = b"0123456789abcdef0123456789abcdef"


def fill(path: Path, *events: Mapping[str, Any], **settings: Any) -> None:
    """Record events: arguments of ``audit()``, and ``host``."""
    with provider_at(path, **settings) as provider:
        for event in events:
            given = {"host": "example.com", **event}
            log = provider.get_logger("shop", host=given.pop("host"))
            log.audit(given.pop("type", "user.login.success"), **given)


def own(path: Path, type_: str, custom: Mapping[str, Mapping[str, Any]]) -> int:
    """Append one of the archive's own records, after the first one of all; return its sequence."""
    with Administration(path, b"", b"") as administration:
        return administration.append(lambda _connection, _tree: [Own(ADMINISTRATION, type_, custom, Actor("alice"))])


def run(path: Path, subject: Subject = ALICE, *, mentions: bool = False, order: Order = ORDER) -> Plan:
    with Administration(path, b"", b"") as administration:
        return erase(administration, subject, order, mentions=mentions)


def planned(path: Path, subject: Subject = ALICE, *, mentions: bool = False) -> Plan:
    with open_archive(path) as archive:
        return plan(archive.database, subject, mentions=mentions)


def left(path: Path) -> list[int]:
    """Return the sequences that have content."""
    return [n for (n,) in connect(path).execute("SELECT sequence FROM record WHERE otlp IS NOT NULL")]


@pytest.mark.parametrize("folded", [False, True])
def test_which_records_are_theirs(archive_path: Path, folded: bool) -> None:
    """User and actor count, at their host; a service of the same name, other hosts and mentions do not."""
    fill(
        archive_path,
        {"user": "alice", "session": Session("s-1", "http", "203.0.113.7")},
        {"user": "bob", "actor": "alice"},
        {"user": "bob", "actor": "alice@example.com"},
        {"user": "bob", "actor": Actor("alice", "service")},
        {"user": "alice", "host": "other.com"},
        {"user": "bob", "host": "other.com", "actor": "alice@example.com"},
        {"user": "bob", "target": "alice"},
        {"user": "bob", "custom": {"mail": {"to": ["carol", "alice@example.com"]}}},
        {"user": "alice-2", "message": "alice-2 and malice"},
        {"user": "Alice"},
        {"type": "server-started"},
    )
    if folded:
        index.fold(connect(archive_path))
    before = planned(archive_path)
    assert (before.ranges, before.mentions, before.held) == ([(1, 3)], [(4, 4), (6, 8)], [])
    assert run(archive_path) == before
    assert left(archive_path) == [4, 5, 6, 7, 8, 9, 10, 11, 12, 13]
    assert_sound(archive_path, records=13)
    report = verify(archive_path)
    assert report.intact, report.faults
    assert (report.erased, report.pruned) == (3, 0)
    with open_archive(archive_path) as archive:
        assert [record.sequence for record in archive.query(host="example.com", user="alice")] == []
        (told,) = archive.query(admin=True, types=["audit.records.erased"])
    assert told.custom["removal"] == {
        "sequences": ("1-3",), "records": 3, "reason": "request 7", "authority": "Article 17",
    }  # fmt: skip
    assert told.custom["process"] == {"pid": 1}
    assert told.actor == Actor("operator")
    assert "alice" not in str(told)


def test_mentions_are_erased_when_asked(archive_path: Path) -> None:
    """Records of others that mention the person go too, and nothing is left to be reported."""
    fill(archive_path, {"user": "alice"}, {"user": "bob", "target": "alice"}, {"user": "bob"})
    assert planned(archive_path, mentions=True).ranges == [(1, 2)]
    assert run(archive_path).mentions == [(2, 2)]
    done = run(archive_path, mentions=True)
    assert (done.ranges, done.mentions) == ([(2, 2)], [])
    assert left(archive_path)[0] == 3
    assert verify(archive_path).intact


def test_nothing_to_erase(archive_path: Path) -> None:
    """Where there is no such record, nothing is appended, and nothing waits to be written anew."""
    fill(archive_path, {"user": "bob", "target": "alice"})
    assert run(archive_path) == Plan([], [(1, 1)], [], {})
    assert run(archive_path, Subject("nobody", "example.com")) == Plan([], [], [], {})
    assert_sound(archive_path, records=1)
    assert not is_pending(connect(archive_path))
    assert verify(archive_path).intact


def test_erasing_again(archive_path: Path) -> None:
    """What is erased is erased; only what came since is erased the second time."""
    fill(archive_path, {"user": "alice"}, {"user": "bob"})
    run(archive_path)
    fill(archive_path, {"user": "alice"})
    assert run(archive_path).ranges == [(5, 5)]
    report = verify(archive_path)
    assert report.intact
    assert report.erased == 2


def test_an_empty_name(archive_path: Path) -> None:
    """Records with an empty name are somebody's, too; nobody else's are taken for them."""
    fill(archive_path, {"user": ""}, {"user": "bob"}, {"type": "server-started"}, {"user": "", "host": "other.com"})
    assert run(archive_path, Subject("", "example.com")).ranges == [(1, 1)]
    assert verify(archive_path).intact


def test_pseudonyms(archive_path: Path) -> None:
    """With the key the records under the pseudonym go, without it they are not found."""
    fill(archive_path, {"user": "alice"}, {"user": "bob", "actor": "alice"}, {"user": "bob"}, pseudonym_key=KEY)
    fill(archive_path, {"user": "alice"})
    assert planned(archive_path).ranges == [(4, 4)]
    subject = Subject("alice", "example.com", privacy.Pseudonyms(KEY))
    assert run(archive_path, subject).ranges == [(1, 2), (4, 4)]
    assert left(archive_path)[0] == 3


def test_searches_for_an_empty_name(archive_path: Path) -> None:
    """Searches for the empty name at the host go, searches for the host stay."""
    fill(archive_path, {"user": "bob"})
    own(archive_path, "audit.read", {"read": {"command": "show", "filter": {"target": "example.com"}}})
    wanted = own(archive_path, "audit.read", {"read": {"command": "show", "filter": {"target": "@example.com"}}})
    own(archive_path, "audit.read", {"read": {"command": "show", "filter": {"target": "@other.com"}}})
    assert run(archive_path, Subject("", "example.com")).ranges == [(wanted, wanted)]


def test_searches_for_a_person(archive_path: Path) -> None:
    """Audited reads that asked for the person go, in whatever way they named them; others' searches stay."""
    fill(archive_path, {"user": "bob"})
    theirs = [
        {"user": "alice", "host": "example.com"},
        {"user": "alice"},
        {"target": "alice@example.com"},
        {"where": {"actor.id": "alice"}, "host": "example.com"},
        {"grep": "alice@example.com"},
        {"target": "example.com", "where": ["target.id=alice", "a.b=c"]},
    ]
    others = [
        {"user": "alice", "host": "other.com"},
        {"target": "alice@other.com"},
        {"user": "alice-2", "host": "example.com"},
        {"type": ["alice"], "source": ["alice"]},
        {"target": "other.com", "where": ["target.id=alice"]},
        {"target": "alice", "pseudonym-key": "/home/alice/key"},
        {},
    ]
    wanted = [own(archive_path, "audit.read", {"read": {"command": "show", "filter": given}}) for given in theirs]
    for given in others:
        own(archive_path, "audit.read", {"read": {"command": "alice", "filter": given}})
    own(archive_path, "audit.checkpoint", {"checkpoint": {"note": "alice"}})
    done = run(archive_path)
    assert [n for first, last in done.ranges for n in range(first, last + 1)] == wanted
    assert done.mentions == []
    assert verify(archive_path).intact


def hold(path: Path, identity: str, **fields: str) -> int:
    return own(path, "audit.hold.added", {"hold": {"id": identity, "reason": "a lawsuit", **fields}})


def test_records_of_lifted_holds(archive_path: Path) -> None:
    """The records of a lifted hold that named the person go, with the one that lifted it; other holds stay."""
    fill(archive_path, {"user": "bob"})
    first = hold(archive_path, "a1", user="alice", host="example.com")
    second = own(archive_path, "audit.hold.removed", {"hold": {"id": "a1", "reason": "over"}})
    hold(archive_path, "b2", user="bob", host="example.com")
    hold(archive_path, "c3", user="alice", host="other.com")
    hold(archive_path, "d4", type="alice", host="example.com")
    assert run(archive_path).ranges == [(first, second)]
    assert verify(archive_path).intact


def test_a_hold_in_force_that_names_them(archive_path: Path) -> None:
    """As long as a hold names the person nothing is erased: its record would be gone with the others."""
    fill(archive_path, {"user": "alice"}, {"user": "bob"})
    held = hold(archive_path, "a1", user="alice")
    assert planned(archive_path).held == [(held, held)]
    with pytest.raises(ArchiveError, match=f"a legal hold covers record {held}: otel-audit hold list"):
        run(archive_path)
    assert 1 in left(archive_path)
    assert_sound(archive_path, records=held)


def test_a_hold_with_the_id_of_a_lifted_one(archive_path: Path) -> None:
    """Where a hold has the id of one that was lifted before, it is in force all the same."""
    fill(archive_path, {"user": "bob"})
    hold(archive_path, "a1", user="alice")
    own(archive_path, "audit.hold.removed", {"hold": {"id": "a1", "reason": "over"}})
    hold(archive_path, "a1", user="alice")
    with pytest.raises(ArchiveError, match="a legal hold covers 3 records: 3-5"):
        run(archive_path)


def test_a_hold_that_covers_records(archive_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a hold covers one of the records nothing is erased, and nothing is appended."""
    fill(archive_path, {"user": "alice"}, {"user": "bob"}, {"user": "alice"})
    asked: list[list[Range]] = []

    def held(_connection: apsw.Connection, ranges: list[Range]) -> list[Range]:
        asked.append(ranges)
        return [(3, 3)]

    monkeypatch.setattr(erasure, "held_ranges", held)
    with pytest.raises(ArchiveError, match="nothing was erased: a legal hold covers record 3"):
        run(archive_path)
    assert asked == [[(1, 1), (3, 3)]]
    assert left(archive_path) == [1, 2, 3]
    monkeypatch.setattr(erasure, "held_ranges", lambda _connection, _ranges: [])
    assert run(archive_path).ranges == [(1, 1), (3, 3)]


@pytest.mark.parametrize(
    ("order", "complaint"),
    [
        (ORDER._replace(reason=" "), "the reason is empty"),
        (ORDER._replace(reason="Alice asked"), "the reason names the person"),
        (ORDER._replace(authority="mail of alice@example.com"), "the authority names the person"),
    ],
)
def test_an_order_that_cannot_be_kept(archive_path: Path, order: Order, complaint: str) -> None:
    """A reason is needed, and neither it nor the authority may hold the name, since both stay for ever."""
    fill(archive_path, {"user": "alice"})
    with pytest.raises(ConfigError, match=complaint):
        run(archive_path, order=order)
    assert left(archive_path) == [1]


def test_what_was_not_sent_is_not_sent(archive_path: Path) -> None:
    """What is erased before it was sent never is; the erasure itself is sent, and the collector compares."""
    fill(archive_path, {"user": "alice"}, {"user": "bob"}, {"user": "alice"})
    assert run(archive_path).delivered == {}
    with Collector() as collector:
        assert ship(archive_path, collector)
        came = {record.attributes["audit.sequence.number"]: record for record in collector.records}
    assert sorted(came) == [2, 4, 5]
    assert came[5].event_name == "audit.records.erased"
    assert came[5].attributes["otel_audit.custom.removal.sequences"] == ["1,3"]
    assert "alice" not in str(came)


def test_what_was_sent_is_told(archive_path: Path) -> None:
    """How many of the records a destination has accepted is told, dead letters and what waits left out."""
    fill(archive_path, *[{"user": "alice"}] * 5, {"user": "bob"})
    with connect(archive_path) as connection:
        connection.execute("INSERT INTO destination (name, endpoint, cursor) VALUES ('a', 'x', 4), ('b', 'y', 0)")
        connection.execute("INSERT INTO dead_letter VALUES ('a', 2, 1, 'refused', 0)")
    assert run(archive_path).delivered == {"a": 3, "b": 0}
    assert connect(archive_path).execute("SELECT count(*) FROM dead_letter").get == 0
    assert verify(archive_path).intact


def test_what_collectors_answered(archive_path: Path) -> None:
    """An answer that quotes the name, or a value of an erased record, is replaced; other answers stay."""
    session = Session("s-secret", "http", "203.0.113.7")
    fill(
        archive_path,
        {"user": "alice", "session": session, "custom": {"a": {"b": "token-77", "c": "no"}}},
        {"user": "b"},
    )
    fill(archive_path, *[{"user": "b"}] * 5)
    answers = ("bad user alice", "session s-secret?", "from 203.0.113.7", "token-77", "no room for bob")
    with connect(archive_path) as connection:
        connection.execute(
            "INSERT INTO destination VALUES ('a', 'x', 7, NULL, 'by alice', 5, 'blocked by alice'),"
            " ('b', 'y', 7, NULL, 'busy', 5, NULL)"
        )
        for number, answer in enumerate(answers, 2):
            connection.execute("INSERT INTO dead_letter VALUES ('a', ?, 1, ?, 0)", (number, answer))
    run(archive_path)
    with connect(archive_path) as connection:
        kept = [reason for (reason,) in connection.execute("SELECT reason FROM dead_letter ORDER BY sequence")]
        assert kept == [FORGOTTEN] * 4 + [answers[4]]
        states = connection.execute("SELECT last_error, blocked FROM destination ORDER BY name").fetchall()
        assert states == [(FORGOTTEN, FORGOTTEN), ("busy", None)]
    assert verify(archive_path).intact


def test_a_damaged_record_is_named(archive_path: Path) -> None:
    """A record that cannot be read ends the search, with its sequence and not with its content."""
    fill(archive_path, {"user": "alice"})
    connect(archive_path).execute("UPDATE record SET otlp = CAST('alice' AS BLOB)")
    with pytest.raises(ArchiveError, match="record 1 cannot be decoded"):
        run(archive_path)


def test_the_file_written_anew(archive_path: Path) -> None:
    """Everything is as it was: the file's identity, its settings, and what running writers know of it."""
    with provider_at(archive_path) as provider:
        log = provider.get_logger("shop")
        for n in range(200):
            log.audit("user.login.success", user=f"user-{n % 20}")
        settings = [connect(archive_path).execute(f"PRAGMA {name}").get for name in SETTINGS]
        inode = archive_path.stat().st_ino
        run(archive_path, Subject("user-3", "example.com"))
        assert is_pending(connect(archive_path))
        assert verify(archive_path).intact
        database = Database(archive_path, "write", must_exist=True)
        vacuum(database, 10.0)
        database.close()
        assert not is_pending(connect(archive_path))
        assert log.audit("user.login.success", user="bob").sequence == 203
        assert archive_path.stat().st_ino == inode
        assert [connect(archive_path).execute(f"PRAGMA {name}").get for name in SETTINGS] == settings
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
    run(archive_path)
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
    run(archive_path)
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
