"""Says on what machine the figures were measured."""

from __future__ import annotations

import os
import platform
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import apsw

from otel_audit._version import __version__

__all__ = ["describe"]

_LIBRARIES = ("apsw", "opentelemetry-sdk", "opentelemetry-exporter-otlp-proto-http", "rotel", "structlog")


def describe(directory: Path, *, quick: bool, minutes: float) -> list[tuple[str, str]]:
    """Return names and values: processor, kernel, file system, versions, date.

    Args:
        directory: Where the archives were.
        quick: Whether the sizes were the smaller ones.
        minutes: How long it took.
    """
    libraries = [f"{name} {version(name)}" for name in _LIBRARIES]
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    return [
        ("CPU", f"{_cpu()}, {os.cpu_count()} cores, load {load} at the end"),
        ("memory", f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB"),
        ("kernel", f"{platform.system()} {platform.release()}"),
        ("file system", _file_system(directory)),
        ("Python", platform.python_version()),
        ("libraries", ", ".join([f"otel_audit {__version__}", *libraries, f"SQLite {apsw.sqlite_lib_version()}"])),
        ("run", f"{'quick' if quick else 'full'}, {minutes:.0f} minutes, {datetime.now(UTC):%Y-%m-%d %H:%M} UTC"),
    ]


def _cpu() -> str:
    information = Path("/proc/cpuinfo")
    if information.exists():
        for line in information.read_text(errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _file_system(directory: Path) -> str:
    mounts = Path("/proc/self/mounts")
    best, kind = -1, "unknown"
    lines = mounts.read_text(errors="replace").splitlines() if mounts.exists() else []
    for line in lines:
        point, found = line.split()[1:3]
        if directory.resolve().is_relative_to(point) and len(point) >= best:
            best, kind = len(point), found
    return kind
