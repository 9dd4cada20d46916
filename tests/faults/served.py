"""What gunicorn and Celery serve: each request, each task is one event. Opened once, before the workers are forked."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from celery import Celery

from otel_audit.logger import AuditLogger
from tests.archive_material import provider_at
from tests.faults.ledger import Scribe

__all__ = ["application", "record", "tasks"]

_broker = Path(os.environ.get("FAULTS_BROKER", "unused"))
tasks = Celery("faults", broker="filesystem://", set_as_current=False)
tasks.conf.update(
    broker_transport_options={
        "control_folder": str(_broker / "control"),
        "data_folder_in": str(_broker),
        "data_folder_out": str(_broker),
        "polling_interval": 0.02,
    },
    # No limit: a task whose process was killed before it was begun counts against that for ever.
    worker_prefetch_multiplier=0,
    worker_hijack_root_logger=False,
    broker_connection_retry_on_startup=False,
)


class _Served:
    """The logger and the scribe: made in the parent, used by the children."""

    def __init__(self) -> None:
        self._pipe = os.open(os.environ["FAULTS_RECEIPTS"], os.O_WRONLY)
        self._log: AuditLogger = provider_at(Path(os.environ["FAULTS_ARCHIVE"])).get_logger("served")
        self._count = 0

    def record(self) -> None:
        self._count += 1
        # Unlike a process id, not used again.
        tag = f"{os.getpid()}-{os.urandom(4).hex()}"
        Scribe(self._pipe, tag).audit(self._log, self._count)


_served = _Served() if "FAULTS_RECEIPTS" in os.environ else None


@tasks.task(name="record", ignore_result=True)
def record() -> None:
    """Record one event."""
    if _served is not None:
        _served.record()


def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    """Record one event, and answer."""
    if _served is not None:
        _served.record()
    start_response("204 No Content", [])
    return []
