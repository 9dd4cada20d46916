"""Examines the settings in the environment: those that are wrong, and those that nobody reads."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Final

from otel_audit.config import Config
from otel_audit.doctor.findings import Finding
from otel_audit.errors import ConfigError

__all__ = ["VARIABLES", "examine_names", "load_settings"]

_PREFIX: Final = "OTEL_AUDIT"
VARIABLES: Final = frozenset(
    f"{_PREFIX}_{name}"
    for name in (
        "ARCHIVE", "CHECKPOINT_INTERVAL", "CLICKHOUSE_PASSWORD", "DISK_CRITICAL", "DISK_RESERVE",
        "DISK_WARNING", "DROP_IP", "DURABILITY", "GEOIP", "HIGH_WATER", "HOST", "INTEGRITY_ALGORITHM",
        "INTEGRITY_CERTIFICATE", "INTEGRITY_KEY", "IP_PREFIX_V4", "IP_PREFIX_V6", "ON_FAILURE", "PROFILE",
        "PSEUDONYMISE", "PSEUDONYM_KEY", "READS", "REDACT", "RETENTION", "SIGNING_KEY", "TOKEN", "TRACE_URL",
        "VICTORIALOGS_PASSWORD",
    )
)  # fmt: skip
"""All variables of our own."""


def examine_names(environ: Mapping[str, str] = os.environ) -> Iterator[Finding]:
    """Iterate over the variables that look like ours and are not; their values may be secrets, and are not told."""
    for name in sorted(environ):
        if name.startswith(_PREFIX) and name not in VARIABLES:
            import difflib  # for this message only

            known = {variable.removeprefix(_PREFIX): variable for variable in sorted(VARIABLES)}
            near = difflib.get_close_matches(name.removeprefix(_PREFIX), known, 1, 0.7)
            yield Finding(
                "warning",
                "variable-unknown",
                f"there is no variable {name}",
                "nothing heeds it: what it was to change is as if it were not there",
                f"set {known[near[0]]} in its place" if near else "unset it; docs/configuration.md has all variables",
            )


def load_settings(path: Path, told: Collection[str], found: list[Finding]) -> Config | None:
    """Return the settings of an application with this environment; None where it could not start.

    Args:
        path: The archive.
        told: What was said already.
        found: What is wrong is added here.
    """
    try:
        config = Config.load(archive=path)
    except ConfigError as error:
        if error.message not in told:
            why = "the application does not start with it; further mistakes show when this one is corrected"
            found.append(Finding("error", "setting", error.message, why, error.hint))
        return None
    if not config.sending:
        found.append(
            Finding(
                "warning",
                "sending-off",
                "OTEL_SDK_DISABLED=true stops the sending",
                "records stay in the archive, and the disk fills up",
                "unset it for one process, such as otel-audit ship",
            )
        )
    return config
