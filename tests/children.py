"""Ends the servers that tests start."""

from __future__ import annotations

import contextlib
import subprocess

__all__ = ["kill", "stop"]


def stop(process: subprocess.Popen[bytes] | None, seconds: float) -> None:
    """Stop a process as an operator does; it is killed where it takes longer than that."""
    if process is None:
        return
    process.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(seconds)
    kill(process)


def kill(process: subprocess.Popen[bytes] | None) -> None:
    """Kill a process, as a machine that crashes does."""
    if process is not None:
        process.kill()
        process.wait()
