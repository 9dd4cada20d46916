"""Signed notes and checkpoints, as C2SP writes them (c2sp.org/signed-note, c2sp.org/tlog-checkpoint), with Ed25519.

A note is a text, an empty line, and a line for each signature. A checkpoint is a note that states the size and the root
of a tree. Without a key it has no signature line: whoever holds it still knows what the tree was.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Callable
from typing import Any, Final, NamedTuple, Self

from otel_audit.errors import ConfigError, IntegrityError

__all__ = ["ED25519", "Checkpoint", "Note", "Signature", "SigningKey", "Verifier", "parse_note", "sign_note"]

ED25519: Final = 1
"""The algorithm's byte in keys and key ids."""
_NAME: Final = re.compile(r"[^\s+]{1,255}")
_SIGNATURE: Final = re.compile(r"\u2014 ([^\s+]{1,255}) ([A-Za-z0-9+/]{4,}={0,2})")
_SIZE: Final = re.compile(r"0|[1-9][0-9]{0,18}")
_LONGEST: Final = 1_000_000


def _is_name(text: str) -> bool:
    # Printable: names stand in notes, in records and on terminals.
    return _NAME.fullmatch(text) is not None and text.isprintable()


class Verifier(NamedTuple):
    """The public half of a signing key, which checks notes.

    Args:
        name: The key's name.
        public_key: Ed25519, 32 bytes.
    """

    name: str
    public_key: bytes

    @property
    def label(self) -> str:
        """Name and key id, for people."""
        return f"{self.name}+{self.key_id.hex()}"

    @property
    def key_id(self) -> bytes:
        """What signature lines tell keys of the same name apart by: 4 bytes."""
        return hashlib.sha256(self.name.encode() + b"\n" + bytes((ED25519,)) + self.public_key).digest()[:4]

    def __str__(self) -> str:
        """Return the verifier's text: name, key id and key."""
        key = base64.b64encode(bytes((ED25519,)) + self.public_key).decode("ascii")
        return f"{self.label}+{key}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the verifier that a text describes.

        Raises:
            ConfigError: It describes none.
        """
        name, _, rest = text.strip().partition("+")
        key_id, _, encoded = rest.partition("+")
        try:
            key = base64.b64decode(encoded, validate=True)
            verifier = cls(name, key[1:])
            if not _is_name(name) or len(key) != 33 or key[0] != ED25519 or verifier.key_id.hex() != key_id:
                raise ValueError
        except ValueError:
            # Somebody may give the signing key itself.
            shown = "this" if "PRIVATE" in text else repr(text[:100])
            raise ConfigError(
                f"{shown} is no verifier of an Ed25519 key", "give what otel-audit keys show prints"
            ) from None
        return verifier

    def verifies(self, message: bytes, signature: bytes) -> bool:
        """Tell whether a signature of a message was made with this key."""
        try:
            from cryptography.exceptions import InvalidSignature
            from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
        except ImportError as error:
            raise ConfigError("signatures need the extra `crypto`", "pip install 'otel-audit[crypto]'") from error
        try:
            Ed25519PublicKey.from_public_bytes(self.public_key).verify(signature, message)
        except (InvalidSignature, ValueError):
            return False
        return True


class SigningKey:
    """A key that signs checkpoints: kept in a file, or elsewhere behind a function.

    Args:
        name: The key's name, without spaces and ``+``; verifiers and signature lines carry it.
        public_key: The public half: Ed25519, 32 bytes.
        sign: Returns the Ed25519 signature of a message, 64 bytes; e.g. a call of a key management service.

    Raises:
        ConfigError: The name or the public key cannot be used.
    """

    def __init__(self, name: str, public_key: bytes, sign: Callable[[bytes], bytes]) -> None:
        given: tuple[Any, Any] = (name, public_key)
        if not isinstance(given[0], str) or not _is_name(name):
            raise ConfigError(f"a signing key is named {name!r}", "give a name without spaces and +")
        if not isinstance(given[1], bytes) or len(public_key) != 32:
            raise ConfigError(f"the signing key {name!r} has no public key of 32 bytes", "Ed25519 keys have that")
        self.verifier = Verifier(name, public_key)
        self.sign = sign

    def __repr__(self) -> str:
        """Return the verifier, never the key."""
        return f"<SigningKey {self.verifier}>"


class Signature(NamedTuple):
    """One signature line.

    Args:
        name: The key's name.
        key_id: 4 bytes.
        signature: The signature itself.
    """

    name: str
    key_id: bytes
    signature: bytes

    @property
    def label(self) -> str:
        """Name and key id of the key that it claims to be of, for people."""
        return f"{self.name}+{self.key_id.hex()}"


class Note(NamedTuple):
    """A text with its signatures.

    Args:
        text: The text, which ends with a line feed; the signatures are over it.
        signatures: They may be none, or by keys that nobody here knows.
    """

    text: str
    signatures: tuple[Signature, ...]

    def signed_by(self, verifier: Verifier) -> bool:
        """Tell whether one of the signatures is by a key, and right.

        Raises:
            IntegrityError: One claims to be by this key, and is wrong.
        """
        found = False
        for name, key_id, signature in self.signatures:
            if (name, key_id) == (verifier.name, verifier.key_id):
                if not verifier.verifies(self.text.encode(), signature):
                    raise IntegrityError(f"a signature of {name!r} is wrong")
                found = True
        return found

    def __str__(self) -> str:
        """Return the whole note."""
        lines = [
            f"\u2014 {name} {base64.b64encode(key_id + signature).decode('ascii')}\n"
            for name, key_id, signature in self.signatures
        ]
        return f"{self.text}\n{''.join(lines)}"


def parse_note(text: str) -> Note:
    """Return the note that a text holds.

    Raises:
        ConfigError: It holds none.
    """
    body, separator, lines = text[: _LONGEST + 1].rpartition("\n\n")
    try:
        if not separator or not body or len(text) > _LONGEST or (lines and not lines.endswith("\n")):
            raise ValueError
        if any(ord(sign) < 32 and sign != "\n" for sign in text):
            raise ValueError
        text.encode()
        signatures = []
        for line in lines.split("\n")[:-1]:
            match = _SIGNATURE.fullmatch(line)
            if match is None:
                raise ValueError
            decoded = base64.b64decode(match[2], validate=True)
            if base64.b64encode(decoded).decode("ascii") != match[2]:
                raise ValueError
            signatures.append(Signature(match[1], decoded[:4], decoded[4:]))
    except (ValueError, binascii.Error):
        raise ConfigError("this is no note", "give it as otel-audit wrote it, to its last line") from None
    return Note(body + "\n", tuple(signatures))


def sign_note(text: str, key: SigningKey | None) -> Note:
    """Return a note of a text, signed where there is a key.

    Args:
        text: Ends with a line feed.
        key: Signs it; None: no signature.

    Raises:
        ConfigError: The key's function failed.
        IntegrityError: What the key's function returned is no signature of the text.
    """
    if key is None:
        return Note(text, ())
    verifier = key.verifier
    try:
        signature: Any = key.sign(text.encode())
    except Exception as error:
        # It may ask a service, whose errors nobody here knows.
        raise ConfigError(
            f"the signing key {verifier.name!r} does not sign: {type(error).__name__}: {error}",
            "see what its sign function needs",
        ) from error
    if not isinstance(signature, bytes) or not verifier.verifies(text.encode(), signature):
        raise IntegrityError(
            f"the signing key {verifier.name!r} returned no signature of its own",
            "its public key and its sign function must belong together",
        )
    return Note(text, (Signature(verifier.name, verifier.key_id, signature),))


class Checkpoint(NamedTuple):
    """What a tree is.

    Args:
        origin: Names the log: ``otel-audit/`` and the archive's id.
        size: How many records it has.
        root: Its root, 32 bytes.
    """

    origin: str
    size: int
    root: bytes

    def __str__(self) -> str:
        """Return the text that is signed."""
        return f"{self.origin}\n{self.size}\n{base64.b64encode(self.root).decode('ascii')}\n"

    @classmethod
    def of_archive(cls, archive_id: str, size: int, root: bytes) -> Self:
        """Return the checkpoint of an archive.

        Raises:
            IntegrityError: The archive's id is none.
        """
        # It comes from a file that may have been edited. With a line feed in it, the signed text would state other
        # sizes and roots, or another key, in the archive's name.
        if not archive_id.isalnum() or not archive_id.isascii():
            raise IntegrityError(f"{archive_id!r} is no archive's id", "otel-audit verify says more")
        return cls(f"otel-audit/{archive_id}", size, root)

    @property
    def archive_id(self) -> str:
        """The archive's id; empty where the origin is no archive of this library."""
        prefix, _, archive_id = self.origin.partition("/")
        return archive_id if prefix == "otel-audit" else ""

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the checkpoint that a note's text states; further lines are left to others.

        Raises:
            ConfigError: It states none.
        """
        lines = text.split("\n")
        try:
            origin, size, encoded = lines[:3]
            root = base64.b64decode(encoded, validate=True)
            if not origin or not _SIZE.fullmatch(size) or len(root) != 32 or lines[-1]:
                raise ValueError
            if base64.b64encode(root).decode("ascii") != encoded:
                raise ValueError
        except ValueError:
            raise ConfigError("this note is no checkpoint", "give one that otel-audit checkpoint printed") from None
        return cls(origin, int(size), root)
