"""Archives in Prosody's internal storage: one ``.list`` file a host, or one for each account."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final
from urllib.parse import unquote

from otel_audit.errors import ConfigError
from otel_audit.prosody.entry import Entry
from otel_audit.prosody.luadata import Item, read_items
from otel_audit.prosody.stanza import element_of_table

__all__ = ["Files", "find_files"]

_STORE: Final = "audit"
_NOT_PLAIN = re.compile(rb"[^A-Za-z0-9]")


class Files:
    """The files of one host's archive.

    Args:
        files: The files, each with the account that it belongs to; empty: the host's.
    """

    def __init__(self, files: list[tuple[Path, str]]) -> None:
        self._files = files
        self.size = sum(path.stat().st_size for path, _ in files)
        self.done = 0

    def entries(self, progress: Callable[[int, int], None]) -> Iterator[Entry]:
        """Iterate over the entries, file by file, in their order.

        Args:
            progress: Called with the bytes that were read, and all bytes.
        """
        for path, owner in self._files:
            with path.open("rb") as file:
                for item in read_items(file):
                    self.done += len(item.raw)
                    progress(self.done, self.size)
                    yield _entry(item, f"{path.name} line {item.line}", owner)

    def close(self) -> None:
        """Do nothing: a file is open while it is read."""


def find_files(path: Path, host: str) -> Files:
    """Return the archive of a host.

    Args:
        path: Prosody's data directory, the host's directory within it, or one file.
        host: The host.

    Raises:
        ConfigError: There is none.
    """
    if path.is_file():
        with path.open("rb") as file:
            if path.suffix != ".list" and not file.read(4096).lstrip().startswith(b"item("):
                raise ConfigError(f"{path} is no archive of mod_audit", "give a .list file or an SQLite database")
        owner = _decoded(path.stem) if path.parent.name == _STORE else ""
        return Files([(path, owner)])
    encoded = _encoded(host)
    path = path.resolve()
    folder = path if path.name == encoded else path / encoded
    single = folder / f"{_STORE}.list"
    files = [(single, "")] if single.is_file() else []
    files += [(file, _decoded(file.stem)) for file in sorted((folder / _STORE).glob("*.list"))]
    if not files:
        raise ConfigError(f"{path} holds no archive of mod_audit for {host!r}", _others(path))
    return Files(files)


def _entry(item: Item, place: str, owner: str) -> Entry:
    if item.table is None:
        return Entry(place, owner, raw=item.raw, fault=item.fault)
    key, when, about = (item.table.get(name) for name in ("key", "when", "with"))
    try:
        stanza = element_of_table(item.table)
    except ValueError as error:
        return Entry(place, owner, raw=item.raw, fault=str(error))
    return Entry(
        place,
        owner,
        key if isinstance(key, str) else None,
        when if isinstance(when, int | float) and not isinstance(when, bool) else None,
        about if isinstance(about, str) else "",
        stanza,
    )


def _others(path: Path) -> str:
    hosts = sorted({_decoded(file.parent.name) for file in path.glob(f"*/{_STORE}.list")})
    hosts += sorted({_decoded(folder.parent.name) for folder in path.glob(f"*/{_STORE}")} - {*hosts})
    if not hosts:
        return "give Prosody's data directory, as prosodyctl about prints it, a .list file, or an SQLite database"
    return f"it holds those of {', '.join(hosts[:10])}"


def _encoded(name: str) -> str:
    """Return a name as Prosody names its files."""
    return _NOT_PLAIN.sub(lambda found: b"%%%02x" % found[0][0], name.encode(errors="surrogateescape")).decode()


def _decoded(name: str) -> str:
    return unquote(name, errors="surrogateescape")
