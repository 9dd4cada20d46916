"""Erasing a person's records: which ones go, what is told of it, and what refuses it."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from otel_audit import Actor, Session, privacy
from otel_audit.archive import index
from otel_audit.archive.erasure import FORGOTTEN, Order, Plan
from otel_audit.archive.query import open_archive
from otel_audit.archive.ranges import ranges_of
from otel_audit.archive.subjects import Subject
from otel_audit.archive.vacuum import is_pending
from otel_audit.archive.verify import verify
from otel_audit.clean import Cleaner
from otel_audit.errors import ArchiveError, ConfigError
from otel_audit.testing import Collector
from tests.archive_material import assert_sound, connect, ship
from tests.erasure_material import KEY, ORDER, erased, fill, left, planned
from tests.recording import HOSTILE_TEXTS, texts


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
    assert erased(archive_path) == before
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
    assert erased(archive_path).mentions == [(2, 2)]
    done = erased(archive_path, mentions=True)
    assert (done.ranges, done.mentions) == ([(2, 2)], [])
    assert left(archive_path)[0] == 3
    assert verify(archive_path).intact


def test_nothing_to_erase(archive_path: Path) -> None:
    """Where there is no such record, nothing is appended, and nothing waits to be written anew."""
    fill(archive_path, {"user": "bob", "target": "alice"})
    assert erased(archive_path) == Plan([], [(1, 1)], [], {})
    assert erased(archive_path, Subject("nobody", "example.com")) == Plan([], [], [], {})
    assert_sound(archive_path, records=1)
    assert not is_pending(connect(archive_path))
    assert verify(archive_path).intact


def test_erasing_again(archive_path: Path) -> None:
    """What is erased is erased; only what came since is erased the second time."""
    fill(archive_path, {"user": "alice"}, {"user": "bob"})
    erased(archive_path)
    fill(archive_path, {"user": "alice"})
    assert erased(archive_path).ranges == [(5, 5)]
    report = verify(archive_path)
    assert report.intact
    assert report.erased == 2


def test_an_empty_name(archive_path: Path) -> None:
    """Records with an empty name are somebody's, too; nobody else's are taken for them."""
    fill(archive_path, {"user": ""}, {"user": "bob"}, {"type": "server-started"}, {"user": "", "host": "other.com"})
    assert erased(archive_path, Subject("", "example.com")).ranges == [(1, 1)]
    assert verify(archive_path).intact


def test_pseudonyms(archive_path: Path) -> None:
    """With the key the records under the pseudonym go, without it they are not found."""
    fill(archive_path, {"user": "alice"}, {"user": "bob", "actor": "alice"}, {"user": "bob"}, pseudonym_key=KEY)
    fill(archive_path, {"user": "alice"})
    assert planned(archive_path).ranges == [(4, 4)]
    subject = Subject("alice", "example.com", privacy.Pseudonyms(KEY))
    assert erased(archive_path, subject).ranges == [(1, 2), (4, 4)]
    assert left(archive_path)[0] == 3


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
        erased(archive_path, order=order)
    assert left(archive_path) == [1]


def test_what_was_not_sent_is_not_sent(archive_path: Path) -> None:
    """What is erased before it was sent never is; the erasure itself is sent, and the collector compares."""
    fill(archive_path, {"user": "alice"}, {"user": "bob"}, {"user": "alice"})
    assert erased(archive_path).delivered == {}
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
    assert erased(archive_path).delivered == {"a": 3, "b": 0}
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
    erased(archive_path)
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
        erased(archive_path)


NAMES = [*HOSTILE_TEXTS[:19], *HOSTILE_TEXTS[-2:], "alice", "alice@example.com", "bob"]


@given(
    events=st.lists(
        st.tuples(
            st.sampled_from(["example.com", "other.com"]),
            st.none() | st.sampled_from(NAMES) | texts(),
            st.none() | st.sampled_from(NAMES) | st.sampled_from(NAMES).map(lambda name: f"{name}@example.com"),
        ),
        min_size=1,
        max_size=12,
    ),
    user=st.sampled_from(NAMES),
)
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_record_is_overlooked(
    events: list[tuple[str, str | None, str | None]], user: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Whatever the names, the records found are those that a look at each decoded record gives."""
    path = tmp_path_factory.mktemp("archive") / "audit.db"
    fill(path, *({"host": host, "user": user, "actor": actor} for host, user, actor in events))
    subject = Subject(user, "example.com")
    with open_archive(path) as archive:
        expected = [
            record.sequence or 0
            for record in archive.query(host="example.com", oldest_first=True)
            if record.user == Cleaner().text(user, "")
            or (user and record.actor.type == "user" and record.actor.id in {*subject.names, *subject.addresses})
        ]
    assert planned(path, subject).ranges == ranges_of(expected)
