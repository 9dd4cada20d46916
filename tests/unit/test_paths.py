"""Paths by the environment and by argument."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from otel_audit.errors import ConfigError
from otel_audit.keys import key_path, resolve
from otel_audit.paths import archive_path, expanded, file_path, high_water_directory
from otel_audit.retention_settings import resolve_retention
from otel_audit.sources.server import Server

NOBODY = "~nobody-has-this-name/x"
READ: Mapping[str, Callable[[], object]] = {
    "archive": lambda: archive_path({"OTEL_AUDIT_ARCHIVE": NOBODY}),
    "argument": lambda: file_path(NOBODY, "--archive"),
    "high water": lambda: high_water_directory(NOBODY),
    "key": lambda: key_path({"OTEL_AUDIT_SIGNING_KEY": NOBODY}),
    "key's argument": lambda: resolve(NOBODY, {}),
    "retention": lambda: resolve_retention(f"{NOBODY}.toml", (), {}),
    "heartbeat": lambda: Server(heartbeat=NOBODY),
}


@pytest.mark.parametrize("read", READ.values(), ids=READ.keys())
def test_a_home_that_nobody_has(read: Callable[[], object]) -> None:
    """Wherever a path is given, that of a user whom there is not is refused by name, with what to write instead."""
    with pytest.raises(ConfigError, match="begins with a home directory that nobody has") as caught:
        read()
    assert "~nobody-has-this-name/x" in caught.value.message
    assert caught.value.hint


def test_a_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The user's own directory stands for a tilde."""
    monkeypatch.setenv("HOME", str(tmp_path))
    assert expanded("~/audit.db") == tmp_path / "audit.db"
    assert expanded("audit.db") == Path("audit.db")
