"""A real collector as a process: the `rotel` binary, forwarding to wherever a test can look at what arrived."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Self

from tests import children

__all__ = ["Rotel"]

_START_SECONDS = 15.0
_STOP_SECONDS = 10.0


class Rotel:
    """One rotel agent on 127.0.0.1, receiving OTLP over HTTP and gRPC.

    Made, it runs not yet: `start` and `stop` may be called in turn, on the same ports; as a context manager it starts
    on entry and stops on exit. Skips the running test where the package `rotel` has no binary for this platform;
    outside of tests ask `missing` first.

    Args:
        forward: Base URL that it exports to over OTLP/HTTP, such as ``Collector.endpoint``; without one it swallows
            everything.
        batch_timeout: How long it gathers before it forwards, in rotel's notation.
        options: Further options of its command line.
    """

    def __init__(
        self, forward: str | None = None, *, batch_timeout: str = "20ms", options: tuple[str, ...] = ()
    ) -> None:
        reason = self.missing()
        if reason:
            # Here, since the demo and the benchmark use this class without pytest.
            import pytest

            pytest.skip(reason)
        self._forward = forward
        self._options = ("--batch-timeout", batch_timeout, *options)
        self._folder = tempfile.TemporaryDirectory(prefix="rotel-")
        self._process: subprocess.Popen[bytes] | None = None
        self._http_port, self._grpc_port = _free_ports(2)

    def __enter__(self) -> Self:
        """Start."""
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop, and remove its files."""
        self.stop()
        self._folder.cleanup()

    @staticmethod
    def missing() -> str:
        """Return why there is no rotel here; empty where there is one."""
        return "" if _binary() else "the package rotel has no binary for this platform"

    @property
    def http_endpoint(self) -> str:
        """The base URL for OTLP/HTTP."""
        return f"http://127.0.0.1:{self._http_port}"

    @property
    def grpc_endpoint(self) -> str:
        """The URL for OTLP/gRPC."""
        return f"http://127.0.0.1:{self._grpc_port}"

    @property
    def pid(self) -> int | None:
        """The process id, while it runs."""
        return self._process.pid if self._process is not None else None

    def start(self) -> None:
        """Start, and wait until it accepts connections."""
        if self._process is not None:
            return
        folder = Path(self._folder.name)
        exporter: tuple[str, ...] = ("--exporter", "blackhole")
        if self._forward is not None:
            exporter = (
                "--exporter", "otlp",
                "--otlp-exporter-endpoint", self._forward,
                "--otlp-exporter-protocol", "http",
                "--otlp-exporter-retry-initial-backoff", "200ms",
            )  # fmt: skip
        command = (
            str(_binary()), "start",
            "--otlp-http-endpoint", f"127.0.0.1:{self._http_port}",
            "--otlp-grpc-endpoint", f"127.0.0.1:{self._grpc_port}",
            "--pid-file", str(folder / "rotel.pid"),
            "--log-file", str(folder / "rotel.log"),
            *exporter, *self._options,
        )  # fmt: skip
        # Its options can be set by the environment too, which is not the test's.
        clean = {name: value for name, value in os.environ.items() if not name.startswith(("ROTEL_", "OTEL_"))}
        with (folder / "output.log").open("ab") as output:
            self._process = subprocess.Popen(command, stdout=output, stderr=output, stdin=subprocess.DEVNULL, env=clean)
        deadline = time.monotonic() + _START_SECONDS
        while not all(_accepts(port) for port in (self._http_port, self._grpc_port)):
            if self._process.poll() is not None or time.monotonic() > deadline:
                said = (folder / "output.log").read_text(encoding="utf-8", errors="replace")
                self.stop()
                raise RuntimeError(f"rotel did not start: {said[-2000:]}")
            time.sleep(0.02)

    def stop(self) -> None:
        """Stop as an operator does, so that what it holds is forwarded; killed where it takes too long."""
        process, self._process = self._process, None
        children.stop(process, _STOP_SECONDS)

    def kill(self) -> None:
        """Kill it, as a machine that crashes does: what it holds is lost."""
        process, self._process = self._process, None
        children.kill(process)


def _binary() -> Path | None:
    # The package's own module is not imported: it reads the environment and warns.
    found = importlib.util.find_spec("rotel")
    for folder in (found.submodule_search_locations or ()) if found is not None else ():
        path = Path(folder) / "rotel-agent"
        if os.access(path, os.X_OK):
            return path
    return None


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        # All at once, so that none is given twice.
        taken = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [server.getsockname()[1] for server in taken]


def _accepts(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True
