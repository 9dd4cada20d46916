"""What tests of retention share: records as if made some days ago, and a pruner with rules."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from otel_audit.archive.administration import Administration, Own
from otel_audit.archive.leaf import ADMINISTRATION
from otel_audit.archive.query import open_archive
from otel_audit.archive.retention import Outcome, Pruner
from otel_audit.retention_settings import Retention, resolve_retention
from tests.archive_material import connect, provider_at

__all__ = ["DAY", "days_ago", "left", "prune", "pruning", "read", "record", "rules", "told", "tombstones"]

DAY = 86_400 * 10**9


@contextmanager
def days_ago(days: float) -> Iterator[None]:
    """Let records be made as if it were some days ago."""
    now = time.time_ns
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("otel_audit.build._time", SimpleNamespace(time_ns=lambda: now() - int(days * DAY)))
        yield


def record(path: Path, days: float, *events: dict[str, Any], times: int = 1) -> None:
    """Record events some days ago; each is what ``audit()`` takes, with its ``type``."""
    with days_ago(days), provider_at(path) as provider:
        log = provider.get_logger("tests")
        for _ in range(times):
            for event in events:
                given = dict(event)
                log.bind(host=given.pop("host", "example.com")).audit(given.pop("type", "user.login.success"), **given)


def read(path: Path, days: float, times: int = 1) -> None:
    """Append records of reads, as if made some days ago."""
    with days_ago(days), Administration(path, b"", b"") as administration:
        own = Own(ADMINISTRATION, "audit.read", {"read": {"command": "show"}})
        administration.append(lambda _connection, _tree: [own] * times)


def rules(ages: dict[str, str]) -> Retention:
    """Return rules."""
    return resolve_retention(ages, (), {})


@contextmanager
def pruning(path: Path, retention: Retention, **settings: Any) -> Iterator[Pruner]:
    """Yield a pruner that gives all space back."""
    with Administration(path, b"", b"") as administration:
        yield Pruner(administration, retention, **{"spare": 0.0, **settings})


def prune(path: Path, retention: Retention, **settings: Any) -> Outcome:
    """Prune once."""
    with pruning(path, retention, **settings) as pruner:
        return pruner.prune()


def left(path: Path, **criteria: Any) -> list[str]:
    """Return the types of the events that still have content, in order."""
    with open_archive(path) as archive:
        return [event.type for event in archive.query(oldest_first=True, **criteria)]


def told(path: Path) -> list[dict[str, Any]]:
    """Return what the records of prunings say."""
    with open_archive(path) as archive:
        own = archive.query(admin=True, types=["audit.records.pruned"], oldest_first=True)
        return [dict(one.custom or {}) for one in own]


def tombstones(path: Path) -> list[int]:
    """Return the sequences of all tombstones."""
    rows = connect(path).execute("SELECT sequence FROM record WHERE commitment IS NOT NULL ORDER BY 1")
    return [int(str(row[0])) for row in rows]
