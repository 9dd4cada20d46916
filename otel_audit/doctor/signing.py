"""Examines the keys that sign checkpoints and records: whether they can be used, and are the archive's."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final

from otel_audit import attributes as keys
from otel_audit.archive.database import archive_errors
from otel_audit.archive.faults import Faults
from otel_audit.archive.leaf import GENESIS
from otel_audit.archive.query import Archive
from otel_audit.archive.rotation import rotations
from otel_audit.archive.signatures import SignatureCheck, Trust
from otel_audit.doctor.findings import Finding
from otel_audit.errors import AuditError, ConfigError
from otel_audit.integrity_settings import resolve_integrity
from otel_audit.keys import VARIABLE, key_path, load
from otel_audit.otlp import read_log
from otel_audit.paths import expanded

if TYPE_CHECKING:
    import apsw

    from otel_audit.notes import Verifier
    from otel_audit.producer_keys import ProducerVerifier

__all__ = ["examine_producer_key", "examine_signing_key"]

_FIRST: Final = "SELECT kind, otlp FROM record INDEXED BY own WHERE kind > 1 ORDER BY sequence LIMIT 1"
_LAST: Final = (
    "SELECT sequence, record_id, resource, otlp FROM record WHERE otlp IS NOT NULL ORDER BY sequence DESC LIMIT 1"
)


def examine_signing_key(archive: Archive | None, environ: Mapping[str, str] = os.environ) -> Iterator[Finding]:
    """Iterate over what is wrong with the key that signs checkpoints.

    Args:
        archive: The archive; None: there is none yet.
        environ: Names the key's file.
    """
    path = key_path(environ)
    bound = None if archive is None else _bound(archive)
    if path is None:
        if bound is not None:
            yield Finding(
                "note",
                "signing-key-unset",
                f"the archive's checkpoints are signed by {bound.label}, and {VARIABLE} names no key here",
                "it was not examined",
                "run doctor with the environment of the application",
            )
        return
    try:
        key = load(path)
    except ConfigError as error:
        yield Finding("error", "signing-key", error.message, "the application does not start with it", error.hint)
        return
    if path.with_name(f"{path.name}.next").exists():
        yield Finding(
            "warning",
            "rotation-unfinished",
            f"a rotation of {path} broke off: there is {path.name}.next",
            "the archive may name the new key already, while the old one goes on signing",
            "otel-audit keys rotate finishes it",
        )
    if archive is None or bound is None or bound == key.verifier:
        return
    yield Finding(
        "error",
        "signing-key-foreign",
        f"{path} holds {key.verifier.label}, and the archive goes by {bound.label}",
        "verify trusts no checkpoint that it signs",
        "give the archive's key; otel-audit keys rotate hands over from one to the next",
    )


def _bound(archive: Archive) -> Verifier | None:
    """Return the verifier of the key that the archive goes by now; None where it names none."""
    with archive.database as connection, archive_errors(archive.path):
        handed = list(rotations(connection))
        return handed[-1].verifier if handed else _first(connection)


def _first(connection: apsw.Connection) -> Verifier | None:
    from otel_audit.notes import Verifier  # start-up time, as elsewhere

    row: Any = connection.execute(_FIRST).fetchone()
    if row is None or row[0] != GENESIS or row[1] is None:
        return None
    try:
        named = read_log(row[1]).attributes.get(f"{keys.CUSTOM_PREFIX}archive.verifier")
        return None if named is None else Verifier.parse(str(named))
    except (ValueError, TypeError, AttributeError):
        return None  # what an archive's first record says wrongly, verify tells


def examine_producer_key(archive: Archive | None, environ: Mapping[str, str] = os.environ) -> Iterator[Finding]:
    """Iterate over what is wrong with the key that signs each record.

    Args:
        archive: The archive; None: there is none yet.
        environ: Names the key's file, and what belongs to it.
    """
    try:
        key = resolve_integrity({}, environ)
    except ConfigError as error:
        yield Finding("error", "producer-key", error.message, "the application does not start with it", error.hint)
        return
    yield from _permissions(environ.get("OTEL_AUDIT_PSEUDONYM_KEY"))
    if key is None or key.verifier is None or archive is None:
        return
    found = _last_signature(archive, key.verifier)
    if found:
        yield Finding(
            "warning",
            "producer-key-differs",
            f"the archive's last record is {found} that OTEL_AUDIT_INTEGRITY_KEY names",
            "whoever checks records by this key finds one that it did not sign",
            "see which environment the application runs with",
        )


def _permissions(pseudonyms: str | None) -> Iterator[Finding]:
    if not pseudonyms:
        return
    from otel_audit.privacy.pseudonyms import Pseudonyms  # for archives with pseudonyms only

    try:
        Pseudonyms(str(expanded(pseudonyms)))
    except AuditError as error:
        yield Finding("error", "pseudonym-key", error.message, "the application does not start with it", error.hint)


def _last_signature(archive: Archive, verifier: ProducerVerifier) -> str:
    """Return what is wrong with the last record's signature; empty where nothing is, or there is no record."""
    with archive.database as connection, archive_errors(archive.path):
        row: Any = connection.execute(_LAST).fetchone()
        if row is None:
            return ""
        faults = Faults(1)
        check = SignatureCheck(connection, Trust((verifier,)), faults)
        try:
            check.record(*row)
        except ValueError:
            return ""  # a damaged record is verify's to find
    if check.unsigned:
        return "not signed by the key"
    return "" if check.signatures.verified else "signed by another key than the one"
