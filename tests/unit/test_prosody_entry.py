"""Entries of mod_audit become audit calls: from tables and from XML alike, and whatever they hold."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from otel_audit.build import build_record
from otel_audit.catalog import Catalog
from otel_audit.clean import MARKS, Marks
from otel_audit.prosody.entry import Entry, Event, entry_digest, entry_time, read_event
from otel_audit.prosody.luadata import Table
from otel_audit.prosody.stanza import Element, element_of_table, element_of_xml
from otel_audit.record import AuditRecord, Session

HOST = "example.test"
XMLNS = "xmpp:prosody.im/audit"
XML = (
    b"<audit-event type='user-registered' source='mod_audit_register' user='alice@example.test'>"
    b"<session id='c2s1' type='c2s_unauthed' xmlns='xmpp:prosody.im/audit'><remote-ip>203.0.113.7</remote-ip>"
    b"<location country='DE' continent='EU'>Germany</location><client>Gajim &lt;1.9&gt;</client></session>"
    b"<invite-used token='t0k3n' xmlns='xmpp:prosody.im/audit'/>"
    b"<details code='7'>a<reason>x</reason>b<reason>y</reason><deep a='1'><inner>z</inner></deep><none/></details>"
    b"</audit-event>"
)
TABLE: Table = {
    "name": "audit-event",
    "attr": {
        "type": "user-registered", "source": "mod_audit_register", "user": "alice@example.test",
        "stamp": "2023-11-14T22:13:21Z",
    },
    1: {
        "name": "session",
        "attr": {"id": "c2s1", "type": "c2s_unauthed", "xmlns": XMLNS},
        1: {"name": "remote-ip", "attr": {}, 1: "203.0.113.7"},
        2: {"name": "location", "attr": {"country": "DE", "continent": "EU"}, 1: "Germany"},
        3: {"name": "client", "attr": {}, 1: "Gajim <1.9>"},
    },
    2: {"name": "invite-used", "attr": {"token": "t0k3n", "xmlns": XMLNS}},
    3: {
        "name": "details",
        "attr": {"code": "7"},
        1: "a",
        2: {"name": "reason", "attr": {}, 1: "x"},
        3: "b",
        4: {"name": "reason", "attr": {}, 1: "y"},
        5: {"name": "deep", "attr": {"a": "1"}, 1: {"name": "inner", "attr": {}, 1: "z"}},
        6: {"name": "none", "attr": {}},
    },
    "key": "k1", "when": 1700000001, "with": "alice@example.test",
}  # fmt: skip


def entry(stanza: Element | None, **changes: Any) -> Entry:
    given = {"key": "k1", "when": 1700000001, "about": "alice@example.test", **changes}
    return Entry("audit.list line 1", "", stanza=stanza, **given)


def recorded(event: Event) -> AuditRecord:
    values = {"host": HOST, "source": event.source, "event": event.type, MARKS: Marks(event.marks), **event.arguments}
    return build_record(values, Catalog())


def test_both_storages_say_the_same() -> None:
    """An event is read from a table as from XML, and gets the same id: an archive that moved is not imported twice."""
    of_table, of_xml = entry(element_of_table(TABLE)), entry(element_of_xml(XML))
    assert read_event(of_table, HOST) == read_event(of_xml, HOST)
    assert entry_digest(of_table, HOST, 0) == entry_digest(of_xml, HOST, 0)


def test_an_event_with_everything() -> None:
    """Type, source, user, session, place, times and custom elements are where an audit call has them."""
    event = read_event(entry(element_of_xml(XML)), HOST)
    assert (event.type, event.source, event.marks) == ("user-registered", "mod_audit_register", ())
    assert event.arguments == {
        "timestamp": 1700000001_000000000,
        "user": "alice",
        "session": Session("c2s1", "c2s_unauthed", "203.0.113.7", "Gajim <1.9>", "DE", "EU"),
        "custom": {
            "prosody": {"key": "k1"},
            "session": {"location_text": "Germany"},
            "invite-used": {"token": "t0k3n"},
            "details": {
                "code": "7", "text": "ab", "reason": "x", "reason_2": "y", "deep": {"a": "1", "inner": "z"}, "none": "",
            },
        },
    }  # fmt: skip
    record = recorded(event)
    assert (record.action, record.outcome, record.altered) == ("CREATE", "success", ())


@pytest.mark.parametrize(
    ("attributes", "about", "owner", "user", "more"),
    [
        ({}, "@", "", None, {}),
        ({}, "", "", None, {}),
        ({"user": "bob@example.test"}, "bob@example.test", "", "bob", {}),
        ({"user": "bob"}, "bob", "", "bob", {}),
        ({}, "bob@example.test", "", "bob", {}),
        ({}, "@", "bob", "bob", {}),
        ({"user": "bob@other.test"}, "bob@other.test", "", "bob@other.test", {}),
        ({"user": "bob@sub.example.test"}, "", "", "bob@sub.example.test", {}),
        ({"user": "bob"}, "carol@example.test", "dave", "bob", {"with": "carol@example.test", "owner": "dave"}),
    ],
)
def test_whose_event_it_is(
    attributes: dict[str, str], about: str, owner: str, user: str | None, more: dict[str, str]
) -> None:
    """The user is the stanza's, else what the entry is looked up by, else whose archive it is; other names are kept."""
    stanza = Element("audit-event", "", {"type": "a", "source": "b", **attributes}, ())
    arguments = read_event(Entry("", owner, "k", 1, about, stanza), HOST).arguments
    assert arguments["user"] == user
    assert arguments["custom"] == {"prosody": {"key": "k", **more}}


@pytest.mark.parametrize(
    ("when", "stamp", "expected"),
    [
        (1700000001, "", 1700000001_000000000),
        (1700000001.25, "", 1700000001_250000000),
        (1700000001.123456, "", 1700000001_123456000),
        (None, "2023-11-14T22:13:21Z", 1700000001_000000000),
        (None, "2023-11-14T22:13:21", 1700000001_000000000),
        (None, "never", None),
        (None, "", None),
        (0, "", None),
        (-5, "", None),
        (float("nan"), "", None),
        (float("inf"), "", None),
        (10**400, "", None),
    ],
)
def test_times(when: Any, stamp: str, expected: int | None) -> None:
    """Times are kept to the microsecond; one that is missing, or none, is marked, and what stood there is kept."""
    stanza = Element("audit-event", "", {"type": "a", "source": "b", **({"stamp": stamp} if stamp else {})}, ())
    given = entry(stanza, when=when)
    assert entry_time(given) == expected
    event = read_event(given, HOST)
    assert event.arguments.get("timestamp") == expected
    assert event.marks == (() if expected else ("timestamp:missing",))
    record = recorded(event)
    if expected is None and when is not None:
        assert "when" in record.custom["prosody"]


def test_what_is_no_event() -> None:
    """A stanza of another kind is recorded with what it holds, and marks say what it lacks."""
    stanza = Element("message", "jabber:client", {"to": "x", "type": ""}, ("hello", Element("a b", "", {}, ())))
    record = recorded(read_event(entry(stanza, key=None, about="@"), HOST))
    assert (record.type, record.source, record.user) == ("audit-event", "mod_audit", None)
    assert record.custom == {"prosody": {"to": "x", "element": "message", "text": "hello"}, "a_b": {"text": ""}}
    assert record.altered == ("type:missing", "source:missing", "custom.a_b:renamed")


def test_what_cannot_be_read() -> None:
    """Text that is no entry is recorded as it stands, with the reason, for the user that its row names."""
    record = recorded(
        read_event(Entry("row 7", "", "k", 1700000001, "bob@example.test", None, b"<a\xff\x00", "no XML"), HOST)
    )
    assert (record.type, record.user, record.outcome) == ("prosody.unreadable", "bob", "unknown")
    assert record.time == 1700000001_000000000
    assert record.custom == {"prosody": {"key": "k", "fault": "no XML", "text": "<a\\xff\\x00"}}
    assert "entry:unreadable" in record.altered


def test_networks_are_no_fault() -> None:
    """Where mod_audit was told to store networks, the record says so, and is found by them."""
    session = Element("session", "", {}, (Element("remote-ip", "", {}, ("203.0.113.0/24",)),))
    record = recorded(read_event(entry(Element("audit-event", "", {"type": "a", "source": "b"}, (session,))), HOST))
    assert record.session is not None
    assert record.session.ip == "203.0.113.0/24"
    assert record.altered == ("session.ip:truncated",)


def test_what_a_session_has_no_field_for() -> None:
    """Whatever else an element of a session holds is kept beside it."""
    session = element_of_xml(
        b"<session id='1' shard='7'><remote-ip v='4'>203.0.113.7</remote-ip><client>Gajim<x/></client>"
        b"<location country='DE' city='Bonn'>Germany<code/></location><other/></session>"
    )
    record = recorded(read_event(entry(Element("audit-event", "", {"type": "a", "source": "b"}, (session,))), HOST))
    assert record.session == Session("1", None, "203.0.113.7", "Gajim", "DE")
    assert record.custom["session"] == {
        "shard": "7", "location_city": "Bonn", "location_text": "Germany", "location_code": "",
        "remote-ip": {"text": "203.0.113.7", "v": "4"}, "client": {"text": "Gajim", "x": ""}, "other": "",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (b"<!DOCTYPE a [<!ENTITY b 'c'>]><a>&b;</a>", "document type"),
        (b"<a>" * 200 + b"</a>" * 200, "nested too deeply"),
        (b"<a>", "no XML"),
        (b"<a>\x01</a>", "no XML"),
        (b"<a>\xff</a>", "no XML"),
        (b"", "no XML"),
        (b"<a/><b/>", "no XML"),
    ],
)
def test_xml_that_is_refused(text: bytes, fault: str) -> None:
    """Entities, endless nesting and broken XML are faults, and cost nothing."""
    with pytest.raises(ValueError, match=fault):
        element_of_xml(text)


@pytest.mark.parametrize("table", [{}, {"name": "a"}, {"attr": {}}, {"name": 7, "attr": {}}, {"name": "a", "attr": 7}])
def test_tables_that_are_no_stanza(table: Table) -> None:
    """A table without name or attributes is a fault."""
    with pytest.raises(ValueError, match="no stanza"):
        element_of_table(table)


def test_many_children_take_no_long() -> None:
    """A hundred thousand children of one name, and as many texts, are read in passing, and the record says so."""
    children: dict[Any, Any] = {n: {"name": "a", "attr": {}} if n % 2 else "x" for n in range(1, 200_001)}
    stanza = element_of_table({"name": "audit-event", "attr": {"type": "a", "source": "b"}, **children})
    record = recorded(read_event(entry(stanza), HOST))
    assert any(mark.startswith("custom:large:") for mark in record.altered)


TEXT = st.text(max_size=12)
ELEMENTS = st.recursive(
    st.builds(Element, TEXT, TEXT, st.dictionaries(TEXT, TEXT, max_size=3), st.lists(TEXT, max_size=2).map(tuple)),
    lambda inner: st.builds(
        Element,
        TEXT | st.sampled_from(["session", "remote-ip", "location", "client", "prosody"]),
        TEXT,
        st.dictionaries(TEXT | st.sampled_from(["type", "source", "user", "stamp"]), TEXT, max_size=3),
        st.lists(inner | TEXT, max_size=4).map(tuple),
    ),
    max_leaves=8,
)


@given(ELEMENTS, TEXT | st.none(), TEXT, TEXT, st.integers() | st.floats() | st.none())
def test_anything_can_be_recorded(stanza: Element, key: str | None, owner: str, about: str, when: Any) -> None:
    """Whatever stanza an archive holds, it is recorded, and always under the same id."""
    given = Entry("", owner, key, when, about, stanza)
    recorded(read_event(given, HOST))
    assert entry_digest(given, HOST, 0) == entry_digest(given, HOST, 0)
    assert (entry_digest(given, HOST, 0) == entry_digest(given, HOST, 1)) == (key is not None)
    assert entry_digest(given, HOST, 0) != entry_digest(given, "other.test", 0)
