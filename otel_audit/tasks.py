"""The upkeep of a provider's archive, by its settings."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from functools import partial
from typing import Final

from otel_audit.archive.administration import Administration
from otel_audit.archive.checkpoints import Checkpoints
from otel_audit.archive.commit import Committer
from otel_audit.archive.diskwatch import DiskWatch
from otel_audit.archive.highwater import HighWater
from otel_audit.archive.retention import Pruner
from otel_audit.config import Config
from otel_audit.keys import load
from otel_audit.notes import SigningKey
from otel_audit.upkeep import Task

__all__ = ["make_tasks", "verifier"]

_PRUNING: Final = 3_600.0
"""Seconds between two runs."""
_SETTLED: Final = 60.0
"""Seconds that a process must have been recording for: what lives for one record prunes nothing."""

_log = logging.getLogger("otel_audit")


def make_tasks(config: Config, committer: Committer, opener: Callable[[], Administration]) -> list[Task]:
    """Return what is to be done for an archive from time to time.

    Args:
        config: The settings.
        committer: Knows how far the archive has come.
        opener: Opens what appends the archive's own records.
    """
    checkpoints = Checkpoints(
        committer.database.path,
        opener,
        committer.tree,
        key=partial(_signing_key, config),
        high_water=None if config.high_water is None else HighWater(config.high_water),
        interval=config.checkpoint_interval,
    )
    # First: what checkpoints need on a full disk, it makes room for.
    tasks: list[Task] = [DiskWatch(committer.database.path, config.disk, opener), checkpoints]
    return [*tasks, _Pruning(config, opener)] if config.retention else tasks


def verifier(config: Config) -> str | None:
    """Return the verifier of the signing key, None where there is no key."""
    return None if config.signing_key is None else str(config.signing_key.verifier)


def _signing_key(config: Config) -> SigningKey | None:
    """Return the key that signs now: a rotation has put another one into its file."""
    return config.signing_key if config.signing_key_path is None else load(config.signing_key_path)


class _Pruning:
    """Prunes once an hour; the pruner remembers what it need not look at again."""

    def __init__(self, config: Config, opener: Callable[[], Administration]) -> None:
        self._config = config
        self._open = opener
        self._administration: Administration | None = None
        self._pruner: Pruner | None = None
        self._stopping: Callable[[], bool] = lambda: False
        self._due = time.monotonic() + _SETTLED

    def run(self, stopping: Callable[[], bool]) -> float:
        """Prune where that is due; see `otel_audit.upkeep.Task`."""
        wait = self._due - time.monotonic()
        if wait > 0:
            return wait
        self._due = time.monotonic() + _PRUNING
        self._stopping = stopping
        if self._pruner is None:
            self._administration = self._open()
            self._pruner = Pruner(
                self._administration,
                self._config.retention,
                destinations=self._config.destinations,
                stopping=self._told_to_stop,
            )
        if pruned := self._pruner.prune().records.total():
            _log.info("pruned %d records of %s", pruned, self._config.archive)
        return _PRUNING

    def _told_to_stop(self) -> bool:
        return self._stopping()

    def finish(self) -> None:
        """Close the connection: pruning can wait for another process."""
        if self._administration is not None:
            self._administration.close()
