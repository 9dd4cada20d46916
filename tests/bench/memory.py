"""The memory of a process with a long outbox: while its collector is down, and while it then takes everything."""

from __future__ import annotations

import select
import subprocess
import sys
import time
from pathlib import Path
from typing import Self

from otel_audit.provider import AuditProvider
from tests.bench.events import HOST, SOURCE, audit, events
from tests.bench.measure import Sizes, progress
from tests.bench.population import Population
from tests.bench.table import Goal, Row
from tests.rotel import Rotel

__all__ = ["memory"]

_RECORDS = 100
_IDLE_SECONDS = 3.0
_RETRY_SECONDS = 8.0
_LIMIT = 60.0


def memory(sizes: Sizes, folder: Path) -> list[Row]:
    """Measure the resident memory above that of a process whose records were all accepted."""
    progress(f"memory with {sizes.waiting:,} records waiting")
    path = folder / "waiting.db"
    Population(sizes.waiting).fill(path)
    with Rotel() as rotel, _Application(folder / "idle.db", rotel.http_endpoint) as application:
        application.deliver()
        idle = application.highest(_IDLE_SECONDS)
    rotel = Rotel()
    try:
        with _Application(path, rotel.http_endpoint) as application:
            retrying = application.highest(_RETRY_SECONDS)
            rotel.start()
            draining = application.deliver()
    finally:
        rotel.stop()
    note = f"An idle process, with {_RECORDS} records recorded and accepted, has {idle:.0f} MB."
    return [
        Row(
            figure=f"memory above idle, {sizes.waiting:,} records waiting on disk, collector down",
            unit="MB",
            ours=retrying - idle,
            goal=Goal(ours_at_most=_LIMIT),
            note=note,
        ),
        Row(
            figure="memory above idle while these are then delivered",
            unit="MB",
            ours=draining - idle,
            goal=Goal(ours_at_most=_LIMIT),
        ),
    ]


class _Application:
    """A process that has recorded a little and waits to be told to flush.

    Args:
        archive: Its archive.
        endpoint: Its collector.
    """

    def __init__(self, archive: Path, endpoint: str) -> None:
        command = [sys.executable, "-m", "tests.bench.memory", str(archive), endpoint]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def __enter__(self) -> Self:
        if self._answer() != "recorded":
            raise RuntimeError("the application could not record")
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()

    def _answer(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().decode().strip()

    def _resident(self) -> float:
        """Return its resident memory in MB."""
        status = Path(f"/proc/{self._process.pid}/status").read_text(encoding="ascii")
        return int(status.partition("VmRSS:")[2].split()[0]) * 1024 / 1e6

    def highest(self, seconds: float) -> float:
        """Return the most memory that it has within some seconds."""
        deadline = time.monotonic() + seconds
        highest = 0.0
        while time.monotonic() < deadline:
            highest = max(highest, self._resident())
            time.sleep(0.02)
        return highest

    def deliver(self) -> float:
        """Let it deliver everything, and return the most memory that it has meanwhile."""
        assert self._process.stdin is not None
        self._process.stdin.write(b"flush\n")
        self._process.stdin.flush()
        highest = 0.0
        began = time.monotonic()
        while not (state := self._state()):
            highest = max(highest, self._resident())
            time.sleep(0.02)
        progress(f"    delivered in {time.monotonic() - began:.0f} s")
        if state != "True":
            raise RuntimeError("the collector did not accept everything")
        return max(highest, self._resident())

    def _state(self) -> str:
        """Return its answer, empty while there is none."""
        assert self._process.stdout is not None
        ready, _, _ = select.select([self._process.stdout.fileno()], [], [], 0)
        return self._answer() if ready else ""


def _application(archive: str, endpoint: str) -> None:
    with AuditProvider(archive=archive, endpoint=endpoint, durability="queued") as provider:
        call = audit(provider.get_logger(SOURCE, HOST))
        for event in events(_RECORDS):
            call(event)
        provider.writer.flush(30.0)
        print("recorded", flush=True)
        sys.stdin.readline()
        print(provider.force_flush(300.0), flush=True)
        sys.stdin.readline()


if __name__ == "__main__":
    _application(*sys.argv[1:])
