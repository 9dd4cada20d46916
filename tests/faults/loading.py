"""The processes of a load: writers that note each receipt in files of their own, and a collector that often fails."""

from __future__ import annotations

import mmap
import signal
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import Any, Final, NamedTuple

from otel_audit.attributes import RECORD_ID, SEQUENCE_NUMBER
from otel_audit.errors import AuditError
from otel_audit.provider import AuditProvider
from otel_audit.testing import Reply
from otel_audit.testing.http_server import HttpServer
from otel_audit.testing.records import Call
from tests.archive_material import provider_at
from tests.faults.ledger import Acknowledged, Scribe, text_of
from tests.faults.writing import Work

__all__ = [
    "DRAIN",
    "FAILURES",
    "THREADS",
    "Gate",
    "Told",
    "read_received",
    "read_told",
    "resident",
    "serving",
    "told_files",
    "under_load",
]

THREADS: Final = 4
"""Threads of a writer."""
FAILURES: Final = 0.2
"""Share of requests that the collector fails."""
DRAIN: Final = 600.0
"""Seconds within which what is left must be delivered, once nobody records any more."""
_ANSWERS: Final = (Reply(status=503), Reply(drop="before"), Reply(drop="after"), Reply(lose_answer=True))
_TOLD: Final = struct.Struct("<QQQI16s32s")
_RECEIVED: Final = struct.Struct("<Q16s")
_BLOCK: Final = 16_384


class Told(NamedTuple):
    """What a call returned.

    Args:
        sequence: The record's position.
        receipt: The receipt.
        microseconds: How long the call took.
    """

    sequence: int
    receipt: Acknowledged
    microseconds: int


class Gate:
    """Lets writers record, or not, from another process; made before they are forked."""

    _OPEN, _CLOSED, _OVER = 0, 1, 2

    def __init__(self) -> None:
        self._state = mmap.mmap(-1, 1)

    def open(self, open_: bool) -> None:
        """Let them record, or wait."""
        self._state[0] = self._OPEN if open_ else self._CLOSED

    def end(self) -> None:
        """Let them finish."""
        self._state[0] = self._OVER

    def passes(self) -> bool:
        """Wait while it is closed; return whether to go on."""
        while self._state[0] == self._CLOSED:
            time.sleep(0.002)
        return self._state[0] != self._OVER


def told_files(folder: Path, tag: str) -> list[Path]:
    """Return the files of a writer, one for each thread: sequences grow within each."""
    return [folder / f"{tag}.{thread}.told" for thread in range(THREADS)]


def under_load(path: Path, endpoint: str, gate: Gate, seconds: float) -> Work:
    """Return the work of a writer that records as fast as it can, until the gate ends it, and delivers what is left.

    Args:
        path: The archive.
        endpoint: The collector.
        gate: Whether to record.
        seconds: How long the load lasts; a writer that hangs is ended some minutes later.
    """

    def work(scribe: Scribe) -> None:
        signal.alarm(int(seconds + 2 * DRAIN))
        provider = provider_at(path, endpoint=endpoint)
        threads = [
            threading.Thread(target=_record, args=(provider, scribe, gate, thread, file))
            for thread, file in enumerate(told_files(path.parent, scribe.tag))
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        scribe.note("recorded")
        scribe.note("delivered" if provider.force_flush(DRAIN) else "not delivered")
        provider.shutdown()

    return work


def _record(provider: AuditProvider, scribe: Scribe, gate: Gate, first: int, file: Path) -> None:
    log, number = provider.get_logger(f"thread-{first}"), first
    with file.open("wb") as told:
        while gate.passes():
            user = scribe.user(number)
            began = time.perf_counter_ns()
            try:
                receipt = log.audit("user.login.success", user=user, custom={"fault": {"text": text_of(user)}})
            except AuditError as error:
                scribe.refused((time.perf_counter_ns() - began) / 1e9, error)
                continue
            taken = (time.perf_counter_ns() - began) // 1_000
            identity = bytes.fromhex(receipt.record_id.replace("-", ""))
            leaf = bytes.fromhex(receipt.integrity_hash or "")
            told.write(_TOLD.pack(receipt.sequence or 0, number, time.monotonic_ns(), taken, identity, leaf))
            number += THREADS


def read_told(file: Path, tag: str) -> Iterator[Told]:
    """Yield what a thread of a writer noted, in the order of its calls."""
    for sequence, number, moment, taken, identity, leaf in _lines(file, _TOLD):
        yield Told(sequence, Acknowledged(identity.hex(), sequence, leaf.hex(), f"{tag}-{number}", moment), taken)


def read_received(file: Path) -> Iterator[tuple[int, bytes]]:
    """Yield sequence and id of each record that the collector took, repetitions included."""
    yield from _lines(file, _RECEIVED)


def _lines(file: Path, line: struct.Struct) -> Iterator[tuple[Any, ...]]:
    with file.open("rb") as lines:
        while block := lines.read(line.size * _BLOCK):
            # What was cut off by the end of a process says nothing.
            yield from line.iter_unpack(block[: len(block) // line.size * line.size])


def serving(received: Path, seed: int) -> Work:
    """Return the work of a collector that fails a fifth of all requests, and notes the records that it takes.

    Args:
        received: The file of notes; in memory they would grow with each record.
        seed: Of its random numbers.
    """

    def work(scribe: Scribe) -> None:
        signal.alarm(0)
        chance = Random(seed)

        def reply() -> Reply:
            failed = chance.random() < FAILURES
            scribe.note("failed" if failed else "answered")
            return chance.choice(_ANSWERS) if failed else Reply()

        with received.open("wb", buffering=0) as file:
            server = HttpServer(0, None, reply, _keeping(file.write))
            scribe.note(f"port {server.port}")
            threading.Event().wait()

    return work


def _keeping(write: Callable[[bytes], object]) -> Callable[[Call], None]:
    def keep(call: Call) -> None:
        if not call.kept:
            return
        lines = []
        for resource in call.message().resource_logs:
            for scope in resource.scope_logs:
                for record in scope.log_records:
                    found = {each.key: each.value for each in record.attributes if each.key in _WANTED}
                    identity = bytes.fromhex(found[RECORD_ID].string_value.replace("-", ""))
                    lines.append(_RECEIVED.pack(found[SEQUENCE_NUMBER].int_value, identity))
        write(b"".join(lines))

    return keep


_WANTED: Final = frozenset({RECORD_ID, SEQUENCE_NUMBER})


def resident(process: int) -> float:
    """Return the memory of a process in MB; 0 where it is gone."""
    with suppress(OSError, IndexError):
        status = Path(f"/proc/{process}/status").read_text(encoding="ascii")
        return int(status.partition("VmRSS:")[2].split()[0]) * 1024 / 1e6
    return 0.0
