"""Appends to the archive what an operator did with it."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from otel_audit._version import __version__
from otel_audit.archive.administration import Administration
from otel_audit.archive.commit import check_floor
from otel_audit.archive.database import archive_errors
from otel_audit.config import record_settings
from otel_audit.integrity_settings import resolve_integrity
from otel_audit.otlp import encode_resource, encode_scope

if TYPE_CHECKING:
    from otel_audit.archive.query import Archive
    from otel_audit.notes import Checkpoint, SigningKey

__all__ = ["open_administration", "refuse_older_copy"]


def open_administration(
    path: Path, signing_key: SigningKey | None = None, *, busy_timeout: float = 10.0
) -> Administration:
    """Return what appends the archive's own records, under the resource that the environment describes.

    Args:
        path: The archive, which must exist.
        signing_key: The key that the first of the own records binds to the archive; None: the environment's.
        busy_timeout: Seconds to wait for another process's transaction.

    Raises:
        ConfigError: A setting in the environment is wrong.
    """
    profile, resource = record_settings()
    key = resolve_integrity({}, os.environ)
    if key is not None:
        resource |= key.resource
    scope = b"" if profile == "signal" else encode_scope("otel_audit", __version__)
    return Administration(
        path,
        encode_resource(resource),
        scope,
        profile=profile,
        signer=None if key is None else key.signed,
        verifier=partial(_verifier, signing_key),
        floor=_floor,
        busy_timeout=busy_timeout,
    )


def _verifier(key: SigningKey | None) -> str | None:
    from otel_audit.keys import key_path, load  # start-up time: the first of the own records alone needs them

    if key is None and (file := key_path()) is not None:
        key = load(file)
    return None if key is None else str(key.verifier)


def refuse_older_copy(archive: Archive) -> None:
    """See that an archive is the one that this machine knows, or an extension of it, before a key vouches for it.

    Raises:
        ArchiveError: It cannot be read.
        IntegrityError: It is not.
    """
    least = _floor(archive.id)
    with archive.database as connection, archive_errors(archive.path):
        check_floor(connection, archive.path, archive.id, least)


def _floor(archive_id: str) -> Checkpoint | None:
    from otel_audit.archive.highwater import read_mark  # start-up time, as below
    from otel_audit.paths import high_water_directory

    return read_mark(high_water_directory(), archive_id)
