"""Addresses are shortened or dropped wherever they stand, and found again by what they may have been."""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given

from otel_audit import privacy
from otel_audit.errors import ConfigError, InvalidRecord
from otel_audit.otlp import decode
from otel_audit.record import Actor, AuditRecord, Session, Target, address_type
from tests.mmdb import write_mmdb
from tests.recording import Tape, bound_logger, custom_groups, sessions, texts


def recorded(*processors: Any, **call: Any) -> AuditRecord:
    tape = Tape(processors=processors)
    bound_logger(tape).audit("user.login.success", **call)
    assert decode(tape.otlp, tape.record.record_id).message == tape.record.message
    return tape.record


def address(given: Any, *processors: Any) -> tuple[str | None, tuple[str, ...]]:
    record = recorded(*processors, session=Session("s", ip=given))
    assert record.session is not None
    return record.session.ip if record.session.ip is None else str(record.session.ip), record.altered


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("203.0.113.7", "203.0.113.0/24"),
        (ipaddress.ip_address("203.0.113.7"), "203.0.113.0/24"),
        ("2001:db8:1:2::7", "2001:db8:1::/48"),
        (ipaddress.ip_address("2001:db8:1:2::7"), "2001:db8:1::/48"),
        ("fe80::1%eth0", "fe80::/48"),
        ("::ffff:203.0.113.7", "203.0.113.0/24"),
        ("2002:cb00:7107::1", "2002:cb00:7100::/40"),
        ("64:ff9b::203.0.113.7", "64:ff9b::/48"),
        ("203.0.113.7:4321", "203.0.113.0/24"),
        ("[2001:db8:1:2::7]:443", "2001:db8:1::/48"),
        (" 203.0.113.7 ", "203.0.113.0/24"),
        ("203.0.113.7/32", "203.0.113.0/24"),
        ("203.0.113.7, 198.51.100.9", "203.0.113.0/24, 198.51.100.0/24"),
    ],
)
def test_an_address_is_truncated(given: Any, kept: str) -> None:
    """Every form of an address leaves its network, marked as truncated and not as something that is no address."""
    assert address(given, privacy.truncate_ip()) == (kept, ("session.ip:truncated",))
    assert "," in kept or address_type(kept) in {"ipv4", "ipv6"}


@pytest.mark.parametrize(
    "given", ["dsl-203-0-113-7.example.net", "203.0.113", "２０３.0.113.7", "0xcb007107", "x:y", "7"]
)
def test_what_may_hold_an_address_is_dropped(given: str) -> None:
    """A session's address that is none, and could give one away, is not kept."""
    assert address(given, privacy.truncate_ip()) == (None, ("session.ip:dropped",))


@pytest.mark.parametrize("given", ["localhost", "unknown", "203.0.113.0/24", "10.0.0.0/8", "2001:db8:1::/48"])
def test_what_gives_no_address_away_stays(given: str) -> None:
    """Names without digits stay, and what is short enough already: to truncate twice is to truncate once."""
    kept, marks = address(given, privacy.truncate_ip())
    assert kept == given
    assert "session.ip:truncated" not in marks
    assert address("203.0.113.7", privacy.truncate_ip(), lambda _l, _m, v: v, privacy.truncate_ip()) == (
        "203.0.113.0/24",
        ("session.ip:truncated",),
    )


def test_a_network_from_a_client_is_marked() -> None:
    """Only a processor's network passes for an address: one that a client sends is marked as none."""
    assert address("203.0.113.0/24") == ("203.0.113.0/24", ("session.ip:not-an-address",))
    assert address("psn-" + "0" * 32) == ("psn-" + "0" * 32, ("session.ip:not-an-address",))
    record = recorded(custom={"g": {"_altered": ("user:pseudonym",)}})
    assert record.custom["g"]["_altered"] == ("user:pseudonym",)
    tape = Tape()
    bound_logger(tape, _altered=("user:pseudonym",)).audit("t")
    assert (tape.record.altered, tape.record.custom) == ((), {"context": {"_altered": ("user:pseudonym",)}})


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("from 203.0.113.7.", "from 203.0.113.0/24."),
        ("203.0.113.7", "203.0.113.0/24"),
        ("http://203.0.113.7/path?ip=198.51.100.9", "http://203.0.113.0/24/path?ip=198.51.100.0/24"),
        ("peer [2001:db8:1:2::7]:443", "peer [2001:db8:1::/48]:443"),
        ("from 2001:db8:1:2::7: refused", "from 2001:db8:1::/48: refused"),
        ("::ffff:203.0.113.7", "203.0.113.0/24"),
        ("at 12:34:56 on 00:1a:2b:3c:4d:5e", "at 12:34:56 on 00:1a:2b:3c:4d:5e"),
        (
            "Chrome/120.0.0.0, 1.2.3, 1.2.3.4.5, 300.1.1.1, std::vector",
            "Chrome/120.0.0.0, 1.2.3, 1.2.3.4.5, 300.1.1.1, std::vector",
        ),
        ("203.0.113.0/24 and 2001:db8:1::/48", "203.0.113.0/24 and 2001:db8:1::/48"),
    ],
)
def test_addresses_in_texts(text: str, kept: str) -> None:
    """Addresses are truncated in messages, names and custom fields at any depth, and what only looks like one stays."""
    record = recorded(
        privacy.truncate_ip(), user=text, message=text, target=Target(text), actor=Actor(text), user_id=text,
        custom={"g": {"f": text, "deep": [{"a": {text: text}}], "b": text.encode()}},
    )  # fmt: skip
    assert record.target is not None
    assert (record.user, record.message, record.user_id, record.actor.id, record.target.id) == (kept,) * 5
    assert record.custom == {"g": {"f": kept, "deep": ({"a": {kept: kept}},), "b": kept.encode()}}
    assert ("custom.g.f:truncated" in record.altered) == (kept != text)


def test_the_sessions_own_address_is_found_in_the_clients_name() -> None:
    """The client's name keeps its versions, and not the session's own address; one that begins with it is another."""
    session = Session(ip="203.0.113.7", client="Agent 1.2.3.4 203.0.113.7 203.0.113.71 (x203.0.113.7)")
    record = recorded(privacy.truncate_ip(), session=session)
    assert record.session is not None
    assert record.session.client == "Agent 1.2.3.4 203.0.113.0/24 203.0.113.71 (x203.0.113.0/24)"


def test_prefixes() -> None:
    """IPv6 is truncated when only IPv4's prefix is given, unless told otherwise; wrong prefixes are refused."""
    assert address("2001:db8:1:2::7", privacy.truncate_ip(16))[0] == "2001:db8:1::/48"
    assert address("203.0.113.7", privacy.truncate_ip(16))[0] == "203.0.0.0/16"
    assert address("2001:db8:1:2::7", privacy.truncate_ip(16, 128)) == ("2001:db8:1:2::7", ())
    assert address("203.0.113.7", privacy.truncate_ip(32, 0)) == ("203.0.113.7", ())
    assert address("2001:db8::7", privacy.truncate_ip(32, 0))[0] == "::/0"
    assert address("7.7.7.7:80", privacy.truncate_ip(32, 128)) == ("7.7.7.7:80", ("session.ip:not-an-address",))
    wrong: Any
    for wrong in (-1, 33, True, "24", 24.0, None):
        with pytest.raises(ConfigError, match="v4_prefix"):
            privacy.truncate_ip(wrong)
    with pytest.raises(ConfigError, match="v6_prefix"):
        privacy.truncate_ip(24, 129)


@pytest.mark.parametrize("given", ["203.0.113.7", "2001:db8::7", "localhost", "a b"])
def test_an_address_is_dropped(given: str) -> None:
    """No address is kept, in the session or in a text, nor in the sentence that is made of them."""
    assert address(given, privacy.drop_ip()) == (None, ("session.ip:dropped",))
    record = recorded(privacy.drop_ip(), session=Session(ip=given), custom={"g": {"peers": ["203.0.113.7", "x"]}})
    assert record.message == "user.login.success (success) example.com"
    assert record.custom == {"g": {"peers": ("[dropped]", "x")}}


@given(session=sessions(), custom=custom_groups(), text=texts())
def test_without_anything_to_do_nothing_changes(session: Any, custom: Any, text: str) -> None:
    """Values of any kind, hostile ones included, are recorded with a processor as without one where it has no cause."""
    call = {"user": text, "message": text, "session": session, "custom": custom, "target": text or "t"}
    plain, processed = recorded(**call), recorded(privacy.truncate_ip(32, 128), **call)
    assume(not any(":long:" in mark for mark in processed.altered))  # texts that no processor looks at as a whole
    assert repr(plain[3:18]) == repr(processed[3:18])
    assert {*plain.altered} == {*processed.altered}


@given(session=sessions(), custom=custom_groups(), text=texts())
def test_hostile_values_never_raise(session: Any, custom: Any, text: str) -> None:
    """All measures together record whatever a client sends, and leave the caller's objects as they were."""
    processors = privacy.merged([
        privacy.redact(), privacy.truncate_ip(),
        privacy.pseudonymise(b"k" * 16, ["user", "session.ip", "g.a", "target"]),
    ])  # fmt: skip
    assert len(processors) == 1
    before = repr((session, custom))
    record = recorded(*processors, user=text, message=text, session=session, custom=custom, target=text)
    assert repr((session, custom)) == before
    assert record.user == "" if not text else str(record.user).startswith("psn-")


@pytest.mark.parametrize(
    "call", [{"user": 1}, {"session": "s"}, {"custom": []}, {"custom": {"g": 1}}, {"custom": {1: {}}}, {"target": 5},
             {"actor": Actor(5)}, {"message": b"x"}, {"session": Session(ip=5)}, {"session": Session(id=5)}],  # type: ignore[arg-type]
)  # fmt: skip
def test_wrong_types_are_still_refused(call: dict[str, Any]) -> None:
    """A programmer's error raises as it does without processors."""
    processors = (privacy.redact(), privacy.drop_ip(), privacy.pseudonymise(b"k" * 16, ["user", "g.f", "session.ip"]))
    with pytest.raises(InvalidRecord):
        recorded(*processors, **call)


PLACES: dict[str, dict[str, Any]] = {
    "203.0.113.0/24": {"country": {"iso_code": "DE"}, "continent": {"code": "EU"}},
    "198.51.100.0/24": {"country_code": "JP", "continent_code": "AS"},
    "192.0.2.0/24": {"country": "US", "continent": {"names": {"en": "North America"}}},
    "2001:db8::/32": {"country": {"iso_code": "BR"}},
}


@pytest.mark.parametrize(
    ("ip", "country", "continent"),
    [
        ("203.0.113.7", "DE", "EU"),
        (ipaddress.ip_address("203.0.113.7"), "DE", "EU"),
        ("203.0.113.7:80", "DE", "EU"),
        ("198.51.100.1", "JP", "AS"),
        ("192.0.2.1", "US", None),
        ("2001:db8::1", "BR", None),
        ("10.0.0.1", None, None),
        ("no address", None, None),
        (None, None, None),
    ],
)
def test_a_location_is_found_before_truncation(ip: Any, country: Any, continent: Any, tmp_path: Path) -> None:
    """Country and continent come from the full address, whatever becomes of it, and survive the bytes."""
    locate = privacy.locate(write_mmdb(tmp_path / "places.mmdb", PLACES))
    for after in ((), (privacy.truncate_ip(0, 0),), (privacy.drop_ip(),)):
        tape = Tape(processors=(locate, *after))
        bound_logger(tape).audit("t", session=Session("s", ip=ip))
        session = decode(tape.otlp, tape.record.record_id).session
        assert session is not None
        assert (session.country, session.continent) == (country, continent)


def test_a_given_location_stays(tmp_path: Path) -> None:
    """The application knows better; an IPv4 database has no place for an IPv6 address; no database is an error."""
    locate = privacy.locate(write_mmdb(tmp_path / "v4.mmdb", {"203.0.113.0/24": PLACES["203.0.113.0/24"]}, version=4))
    session = recorded(locate, session=Session(ip="203.0.113.7", country="FR")).session
    assert session == Session(ip="203.0.113.7", country="FR")
    assert recorded(locate, session=Session(ip="2001:db8::1")).session == Session(ip="2001:db8::1")
    (tmp_path / "broken.mmdb").write_bytes(b"nothing")
    for path in (tmp_path / "broken.mmdb", tmp_path / "missing.mmdb"):
        with pytest.raises(ConfigError, match="geoip"):
            privacy.locate(path)
