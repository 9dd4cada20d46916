"""The archive's own records: what was done with it, by whom. They are committed, hashed and shipped like events."""

from __future__ import annotations

import os
import pwd
import socket
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, NamedTuple, Self

import apsw

from otel_audit.archive.commit import Committer, Floor, Row, Signer, row_of
from otel_audit.archive.database import Database
from otel_audit.archive.leaf import GENESIS
from otel_audit.archive.merkle import Frontier
from otel_audit.build import build_record
from otel_audit.catalog import ENTITY_MANAGEMENT, Catalog, EventType
from otel_audit.otlp import Profile, encode
from otel_audit.record import Actor

__all__ = ["HOST", "OWN_TYPES", "SYSTEM", "Administration", "Own", "operator", "process_fields"]

HOST: Final = "otel_audit"
"""The host of the archive's own records; leaves keep it for ever, so it names nobody and no machine."""
SYSTEM: Final = Actor("otel_audit", "system")
"""Who acts where no person does."""


def _type(name: str, action: str, description: str, *custom: str) -> EventType:
    return EventType(name, action, "success", None, description, custom, ENTITY_MANAGEMENT)


OWN_TYPES: Final = (
    _type("audit.archive.created", "CREATE", "An archive keeps its own records from here on.", "archive.id"),
    _type("audit.checkpoint", "EXECUTE", "The tree's size and root were stated.", "checkpoint.note"),
    _type(
        "audit.key.rotated", "UPDATE", "A signing key was followed by another.", "rotation.note", "rotation.verifier"
    ),
    _type("audit.records.erased", "DELETE", "Content was erased.", "removal.sequences", "removal.reason"),
    _type("audit.records.pruned", "DELETE", "Content was removed when its time was over.", "removal.sequences"),
    _type("audit.hold.added", "CREATE", "Records were put under a legal hold.", "hold.id", "hold.reason"),
    _type("audit.hold.removed", "DELETE", "A legal hold was lifted.", "hold.id", "hold.reason"),
    _type("audit.read", "READ", "Records were read.", "read.command", "read.filter"),
    _type("audit.key.created", "CREATE", "A signing key was made.", "key.verifier"),
    _type("audit.disk.changed", "UPDATE", "The space left on the disk passed a level.", "disk.level", "disk.free"),
    _type("audit.probe", "EXECUTE", "A record was made to see that records are delivered.", "process.pid"),
    _type("audit.key.shown", "READ", "A signing key's verifier was shown.", "key.verifier"),
)
"""What the archive records of itself."""
_CATALOG: Final = Catalog(OWN_TYPES)


class Own(NamedTuple):
    """One of the archive's own records, before it is built.

    Args:
        kind: The leaf's kind.
        type: One of `OWN_TYPES`.
        custom: Groups of fields.
        actor: Who acted.
        message: One line for people; None: made from the type.
    """

    kind: int
    type: str
    custom: Mapping[str, Mapping[str, Any]]
    actor: Actor = SYSTEM
    message: str | None = None


class Administration:
    """Appends an archive's own records, beside the writers of whatever processes.

    Args:
        path: The archive, which must exist.
        resource: Bytes of the OTLP ``Resource`` that the records belong to.
        scope: Bytes of the OTLP ``InstrumentationScope``.
        profile: Profile of their encoding.
        verifier: Returns the verifier of the signing key, which the first of the own records binds to the archive.
        signer: Signs each of them, as the application's records are signed.
        floor: Returns the archive's high-water mark: nothing is appended to what is not that archive, or more of it.
        busy_timeout: Seconds to wait for another process's transaction.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        resource: bytes,
        scope: bytes,
        *,
        profile: Profile = "logs",
        verifier: Callable[[], str | None] = lambda: None,
        signer: Signer | None = None,
        floor: Floor | None = None,
        busy_timeout: float = 10.0,
    ) -> None:
        self.database = Database(path, "write", must_exist=True, busy_timeout=busy_timeout)
        self._committer = Committer(self.database, resource, scope, floor, signer, own=True)
        self._profile: Profile = profile
        self._verifier = verifier

    def __enter__(self) -> Self:
        """Return it."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close its connection."""
        self.close()

    def close(self) -> None:
        """Close its connection; safe to call twice."""
        self.database.close()

    def tree(self) -> tuple[str, Frontier]:
        """Return the archive's id and its tree.

        Raises:
            ArchiveError: The archive cannot be read.
            IntegrityError: It is not what it was.
        """
        with self.database:
            return self._committer.look()

    def append(self, make: Callable[[apsw.Connection, Frontier], Iterable[Own]]) -> int:
        """Commit own records, with whatever else is changed while they are made, all or nothing.

        Args:
            make: Called in the transaction with its connection and the tree as it is; again, where the disk was full
                and the reserve makes room for another try.

        Returns:
            The last sequence of the archive.

        Raises:
            ArchiveError: Nothing was committed.
            IntegrityError: The archive is not what it was; nothing was committed.
        """

        def rows(connection: apsw.Connection, tree: Frontier) -> list[Row]:
            made = list(make(connection, tree))
            if made and not connection.execute("SELECT 1 FROM record INDEXED BY own WHERE kind > 1 LIMIT 1").get:
                made.insert(0, self._genesis(connection))
            return [self._row(own) for own in made]

        with self.database:
            self._committer.append(rows)
            return self._committer.head

    def _genesis(self, connection: apsw.Connection) -> Own:
        meta = dict(connection.execute("SELECT key, value FROM meta WHERE key IN ('archive_id', 'created')"))
        fields = {"id": meta["archive_id"], "created": meta["created"]}
        if (verifier := self._verifier()) is not None:
            fields["verifier"] = verifier
        return Own(GENESIS, "audit.archive.created", {"archive": fields})

    def _row(self, own: Own) -> Row:
        values: dict[str, Any] = {
            "host": HOST, "source": "otel_audit", "event": own.type, "actor": own.actor, "custom": own.custom,
        }  # fmt: skip
        if own.message is not None:
            values["message"] = own.message
        record = build_record(values, _CATALOG, display=self._profile == "logs")
        # The line feeds of a note are its own.
        record = record._replace(altered=tuple(mark for mark in record.altered if not mark.endswith(".note:control")))
        return row_of(record, encode(record, self._profile), own.kind)


def operator() -> Actor:
    """Return the person, or the account, that this process runs for."""
    number = os.getuid()
    try:
        return Actor(pwd.getpwuid(number).pw_name)
    except KeyError:
        return Actor(f"uid {number}")


def process_fields() -> dict[str, Any]:
    """Return what tells where and by whom this process was started, for the custom group ``process``."""
    fields: dict[str, Any] = {"pid": os.getpid(), "machine": socket.gethostname()}
    if sudo := os.environ.get("SUDO_USER"):
        fields["sudo_user"] = sudo
    return fields
