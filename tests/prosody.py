"""Runs Debian's ``prosody`` on loopback, with a configuration, data and a module path of its own."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from pathlib import Path
from typing import Self

import pytest

from tests import children

__all__ = ["HOST", "MODULES", "Prosody", "free_port", "needs_prosody"]

HOST = "example.test"
MODULES = Path(__file__).parents[1] / "examples" / "prosody"
_SECONDS = 30

_CONFIGURATION = """\
run_as_root = {root}
daemonize = false
pidfile = "{folder}/prosody.pid"
data_path = "{folder}/data"
plugin_paths = {{ {plugins} }}
log = {{ debug = "{folder}/prosody.log" }}
use_ipv6 = false
interfaces = {{ "127.0.0.1" }}
c2s_ports = {{ {port} }}
modules_disabled = {{ "s2s", "tls", "offline", "s2s_auth_certs", "http" }}
modules_enabled = {{ {modules} }}
c2s_require_encryption = false
allow_unencrypted_plain_auth = true
allow_registration = true
authentication = "internal_hashed"
{settings}
VirtualHost "{host}"
"""


def needs_prosody(*, sql: bool = False) -> None:
    """Skip the test where there is no prosody, or nothing to store in SQLite with; never in CI, which installs both."""
    missing = [] if shutil.which("prosody") else ["prosody"]
    if sql and not any(Path("/usr/lib").glob("**/lua/*/dbd/sqlite3.so")):
        missing.append("lua-dbi-sqlite3")
    if missing:
        assert os.environ.get("CI") != "true", f"CI needs the packages: {' '.join(missing)}"
        pytest.skip(f"not installed: apt-get install {' '.join(missing)}")


def free_port() -> int:
    """Return a port that nobody listens on now."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


class Prosody:
    """One Prosody with the virtual host `HOST`, whose data outlive `stop`, `kill` and `start`.

    Args:
        folder: Where its files go.
        settings: Further lines of its configuration.
        modules: Modules to enable, beside those that Prosody loads anyway.
        plugins: Folders of modules.
    """

    def __init__(
        self,
        folder: Path,
        settings: str = "",
        modules: tuple[str, ...] = ("roster", "saslauth", "register", "audit_otel"),
        plugins: tuple[Path, ...] = (MODULES,),
    ) -> None:
        needs_prosody(sql='storage = "sql"' in settings)
        self.folder, self.port = folder, free_port()
        (folder / "data").mkdir(parents=True, exist_ok=True)
        self._settings, self._modules, self._plugins = settings, modules, plugins
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        """Start."""
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop."""
        self.stop()

    @property
    def log(self) -> str:
        """What it logged."""
        return (self.folder / "prosody.log").read_text(encoding="utf-8", errors="replace")

    @property
    def host_data(self) -> Path:
        """The folder of the host's data."""
        return self.folder / "data" / "example%2etest"

    def start(self) -> None:
        """Start, and wait until it accepts connections."""
        configuration = self.folder / "prosody.cfg.lua"
        quoted = [", ".join(f'"{name}"' for name in names) for names in (self._plugins, self._modules)]
        configuration.write_text(
            _CONFIGURATION.format(
                root=str(os.getuid() == 0).lower(), folder=self.folder, port=self.port, host=HOST,
                plugins=quoted[0], modules=quoted[1], settings=self._settings,
            ),
            encoding="utf-8",
        )  # fmt: skip
        command = ("prosody", "--config", str(configuration), "-F")
        with (self.folder / "output.log").open("ab") as output:
            self._process = subprocess.Popen(command, stdout=output, stderr=output, stdin=subprocess.DEVNULL)
        deadline = time.monotonic() + _SECONDS
        while not self._accepts():
            if self._process.poll() is not None or time.monotonic() > deadline:
                said = (self.folder / "output.log").read_text(encoding="utf-8", errors="replace")
                self.stop()
                raise RuntimeError(f"prosody did not start: {said[-2000:]}")
            time.sleep(0.05)

    def stop(self) -> None:
        """Stop in order."""
        process, self._process = self._process, None
        children.stop(process, _SECONDS)

    def kill(self) -> None:
        """Kill it, as a crash does."""
        process, self._process = self._process, None
        children.kill(process)

    def _accepts(self) -> bool:
        try:
            socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
        except OSError:
            return False
        return True
