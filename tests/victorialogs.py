"""VictoriaLogs as a process, as `make peers` builds it."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import requests

from tests import children
from tests.archive_material import wait_until
from tests.collector_build import needed
from tests.otelcol import free_ports

__all__ = ["found", "victoria_logs"]


@contextmanager
def victoria_logs(folder: Path, *, retention: str = "100y", address: str = "") -> Iterator[str]:
    """Run VictoriaLogs while the block runs; return its host and port. Skips the running test where it was not built.

    Args:
        folder: A folder for what it writes.
        retention: How old a record may be.
        address: Where to listen; without it, on some port of 127.0.0.1.
    """
    binary = needed("victoria-logs")
    address = address or f"127.0.0.1:{free_ports(1)[0]}"
    command = [str(binary), f"-httpListenAddr={address}", f"-storageDataPath={folder}", f"-retentionPeriod={retention}"]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_until(lambda: _answers(address))
        yield address
    finally:
        children.stop(process, 20.0)


def _answers(address: str) -> bool:
    try:
        return requests.get(f"http://{address}/health", timeout=5).ok
    except requests.RequestException:
        return False


def found(address: str, query: str) -> list[dict[str, str]]:
    """Return the fields of what VictoriaLogs finds.

    Args:
        address: Its host and port.
        query: In LogsQL.
    """
    answer = requests.post(f"http://{address}/select/logsql/query", data={"query": query}, timeout=20)
    answer.raise_for_status()
    return [json.loads(line) for line in answer.content.splitlines()]
