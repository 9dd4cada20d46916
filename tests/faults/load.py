"""Load: as much as the machine sustains, for as long as is wanted, with readers and a verification beside it."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import Final, Self

from tests.archive_material import connect
from tests.children import kill, stop
from tests.faults.checks import check_archive, restart
from tests.faults.frame import Stage
from tests.faults.ledger import Crew, Ledger
from tests.faults.load_checks import Sample, Watch, check_calls, check_delivered, check_flat, check_shown
from tests.faults.loading import DRAIN, Gate, resident, serving, under_load

__all__ = ["PERIOD", "load"]

PERIOD: Final = 10.0
"""Seconds that count as one cycle."""
TAGS: Final = ("load-1", "load-2", "load-3", "load-4")
"""Of the writing processes."""
ROOM: Final = 40_000
"""Records that may wait for the collector before writers wait, too: above, the machine takes more than it sustains."""
TICK: Final = 0.25


class Beside:
    """The command line beside the writers: one ``show -f`` all the time, and one ``verify`` after the other.

    Args:
        path: The archive.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.shown = path.with_name("shown")
        self.followed = False
        self.verified: list[tuple[int, str]] = []
        self._report = path.with_name("report")
        self.show = self._start(self.shown, "show", "-f", "-n", "all", "-o", "jsonl", "--fields", "sequence")
        self.verify = self._start(self._report, "verify")

    def __enter__(self) -> Self:
        """Return it."""
        return self

    def __exit__(self, *_: object) -> None:
        """End both."""
        for process in (self.show, self.verify):
            kill(process)

    def _start(self, output: Path, *arguments: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "otel_audit", "--archive", str(self._path), *arguments]
        with output.open("wb") as file:
            return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT)

    def look(self, again: bool) -> None:
        """Note the end of a verification, and begin another where it is wanted."""
        if (status := self.verify.poll()) is None:
            return
        self.verified.append((status, self._report.read_text(encoding="utf-8", errors="replace")))
        if again:
            self.verify = self._start(self._report, "verify")

    def finish(self, last: int) -> None:
        """Wait until the last record is shown and the last verification ended, then end ``show -f``."""
        deadline = time.monotonic() + DRAIN
        while time.monotonic() < deadline and self.show.poll() is None and _last(self.shown) < last:
            time.sleep(TICK)
        self.followed = self.show.poll() is None
        # Not by SIGINT, which whoever was started in the background of a shell ignores.
        stop(self.show, 10.0)
        self.verify.wait(DRAIN)
        self.look(again=False)


def _last(shown: Path) -> int:
    """Return the last sequence that was shown; 0 where there is none."""
    with shown.open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - 100))
        lines = file.read().splitlines()
    return int(lines[-1].strip(b'{}"sequenc: ') or 0) if lines and lines[-1].endswith(b"}") else 0


def load(stage: Stage) -> None:
    """Record from four processes, as fast as the collector is kept up with, and look at what grows."""
    path, ledger, outcome = stage.archive(), Ledger(), stage.outcome
    # Whoever looks at it beside the writers must find an archive.
    restart(path, outcome)
    received, gate = path.with_name("received"), Gate()
    seconds = stage.cycles * PERIOD
    with Crew(ledger) as crew:
        collector = crew.start(serving(received, stage.chance.randrange(2**32)), "collector")
        crew.listen(20.0, until=lambda: bool(ledger.notes))
        endpoint = f"http://127.0.0.1:{ledger.notes.pop().removeprefix('port ')}"
        writers = [crew.start(under_load(path, endpoint, gate, seconds), tag) for tag in TAGS]
        with Beside(path) as beside:
            watch = _watch(stage, crew, gate, beside, writers)
            # Each says so, or that it did not come to that.
            crew.listen(DRAIN, until=lambda: sum("delivered" in note for note in ledger.notes) == len(TAGS))
            watch.samples.append(_sample(path, writers, beside))
            for writer in writers:
                outcome.demand(crew.reap(writer) == 0, "a writer did not end properly")
            beside.finish(_head(path))
        crew.kill(collector)
    _judge(stage, path, ledger, beside, watch)


def _watch(stage: Stage, crew: Crew, gate: Gate, beside: Beside, writers: list[int]) -> Watch:
    """Take samples until the time is over, and let writers wait while too much is undelivered."""
    watch = Watch(time.monotonic())
    path, notes = beside.shown.with_name("audit.db"), crew.ledger.notes
    while (passed := time.monotonic() - watch.began) < stage.cycles * PERIOD:
        crew.listen(TICK)
        beside.look(again=True)
        watch.samples.append(_sample(path, writers, beside))
        waiting = watch.samples[-1].backlog
        if waiting > ROOM or waiting < ROOM / 2:
            gate.open(waiting < ROOM / 2)
        stage.cycle(int(passed // PERIOD) - stage.outcome.cycles)
    gate.end()
    crew.listen(60.0, until=lambda: notes.count("recorded") == len(TAGS))
    watch.ended = time.monotonic()
    stage.cycle(stage.cycles - stage.outcome.cycles)
    return watch


def _sample(path: Path, writers: list[int], beside: Beside) -> Sample:
    log = path.with_name(f"{path.name}-wal")
    return Sample(
        writers=max(map(resident, writers)),
        show=resident(beside.show.pid),
        verify=resident(beside.verify.pid),
        log=log.stat().st_size if log.exists() else 0,
        backlog=_backlog(path),
    )


def _head(path: Path) -> int:
    with closing(connect(path)) as connection:
        return int(connection.execute("SELECT max(sequence) FROM record").get or 0)


def _backlog(path: Path) -> int:
    with closing(connect(path)) as connection:
        head = "SELECT coalesce(max(sequence), 0) FROM record"
        return int(connection.execute(f"SELECT ({head}) - coalesce((SELECT min(cursor) FROM destination), 0)").get)


def _judge(stage: Stage, path: Path, ledger: Ledger, beside: Beside, watch: Watch) -> None:
    """Check what was recorded, delivered, shown and verified, and note the figures."""
    outcome = stage.outcome
    outcome.refused += len(ledger.refused)
    outcome.demand(not ledger.refused, f"refused under load: {ledger.refused[:1]}")
    outcome.demand(not ledger.broken, f"processes ended with an unexpected error: {ledger.broken[:3]}")
    check_calls(path, TAGS, watch, outcome)
    check_flat(watch, outcome)
    check_delivered(path, path.with_name("received"), outcome)
    failed, answered = ledger.notes.count("failed"), ledger.notes.count("answered")
    outcome.figures.append(f"the collector failed {failed:,} of {failed + answered:,} requests")
    outcome.demand(failed, "the collector failed at no request")
    outcome.demand(beside.followed, f"`show -f` ended with {beside.show.returncode}")
    check_shown(path, beside.shown, outcome)
    bad = [report for status, report in beside.verified if status]
    outcome.figures.append(f"{len(beside.verified):,} runs of `verify` beside the writers, {len(bad)} found a fault")
    outcome.demand(beside.verified and not bad, f"verify beside the writers: {bad[:1]}")
    check_archive(path, outcome)
