"""The keys of producer signatures, and what checks the signatures that they made.

The algorithms are EdDSA (Ed25519 over the payload), ES256 (ECDSA with P-256 over its SHA-256, as ASN.1 DER), RS256
(RSA, PKCS#1 v1.5, over its SHA-256) and HMAC-SHA256. All but the last need the extra ``crypto``.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import hashlib
import hmac
import os
from collections.abc import Callable
from functools import lru_cache
from typing import Any, Final, Literal, NamedTuple, get_args

from otel_audit.errors import ConfigError
from otel_audit.keyfile import read_key_file, refuse_open_file, shown

__all__ = [
    "ALGORITHMS",
    "MAC",
    "Algorithm",
    "ProducerVerifier",
    "load_private",
    "load_verifier",
    "public_half",
    "secret_of",
]

Algorithm = Literal["EdDSA", "ES256", "RS256", "HMAC-SHA256"]
ALGORITHMS: Final[tuple[Algorithm, ...]] = get_args(Algorithm)
MAC: Final = "HMAC-SHA256"
"""The one that has a secret in place of two halves."""
_SHORTEST_SECRET: Final = 32
_SHORTEST_RSA: Final = 2_048
_PEM: Final = b"-----BEGIN "


class ProducerVerifier(NamedTuple):
    """What checks a producer's signatures; plain values, which other processes can be given.

    Args:
        algorithm: The algorithm.
        material: The public key as DER (SubjectPublicKeyInfo); of HMAC-SHA256 the secret itself.
        certificate: The X.509 certificate of the key as DER, where there is one.
    """

    algorithm: Algorithm
    material: bytes
    certificate: bytes | None = None

    def __repr__(self) -> str:
        """Return the algorithm and what names the key, never a secret."""
        return f"<ProducerVerifier {self.algorithm} {self.references[-1] if self.references else 'with a secret'}>"

    @property
    def references(self) -> tuple[str, ...]:
        """What ``audit.integrity.certificate`` may call this key by, our own way first; empty for a secret."""
        if self.algorithm == MAC:
            return ()
        key = _fingerprint(self.material)
        if self.certificate is None:
            return (key,)
        return (base64.b64encode(self.certificate).decode("ascii"), _fingerprint(self.certificate), key)

    def verifies(self, payload: bytes, signature: bytes) -> bool:
        """Tell whether a signature of a payload was made with this key.

        Raises:
            ConfigError: The extra `crypto` is missing.
        """
        if self.algorithm == MAC:
            return hmac.compare_digest(hmac.digest(self.material, payload, "sha256"), signature)
        return _check(self.algorithm, self.material)(payload, signature)


def load_verifier(text: str) -> ProducerVerifier:
    """Return what checks signatures, from a file or from a public key itself.

    Args:
        text: The path of a public key or certificate (PEM or DER), of a private key (PEM), or of a secret for
            HMAC-SHA256 (base64); or a public key or certificate as PEM or as base64 of DER.

    Raises:
        ConfigError: It is nothing of that.
    """
    if text.startswith("-----BEGIN "):
        return public_half(text.encode("utf-8", "replace"), "the producer key")
    if not os.path.exists(text):  # noqa: PTH110 - any text may come here, also one that no path can hold
        der = _decoded(text.encode("utf-8", "replace"))
        if der is not None and len(der) > _SHORTEST_SECRET:
            return public_half(der, "the producer key")
        raise ConfigError(
            f"{shown(text)[:100]!r} is neither a key's file nor a public key",
            "give a path, or a public key as PEM or base64",
        )
    where = f"the producer key in {text}"
    content, status = read_key_file(text, where)
    if _decoded(content) is not None:
        refuse_open_file(status, where)
        return ProducerVerifier(MAC, secret_of(content, where))
    if b"PRIVATE KEY-----" in content:
        refuse_open_file(status, where)
        return load_private(content, where)[1]
    return public_half(content, where)


def secret_of(content: bytes, where: str) -> bytes:
    """Return the secret that base64 stands for.

    Args:
        content: The base64, in one line or several.
        where: What messages call it.

    Raises:
        ConfigError: It is none, or too short.
    """
    secret = _decoded(content)
    if secret is None:
        raise ConfigError(f"{where} is no base64", "make one with: openssl rand -base64 32")
    if len(secret) < _SHORTEST_SECRET:
        raise ConfigError(f"{where} is shorter than {_SHORTEST_SECRET} bytes", "make one with: openssl rand -base64 32")
    return secret


def _decoded(content: bytes) -> bytes | None:
    """Return what base64 stands for, None where it is none."""
    try:
        return base64.b64decode(b"".join(content.split()), validate=True)
    except binascii.Error:
        return None


def load_private(content: bytes, where: str) -> tuple[Callable[[bytes], bytes], ProducerVerifier]:
    """Return what signs with a private key, and what checks it.

    Args:
        content: The key as PEM, without a password.
        where: What messages call it.

    Raises:
        ConfigError: It is none, or of a kind that signs nothing here.
    """
    if _PEM not in content:
        raise ConfigError(f"{where} is no PEM", f"give a private key as PEM; a secret needs integrity_algorithm={MAC}")
    serialization = _serialization()
    try:
        private: Any = serialization.load_pem_private_key(content, None)
    except Exception as error:  # it raises errors of many kinds, among them some of its own
        reason = "it has a password" if isinstance(error, TypeError) else "it is no private key in PEM"
        raise ConfigError(f"{where} cannot be used: {reason}", "give one that openssl genpkey wrote") from error
    verifier = _verifier(private.public_key(), where)
    arguments = _arguments(verifier.algorithm)
    if not arguments:
        return private.sign, verifier
    return lambda payload: private.sign(payload, *arguments), verifier


def public_half(content: bytes, where: str) -> ProducerVerifier:
    """Return what a public key or a certificate says, as PEM or DER.

    Args:
        content: The public key or certificate.
        where: What messages call it.

    Raises:
        ConfigError: It is neither, or of a kind that signs nothing here.
    """
    serialization = _serialization()
    from cryptography import x509

    pem, certificate = content.lstrip().startswith(_PEM), None
    with contextlib.suppress(ValueError):
        certificate = (x509.load_pem_x509_certificate if pem else x509.load_der_x509_certificate)(content)
    try:
        if certificate is not None:
            public: Any = certificate.public_key()
        else:
            public = (serialization.load_pem_public_key if pem else serialization.load_der_public_key)(content)
    except Exception as error:  # it raises errors of many kinds, among them some of its own
        raise ConfigError(f"{where} is no public key and no certificate", "give one as PEM or DER") from error
    der = None if certificate is None else certificate.public_bytes(serialization.Encoding.DER)
    return _verifier(public, where)._replace(certificate=der)


def _verifier(public: Any, where: str) -> ProducerVerifier:
    """Return what checks signatures with a public key."""
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

    match public:
        case ed25519.Ed25519PublicKey():
            algorithm: Algorithm = "EdDSA"
        case ec.EllipticCurvePublicKey() if isinstance(public.curve, ec.SECP256R1):
            algorithm = "ES256"
        case rsa.RSAPublicKey() if public.key_size >= _SHORTEST_RSA:
            algorithm = "RS256"
        case rsa.RSAPublicKey():
            raise ConfigError(f"{where} has {public.key_size} bits", f"RSA keys need {_SHORTEST_RSA} or more")
        case _:
            raise ConfigError(f"{where} is of another kind", f"give an Ed25519, P-256 or RSA key, or {MAC} a secret")
    serialization = _serialization()
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    return ProducerVerifier(algorithm, public.public_bytes(serialization.Encoding.DER, form))


def _serialization() -> Any:
    try:
        from cryptography.hazmat.primitives import serialization  # an extra, and slow to import
    except ImportError as error:
        raise ConfigError("signatures need the extra `crypto`", "pip install 'otel-audit[crypto]'") from error
    return serialization


def _arguments(algorithm: Algorithm) -> tuple[Any, ...]:
    """Return what signing and checking take beside the payload."""
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec, padding

    match algorithm:
        case "ES256":
            return (ec.ECDSA(hashes.SHA256()),)
        case "RS256":
            return (padding.PKCS1v15(), hashes.SHA256())
        case _:
            return ()


@lru_cache(64)
def _check(algorithm: Algorithm, material: bytes) -> Callable[[bytes, bytes], bool]:
    """Return what checks signatures with a public key."""
    public: Any = _serialization().load_der_public_key(material)
    from cryptography.exceptions import InvalidSignature

    arguments = _arguments(algorithm)

    def check(payload: bytes, signature: bytes) -> bool:
        try:
            public.verify(signature, payload, *arguments)
        except (InvalidSignature, ValueError):
            return False
        return True

    return check


def _fingerprint(der: bytes) -> str:
    return f"sha256:{hashlib.sha256(der).hexdigest()}"
