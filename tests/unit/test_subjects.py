"""What names a person: whole names, with their host elsewhere, in every form in which they were recorded."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from otel_audit.archive.subjects import Subject, texts_of
from otel_audit.clean import Cleaner
from otel_audit.errors import ConfigError
from otel_audit.privacy import Pseudonyms
from otel_audit.record import Value
from tests.recording import texts

ALICE = Subject("alice", "example.com")
KEY = b"0123456789abcdef0123456789abcdef"


@pytest.mark.parametrize(
    "text",
    [
        "alice", "by alice.", "alice's", '"alice"', "(alice)", "/home/alice/x", "user=alice, ok", "alice: no",
        "alice@example.com", "mail alice@example.com.", "<alice@example.com>", "xmpp:alice@example.com/phone",
        "a\nalice\n", "é alice é", "^alice$", "done. alice left", "bob, alice",
    ],
)  # fmt: skip
def test_a_name_is_found(text: str) -> None:
    """A name is found in texts about its host where it stands by itself."""
    assert ALICE.is_named(text, here=True)
    assert ALICE.is_named(text, here=False) == ("alice@example.com" in text)


@pytest.mark.parametrize(
    "text",
    [
        "", "Alice", "malice", "alices", "alice2", "alice-2", "alice.smith", "alice+x", "alice_b", "bob+alice",
        "x.alice", "bob@alice", "alice@other.com", "malice@example.com", "alice@example.com.au",
        "alice@example.community", "é-alice", "aliceé",
    ],
)  # fmt: skip
def test_a_part_of_another_name_is_not_found(text: str) -> None:
    """Names that only contain the name, of other hosts too, and other cases are other persons."""
    assert not ALICE.is_named(text, here=True)


def test_any_case() -> None:
    """Where the name must not stand at all, its case does not matter."""
    assert ALICE.is_named("ALICE asked", here=True, any_case=True)
    assert ALICE.is_named("of Alice@Example.COM", here=False, any_case=True)
    assert not ALICE.is_named("Malice", here=True, any_case=True)


@given(user=texts())
def test_any_name_is_found_by_itself(user: str) -> None:
    """Whatever the name, it is found as it is recorded, alone and in a sentence; an empty one never."""
    subject = Subject(user, "example.com")
    recorded = Cleaner().text(user, "")
    assert subject.names == {recorded}
    assert subject.is_named(recorded, here=True) == bool(user)
    assert subject.is_named(f"by {recorded} of", here=True) == bool(user)
    address = Cleaner().text(f"{user}@example.com", "")
    assert subject.is_named(f"by {address} of", here=False) == bool(user)


def test_pseudonyms_are_names() -> None:
    """With the key, the pseudonyms of the name and of the address name the person, too."""
    pseudonym = Pseudonyms(KEY)
    subject = Subject("alice", "example.com", pseudonym)
    assert subject.names == {"alice", pseudonym("alice")}
    assert subject.addresses == {"alice@example.com", pseudonym("alice@example.com")}
    assert subject.is_named(f"by {pseudonym('alice')}", here=True)
    assert not subject.is_named(f"by {pseudonym('alice')}", here=False)
    assert subject.is_named(f"by {pseudonym('alice@example.com')}", here=False)


def test_a_host_is_needed() -> None:
    """Nobody is a person of no host."""
    with pytest.raises(ConfigError, match="host is missing"):
        Subject("alice", "")


def test_texts_of_values() -> None:
    """All texts in a value are found, at any depth, bytes that are no UTF-8 included."""
    value: Value = {"a": ("b", 1, None, {"c": b"d\xff"}), "e": True}
    assert list(texts_of(value)) == ["a", "b", "c", "d\ufffd", "e"]
    assert list(texts_of(2.5)) == []


@given(value=st.recursive(st.text(max_size=5), lambda inner: st.lists(inner, max_size=3).map(tuple), max_leaves=8))
def test_no_text_is_left_out(value: object) -> None:
    """Every text of nested lists comes, in order."""

    def flat(given: object) -> list[str]:
        return [given] if isinstance(given, str) else [text for item in given for text in flat(item)]  # type: ignore[attr-defined]

    assert list(texts_of(value)) == flat(value)  # type: ignore[arg-type]
