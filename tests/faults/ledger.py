"""Writers, and what they were told: each reports its receipts through a pipe to a process that no fault reaches."""

from __future__ import annotations

import hashlib
import logging
import os
import selectors
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from typing import NamedTuple, Self

from otel_audit.errors import AuditError
from otel_audit.logger import AuditLogger
from otel_audit.record import Receipt
from tests.archive_material import forked

__all__ = ["Acknowledged", "Crew", "Ledger", "Refused", "Scribe", "text_of"]


class Acknowledged(NamedTuple):
    """A receipt that a writer reported; sequence 0 where it had only the record's id.

    Args:
        record_id: The record.
        sequence: Its position.
        leaf: Its leaf hash.
        user: Whom the record is about, different for every record.
        moment: When the writer had it, by the monotonic clock.
    """

    record_id: str
    sequence: int
    leaf: str
    user: str
    moment: int


class Refused(NamedTuple):
    """A call that raised.

    Args:
        seconds: How long it took.
        error: What it raised, in words.
    """

    seconds: float
    error: str


def text_of(user: str) -> str:
    """Return what the record about a user says: known to both sides, of very different lengths."""
    digest = hashlib.sha256(user.encode()).hexdigest()
    # Long ones, now and then, let the write-ahead log be written back and begun anew.
    return digest * (200 if digest.startswith("00") else 1 + int(digest[0], 16))


class Ledger:
    """What writers reported."""

    def __init__(self) -> None:
        self.acknowledged: list[Acknowledged] = []
        self.refused: list[Refused] = []
        self.lost: set[str] = set()
        self.broken: list[int] = []
        self.notes: list[str] = []

    def read(self, line: str) -> None:
        """Take one line of a report."""
        kind, _, rest = line.partition(" ")
        match kind:
            case "+":
                record_id, sequence, leaf, user, moment = rest.split(" ")
                self.acknowledged.append(Acknowledged(record_id, int(sequence), leaf, user, int(moment)))
            case "-":
                seconds, _, error = rest.partition(" ")
                self.refused.append(Refused(float(seconds), error))
            case _:
                self.notes.append(rest)

    def miss(self, told: Acknowledged) -> int:
        """Note that a record is lost; return 1, or 0 where that was noted before."""
        known = len(self.lost)
        self.lost.add(told.record_id)
        return len(self.lost) - known

    def forget_since(self, moment: int) -> None:
        """Forget receipts that no writer can have had at a moment of the monotonic clock."""
        self.acknowledged = [told for told in self.acknowledged if told.moment < moment]


class Scribe:
    """A writer's end of the pipe.

    Args:
        pipe: Each report is one write to it, which is atomic.
        tag: Tells this writer's records from all others'.
    """

    def __init__(self, pipe: int, tag: str) -> None:
        self._pipe = pipe
        self.tag = tag

    def user(self, number: int) -> str:
        """Return the user of the nth record."""
        return f"{self.tag}-{number}"

    def audit(self, log: AuditLogger, number: int) -> bool:
        """Record the nth event, and report the receipt, or the error; return whether there is a receipt."""
        user = self.user(number)
        began = time.monotonic()
        try:
            receipt = log.audit("user.login.success", user=user, custom={"fault": {"text": text_of(user)}})
        except AuditError as error:
            self.refused(time.monotonic() - began, error)
            return False
        if receipt.sequence:
            self.receipt(receipt, user)
        return bool(receipt.sequence)

    async def aaudit(self, log: AuditLogger, number: int) -> bool:
        """Record the nth event like `audit`, from a task."""
        user = self.user(number)
        began = time.monotonic()
        try:
            receipt = await log.aaudit("user.login.success", user=user, custom={"fault": {"text": text_of(user)}})
        except AuditError as error:
            self.refused(time.monotonic() - began, error)
            return False
        self.receipt(receipt, user)
        return True

    def receipt(self, receipt: Receipt, user: str) -> None:
        """Report a receipt."""
        moment = time.monotonic_ns()
        self._report(f"+ {receipt.record_id} {receipt.sequence or 0} {receipt.integrity_hash or '-'} {user} {moment}")

    def refused(self, seconds: float, error: AuditError) -> None:
        """Report a call that raised."""
        hint = "" if error.hint else " (without a hint)"
        self._report(f"- {seconds:.3f} {type(error).__name__}: {error}{hint}")

    def note(self, text: str) -> None:
        """Report anything else."""
        self._report(f"= {text}")

    def _report(self, line: str) -> None:
        # More than 4,096 bytes would not be atomic.
        os.write(self._pipe, line.replace("\n", " ").encode()[:4_000] + b"\n")


class Crew:
    """Forked writers of one archive, and the ledger of what they reported; those that still run in the end are killed.

    Args:
        ledger: Where the reports go.
    """

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        self._selector = selectors.DefaultSelector()
        self._rest: dict[int, bytes] = {}
        self.running: list[int] = []

    def __enter__(self) -> Self:
        """Return the crew."""
        return self

    def __exit__(self, *_: object) -> None:
        """Kill whoever still runs, and read what is left in the pipes."""
        self.kill()
        self._selector.close()

    def start(self, work: Callable[[Scribe], None], tag: str) -> int:
        """Fork a writer and return its process id."""
        reading, writing = os.pipe()

        def report() -> None:
            # What the library logs of injected faults is not for the terminal.
            logging.getLogger("otel_audit").addHandler(logging.NullHandler())
            logging.getLogger("otel_audit").propagate = False
            # Outages take longer than what a test's child is granted; whoever hangs is killed in `finish`.
            signal.alarm(600)
            work(Scribe(writing, tag))

        child = forked(report)
        os.close(writing)
        self._selector.register(reading, selectors.EVENT_READ)
        self._rest[reading] = b""
        self.running.append(child)
        return child

    def listen(self, seconds: float, until: Callable[[], bool] = lambda: False) -> bool:
        """Read reports for some time, or until something is so, or all writers are gone; return whether it is so."""
        deadline = time.monotonic() + seconds
        while self._rest and not until():
            left = deadline - time.monotonic()
            if left <= 0:
                break
            for key, _ in self._selector.select(min(left, 0.05)):
                self._take(key.fd)
        return until()

    def hear(self, more: int, seconds: float = 20.0) -> bool:
        """Read reports until there are so many further receipts; return whether they came in time."""
        enough = len(self.ledger.acknowledged) + more
        return self.listen(seconds, until=lambda: len(self.ledger.acknowledged) >= enough)

    def _take(self, pipe: int) -> None:
        data = os.read(pipe, 65_536)
        if not data:
            self._selector.unregister(pipe)
            os.close(pipe)
            del self._rest[pipe]
            return
        *lines, self._rest[pipe] = (self._rest[pipe] + data).split(b"\n")
        for line in lines:
            self.ledger.read(line.decode())

    def kill(self, *children: int) -> None:
        """Kill writers, all where none is named, and read what they reported before."""
        for child in children or tuple(self.running):
            with suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
            self.reap(child)
        if not self.running:
            self.listen(20.0)

    def reap(self, child: int) -> int:
        """Wait for the end of a writer and return its status as `os.waitpid` tells it."""
        return self._ended(child, os.waitpid(child, 0)[1])

    def _ended(self, child: int, status: int) -> int:
        self.running.remove(child)
        if status not in {0, signal.SIGKILL}:
            # Not what an application may meet: `AuditError` is caught.
            self.ledger.broken.append(status)
        return status

    def finish(self, seconds: float = 60.0) -> list[int]:
        """Listen until all writers end by themselves; return their statuses; kill and count as 9 those that hang."""
        self.listen(seconds)
        deadline = time.monotonic() + 5.0
        statuses = []
        for child in tuple(self.running):
            done = status = 0
            while not done and time.monotonic() < deadline:
                done, status = os.waitpid(child, os.WNOHANG)
                if not done:
                    time.sleep(0.005)
            if done:
                statuses.append(self._ended(child, status))
            else:
                os.kill(child, signal.SIGKILL)
                statuses.append(self.reap(child))
        return statuses
