"""What no archive survives: lost logs, truncated files, flipped bits, older copies. It must be found and named."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from otel_audit.archive.report import Report, Root
from otel_audit.archive.verify import Noted, verify
from otel_audit.errors import AuditError, IntegrityError
from tests.archive_material import provider_at
from tests.faults.checks import check_receipts
from tests.faults.frame import Outcome, Stage
from tests.faults.ledger import Crew, Ledger
from tests.faults.writing import for_ever

__all__ = ["damage", "edits", "older_copies"]


def damage(stage: Stage) -> None:
    """Damage the files of an archive whose writer was killed; verify, restart, and verify again."""
    stage.outcome.detected = 0
    stage.repeat(_damage_one)


def _damage_one(stage: Stage) -> None:
    kinds: tuple[Callable[[Stage, Path], None], ...] = (_flip, _flip_log, _cut, _cut_log, _remove_log, _zero_page)
    path, ledger = stage.archive(), Ledger()
    with Crew(ledger) as crew:
        crew.start(for_ever(path), f"{stage.outcome.cycles}")
        crew.hear(60)
    stage.outcome.acknowledged += len(ledger.acknowledged)
    whole = path.parent.with_name("whole")
    shutil.copytree(path.parent, whole)
    known = _known(path)
    for _ in range(20):
        shutil.rmtree(path.parent)
        shutil.copytree(whole, path.parent)
        kind = stage.chance.choice(kinds)
        kind(stage, path)
        _judge(stage.outcome, path, known, ledger, kind.__name__.strip("_"))
        stage.cycle()
        if not stage.wants_more():
            break
    shutil.rmtree(whole)


def _known(path: Path) -> Root:
    """Note what the archive is before anything happens to it, as a collector or an auditor has it."""
    copy = path.parent.with_name("copy")
    shutil.copytree(path.parent, copy)
    report = verify(copy / path.name)
    shutil.rmtree(copy)
    return Root(report.last, report.root or b"")


def _judge(outcome: Outcome, path: Path, known: Root, ledger: Ledger, kind: str) -> None:
    before = _hash(path)
    found = _verified(path, known)
    outcome.demand(_hash(path) == before, f"{kind}: verify changed the file")
    if found is not None and found.intact:
        # A bit that nothing stands on, or in the part of the log that was written back already: all must be there.
        harmless = Outcome(name="", fault="")
        ledger.lost.clear()
        check_receipts(path, ledger, harmless)
        outcome.demand(not harmless.lost, f"{kind}: {harmless.lost} records gone, and verify finds nothing")
        return
    # Not `lost`: it was taken from outside, and is found.
    outcome.detected = (outcome.detected or 0) + 1
    with suppress(AuditError), provider_at(path, high_water=False) as provider:
        provider.get_logger("after").audit("server-started")
    again = _verified(path, known)
    outcome.demand(again is None or not again.intact, f"{kind}: after a restart nothing shows any more")


def _verified(path: Path, known: Root) -> Report | None:
    """Return the report; None where the archive cannot be opened, which says it as well."""
    try:
        return verify(path, noted=Noted([known]))
    except AuditError:
        return None


def _hash(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _log(path: Path) -> Path:
    return path.with_name(f"{path.name}-wal")


def _change(path: Path, place: int, content: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(place)
        file.write(content)


def _flip(stage: Stage, path: Path) -> None:
    place = stage.chance.randrange(path.stat().st_size)
    _change(path, place, bytes((path.read_bytes()[place] ^ 1 << stage.chance.randrange(8),)))


def _flip_log(stage: Stage, path: Path) -> None:
    _flip(stage, _log(path))


def _cut(stage: Stage, path: Path) -> None:
    with path.open("r+b") as file:
        file.truncate(stage.chance.randrange(path.stat().st_size))


def _cut_log(stage: Stage, path: Path) -> None:
    _cut(stage, _log(path))


def _remove_log(stage: Stage, path: Path) -> None:
    _log(path).unlink()


def _zero_page(stage: Stage, path: Path) -> None:
    _change(path, 8_192 * stage.chance.randrange(path.stat().st_size // 8_192), bytes(8_192))


def older_copies(stage: Stage) -> None:
    """Put an older copy in the place of an archive, between two lives and under a writer: refused, and named."""
    stage.outcome.detected = 0
    stage.repeat(_restore_one)


def _restore_one(stage: Stage) -> None:
    path = stage.archive()
    with provider_at(path) as provider:
        log = provider.get_logger("first")
        for _ in range(stage.chance.randrange(1, 20)):
            log.audit("user.login.success", user="alice")
    older = path.parent.with_name("older")
    shutil.copytree(path.parent, older)
    alive = stage.outcome.cycles % 2 == 1
    provider = provider_at(path)
    log = provider.get_logger("second")
    for _ in range(stage.chance.randrange(1, 20)):
        log.audit("user.login.success", user="alice")
    if not alive:
        provider.shutdown()
    known = _known(path)
    shutil.rmtree(path.parent)
    shutil.copytree(older, path.parent)
    shutil.rmtree(older)
    if not alive:
        provider = provider_at(path)
    refused = ""
    try:
        provider.get_logger("third").audit("user.login.success", user="alice")
    except IntegrityError as error:
        refused = str(error)
    report = _verified(path, known)
    named = report is not None and {fault.code for fault in report.faults} & {"truncated", "root"}
    stage.outcome.detected = (stage.outcome.detected or 0) + bool(refused and named)
    stage.outcome.demand(refused and named, f"an older copy was taken: {refused!r}, {named}")
    provider.shutdown()
    stage.cycle()


def edits(stage: Stage) -> None:
    """Change cells, rows, tables and whole files at random, with all hashes made anew by some: `tests.edits`."""
    from tests.edits import run

    made = run(stage.cycles, 1, stage.folder)
    stage.cycle(made.total())
    stage.outcome.detected = made.total()
