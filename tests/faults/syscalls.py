"""Faults at the nth system call: killed before it, or told that it failed, once or from then on."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

from otel_audit.errors import AuditError
from tests.archive_material import provider_at
from tests.faults.checks import check
from tests.faults.frame import SLACK, Stage
from tests.faults.injection import traced
from tests.faults.ledger import Crew, Ledger, Scribe
from tests.faults.writing import Work

__all__ = ["failing_calls", "kill_at_calls"]

KILLED_AT = ("pwrite64", "fdatasync", "fsync", "ftruncate", "unlink", "pread64", "openat", "fcntl")
FAILING = {
    "pwrite64": ("EIO", "ENOSPC", "EDQUOT"),
    "fdatasync": ("EIO", "ENOSPC"),
    "fsync": ("EIO", "ENOSPC"),
    "ftruncate": ("EIO", "ENOSPC"),
    "fallocate": ("EIO", "ENOSPC"),
    "unlink": ("EIO",),
    "pread64": ("EIO",),
}
RECORDS = 8
DEADLINE = 0.3
POLICIES = ("raise", "block", "log")


def kill_at_calls(stage: Stage) -> None:
    """Kill a writer before its nth call of each kind, from the making of the archive to its closing."""
    for call in KILLED_AT:
        for existing in (False, True):

            def fires(n: int, call: str = call, existing: bool = existing) -> bool:
                path, ledger = stage.archive(), Ledger()
                if existing:
                    with provider_at(path) as provider:
                        provider.get_logger("before").audit("server-started")
                status, _ = _under_fault(path, ledger, f"{call}:signal=KILL:when={n}", {})
                if status == 0:
                    return False
                check(path, ledger, stage.outcome, deliver=n % 8 == 1)
                return True

            stage.nth(fires)


def failing_calls(stage: Stage) -> None:
    """Let the nth call of each kind fail, once and from then on, under each failure policy in turn."""
    for call, errors in FAILING.items():
        for error in errors:
            for when in ("{n}", "{n}+"):

                def fires(n: int, call: str = call, error: str = error, when: str = when) -> bool:
                    policy = POLICIES[n % 3]
                    path, ledger = stage.archive(), Ledger()
                    fault = f"{call}:error={error}:when={when.format(n=n)}"
                    status, fired = _under_fault(path, ledger, fault, {"on_failure": policy})
                    stage.outcome.demand(status == 0, f"{fault}: the application ended with {status}")
                    _judge(stage, ledger, fault, policy, once="+" not in fault)
                    check(path, ledger, stage.outcome, deliver=n % 16 == 1)
                    return fired

                stage.nth(fires)


def _under_fault(path: Path, ledger: Ledger, fault: str, settings: dict[str, Any]) -> tuple[int, bool]:
    """Run a writer under a fault; return its status, and whether a call was made to fail."""
    calls = path.parent.with_suffix(".calls")
    waiting, go = os.pipe()
    with Crew(ledger) as crew:
        child = crew.start(_careful(path, waiting, settings), "nth")
        with traced(child, fault, calls):
            os.write(go, b"x")
            (status,) = crew.finish(30.0)
    os.close(waiting)
    os.close(go)
    return status, "INJECTED" in calls.read_text(errors="replace")


def _careful(path: Path, waiting: int, settings: dict[str, Any]) -> Work:
    """Return the work of a writer that outlives what is refused, as an application does, and says what it saw."""

    def work(scribe: Scribe) -> None:
        logged = _Logged()
        logging.getLogger("otel_audit").addHandler(logged)
        os.read(waiting, 1)
        provider = None
        for _ in range(3):
            try:
                provider = provider_at(path, block_timeout=DEADLINE, **settings)
                break
            except AuditError as error:
                scribe.refused(0.0, error)
        if provider is None:
            return
        log = provider.get_logger("careful")
        let_go = RECORDS - sum(scribe.audit(log, number) for number in range(RECORDS))
        scribe.note(f"unacknowledged {let_go}")
        scribe.note(f"logged {logged.count}")
        provider.shutdown()

    return work


class _Logged(logging.Handler):
    """Counts the reports of records that were let go."""

    count = 0

    def emit(self, record: logging.LogRecord) -> None:
        self.count += "was not recorded" in record.getMessage()


def _noted(ledger: Ledger, what: str) -> int:
    return sum(int(note.split()[1]) for note in ledger.notes if note.startswith(what))


def _judge(stage: Stage, ledger: Ledger, fault: str, policy: str, *, once: bool) -> None:
    outcome = stage.outcome
    for seconds, error in ledger.refused:
        outcome.demand(seconds < DEADLINE + SLACK, f"{fault}: raised after {seconds} s")
        outcome.demand("(without a hint)" not in error, f"{fault}: {error}")
        outcome.demand(error.startswith("ArchiveError: "), f"{fault}: {error}")
        outcome.demand("no transaction is active" not in error, f"{fault}: not the reason: {error}")
    missing, logged = _noted(ledger, "unacknowledged"), _noted(ledger, "logged")
    if policy == "log":
        outcome.demand(logged == missing, f"{fault}: {missing} records were let go, {logged} reported")
    if once:
        # What fails once is over: policy `block` hides it, the others let one call go.
        most = 0 if policy == "block" else 1
        outcome.demand(missing <= most, f"{fault}: {missing} of {RECORDS} records refused for one failure ({policy})")
