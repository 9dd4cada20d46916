"""OpenTelemetry's own Collector as a process, as `make collector` builds it, with a file of `collector-config`."""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
import subprocess
import time
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Self

from otel_audit.archive.against import compare
from otel_audit.archive.query import open_archive
from tests import children
from tests.archive_material import wait_until
from tests.collector_build import needed

__all__ = [
    "CONFIGURATIONS",
    "Otelcol",
    "assert_all_arrived",
    "configuration",
    "free_ports",
    "logs",
    "overlay",
    "writing",
]

CONFIGURATIONS: Final = Path(__file__).parents[1] / "collector-config"
_START_SECONDS: Final = 20.0
_STOP_SECONDS: Final = 15.0
_TO_A_FILE: Final = """
exporters:
  file:
    path: {path}
    append: true
    flush_interval: 50ms
service:
  pipelines:
    logs:
      exporters: [file]
"""


def configuration(name: str) -> Path:
    """Return the path of a file of `collector-config`."""
    return CONFIGURATIONS / f"{name}.yaml"


class Otelcol:
    """One Collector on 127.0.0.1, with its queue and its log in `folder`.

    Made, it runs not yet: `start`, `stop` and `kill` may be called in turn, on the same ports; as a context manager it
    starts on entry and stops on exit. Skips the running test where the Collector was not built.

    Args:
        folder: A folder for what it writes.
        configurations: Files, the later ones on top of the earlier.
        variables: The variables that the files use, beside those of its addresses and of its folder.
        tls: It serves TLS, so its addresses begin with https.
    """

    def __init__(
        self, folder: Path, *configurations: Path, variables: Mapping[str, str] | None = None, tls: bool = False
    ) -> None:
        self.binary = needed("otelcol-audit")
        self._folder = folder
        folder.mkdir(exist_ok=True)
        self._configurations = configurations
        self._scheme = "https" if tls else "http"
        self._http, self._grpc, self._health, self.metrics_port = free_ports(4)
        self._variables = {
            "AUDIT_HTTP": f"127.0.0.1:{self._http}",
            "AUDIT_GRPC": f"127.0.0.1:{self._grpc}",
            "AUDIT_HEALTH": f"127.0.0.1:{self._health}",
            "AUDIT_METRICS_PORT": str(self.metrics_port),
            "AUDIT_STORAGE": str(folder / "storage"),
            **(variables or {}),
        }
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        """Start."""
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop."""
        self.stop()

    @property
    def http_endpoint(self) -> str:
        """The base URL for OTLP/HTTP."""
        return f"{self._scheme}://127.0.0.1:{self._http}"

    @property
    def grpc_endpoint(self) -> str:
        """The URL for OTLP/gRPC."""
        return f"{self._scheme}://127.0.0.1:{self._grpc}"

    @property
    def log(self) -> str:
        """What it wrote so far, over all its lives."""
        path = self._folder / "output.log"
        return path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""

    def endpoint(self, protocol: str) -> str:
        """Return where it receives over ``grpc`` or ``http/protobuf``."""
        return self.grpc_endpoint if protocol == "grpc" else self.http_endpoint

    def validate(self) -> str:
        """Let the Collector check the configuration; return what it complains of."""
        done = subprocess.run(
            self._command("validate"), env=self._environment(), cwd=self._folder, capture_output=True, text=True,
            check=False, timeout=60,
        )  # fmt: skip
        said = done.stdout + done.stderr
        assert bool(done.returncode) == bool(said), said
        return said

    def run(self) -> int:
        """Run it until it ends by itself; return its exit code."""
        with (self._folder / "output.log").open("ab") as output:
            return subprocess.run(
                self._command(), stdout=output, stderr=output, env=self._environment(), cwd=self._folder, check=False,
                timeout=60,
            ).returncode  # fmt: skip

    def start(self) -> None:
        """Start, and wait until it says that it is healthy."""
        with (self._folder / "output.log").open("ab") as output:
            self._process = subprocess.Popen(
                self._command(), stdout=output, stderr=output, stdin=subprocess.DEVNULL, env=self._environment(),
                cwd=self._folder,
            )  # fmt: skip
        deadline = time.monotonic() + _START_SECONDS
        while not self._healthy():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.stop()
                raise RuntimeError(f"the Collector did not start: {self.log[-3000:]}")
            time.sleep(0.05)

    def stop(self) -> None:
        """Stop as an operator does; killed where it takes too long."""
        process, self._process = self._process, None
        children.stop(process, _STOP_SECONDS)

    def kill(self) -> None:
        """Kill it, as a machine that crashes does."""
        process, self._process = self._process, None
        children.kill(process)

    def metric(self, name: str) -> float:
        """Return the sum of one of its own metrics over all labels; 0 where it has none."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.metrics_port}/metrics", timeout=5) as answer:
            text = answer.read().decode()
        return sum(float(value) for value in re.findall(rf"^{name}(?:_total)?\{{.*\}} (\S+)$", text, re.MULTILINE))

    def _command(self, *before: str) -> tuple[str, ...]:
        files = [option for path in self._configurations for option in ("--config", str(path))]
        return (str(self.binary), *before, *files)

    def _environment(self) -> dict[str, str]:
        # The variables of the outside could be for another Collector.
        clean = {name: value for name, value in os.environ.items() if not name.startswith(("AUDIT_", "OTEL_"))}
        return clean | self._variables

    def _healthy(self) -> bool:
        with (
            contextlib.suppress(OSError),
            urllib.request.urlopen(f"http://127.0.0.1:{self._health}/", timeout=1) as answer,
        ):
            return bool(answer.status == 200)
        return False


def free_ports(count: int) -> list[int]:
    """Return ports of the loopback that nobody listens on."""
    with contextlib.ExitStack() as stack:
        # All at once, so that none is given twice.
        taken = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [server.getsockname()[1] for server in taken]


def overlay(folder: Path, name: str, text: str) -> Path:
    """Write a configuration that goes on top of another, and return its path."""
    path = folder / f"{name}.yaml"
    path.write_text(text, "utf-8")
    return path


def writing(folder: Path, *configurations: Path, **variables: str) -> tuple[Otelcol, Path]:
    """Return a Collector that writes what it receives to a file, and the file."""
    file = folder / "received.jsonl"
    last = overlay(folder, "to-a-file", _TO_A_FILE.format(path=file))
    tls = "AUDIT_TLS_CERT" in variables
    return Otelcol(folder / "collector", *configurations, last, variables=variables, tls=tls), file


def logs(file: Path) -> list[dict[str, Any]]:
    """Return the log records that a Collector wrote to a file."""
    return [
        log
        for line in file.read_bytes().splitlines()
        for resource in json.loads(line)["resourceLogs"]
        for scope in resource["scopeLogs"]
        for log in scope["logRecords"]
    ]


def assert_all_arrived(path: Path, file: Path, records: int) -> None:
    """Wait until a Collector wrote so many records, then compare each record of the archive with its file.

    What came twice is counted once.
    """
    wait_until(lambda: file.exists() and file.read_bytes().count(b'{"key":"audit.record.id"') >= records)
    with open_archive(path) as archive:
        found = compare(archive, file, keep=20)
        assert archive.status().sequence == records
    assert found.faults == ()
    assert (found.missing, found.waiting, found.foreign) == (0, 0, 0)
    assert found.matching >= records
