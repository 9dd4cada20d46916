"""What a client sent is recorded, whatever it is, and the marks name everything that had to be altered."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given, settings

from otel_audit.clean import MAX_BYTES, MAX_CUSTOM_BYTES, MAX_DEPTH, MAX_ITEMS, Cleaner
from otel_audit.record import Value
from tests.recording import Tape, Unprintable, bound_logger, custom_groups, texts


def cleaned(value: Any) -> tuple[Value, tuple[str, ...]]:
    """Return one custom value as it is kept, and the marks."""
    cleaner = Cleaner()
    return cleaner.custom({"g": {"f": value}})["g"]["f"], cleaner.marks


def same(given: Any, kept: Any) -> bool:
    """Tell whether a value was kept as it was given, apart from the type of its container."""
    match given:
        case None | bool():
            return kept is given
        case str() | int() | float() if type(kept) in type(given).__mro__:
            # A number that is none equals itself only.
            kind: Any = type(kept)
            return bool(kind.__eq__(kept, given)) or (kept != kept and given != given)  # noqa: PLR0124
        case bytes() | bytearray() | memoryview():
            return isinstance(kept, bytes) and kept == bytes(given)
        case Mapping():
            return isinstance(kept, dict) and given.keys() == kept.keys() and all(same(given[k], kept[k]) for k in kept)
        case list() | tuple() | set() | frozenset():
            if not isinstance(kept, tuple) or len(kept) != len(given):
                return False
            return all(same(a, b) for a, b in zip(given, kept, strict=True))
        case _:
            return False


@settings(max_examples=200)
@given(custom_groups())
def test_every_altered_field_is_named(groups: dict[str, dict[Any, Any]]) -> None:
    """A custom field is either as it was given, or a mark names it or its group; nothing disappears without one."""
    tape = Tape()
    bound_logger(tape).audit("t", custom=groups)
    record = tape.record
    for group, fields in groups.items():
        marks = [mark for mark in record.altered if mark.startswith(f"custom.{group}")]
        whole = any(mark.startswith((f"custom.{group}:large", f"custom.{group}:converted")) for mark in marks)
        kept = record.custom.get(group, {})
        assert len(kept) == len(fields) or whole
        assert not [name for name in kept if not name.replace("-", "_").replace("_", "").isascii()]
        for name, value in kept.items():
            named = any(mark.startswith(f"custom.{group}.{name}:") for mark in marks)
            assert named or whole or same(fields[name], value)


@given(texts())
def test_every_altered_text_is_named(text: str) -> None:
    """A text is as it was given, or marked; it is valid Unicode without NUL and at most 16 KiB long."""
    cleaner = Cleaner()
    kept = cleaner.text(text, "user")
    assert len(kept.encode()) <= MAX_BYTES
    assert "\x00" not in kept
    assert kept == text or cleaner.marks
    assert all(mark.startswith("user:") for mark in cleaner.marks)
    assert len(set(cleaner.marks)) == len(cleaner.marks)


@pytest.mark.parametrize(
    ("text", "kept", "marks"),
    [
        ("Zoë 🙂", "Zoë 🙂", ()),
        ("a\ud800b", "a\\ud800b", ("user:escaped",)),
        ("a\x00b", "a\\x00b", ("user:escaped",)),
        ("\udcff\x00", "\\udcff\\x00", ("user:escaped",)),
        ("a\tb", "a\tb", ("user:control",)),
        ("\x1b[31m", "\x1b[31m", ("user:control",)),
        ("gpj\u202e.exe", "gpj\u202e.exe", ("user:control",)),
        ("a\u061cb", "a\u061cb", ("user:control",)),
        ("a\u2028b", "a\u2028b", ("user:control",)),
        ("no\u00adbreak\ufeff", "no\u00adbreak\ufeff", ()),
    ],
)
def test_marks_of_texts(text: str, kept: str, marks: tuple[str, ...]) -> None:
    """Invalid Unicode and NUL are escaped; controls and bidirectional characters are kept; both are marked."""
    cleaner = Cleaner()
    assert cleaner.text(text, "user") == kept
    assert cleaner.marks == marks


@pytest.mark.parametrize("letter", ["x", "é", "€", "😀"])
@pytest.mark.parametrize("over", [-1, 0, 1, 2])
def test_long_texts_are_cut_between_characters(letter: str, over: int) -> None:
    """A text of up to 16 KiB is kept; a longer one is cut to whole characters, its length and digest noted."""
    text = letter * (MAX_BYTES // len(letter.encode()) + over)
    cleaner = Cleaner()
    kept = cleaner.text(text, "user")
    original = text.encode()
    if len(original) <= MAX_BYTES:
        assert (kept, cleaner.marks) == (text, ())
    else:
        assert kept == letter * (MAX_BYTES // len(letter.encode()))
        assert cleaner.marks == (f"user:cut:{len(original)}:{hashlib.sha256(original).hexdigest()}",)


def test_the_digest_of_a_cut_text_is_that_of_the_original() -> None:
    """Length and digest are those of what was sent, not of its escaped form."""
    original = "\x00" * 16_385
    cleaner = Cleaner()
    assert cleaner.text(original, "user") == "\\x00" * 4_096
    digest = hashlib.sha256(original.encode()).hexdigest()
    assert cleaner.marks == ("user:escaped", f"user:cut:16385:{digest}")


def test_bytes_are_cut_like_texts() -> None:
    """Bytes are kept up to 16 KiB, then cut with length and digest noted."""
    assert cleaned(b"x" * MAX_BYTES) == (b"x" * MAX_BYTES, ())
    long = b"\xff" * (MAX_BYTES + 1)
    assert cleaned(long) == (long[:-1], (f"custom.g.f:cut:{MAX_BYTES + 1}:{hashlib.sha256(long).hexdigest()}",))


@pytest.mark.parametrize("number", [2**63 - 1, -(2**63), 0])
def test_numbers_of_64_bits_are_kept(number: int) -> None:
    """What OTLP's integers hold stays a number."""
    assert cleaned(number) == (number, ())


class Odd(float):
    def __float__(self) -> float:
        raise RuntimeError("no number")


def test_floats_keep_their_sign_and_become_plain() -> None:
    """Negative zero stays negative, and a subclass of float becomes a plain one without its own methods."""
    assert repr(cleaned(-0.0)) == "(-0.0, ())"
    kept, marks = cleaned(Odd(1.5))
    assert (kept, type(kept), marks) == (1.5, float, ())


def test_larger_numbers_become_text() -> None:
    """Larger ones become decimal text, or hexadecimal where decimal would take too long, and are marked."""
    assert cleaned(2**63) == ("9223372036854775808", ("custom.g.f:converted:int",))
    kept, marks = cleaned(1 << 400_000)
    assert isinstance(kept, str)
    assert kept.startswith("0x1000")
    assert len(kept) == MAX_BYTES
    assert [mark.split(":")[1] for mark in marks] == ["converted", "cut"]


def nested(depth: int) -> Any:
    value: Any = "end"
    for _ in range(depth):
        value = [value]
    return value


def test_depth() -> None:
    """Nesting is kept to its limit; below it the rest is left out and marked; a cycle ends there, too."""
    kept, marks = cleaned(nested(MAX_DEPTH - 1))
    assert (str(kept).count("("), marks) == (MAX_DEPTH - 1, ())
    kept, marks = cleaned(nested(MAX_DEPTH))
    assert "end" not in str(kept)
    assert marks == ("custom.g.f:deep",)
    cycle: list[Any] = []
    cycle.append(cycle)
    assert cleaned(cycle)[1] == ("custom.g.f:deep",)


@pytest.mark.parametrize("many", [list(range(10_000)), set(range(10_000)), {str(n): n for n in range(10_000)}])
def test_large_containers_are_cut(many: Any) -> None:
    """A container keeps its first 256 entries, and the mark says how many there were."""
    kept, marks = cleaned(many)
    assert isinstance(kept, (tuple, dict))
    assert (len(kept), marks) == (MAX_ITEMS, ("custom.g.f:large:10000",))


def test_large_groups_are_cut() -> None:
    """A group keeps its first 256 fields, custom keeps its first 256 groups; marks say how many there were."""
    cleaner = Cleaner()
    kept = cleaner.custom({"g": {f"f{n}": n for n in range(10_000)}})
    assert list(kept["g"].items()) == [(f"f{n}", n) for n in range(MAX_ITEMS)]
    assert cleaner.marks == ("custom.g:large:10000",)
    cleaner = Cleaner()
    assert len(cleaner.custom({f"g{n}": {"f": n} for n in range(1_000)})) == MAX_ITEMS
    assert cleaner.marks == ("custom:large:1000",)


def size(value: Any) -> int:
    match value:
        case dict():
            return sum(len(str(key)) + size(item) for key, item in value.items())
        case tuple():
            return sum(size(item) for item in value)
        case str() | bytes():
            return len(value)
        case _:
            return 8


@pytest.mark.parametrize(
    "groups",
    [
        {"g": {f"f{n}": "x" * 16_000 for n in range(100)}},
        {f"g{n}": {f"name {m} {'x' * 100}": None for m in range(256)} for n in range(256)},
        {"g": {"f": [["\x07" * 9] * 256] * 256}},
        {"g": {f"f{n}": {f"{m}": Unprintable() for m in range(256)} for n in range(256)}},
        {"g": {"f": [{"x" * 1_000 + str(n): 1 for n in range(256)}] * 256}},
    ],
)
def test_all_custom_fields_together_are_bounded(groups: dict[str, dict[str, Any]]) -> None:
    """Values, names and marks of all custom fields stay near 256 KiB, and what is missing is marked."""
    cleaner = Cleaner()
    kept = cleaner.custom(groups)
    assert size(kept) + sum(map(len, cleaner.marks)) < MAX_CUSTOM_BYTES + 2 * MAX_BYTES
    assert any(":large" in mark for mark in cleaner.marks)


def test_field_names() -> None:
    """Other characters become underscores, names that collide are numbered, and both are marked; no value is lost."""
    cleaner = Cleaner()
    fields = {"a b": 1, "a.b": 2, "a_b": 3, "": 4, "x" * 200: 5, 6: 6, "ok-1": 7}
    assert cleaner.custom({"g": fields})["g"] == {
        "a_b": 1, "a_b_2": 2, "a_b_3": 3, "_": 4, "x" * 128: 5, "6": 6, "ok-1": 7,
    }  # fmt: skip
    names = ["a_b", "a_b_2", "a_b_3", "_", "x" * 128, "6"]
    assert cleaner.marks == tuple(f"custom.g.{name}:renamed" for name in names)


def test_names_within_a_map() -> None:
    """Keys that are no text become text, those that collide then are numbered, and the field is marked."""
    assert cleaned({1: "a", "1": "b", None: "c"}) == ({"1": "a", "1_2": "b", "None": "c"}, ("custom.g.f:renamed",))
    assert cleaned({1: "a"}) == ({"1": "a"}, ("custom.g.f:renamed",))
    assert cleaned({"\x00": 1}) == ({"\\x00": 1}, ("custom.g.f:escaped", "custom.g.f:renamed"))


class Failing(dict[str, int]):
    def items(self) -> Any:
        raise RuntimeError("gone")


class Mimic:
    """Answers every attribute with itself, like a mock."""

    def __getattr__(self, name: str) -> Any:
        return self

    def __call__(self) -> Any:
        return self

    def __str__(self) -> str:
        return "mimic"


@pytest.mark.parametrize(
    ("value", "kept", "type_"),
    [
        (Unprintable(), "<Unprintable>", "Unprintable"),
        (Failing(a=1), "<Failing>", "Failing"),
        ([1, Failing(a=1)], "<list>", "list"),
        (Mimic(), "mimic", "Mimic"),
    ],
)
def test_objects_that_fail(value: Any, kept: str, type_: str) -> None:
    """An object that cannot be read is named in place of its text; an attribute that only seems a date is none."""
    assert cleaned(value) == (kept, (f"custom.g.f:converted:{type_}",))


def test_a_group_that_fails() -> None:
    """A group whose entries cannot be read is left out and marked; the others are kept."""
    cleaner = Cleaner()
    assert cleaner.custom({"g": Failing(a=1), "h": {"f": 1}}) == {"h": {"f": 1}}
    assert cleaner.marks == ("custom.g:converted:Failing",)
