"""Derived columns: the quick way gives what reading every field gives, whatever the bytes."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from otel_audit.archive.commit import columns
from otel_audit.archive.derive import Deriver, derived
from otel_audit.otlp import Profile
from otel_audit.producer import ProducerKey
from tests.bench.population import Population
from tests.recording import Tape, bound_logger, custom_groups, sessions, texts


def recorded(profile: Profile, **values: Any) -> tuple[tuple[Any, ...], bytes]:
    tape = Tape(profile=profile)
    bound_logger(tape).audit(values.pop("event"), **values)
    record = tape.record
    return (record.time, record.observed, *columns(record)), tape.otlp


def signed(otlp: bytes, size: int, chance: random.Random) -> bytes:
    """Return a record's bytes with a signature of a size: 32 bytes have HMAC-SHA256, 64 EdDSA, about 71 ES256, …"""
    key = ProducerKey("HMAC-SHA256", lambda _payload: chance.randbytes(size))
    return key.signed(otlp, "01890a5d-ac96-774b-bcce-b302099a8057", 7, "archive")


@given(
    profile=st.sampled_from(["logs", "signal"]),
    event=st.sampled_from(["user.login.failure", "authentication-success", "x" * 100]),
    user=st.none() | texts(),
    session=sessions(),
    custom=custom_groups(),
    message=st.none() | texts(),
    signature=st.none() | st.integers(1, 600),
    twice=st.booleans(),
)
def test_columns_of_any_record(profile: Profile, event: str, signature: int | None, twice: bool, **values: Any) -> None:
    """The columns that are stored are those that the bytes give, signed or not, also when the type was seen before."""
    stored, otlp = recorded(profile, event=event, **values)
    if signature is not None:
        otlp = signed(otlp, signature, random.Random(signature))
    deriver = Deriver()
    assert derived(otlp) == stored
    for _ in range(1 + twice):
        assert deriver.columns(otlp, stored) == stored


@pytest.mark.parametrize("size", [32, 64, 70, 71, 72, 256, 384, 512])
def test_signed_records_are_quick(size: int) -> None:
    """The quick way knows the bytes of signed records, and does not remember their signatures."""
    chance, population, deriver = random.Random(size), Population(100), Deriver()
    for number in (*range(1, 50), *range(1, 50)):
        record, otlp = population.record(number)
        otlp = signed(otlp, size, chance)
        stored = (record.time, record.observed, *columns(record))
        assert deriver.columns(otlp, stored) == stored == derived(otlp)
        assert deriver.agrees(otlp, stored)
        assert deriver.signed
    assert not [pair for pair in (*deriver._others, *deriver._runs, deriver._usual) if b"audit.integrity.value" in pair]


def outcome(function: Any, *arguments: Any) -> Any:
    try:
        return function(*arguments)
    except ValueError:
        return ValueError


def test_changed_bytes() -> None:
    """Of changed bytes the quick way never says that they give columns that they do not give."""
    chance = random.Random(3)
    population = Population(100)
    deriver = Deriver()
    agreed = 0
    for _ in range(20_000):
        record, otlp = population.record(chance.randrange(1, 100))
        stored = (record.time, record.observed, *columns(record))
        if chance.random() < 0.5:
            otlp = signed(otlp, 64, chance)
        assert deriver.columns(otlp, stored) == stored
        for _ in range(chance.randrange(1, 3)):
            place = chance.randrange(len(otlp))
            otlp = otlp[:place] + chance.randbytes(chance.randrange(3)) + otlp[place + chance.randrange(3) :]
        quick, slow = outcome(deriver.columns, otlp, stored), outcome(derived, otlp)
        # A body that is no UTF-8 is read by neither look-up nor leaf: the quick way does not read it.
        assert quick == slow or (slow is ValueError and quick == stored)
        agreed += quick == stored
    assert 500 < agreed < 19_500


@pytest.mark.parametrize("field", range(10))
def test_changed_columns(field: int) -> None:
    """A column that says otherwise than the bytes is never agreed to, whatever kind of value it has."""
    population = Population(100)
    deriver = Deriver()
    for number in (1, 2, 3, 50):
        record, otlp = population.record(number)
        stored = (record.time, record.observed, *columns(record))
        assert deriver.columns(otlp, stored) == stored
        for other in (None, 0, -1, 2**64, 1.5, "", "other", b"", b"other", "\udc80", "x" * 70_000):
            changed = (*stored[:field], other, *stored[field + 1 :])
            assert deriver.columns(otlp, changed) == stored


def test_hidden_attributes() -> None:
    """An attribute that stands where it is not usual, a second time, or inside of another, is not overlooked."""
    stored, otlp = recorded("logs", event="user.login.success", user="alice")
    deriver = Deriver()
    deriver.columns(otlp, stored)
    *_, attribute = otlp.partition(b"2\x14\n\tuser.name\x12\x07\n\x05alice")[1:2]
    assert attribute
    other = attribute.replace(b"alice", b"mally")
    for changed in (
        otlp + other,
        otlp.replace(attribute, other),
        other + otlp,
        otlp.replace(attribute, other + attribute),
    ):
        assert deriver.columns(changed, stored) == derived(changed)
    assert derived(otlp + other)[3] == "mally"
    hidden, otlp = recorded("logs", event="user.login.success", message=other.decode("latin-1"))
    assert deriver.columns(otlp, (*hidden[:3], "mally", *hidden[4:])) == hidden
