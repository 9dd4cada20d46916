"""``otel-audit subject-export``: a person's records, as one JSON document for that person."""

from __future__ import annotations

import contextlib
import os
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from otel_audit.archive.database import archive_errors
from otel_audit.archive.query import Archive, open_archive
from otel_audit.cli.audited import audited, given
from otel_audit.cli.options import archive_option, chosen_archive
from otel_audit.cli.subject import chosen_subject, pseudonym_option
from otel_audit.cli.values import Recorded
from otel_audit.errors import ArchiveError, ConfigError
from otel_audit.otlp import decode
from otel_audit.record import rfc3339, to_json
from otel_audit.safe import json_text

if TYPE_CHECKING:
    from otel_audit.archive.ranges import Range
    from otel_audit.archive.subjects import Match, Subject

__all__ = ["command"]


@click.command(short_help="Write a person's records as JSON.")
@click.argument("target", type=Recorded(), metavar="USER@HOST")
@click.option("--mentions", is_flag=True, help="Include records of others that mention the person.")
@click.option(
    "-O",
    "--output-file",
    "file",
    type=click.Path(),
    metavar="FILE",
    help="Write to this file, which must not exist yet, readable for its owner alone.  [default: standard output]",
)
@pseudonym_option
@archive_option
def command(*, archive: str | None, target: str, mentions: bool, file: str | None, pseudonym_key: str | None) -> None:
    """Write the records of a person, oldest first, as one JSON document: what erase would take.

    These are the records with USER at HOST, those where USER is the actor, and what the archive recorded of searches
    for USER and of legal holds. They may name others, too.
    """
    subject = chosen_subject(target, pseudonym_key)
    with open_archive(chosen_archive(archive)) as opened:
        audited(opened.path, "subject-export", **given())
        with _output(file) as write:
            _export(opened, subject, write, mentions=mentions)


@contextlib.contextmanager
def _output(file: str | None) -> Iterator[Callable[[str], Any]]:
    """Yield what writes text to a new file, which is not left behind where something goes wrong, or to the output."""
    if file is None:
        # Not there where a test captures the output.
        if hasattr(sys.stdout, "reconfigure"):
            sys.stdout.reconfigure(encoding="utf-8")
        yield sys.stdout.write
        return
    path = Path(file)
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        raise ConfigError(f"{path} is there already", "give a file that does not exist yet") from None
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
            yield stream.write
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def _export(archive: Archive, subject: Subject, write: Callable[[str], Any], *, mentions: bool) -> None:
    head = {
        "subject": subject.user,
        "host": subject.host,
        "archive_id": archive.id,
        "exported": rfc3339(time.time_ns()),
    }
    write("{")
    for name, value in head.items():
        write(f"{json_text(name)}: {json_text(value)}, ")
    write('"records": [')
    separator = "\n"
    for match in _matches(archive, subject):
        if match.theirs or mentions:
            try:
                record_id = str(uuid.UUID(bytes=match.record_id))
                record = decode(match.otlp, record_id, sequence=match.sequence, leaf=match.leaf, stream_id=archive.id)
            except ValueError:
                raise ArchiveError(f"record {match.sequence} is damaged", "otel-audit verify says more") from None
            write(separator + json_text(to_json(record)))
            separator = ",\n"
    write("]}\n" if separator == "\n" else "\n]}\n")


def _matches(archive: Archive, subject: Subject) -> Iterator[Match]:
    """Iterate over the records that name the person, a window at a time, and over holds, in their order."""
    import heapq  # start-up time, and so below

    from otel_audit.archive.subjects import hold_records

    with archive.database as connection, archive_errors(archive.path):
        holds = hold_records(connection, subject)
    held = sorted([*holds.lifted, *holds.in_force, *holds.mentions])
    yield from heapq.merge(_events(archive, subject), held, key=lambda match: match.sequence)


def _events(archive: Archive, subject: Subject) -> Iterator[Match]:
    from otel_audit.archive.subjects import WINDOW, search
    from otel_audit.archive.windows import next_window

    with archive.database as connection, archive_errors(archive.path):
        head = int(connection.execute("SELECT max(sequence) FROM record").get or 0)
    window: Range | None = (0, 0)
    while window is not None:
        with archive.database as connection, archive_errors(archive.path):
            window = next_window(connection, window[1] + 1, head, WINDOW)
            found = [] if window is None else list(search(connection, subject, *window))
        yield from found
