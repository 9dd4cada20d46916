"""``python -m tests.faults.fuzz TARGET RUNS``: guided by coverage, for the inputs that hypothesis does not think of."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any, Final

from tests.faults.frame import Experiment, Stage
from tests.faults.inputs import Source

__all__ = ["FUZZING"]

_LONGEST: Final = 2_048
_TARGETS: Final[dict[str, tuple[str, int]]] = {
    "client_values": ("audit calls with what clients send", 5_000),
    "programmers_values": ("audit calls with anything at all", 10_000),
    "otlp_bytes": ("decoding of OTLP", 50_000),
    "answers": ("answers over HTTP", 50_000),
    "proofs": ("proofs", 20_000),
    "notes": ("notes, checkpoints, verifiers", 50_000),
    "times": ("time expressions, durations", 50_000),
    "retention": ("retention rules, their TOML files", 50_000),
    "settings": ("settings from the environment", 20_000),
    "key_files": ("key files", 10_000),
    "addresses": ("MaxMind files", 10_000),
    "filters": ("queries", 5_000),
    "command_lines": ("command lines that read: filters, `--where`, times, proofs", 3_000),
}
"""What is fuzzed, and how many inputs a full run tries."""


def fuzz(stage: Stage, target: str) -> None:
    """Run a target under the fuzzer in a process of its own, which it ends, and count the inputs."""
    outcome = stage.outcome
    command = [sys.executable, "-m", "tests.faults.fuzz", target, str(stage.cycles)]
    environment = os.environ | {"OTEL_AUDIT_READS": "off", "HOME": str(stage.folder)}
    done = subprocess.run(
        command, cwd=stage.folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False
    )
    said = done.stdout.decode("utf-8", "replace")
    found = re.search(r"Done (\d+) runs|stat::number_of_executed_units: +(\d+)", said)
    stage.cycle(int(found[1] or found[2]) if found else 0)
    if done.returncode:
        lines = [line for line in said.splitlines() if line.strip()]
        error = next((line for line in lines if re.match(r"\w*(Error|Exception|Record)\b|ALARM|ERROR", line)), "")
        kept = [path.name for path in stage.folder.glob("*-*") if path.is_file()]
        outcome.blame(f"{target}: exit {done.returncode}: {error[:300]} {kept}")


def no_fuzzer() -> str:
    """Return why there can be no fuzzing here; empty where there can."""
    return "" if importlib.util.find_spec("atheris") else "atheris has no wheel for this system"


def main() -> None:
    """Fuzz one target in the present directory."""
    target, runs = sys.argv[1:]
    import atheris

    with atheris.instrument_imports(include=["otel_audit"]):
        from tests.faults.fuzzing import Bench

    import logging

    logging.disable(logging.CRITICAL)
    os.environ.update({f"OTEL_AUDIT_DISK_{name}": "0" for name in ("WARNING", "CRITICAL", "RESERVE")})
    work = Path("work")
    work.mkdir()
    method: Any = getattr(Bench(work), target)
    options = ["-timeout=20", "-rss_limit_mb=2048", f"-max_len={_LONGEST}", "-print_final_stats=1", "-seed=1"]
    Path("corpus").mkdir()
    atheris.Setup([sys.argv[0], f"-runs={runs}", *options, "corpus"], lambda data: method(Source(data)))
    atheris.Fuzz()


FUZZING: Final = tuple(
    Experiment(
        name=f"fuzz-{name.replace('_', '-')}", fault=f"fuzzing: {what}",
        run=partial(fuzz, target=name), full=runs, quick=300, missing=no_fuzzer,
    )
    for name, (what, runs) in _TARGETS.items()
)  # fmt: skip
"""One for each target."""

if __name__ == "__main__":
    main()
