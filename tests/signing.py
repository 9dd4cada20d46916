"""What tests of producers' signatures share: the payload made another way, and keys."""

from __future__ import annotations

import base64
import datetime as dt
import json
import os
from pathlib import Path
from typing import Any

import rfc8785
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import NameOID
from opentelemetry.proto.common.v1.common_pb2 import AnyValue
from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord

__all__ = [
    "KINDS",
    "certificate_of",
    "key_file",
    "make_key",
    "plain_length",
    "private_file",
    "public_file",
    "reference",
]

KINDS = ("EdDSA", "ES256", "RS256", "HMAC-SHA256")


def reference(log: LogRecord) -> bytes:
    """Return the payload of a record as the draft describes it, from the official classes and the `rfc8785` package."""
    return rfc8785.dumps(_payload(log))


def plain_length(log: LogRecord) -> int:
    """Return how long the JSON of a payload is in a writer that escapes ``<``, ``>``, ``&`` and line separators."""
    text = json.dumps(_payload(log), ensure_ascii=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return len(text.encode())


def _payload(log: LogRecord) -> dict[str, Any]:
    members: dict[str, Any] = {
        "event_name": log.event_name,
        "timestamp": str(log.time_unix_nano) if log.time_unix_nano else "",
        "observed_timestamp": str(log.observed_time_unix_nano) if log.observed_time_unix_nano else "",
        "trace_id": log.trace_id.hex() if any(log.trace_id) else "",
        "span_id": log.span_id.hex() if any(log.span_id) else "",
        "attributes": {
            pair.key: _value(pair.value) for pair in log.attributes if not pair.key.startswith("audit.integrity.")
        },
    }
    members = {name: member for name, member in members.items() if member}
    if log.body.WhichOneof("value") is not None:
        members["body"] = _value(log.body)
    return members


def _value(value: AnyValue) -> Any:
    match value.WhichOneof("value"):
        case "string_value":
            return {"stringValue": value.string_value}
        case "bool_value":
            return {"boolValue": value.bool_value}
        case "int_value":
            return {"intValue": str(value.int_value)}
        case "double_value":
            return {"doubleValue": value.double_value}
        case "bytes_value":
            return {"bytesValue": base64.b64encode(value.bytes_value).decode()}
        case "array_value":
            return [_value(item) for item in value.array_value.values]
        case "kvlist_value":
            return {pair.key: _value(pair.value) for pair in value.kvlist_value.values}
        case _:
            return None


def make_key(kind: str, **options: int) -> Any:
    """Return a new private key for an algorithm."""
    if kind == "EdDSA":
        return ed25519.Ed25519PrivateKey.generate()
    if kind == "ES256":
        return ec.generate_private_key(ec.SECP256R1())
    return rsa.generate_private_key(public_exponent=65_537, key_size=options.get("key_size", 2_048))


def private_file(path: Path, key: Any) -> Path:
    """Write a private key as PEM, for its owner alone."""
    path.touch(0o600)
    path.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return path


def public_file(path: Path, key: Any, encoding: str = "PEM") -> Path:
    """Write the public half of a key as PEM or DER."""
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    path.write_bytes(key.public_key().public_bytes(getattr(serialization.Encoding, encoding), form))
    return path


def key_file(folder: Path, kind: str) -> tuple[Path, Path]:
    """Write a new key for an algorithm; return the files of what signs and of what checks."""
    secret = folder / "integrity.key"
    if kind != "HMAC-SHA256":
        key = make_key(kind)
        return private_file(secret, key), public_file(folder / "integrity.pub", key)
    secret.touch(0o600)
    secret.write_bytes(base64.b64encode(os.urandom(32)) + b"\n")
    return secret, secret


def certificate_of(key: Any, encoding: str = "PEM") -> bytes:
    """Return a self-signed certificate of a key."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "producer")])
    now = dt.datetime.now(dt.UTC)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(x509.random_serial_number())
    builder = builder.not_valid_before(now - dt.timedelta(days=1)).not_valid_after(now + dt.timedelta(days=30))
    digest = None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256()
    return builder.sign(key, digest).public_bytes(getattr(serialization.Encoding, encoding))
