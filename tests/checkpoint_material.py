"""What tests of checkpoints and of the high-water mark share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from otel_audit.archive.administration import Administration
from otel_audit.archive.checkpoints import append_checkpoint
from otel_audit.archive.highwater import HighWater
from otel_audit.archive.query import open_archive
from otel_audit.archive.verify import Noted, verify
from otel_audit.notes import Note, SigningKey
from otel_audit.provider import AuditProvider
from tests.archive_material import provider_at

__all__ = ["codes", "mark", "new_key", "own_types", "record", "recorded", "stated"]


def new_key(name: str = "test") -> SigningKey:
    private = Ed25519PrivateKey.generate()
    return SigningKey(name, private.public_key().public_bytes_raw(), private.sign)


def record(provider: AuditProvider, number: int = 3) -> None:
    log = provider.get_logger("tests")
    for n in range(number):
        log.audit("user.login.success", user=f"user-{n}")


def recorded(path: Path, number: int = 3, **settings: Any) -> None:
    with provider_at(path, **settings) as provider:
        record(provider, number)


def stated(path: Path, key: SigningKey | None = None) -> Note:
    with Administration(path, b"", b"") as administration:
        return append_checkpoint(administration, key)


def own_types(path: Path) -> list[str]:
    with open_archive(path) as archive:
        return [record.type for record in archive.query(admin=True, oldest_first=True)]


def codes(path: Path, **noted: Any) -> list[str]:
    return [fault.code for fault in verify(path, noted=Noted(**noted)).faults]


def mark(path: Path) -> Path:
    """Return the file of an archive's high-water mark."""
    with provider_at(path) as provider, open_archive(path) as archive:
        directory = provider.config.high_water
        assert directory is not None
        return HighWater(directory).path(archive.id)
