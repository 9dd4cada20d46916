"""How much space the archive's disk is to have left, resolved from arguments and ``OTEL_AUDIT_DISK_*`` variables."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from otel_audit.errors import ConfigError

__all__ = ["DISK_NAMES", "DiskSettings", "Limit", "resolve_disk"]

DISK_NAMES: Final = ("disk_warning", "disk_critical", "disk_reserve")
_DEFAULTS: Final = {"disk_warning": "1GiB,10%", "disk_critical": "256MiB,5%", "disk_reserve": "32MiB"}
_UNITS: Final = {"": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40}
_SIZE: Final = re.compile(r"([0-9]{1,15}) ?(|KiB|MiB|GiB|TiB)")
_SHARE: Final = re.compile(r"([0-9]{1,2}) ?%")
_LARGEST: Final = 1 << 60
_LEAST: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Limit:
    """An amount of free space, as bytes, as a share of the disk, or the lesser of both.

    Args:
        size: Bytes; None: not given.
        percent: Hundredths of the disk; None: not given.
    """

    size: int | None = None
    percent: int | None = None

    def of(self, total: int) -> int:
        """Return the bytes on a disk of that many."""
        given = (self.size, None if self.percent is None else total * self.percent // 100)
        return min((number for number in given if number is not None), default=0)


@dataclass(frozen=True, slots=True)
class DiskSettings:
    """What the archive's disk is watched for.

    Args:
        warning: Free space below which the operator is warned.
        critical: Free space below which it is urgent.
        reserve: Bytes that are kept for the last records; 0: none.
    """

    warning: Limit
    critical: Limit
    reserve: int


def resolve_disk(settings: Mapping[str, Any] | None = None, environ: Mapping[str, str] = os.environ) -> DiskSettings:
    """Return the settings: arguments win over the environment, the environment over the defaults.

    Args:
        settings: Arguments: ``disk_warning``, ``disk_critical``, ``disk_reserve``; others are not looked at.
        environ: The environment.

    Raises:
        ConfigError: One of them is wrong; names it, its value and the remedy.
    """
    limits = {}
    for name in DISK_NAMES:
        given = None if settings is None else settings.get(name)
        variable = f"OTEL_AUDIT_{name.upper()}"
        shown = variable if given is None else name
        limits[name] = _limit(environ.get(variable) or _DEFAULTS[name] if given is None else given, shown)
    reserve = limits["disk_reserve"]
    if reserve.size is None or reserve.percent is not None or 0 < reserve.size < _LEAST:
        raise ConfigError("the reserve is no size of at least 1MiB", "give disk_reserve such as 32MiB, or 0 for none")
    return DiskSettings(limits["disk_warning"], limits["disk_critical"], reserve.size)


def _limit(given: Any, shown: str) -> Limit:
    parts = str(given).split(",") if isinstance(given, (str, int)) and not isinstance(given, bool) else []
    sizes: list[int] = []
    shares: list[int] = []
    for part in map(str.strip, parts):
        if size := _SIZE.fullmatch(part):
            sizes.append(int(size[1]) * _UNITS[size[2]])
        elif share := _SHARE.fullmatch(part):
            shares.append(int(share[1]))
        else:
            parts = []
            break
    if not parts or len(sizes) > 1 or len(shares) > 1 or max(sizes, default=0) > _LARGEST:
        raise ConfigError(
            f"{shown}={given!r} is no amount of disk space",
            "give a size such as 500MiB (units KiB, MiB, GiB, TiB), a share such as 5%,"
            " the lesser of both as 1GiB,10%, or 0",
        )
    return Limit(sizes[0] if sizes else None, shares[0] if shares else None)
