"""The command ``otel-audit``: searches the archive, shows the state of delivery, ships and records."""

from __future__ import annotations

import gc
import os
import sys

__all__ = ["main"]


def main() -> None:
    """Run the command line of this process and exit with its status; never show a traceback."""
    _replace_closed_streams()
    # Imported here, so that an interrupt while modules load ends as quietly as any other.
    try:
        # What is made while modules load stays for ever: looking for garbage among it takes a twentieth of the start.
        gc.disable()
        from otel_audit.cli.run import run

        status = run(sys.argv[1:])
    except KeyboardInterrupt:
        status = 130
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except (OSError, ValueError):
        # The interpreter would try again at its end, and complain; `run` has already said what went wrong.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    sys.exit(status)


def _replace_closed_streams() -> None:
    # Started with `>&-`, the next file that is opened would become standard output: the archive, perhaps.
    for name, descriptor in (("stdin", 0), ("stdout", 1), ("stderr", 2)):
        if getattr(sys, name) is None:
            while os.open(os.devnull, os.O_RDWR) < descriptor:
                pass
            setattr(sys, name, os.fdopen(descriptor, "r" if descriptor == 0 else "w", encoding="utf-8"))
