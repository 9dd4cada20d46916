"""Examines everything, one thing after the other: what cannot be examined is a finding, too."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from otel_audit.archive.administration import Administration
from otel_audit.archive.query import Archive, open_archive
from otel_audit.archive.status import Status
from otel_audit.doctor.destination import examine_delivery, examine_endpoint, send_probe
from otel_audit.doctor.findings import Finding
from otel_audit.doctor.history import examine_clock, examine_high_water
from otel_audit.doctor.settings import examine_names, load_settings
from otel_audit.doctor.signing import examine_producer_key, examine_signing_key
from otel_audit.doctor.storage import examine_files, examine_library, examine_place, examine_space
from otel_audit.errors import AuditError
from otel_audit.paths import high_water_directory

__all__ = ["examine"]


def examine(
    path: Path,
    open_administration: Callable[[], Administration] | None,
    *,
    longest: int,
    timeout: float = 10.0,
    expected: bool = True,
) -> list[Finding]:
    """Return what is wrong with an archive and all that its records depend on.

    Args:
        path: The archive, which need not exist.
        open_administration: Opens what appends the archive's own records, for the probe; None: none is sent.
        longest: Nanoseconds that a record may wait for its delivery.
        timeout: Seconds to wait for the collector's answer, and for the delivery of the probe.
        expected: Whether there should be an archive.
    """
    path = path.absolute()
    found = [*examine_library(), *examine_names()]
    if path.parent.is_dir():
        found += _safely("place", lambda: examine_place(path.parent))
        found += _safely("space", lambda: examine_space(path))
    if not path.exists():
        found.append(_missing(path, expected=expected))
        found += _with_archive(None)
        return found + _delivery(path, None, None, timeout, found)
    found += _safely("files", lambda: examine_files(path))
    status: Status | None = None
    try:
        with open_archive(path) as archive:
            status = archive.status()
            found += _with_archive(archive)
    except (AuditError, OSError) as error:
        found.append(_failed("archive-unreadable", error))
        open_administration = None
    if status is not None:
        found += examine_delivery(status, time.time_ns(), longest)
    return found + _delivery(path, status, open_administration, timeout, found)


def _with_archive(archive: Archive | None) -> Iterator[Finding]:
    marks = None
    with contextlib.suppress(AuditError):  # the settings are examined later
        marks = high_water_directory()
    yield from _safely("clock", lambda: examine_clock(archive, time.time_ns(), marks))
    if archive is not None:
        yield from _safely("high-water", lambda: examine_high_water(archive, marks))
    yield from _safely("signing-key", lambda: examine_signing_key(archive))
    yield from _safely("producer-key", lambda: examine_producer_key(archive))


def _delivery(
    path: Path,
    status: Status | None,
    open_administration: Callable[[], Administration] | None,
    timeout: float,
    told: list[Finding],
) -> list[Finding]:
    found: list[Finding] = []
    config = load_settings(path, {one.what for one in told}, found)
    if config is None:
        return found
    try:
        more, usable = examine_endpoint(config, status, timeout)
    except (AuditError, OSError) as error:
        more, usable = [_failed("destination-unknown", error)], False
    found += more
    if usable and open_administration is not None:
        opener = open_administration
        found += _safely("probe", lambda: [send_probe(config, opener, timeout)])
    return found


def _missing(path: Path, *, expected: bool) -> Finding:
    return Finding(
        "warning" if expected else "note",
        "archive-missing",
        f"there is no archive at {path}",
        "nothing was recorded yet, or the application records elsewhere",
        "give --archive or set OTEL_AUDIT_ARCHIVE to where the application records" if expected else "",
    )


def _safely(what: str, examiner: Callable[[], Iterable[Finding]]) -> list[Finding]:
    """Return the findings of an examiner; that it could not go on is one of them."""
    found: list[Finding] = []
    try:
        for one in examiner():
            found.append(one)  # noqa: PERF402 - those before an error count
    except (AuditError, OSError) as error:
        found.append(_failed(f"{what}-unknown", error))
    return found


def _failed(code: str, error: AuditError | OSError) -> Finding:
    if isinstance(error, AuditError):
        return Finding("error", code, error.message, "", error.hint)
    where = f"{error.filename}: " if error.filename is not None else ""
    return Finding(
        "error", code, f"{where}{error.strerror or error}", "", "check the path, its permissions and the disk"
    )
