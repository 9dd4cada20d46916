"""Erasing what the archive itself recorded of a person: searches, and legal holds, which refuse an erasure."""

from __future__ import annotations

from pathlib import Path

import pytest

from otel_audit.archive.subjects import Subject
from otel_audit.archive.verify import verify
from otel_audit.errors import ArchiveError
from tests.archive_material import assert_sound
from tests.erasure_material import erased, fill, left, own, planned


def test_searches_for_an_empty_name(archive_path: Path) -> None:
    """Searches for the empty name at the host go, searches for the host stay."""
    fill(archive_path, {"user": "bob"})
    own(archive_path, "audit.read", {"read": {"command": "show", "filter": {"target": "example.com"}}})
    wanted = own(archive_path, "audit.read", {"read": {"command": "show", "filter": {"target": "@example.com"}}})
    own(archive_path, "audit.read", {"read": {"command": "show", "filter": {"target": "@other.com"}}})
    assert erased(archive_path, Subject("", "example.com")).ranges == [(wanted, wanted)]


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
    wanted = [own(archive_path, "audit.read", {"read": {"command": "show", "filter": asked}}) for asked in theirs]
    for asked in others:
        own(archive_path, "audit.read", {"read": {"command": "alice", "filter": asked}})
    own(archive_path, "audit.key.shown", {"key": {"verifier": "alice"}})
    done = erased(archive_path)
    assert [n for first, last in done.ranges for n in range(first, last + 1)] == wanted
    assert done.mentions == []
    assert verify(archive_path).intact


def hold(path: Path, identity: str, **fields: str) -> int:
    return own(path, "audit.hold.added", {"hold": {"reason": "a lawsuit", **fields, "id": identity}})


def test_records_of_lifted_holds(archive_path: Path) -> None:
    """The records of a lifted hold that named the person go, with the one that lifted it; other holds stay."""
    fill(archive_path, {"user": "bob"})
    first = hold(archive_path, "a1", user="alice", host="example.com")
    second = own(archive_path, "audit.hold.removed", {"hold": {"id": "a1", "reason": "over"}})
    hold(archive_path, "b2", user="bob", host="example.com")
    hold(archive_path, "c3", user="alice", host="other.com")
    hold(archive_path, "d4", type="alice", host="example.com")
    assert erased(archive_path).ranges == [(first, second)]
    assert verify(archive_path).intact


def test_a_hold_in_force_that_names_them(archive_path: Path) -> None:
    """As long as a hold names the person nothing is erased: its record would be gone with the others."""
    fill(archive_path, {"user": "bob"}, {"user": "carol"})
    held = hold(archive_path, "a1", user="alice")
    assert planned(archive_path).held == [(held, held)]
    with pytest.raises(ArchiveError, match=f"a legal hold covers record {held}: otel-audit hold list"):
        erased(archive_path)
    assert held in left(archive_path)
    assert_sound(archive_path, records=held)


def test_a_hold_whose_reason_names_them(archive_path: Path) -> None:
    """A hold on somebody else refuses nothing: its record is listed as a mention, and goes when the hold is lifted."""
    fill(archive_path, {"user": "bob", "target": "alice"}, {"user": "alice"})
    held = hold(archive_path, "a1", user="carol", reason="Smith v. alice@example.com")
    hold(archive_path, "b2", user="carol", reason="malice")
    done = erased(archive_path)
    assert (done.ranges, done.mentions, done.held) == ([(2, 2)], [(1, 1), (held, held)], [])
    done = erased(archive_path, mentions=True)
    assert (done.ranges, done.mentions) == ([(1, 1)], [(held, held)])
    lifted = own(archive_path, "audit.hold.removed", {"hold": {"id": "a1", "reason": "over"}})
    done = erased(archive_path)
    assert (done.ranges, done.mentions) == ([(held, held), (lifted, lifted)], [])
    assert verify(archive_path).intact


def test_a_hold_with_the_id_of_a_lifted_one(archive_path: Path) -> None:
    """Where a hold has the id of one that was lifted before, it is in force all the same."""
    fill(archive_path, {"user": "bob"})
    hold(archive_path, "a1", user="alice")
    own(archive_path, "audit.hold.removed", {"hold": {"id": "a1", "reason": "over"}})
    hold(archive_path, "a1", user="alice")
    with pytest.raises(ArchiveError, match="a legal hold covers 3 records: 3-5"):
        erased(archive_path)


def test_a_hold_that_covers_records(archive_path: Path) -> None:
    """Where a hold covers one of the records nothing is erased, and nothing is appended, until it is lifted."""
    fill(archive_path, {"user": "alice"}, {"user": "bob"}, {"user": "alice", "type": "user.logout"})
    hold(archive_path, "a1", type="user.logout")
    with pytest.raises(ArchiveError, match="nothing was erased: a legal hold covers record 3"):
        erased(archive_path)
    assert left(archive_path)[:3] == [1, 2, 3]
    own(archive_path, "audit.hold.removed", {"hold": {"id": "a1", "reason": "over"}})
    assert erased(archive_path).ranges == [(1, 1), (3, 3)]
