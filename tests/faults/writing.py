"""The writers' work: recording from one thread, several threads, tasks, or with a queue, until they are stopped."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from otel_audit.errors import AuditError
from otel_audit.provider import AuditProvider
from tests.archive_material import provider_at
from tests.faults.ledger import Scribe

__all__ = ["KINDS", "Work", "for_ever", "limited", "opened", "steadily"]

Work = Callable[[Scribe], None]
FOR_EVER = 10**9


def _alone(provider: AuditProvider, scribe: Scribe) -> None:
    log = provider.get_logger("alone")
    for number in range(FOR_EVER):
        scribe.audit(log, number)


def _threads(provider: AuditProvider, scribe: Scribe) -> None:
    def work(first: int) -> None:
        log = provider.get_logger(f"thread-{first}")
        for number in range(first, FOR_EVER, 4):
            scribe.audit(log, number)

    for first in range(4):
        threading.Thread(target=work, args=(first,), daemon=True).start()
    threading.Event().wait()


def _tasks(provider: AuditProvider, scribe: Scribe) -> None:
    log = provider.get_logger("tasks")

    async def work(first: int) -> None:
        for number in range(first, FOR_EVER, 8):
            await scribe.aaudit(log, number)

    async def all_of_them() -> None:
        await asyncio.gather(*(work(first) for first in range(8)))

    asyncio.run(all_of_them())


def _with_a_queue(provider: AuditProvider, scribe: Scribe) -> None:
    """Mix records that wait in memory, of which no receipt is reported, with those that are promised."""
    log = provider.get_logger("queued")
    for number in range(FOR_EVER):
        provider.durability = "commit" if number % 8 == 0 else "queued"
        scribe.audit(log, number)


KINDS = (_alone, _threads, _tasks, _with_a_queue)


def for_ever(path: Path, kind: int = 0, **settings: Any) -> Work:
    """Return the work of a writer that records until it is killed, in one of the `KINDS`."""

    def work(scribe: Scribe) -> None:
        if provider := opened(path, scribe, settings):
            KINDS[kind % len(KINDS)](provider, scribe)

    return work


def opened(path: Path, scribe: Scribe, settings: dict[str, Any]) -> AuditProvider | None:
    """Return a provider; where the archive cannot be opened, report why and return none."""
    began = time.monotonic()
    try:
        return provider_at(path, **settings)
    except AuditError as error:
        scribe.refused(time.monotonic() - began, error)
        return None


def steadily(path: Path, pause: float = 0.002, **settings: Any) -> Work:
    """Return the work of a writer that records one event after the other, with pauses, until it is killed."""

    def work(scribe: Scribe) -> None:
        if provider := opened(path, scribe, settings):
            log = provider.get_logger("steady")
            for number in range(FOR_EVER):
                if not scribe.audit(log, number):
                    scribe.note("unacknowledged")
                time.sleep(pause)

    return work


def limited(path: Path, records: int, **settings: Any) -> Work:
    """Return the work of a writer that records so many events, one after the other, and shuts down."""

    def work(scribe: Scribe) -> None:
        if provider := opened(path, scribe, settings):
            log = provider.get_logger("limited")
            for number in range(records):
                scribe.audit(log, number)
            provider.shutdown()

    return work
