"""What every test stands on: no telemetry settings from outside, and a home of its own."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

# A busy machine is no failure: the time limit of a test is pytest's.
settings.register_profile("otel_audit", deadline=None, print_blob=True)
settings.load_profile("otel_audit")
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # As for whatever a shell starts in the background: what tests start and interrupt would ignore it, too.
    signal.signal(signal.SIGINT, signal.default_int_handler)


def _clear_telemetry(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("OTEL_")]:
        monkeypatch.delenv(name)
    # Nearly all tests count records. tests/acceptance/test_cli_reads.py has the default.
    monkeypatch.setenv("OTEL_AUDIT_READS", "off")
    # Nor may records depend on the disk of whoever runs the tests. tests/integration/test_disk_watch.py fills its own.
    for name in ("WARNING", "CRITICAL", "RESERVE"):
        monkeypatch.setenv(f"OTEL_AUDIT_DISK_{name}", "0")


@pytest.fixture(autouse=True, scope="session")
def _session_environment() -> Iterator[None]:
    # Fixtures of a wider scope than a test start their processes before `environment` runs.
    with pytest.MonkeyPatch.context() as monkeypatch:
        _clear_telemetry(monkeypatch)
        yield


@pytest.fixture(autouse=True)
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Clear every OTEL_* variable, and keep default archives inside the test's own directory."""
    _clear_telemetry(monkeypatch)
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("XDG_STATE_HOME", str(home / ".local" / "state"))
    monkeypatch.setenv("XDG_DATA_HOME", str(home / ".local" / "share"))


@pytest.fixture
def archive_path(tmp_path: Path) -> Path:
    """Return the path of an archive that does not exist yet, in a directory of its own."""
    return tmp_path / "archive" / "audit.db"
