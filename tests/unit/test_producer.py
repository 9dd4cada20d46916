"""Keys of producers: which are taken, which are refused, and what their signatures are."""

from __future__ import annotations

import base64
import hashlib
import hmac
import pickle
import ssl
import sys
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, padding, rsa

from otel_audit import ProducerKey
from otel_audit.config import Config
from otel_audit.errors import ArchiveError, ConfigError
from otel_audit.jcs import read_signed
from otel_audit.otlp import decode, read_log
from otel_audit.producer_keys import ProducerVerifier, load_verifier
from tests.recording import Tape, bound_logger
from tests.signing import KINDS, certificate_of, key_file, make_key, private_file, public_file

RECORD_ID = "01890a5d-ac96-774b-bcce-b302099a8057"
# RFC 8032, section 7.1, test 2.
SEED = "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb"
SIGNATURE = (
    "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da"
    "085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00"
)


def load(folder: Path, kind: str) -> tuple[ProducerKey, ProducerVerifier]:
    secret, public = key_file(folder, kind)
    key = ProducerKey.load(secret, "HMAC-SHA256" if kind == "HMAC-SHA256" else None)
    return key, load_verifier(str(public))


def message_of(error: pytest.ExceptionInfo[ConfigError]) -> str:
    return str(error.value)


@pytest.mark.parametrize("kind", KINDS)
def test_each_algorithm(tmp_path: Path, kind: str) -> None:
    """A key of each kind tells its algorithm; its signature is right for the payload and for no other."""
    key, verifier = load(tmp_path, kind)
    assert (key.algorithm, verifier.algorithm) == (kind, kind)
    signature = key.sign(b"payload")
    for checks in (verifier, key.verifier, pickle.loads(pickle.dumps(verifier))):
        assert checks is not None
        assert checks.verifies(b"payload", signature)
        assert not checks.verifies(b"payloae", signature)
        assert not checks.verifies(b"payload", signature[:-1] + bytes((signature[-1] ^ 1,)))
        assert not checks.verifies(b"payload", b"")


def test_a_known_signature(tmp_path: Path) -> None:
    """Ed25519 signs the payload itself, the same each time: a vector of RFC 8032."""
    private = ed25519.Ed25519PrivateKey.from_private_bytes(bytes.fromhex(SEED))
    key = ProducerKey.load(private_file(tmp_path / "key", private))
    assert key.sign(b"\x72").hex() == key.sign(b"\x72").hex() == SIGNATURE


def test_forms_of_signatures(tmp_path: Path) -> None:
    """ES256 is ASN.1 DER and RS256 PKCS#1 v1.5, both over SHA-256; HMAC-SHA256 is that of the decoded secret."""
    elliptic, long = make_key("ES256"), make_key("RS256")
    signature = ProducerKey.load(private_file(tmp_path / "ec", elliptic)).sign(b"payload")
    elliptic.public_key().verify(signature, b"payload", ec.ECDSA(hashes.SHA256()))
    signature = ProducerKey.load(private_file(tmp_path / "rsa", long)).sign(b"payload")
    long.public_key().verify(signature, b"payload", padding.PKCS1v15(), hashes.SHA256())
    secret, _ = key_file(tmp_path, "HMAC-SHA256")
    signature = ProducerKey.load(secret, "HMAC-SHA256").sign(b"payload")
    assert signature == hmac.new(base64.b64decode(secret.read_bytes()), b"payload", hashlib.sha256).digest()


@pytest.mark.parametrize("kind", KINDS[:3])
def test_forms_of_public_keys(tmp_path: Path, kind: str) -> None:
    """A public key is taken from PEM and DER, a certificate or a private key, in a file or as text."""
    private = make_key(kind)
    signature = ProducerKey.load(private_file(tmp_path / "key", private)).sign(b"payload")
    (tmp_path / "cert.pem").write_bytes(certificate_of(private))
    (tmp_path / "cert.der").write_bytes(certificate_of(private, "DER"))
    public_file(tmp_path / "pub.pem", private)
    public_file(tmp_path / "pub.der", private, "DER")
    names = ["key", "cert.pem", "cert.der", "pub.pem", "pub.der"]
    given = [str(tmp_path / name) for name in names]
    given += [(tmp_path / name).read_text() for name in ("cert.pem", "pub.pem")]
    given += [base64.b64encode((tmp_path / name).read_bytes()).decode() for name in ("cert.der", "pub.der")]
    for text in given:
        assert load_verifier(text).verifies(b"payload", signature), text


@pytest.mark.parametrize("kind", KINDS[:3])
def test_what_names_a_key(tmp_path: Path, kind: str) -> None:
    """The resource carries the certificate where there is one, else the fingerprint of the key."""
    private = make_key(kind)
    path = private_file(tmp_path / "key", private)
    der = certificate_of(private, "DER")
    with_one = ProducerKey.load(path, certificate=ssl.DER_cert_to_PEM_cert(der).encode()).resource
    assert with_one == {
        "audit.integrity.algorithm": kind,
        "audit.integrity.certificate": base64.b64encode(der).decode(),
    }
    public = public_file(tmp_path / "pub", private, "DER").read_bytes()
    assert ProducerKey.load(path).resource == {
        "audit.integrity.algorithm": kind,
        "audit.integrity.certificate": f"sha256:{hashlib.sha256(public).hexdigest()}",
    }


def test_a_secret_is_named_nowhere(tmp_path: Path) -> None:
    """Neither the resource nor any text of a key gives away a secret."""
    key, verifier = load(tmp_path, "HMAC-SHA256")
    assert key.resource == {"audit.integrity.algorithm": "HMAC-SHA256"}
    secret = (tmp_path / "integrity.key").read_text().strip()
    shown = f"{key!r} {verifier!r} {key.verifier!r}"
    assert secret not in shown
    assert repr(base64.b64decode(secret))[2:-1] not in shown


@pytest.mark.parametrize(
    ("content", "algorithm", "expected"),
    [
        (b"", None, "is no PEM"),
        (b"x" * 44, None, "needs integrity_algorithm=HMAC-SHA256"),
        (b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", None, "no private key in PEM"),
        (base64.b64encode(bytes(31)), "HMAC-SHA256", "shorter than 32 bytes"),
        (b"no base64!", "HMAC-SHA256", "is no base64"),
        (b"", "HMAC-SHA256", "shorter than 32 bytes"),
    ],
)
def test_files_that_hold_no_key(tmp_path: Path, content: bytes, algorithm: Any, expected: str) -> None:
    """What is no key is refused, by the name of its file and with the remedy."""
    path = tmp_path / "key"
    path.touch(0o600)
    path.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        ProducerKey.load(path, algorithm)
    assert expected in message_of(caught)
    assert str(path) in message_of(caught)
    assert caught.value.hint


def test_keys_that_are_refused(tmp_path: Path) -> None:
    """Keys of other kinds, short ones, those with a password or with another algorithm are refused."""
    refused = {
        "has 1024 bits": rsa.generate_private_key(public_exponent=65_537, key_size=1_024),
        "is of another kind": ec.generate_private_key(ec.SECP384R1()),
        "of another kind": ed448.Ed448PrivateKey.generate(),
    }
    for number, (expected, private) in enumerate(refused.items()):
        with pytest.raises(ConfigError, match=expected):
            ProducerKey.load(private_file(tmp_path / f"key{number}", private))
        with pytest.raises(ConfigError, match=expected):
            load_verifier(str(public_file(tmp_path / f"pub{number}", private)))
    locked = tmp_path / "locked"
    locked.touch(0o600)
    locked.write_bytes(
        make_key("EdDSA").private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.BestAvailableEncryption(b"x")
        )
    )
    with pytest.raises(ConfigError, match="has a password"):
        ProducerKey.load(locked)
    with pytest.raises(ConfigError, match="is for EdDSA, not ES256"):
        ProducerKey.load(private_file(tmp_path / "ed", make_key("EdDSA")), "ES256")


@pytest.mark.parametrize("mode", [0o644, 0o620, 0o602, 0o601])
def test_files_that_are_open_to_others(tmp_path: Path, mode: int) -> None:
    """A secret that others can read is refused, by those who sign and by those who check."""
    for kind in ("EdDSA", "HMAC-SHA256"):
        secret, _ = key_file(tmp_path, kind)
        secret.chmod(mode)
        with pytest.raises(ConfigError, match="is open to others"):
            ProducerKey.load(secret, "HMAC-SHA256" if kind == "HMAC-SHA256" else None)
        with pytest.raises(ConfigError, match="is open to others"):
            load_verifier(str(secret))
        secret.chmod(0o640)
        assert load_verifier(str(secret)).algorithm == kind


@pytest.mark.parametrize(
    "text", ["", "nowhere", "producer", "-----BEGIN PUBLIC KEY-----\n", "A" * 60, "\x00", "\udcff"]
)
def test_texts_that_are_no_key(text: str) -> None:
    """What is neither a file nor a public key is refused."""
    with pytest.raises(ConfigError) as caught:
        load_verifier(text)
    assert caught.value.hint


def test_certificates_that_are_refused(tmp_path: Path) -> None:
    """A certificate must be one, be that of the key, and be given with a key that can have one."""
    private, other = make_key("EdDSA"), make_key("EdDSA")
    path = private_file(tmp_path / "key", private)
    with pytest.raises(ConfigError, match="another key"):
        ProducerKey.load(path, certificate=certificate_of(other))
    with pytest.raises(ConfigError, match="signs EdDSA, its certificate or public key is for ES256"):
        ProducerKey.load(path, certificate=certificate_of(make_key("ES256")))
    with pytest.raises(ConfigError, match="no certificate"):
        ProducerKey.load(path, certificate=b"nothing")
    with pytest.raises(ConfigError, match="is a public key"):
        ProducerKey.load(path, certificate=public_file(tmp_path / "pub", private).read_bytes())
    secret, _ = key_file(tmp_path, "HMAC-SHA256")
    with pytest.raises(ConfigError, match="neither certificate nor public key"):
        ProducerKey.load(secret, "HMAC-SHA256", certificate_of(private))


def test_a_function_that_signs(tmp_path: Path) -> None:
    """A function signs in place of a file, with the public half given as PEM or DER, or as a certificate."""
    private = make_key("ES256")
    calls = []

    def sign(payload: bytes) -> bytes:
        calls.append(payload)
        signature: bytes = private.sign(payload, ec.ECDSA(hashes.SHA256()))
        return signature

    for encoding in ("PEM", "DER"):
        public = public_file(tmp_path / encoding, private, encoding).read_bytes()
        key = ProducerKey("ES256", sign, public_key=public)
        assert key.verifier is not None
        assert key.verifier.verifies(b"payload", key.sign(b"payload"))
        assert ProducerKey("ES256", sign, certificate=certificate_of(private, encoding)).verifier is not None
    assert set(calls) == {b"payload"}
    mac = ProducerKey("HMAC-SHA256", lambda payload: hashlib.sha256(payload).digest())
    assert mac.verifier is None
    assert mac.sign(b"payload") == hashlib.sha256(b"payload").digest()


def test_functions_that_are_refused(tmp_path: Path) -> None:
    """A function that fails or returns no signature of its key raises where a record should be signed."""
    private, other = make_key("EdDSA"), make_key("EdDSA")
    public = public_file(tmp_path / "pub", private).read_bytes()

    def fail(_: bytes) -> bytes:
        raise OSError("the service is away")

    returned: list[Any] = [None, "text", b"", bytes(64), other.sign(b"payload")]
    for value in returned:
        with pytest.raises(ArchiveError):
            ProducerKey("EdDSA", lambda _payload, value=value: value, public_key=public).sign(b"payload")  # type: ignore[misc]
    with pytest.raises(ArchiveError, match="the service is away"):
        ProducerKey("EdDSA", fail, public_key=public).sign(b"payload")
    wrong: list[tuple[Any, Any, dict[str, Any]]] = [
        ("ES512", private.sign, {"public_key": public}),
        ("EdDSA", None, {"public_key": public}),
        ("EdDSA", private.sign, {}),
        ("ES256", private.sign, {"public_key": public}),
        ("EdDSA", private.sign, {"public_key": b"nothing"}),
        ("HMAC-SHA256", private.sign, {"public_key": public}),
    ]
    for algorithm, sign, options in wrong:
        with pytest.raises(ConfigError):
            ProducerKey(algorithm, sign, **options)


def test_signed_bytes(tmp_path: Path) -> None:
    """Signing appends the proof's attributes, which the payload leaves out and decoding shows."""
    key, verifier = load(tmp_path, "EdDSA")
    tape = Tape()
    bound_logger(tape).audit("user.login.success", user="alice")
    signed = key.signed(tape.otlp, RECORD_ID, 7, "archive")
    assert signed.startswith(tape.otlp)
    attributes = read_log(signed).attributes
    payload, value = read_signed(signed, RECORD_ID, 7, "archive")
    assert payload == read_signed(tape.otlp, RECORD_ID, 7, "archive")[0]
    assert attributes["audit.integrity.value"] == value == decode(signed, RECORD_ID).signature
    assert attributes["audit.integrity.signer"] == "producer"
    assert attributes["audit.integrity.canonicalization"] == "jcs"
    assert value is not None
    assert verifier.verifies(payload, base64.b64decode(value))
    for other in ((RECORD_ID, 8, "archive"), (RECORD_ID, 7, "another"), (RECORD_ID.replace("0", "1"), 7, "archive")):
        assert not verifier.verifies(read_signed(signed, *other)[0], base64.b64decode(value))


def test_what_nobody_can_sign(tmp_path: Path) -> None:
    """A record that has no payload keeps its bytes, with the reason, which decoding shows as a mark."""
    key, _ = load(tmp_path, "EdDSA")
    tape = Tape()
    bound_logger(tape).audit("user.login.success", user="", custom={"g": {"f": float("nan")}})
    signed = key.signed(tape.otlp, RECORD_ID, 7, "archive")
    assert signed.startswith(tape.otlp)
    assert read_log(signed).attributes["otel_audit.unsigned"] == "not-finite"
    record = decode(signed, RECORD_ID)
    assert (record.signature, record.altered) == (None, ("user:empty", "signature:not-finite"))


def test_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The key comes from its argument or the environment, and tells the resource how records are signed."""
    private = make_key("EdDSA")
    path = private_file(tmp_path / "key", private)
    der = certificate_of(private, "DER")
    (tmp_path / "cert").write_bytes(der)
    assert Config.load(archive=tmp_path / "a").integrity is None
    config = Config.load(archive=tmp_path / "a", integrity_key=path)
    assert config.integrity is not None
    assert dict(config.resource) == {"service.name": "unknown_service", **config.integrity.resource}
    given = Config.load(archive=tmp_path / "a", integrity_key=config.integrity)
    assert given.integrity is config.integrity
    monkeypatch.setenv("OTEL_AUDIT_INTEGRITY_KEY", str(path))
    monkeypatch.setenv("OTEL_AUDIT_INTEGRITY_CERTIFICATE", str(tmp_path / "cert"))
    from_environment = Config.load(archive=tmp_path / "a").integrity
    assert from_environment is not None
    assert from_environment.verifier is not None
    assert from_environment.verifier.certificate == der


def test_settings_that_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Settings that contradict each other, and values that no setting has, are named."""
    path = private_file(tmp_path / "key", make_key("EdDSA"))
    key = ProducerKey.load(path)
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"integrity_algorithm": "EdDSA"}, "without a key"),
        ({"integrity_certificate": "x"}, "without a key"),
        ({"integrity_key": 5}, "integrity_key=5 is no path"),
        ({"integrity_key": ""}, "is no path"),
        ({"integrity_key": path, "integrity_algorithm": "none"}, "integrity_algorithm='none' is unknown"),
        ({"integrity_key": path, "integrity_certificate": 5}, "integrity_certificate=5 is no path"),
        ({"integrity_key": path, "integrity_certificate": tmp_path / "gone"}, "cannot be read"),
        ({"integrity_key": tmp_path / "gone"}, "cannot be read"),
        ({"integrity_key": tmp_path}, "is no regular file"),
        ({"integrity_key": key, "integrity_algorithm": "ES256"}, "has its own algorithm"),
        ({"integrity_key": key, "integrity_certificate": path}, "has its own algorithm"),
    ]
    for settings, expected in wrong:
        with pytest.raises(ConfigError) as caught:
            Config.load(archive=tmp_path / "a", **settings)
        assert expected in message_of(caught)
    monkeypatch.setenv("OTEL_AUDIT_INTEGRITY_ALGORITHM", "none")
    with pytest.raises(ConfigError, match="OTEL_AUDIT_INTEGRITY_ALGORITHM='none' is unknown"):
        Config.load(archive=tmp_path / "a", integrity_key=path)


def test_without_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the extra a key in PEM says what to install; a secret needs nothing."""
    path = private_file(tmp_path / "key", make_key("EdDSA"))
    public = public_file(tmp_path / "pub", make_key("EdDSA"))
    for name in ("cryptography.hazmat.primitives", "cryptography"):
        monkeypatch.setitem(sys.modules, name, None)
    for use in (lambda: ProducerKey.load(path), lambda: load_verifier(str(public))):
        with pytest.raises(ConfigError, match=r"otel-audit\[crypto\]"):
            use()
    secret, _ = key_file(tmp_path, "HMAC-SHA256")
    signature = ProducerKey.load(secret, "HMAC-SHA256").sign(b"payload")
    assert load_verifier(str(secret)).verifies(b"payload", signature)
