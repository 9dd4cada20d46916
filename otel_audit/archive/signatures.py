"""Checks the producers' signatures that records hold."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Final, NamedTuple

import apsw

from otel_audit import attributes as keys
from otel_audit.archive.derive import SIGNED
from otel_audit.archive.faults import Faults
from otel_audit.errors import ConfigError
from otel_audit.jcs import Unsignable, read_signed
from otel_audit.otlp import read_log
from otel_audit.producer_keys import ProducerVerifier, public_half
from otel_audit.protobuf import delimited, fields

__all__ = ["NOBODY", "SignatureCheck", "Signatures", "Trust"]


class Trust(NamedTuple):
    """Which keys may have signed records.

    Args:
        verifiers: The keys that are known.
        only: Whether every signature must be by one of them. Else one whose record names another key is checked with
            the certificate that the record came with, which proves no more than that both belong together.
    """

    verifiers: tuple[ProducerVerifier, ...] = ()
    only: bool = False


NOBODY: Final = Trust()
"""No key is known."""


class Signatures(NamedTuple):
    """How many records have which signature, those with a wrong one aside.

    Args:
        verified: Signed by a key that is known.
        consistent: Signed by the key of the certificate that the record came with.
        unchecked: Signed by a key that is not here.
        unsigned: Not signed.
    """

    verified: int = 0
    consistent: int = 0
    unchecked: int = 0
    unsigned: int = 0

    @property
    def signed(self) -> int:
        """How many records have a signature that is not wrong."""
        return self.verified + self.consistent + self.unchecked

    def plus(self, other: Signatures) -> Signatures:
        """Return the sums."""
        return Signatures(*(a + b for a, b in zip(self, other, strict=True)))


class _Claim(NamedTuple):
    """What a record's resource says of its signature."""

    algorithm: str
    reference: str
    certificate: ProducerVerifier | None


class SignatureCheck:
    """Checks the signatures of an archive's records, and counts them.

    Args:
        connection: Reads the archive.
        trust: The keys.
        faults: Takes signatures that are wrong.
    """

    def __init__(self, connection: apsw.Connection, trust: Trust, faults: Faults) -> None:
        self._connection = connection
        self._trust = trust
        self._faults = faults
        self._archive_id: str | None = None
        self._claims: dict[int, _Claim] = {}
        self._references = frozenset(name for verifier in trust.verifiers for name in verifier.references)
        self._counts = dict.fromkeys(("verified", "consistent", "unchecked"), 0)
        self.unsigned = 0

    @property
    def signatures(self) -> Signatures:
        """What was found so far."""
        return Signatures(**self._counts, unsigned=self.unsigned)

    def record(self, sequence: int, record_id: Any, resource: Any, otlp: Any) -> None:
        """Check one record.

        Raises:
            ValueError: Its bytes are no ``LogRecord``.
        """
        if not isinstance(otlp, bytes) or SIGNED not in otlp:
            self.unsigned += 1
            return
        try:
            payload, text = read_signed(otlp, _uuid(record_id), sequence, self._id())
        except Unsignable:
            payload, text = b"", str(read_log(otlp).attributes.get(keys.INTEGRITY_VALUE))
        if text is None:
            self.unsigned += 1
            return
        try:
            signature = base64.b64decode(text, validate=True)
            # The last character has bits that stand for nothing: no two texts are the same signature.
            if base64.b64encode(signature).decode("ascii") != text:
                signature = b""
        except ValueError:
            signature = b""
        found = self._look(resource, payload, signature) if payload else "nobody can sign such a record"
        if found in self._counts:
            self._counts[found] += 1
        else:
            self._faults.add("signature", f"record {sequence}", found)

    def _look(self, resource: Any, payload: bytes, signature: bytes) -> str:
        """Return the count that a signature belongs to, else what is wrong with it."""
        claim = self._claim(resource)
        known = [verifier for verifier in self._trust.verifiers if verifier.algorithm == claim.algorithm]
        if any(verifier.verifies(payload, signature) for verifier in known):
            return "verified"
        if self._trust.only:
            return "not by a key that was given"
        if known and (not claim.reference or claim.reference in self._references):
            return "not by the key that it names"
        if claim.certificate is None:
            return "unchecked"
        return "consistent" if claim.certificate.verifies(payload, signature) else "not by the key of its certificate"

    def _claim(self, resource: Any) -> _Claim:
        if resource not in self._claims:
            found = self._connection.execute("SELECT resource FROM resource WHERE id = ?", (resource,)).get
            attributes = _attributes(found) if isinstance(found, bytes) else {}
            algorithm, reference = (
                str(attributes.get(key) or "") for key in (keys.INTEGRITY_ALGORITHM, keys.INTEGRITY_CERTIFICATE)
            )
            self._claims[resource] = _Claim(algorithm, reference, _certificate(algorithm, reference))
        return self._claims[resource]

    def _id(self) -> str:
        if self._archive_id is None:
            found: Any = self._connection.execute("SELECT value FROM meta WHERE key = 'archive_id'").get
            self._archive_id = str(found)
        return self._archive_id


def _attributes(resource: bytes) -> Mapping[str, Any]:
    """Return the attributes of a ``Resource``; none where it is damaged, which others find."""
    try:
        pairs = [
            delimited(6, value) for number, _, value in fields(resource) if number == 1 and isinstance(value, bytes)
        ]
        # A log record of these attributes: one reader of attributes is enough.
        return read_log(b"".join(pairs)).attributes
    except ValueError:
        return {}


@lru_cache(64)
def _certificate(algorithm: str, reference: str) -> ProducerVerifier | None:
    """Return the key of a certificate in base64; None where there is none that can be used here."""
    try:
        found = public_half(base64.b64decode(reference, validate=True), "the record's certificate")
    except (ValueError, ConfigError):
        return None
    return found if found.certificate is not None and found.algorithm == algorithm else None


def _uuid(record_id: Any) -> str:
    text = record_id.hex() if isinstance(record_id, bytes) else ""
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"
