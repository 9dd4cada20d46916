"""Disks that are full or read-only, files that are moved, replaced or closed to us, limits of the kernel."""

from __future__ import annotations

import contextlib
import os
import resource
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from otel_audit.archive.query import open_archive
from otel_audit.errors import IntegrityError
from tests.archive_material import provider_at
from tests.faults.checks import check
from tests.faults.frame import SLACK, Stage
from tests.faults.injection import Loop, small_tmpfs
from tests.faults.ledger import Crew, Ledger, Scribe
from tests.faults.writing import Work, for_ever, limited, opened, steadily

__all__ = ["few_handles", "full_disks", "moved_files", "read_only_disks", "removed_log_files"]

DEADLINE = 0.5
NOBODY = 65_534
POLICIES = ("raise", "block", "log")

Trouble = Callable[[Path, int], contextlib.AbstractContextManager[None]]
"""Given the archive and the writer's process: makes trouble, and ends it."""


def under(stage: Stage, path: Path, trouble: Trouble, reason: str, number: int) -> None:
    """Let a writer live through some trouble: it is told the reason in time, and goes on by itself afterwards.

    Args:
        stage: Where.
        path: The archive.
        trouble: What happens.
        reason: What the error must say; empty where nothing may be refused.
        number: Chooses the failure policy.
    """
    ledger, policy = Ledger(), POLICIES[number % len(POLICIES)]
    outcome = stage.outcome
    with Crew(ledger) as crew:
        work = steadily(path, block_timeout=DEADLINE, on_failure=policy)
        child = crew.start(_as_nobody(path, work) if trouble is _closed_to_all else work, f"{outcome.cycles}")
        outcome.demand(crew.hear(20), f"the writer did not begin: {ledger.refused[:1]}")
        with trouble(path, child):
            if reason:
                heard = crew.listen(20.0, until=lambda: "unacknowledged" in "".join(ledger.notes))
                outcome.demand(heard, f"{reason}: nothing was refused")
            crew.listen(0.05)
        outcome.demand(crew.hear(20), f"{reason or 'trouble'}: it did not go on: {ledger.refused[-1:]}")
    for seconds, error in ledger.refused:
        outcome.demand(seconds < DEADLINE + SLACK, f"{reason}: raised after {seconds} s")
        outcome.demand(reason and reason in error and "without a hint" not in error, f"{reason} expected: {error}")
    outcome.demand(policy != "log" or not ledger.refused, "policy log raised")
    stage.cycle()
    check(path, ledger, outcome, deliver=number % 8 == 0)


def full_disks(stage: Stage) -> None:
    """Fill the disk under a writer, and make room again: tmpfs, ext4, and a limit on the size of files."""
    with Loop(stage.folder, "ext4", 12) as disk:
        while stage.wants_more():
            number = stage.outcome.cycles
            match number % 3:
                case 0:
                    with small_tmpfs(stage.folder / f"small{number}", "1536k") as point:
                        under(stage, point / "audit.db", _filled, "full", number // 3)
                case 1:
                    folder = disk.point / f"{number}"
                    under(stage, folder / "audit.db", _filled, "full", number // 3)
                    shutil.rmtree(folder)
                case _:
                    under(stage, stage.archive(), _limited_files, "disk", number // 3)


@contextmanager
def _filled(path: Path, child: int) -> Iterator[None]:
    ballast = path.with_name("ballast")
    with ballast.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(4_096))
    try:
        yield
    finally:
        ballast.unlink()


@contextmanager
def _limited_files(path: Path, child: int) -> Iterator[None]:
    before = resource.prlimit(child, resource.RLIMIT_FSIZE, (16_384, resource.RLIM_INFINITY))
    try:
        yield
    finally:
        resource.prlimit(child, resource.RLIMIT_FSIZE, before)


def moved_files(stage: Stage) -> None:
    """Move or replace the archive under a writer, take everybody's access away, remove its log."""
    troubles: tuple[tuple[Trouble, str], ...] = (
        (_renamed, "removed or replaced"),
        (_replaced, "removed or replaced"),
        (_replaced_by_a_copy, "removed or replaced"),
        (_closed_to_all, "ermission"),
        (_without_log, ""),
        (_directory_renamed, "removed"),
    )
    while stage.wants_more():
        number = stage.outcome.cycles
        trouble, reason = troubles[number % len(troubles)]
        under(stage, stage.archive(), trouble, reason, number // len(troubles))


@contextmanager
def _renamed(path: Path, child: int) -> Iterator[None]:
    away = path.with_name("away.db")
    path.rename(away)
    try:
        yield
    finally:
        away.rename(path)


@contextmanager
def _replaced(path: Path, child: int) -> Iterator[None]:
    other = path.with_name("other.db")
    with provider_at(other) as provider:
        provider.get_logger("other").audit("server-started")
    with _exchanged(path, child, other):
        yield


@contextmanager
def _replaced_by_a_copy(path: Path, child: int) -> Iterator[None]:
    other = path.with_name("other.db")
    shutil.copy(path, other)
    with _exchanged(path, child, other):
        yield


@contextmanager
def _exchanged(path: Path, child: int, other: Path) -> Iterator[None]:
    """Put another file in the archive's place; it is not taken for the one that the log beside it belongs to."""
    before = other.read_bytes()
    with _renamed(path, child):
        other.rename(path)
        yield
        refused = ""
        try:
            provider_at(path).shutdown()
        except IntegrityError as error:
            refused = str(error)
        assert f"process {child} had it open" in refused, f"another file was opened: {refused}"
        assert path.read_bytes() == before, "another file was written to"


@contextmanager
def _directory_renamed(path: Path, child: int) -> Iterator[None]:
    away = path.parent.with_name(f"{path.parent.name}-away")
    path.parent.rename(away)
    try:
        yield
    finally:
        away.rename(path.parent)


def _as_nobody(path: Path, work: Work) -> Work:
    """Return work that is done by somebody whom permissions concern, which they do not root."""
    if os.geteuid() != 0:
        return work
    path.parent.mkdir(mode=0o700)
    os.chown(path.parent, NOBODY, NOBODY)
    for parent in path.parent.parents[:2]:
        parent.chmod(0o711)

    def unprivileged(scribe: Scribe) -> None:
        os.setgroups([])
        os.setgid(NOBODY)
        os.setuid(NOBODY)
        work(scribe)

    return unprivileged


@contextmanager
def _closed_to_all(path: Path, child: int) -> Iterator[None]:
    path.chmod(0)
    path.parent.chmod(0)
    try:
        yield
    finally:
        path.parent.chmod(0o700)
        path.chmod(0o600)


@contextmanager
def _without_log(path: Path, child: int) -> Iterator[None]:
    path.with_name(f"{path.name}-wal").unlink()
    yield


def removed_log_files(stage: Stage) -> None:
    """Remove the log, its index, or both under two writers, and start another: nothing is lost, and nothing refused."""
    stage.repeat(_remove_log_files)


def _remove_log_files(stage: Stage) -> None:
    suffixes = (("-shm",), ("-wal",), ("-wal", "-shm"))[stage.outcome.cycles % 3]
    path, ledger, outcome = stage.archive(), Ledger(), stage.outcome
    with Crew(ledger) as crew:
        for tag, work in (("steady", steadily(path)), ("busy", for_ever(path, stage.outcome.cycles // 3 % 4))):
            crew.start(work, f"{outcome.cycles}-{tag}")
            outcome.demand(crew.hear(20), f"the {tag} writer did not begin: {ledger.refused[:1]}")
        # Only those who write can save what is removed with the log: whoever reads may be the first to notice.
        crew.start(_reading(path), "reader")
        for number in range(3):
            for suffix in suffixes:
                path.with_name(f"{path.name}{suffix}").unlink(missing_ok=True)
            crew.listen(stage.chance.choice((0.0, 0.0, stage.chance.uniform(0.0, 0.1))))
            crew.start(steadily(path), f"{outcome.cycles}-{number}")
            outcome.demand(crew.hear(100), f"{suffixes}: they did not go on: {ledger.refused[-1:]}")
    outcome.demand(not ledger.refused, f"{suffixes}: {ledger.refused[:1]}")
    stage.cycle()
    check(path, ledger, outcome, deliver=outcome.cycles % 8 == 1)


def _reading(path: Path) -> Work:
    """Return the work of a process that looks at the archive until it is killed."""

    def work(scribe: Scribe) -> None:
        with open_archive(path) as archive:
            while True:
                next(iter(archive.query(limit=1)))
                time.sleep(0.001)

    return work


def read_only_disks(stage: Stage) -> None:
    """Make a file system read-only: remounted between two lives, and by an error of its own under a writer."""
    with Loop(stage.folder, "ext4") as disk:
        os.environ["OTEL_AUDIT_HIGH_WATER"] = str(disk.point / "high-water")
        stage.repeat(partial(_make_read_only, disk))


def _make_read_only(disk: Loop, stage: Stage) -> None:
    path, ledger = disk.point / f"{stage.outcome.cycles}" / "audit.db", Ledger()
    with Crew(ledger) as crew:
        child = crew.start(steadily(path, block_timeout=DEADLINE), f"{stage.outcome.cycles}")
        stage.outcome.demand(crew.hear(20), "the writer did not begin")
        if stage.outcome.cycles % 2:
            moment = disk.fail()
            refused = crew.listen(20.0, until=lambda: bool(ledger.refused))
            stage.outcome.demand(refused, "nothing was refused on a file system that failed")
            # ext4 lets an fsync succeed that is under way when it fails, and then has nothing on the disk.
            ledger.forget_since(moment)
        crew.kill(child)
        if not stage.outcome.cycles % 2:
            disk.remount("ro")
            crew.start(limited(path, 1), "refused")
            stage.outcome.demand(crew.finish() == [0], "the writer did not end by itself")
            errors = [each.error for each in ledger.refused]
            stage.outcome.demand(errors and "readonly" in errors[0], f"no reason on a read-only disk: {errors}")
    disk.unmount()
    disk.mount()
    stage.cycle()
    check(path, ledger, stage.outcome, deliver=stage.outcome.cycles % 8 == 1)


def few_handles(stage: Stage) -> None:
    """Leave a writer n file handles: it is told so, or records; a fork of one that ran out is told, too."""

    def fires(handles: int) -> bool:
        path, ledger = stage.archive(), Ledger()

        def work(scribe: Scribe) -> None:
            used = {int(name) for name in os.listdir("/proc/self/fd")}  # noqa: PTH208 - names alone
            free = [number for number in range(1_000) if number not in used]
            resource.setrlimit(resource.RLIMIT_NOFILE, (free[handles - 1], free[handles - 1]))
            if provider := opened(path, scribe, {}):
                log = provider.get_logger("handles")
                for number in range(5):
                    scribe.audit(log, number)
                provider.shutdown()

        with Crew(ledger) as crew:
            crew.start(work, f"{handles}")
            stage.outcome.demand(crew.finish() == [0], f"with {handles} handles the writer did not end properly")
        for _, error in ledger.refused:
            stage.outcome.demand("without a hint" not in error, error)
        check(path, ledger, stage.outcome, deliver=False)
        return bool(ledger.refused)

    stage.nth(fires)
