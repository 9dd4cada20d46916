"""The settings of the disk watch, and the levels that they make."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from otel_audit.archive.space import LEVELS, Space, level_of
from otel_audit.config import Config
from otel_audit.disk_settings import DiskSettings, Limit, resolve_disk
from otel_audit.errors import ConfigError

GIB = 1 << 30


def test_defaults() -> None:
    """Without settings, small disks are watched by their share and large ones by an amount."""
    settings = resolve_disk({}, {})
    assert (settings.warning.of(1 << 42), settings.critical.of(1 << 42)) == (GIB, GIB // 4)
    assert (settings.warning.of(1_000_000), settings.critical.of(1_000_000)) == (100_000, 50_000)
    assert settings.reserve == 32 << 20


@pytest.mark.parametrize(
    ("given_", "size", "percent"),
    [
        ("0", 0, None), (0, 0, None), (4096, 4096, None), ("512", 512, None), ("2KiB", 2048, None),
        ("3 MiB", 3 << 20, None), ("1TiB", 1 << 40, None), ("7%", None, 7), ("5%, 1GiB", GIB, 5), ("1GiB,5%", GIB, 5),
    ],
)  # fmt: skip
def test_amounts(given_: Any, size: int | None, percent: int | None) -> None:
    """Sizes in bytes and binary units, shares, and the lesser of both are understood; arguments win over variables."""
    variables = {"OTEL_AUDIT_DISK_WARNING": "1%"}
    assert resolve_disk({"disk_warning": given_}, variables).warning == Limit(size, percent)
    assert resolve_disk({}, variables).warning == Limit(None, 1)
    assert resolve_disk({}, {"OTEL_AUDIT_DISK_WARNING": str(given_)}).warning == Limit(size, percent)


@pytest.mark.parametrize(
    "wrong",
    ["-1", "1GB", "1gib", "100%", "5%,6%", "1GiB,2GiB", "much", ",", "1.5GiB", True, 1.5, [], -1, "9" * 400, "٣MiB"],
)
@pytest.mark.parametrize("name", ["disk_warning", "disk_critical", "disk_reserve"])
def test_wrong_amounts(name: str, wrong: Any) -> None:
    """What is no amount is refused with its name, its value and the forms; so is a variable."""
    with pytest.raises(ConfigError, match=name) as caught:
        resolve_disk({name: wrong}, {})
    assert "MiB" in caught.value.hint
    with pytest.raises(ConfigError, match=f"OTEL_AUDIT_{name.upper()}="):
        resolve_disk({}, {f"OTEL_AUDIT_{name.upper()}": str(wrong)})


@pytest.mark.parametrize("wrong", ["5%", "1GiB,5%", "1", "1023KiB"])
def test_a_reserve_is_a_size(wrong: str) -> None:
    """A reserve has a fixed size, large enough for what it is for."""
    with pytest.raises(ConfigError, match="at least 1MiB"):
        resolve_disk({"disk_reserve": wrong}, {})
    assert resolve_disk({"disk_reserve": "1MiB"}, {}).reserve == 1 << 20


def test_settings_of_a_provider(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    """`Config` has them, from arguments and from the environment."""
    monkeypatch.setenv("OTEL_AUDIT_DISK_CRITICAL", "3%")
    disk = Config.load(archive=tmp_path / "audit.db", disk_warning="20%", disk_reserve="2MiB").disk
    assert disk == DiskSettings(Limit(None, 20), Limit(None, 3), 2 << 20)


SETTINGS = DiskSettings(Limit(1_000), Limit(100), 50)


@pytest.mark.parametrize(
    ("free", "reserve", "before", "level"),
    [
        (1_000, 50, "ok", "ok"), (999, 50, "ok", "warning"), (1_099, 50, "warning", "warning"),
        (1_100, 50, "warning", "ok"), (100, 50, "ok", "warning"), (99, 50, "warning", "critical"),
        (99, None, "ok", "critical"), (99, 49, "critical", "full"), (109, 0, "full", "full"),
        (110, 0, "full", "warning"),
        (109, 50, "full", "critical"), (2_000, 0, "full", "ok"), (500, 49, "ok", "warning"),
    ],
)  # fmt: skip
def test_levels(free: int, reserve: int | None, before: Any, level: str) -> None:
    """A level begins below its limit and ends a tenth above it; full is a reserve spent below the critical level."""
    assert level_of(Space(free, 10_000, reserve), SETTINGS, before) == level


@given(st.integers(0, 2_000), st.integers(0, 50) | st.none(), st.sampled_from(LEVELS))
def test_levels_are_stable(free: int, reserve: int | None, before: Any) -> None:
    """The same space gives the same level again: nothing flutters."""
    space = Space(free, 10_000, reserve)
    level = level_of(space, SETTINGS, before)
    assert level_of(space, SETTINGS, level) == level
