"""``otel-audit doctor``: what is wrong with all that audit records depend on, and what to do about it."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from otel_audit.cli.options import archive_option, chosen_archive, form_option
from otel_audit.cli.terminal import standard_output
from otel_audit.cli.values import Duration, Seconds
from otel_audit.safe import escape, json_text

if TYPE_CHECKING:
    from otel_audit.doctor.findings import Finding

__all__ = ["command"]


@click.command(short_help="Find what loses records, or will.")
@click.option(
    "--collector-config",
    "files",
    multiple=True,
    type=click.Path(),
    metavar="FILE",
    help="Configuration of an OpenTelemetry Collector, to be examined too. Repeatable, as the Collector's --config: of"
    " several files the later ones win. Needs the extra `doctor`.",
)
@click.option("--no-probe", is_flag=True, help="Record nothing: send no probe to the destination.")
@click.option(
    "--timeout",
    type=Seconds(),
    default=10.0,
    show_default=True,
    metavar="SECONDS",
    help="Time to wait for the collector's answer, and for the delivery of the probe.",
)
@click.option(
    "--max-age",
    type=Duration(),
    default="1h",
    show_default=True,
    metavar="DURATION",
    help="Age above which an undelivered record is a finding.",
)
@form_option
@archive_option
def command(
    *, archive: str | None, files: tuple[str, ...], no_probe: bool, timeout: float, max_age: int, form: str
) -> int:
    """Examine what audit records depend on, and say for each finding what it is, why it matters and what to do.

    SQLite, file system, permissions, disk, clock, keys, settings, delivery and destination; run it as the user and with
    the environment of the application. Where there is a destination, a probe is recorded in the archive, and shipped as
    all records are. With --collector-config also what a Collector would lose.

    Exits with 1 where there is an error or a warning, with 0 where there are notes at most.
    """
    from otel_audit.cli.operating import open_administration  # start-up time, as below
    from otel_audit.doctor.examine import examine

    # Findings say all of it.
    logging.getLogger("otel_audit").setLevel(logging.CRITICAL)
    collector = _collector(files)
    path = chosen_archive(archive)
    named = archive is not None or bool(os.environ.get("OTEL_AUDIT_ARCHIVE"))
    found = examine(
        path,
        None if no_probe else partial(open_administration, path),
        longest=max_age,
        timeout=timeout,
        expected=named or not files,
    )
    findings = _sorted([*found, *collector])
    standard_output()
    if form == "json":
        sys.stdout.write(json_text(_json(findings), indent=2) + "\n")
    else:
        for line in _text(findings):
            sys.stdout.write(escape(line) + "\n")
    sys.stdout.flush()
    return 1 if any(finding.severity != "note" for finding in findings) else 0


def _collector(files: Sequence[str]) -> list[Finding]:
    if not files:
        return []
    from otel_audit.doctor.collector import examine_collector  # start-up time: for those who ask for it

    return examine_collector(files)


def _sorted(findings: list[Finding]) -> list[Finding]:
    """Return the findings, the gravest first; among equals in the order of the files, and as they were found."""
    from otel_audit.doctor.findings import SEVERITIES

    return sorted(findings, key=lambda one: (SEVERITIES.index(one.severity), one.file or "", one.line or 0))


def _text(findings: Sequence[Finding]) -> Iterator[str]:
    for finding in findings:
        place = f"{finding.place}: " if finding.place else ""
        yield f"{finding.severity + ':':<8} {place}{finding.what}"
        if finding.why:
            yield f"         {finding.why}"
        if finding.remedy:
            yield f"         -> {finding.remedy}"
    counts = [
        (sum(one.severity == severity for one in findings), severity) for severity in ("error", "warning", "note")
    ]
    told = [f"{count} {severity}{'' if count == 1 else 's'}" for count, severity in counts if count]
    yield ", ".join(told) or "nothing found"


def _json(findings: Sequence[Finding]) -> dict[str, Any]:
    return {"findings": [finding._asdict() for finding in findings]}
