"""Records that were made elsewhere: each is kept once, with its id, whatever comes again and however many write."""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import apsw
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from otel_audit import Session
from otel_audit.archive import received
from otel_audit.archive.connecting import schema
from otel_audit.archive.leaf import RECEIVED
from otel_audit.archive.query import open_archive
from otel_audit.archive.received import Foreign, Kept, keep
from otel_audit.archive.vacuum import vacuum
from otel_audit.archive.verify import verify
from otel_audit.build import build_record
from otel_audit.catalog import Catalog
from otel_audit.clean import MARKS, Marks
from otel_audit.errors import ArchiveError
from otel_audit.otlp import encode, encode_resource, encode_scope
from otel_audit.producer import ProducerKey
from otel_audit.provider import AuditProvider
from otel_audit.testing import Collector
from tests.archive_material import assert_delivered, assert_sound, connect, forked, provider_at
from tests.erasure_material import erased

IDS = [f"0192f0c4-0000-7000-8000-{number:012x}" for number in range(1_000)]
TIME = 1_700_000_000_000_000_000
CATALOG = Catalog()


def foreign(number: int, *, service: str = "shop", observed: int = TIME + 5, **values: Any) -> Foreign:
    """Return a record as another program made it."""
    given = {"event": "order.deleted", "host": "example.com", "source": "shop", "timestamp": TIME, **values}
    record = build_record(given, CATALOG)._replace(record_id=IDS[number], observed=observed)
    return Foreign(
        record, encode(record), encode_resource({"service.name": service}), encode_scope("their.library", "2")
    )


def outcomes(kept: list[Kept]) -> list[tuple[str, int | None]]:
    return [(one.outcome, one.receipt.sequence) for one in kept]


@contextmanager
def opened(path: Path, **given: Any) -> Iterator[AuditProvider]:
    with provider_at(path, ship=False, high_water=False, **given) as provider:
        yield provider


def test_what_came_from_elsewhere_is_kept_as_it_came(archive_path: Path) -> None:
    """Id, times, resource and scope stay; the archive verifies, and it is shipped on under its own resource."""
    one = foreign(1, user="alice", custom={"order": {"number": 4711}}, session=Session("s", "http", "203.0.113.7"))
    other = foreign(2, service="billing")
    with Collector() as collector:
        with provider_at(archive_path, endpoint=collector.endpoint, resource={"service.name": "here"}) as provider:
            provider.get_logger("own").audit("own")
            kept = keep(provider.writer, [one, other])
            assert provider.force_flush(20)
        assert_delivered(archive_path, collector)
        came = {record.record_id: record for record in collector.records}
    assert outcomes(kept) == [("recorded", 2), ("recorded", 3)]
    assert came[IDS[1]].resource["service.name"] == "shop"
    assert came[IDS[2]].resource["service.name"] == "billing"
    with open_archive(archive_path) as archive:
        newest, older, own = archive.query()
        assert (older.record_id, older.time, older.observed) == (IDS[1], TIME, TIME + 5)
        assert (older.user, older.custom) == ("alice", {"order": {"number": 4711}})
        assert (newest.record_id, own.type) == (IDS[2], "own")
        assert [record.sequence for record in archive.query(user="alice")] == [2]
    assert_sound(archive_path, [one.receipt for one in kept], records=3)
    assert verify(archive_path).intact
    kinds = [kind for (kind,) in connect(archive_path).execute("SELECT kind FROM record ORDER BY sequence")]
    assert kinds == [1, RECEIVED, RECEIVED]


def test_what_comes_again_is_not_copied(archive_path: Path) -> None:
    """A repeat gives the receipt of the record that is there; so in one batch, after a restart, and when seen later."""
    with opened(archive_path) as provider:
        first = keep(provider.writer, [foreign(1), foreign(2), foreign(1)])
    assert outcomes(first) == [("recorded", 1), ("recorded", 2), ("repeat", 1)]
    with opened(archive_path) as provider:
        again = keep(provider.writer, [foreign(2, observed=TIME + 99), foreign(3), foreign(1)])
    assert outcomes(again) == [("repeat", 2), ("recorded", 3), ("repeat", 1)]
    assert again[0].receipt[:3] == first[1].receipt[:3]
    assert again[0].receipt.timestamp == TIME + 5
    assert_sound(archive_path, records=3)


@pytest.mark.parametrize(
    "other",
    [
        {"user": "mallory"},
        {"event": "order.created"},
        {"timestamp": TIME + 1},
        {"custom": {"a": {"b": 1}}},
        {"custom": {"a": {"b": True}}},
        {"service": "elsewhere"},
        {MARKS: Marks(["user:cut:1:2"])},
    ],
)
def test_the_same_id_with_other_content_is_reported(archive_path: Path, other: dict[str, Any]) -> None:
    """It is not recorded, and the caller learns of it, from the archive as within one batch."""
    with opened(archive_path) as provider:
        within = keep(provider.writer, [foreign(1), foreign(1, **other), foreign(2)])
        assert outcomes(within) == [("recorded", 1), ("conflict", 1), ("recorded", 2)]
        assert outcomes(keep(provider.writer, [foreign(1, **other), foreign(1)])) == [("conflict", 1), ("repeat", 1)]
    assert_sound(archive_path, records=2)


def test_a_record_whose_id_is_taken_can_be_renamed(archive_path: Path) -> None:
    """It is recorded under another id, marked, and recognised when it comes again; however many share one id."""
    users = [f"user{number}" for number in range(20)]
    same_id = [foreign(1, user=user)._replace(rename=True) for user in users]
    with opened(archive_path) as provider:
        first = keep(provider.writer, same_id)
        again = keep(provider.writer, same_id[:10])
    assert outcomes(first) == [("recorded", number + 1) for number in range(20)]
    assert outcomes(again) == [("repeat", number + 1) for number in range(10)]
    assert [one.receipt.record_id for one in again] == [one.receipt.record_id for one in first[:10]]
    with open_archive(archive_path) as archive:
        records = list(archive.query(oldest_first=True))
    assert [record.user for record in records] == users
    assert [record.altered for record in records[1:]] == [(f"record_id:taken:{IDS[1]}",)] * 19
    assert len({record.record_id for record in records}) == 20
    assert verify(archive_path).intact


def test_many_that_share_one_id_are_looked_up_together(archive_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One request full of them holds the archive no longer than others do: each id is asked for once, not by each."""
    asked: list[str] = []
    there: Any = received._there

    def noted(connection: apsw.Connection, ids: list[str]) -> Any:
        asked.extend(ids)
        return there(connection, ids)

    monkeypatch.setattr(received, "_there", noted)
    same_id = [foreign(1, user=f"user{number}")._replace(rename=True) for number in range(100)]
    with opened(archive_path) as provider:
        assert {one.outcome for one in keep(provider.writer, same_id)} == {"recorded"}
    assert len(asked) == len(set(asked[99:])) + 99 == 100 + 16


def test_values_that_do_not_equal_themselves_are_recognised(archive_path: Path) -> None:
    """A record with a NaN, and one that was marked as of the future, are repeats like any other."""
    odd: dict[str, Any] = {"custom": {"a": {"b": math.nan, "c": [1.5, {"d": b"x"}]}}}
    early = foreign(2).record._replace(altered=("timestamp:future",))
    with opened(archive_path) as provider:
        keep(provider.writer, [foreign(1, **odd), foreign(2)._replace(record=early, otlp=encode(early))])
        kept = keep(provider.writer, [foreign(1, **odd), foreign(2)])
    assert outcomes(kept) == [("repeat", 1), ("repeat", 2)]


def test_an_event_without_a_time_is_recognised(archive_path: Path) -> None:
    """Where the time is that of recording, it is no content."""
    with opened(archive_path) as provider:
        keep(provider.writer, [foreign(1, timestamp=7, observed=7)])
        kept = keep(provider.writer, [foreign(1, timestamp=8, observed=8), foreign(1, timestamp=8, observed=9)])
    assert outcomes(kept) == [("repeat", 1), ("conflict", 1)]


def test_what_was_erased_or_pruned_is_not_recorded_again(archive_path: Path) -> None:
    """A tombstone's id counts as recorded, whatever comes under it."""
    with opened(archive_path) as provider:
        keep(provider.writer, [foreign(1, user="alice"), foreign(2, user="bob")])
    erased(archive_path)
    with opened(archive_path) as provider:
        vacuum(provider.writer._database, 5.0)
        kept = keep(provider.writer, [foreign(1, user="alice"), foreign(1, user="other"), foreign(2, user="bob")])
    assert outcomes(kept) == [("repeat", 1), ("repeat", 1), ("repeat", 2)]
    assert b"alice" not in archive_path.read_bytes()
    assert verify(archive_path).intact


def test_signed_records_are_recognised(archive_path: Path) -> None:
    """The signature that this archive puts behind a record is no content of it."""
    key = ProducerKey("HMAC-SHA256", lambda payload: hashlib.sha256(payload).digest())
    with opened(archive_path, integrity_key=key) as provider:
        keep(provider.writer, [foreign(1)])
        assert outcomes(keep(provider.writer, [foreign(1), foreign(1, user="x")])) == [("repeat", 1), ("conflict", 1)]


def test_one_id_recorded_by_many_processes_at_once(archive_path: Path) -> None:
    """Four processes send the same records in different batches: each is there once, and all have its receipt."""
    with opened(archive_path):
        pass

    def sending(number: int) -> None:
        found = []
        with opened(archive_path) as provider:
            for start in range(0, 200, 10):
                chosen = [(start + step) % 200 for step in range(number, 40 + number)]
                found += keep(provider.writer, [foreign(n, user=f"user{n}") for n in chosen])
        assert not [one for one in found if one.outcome == "conflict"]
        (archive_path.parent / f"receipts-{number}").write_text(
            "\n".join(f"{one.receipt.record_id} {one.receipt.sequence} {one.receipt.integrity_hash}" for one in found)
        )

    for child in [forked(lambda n=number: sending(n)) for number in range(4)]:  # type: ignore[misc]
        assert os.waitpid(child, 0)[1] == 0
    assert_sound(archive_path, records=200)
    told = {
        line for number in range(4) for line in (archive_path.parent / f"receipts-{number}").read_text().split("\n")
    }
    assert len(told) == 200
    assert verify(archive_path).intact


def test_nothing_is_recorded_where_one_record_cannot_be(archive_path: Path) -> None:
    """A batch is committed or not, as a whole; after the failure all goes on."""
    broken = foreign(2)._replace(otlp=None)  # type: ignore[arg-type]
    with opened(archive_path) as provider:
        with pytest.raises(TypeError):
            keep(provider.writer, [foreign(1), broken])
        assert outcomes(keep(provider.writer, [foreign(1), foreign(3)])) == [("recorded", 1), ("recorded", 2)]
        assert keep(provider.writer, []) == []
    with pytest.raises(ArchiveError, match="closed"):
        keep(provider.writer, [foreign(1)])
    assert_sound(archive_path, records=2)


def test_what_was_changed_in_the_file_does_not_suppress_a_record(archive_path: Path) -> None:
    """Somebody who changes a record's bytes cannot make another pass for it: its id is taken, which is reported."""
    with opened(archive_path) as provider:
        keep(provider.writer, [foreign(1), foreign(2)])
    connect(archive_path).execute("UPDATE record SET otlp = x'ff' WHERE sequence = 1")
    with opened(archive_path) as provider:
        assert outcomes(keep(provider.writer, [foreign(1), foreign(2)])) == [("conflict", 1), ("repeat", 2)]
    assert not verify(archive_path).intact


def first_version(path: Path) -> None:
    """Turn an archive into one as the first version made it."""
    connection = connect(path)
    connection.execute("DROP INDEX received; PRAGMA user_version=1")
    connection.close()


def test_an_archive_of_the_first_version_opens(archive_path: Path) -> None:
    """It verifies and is read as it is; the next writer gives it what it lacks, and nothing else."""
    with opened(archive_path) as provider:
        provider.get_logger("own").audit("own")
    first_version(archive_path)
    assert verify(archive_path).intact
    with open_archive(archive_path) as archive:
        assert len(list(archive.query())) == 1
    with opened(archive_path) as provider:
        assert outcomes(keep(provider.writer, [foreign(1), foreign(1)])) == [("recorded", 2), ("repeat", 2)]
    found = dict(connect(archive_path).execute("SELECT name, sql FROM sqlite_schema WHERE sql IS NOT NULL"))
    assert str(found["received"]) in schema()
    assert verify(archive_path).intact


def test_several_processes_bring_an_archive_to_this_version(archive_path: Path) -> None:
    """Whoever comes first does it; the others go on."""
    with opened(archive_path) as provider:
        provider.get_logger("own").audit("own")
    first_version(archive_path)

    def work() -> None:
        with opened(archive_path) as provider:
            keep(provider.writer, [foreign(1)])

    for child in [forked(work) for _ in range(4)]:
        assert os.waitpid(child, 0)[1] == 0
    assert_sound(archive_path, records=2)
    assert verify(archive_path).intact


ARRIVALS = st.lists(
    st.lists(st.tuples(st.integers(0, 5), st.sampled_from(["a", "b", "c"]), st.integers(1, 3)), max_size=6), max_size=6
)


@given(arrivals=ARRIVALS)
@settings(max_examples=60)
def test_any_order_of_arrivals(tmp_path_factory: pytest.TempPathFactory, arrivals: list[list[Any]]) -> None:
    """Whatever comes in whatever batches: each id is there once with its first content, as the outcomes say."""
    path = tmp_path_factory.mktemp("arrivals") / "audit.db"
    first: dict[int, tuple[str, int]] = {}
    with opened(path) as provider:
        for batch in arrivals:
            kept = keep(provider.writer, [foreign(n, user=user, observed=TIME + seen) for n, user, seen in batch])
            for (number, user, _), one in zip(batch, kept, strict=True):
                known = first.setdefault(number, (user, len(first) + 1))
                assert one.receipt.sequence == known[1]
                assert (one.outcome == "conflict") == (user != known[0])
    assert_sound(path, records=len(first))
    with open_archive(path) as archive:
        assert [record.user for record in archive.query(oldest_first=True)] == [user for user, _ in first.values()]
