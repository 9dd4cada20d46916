"""What an archive can be reconciled with: a collector's file, a ClickHouse, a VictoriaLogs."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

from otel_audit.archive.held import Held
from otel_audit.errors import ConfigError
from otel_audit.fleet.location import is_fleet, shown_url

__all__ = ["Reader", "open_backend"]

Progress = Callable[[int, int], None]
Reader = Callable[[str, int, int, Progress], Iterator[Held]]
"""Reads what is held of an archive: its id, the first and the last time, and what is told how much is done."""


def open_backend(text: str, password: str | None = None) -> Reader:
    """Return what reads a backend.

    Args:
        text: A file of OTLP/JSON lines, ``clickhouse://…`` or ``victorialogs://host:port``.
        password: The password, where a location holds none.

    Raises:
        ArchiveError: The backend cannot be reached.
        ConfigError: The location cannot be understood, or the extra is not installed.
    """
    if is_fleet(text):
        from otel_audit.reconcile.clickhouse import read_table  # start-up time: only the one that is needed

        return read_table(text, password)
    scheme = text.partition("://")[0].lower() if "://" in text else ""
    if scheme in {"victorialogs", "victorialogss"}:
        from otel_audit.reconcile.victorialogs import read_logs

        return read_logs(text, password)
    if scheme and not os.path.exists(text):  # noqa: PTH110 - a Path would join its slashes
        raise ConfigError(
            f"{shown_url(text)!r} is no backend that can be asked",
            "give a file, clickhouse://user@host:8123/database or victorialogs://host:9428",
        )
    return _file(text)


def _file(text: str) -> Reader:
    from otel_audit.archive.otlpfile import read_file  # start-up time

    return lambda _stream, _first, _last, progress: read_file(Path(text), progress)
