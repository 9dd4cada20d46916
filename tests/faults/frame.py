"""What an experiment is: a fault, how often it is injected, and what is counted."""

from __future__ import annotations

import logging
import random
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

__all__ = ["SLACK", "Experiment", "Outcome", "Stage", "Subject", "always"]

SLACK: Final = 5.0
"""Seconds beyond its deadline that a call may take on a busy machine; one that hangs takes longer."""

Subject = Literal["ours", "teeth", "sdk"]
"""Whom an experiment is about: the library, the library with a fault built in by the harness, or the stock SDK."""


@dataclass(kw_only=True)
class Outcome:
    """What came of an experiment.

    Args:
        name: Which experiment.
        fault: What was done, for the table.
        subject: To whom.
        cycles: How often the fault was injected.
        acknowledged: Receipts that writers reported.
        lost: Receipts whose record is missing, or is another one.
        refused: Calls that raised.
        duplicated: Deliveries of a record beyond the first.
        detected: Cycles in which damage was found and named; None where nothing was damaged.
        wrong: What else was not as specified, in words; the first ones.
        figures: What was measured, in words.
        skipped: Why it could not be done here; empty where it was.
        seconds: How long it took.
    """

    name: str
    fault: str
    subject: Subject = "ours"
    cycles: int = 0
    acknowledged: int = 0
    lost: int = 0
    refused: int = 0
    duplicated: int = 0
    detected: int | None = None
    wrong: list[str] = field(default_factory=list)
    figures: list[str] = field(default_factory=list)
    skipped: str = ""
    seconds: float = 0.0

    @property
    def as_promised(self) -> bool:
        """Whether it ended as it must: nothing lost and nothing wrong; with a fault built in, that losses showed."""
        if self.skipped:
            return True
        match self.subject:
            case "ours":
                return not self.lost and not self.wrong and self.cycles > 0
            case "teeth":
                return self.lost > 0
            case _:
                return self.acknowledged > 0

    def blame(self, what: str) -> None:
        """Note something that is not as specified."""
        if len(self.wrong) < 20:
            self.wrong.append(what)

    def demand(self, condition: object, what: str) -> None:
        """Note it as wrong where a condition does not hold."""
        if not condition:
            self.blame(what)

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self)


@dataclass(kw_only=True)
class Stage:
    """Where an experiment runs.

    Args:
        folder: A directory of its own, on a disk.
        cycles: How many cycles are wanted.
        quick: Whether every nth is to be thinned out.
        outcome: What it counts into.
        chance: Its random numbers.
    """

    folder: Path
    cycles: int
    quick: bool
    outcome: Outcome
    chance: random.Random
    _shown: float = 0.0
    _archives: int = 0

    def archive(self) -> Path:
        """Return the path of an archive that does not exist yet, in a directory of its own."""
        self._archives += 1
        return self.folder / f"archive{self._archives}" / "audit.db"

    def cycle(self, count: int = 1) -> None:
        """Count injected faults, and show on a terminal how far it is."""
        self.outcome.cycles += count
        if sys.stderr.isatty() and time.monotonic() > self._shown + 0.2:
            self._shown = time.monotonic()
            done = f"{self.outcome.cycles:,}" + (f" of {self.cycles:,}" if self.cycles else "")
            text = (
                f"  {self.outcome.name}: {done}, {self.outcome.acknowledged:,} acknowledged, {self.outcome.lost} lost"
            )
            print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)

    def wants_more(self) -> bool:
        """Tell whether there are cycles left to do."""
        return self.outcome.cycles < self.cycles

    def repeat(self, once: Callable[[Stage], None]) -> None:
        """Do something, which counts its cycles, until there are enough."""
        while self.wants_more():
            once(self)

    def nth(self, fires: Callable[[int], bool]) -> None:
        """Call with n = 1, 2, 3 … until the fault no longer fires; a quick run leaves gaps that grow with n."""
        n = 1
        while fires(n):
            self.cycle()
            n += 1 + (n if self.quick else 0)


def always() -> str:
    """Return no reason against an experiment: it can be done everywhere."""
    return ""


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """One row of the table.

    Args:
        name: How the command line calls it.
        fault: What is done, for the table.
        run: Does it.
        full: How many cycles a full run has; 0: as many as there are, such as every nth system call.
        quick: Likewise for a quick one.
        subject: Whom it is about.
        missing: Returns what this machine lacks; empty where it can be done.
    """

    name: str
    fault: str
    run: Callable[[Stage], None]
    full: int
    quick: int
    subject: Subject = "ours"
    missing: Callable[[], str] = always

    def perform(self, folder: Path, *, quick: bool, cycles: int | None = None, seed: int = 1) -> Outcome:
        """Run it, or skip it with the reason.

        Args:
            folder: An empty directory, on a disk.
            quick: Whether to do the smaller number.
            cycles: How many cycles instead.
            seed: Of its random numbers.
        """
        outcome = Outcome(name=self.name, fault=self.fault, subject=self.subject, skipped=self.missing())
        if outcome.skipped:
            return outcome
        wanted = cycles if cycles is not None else self.quick if quick else self.full
        stage = Stage(folder=folder, cycles=wanted, quick=quick, outcome=outcome, chance=random.Random(seed))
        # What the library logs of injected faults is not for the terminal.
        logging.getLogger("otel_audit").addHandler(logging.NullHandler())
        logging.getLogger("otel_audit").propagate = False
        began = time.monotonic()
        self.run(stage)
        outcome.seconds = time.monotonic() - began
        if sys.stderr.isatty():
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)
        return outcome
