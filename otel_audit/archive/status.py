"""The state of an archive and of its delivery."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import apsw

from otel_audit.archive.files import size_on_disk
from otel_audit.archive.index import EVENTS, ZONE, folded_to
from otel_audit.archive.merkle import Frontier, peak_ends

__all__ = ["DestinationStatus", "Status", "read_status"]


@dataclass(frozen=True, slots=True)
class DestinationStatus:
    """How far the outbox came with one destination.

    Args:
        name: The destination's name.
        endpoint: Where it is.
        cursor: Everything up to this sequence was accepted or is a dead letter.
        dead_letters: Records that it refused for good.
        blocked: Why it refuses us altogether, None where it does not.
        last_success: Nanoseconds of the last accepted request.
        last_error: What went wrong last, None where the last request succeeded.
    """

    name: str
    endpoint: str
    cursor: int
    dead_letters: int
    blocked: str | None
    last_success: int | None
    last_error: str | None


@dataclass(frozen=True, slots=True)
class Status:
    """The state of an archive.

    Args:
        archive: Absolute path.
        archive_id: The archive's id, shipped as ``audit.sequence.stream_id``.
        size: Bytes on disk, WAL included.
        records: How many events with content.
        sequence: The last position: events, tombstones and the archive's own records.
        first: Nanoseconds: when the first of the events with content was recorded; None where there is none.
        last: Likewise for the last.
        backlog: Records that the slowest destination has still to accept; 0 without a destination.
        oldest_undelivered: Nanoseconds: when the first of them was recorded.
        sqlite: Version of the SQLite library.
        destinations: State of each destination.
        root: Root of the tree over all records, hex; None where nodes are missing.
        own: How many of the archive's own records, such as reads and erasures.
        removed: How many events whose content was erased or pruned.
    """

    archive: str
    archive_id: str
    size: int
    records: int
    sequence: int
    first: int | None
    last: int | None
    backlog: int
    oldest_undelivered: int | None
    sqlite: str
    destinations: tuple[DestinationStatus, ...]
    root: str | None = None
    own: int = 0
    removed: int = 0


def read_status(connection: apsw.Connection, path: Path) -> Status:
    """Return the state of an archive.

    Args:
        connection: Reads it, in a transaction.
        path: Its file.
    """
    head = int(connection.execute("SELECT max(sequence) FROM record").get or 0)

    def observed(sequence: int) -> int | None:
        return connection.execute("SELECT observed FROM record WHERE sequence = ?", (sequence,)).get  # type: ignore[no-any-return]

    destinations = _destinations(connection)
    requeued = connection.execute("SELECT min(sequence), count(*) FROM dead_letter WHERE requeued").fetchone() or (
        None,
        0,
    )
    cursor = min((destination.cursor for destination in destinations), default=head)
    oldest = min((n for n in (requeued[0], cursor + 1 if cursor < head else None) if n is not None), default=None)
    records, own = _records(connection), _own(connection)
    return Status(
        archive=str(path),
        archive_id=str(connection.execute("SELECT value FROM meta WHERE key = 'archive_id'").get),
        size=size_on_disk(path),
        records=records,
        sequence=head,
        first=_observed(connection, "ASC"),
        last=_observed(connection, "DESC"),
        backlog=head - cursor + int(requeued[1]),
        oldest_undelivered=None if oldest is None else observed(oldest),
        sqlite=apsw.sqlite_lib_version(),
        destinations=destinations,
        root=_root(connection, head),
        own=own,
        removed=head - records - own,
    )


def _destinations(connection: apsw.Connection) -> tuple[DestinationStatus, ...]:
    dead: dict[str, int] = dict(
        connection.execute("SELECT destination, count(*) FROM dead_letter WHERE NOT requeued GROUP BY 1")
    )
    return tuple(
        DestinationStatus(name, endpoint, cursor, dead.get(name, 0), blocked, success, error)
        for name, endpoint, cursor, blocked, success, error in connection.execute(
            "SELECT name, endpoint, cursor, blocked, last_success, last_error FROM destination ORDER BY name"
        )
    )


def _records(connection: apsw.Connection) -> int:
    """Count the events: zones know, but for what is not folded yet."""
    folded = folded_to(connection)
    in_zones: Any = connection.execute("SELECT coalesce(sum(records), 0) FROM zone").get
    return int(in_zones) + int(
        connection.execute(f"SELECT count(*) FROM record WHERE sequence > ? AND {EVENTS}", (folded,)).get
    )


def _own(connection: apsw.Connection) -> int:
    """Count the archive's own records, also those without content: from their index alone."""
    return int(connection.execute("SELECT count(*) FROM record INDEXED BY own WHERE kind > 1").get)


def _observed(connection: apsw.Connection, order: Literal["ASC", "DESC"]) -> int | None:
    """Return when the first or the last event was recorded; zones lead past tombstones and own records."""
    folded = folded_to(connection)
    zone = connection.execute(f"SELECT zone FROM zone WHERE records ORDER BY zone {order} LIMIT 1").get
    zones = [] if zone is None else [(zone * ZONE + 1, min((zone + 1) * ZONE, folded))]
    places = [*zones, (folded + 1, 2**62)]
    for start, end in places if order == "ASC" else reversed(places):
        found: int | None = connection.execute(
            f"SELECT observed FROM record WHERE sequence BETWEEN ? AND ? AND {EVENTS}"
            f" ORDER BY sequence {order} LIMIT 1",
            (start, end),
        ).get
        if found is not None:
            return found
    return None


def _root(connection: apsw.Connection, size: int) -> str | None:
    """Return the root from as many nodes as the size has bits."""
    nodes: list[Any] = [
        connection.execute("SELECT coalesce(node, leaf) FROM record WHERE sequence = ?", (end,)).get
        for end in peak_ends(size)
    ]
    return Frontier(size, nodes).root().hex() if all(isinstance(node, bytes) for node in nodes) else None
