"""Ships the outbox to one destination: one process at a time, for ever, without ever holding up a caller."""

from __future__ import annotations

import logging
import os
import random
import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Final

from otel_audit import forksafe
from otel_audit.delivery.lease import Lease
from otel_audit.delivery.outbox import Entry, Outbox
from otel_audit.delivery.sender import Answer, Sender, Verdict
from otel_audit.errors import AuditError

__all__ = ["Shipper"]

_GATHER: Final = 0.25
"""Seconds that records may gather for a fuller request (they are on disk already), between looks for other processes'
records, and for a lease that became free."""
_FULL: Final = 512
"""Records that make a request full enough to be sent at once."""
_FIRST_WAIT: Final = 0.5
_LONGEST_WAIT: Final = 30.0

# Never a child of an application's logger: what is logged here must not come back as records to ship.
_log = logging.getLogger("otel_audit.delivery")

OnExport = Callable[[int, float], None]


class Shipper(forksafe.ForkAware):
    """A thread that sends what one destination has still to accept.

    Args:
        path: The archive.
        name: The destination's name, to which its cursor belongs, whatever its address.
        make_sender: Makes the sender, in the thread that sends.
        timeout: Seconds for one request.
        on_export: Called after each accepted request with the number of records and the seconds it took.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        name: str,
        make_sender: Callable[[], Sender],
        *,
        timeout: float = 10.0,
        on_export: OnExport = lambda _records, _seconds: None,
    ) -> None:
        self.name = name
        self.outbox = Outbox(path, name)
        self._path = Path(path).absolute()
        self._make_sender = make_sender
        self._timeout = timeout
        self.on_export = on_export
        self._lease = Lease(self._path, name)
        self._sender: Sender | None = None
        self._stopped = False
        self._reset()
        forksafe.register(self)

    def _reset(self) -> None:
        self._condition = threading.Condition()
        self._thread: threading.Thread | None = None
        self._segments: deque[list[Entry]] = deque()
        self._head = 0
        self._flushing = 0
        self._kicked = False
        self._gathering = False
        self._short = False
        self._failures = 0
        self._trouble = ""

    # -- for the application's threads --

    def start(self) -> None:
        """Start the thread, where it does not run yet; records of earlier processes are shipped at once."""
        with self._condition:
            if self._thread is None and not self._stopped:
                thread = threading.Thread(target=self._run, name=f"otel-audit-{self.name}", daemon=True)
                try:
                    thread.start()
                except RuntimeError as error:
                    # No threads left, or the interpreter ends: a later commit tries again.
                    _log.warning("audit records wait in the archive, no thread can be started: %s", error)
                    return
                self._thread = thread

    def notify(self, head: int) -> None:
        """Note that the archive ends at `head` now; never waits for the network or the disk."""
        self._head = head
        if self._thread is None:
            self.start()
        elif self._gathering and head - self.outbox.cursor >= _FULL:
            with self._condition:
                self._condition.notify_all()

    def flush(self, ranges: list[tuple[int, int]], timeout: float) -> bool:
        """Wait until the destination accepted all records in some ranges of sequences, whoever ships them.

        Args:
            ranges: Pairs of first and last sequence.
            timeout: Seconds to wait.

        Returns:
            Whether it did. False at once where one of them is a dead letter.
        """
        deadline = time.monotonic() + timeout
        self.start()
        with self._condition:
            self._flushing += 1
            self._kicked = True
            self._condition.notify_all()
        try:
            while True:
                outcome = self.outbox.outcome(ranges)
                if outcome is not None:
                    return outcome
                remaining = deadline - time.monotonic()
                if remaining <= 0:
                    return False
                with self._condition:
                    # Another process may hold the lease: then only looking tells.
                    self._condition.wait(min(remaining, 0.05))
        except AuditError as error:
            _log.warning("cannot tell whether %s has everything: %s", self.name, error)
            return False
        finally:
            with self._condition:
                self._flushing -= 1

    def hurry(self, seconds: float) -> None:
        """Send what waits without letting it gather, and wait some seconds or until a request was answered."""
        with self._condition:
            self._flushing += 1
            # A destination in trouble is tried by our own clock: who hurries does so many times a second.
            self._kicked = self._kicked or not self._failures
            self._condition.notify_all()
            self._condition.wait(seconds)
            self._flushing -= 1

    def stop(self, timeout: float) -> None:
        """Stop the thread, closing the connection under it, and give the lease back."""
        with self._condition:
            self._stopped = True
            self._condition.notify_all()
            thread = self._thread
        sender = self._sender
        if thread is not None:
            thread.join(timeout)
            if thread.is_alive() and sender is not None:
                sender.close()  # ends a request that waits
                thread.join(1.0)
        self._lease.release()
        self.outbox.close()

    # -- the thread --

    def _run(self) -> None:
        while not self._stopped:
            try:
                self._work()
            except AuditError as error:
                self._complain(f"cannot read or update the outbox: {error}")
                self._sleep(self._backoff())
            except Exception as error:  # noqa: BLE001 - the thread must live, and callers must hear of it
                if repr(error) != self._trouble:
                    _log.exception("the shipper of %s failed unexpectedly", self.name)
                self._complain(repr(error))
                self._sleep(self._backoff())
        if self._sender is not None:
            self._sender.close()

    def _work(self) -> None:
        if not self._holds_lease():
            self._sleep(_GATHER)
            return
        if self._sender is None:
            sender = self._make_sender()
            try:
                # Unregistered, it would have no cursor to move, and get the same records for ever.
                self.outbox.register(sender.endpoint)
            except BaseException:
                sender.close()
                raise
            self._sender = sender
        self.step()

    def _holds_lease(self) -> bool:
        try:
            return self._lease.acquire()
        except OSError as error:
            reason = f"cannot take the lease: {error}; give the file to the archive's owner"
            if reason != self._trouble:
                self.outbox.register(None)
                self.outbox.failed(reason, blocked=False)
            self._complain(reason)
            return False

    def step(self) -> None:
        """Send one request; where there is little to send, wait a moment first."""
        if not self._segments:
            if self._short:
                self._gather()
            entries = self.outbox.read()
            self._short = len(entries) < _FULL
            if not entries:
                return
            self._segments.append(entries)
        entries = self._segments[0]
        assert self._sender is not None  # noqa: S101 - made before the first step
        started = time.monotonic()
        answer = self._sender.send(self.outbox.request(entries), self._timeout)
        self._handle(entries, answer, time.monotonic() - started)

    def _gather(self) -> None:
        """Let records gather for a fuller request, unless there are enough or somebody waits for them."""
        deadline = time.monotonic() + _GATHER
        with self._condition:
            self._gathering = True  # before the look at the head, see `notify`
            while (
                self._head - self.outbox.cursor < _FULL
                and not self._kicked
                and not self._stopped
                and (remaining := deadline - time.monotonic()) > 0
            ):
                self._condition.wait(remaining)
            self._gathering = False
            # While somebody waits, go on without gathering.
            self._kicked = bool(self._flushing)

    def _handle(self, entries: list[Entry], answer: Answer, seconds: float) -> None:
        match answer.verdict:
            case Verdict.ACCEPTED:
                self.outbox.accepted(entries, answer.reason)
                self._settled(len(entries), seconds)
            case Verdict.PARTIAL:
                # The answer says how many were rejected, not which: keep them all, alarm, let an operator requeue.
                reason = f"partial success, {answer.rejected} of {len(entries)} rejected: {answer.reason}"
                self.outbox.refused(entries, reason)
                _log.error("%s set %d audit records aside as dead letters: %s", self.name, len(entries), reason)
                self._settled(max(0, len(entries) - answer.rejected), seconds)
            case Verdict.REFUSED | Verdict.TOO_LARGE if len(entries) > 1:
                self._segments.popleft()
                middle = len(entries) // 2
                self._segments.extendleft((entries[middle:], entries[:middle]))
            case Verdict.REFUSED | Verdict.TOO_LARGE:
                self.outbox.refused(entries, answer.reason)
                _log.error("%s refused audit record %d for good: %s", self.name, entries[0].sequence, answer.reason)
                self._settled(0, seconds)
            case Verdict.RETRY | Verdict.BLOCKED:
                self.outbox.failed(answer.reason, blocked=answer.verdict is Verdict.BLOCKED)
                self._complain(answer.reason)
                if len(self._segments) == 1:
                    # Read again, since more may have gathered. Halves stay: with every tenth request refused for its
                    # rate, bisecting would never come to an end.
                    self._segments.clear()
                self._wait_to_retry(answer.retry_after)

    def _settled(self, accepted: int, seconds: float) -> None:
        self._segments.popleft()
        if self._failures:
            _log.warning("%s accepts audit records again", self.name)
        self._failures = 0
        self._trouble = ""
        if accepted:
            self.on_export(accepted, seconds)
        with self._condition:
            self._condition.notify_all()

    def _complain(self, reason: str) -> None:
        self._failures += 1
        if reason != self._trouble:
            self._trouble = reason
            _log.warning("audit records wait in the archive, nothing reaches %s: %s", self.name, reason)

    def _backoff(self) -> float:
        longest = min(_LONGEST_WAIT, _FIRST_WAIT * 2 ** min(self._failures - 1, 16))
        return random.uniform(longest / 2, longest)  # noqa: S311 - no secret

    def _wait_to_retry(self, retry_after: float | None) -> None:
        if retry_after is not None:
            self._sleep(retry_after, kickable=False)
        else:
            self._sleep(self._backoff())

    def _sleep(self, seconds: float, *, kickable: bool = True) -> None:
        """Wait; a stop ends it, and so does a new call of `flush`, save where the destination asked us to wait."""
        deadline = time.monotonic() + seconds
        with self._condition:
            while not self._stopped and (remaining := deadline - time.monotonic()) > 0:
                if kickable and self._kicked:
                    break
                self._condition.wait(remaining)
            self._kicked = False

    # -- forks --

    def before_fork(self) -> None:
        """Let no lease be half taken; the outbox closes itself."""
        self._lease.before_fork()

    def after_fork_in_parent(self) -> None:
        """Nothing happened here."""
        self._lease.after_fork_in_parent()

    def after_fork_in_child(self) -> None:
        """Leave lease and connection to the parent; the first record starts a thread here."""
        self._lease.after_fork_in_child()
        self._sender = None
        self._reset()
