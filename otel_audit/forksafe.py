"""Carries objects that own connections, locks or threads over a fork.

An SQLite connection that is merely inherited corrupts: a child acknowledged 60 commits of which 12 were in the file. So
everything is closed before the fork, and opened again, lazily, on both sides.
"""

from __future__ import annotations

import itertools
import os
import sys
import threading
import weakref
from collections.abc import Callable
from typing import Final, TypeVar

__all__ = ["ForkAware", "at_end_of_child", "register"]

T = TypeVar("T")


class ForkAware:
    """What takes part in a fork; does nothing by itself."""

    def before_fork(self) -> None:
        """Come to rest: take the own locks, close what must not be inherited."""

    def after_fork_in_parent(self) -> None:
        """Go on."""

    def after_fork_in_child(self) -> None:
        """Forget the parent's threads, waiters and leases; go on afresh."""


_members: Final[weakref.WeakValueDictionary[int, ForkAware]] = weakref.WeakValueDictionary()
_numbers: Final = itertools.count()
_resting: list[ForkAware] = []
# Two threads may fork at once: the second would find half of the members at rest for the first.
_forking = threading.Lock()


def register(member: ForkAware) -> None:
    """Let `member` take part in every later fork, for as long as it lives, in the order of registration."""
    _members[next(_numbers)] = member


def at_end_of_child(owner: T, function: Callable[[weakref.ref[T]], None]) -> None:
    """Let a function be called with `owner` when a child of multiprocessing (or Celery's billiard) ends.

    Such children end without ``atexit``. To be called in the child: what was registered before a fork is forgotten.
    """
    for name in ("multiprocessing.util", "billiard.util"):
        if (util := sys.modules.get(name)) is not None:
            util.Finalize(owner, function, args=(weakref.ref(owner),), exitpriority=0)


def _before() -> None:
    _forking.acquire()
    _resting.clear()
    # Until no new ones come: while one is waited for, other threads may make more.
    while new := _not_resting():
        for member in new:
            member.before_fork()
            _resting.append(member)


def _not_resting() -> list[ForkAware]:
    known = {id(member) for member in _resting}
    # `valuerefs` copies at once, in the order of registration: members come and go in other threads.
    present = [member for reference in _members.valuerefs() if (member := reference()) is not None]
    return [member for member in present if id(member) not in known]


def _in_parent() -> None:
    for member in reversed(_resting):
        member.after_fork_in_parent()
    _resting.clear()
    _forking.release()


def _in_child() -> None:
    global _forking  # noqa: PLW0603 - threads that waited for the old one are not here
    _forking = threading.Lock()
    for member in reversed(_resting):
        member.after_fork_in_child()
    _resting.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before, after_in_parent=_in_parent, after_in_child=_in_child)
