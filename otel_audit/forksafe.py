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
from typing import Any, Final, TypeVar

__all__ = ["ForkAware", "at_end_of_child", "end_child", "members", "register"]

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
# Held from the last look for members until the fork is over: one made in between would open what a child must not have.
# A signal handler may make one within.
_registering = threading.RLock()
_forker = 0
"""The thread that forks, once all members are at rest."""
_handlers: Final[dict[int, Any]] = {}
_noted: Final[list[int]] = []
_endings: Final[dict[tuple[int, Any], weakref.ref[Any]]] = {}


def register(member: ForkAware) -> None:
    """Let `member` take part in every later fork, for as long as it lives, in the order of registration."""
    with _registering:
        _members[next(_numbers)] = member


def members() -> list[ForkAware]:
    """Return whoever takes part in forks at present."""
    with _registering:
        return list(_members.values())


def at_end_of_child(owner: T, function: Callable[[weakref.ref[T]], None]) -> None:
    """Let a function be called with `owner` when a child of multiprocessing (or Celery's billiard) ends.

    Such children end without ``atexit``. To be called in the child: what was registered before a fork is forgotten.
    Celery's children end without billiard's own functions, too: their signal calls `end_child`.
    """
    key = (id(owner), function)
    _endings[key] = weakref.ref(owner, lambda _: _endings.pop(key, None))
    for name in ("multiprocessing.util", "billiard.util"):
        if (util := sys.modules.get(name)) is not None:
            util.Finalize(owner, function, args=(weakref.ref(owner),), exitpriority=0)


def end_child() -> None:
    """Call what `at_end_of_child` was given, the last one first."""
    while _endings:
        (_, function), owner = _endings.popitem()
        try:
            function(owner)
        except Exception:
            import logging  # start-up time, as below

            logging.getLogger("otel_audit").exception("%r failed at the end of a process", function)


def _before() -> None:
    global _forker  # noqa: PLW0603 - one fork at a time
    if _forker == threading.get_ident():
        return
    _hold_signals()
    _forking.acquire()
    seen = set[int]()
    while True:
        _registering.acquire()
        # `valuerefs` copies at once, in the order of registration: members come and go in other threads.
        new = [reference for reference in _members.valuerefs() if reference.key not in seen]
        if not new:
            break
        # Not held while a member comes to rest: whoever uses it may be making another.
        _registering.release()
        for reference in new:
            seen.add(reference.key)
            if (member := reference()) is not None:
                try:
                    member.before_fork()
                    _resting.append(member)
                except Exception:
                    # It is in use by the very function that a signal handler interrupted in order to fork.
                    import logging  # start-up time: a reader does without it

                    logging.getLogger("otel_audit").exception("a fork cannot wait for %r", member)
    _forker = threading.get_ident()


def _in_parent() -> None:
    global _forker  # noqa: PLW0603 - likewise
    if _forker == threading.get_ident():
        for member in reversed(_resting):
            member.after_fork_in_parent()
        _resting.clear()
        _forker = 0
        _registering.release()
        _forking.release()
    _let_signals_through()


def _in_child() -> None:
    global _forker, _forking, _registering  # noqa: PLW0603 - threads that waited for the old locks are not here
    if _forker:
        _endings.clear()
        _forking, _registering = threading.Lock(), threading.RLock()
        for member in reversed(_resting):
            member.after_fork_in_child()
        _resting.clear()
        _forker = 0
        _noted.clear()  # what came until now was meant for the parent
    _let_signals_through()


def _hold_signals() -> None:
    """Note signals instead of handling them: what their handlers raise would leave the members half at rest."""
    import signal  # start-up time

    if threading.current_thread() is threading.main_thread():  # others are not interrupted
        for number in signal.valid_signals():
            handler = signal.getsignal(number)
            if callable(handler) and handler is not _note:
                _handlers[number] = handler
                signal.signal(number, _note)


def _note(number: int, _frame: object) -> None:
    _noted.append(number)


def _let_signals_through() -> None:
    import signal

    if threading.current_thread() is threading.main_thread():
        for number in list(_handlers):
            signal.signal(number, _handlers[number])
            del _handlers[number]
        while _noted:
            # Not raised again: asyncio would be woken twice.
            if callable(handler := signal.getsignal(number := _noted.pop(0))):
                handler(number, sys._getframe())  # noqa: SLF001 - what handlers are given


if hasattr(os, "register_at_fork"):
    # What interrupts a function is swallowed with the rest of that function, and may come before it has done anything.
    for _ in range(2):
        os.register_at_fork(before=_before, after_in_parent=_in_parent, after_in_child=_in_child)
