"""What takes part in forks: members that are made while another thread forks."""

from __future__ import annotations

import os
import threading

from otel_audit import forksafe
from tests.archive_material import forked


class Maker(forksafe.ForkAware):
    """Lets another thread make a member while this one forks."""

    def __init__(self) -> None:
        self.made = threading.Event()
        self.early: bool | None = None

    def before_fork(self) -> None:
        """Start the thread, and give it time to go wrong."""
        threading.Thread(target=self._make).start()
        self.early = self.made.wait(0.2)

    def _make(self) -> None:
        forksafe.register(forksafe.ForkAware())
        self.made.set()


def test_a_member_made_during_a_fork_waits() -> None:
    """What is made while another thread forks is there after the fork only: else it would not have come to rest."""
    maker = Maker()
    forksafe.register(maker)
    child = forked(lambda: forksafe.register(forksafe.ForkAware()))
    assert os.waitpid(child, 0)[1] == 0
    assert maker.early is False
    assert maker.made.wait(20)
