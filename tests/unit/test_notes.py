"""Signed notes and checkpoints: the published example, round trips, and what is none."""

from __future__ import annotations

import base64
import contextlib

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from otel_audit.errors import ConfigError, IntegrityError
from otel_audit.notes import Checkpoint, Note, SigningKey, Verifier, parse_note, sign_note

VERIFIER = "example.com/foo+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k"
EXAMPLE = (
    "This is an example message.\n\n\u2014 example.com/foo"
    " Uw2QOkn8srV1yJGh2VYRlL1Tnagv1YEq6TfXppzi2ONncAlTgK7Ztg1ERYNZXsYjOBH3mFXmRKuwHjG1Yu72IneyaQM=\n"
)


def new_key(name: str = "example.com/audit") -> SigningKey:
    private = Ed25519PrivateKey.generate()
    return SigningKey(name, private.public_key().public_bytes_raw(), private.sign)


def test_the_published_example() -> None:
    """The example of the specification verifies, is written back as it was, and no longer verifies once changed."""
    note, verifier = parse_note(EXAMPLE), Verifier.parse(VERIFIER)
    assert note.signed_by(verifier)
    assert (str(note), str(verifier)) == (EXAMPLE, VERIFIER)
    with pytest.raises(IntegrityError, match="wrong"):
        note._replace(text="This is another message.\n").signed_by(verifier)
    assert not note.signed_by(new_key("example.com/foo").verifier)


@given(st.integers(0, 2**62), st.binary(min_size=32, max_size=32), st.booleans())
def test_a_checkpoint_is_read_back(size: int, root: bytes, signed: bool) -> None:
    """A checkpoint, signed or not, is the same after it was written and read."""
    key = new_key() if signed else None
    checkpoint = Checkpoint.of_archive("0123abcd", size, root)
    note = sign_note(str(checkpoint), key)
    again = parse_note(str(note))
    assert again == note
    assert Checkpoint.parse(again.text) == checkpoint
    assert checkpoint.archive_id == "0123abcd"
    assert key is None or again.signed_by(key.verifier)


def test_a_key_that_does_not_sign() -> None:
    """A function that returns anything but the key's signature is found at once."""
    public = new_key().verifier.public_key
    with pytest.raises(IntegrityError, match="belong together"):
        sign_note("text\n", SigningKey("name", public, lambda _message: bytes(64)))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x",
        "x\n",
        "\n\n",
        "text\n\nline\n",
        "text\n\n- a AAAA\n",
        "text\n\n\u2014 a AAAA",
        "a\x1b\n\n",
        "\ud800\n\n",
    ],
)
def test_what_is_no_note(text: str) -> None:
    """A text without an empty line, with another kind of line behind it, or with control characters is refused."""
    with pytest.raises(ConfigError, match="no note"):
        parse_note(text)


@given(st.text(alphabet="a\n\u2014 +=AB1", max_size=60))
def test_any_text_is_read_or_refused(text: str) -> None:
    """No text makes anything but a note or a `ConfigError`, in each of the three readers."""
    for read in (parse_note, Verifier.parse, Checkpoint.parse):
        with contextlib.suppress(ConfigError):
            assert str(read(text)) == text.strip("\n") or read is not Verifier.parse


@pytest.mark.parametrize(
    "text",
    ["o\n1\n", "o\n01\nAAAA\n", "o\n1\n" + base64.b64encode(bytes(31)).decode() + "\n", "\n1\n" + "A" * 43 + "=\n"],
)
def test_what_is_no_checkpoint(text: str) -> None:
    """A note without origin, size or a root of 32 bytes is no checkpoint."""
    with pytest.raises(ConfigError, match="no checkpoint"):
        Checkpoint.parse(text)


@pytest.mark.parametrize(
    "text", [VERIFIER[:-1], VERIFIER.replace("530d", "530e"), "a+b", "+", VERIFIER.replace("+A", "+B")]
)
def test_what_is_no_verifier(text: str) -> None:
    """A verifier whose key id is not that of its key, or whose key is none, is refused."""
    with pytest.raises(ConfigError, match="no verifier"):
        Verifier.parse(text)


def test_names_and_keys_are_checked() -> None:
    """A name with spaces, and a public key of another length, are refused where the key is made."""
    for name, public in (("a b", bytes(32)), ("a+b", bytes(32)), ("", bytes(32)), ("name", bytes(31))):
        with pytest.raises(ConfigError):
            SigningKey(name, public, lambda message: message)
    assert "SigningKey" in repr(new_key())
    assert Note("t\n", ()).signed_by(new_key().verifier) is False
