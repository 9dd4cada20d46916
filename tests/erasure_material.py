"""Archives of which records are erased, and what the tests of that share."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from otel_audit import Actor
from otel_audit.archive.administration import Administration, Own
from otel_audit.archive.erasure import Order, Plan, erase, plan
from otel_audit.archive.leaf import ADMINISTRATION
from otel_audit.archive.query import open_archive
from otel_audit.archive.subjects import Subject
from tests.archive_material import connect, provider_at

__all__ = ["ALICE", "KEY", "ORDER", "erased", "fill", "left", "own", "planned"]

ALICE = Subject("alice", "example.com")
ORDER = Order("request 7", "Article 17", Actor("operator"), {"pid": 1})
KEY = b"0123456789abcdef0123456789abcdef"


def fill(path: Path, *events: Mapping[str, Any], **settings: Any) -> None:
    """Record events: arguments of ``audit()``, and ``host``."""
    with provider_at(path, **settings) as provider:
        for event in events:
            given = {"host": "example.com", **event}
            log = provider.get_logger("shop", host=given.pop("host"))
            log.audit(given.pop("type", "user.login.success"), **given)


def own(path: Path, type_: str, custom: Mapping[str, Mapping[str, Any]]) -> int:
    """Append one of the archive's own records, after the first one of all; return its sequence."""
    with Administration(path, b"", b"") as administration:
        return administration.append(lambda _connection, _tree: [Own(ADMINISTRATION, type_, custom, Actor("alice"))])


def erased(path: Path, subject: Subject = ALICE, *, mentions: bool = False, order: Order = ORDER) -> Plan:
    with Administration(path, b"", b"") as administration:
        return erase(administration, subject, order, mentions=mentions)


def planned(path: Path, subject: Subject = ALICE, *, mentions: bool = False) -> Plan:
    with open_archive(path) as archive:
        return plan(archive.database, subject, mentions=mentions)


def left(path: Path) -> list[int]:
    """Return the sequences that have content."""
    return [n for (n,) in connect(path).execute("SELECT sequence FROM record WHERE otlp IS NOT NULL")]
