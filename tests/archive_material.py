"""What tests of archive and delivery share: providers, checks of a whole archive, children that are waited for."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import apsw

from otel_audit.archive.leaf import commitment, leaf_hash
from otel_audit.config import Config
from otel_audit.delivery.service import ship_once
from otel_audit.provider import AuditProvider
from otel_audit.record import Receipt
from otel_audit.testing import Collector

__all__ = [
    "assert_delivered",
    "assert_sound",
    "connect",
    "forked",
    "provider_at",
    "record",
    "record_ids",
    "run_python",
    "ship",
    "wait_until",
    "written",
]


def provider_at(path: Path, **settings: Any) -> AuditProvider:
    """Return a provider of host ``example.com`` without a destination, where `settings` name none."""
    return AuditProvider(archive=path, host="example.com", **settings)


def record(provider: AuditProvider, count: int = 1) -> list[Receipt]:
    """Record events of different users and return the receipts."""
    log = provider.get_logger("some")
    return [log.audit("user.login.success", user=f"user{number}") for number in range(count)]


def written(path: Path, count: int = 3) -> list[Receipt]:
    """Record events in a life of their own, and return the receipts."""
    with provider_at(path) as provider:
        return record(provider, count)


def connect(path: Path) -> apsw.Connection:
    """Return a plain connection, as any other program would have it."""
    connection = apsw.Connection(str(path))
    connection.set_busy_timeout(10_000)
    return connection


def record_ids(path: Path) -> list[str]:
    """Return the ids of all records as UUID text, in the order of their sequences."""
    texts = (row[0] for row in connect(path).execute("SELECT lower(hex(record_id)) FROM record ORDER BY sequence"))
    return [f"{t[:8]}-{t[8:12]}-{t[12:16]}-{t[16:20]}-{t[20:]}" for t in texts]


def assert_sound(path: Path, receipts: Iterable[Receipt] = (), *, records: int | None = None) -> None:
    """Check the file, that sequences have no gap, each leaf against its columns, and each receipt against its row."""
    connection = connect(path)
    assert connection.execute("PRAGMA integrity_check").get == "ok"
    digests: dict[Any, Any] = dict(connection.execute("SELECT id, digest FROM resource"))
    rows: dict[str, tuple[int, str]] = {}
    expected = 0
    row: Any
    for row in connection.execute(
        "SELECT sequence, kind, observed, host, type, record_id, resource, leaf, salt, otlp, commitment FROM record"
        " ORDER BY sequence"
    ):
        sequence, kind, observed, host, type_, identity, resource, leaf, salt, otlp, content = row
        expected += 1
        assert sequence == expected, f"{sequence} follows {expected - 1}"
        if content is None:
            content = commitment(salt, digests[resource], otlp)
        assert leaf_hash(kind, sequence, observed, identity, host, type_, content) == leaf, f"leaf of {sequence}"
        assert identity.hex() not in rows
        rows[identity.hex()] = (sequence, leaf.hex())
    assert records is None or expected == records
    for receipt in receipts:
        assert rows.get(receipt.record_id.replace("-", "")) == (receipt.sequence, receipt.integrity_hash)


def ship(path: Path, collector: Collector) -> bool:
    """Ship all that the archive holds, as ``otel-audit ship --once`` does."""
    return ship_once(Config.load(archive=path, endpoint=collector.endpoint)).complete


def assert_delivered(path: Path, collector: Collector) -> Counter[str | None]:
    """Check that the collector has exactly the archive's records; return how often each came."""
    came = Counter(collector.record_ids)
    assert sorted(map(str, came)) == sorted(record_ids(path))
    return came


def wait_until(condition: Callable[[], object], seconds: float = 20.0) -> None:
    """Wait for a condition; fail where it does not come true."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come true in time"
        time.sleep(0.01)


def forked(work: Callable[[], None]) -> int:
    """Do `work` in a forked child, which exits with 0 afterwards and with 1 where it raised; return its process id."""
    with warnings.catch_warnings():
        # Threads of this process are what such tests are about.
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child:
        return child
    code = 1
    try:
        # A child that hangs must not outlive the test by much.
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(60)
        work()
        code = 0
    except BaseException:  # noqa: BLE001 - the child ends here, whatever it was
        sys.excepthook(*sys.exc_info())
    finally:
        os._exit(code)


def run_python(program: str, *arguments: object, timeout: float = 60.0) -> str:
    """Run a program in an interpreter of its own and return what it wrote; fail with its errors where it fails."""
    command = [sys.executable, "-X", "faulthandler", "-c", textwrap.dedent(program), *map(str, arguments)]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=timeout, check=False, cwd=Path(__file__).parents[1]
    )
    assert done.returncode == 0, f"exit code {done.returncode}: {done.stderr[-4000:]}"
    return done.stdout
