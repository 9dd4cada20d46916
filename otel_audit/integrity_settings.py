"""Which key signs each record, resolved from arguments and the ``OTEL_AUDIT_INTEGRITY_*`` variables."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from otel_audit.errors import ConfigError

if TYPE_CHECKING:
    from otel_audit.producer import ProducerKey

__all__ = ["resolve_integrity"]

_NAMES: Final = ("integrity_key", "integrity_algorithm", "integrity_certificate")


def resolve_integrity(settings: Mapping[str, object], environ: Mapping[str, str]) -> ProducerKey | None:
    """Return the key that signs each record; None where records are not signed.

    Args:
        settings: Arguments: ``integrity_key``, ``integrity_algorithm``, ``integrity_certificate``; others are not
            looked at.
        environ: The environment.

    Raises:
        ConfigError: A setting is wrong; names it, its value and the remedy.
    """
    key, algorithm, path = (_given(name, settings, environ) for name in _NAMES)
    if key is None:
        if algorithm is not None or path is not None:
            raise ConfigError(
                "integrity_algorithm and integrity_certificate mean nothing without a key",
                "give integrity_key= or OTEL_AUDIT_INTEGRITY_KEY",
            )
        return None
    from otel_audit.keyfile import read_key_file  # start-up time: for those who ask for it
    from otel_audit.producer import ProducerKey
    from otel_audit.producer_keys import ALGORITHMS

    if isinstance(key, ProducerKey):
        if algorithm not in {None, key.algorithm} or path is not None:
            raise ConfigError(
                "integrity_key= is a ProducerKey, which has its own algorithm and certificate", "give them to it alone"
            )
        return key
    if not isinstance(key, (str, os.PathLike)) or not os.fspath(key):
        raise ConfigError(f"integrity_key={key!r} is no path", "give the path of the key's file, or a ProducerKey")
    if algorithm not in {None, *ALGORITHMS}:
        raise ConfigError(f"{_shown(_NAMES[1], settings)}={algorithm!r} is unknown", f"use {', '.join(ALGORITHMS)}")
    certificate = None
    if path is not None:
        if not isinstance(path, (str, os.PathLike)) or not os.fspath(path):
            raise ConfigError(f"integrity_certificate={path!r} is no path", "give the path of a certificate")
        certificate = read_key_file(path, f"the certificate {os.fspath(path)}")[0]
    return ProducerKey.load(key, algorithm, certificate)


def _given(name: str, settings: Mapping[str, object], environ: Mapping[str, str]) -> Any:
    """Return a setting from its argument, else from the environment."""
    value = settings.get(name)
    return value if value is not None else environ.get(f"OTEL_AUDIT_{name.upper()}") or None


def _shown(name: str, settings: Mapping[str, object]) -> str:
    """Return what messages call a setting: its argument, or the variable that it came from."""
    return f"OTEL_AUDIT_{name.upper()}" if settings.get(name) is None else name
