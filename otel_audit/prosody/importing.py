"""Imports the entries of a mod_audit archive, each once, however often it is run."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import unquote, urlsplit

from otel_audit.archive.query import open_archive
from otel_audit.archive.received import Foreign, keep
from otel_audit.attributes import INTEGRITY_PREFIX
from otel_audit.clean import MARKS, Marks
from otel_audit.errors import ConfigError
from otel_audit.otlp import encode, encode_resource, encode_scope
from otel_audit.prosody.entry import Entry, entry_digest, entry_time, read_event

if TYPE_CHECKING:
    from otel_audit.archive.query import Archive
    from otel_audit.prosody.internal import Files
    from otel_audit.prosody.sql import Database
    from otel_audit.provider import AuditProvider
    from otel_audit.record import AuditRecord

__all__ = ["Importer", "Summary", "open_source"]

_BATCH: Final = 512
"""Entries that share a transaction."""
_MAGIC: Final = b"SQLite format 3\0"
_URL: Final = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")


@dataclass
class Summary:
    """What an import did.

    Args:
        imported: Entries that were recorded.
        there: Entries that had been recorded before.
        unreadable: Places of what could not be read as an entry, and is recorded as it stands, with the reasons.
    """

    imported: int = 0
    there: int = 0
    unreadable: list[tuple[str, str]] = field(default_factory=list)

    def count(self, outcome: str) -> None:
        """Count one entry."""
        if outcome == "recorded":
            self.imported += 1
        else:
            self.there += 1


@contextmanager
def open_source(source: str, host: str) -> Iterator[Files | Database]:
    """Open the archive of a host, wherever it is.

    Args:
        source: Prosody's data directory, the host's directory within it, a ``.list`` file, an SQLite database, or the
            database's URL: ``sqlite:///path``.
        host: The host.

    Raises:
        ConfigError: There is no archive of this host; names what there is.
    """
    from otel_audit.prosody.internal import find_files  # either of them is needed, not both
    from otel_audit.prosody.sql import open_database

    path, is_database = _path(source)
    try:
        if not path.exists():
            raise ConfigError(f"there is no {path}", "give Prosody's data directory, a .list file or a database")
        if not is_database and path.is_file():
            with path.open("rb") as file:
                is_database = file.read(len(_MAGIC)) == _MAGIC
        found: Files | Database = open_database(path, host) if is_database else find_files(path, host)
    except OSError as error:
        raise ConfigError(f"{error.filename} cannot be read: {error.strerror}", "run it as Prosody's user") from error
    try:
        yield found
    finally:
        found.close()


def _path(source: str) -> tuple[Path, bool]:
    """Return the path that a source names, and whether it says that there is a database."""
    match = _URL.match(source)
    if match is None:
        return Path(source), False
    scheme = match[1].lower()
    if scheme not in {"sqlite", "sqlite3"}:
        raise ConfigError(
            f"{source.partition('://')[0]} is no database that can be read here",
            "copy the table prosodyarchive into an SQLite database and give that, or let mod_audit_otel follow it",
        )
    parts = urlsplit(source)
    return Path(unquote(parts.netloc + parts.path)), True


class Importer:
    """Records entries through a provider.

    Args:
        provider: Records; its measures of privacy act on what is imported, too.
        host: The host that the entries belong to.
    """

    def __init__(self, provider: AuditProvider, host: str) -> None:
        self._provider, self._host = provider, host
        # What tells of this process stays out: the same entry comes from another one the next time.
        signing = {key: text for key, text in provider.config.resource.items() if key.startswith(INTEGRITY_PREFIX)}
        self._resource = encode_resource({"service.name": "prosody", **signing})
        self._scope = b"" if provider.profile == "signal" else encode_scope("mod_audit", "")
        self._seen: Counter[bytes] = Counter()

    def run(self, entries: Iterable[Entry]) -> Summary:
        """Record the entries that are not in the archive yet.

        Each gets an id made of its content and its key, so that it is recognised when it comes again.

        Args:
            entries: The entries of one host, in their order, from the first: those without a key of their own are told
                apart by how many of the same content come before.

        Returns:
            What became of them.

        Raises:
            ArchiveError: An entry could not be recorded; the next run goes on from there.
            IntegrityError: The archive is not what it was.
        """
        summary = Summary()
        batch: list[tuple[Entry, Foreign]] = []
        for entry in entries:
            if entry.fault:
                summary.unreadable.append((entry.place, entry.fault))
            batch.append((entry, self._foreign(entry)))
            if len(batch) >= _BATCH:
                self._keep(batch, summary)
                batch = []
        self._keep(batch, summary)
        return summary

    def _foreign(self, entry: Entry) -> Foreign:
        digest = entry_digest(entry, self._host, 0)
        if entry.key is None:
            occurrence = self._seen[digest]
            self._seen[digest] += 1
            digest = entry_digest(entry, self._host, occurrence)
        event = read_event(entry, self._host)
        bound: Any = {MARKS: Marks(event.marks)}
        record = self._provider.get_logger(event.source, self._host, **bound).build(event.type, **event.arguments)
        record = record._replace(record_id=_record_id(entry, digest))
        profile = self._provider.profile
        return Foreign(record, encode(record, profile), self._resource, self._scope, profile=profile)

    def _keep(self, batch: list[tuple[Entry, Foreign]], summary: Summary) -> None:
        if not batch:
            return
        writer = self._provider.writer
        taken: list[tuple[Entry, Foreign, int]] = []
        for (entry, foreign), kept in zip(batch, keep(writer, [foreign for _, foreign in batch]), strict=True):
            if kept.outcome == "conflict":
                taken.append((entry, foreign, kept.receipt.sequence or 0))
            else:
                summary.count(kept.outcome)
        if not taken:
            return
        with open_archive(self._provider.config.archive) as archive:
            others = [foreign for entry, foreign, sequence in taken if not _same(entry, foreign, archive, sequence)]
        summary.there += len(taken) - len(others)
        if others:
            for kept in keep(writer, [foreign._replace(rename=True) for foreign in others]):
                summary.count(kept.outcome)


def _same(entry: Entry, foreign: Foreign, archive: Archive, sequence: int) -> bool:
    """Tell whether the record that has an entry's id is that entry, recorded under other settings, of privacy say."""
    ours = _told(foreign.record, entry)
    return any(_told(there, entry) == ours for there in archive.query(after=sequence - 1, before=sequence + 1))


def _told(record: AuditRecord, entry: Entry) -> tuple[object, ...]:
    """Return what of a record no setting alters."""
    # What has no time of its own got that of the import.
    return record.host, record.source, record.type, entry_time(entry) and record.time


def _record_id(entry: Entry, digest: bytes) -> str:
    """Return a UUIDv7 (RFC 9562) of an entry's time and digest."""
    milliseconds = (entry_time(entry) or 0) // 1_000_000
    chance = int.from_bytes(digest[:10])
    value = milliseconds << 80 | 7 << 76 | (chance >> 62 & 0xFFF) << 64 | 2 << 62 | chance & (1 << 62) - 1
    text = f"{value:032x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"
