"""Archives in Prosody's SQL storage, where that is SQLite: the table ``prosodyarchive``."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import apsw

from otel_audit.errors import ConfigError
from otel_audit.prosody.entry import Entry
from otel_audit.prosody.stanza import element_of_xml

__all__ = ["Database", "open_database"]

_LONGEST: Final = 4 << 20
"""Most bytes of one entry."""
_CHUNK: Final = 64
"""Entries that are read at once."""
_FORBIDDEN = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff]")  # by XML
_TABLE: Final = "SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = 'prosodyarchive'"
_HOSTS: Final = "SELECT DISTINCT CAST(host AS BLOB) FROM prosodyarchive WHERE store = 'audit' ORDER BY 1 LIMIT 10"
_COUNT: Final = "SELECT count(*) FROM prosodyarchive WHERE host = ? AND store = 'audit'"
# As bytes: any of them may be no UTF-8.
_ENTRIES: Final = (
    'SELECT sort_id, CAST("user" AS BLOB), CAST("key" AS BLOB), "when", CAST("with" AS BLOB), type,'
    " substr(CAST(value AS BLOB), 1, ?), octet_length(value) FROM prosodyarchive"
    " WHERE host = ? AND store = 'audit' AND sort_id > ? ORDER BY sort_id LIMIT ?"
)


class Database:
    """One host's archive in a database, opened to read.

    Args:
        connection: The connection.
        host: The host.
        count: How many entries there are.
    """

    def __init__(self, connection: apsw.Connection, host: str, count: int) -> None:
        self._connection, self._host, self._count = connection, host, count

    def entries(self, progress: Callable[[int, int], None]) -> Iterator[Entry]:
        """Iterate over the entries in their order.

        Args:
            progress: Called with the entries that were read, and all entries.

        Raises:
            ConfigError: The database is damaged.
        """
        number, last = 0, -(2**63)
        while rows := self._chunk(last):
            for row in rows:
                number += 1
                progress(number, self._count)
                yield _entry(*row)
            last = rows[-1][0]

    def _chunk(self, last: int) -> list[Any]:
        # A reader's lock, held for a whole import, would keep Prosody from writing.
        try:
            return self._connection.execute(_ENTRIES, (_LONGEST, self._host, last, _CHUNK)).fetchall()
        except apsw.Error as error:
            raise _unreadable(self._connection.filename, error) from error

    def close(self) -> None:
        """Close it."""
        self._connection.close()


def open_database(path: Path, host: str) -> Database:
    """Open the archive of a host.

    Args:
        path: The database's file.
        host: The host.

    Raises:
        ConfigError: It cannot be read, or holds no such archive.
    """
    try:
        connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)
    except (apsw.Error, UnicodeError) as error:
        raise _unreadable(str(path), error) from error
    try:
        connection.set_busy_timeout(10_000)
        # Whoever wrote the file must have no say in what reading it does.
        connection.config(apsw.SQLITE_DBCONFIG_DEFENSIVE, 1)
        connection.execute("PRAGMA trusted_schema = OFF")
        if connection.execute(_TABLE).get is None:
            raise ConfigError(f"{path} has no table prosodyarchive", "give the database of Prosody's mod_storage_sql")
        count: Any = connection.execute(_COUNT, (host,)).get
        if not count:
            there = ", ".join(_text(found) for (found,) in connection.execute(_HOSTS))
            raise ConfigError(
                f"{path} holds no archive of mod_audit for {host!r}",
                f"it holds those of {there}" if there else "it holds none for any host",
            )
    except apsw.Error as error:
        connection.close()
        raise _unreadable(str(path), error) from error
    except BaseException:
        connection.close()
        raise
    return Database(connection, host, count)


def _entry(  # noqa: PLR0917 - the columns of a row
    sort_id: int, owner: bytes, key: bytes, when: object, about: bytes, kind: object, value: bytes, size: int
) -> Entry:
    place, account = f"row {sort_id}", _text(owner)
    moment = when if isinstance(when, int | float) else None
    common = (place, account, _text(key) or None, moment, _text(about))
    if kind != "xml":
        return Entry(*common, raw=value, fault=f"its type is {kind!r}, not 'xml'")
    if size > _LONGEST:
        return Entry(*common, raw=value, fault=f"it has {size} bytes")
    try:
        return Entry(*common, element_of_xml(value))
    except ValueError as error:
        fault = str(error)
    # Prosody writes text into XML as it is, whatever characters XML forbids.
    legal = _FORBIDDEN.sub(lambda found: ascii(found[0])[1:-1], value.decode("utf-8", "backslashreplace")).encode()
    try:
        return Entry(*common, element_of_xml(legal), escaped=True)
    except ValueError:
        return Entry(*common, raw=value, fault=fault)


def _text(value: bytes | None) -> str:
    return (value or b"").decode("utf-8", "surrogateescape")


def _unreadable(path: str, error: Exception) -> ConfigError:
    return ConfigError(
        f"{path} cannot be read: {error}", "give the database of Prosody's mod_storage_sql, or a sound copy of it"
    )
