"""``otel-audit verify``: whether every record is still what was recorded."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from otel_audit.archive.query import open_archive
from otel_audit.cli.audited import audited, given, not_recorded, recording
from otel_audit.cli.checking import CheckingCommand, progress_bar, root_option
from otel_audit.cli.options import archive_option, chosen_archive, form_option, limit_option
from otel_audit.cli.signing import verifier_option
from otel_audit.cli.terminal import standard_output
from otel_audit.cli.values import Beginning, NoteFile, ProducerKeyText
from otel_audit.integrity_settings import resolve_integrity
from otel_audit.record import rfc3339
from otel_audit.safe import escape, json_text

if TYPE_CHECKING:
    from otel_audit.archive.against import Comparison
    from otel_audit.archive.report import Report, Root, Since
    from otel_audit.archive.signatures import Trust
    from otel_audit.notes import Note, Verifier
    from otel_audit.producer_keys import ProducerVerifier

__all__ = ["command"]


@click.command(cls=CheckingCommand, short_help="Check that nothing was changed.")
@click.option(
    "--since",
    type=Beginning(),
    default="1",
    metavar="SEQUENCE|TIME",
    help="Check the records from here on: a sequence, or a time of recording as for show. The tree before it is taken"
    " as it is.  [default: 1]",
)
@root_option
@click.option(
    "--checkpoint",
    "notes",
    type=NoteFile(),
    multiple=True,
    metavar="NOTE",
    help="A file with a checkpoint's note that was kept elsewhere (- reads standard input). Repeatable.",
)
@verifier_option
@click.option(
    "--high-water",
    type=click.Path(file_okay=False),
    metavar="DIRECTORY",
    help="Where the machine that records keeps its high-water marks.  [default: $OTEL_AUDIT_HIGH_WATER, else in the"
    " user's data directory]",
)
@click.option(
    "--against",
    type=click.Path(dir_okay=False),
    metavar="FILE",
    help="Compare with what a collector received: the lines that its file exporter wrote as OTLP/JSON.",
)
@click.option(
    "--producer-key",
    "producer_keys",
    type=ProducerKeyText(),
    multiple=True,
    metavar="FILE|KEY",
    help="A key that may have signed records, all others being faults: the file of a public key, a certificate or a"
    " secret, or a public key as base64. Repeatable.  [default: OTEL_AUDIT_INTEGRITY_KEY, and records' certificates]",
)
@click.option("--jobs", type=click.IntRange(1, 64), default=1, show_default=True, help="Processes to use.")
@limit_option
@form_option
@archive_option
def command(
    *,
    archive: str | None,
    since: Since,
    roots: tuple[Root, ...],
    notes: tuple[Note, ...],
    keys: tuple[Verifier, ...],
    high_water: str | None,
    against: str | None,
    producer_keys: tuple[ProducerVerifier, ...],
    jobs: int,
    limit: int,
    form: str,
) -> int:
    """Check that every record, the tree above them and all that is derived from them are what they were.

    Works beside running applications. What was cut off the end, or written anew together with its hashes, shows only by
    what was noted elsewhere: a root (--root), a checkpoint's note (--checkpoint), the high-water mark of this machine,
    or what a collector received (--against). Exits with 0 where all is intact, 1 where something was changed, 2 where
    the archive cannot be read, 3 on wrong usage.
    """
    from otel_audit.archive.verify import Noted, verify  # start-up time
    from otel_audit.paths import high_water_directory

    path = chosen_archive(archive)
    recorded = recording()  # a wrong setting shows before the work
    noted = Noted(roots, notes, keys, high_water_directory(high_water), _producers(producer_keys))
    with progress_bar("verifying") as progress:
        report = verify(path, since=since, noted=noted, jobs=jobs, progress=progress, keep=limit)
    comparison = None if against is None else _compare(path, against, limit)
    faultless = report.intact and (comparison is None or not comparison.fault_count)
    # Not before: what is verified is what was found. And where it was tampered with, nothing is added to the traces.
    if faultless:
        audited(path, "verify", **given())
    elif recorded:
        not_recorded("faults were found, and the archive stays as it is")
    standard_output()
    if form == "json":
        sys.stdout.write(json_text(_json(report, comparison), indent=2) + "\n")
    else:
        for line in _text(report, comparison, signed=bool(noted.producers.verifiers)):
            sys.stdout.write(line + "\n")
    return 0 if faultless else 1


def _producers(given: tuple[ProducerVerifier, ...]) -> Trust:
    """Return the producers' keys that were given, else the one that the environment names."""
    from otel_audit.archive.signatures import Trust  # start-up time

    if given:
        return Trust(given, only=True)
    key = resolve_integrity({}, os.environ)
    return Trust() if key is None or key.verifier is None else Trust((key.verifier,))


def _compare(path: Path, file: str, limit: int) -> Comparison:
    from otel_audit.archive.against import compare  # start-up time

    with open_archive(path) as archive, progress_bar("comparing") as progress:
        return compare(archive, Path(file), keep=limit, progress=progress)


def _asked(since: Since) -> str:
    return str(since.sequence) if since.observed is None else rfc3339(since.observed)


def _text(report: Report, comparison: Comparison | None, *, signed: bool) -> Iterator[str]:
    yield f"archive     {escape(report.archive)}"
    yield f"archive id  {escape(report.archive_id)}"
    yield f"asked       {_asked(report.asked)} to the end"
    yield f"found       {f'{report.first} to {report.last}' if report.first <= report.last else 'no records'}"
    yield f"records     {report.valid} valid, {report.invalid} invalid, {report.missing} missing"
    if report.erased or report.pruned:
        yield f"content     {report.erased} erased, {report.pruned} pruned"
    if signed or report.signatures.signed:
        verified, consistent, unchecked, unsigned = report.signatures
        yield f"signatures  {verified} verified, {consistent} by the records' own certificate, {unchecked} not checked"
        yield f"unsigned    {unsigned} records"
    yield f"root        {'none' if report.root is None else f'{report.last}:{report.root.hex()}'}"
    for check in report.roots:
        yield f"noted root  {check.noted.size} {'holds' if check.holds else 'does not hold'}"
    if report.checkpoints:
        yield f"checkpoints {report.checkpoints} hold, {report.signed} signed, up to record {report.covered}"
    yield f"high water  {'none known here' if report.high_water is None else report.high_water}"
    if comparison is not None:
        came = f"{comparison.matching} match, {comparison.missing} missing, {comparison.waiting} not delivered yet"
        if comparison.removed:
            came += f", {comparison.removed} removed here"
        yield f"collector   {came}, {comparison.foreign} of others"
    count = report.fault_count + (comparison.fault_count if comparison is not None else 0)
    yield f"faults      {count or 'none'}"
    faults = [*report.faults, *(comparison.faults if comparison is not None else ())]
    for fault in faults:
        yield escape(f"{fault.code}: {fault.place}: {fault.detail}")
    if count > len(faults):
        yield f"... and {count - len(faults)} more"


def _json(report: Report, comparison: Comparison | None) -> dict[str, Any]:
    faults = [*report.faults, *(comparison.faults if comparison is not None else ())]
    count = report.fault_count + (comparison.fault_count if comparison is not None else 0)
    return {
        "archive": report.archive,
        "archive_id": report.archive_id,
        "intact": not count,
        "asked": _asked(report.asked),
        "first": report.first,
        "last": report.last,
        "valid": report.valid,
        "invalid": report.invalid,
        "missing": report.missing,
        "erased": report.erased,
        "pruned": report.pruned,
        "signatures": report.signatures._asdict(),
        "root": None if report.root is None else report.root.hex(),
        "roots": [
            {"size": check.noted.size, "root": check.noted.hash.hex(), "holds": check.holds} for check in report.roots
        ],
        "checkpoints": {"hold": report.checkpoints, "signed": report.signed, "covered": report.covered},
        "high_water": report.high_water,
        "collector": comparison
        and {
            "matching": comparison.matching,
            "missing": comparison.missing,
            "waiting": comparison.waiting,
            "removed": comparison.removed,
            "foreign": comparison.foreign,
        },
        "fault_count": count,
        "faults": [{"code": fault.code, "place": fault.place, "detail": fault.detail} for fault in faults],
    }
