"""Celery: tasks record with the session, user and trace of whoever sent them; failures and retries by choice."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any, Final, Literal, get_args

from celery import signals
from celery.utils.dispatch import Signal

from otel_audit import forksafe
from otel_audit.errors import ConfigError
from otel_audit.integrations.attempts import exception_name
from otel_audit.integrations.carried import pack, unpack
from otel_audit.logger import Arguments, AuditLogger
from otel_audit.provider import get_logger
from otel_audit.record import Target

__all__ = ["HEADER", "CeleryAudit"]

Ending = Literal["failure", "retry"]

HEADER: Final = "otel_audit"
"""Header of a task's message."""
_STAY: Final = "_otel_audit_stay"


class CeleryAudit:
    """Carries what is bound where a task is sent into the task, from its creation on, in this process and its children.

    Create it where the Celery application is made, so that both senders and workers do. Session, user, host, actor,
    further bound values and the trace go along in a header of bounded size, over retries and chains, too. A task that
    is called eagerly records with what is bound around it. At a task's end the context is what it was before.

    Celery calls receivers of its signals under guard: where the record of a failure or retry cannot be made, Celery
    logs the error, and nothing is raised. `otel_audit.integrations.audited.audited` on the task's function raises.

    Args:
        logger: Records the endings; default: one of the global provider, source ``celery``.
        record: Which endings are recorded: ``failure`` as ``task.failure``, ``retry`` as ``task.retry``.

    Raises:
        ConfigError: `record` names another ending.
    """

    def __init__(self, logger: AuditLogger | None = None, *, record: Collection[Ending] = ()) -> None:
        for ending in record:
            if isinstance(record, str) or ending not in get_args(Ending):
                raise ConfigError(f"record={record!r} is unknown", "give a set of 'failure' and 'retry'")
        self._logger = logger or get_logger("celery")
        self._receivers: list[tuple[Signal, Callable[..., None]]] = [
            (signals.before_task_publish, self._publish),
            (signals.task_prerun, self._begin),
            (signals.task_postrun, self._end),
            (signals.worker_process_shutdown, self._end_process),
            *([(signals.task_failure, self._failed)] if "failure" in record else []),
            *([(signals.task_retry, self._retried)] if "retry" in record else []),
        ]
        for signal, receiver in self._receivers:
            # Under a name: of two objects, as a module that is imported twice makes them, one counts.
            name = f"otel_audit.{receiver.__name__}"
            signal.disconnect(dispatch_uid=name)
            signal.connect(receiver, weak=False, dispatch_uid=name)

    def disconnect(self) -> None:
        """Carry and record nothing any more."""
        for signal, receiver in self._receivers:
            signal.disconnect(dispatch_uid=f"otel_audit.{receiver.__name__}")

    def _publish(self, *, headers: Any, **_: Any) -> None:
        if (packed := pack()) is not None:
            headers[HEADER] = packed

    def _begin(self, *, task: Any, **_: Any) -> None:
        request = task.request
        if not request.is_eager:
            setattr(request, _STAY, unpack(getattr(request, HEADER, None)).bind())

    def _end(self, *, task: Any, **_: Any) -> None:
        stay = getattr(task.request, _STAY, None)
        if stay is not None:
            stay.end()

    def _end_process(self, **_: Any) -> None:
        # A process of the pool ends without ``atexit``, e.g. once it has run `max_tasks_per_child` tasks.
        forksafe.end_child()

    def _failed(self, *, sender: Any, task_id: str, exception: BaseException, **_: Any) -> None:
        self._ended("task.failure", sender, task_id, exception)

    def _retried(self, *, sender: Any, request: Any, reason: Any, **_: Any) -> None:
        # The reason is Celery's own exception, which tells the task's.
        error = getattr(reason, "exc", None)
        self._ended("task.retry", sender, request.id, error if isinstance(error, BaseException) else reason)

    def _ended(self, type_: str, task: Any, task_id: str, error: object) -> None:
        kind = exception_name(error) if isinstance(error, BaseException) else None
        custom: dict[str, dict[str, Any]] = {"task": {"name": task.name, "retries": task.request.retries}}
        if kind is not None:
            custom["error"] = {"type": kind}
        given: Arguments = {"outcome": "failure", "target": Target(task_id, task.name), "custom": custom}
        self._logger.audit(type_, **given)
