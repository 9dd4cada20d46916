"""Each experiment of `make faults`, with fewer cycles: nothing acknowledged is lost, built-in faults are noticed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.faults.collectors import COLLECTORS
from tests.faults.experiments import EXPERIMENTS
from tests.faults.frame import Outcome
from tests.faults.fuzz import FUZZING

ROOT = Path(__file__).parents[2]


# The others need no process of their own: test_collector_faults.py and test_hostile_input.py have them.
APART = EXPERIMENTS.keys() - {experiment.name for experiment in (*COLLECTORS, *FUZZING)}


@pytest.mark.parametrize("name", [name for name in EXPERIMENTS if name in APART])
def test_a_fault_loses_nothing(name: str) -> None:
    """What was acknowledged before the fault is there after a restart, with its content, and arrives at a collector."""
    # Not in pytest's directories, which nobody but their owner may enter: one of the writers is somebody else.
    command = [sys.executable, "-m", "tests.faults", "--quick", "--json", "--only", name]
    done = subprocess.run(command, capture_output=True, text=True, timeout=110, check=False, cwd=ROOT)
    outcome = Outcome(**json.loads(done.stdout))
    if outcome.skipped:
        pytest.skip(outcome.skipped)
    assert not outcome.wrong or outcome.subject == "teeth", done.stderr[-4_000:]
    assert outcome.as_promised, outcome
    assert done.returncode == 0
    assert outcome.cycles >= EXPERIMENTS[name].quick or outcome.subject == "teeth"
    assert outcome.acknowledged or outcome.detected
    if outcome.subject == "sdk":
        # Else this run would show nothing about either.
        assert outcome.lost
