"""The harness that injects faults: it counts what is missing, and does not take a loss or an error for a success."""

from __future__ import annotations

import os
import random
from pathlib import Path

from otel_audit.errors import ArchiveError
from otel_audit.record import Receipt
from tests.archive_material import connect, provider_at
from tests.faults.checks import check
from tests.faults.frame import Experiment, Outcome, Stage
from tests.faults.ledger import Acknowledged, Crew, Ledger, Scribe, text_of
from tests.faults.recorded_disk import SECTOR, Disk
from tests.faults.table import as_markdown, as_text


def recorded(path: Path, count: int = 5) -> Ledger:
    ledger = Ledger()
    with provider_at(path) as provider:
        log = provider.get_logger("unit")
        for number in range(count):
            user = f"u-{number}"
            receipt = log.audit("user.login.success", user=user, custom={"fault": {"text": text_of(user)}})
            told = (receipt.record_id, receipt.sequence or 0, receipt.integrity_hash or "", user, number)
            ledger.acknowledged.append(Acknowledged(*told))
    return ledger


def outcome() -> Outcome:
    return Outcome(name="unit", fault="none", cycles=1)


def test_an_intact_archive_is_as_promised(archive_path: Path) -> None:
    """Receipts, archive and collector agree: nothing is lost, nothing wrong."""
    found = outcome()
    check(archive_path, recorded(archive_path), found)
    assert (found.acknowledged, found.lost, found.wrong) == (5, 0, [])
    assert found.as_promised


def test_what_is_missing_or_another_is_lost(archive_path: Path) -> None:
    """A record that is gone counts once, one with another content counts, and the archive is said to be wrong."""
    ledger = recorded(archive_path)
    connect(archive_path).execute("DELETE FROM record WHERE sequence = 5")
    ledger.acknowledged[0] = ledger.acknowledged[0]._replace(user="u-7")
    ledger.acknowledged[1] = ledger.acknowledged[1]._replace(leaf="00" * 32)
    found = outcome()
    check(archive_path, ledger, found)
    check(archive_path, ledger, found)
    assert found.lost == 3
    assert not found.as_promised


def test_an_archive_that_is_gone_loses_all(archive_path: Path) -> None:
    """Where a restart cannot make an archive either, every receipt counts as lost."""
    archive_path.mkdir(parents=True)
    archive_path.rmdir()
    archive_path.parent.rmdir()
    archive_path.parent.write_text("in the way")
    ledger = Ledger()
    ledger.read("+ 01a201af-ace4-7c3e-86ef-ff0000000000 1 00 u-1 5")
    found = outcome()
    check(archive_path, ledger, found)
    assert found.lost == 1
    assert len(found.wrong) == 2


def test_verdicts() -> None:
    """A fault built in must show as a loss, what ran without a cycle shows nothing, what was skipped is no failure."""
    assert not Outcome(name="x", fault="x").as_promised
    assert Outcome(name="x", fault="x", skipped="needs root").as_promised
    assert not Outcome(name="x", fault="x", cycles=1, subject="teeth").as_promised
    assert Outcome(name="x", fault="x", cycles=1, subject="teeth", lost=1).as_promised
    assert not Outcome(name="x", fault="x", cycles=1, wrong=["hung"]).as_promised


def test_reports_reach_the_ledger() -> None:
    """Receipts, refusals and notes of a forked writer are read; one that hangs is killed and counted as such."""

    def work(scribe: Scribe) -> None:
        scribe.receipt(Receipt("an-id", 3, "ff", 1), "u-1")
        scribe.refused(0.25, ArchiveError("no\nspace"))
        scribe.note("over")

    def hang(scribe: Scribe) -> None:
        scribe.note("hanging")
        os.read(os.pipe()[0], 1)

    ledger = Ledger()
    with Crew(ledger) as crew:
        crew.start(work, "first")
        assert crew.finish() == [0]
        crew.start(hang, "second")
        assert crew.listen(20.0, until=lambda: "hanging" in ledger.notes)
        child = crew.running[0]
        crew.kill(child)
    assert [told[:4] for told in ledger.acknowledged] == [("an-id", 3, "ff", "u-1")]
    assert ledger.refused[0] == (0.25, "ArchiveError: no space (without a hint)")
    assert ledger.notes[0] == "over"
    ledger.forget_since(ledger.acknowledged[0].moment)
    assert ledger.acknowledged == []


def test_a_disk_keeps_what_was_synced() -> None:
    """A power cut leaves synced bytes as they are; what came later is there, torn at sectors, or not there."""
    seen = set()
    for seed in range(200):
        disk = Disk(random.Random(seed))
        disk.play(("write", "a", 0, b"x" * SECTOR * 2))
        disk.play(("sync", "a"))
        disk.play(("write", "a", SECTOR, b"y" * SECTOR * 2))
        content = disk.after_power_cut()["a"]
        assert content[:SECTOR] == b"x" * SECTOR
        assert len(content) in {SECTOR * 2, SECTOR * 3}
        seen.add(content[SECTOR:])
        disk.play(("forget", "a"))
        disk.play(("sync", "a"))
        seen.add(disk.after_power_cut()["a"][SECTOR:])
    x, y, nothing = b"x" * SECTOR, b"y" * SECTOR, bytes(SECTOR)
    assert {x, y + y, x + y, y + nothing} <= seen <= {x, y + y, x + y, y + nothing, x + nothing}


def test_the_nth_call_is_walked_to_its_end(tmp_path: Path) -> None:
    """A full run takes every n until nothing fires; a quick one leaves gaps, and begins with the first."""
    for quick, expected in ((False, [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]), (True, [1, 3, 7, 15])):
        asked: list[int] = []

        def fires(n: int, asked: list[int] = asked) -> bool:
            asked.append(n)
            return n < 10

        stage = Stage(folder=tmp_path, cycles=0, quick=quick, outcome=outcome(), chance=random.Random(1))
        stage.nth(fires)
        assert asked == expected


def test_tables() -> None:
    """Text and page hold every outcome, the reason of a skipped one, what went wrong, and the sums."""
    outcomes = [
        Outcome(name="kill", fault="`kill -9`", cycles=1_000, acknowledged=2_000, refused=1, lost=1, wrong=["gap"]),
        Outcome(name="power", fault="power cut", skipped="needs root"),
        Outcome(name="teeth", fault="no sync", subject="teeth", cycles=1),
        Outcome(name="sdk", fault="outage", subject="sdk", cycles=1, acknowledged=10, lost=10),
    ]
    text, page = as_text(outcomes), as_markdown(outcomes, [("CPU", "some")])
    for each in (text, page):
        assert "skipped: needs root" in each
        assert "NO LOSS SEEN" in each
        assert "1,000 faults, 2,000 records acknowledged, 1 lost" in each
        assert "kill: gap" in each
        assert "teeth: not as promised" in each
    assert "| `kill -9` | 1,000 | 2,000 | 1 | 1 | 0 |  | NO |" in page
    assert "| CPU | some |" in page


def test_an_experiment_that_cannot_be_done_says_why(tmp_path: Path) -> None:
    """What the machine lacks becomes the reason in the table, and nothing is run."""

    def run(stage: Stage) -> None:
        stage.outcome.detected = stage.cycles
        stage.cycle(stage.cycles)

    whole = Experiment(name="x", fault="x", run=run, full=5, quick=2)
    assert whole.perform(tmp_path, quick=True).detected == 2
    assert whole.perform(tmp_path, quick=False).cycles == 5
    assert whole.perform(tmp_path, quick=False, cycles=7).cycles == 7
    lacking = Experiment(name="x", fault="x", run=run, full=5, quick=2, missing=lambda: "needs strace")
    assert lacking.perform(tmp_path, quick=True).skipped == "needs strace"
    assert lacking.perform(tmp_path, quick=True).cycles == 0
