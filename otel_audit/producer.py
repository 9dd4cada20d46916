"""Signs records one by one where they are made: the draft's *producer* signatures."""

from __future__ import annotations

import base64
import hmac
import os
from collections.abc import Callable
from typing import Any, Final, Self

from otel_audit import attributes as keys
from otel_audit.errors import ArchiveError, AuditError, ConfigError
from otel_audit.jcs import Unsignable, read_signed
from otel_audit.keyfile import read_key_file, refuse_open_file, shown
from otel_audit.producer_keys import (
    ALGORITHMS,
    MAC,
    Algorithm,
    ProducerVerifier,
    load_private,
    public_half,
    secret_of,
)
from otel_audit.protobuf import delimited

__all__ = ["ProducerKey"]


class ProducerKey:
    """A key that signs records: kept in a file, or elsewhere behind a function.

    Args:
        algorithm: ``EdDSA``, ``ES256``, ``RS256`` or ``HMAC-SHA256``.
        sign: Returns the signature of a payload: of EdDSA 64 bytes, of ES256 ASN.1 DER over the payload's SHA-256, of
            RS256 PKCS#1 v1.5 over its SHA-256, of HMAC-SHA256 32 bytes; e.g. a call of a key management service. It is
            called within the commit, while every other writer waits.
        public_key: The public half, as PEM or DER (SubjectPublicKeyInfo); needed where no certificate is given.
        certificate: Its X.509 certificate, as PEM or DER, which is shipped with the records.
        verifier: What checks its signatures, in place of these two; for HMAC-SHA256 it holds the secret.

    Raises:
        ConfigError: One of them cannot be used, or they do not belong together.
    """

    def __init__(
        self,
        algorithm: Algorithm,
        sign: Callable[[bytes], bytes],
        *,
        public_key: bytes | None = None,
        certificate: bytes | None = None,
        verifier: ProducerVerifier | None = None,
    ) -> None:
        given: Any = sign
        if algorithm not in ALGORITHMS:
            raise ConfigError(f"the algorithm {algorithm!r} is unknown", f"use {', '.join(ALGORITHMS)}")
        if not callable(given):
            raise ConfigError(f"sign={sign!r} is no function", "give one that takes and returns bytes")
        self.algorithm: Algorithm = algorithm
        self.verifier = _joined(algorithm, public_key, certificate, verifier)
        self._sign = sign
        self._checked = self.verifier is None

    def __repr__(self) -> str:
        """Return what checks its signatures, never the key."""
        return f"<ProducerKey {self.algorithm} {self.verifier!r}>"

    @classmethod
    def load(
        cls, path: str | os.PathLike[str], algorithm: Algorithm | None = None, certificate: bytes | None = None
    ) -> Self:
        """Return the key that a file holds.

        Args:
            path: A private key as PEM without a password (Ed25519, P-256, or RSA of at least 2,048 bits); or at least
                32 random bytes as base64, for HMAC-SHA256.
            algorithm: What it is for; needed for HMAC-SHA256 alone.
            certificate: Its X.509 certificate, as PEM or DER.

        Raises:
            ConfigError: The file cannot be read, is open to others, or holds no such key.
        """
        where = f"the producer key in {shown(path)}"
        content, status = read_key_file(path, where)
        refuse_open_file(status, where)
        if algorithm == MAC:
            secret = secret_of(content, where)
            verifier = ProducerVerifier(MAC, secret)
            sign: Callable[[bytes], bytes] = lambda payload: hmac.digest(secret, payload, "sha256")  # noqa: E731
        else:
            sign, verifier = load_private(content, where)
            if algorithm not in {None, verifier.algorithm}:
                raise ConfigError(
                    f"{where} is for {verifier.algorithm}, not {algorithm}", "give the algorithm of the key, or none"
                )
        return cls(verifier.algorithm, sign, certificate=certificate, verifier=verifier)

    @property
    def resource(self) -> dict[str, str]:
        """The attributes of the ``Resource`` that say how its records are signed."""
        references = () if self.verifier is None else self.verifier.references
        named = {keys.INTEGRITY_CERTIFICATE: references[0]} if references else {}
        return {keys.INTEGRITY_ALGORITHM: self.algorithm, **named}

    def sign(self, payload: bytes) -> bytes:
        """Return the signature of a payload.

        Raises:
            ArchiveError: The key, or whatever keeps it, failed.
        """
        try:
            signature: Any = self._sign(payload)
        except AuditError:
            raise
        except Exception as error:
            raise ArchiveError(
                f"the record could not be signed: {error!r}", "look at the key, or at the service that keeps it"
            ) from error
        if not isinstance(signature, bytes) or not signature:
            raise ArchiveError(f"sign() returned {type(signature).__name__}", "it must return the signature's bytes")
        if not self._checked and self.verifier is not None:
            # Once: else the receivers alone would notice another form of signature, or somebody else's key.
            if not self.verifier.verifies(payload, signature):
                raise ArchiveError(
                    f"what sign() returned is no signature of {self.verifier!r}",
                    "give the key's own public half, and see which form of signature the algorithm has",
                )
            self._checked = True
        return signature

    def signed(self, otlp: bytes, record_id: str, sequence: int, stream_id: str) -> bytes:
        """Return a record's bytes with its signature; or with the reason why it has none, where nobody could sign it.

        Args:
            otlp: The bytes of the ``LogRecord``.
            record_id: The record's id.
            sequence: Its position in the archive.
            stream_id: The archive's id.

        Raises:
            ArchiveError: The key, or whatever keeps it, failed.
        """
        try:
            payload, _ = read_signed(otlp, record_id, sequence, stream_id)
        except Unsignable as error:
            # What a client sent must not keep its record from being recorded.
            return otlp + _text(keys.UNSIGNED, error.reason)
        return otlp + _text(keys.INTEGRITY_VALUE, base64.b64encode(self.sign(payload)).decode("ascii")) + _MARKS


def _text(key: str, value: str) -> bytes:
    """Return a string attribute."""
    return delimited(6, delimited(1, key.encode()) + delimited(2, delimited(1, value.encode())))


_MARKS: Final = _text(keys.INTEGRITY_SIGNER, "producer") + _text(keys.INTEGRITY_CANONICALIZATION, "jcs")


def _joined(
    algorithm: Algorithm, public_key: bytes | None, certificate: bytes | None, verifier: ProducerVerifier | None
) -> ProducerVerifier | None:
    """Return what checks the signatures of a key, having seen that its parts belong together."""
    if algorithm == MAC:
        if certificate is not None or public_key is not None:
            raise ConfigError(f"{MAC} has neither certificate nor public key", "leave them out")
        return verifier
    parts = [
        public_half(part, f"the {name} of the producer key")
        for part, name in ((certificate, "certificate"), (public_key, "public key"))
        if part is not None
    ]
    if verifier is not None:
        parts.append(verifier)
    if not parts:
        raise ConfigError(f"a key for {algorithm} has no public half", "give public_key=, or certificate=")
    if certificate is not None and parts[0].certificate is None:
        raise ConfigError("the certificate of the producer key is a public key", "give an X.509 certificate")
    for part in parts:
        if part.algorithm != algorithm:
            raise ConfigError(
                f"the key signs {algorithm}, its certificate or public key is for {part.algorithm}",
                "give the halves of one key",
            )
        if part.material != parts[0].material:
            raise ConfigError("the certificate is that of another key", "give the certificate of the key itself")
    return parts[0]
