"""The client's address is what the trusted proxies wrote, whatever the client sent."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from otel_audit.integrations.forwarded import client_address
from tests.recording import texts

PEER = "10.0.0.1"
HOSTILE = texts() | st.text('",;=\\ []:for', max_size=30)


@pytest.mark.parametrize(
    ("values", "trusted", "expected"),
    [
        ([], 1, PEER),
        (["203.0.113.7"], 0, PEER),
        (["203.0.113.7"], 1, "203.0.113.7"),
        (["6.6.6.6, 203.0.113.7"], 1, "203.0.113.7"),
        (["6.6.6.6", "203.0.113.7"], 1, "203.0.113.7"),
        (["6.6.6.6, 203.0.113.7, 10.0.0.2"], 2, "203.0.113.7"),
        (["203.0.113.7"], 2, PEER),
        (["203.0.113.7:4711"], 1, "203.0.113.7"),
        (["[2001:db8::1]:4711"], 1, "2001:db8::1"),
        (["[2001:db8::1]"], 1, "2001:db8::1"),
        (["2001:db8::1"], 1, "2001:db8::1"),
        (["203.0.113.7, "], 1, PEER),
        ([""], 1, PEER),
        (["[nonsense]:5"], 1, "[nonsense]:5"),
        (["unknown"], 1, "unknown"),
    ],
)
def test_x_forwarded_for(values: list[str], trusted: int, expected: str) -> None:
    """The entry that the outermost trusted proxy appended counts; with fewer entries than proxies, the peer does."""
    assert client_address(PEER, values, trusted, "x-forwarded-for") == expected


@pytest.mark.parametrize(
    ("values", "trusted", "expected"),
    [
        (["for=203.0.113.7"], 1, "203.0.113.7"),
        (["For=203.0.113.7;proto=http;by=10.0.0.9"], 1, "203.0.113.7"),
        (['proto=https; for="[2001:db8::1]:4711"'], 1, "2001:db8::1"),
        (['for="203.0.113.7:80"'], 1, "203.0.113.7"),
        (["for=6.6.6.6, for=203.0.113.7, for=10.0.0.2"], 2, "203.0.113.7"),
        (['for="unclosed, for=203.0.113.7'], 1, "203.0.113.7"),
        (['for="unclosed', 'for="[2001:db8::1]"'], 1, "2001:db8::1"),
        (['for="a\\"', "for=203.0.113.7"], 1, "203.0.113.7"),
        (['host="a;for=6.6.6.6";for=203.0.113.7'], 1, "203.0.113.7"),
        (['host="a, for=6.6.6.6";for=203.0.113.7'], 1, "203.0.113.7"),
        (['host="a\\";for=6.6.6.6";for=203.0.113.7'], 1, "203.0.113.7"),
        (["for=6.6.6.6", 'host="a\\", x";for=203.0.113.7'], 1, "203.0.113.7"),
        (['for="_hid\\den"'], 1, "_hidden"),
        (["for=203.0.113.7"], 2, PEER),
        (["proto=https"], 1, PEER),
        (["203.0.113.7"], 1, PEER),
        (["for="], 1, PEER),
    ],
)
def test_forwarded(values: list[str], trusted: int, expected: str) -> None:
    """Quotes that the client never closed, and what it put into another parameter, do not hide the proxy's entry."""
    assert client_address(PEER, values, trusted, "forwarded") == expected


@given(sent=st.lists(HOSTILE, max_size=3), trusted=st.integers(1, 3))
def test_what_a_client_sends_changes_nothing(sent: list[str], trusted: int) -> None:
    """Whatever stands before the entries of the trusted proxies, in either header, the result is theirs."""
    proxies = ["203.0.113.7", *["10.0.0.2"] * (trusted - 1)]
    assert client_address(PEER, [*sent, ", ".join(proxies)], trusted, "x-forwarded-for") == "203.0.113.7"
    assert client_address(PEER, [*sent, *[f"for={each}" for each in proxies]], trusted, "forwarded") == "203.0.113.7"
    quoted = [f'proto=http;for="{each}:80"' for each in proxies]
    assert client_address(PEER, [*sent, *quoted], trusted, "forwarded") == "203.0.113.7"


@given(sent=st.lists(HOSTILE, min_size=1, max_size=3), trusted=st.integers(1, 3))
def test_anything_gives_an_answer(sent: list[str], trusted: int) -> None:
    """No value raises, and without a value the peer is the client."""
    headers: tuple[Any, ...] = ("x-forwarded-for", "forwarded")
    for header in headers:
        assert isinstance(client_address(PEER, sent, trusted, header), str)
        assert client_address(None, [], trusted, header) is None
