"""Loki as a process, with the settings that loki.yaml asks its operator for."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pytest

from tests.archive_material import wait_until
from tests.otelcol import configuration, free_ports

__all__ = ["running_loki"]

_LOKI: Final = """
auth_enabled: false
analytics: {{reporting_enabled: false}}
server:
  http_listen_address: 127.0.0.1
  http_listen_port: {http}
  grpc_listen_address: 127.0.0.1
  grpc_listen_port: {grpc}
common:
  instance_addr: 127.0.0.1
  path_prefix: {folder}
  storage: {{filesystem: {{chunks_directory: {folder}/chunks, rules_directory: {folder}/rules}}}}
  replication_factor: 1
  ring: {{kvstore: {{store: inmemory}}}}
schema_config:
  configs:
    - {{from: 2020-01-01, store: tsdb, object_store: filesystem, schema: v13, index: {{prefix: index_, period: 24h}}}}
{settings}
"""


@contextmanager
def running_loki(folder: Path) -> Iterator[str]:
    """Run Loki; return its address. Skips the running test where there is none.

    It is under the AGPL, and not among the programs that are built for the tests.

    Args:
        folder: A folder for what it writes.
    """
    binary = os.environ.get("LOKI") or shutil.which("loki")
    if binary is None:
        pytest.skip("there is no loki in PATH, nor in $LOKI")
    http, grpc = free_ports(2)
    file = folder / "loki.yaml"
    settings = _documented_settings()
    file.write_text(_LOKI.format(http=http, grpc=grpc, folder=folder / "data", settings=settings), "utf-8")
    with (folder / "output.log").open("wb") as output:
        process = subprocess.Popen((binary, f"-config.file={file}"), stdout=output, stderr=output, cwd=folder)
        try:
            wait_until(lambda: b"Loki started" in (folder / "output.log").read_bytes())
            yield f"http://127.0.0.1:{http}"
        finally:
            process.kill()
            process.wait()


def _documented_settings() -> str:
    """Return the part of Loki's configuration that loki.yaml asks its operator for."""
    lines = configuration("loki").read_text("utf-8").splitlines()
    start = lines.index("#     limits_config:")
    end = next(number for number in range(start, len(lines)) if not lines[number].startswith("#     "))
    return "\n".join(line.removeprefix("#     ") for line in lines[start:end])
