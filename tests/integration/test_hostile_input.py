"""Hostile input, made by hypothesis: no crash, no lost record, nothing that steers a terminal, SQL or a spreadsheet."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from otel_audit.archive.query import open_archive
from otel_audit.delivery.answers import wording
from tests.faults.fuzzing import TARGETS, Bench
from tests.faults.inputs import Source


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    made = Bench(tmp_path_factory.mktemp("bench"))
    yield made
    made.close()


@pytest.mark.parametrize("target", TARGETS)
@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(data=st.binary(max_size=400))
def test_any_bytes(target: str, bench: Bench, data: bytes) -> None:
    """Whatever the bytes make, the target ends as it must."""
    getattr(bench, target)(Source(data))


def test_sources_give_every_kind_of_value() -> None:
    """From random bytes come texts of all words, and values of all kinds; from none, the plainest."""

    chance = random.Random(1)
    kinds, words = set[str](), set[str]()
    for _ in range(3_000):
        source = Source(chance.randbytes(64))
        kinds.add(type(source.value()).__name__)
        words.add(source.text(1))
    assert kinds >= {"str", "int", "float", "bool", "bytes", "NoneType", "Decimal", "object", "list", "tuple", "dict"}
    assert len(words) > 120
    assert (Source(b"").text(), Source(b"").number(9), Source(b"").rest()) == ("", 0, b"")


def test_what_was_found(bench: Bench) -> None:
    """What the fuzzers found stays mended: a lone surrogate as an outcome, unprintable characters in answers."""
    with open_archive(bench.shown) as archive:
        assert list(archive.query(outcome="\udc80")) == []
    assert wording("a\u3000b\U000fffff\ue000") == "a\\u3000b\\U000fffff\\ue000"
