"""Power cuts at each single write and sync, with torn and reordered writes: the disk's possible states, each opened."""

from __future__ import annotations

import logging
import os
import pickle
import random
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from pathlib import Path

import apsw

from otel_audit.archive.verify import verify_connection
from otel_audit.delivery.outbox import Outbox
from otel_audit.errors import AuditError
from tests.archive_material import connect, forked, provider_at
from tests.faults.checks import compare, restart
from tests.faults.frame import Outcome, Stage
from tests.faults.ledger import Acknowledged, Ledger, Scribe
from tests.faults.recorded_disk import Disk, Event, RecordingVfs

__all__ = ["crash_states"]

LIVES = 3
RECORDS_A_LIFE = 12
VARIANTS = 3


def crash_states(stage: Stage, *, failing_syncs: bool = False, lax_cursor: bool = False) -> None:
    """Record on a disk that remembers, then open what a power cut may have left after each of its events.

    Args:
        stage: Where.
        failing_syncs: Whether some syncs fail, too, and what they were for may never reach the disk.
        lax_cursor: Whether the cursor's commits do not wait for fsync: a fault that the harness builds in. It takes a
            failing sync right behind such a commit, so it ends with the first session that lost something.
    """
    session = 0
    with tempfile.TemporaryDirectory(dir=_memory(stage.folder)) as folder:
        while stage.wants_more() and not (lax_cursor and stage.outcome.lost):
            session += 1
            events = _recorded(stage.archive(), session, 0.15 if failing_syncs else 0.0, lax_cursor)
            told: list[Acknowledged] = []
            disk = Disk(stage.chance)
            for event in events:
                if event[0] == "told":
                    told.append(event[1])
                    stage.outcome.acknowledged += 1
                    continue
                disk.play(event)
                for _ in range(VARIANTS if stage.wants_more() else 0):
                    _open_state(stage, Path(folder), disk.after_power_cut(), told)
                    stage.cycle()


def _memory(folder: Path) -> Path:
    """Return a directory for the images, which need not outlast anything."""
    memory = Path("/dev/shm")
    return memory if os.access(memory, os.W_OK) else folder


def _recorded(path: Path, seed: int, failing: float, lax_cursor: bool) -> list[Event]:
    """Record in a process of its own, over several lives of the application; return what reached the disk, and when."""
    result = path.with_suffix(".events")
    path.parent.mkdir(mode=0o700, parents=True)
    child = forked(partial(_session, path, result, seed, failing, lax_cursor))
    if os.waitpid(child, 0)[1] != 0:
        raise RuntimeError("the session that is to be cut short failed by itself")
    events: list[Event] = pickle.loads(result.read_bytes())
    return events


def _session(path: Path, result: Path, seed: int, failing: float, lax_cursor: bool) -> None:
    logging.getLogger("otel_audit").addHandler(logging.NullHandler())
    logging.getLogger("otel_audit").propagate = False
    events: list[Event] = []
    chance = random.Random(seed)
    calm = [True]
    vfs = RecordingVfs(events, lambda _name: not calm[0] and chance.random() < failing)
    reading, writing = os.pipe()
    ledger = Ledger()
    scribe = Scribe(writing, f"state-{seed}")
    for life in range(LIVES):
        calm[0] = True
        with provider_at(path, high_water=False) as provider:
            outbox = Outbox(path, "otlp")
            outbox.register("http://127.0.0.1:4318")
            for database, pages in ((provider.writer._database, chance.choice((6, 40))), (outbox._database, 0)):
                with database as connection:
                    # So that it is written back, and the log begun anew, several times in a session.
                    connection.wal_autocheckpoint(pages)
            if lax_cursor:
                with outbox._database as connection:
                    connection.execute("PRAGMA synchronous=NORMAL")
            calm[0] = False
            log = provider.get_logger("states")
            for number in range(RECORDS_A_LIFE):
                if scribe.audit(log, life * RECORDS_A_LIFE + number):
                    ledger.read(os.read(reading, 65_536).decode().strip())
                    events.append(("told", ledger.acknowledged[-1]))
                else:
                    os.read(reading, 65_536)
                if chance.random() < 0.6:
                    _deliver(outbox)
            calm[0] = True
            outbox.close()
    result.write_bytes(pickle.dumps(events))
    del vfs


def _deliver(outbox: Outbox) -> None:
    """Move the cursor, as a shipper does."""
    try:
        if entries := outbox.read(4):
            outbox.accepted(entries)
    except AuditError:
        pass  # a shipper tries again


def _open_state(stage: Stage, folder: Path, files: dict[str, bytes], told: list[Acknowledged]) -> None:
    """Open one state, as a restarted application would, and compare it with the receipts."""
    outcome, place = stage.outcome, folder / "state"
    place.mkdir(mode=0o700)
    for name, content in files.items():
        (place / name).write_bytes(content)
    path = place / "audit.db"
    try:
        if not told or stage.chance.random() < 0.05:
            # Before the first receipt there may be no archive yet; it must be possible to begin one.
            # Without the mark of how far the archive had come here: the states of one session are not in order.
            restart(path, outcome, high_water=False)
        if told:
            _compare(path, told, outcome)
    except apsw.Error as error:
        outcome.lost += len(told)
        outcome.blame(f"a state cannot be read: {error}")
    finally:
        shutil.rmtree(place)


def _compare(path: Path, told: list[Acknowledged], outcome: Outcome) -> None:
    with closing(connect(path)) as connection:
        rows = dict(_rows(connection))
        lost = sum(not compare(rows.get(receipt.sequence), receipt) for receipt in told)
        outcome.lost += lost
        report = verify_connection(connection, str(path))
        outcome.demand(report.intact, f"verify: {[fault.code for fault in report.faults[:3]]}")
        outcome.demand(report.valid == report.last, f"{report.valid} records, but the last sequence is {report.last}")


def _rows(connection: apsw.Connection) -> Iterator[tuple[int, tuple[int, bytes, str, bytes]]]:
    for sequence, leaf, user, otlp in connection.execute("SELECT sequence, leaf, user, otlp FROM record"):
        yield int(str(sequence)), (int(str(sequence)), leaf, user, otlp)
