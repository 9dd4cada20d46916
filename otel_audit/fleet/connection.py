"""Asks a ClickHouse: values always bound, answers streamed, failures as one clear line without the password."""

from __future__ import annotations

import logging
import re
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from typing import Any, Final

from otel_audit._version import __version__
from otel_audit.errors import ArchiveError, ConfigError
from otel_audit.fleet.location import Location

__all__ = ["Connection", "identifier"]

_BLOCK: Final = 8_192
"""Most rows of a block: what is in memory at a time, some 10 MB."""
_PATIENCE: Final = 300
"""Seconds that the server may take between two pieces of an answer."""
_INSTALL: Final = "install the extra: pip install 'otel-audit[clickhouse]'"
_REMEDIES: Final = {
    60: "name the table that the Collector's exporter writes: …/database?table=otel_logs",
    81: "name the database that the Collector's exporter writes to",
    192: "check the user",
    193: "check the password",
    194: "check user and password",
    241: "the server has too little memory for this question: narrow it by --since and --until",
    497: "the user needs GRANT SELECT on the table",
    516: "check user and password",
}
"""What to do about the errors that an operator causes, by ClickHouse's numbers."""
_UNREACHED: Final = "check host and HTTP port (8123, with TLS 8443), and that it runs"


class Connection:
    """A connection to a table of logs, to read.

    Args:
        location: Where it is.

    Raises:
        ConfigError: The package is not installed.
        ArchiveError: The server cannot be reached, or refuses.
    """

    def __init__(self, location: Location) -> None:
        self.location = location
        self._client = self._connect()

    def _connect(self) -> Any:
        try:
            from clickhouse_connect import get_client
        except ImportError as error:
            raise ConfigError(f"{self.location} needs the package clickhouse-connect", _INSTALL) from error
        place = self.location
        # Where nobody set up logging, the package's own complaints would appear beside ours, tracebacks among them.
        logging.getLogger("clickhouse_connect").addHandler(logging.NullHandler())
        with self._errors():
            if place.embedded:
                try:
                    client = get_client(interface="chdb", path=place.host or ":memory:", database=place.database)
                except ImportError as error:
                    raise ConfigError(f"{place} needs the package chdb", "install it: pip install chdb") from error
            else:
                client = get_client(
                    host=place.host,
                    port=place.port or (8443 if place.secure else 8123),
                    username=place.user,
                    password=place.password,
                    database=place.database,
                    interface="https" if place.secure else "http",
                    ca_cert=place.ca,
                    client_name=f"otel-audit/{__version__}",
                    connect_timeout=10,
                    send_receive_timeout=_PATIENCE,
                    # Sessions allow one question at a time.
                    autogenerate_session_id=False,
                )
        try:
            client.set_client_setting("max_block_size", _BLOCK)
        except Exception:  # noqa: BLE001 - a user that may only read cannot set it: blocks are as large as they are
            return client
        return client

    def close(self) -> None:
        """Close the connection; safe to call twice."""
        self._client.close()

    def rows(self, statement: str, values: Mapping[str, Any] | None = None) -> Sequence[Sequence[Any]]:
        """Return the rows of a short answer.

        Args:
            statement: The question, with ``{name:Type}`` where values stand.
            values: The values.

        Raises:
            ArchiveError: There is no answer.
        """
        with self._errors():
            found: Sequence[Sequence[Any]] = self._client.query(statement, parameters=values or None).result_rows
            return found

    def stream(self, statement: str, values: Mapping[str, Any] | None = None) -> Iterator[Sequence[Any]]:
        """Iterate over the rows of an answer of any length, a block in memory at a time.

        Args:
            statement: The question, with ``{name:Type}`` where values stand.
            values: The values.

        Raises:
            ArchiveError: There is no answer, or it breaks off.
        """
        with self._errors():
            context = self._client.query_row_block_stream(statement, parameters=values or None)
        # Whoever stops half-way ends the stream, too.
        with closing(self._blocks(context)) as blocks:
            for block in blocks:
                yield from block

    def _blocks(self, context: Any) -> Generator[Any]:
        with context as blocks:
            while True:
                # Errors of whoever uses the rows are not the server's.
                with self._errors():
                    block = next(blocks, None)
                if block is None:
                    return
                yield block

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """Turn what the package raises into an error that names the place and the remedy, and no password."""
        try:
            yield
        except (ArchiveError, ConfigError, KeyboardInterrupt):
            raise
        except Exception as error:  # noqa: BLE001 - whatever the package raises: it has many classes, urllib3 more
            text = _first_line(str(error), self.location.password) or type(error).__name__
            number = getattr(error, "code", None)
            if number is None and (found := re.search(r"Code: (\d+)", str(error))) is not None:
                number = int(found[1])
            remedy = _REMEDIES.get(number, "see the server's log") if number else _UNREACHED
            raise ArchiveError(f"{self.location}: {text}", remedy) from None


def _first_line(message: str, password: str) -> str:
    """Return the part of an error that says what happened."""
    if password:
        message = message.replace(password, "***")
    found = re.search(r"DB::Exception: (.*)", message)
    line = (found[1] if found is not None else message).strip().splitlines()
    return line[0][:300] if line else ""


def identifier(name: str) -> str:
    """Return a name as it stands in a statement."""
    escaped = name.replace("\\", "\\\\").replace("`", "\\`")
    return f"`{escaped}`"
