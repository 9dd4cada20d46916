"""Appends to the archive what an operator did with it."""

from __future__ import annotations

from pathlib import Path

from otel_audit._version import __version__
from otel_audit.archive.administration import Administration
from otel_audit.config import Config
from otel_audit.otlp import encode_resource, encode_scope

__all__ = ["open_administration"]


def open_administration(path: Path) -> Administration:
    """Return what appends the archive's own records, under the resource that the environment describes.

    Args:
        path: The archive, which must exist.

    Raises:
        ConfigError: A setting in the environment is wrong.
    """
    config = Config.load(archive=path)
    scope = b"" if config.profile == "signal" else encode_scope("otel_audit", __version__)
    signer = None if config.integrity is None else config.integrity.signed
    return Administration(
        path,
        encode_resource(config.resource),
        scope,
        profile=config.profile,
        signer=signer,
    )
