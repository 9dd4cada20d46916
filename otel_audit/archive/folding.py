"""Folds in the writer's thread: when a slice is full, and what there is when nothing happens."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TypeVar

import apsw

from otel_audit.archive import index
from otel_audit.archive.database import Database
from otel_audit.errors import AuditError

__all__ = ["Folding"]

T = TypeVar("T")

_log = logging.getLogger("otel_audit.archive")


class Folding:
    """Keeps count of what is not folded yet, and folds it.

    Args:
        database: The writer's.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._failed = False
        self.unfolded = index.SLICE  # not known yet: look

    @property
    def due(self) -> bool:
        """Whether a slice is full."""
        return self.unfolded >= index.SLICE

    def run(self, *, idle: bool = False, patience: float = 10.0) -> None:
        """Fold all full slices.

        Args:
            idle: Fold the last, partial slice as well.
            patience: Seconds to wait for another process's transaction.
        """
        at_least = 1 if idle else index.SLICE
        try:
            while self.unfolded >= at_least:
                part = self._locked(patience, index.next_slice)
                for step in range(index.STEPS):
                    # Between the steps, callers commit.
                    self.unfolded = self._locked(patience, index.fold_step, part, step)
            self._failed = False
        except (apsw.Error, AuditError) as error:
            # Queries scan what is not folded: nothing is lost, and the next commit tries again.
            if not self._failed:
                _log.warning("folding of %s is postponed: %s", self._database.path, error)
            self._failed = True
        except Exception:  # noqa: BLE001 - the writer's thread must live
            _log.exception("folding of %s failed unexpectedly", self._database.path)

    def _locked(self, patience: float, function: Callable[..., T], *given: object) -> T:
        """Call a function with the connection, under the database's lock."""
        self._database.lock(patience)
        try:
            return function(self._database.locked_connection(), *given)
        finally:
            self._database.unlock()
