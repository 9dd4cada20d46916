"""``otel-audit prune``: removes the content of records whose time is over."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from otel_audit.archive.query import open_archive
from otel_audit.cli.audited import audited, given
from otel_audit.cli.options import archive_option, chosen_archive, form_option
from otel_audit.cli.sizes import size_text
from otel_audit.cli.terminal import standard_output
from otel_audit.cli.values import Recorded
from otel_audit.errors import ConfigError
from otel_audit.safe import escape, json_text

if TYPE_CHECKING:
    from pathlib import Path

    from otel_audit.archive.retention import Outcome
    from otel_audit.config import Config
    from otel_audit.retention_settings import Retention

__all__ = ["command"]


@click.command(short_help="Remove content whose time is over.")
@click.option(
    "--rule",
    "rules",
    type=Recorded(),
    multiple=True,
    metavar="PATTERN=AGE",
    help="How long records of some types keep their content: user.login.*=90d, config.changed=keep. Repeatable; of the"
    " patterns that match a type the longest counts.  [default: $OTEL_AUDIT_RETENTION]",
)
@click.option("--dry-run", is_flag=True, help="Only say what would be removed.")
@click.option("--force", is_flag=True, help="Remove what was not delivered, too: no collector will ever have it.")
@form_option
@archive_option
def command(*, archive: str | None, rules: tuple[str, ...], dry_run: bool, force: bool, form: str) -> int:
    """Remove the content of records that are older than the rule for their type says, and give the disk space back.

    What remains of each is a tombstone, so that the archive still verifies; a record of the archive's own says what was
    removed, by which rules and by whom. Records under a hold stay, and so do those that some destination has still to
    accept. Works beside running applications.
    """
    path = chosen_archive(archive)
    # Where there is no archive, none is made.
    open_archive(path).close()
    from otel_audit.config import Config  # start-up time

    config = Config.load(archive=path)
    retention = _retention(rules, config)
    outcome = _prune(path, retention, config, dry_run=dry_run, force=force)
    standard_output()
    if form == "json":
        sys.stdout.write(json_text(_json(outcome, dry_run=dry_run), indent=2) + "\n")
    else:
        for line in _text(outcome, dry_run=dry_run):
            sys.stdout.write(line + "\n")
    return 0


def _retention(rules: tuple[str, ...], config: Config) -> Retention:
    from otel_audit.retention_settings import Retention, parse_rule  # start-up time

    retention = Retention(tuple(parse_rule(rule, "--rule") for rule in rules)) if rules else config.retention
    if not retention:
        what = "every rule says to keep" if retention.rules else "there is no retention rule"
        raise ConfigError(f"{what}: nothing may be pruned", "give --rule PATTERN=AGE, or set OTEL_AUDIT_RETENTION")
    return retention


def _prune(path: Path, retention: Retention, config: Config, *, dry_run: bool, force: bool) -> Outcome:
    from otel_audit.archive.administration import operator, process_fields  # start-up time
    from otel_audit.archive.due import Gate
    from otel_audit.archive.retention import Pruner, would_prune
    from otel_audit.cli.checking import progress_bar
    from otel_audit.cli.operating import open_administration

    with progress_bar("pruning") as progress:
        if dry_run:
            with open_archive(path) as opened:
                audited(path, "prune", **given())
                return would_prune(opened.database, retention, Gate(config.destinations, force=force), progress)
        with open_administration(path) as administration:
            outcome = Pruner(
                administration, retention, destinations=config.destinations, force=force, actor=operator(),
                fields={"process": process_fields()}, spare=0.0, progress=progress,
            ).prune()  # fmt: skip
        if not outcome.records:
            audited(path, "prune", **given())  # else what was removed tells of it
        return outcome


def _json(outcome: Outcome, *, dry_run: bool) -> dict[str, Any]:
    return {
        "dry_run": dry_run,
        "records": outcome.records.total(),
        "content": outcome.content.total(),
        "types": {
            name: {"records": records, "content": outcome.content[name]}
            for name, records in sorted(outcome.records.items())
        },
        "held": outcome.held,
        "undelivered": outcome.undelivered,
        "size_before": outcome.before,
        "size_after": outcome.after,
    }


def _text(outcome: Outcome, *, dry_run: bool) -> Iterator[str]:
    done = "would be pruned" if dry_run else "pruned"
    yield f"{done}  {_count(outcome.records.total())}, {size_text(outcome.content.total())} of content"
    for name, records in sorted(outcome.records.items(), key=lambda item: (-item[1], item[0])):
        yield f"  {escape(name)}  {_count(records)}, {size_text(outcome.content[name])}"
    if outcome.held:
        yield f"kept  {_count(outcome.held)} under a hold: see otel-audit hold list"
    if outcome.undelivered:
        yield f"kept  {_count(outcome.undelivered)} not delivered: see otel-audit status"
    if not dry_run:
        yield f"size  {size_text(outcome.before)} before, {size_text(outcome.after)} now"


def _count(number: int) -> str:
    return f"{number} record{'' if number == 1 else 's'}"
