"""The JavaScript SDK as a client: installed from its lock file into a folder that later runs find again."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

__all__ = ["emit"]

FOLDER = Path(__file__).parent / "javascript"
INSTALL_SECONDS = 300


def emit(url: str, form: str, count: int) -> None:
    """Emit audit events to a URL, in ``json`` or ``protobuf``; fail where an export fails.

    Skips the running test where npm is missing, save in CI.
    """
    done = subprocess.run(
        ["node", "client.mjs", url, form, str(count)],
        cwd=_installed(), capture_output=True, text=True, timeout=60, check=False, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def _installed() -> Path:
    """Return a folder with the client and its packages."""
    if shutil.which("npm") is None or shutil.which("node") is None:
        if os.environ.get("CI") == "true":
            pytest.fail("node and npm are missing: CI must have them")
        pytest.skip("node and npm are not installed")
    files = [FOLDER / name for name in ("client.mjs", "package.json", "package-lock.json")]
    version = hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:16]
    folder = Path(tempfile.gettempdir()) / f"otel-audit-javascript-{os.getuid()}-{version}"
    folder.mkdir(mode=0o700, exist_ok=True)
    assert folder.stat().st_uid == os.getuid(), f"{folder} belongs to somebody else"
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "complete").exists():
            for file in files:
                shutil.copy(file, folder)
            command = ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
            done = subprocess.run(
                command, cwd=folder, capture_output=True, text=True, timeout=INSTALL_SECONDS, check=False
            )
            assert done.returncode == 0, done.stderr
            (folder / "complete").touch()
    return folder
