"""The checks after a load: what is missing, shown twice, delivered as another, or grows, does not pass for well."""

from __future__ import annotations

from pathlib import Path

import pytest

from otel_audit.provider import AuditProvider
from tests.archive_material import connect, provider_at
from tests.faults import load_checks
from tests.faults.frame import Outcome
from tests.faults.ledger import text_of
from tests.faults.load_checks import Sample, Watch, check_calls, check_delivered, check_flat, check_shown
from tests.faults.loading import _RECEIVED, _TOLD, told_files

TAG = "load-1"


def outcome() -> Outcome:
    return Outcome(name="unit", fault="none", cycles=1)


def watch(*samples: Sample, seconds: float = 3.0) -> Watch:
    return Watch(0.0, seconds, [*samples, Sample(0, 0, 0, 0, 0)])


@pytest.fixture
def loaded(archive_path: Path) -> Path:
    """An archive of four records, with what one thread was told, and what a collector took of it."""
    with provider_at(archive_path) as provider:
        lines = [_told(provider, number) for number in range(4)]
    for file in told_files(archive_path.parent, TAG):
        file.touch()
    told_files(archive_path.parent, TAG)[0].write_bytes(b"".join(lines))
    rows = connect(archive_path).execute("SELECT sequence, record_id FROM record")
    archive_path.with_name("received").write_bytes(b"".join(_RECEIVED.pack(*row) for row in rows))
    shown = connect(archive_path).execute("SELECT sequence FROM record WHERE kind = 1 ORDER BY sequence")
    archive_path.with_name("shown").write_text("".join(f'{{"sequence": {row[0]}}}\n' for row in shown))
    return archive_path


def _told(provider: AuditProvider, number: int) -> bytes:
    user = f"{TAG}-{number}"
    receipt = provider.get_logger("unit").audit("login", user=user, custom={"fault": {"text": text_of(user)}})
    leaf, identity = bytes.fromhex(receipt.integrity_hash or ""), bytes.fromhex(receipt.record_id.replace("-", ""))
    return _TOLD.pack(receipt.sequence or 0, number, number * 10**9, 1_000 * (number + 1), identity, leaf)


def test_a_load_without_losses(loaded: Path) -> None:
    """Receipts, archive, collector and followers agree: nothing lost, nothing wrong, and figures of each."""
    found = outcome()
    check_calls(loaded, [TAG], watch(), found)
    check_delivered(loaded, loaded.with_name("received"), found)
    check_shown(loaded, loaded.with_name("shown"), found)
    assert (found.acknowledged, found.lost, found.duplicated, found.wrong) == (4, 0, 0, [])
    assert found.figures[0].startswith("4 records from 1 processes in 3 seconds, 1 a second")
    assert "median 1.0 and 4.0 ms" in found.figures[1]


def test_a_missing_or_other_record_is_lost(loaded: Path) -> None:
    """A record that is gone, and one whose row belongs to somebody else, count as lost."""
    connect(loaded).execute("DELETE FROM record WHERE sequence = 2")
    connect(loaded).execute("UPDATE record SET user = 'somebody' WHERE sequence = 3")
    found = outcome()
    check_calls(loaded, [TAG], watch(), found)
    assert (found.acknowledged, found.lost) == (4, 2)


def test_deliveries_are_compared(loaded: Path) -> None:
    """What did not arrive is lost, what came twice is a duplicate, and an unknown record is wrong."""
    received = loaded.with_name("received")
    lines = received.read_bytes()
    received.write_bytes(lines[_RECEIVED.size :] + lines[-_RECEIVED.size :] + _RECEIVED.pack(3, b"x" * 16))
    found = outcome()
    check_delivered(loaded, received, found)
    assert (found.lost, found.duplicated) == (1, 1)
    assert len(found.wrong) == 2


@pytest.mark.parametrize("change", ["skipped", "twice", "cut"])
def test_what_is_shown_is_compared(loaded: Path, change: str) -> None:
    """A follower that leaves out a record, shows one twice, or stops before the end is noticed."""
    shown = loaded.with_name("shown")
    first, *rest = shown.read_text().splitlines(keepends=True)
    shown.write_text("".join({"skipped": rest, "twice": [first, first, *rest], "cut": [first, *rest[:-1]]}[change]))
    found = outcome()
    check_shown(loaded, shown, found)
    assert len(found.wrong) == 1


def test_what_grows_is_noticed() -> None:
    """Steady figures pass; memory, log or backlog that grow do not, and thirds count in a long load only."""
    steady = [Sample(80.0, 30.0, 60.0, 2**20, 500)] * 6
    grown = [Sample(160.0, 30.0, 60.0, 2**20, 500)] * 6
    # Later processes are longer at what all of them come to; or come to more.
    longer = [Sample(80.0, 30.0, each, 2**20, 500) for each in (30.0, 40.0, 60.0, 60.0, 60.0, 30.0)]
    higher = [Sample(80.0, 30.0, 75.0, 2**20, 500)] * 3
    full = [Sample(80.0, 30.0, 60.0, load_checks.LARGEST_LOG + 1, 500)] * 6
    for samples, seconds, wrong in (
        (steady, 3_600.0, 0),
        (steady + grown, 3_600.0, 1),
        (steady + grown, 20.0, 0),
        ([*longer[:3], *longer], 3_600.0, 0),
        (longer + higher, 3_600.0, 1),
        (full, 20.0, 2),
        ([Sample(80.0, 900.0, 60.0, 2**20, 500)], 20.0, 1),
    ):
        found = outcome()
        check_flat(watch(*samples, seconds=seconds), found)
        assert len(found.wrong) == wrong, found.wrong
    left = watch(*steady)
    left.samples[-1].backlog = 3
    found = outcome()
    check_flat(left, found)
    assert found.wrong == ["3 records still wait"]


def test_calls_that_become_slower_are_noticed(loaded: Path) -> None:
    """In a long load the slowest hundredth of the last third is compared with that of the first."""
    found = outcome()
    lines = told_files(loaded.parent, TAG)[0].read_bytes()
    # At 0, 100, 200 and 300 of 400 seconds, the last one slow.
    values = [(*line[:2], line[1] * 10**11, 10 ** (line[1] + 2), *line[4:]) for line in _TOLD.iter_unpack(lines)]
    told_files(loaded.parent, TAG)[0].write_bytes(b"".join(_TOLD.pack(*line) for line in values))
    check_calls(loaded, [TAG], watch(seconds=400.0), found)
    assert found.wrong == ["calls became slower: 1.0 ms, later 100.0 ms"]
