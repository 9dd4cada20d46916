"""Reads records in the order of recording: from a checkpoint on, and as they come."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, Protocol

from otel_audit.archive.filters import Filter, nanoseconds
from otel_audit.archive.query import Archive, Row
from otel_audit.errors import ArchiveError
from otel_audit.record import AuditRecord

if TYPE_CHECKING:
    from otel_audit.cli.cursor import Checkpoint
    from otel_audit.cli.printers import Printer

__all__ = ["Reader", "follow", "head", "resume"]

_POLL: Final = 0.25
"""Seconds between two looks at the archive."""
_SAVE: Final = 4_096
"""Records after which a long run saves its checkpoint."""


class Reader(Protocol):
    """Reads records in the form that the printer takes: `Archive.query` or `Archive.rows`."""

    def __call__(
        self, filter: Filter, *, limit: int | None, oldest_first: bool
    ) -> Iterator[AuditRecord] | Iterator[Row]:
        """Iterate over the records that match."""


def head(archive: Archive) -> int:
    """Return the archive's last sequence, whatever it holds; 0 in an empty archive."""
    return archive.bounds(Filter())[1]


def resume(
    read: Reader,
    printer: Printer[Any],
    wanted: Filter,
    *,
    limit: int | None,
    end: int,
    checkpoint: Checkpoint,
) -> None:
    """Print the records after a checkpoint, and move it on behind what the reader of the output has.

    Args:
        read: Reads records.
        wanted: Which ones.
        limit: Most records to print.
        end: The last sequence to look at.
        printer: Prints them.
        checkpoint: Where to begin; it is moved.
    """
    printed = 0
    last = checkpoint.sequence
    for record in read(replace(wanted, after=last, before=end + 1), limit=limit, oldest_first=True):
        printer.write(record)
        printed += 1
        last = record.sequence or last
        # Half an array is of no use.
        if printed % _SAVE == 0 and printer.streams:
            printer.flush()
            checkpoint.save(last)
    if limit is None or printed < limit:
        last = end
    printer.finish()
    printer.flush()
    checkpoint.save(last)


def follow(
    archive: Archive,
    read: Reader,
    printer: Printer[Any],
    wanted: Filter,
    *,
    limit: int | None,
    checkpoint: Checkpoint | None,
) -> None:
    """Print the last records and then new ones as they are recorded, until interrupted or until the filter's own end.

    Args:
        archive: The archive; an error where its file is removed or replaced.
        read: Reads records.
        wanted: Which ones.
        limit: How many to begin with; None: all. Not used with a checkpoint, which says where to begin.
        printer: Prints them.
        checkpoint: Where to begin, moved after each look; None: at the last records.
    """
    file = _identity(archive)
    try:
        done = head(archive)
        if checkpoint is not None:
            done = checkpoint.sequence
        elif limit is None:
            _print(printer, read(replace(wanted, before=done + 1), limit=None, oldest_first=True))
        else:
            newest = list(read(replace(wanted, before=done + 1), limit=limit, oldest_first=False))
            _print(printer, iter(reversed(newest)))
        until = None if wanted.until is None else nanoseconds(wanted.until)
        while True:
            # Before the look: what was recorded until then is shown.
            over = until is not None and time.time_ns() >= until
            end = head(archive)
            if end > done:
                _print(printer, read(replace(wanted, after=done, before=end + 1), limit=None, oldest_first=True))
                done = end
                if checkpoint is not None:
                    checkpoint.save(done)
            elif _identity(archive) != file:
                raise ArchiveError(f"the archive {archive.path} was removed or replaced", "follow the new one")
            if over:
                return
            time.sleep(_POLL)
    except KeyboardInterrupt:
        # The usual end. Each look ended with a flush.
        return


def _print(printer: Printer[Any], records: Iterator[Any]) -> None:
    # The first ones together: a table fits its widths to them.
    for record in records:
        printer.write(record)
    printer.flush()


def _identity(archive: Archive) -> tuple[int, int] | None:
    try:
        status = os.stat(archive.path)  # noqa: PTH116 - the same, without a second object each time
    except OSError:
        return None
    return status.st_dev, status.st_ino
