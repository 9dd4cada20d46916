"""Celery tasks that record who asked for them, in whose session and trace.

    celery --app examples.celery_jobs worker --concurrency 1
    python -m examples.celery_jobs alice report.pdf

The broker is a folder, so that nothing else is needed. Where it and the archive are the environment says:
``JOBS_DIRECTORY``, by default the current one.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from celery import Celery, Task
from structlog.contextvars import bound_contextvars

import otel_audit
from otel_audit.integrations.audited import audited
from otel_audit.integrations.celery import CeleryAudit

DIRECTORY = Path(os.environ.get("JOBS_DIRECTORY", ".")).absolute()

app = Celery("jobs", broker="filesystem://")
app.conf.update(
    broker_connection_retry_on_startup=True,
    broker_transport_options={
        "control_folder": str(DIRECTORY / "control"),
        "data_folder_in": str(DIRECTORY / "queue"),
        "data_folder_out": str(DIRECTORY / "queue"),
        "store_processed": False,
    },
    task_ignore_result=True,
)
(DIRECTORY / "queue").mkdir(parents=True, exist_ok=True)

otel_audit.configure(archive=DIRECTORY / "audit.db", host="jobs.example")
CeleryAudit(record={"failure", "retry"})


@app.task(name="jobs.send_report")
@audited("report.sent", target=lambda name: name)
def send_report(name: str) -> None:
    """Send a report."""
    if name == "missing.pdf":
        raise FileNotFoundError(name)


@app.task(name="jobs.fetch_report", bind=True, max_retries=1, default_retry_delay=0)
def fetch_report(self: Task[Any, Any], name: str) -> None:
    """Fetch a report from a service that is down, twice in vain."""
    raise self.retry(exc=ConnectionError(name))


def main() -> None:
    """Send two tasks on behalf of a user."""
    if len(sys.argv) != 3:
        sys.exit("usage: python -m examples.celery_jobs USER NAME")
    user, name = sys.argv[1:]
    with bound_contextvars(user=user, session=otel_audit.Session(type="http", ip="203.0.113.7")):
        send_report.delay(name)
        fetch_report.delay(name)


if __name__ == "__main__":
    main()
