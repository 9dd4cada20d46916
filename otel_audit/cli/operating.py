"""Appends to the archive what an operator did with it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from otel_audit._version import __version__
from otel_audit.archive.administration import Administration
from otel_audit.config import Config
from otel_audit.otlp import encode_resource, encode_scope

if TYPE_CHECKING:
    from otel_audit.notes import SigningKey

__all__ = ["open_administration"]


def open_administration(path: Path, signing_key: SigningKey | None = None) -> Administration:
    """Return what appends the archive's own records, under the resource that the environment describes.

    Args:
        path: The archive, which must exist.
        signing_key: The key that the first of the own records binds to the archive; None: the environment's.

    Raises:
        ConfigError: A setting in the environment is wrong.
    """
    config = Config.load(archive=path, signing_key=signing_key)
    scope = b"" if config.profile == "signal" else encode_scope("otel_audit", __version__)
    verifier = None if config.signing_key is None else str(config.signing_key.verifier)
    return Administration(path, encode_resource(config.resource), scope, profile=config.profile, verifier=verifier)
