"""``python -m tests.faults``: tries to lose a record in every way that it knows, and prints what came of it.

Exits with 1 where a record was lost or anything else was not as promised, and where a fault that the harness built in
went unnoticed.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.bench.machine import describe
from tests.bench.page import put
from tests.faults.frame import Outcome
from tests.faults.injection import unmount_below
from tests.faults.load import PERIOD
from tests.faults.table import as_markdown, as_text


def main() -> int:
    """Run what the command line asks for; return 0 where everything was as promised."""
    from tests.faults.experiments import EXPERIMENTS

    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer cycles, about two minutes")
    parser.add_argument("--only", choices=EXPERIMENTS, action="append", metavar="NAME", help=", ".join(EXPERIMENTS))
    parser.add_argument("--cycles", type=int, help="so many of each experiment that --only names")
    parser.add_argument(
        "--minutes", type=float, help="how long `load` lasts, instead of 30, or 20 seconds with --quick"
    )
    parser.add_argument("--seed", type=int, default=1, help="of the random numbers (%(default)s)")
    parser.add_argument(
        "--markdown", type=Path, metavar="FILE", help="put the tables into this page, between its marks"
    )
    parser.add_argument(
        "--directory", type=Path, default=Path("/var/tmp"), help="where to make archives, on a disk (%(default)s)"
    )
    parser.add_argument("--json", action="store_true", help="print the outcomes as JSON, one a line")
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.here:
        return _here(arguments)
    began = time.monotonic()
    outcomes = [_apart(name, arguments) for name in arguments.only or EXPERIMENTS]
    machine = describe(arguments.directory, quick=arguments.quick, minutes=(time.monotonic() - began) / 60)
    if not arguments.json:
        print("\n".join(f"{name}: {value}" for name, value in machine), end="\n\n")
        print(as_text(outcomes))
    if arguments.markdown is not None:
        page = arguments.markdown.read_text(encoding="utf-8")
        page = put(page, "table", as_markdown(outcomes, machine))
        arguments.markdown.write_text(page, encoding="utf-8")
    return 0 if all(outcome.as_promised for outcome in outcomes) else 1


def _apart(name: str, arguments: argparse.Namespace) -> Outcome:
    """Run an experiment in a process of its own, so that none inherits another's threads, patches or limits."""
    command = [sys.executable, "-m", "tests.faults", "--here", "--only", name, "--seed", str(arguments.seed)]
    command += ["--directory", str(arguments.directory), *(["--quick"] if arguments.quick else [])]
    cycles = arguments.cycles
    if arguments.minutes is not None and name == "load":
        cycles = max(1, round(arguments.minutes * 60 / PERIOD))
    if cycles is not None:
        command += ["--cycles", str(cycles)]
    with tempfile.TemporaryDirectory(prefix="otel-audit-faults-", dir=arguments.directory) as folder:
        try:
            environment = _environment(Path(folder))
            done = subprocess.run(command, stdout=subprocess.PIPE, env=environment, cwd=folder, check=False)
        finally:
            unmount_below(Path(folder))
    if done.returncode:
        outcome = Outcome(name=name, fault=f"`{name}`", wrong=[f"the harness itself ended with {done.returncode}"])
    else:
        outcome = Outcome(**json.loads(done.stdout.splitlines()[-1]))
    if arguments.json:
        print(json.dumps(outcome.to_json()), flush=True)
    verdict = f"skipped: {outcome.skipped}" if outcome.skipped else f"{outcome.cycles:,} cycles, {outcome.lost:,} lost"
    print(f"  {name}: {verdict}, {outcome.seconds:.0f} s", file=sys.stderr, flush=True)
    return outcome


def _environment(folder: Path) -> dict[str, str]:
    """Return the environment of an experiment: no settings of the caller's, high-water marks of its own."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("OTEL_")}
    paths = {"HOME": "", "XDG_DATA_HOME": "data", "XDG_STATE_HOME": "state"}
    environment |= {key: str(folder / name) for key, name in paths.items()}
    root = str(Path(__file__).parents[2])
    return environment | {"OTEL_AUDIT_READS": "off", "PYTHONPATH": root}


def _here(arguments: argparse.Namespace) -> int:
    from tests.faults.experiments import EXPERIMENTS

    (name,) = arguments.only
    # The directory is the parent's to remove, also where this process dies.
    folder = Path.cwd() / "experiment"
    folder.mkdir()
    outcome = EXPERIMENTS[name].perform(folder, quick=arguments.quick, cycles=arguments.cycles, seed=arguments.seed)
    print(json.dumps(outcome.to_json()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
