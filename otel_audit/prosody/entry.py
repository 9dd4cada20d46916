"""One entry of a mod_audit archive, and what is recorded of it."""

from __future__ import annotations

import hashlib
import json
import re
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple

from otel_audit.logger import Arguments
from otel_audit.prosody.stanza import Element
from otel_audit.record import Session

__all__ = ["Entry", "Event", "entry_digest", "entry_time", "read_event"]

_UNREADABLE: Final = "prosody.unreadable"
"""The type of what is no entry, or cannot be read as one."""
_UNTYPED: Final = "audit-event"
_SOURCE: Final = "mod_audit"
_HOST_WIDE: Final = frozenset({"", "@"})
_OF_STORAGE: Final = frozenset({"stamp", "stamp_legacy"})
_NOT_NAME = re.compile(r"[^A-Za-z0-9_-]")
_LONGEST_NAME: Final = 128
_ADDRESS: Final = "remote-ip"
_LAST: Final = 2**63 - 1


class Entry(NamedTuple):
    """One entry.

    Args:
        place: Where it stands, for messages.
        owner: The account whose archive it stands in; empty: the host's.
        key: Its id there; None where it has none.
        when: Seconds since the epoch; None where it has none.
        about: What mod_audit looks it up by: the user, or ``@``.
        stanza: The event; None where it cannot be read.
        raw: The text of what cannot be read.
        fault: Why it cannot.
        escaped: Whether characters that XML forbids had to be escaped in it.
    """

    place: str
    owner: str = ""
    key: str | None = None
    when: int | float | None = None
    about: str = ""
    stanza: Element | None = None
    raw: bytes = b""
    fault: str = ""
    escaped: bool = False


class Event(NamedTuple):
    """What is to be recorded of an entry.

    Args:
        type: The event type.
        source: The component.
        arguments: Those of the audit call.
        marks: What had to be altered.
    """

    type: str
    source: str
    arguments: Arguments
    marks: tuple[str, ...]


def entry_time(entry: Entry) -> int | None:
    """Return an entry's time in nanoseconds since the epoch; None where it has none, or one that cannot be kept."""
    seconds: int | float | None = entry.when
    if seconds is None and entry.stanza is not None:
        seconds = _stamp(entry.stanza.attributes.get("stamp", ""))
    if seconds is None or not 0 < seconds < _LAST:
        return None  # no number is none of these, too
    # Of a fraction a double holds no more than microseconds.
    moment = seconds * 1_000_000_000 if isinstance(seconds, int) else round(seconds * 1_000_000) * 1000
    return moment if 0 < moment <= _LAST else None


def entry_digest(entry: Entry, host: str, occurrence: int) -> bytes:
    """Return what tells an entry from every other one, the same whichever storage it comes from.

    Args:
        entry: The entry.
        host: Its host.
        occurrence: How many entries with the same content, and no key of their own, came before it.
    """
    content: list[Any] = [host, entry.owner, entry.key, entry_time(entry), entry.about]
    if entry.stanza is None:
        content.append(entry.raw.hex())
    else:
        content.append(_without_stamp(entry.stanza).canonical())
    if entry.key is None:
        content.append(occurrence)
    return hashlib.sha256(b"otel-audit/prosody/v1\0" + json.dumps(content).encode()).digest()


def read_event(entry: Entry, host: str) -> Event:
    """Return what is to be recorded of an entry; whatever it holds, it can be.

    Args:
        entry: The entry.
        host: Its host.
    """
    marks = ["entry:escaped"] if entry.escaped else []
    origin: dict[str, Any] = {} if entry.key is None else {"key": entry.key}
    arguments: Arguments = {}
    moment = entry_time(entry)
    if moment is not None:
        arguments["timestamp"] = moment
    else:
        marks.append("timestamp:missing")
        if entry.when is not None:
            origin["when"] = entry.when
    if entry.stanza is None:
        origin |= {"fault": entry.fault, "text": entry.raw.decode("utf-8", "backslashreplace")}
        arguments["user"] = _user("", entry, host, origin)
        arguments["custom"] = {"prosody": origin}
        return Event(_UNREADABLE, _SOURCE, arguments, ("entry:unreadable", *marks))
    attributes = dict(entry.stanza.attributes)
    type_, source = attributes.pop("type", ""), attributes.pop("source", "")
    marks += [f"{name}:missing" for name, value in (("type", type_), ("source", source)) if not value]
    arguments["user"] = _user(attributes.pop("user", ""), entry, host, origin)
    origin = {name: value for name, value in attributes.items() if name not in _OF_STORAGE} | origin
    if entry.stanza.name != "audit-event":
        origin["element"] = entry.stanza.name
    if text := entry.stanza.text().strip():
        origin["text"] = text
    custom = {"prosody": origin} if origin else {}
    session = _add_children(entry.stanza, custom, marks)
    if session is not None:
        arguments["session"] = session
    if custom:
        arguments["custom"] = custom
    return Event(type_ or _UNTYPED, source or _SOURCE, arguments, tuple(dict.fromkeys(marks)))


def _add_children(stanza: Element, custom: dict[str, Any], marks: list[str]) -> Session | None:
    """Add the children of a stanza as custom groups, and return the session that the first one of that name tells."""
    session: Session | None = None
    put = _Put(custom)
    for child in stanza.elements():
        if child.name == "session" and session is None:
            session, rest = _session(child)
            if session.ip is not None and "/" in str(session.ip):
                # mod_audit was told to store networks.
                marks.append("session.ip:truncated")
            if rest:
                put("session", rest)
            continue
        # Empty groups are left out of records.
        group = put(child.name, _fields(child) or {"text": ""})
        if group != child.name:
            marks.append(f"custom.{group}:renamed")
    return session


def _session(element: Element) -> tuple[Session, dict[str, Any]]:
    """Return a session, and what a session has no field for."""
    address, client, place = (element.child(name) for name in (_ADDRESS, "client", "location"))
    session = Session(
        element.attributes.get("id"),
        element.attributes.get("type"),
        None if address is None else address.text().strip(),
        None if client is None else client.text(),
        None if place is None else place.attributes.get("country"),
        None if place is None else place.attributes.get("continent"),
    )
    # What holds more than the session takes of it stands in the rest, too.
    taken = [
        child for child in (address, client) if child is not None and not child.attributes and not child.elements()
    ]
    left: dict[str, Any] = {name: text for name, text in element.attributes.items() if name not in {"id", "type"}}
    if place is not None:
        taken.append(place)
        more = _fields(place)
        left |= {f"location_{name}": more[name] for name in more if name not in {"country", "continent"}}
    others = [child for child in element.children if not any(child is known for known in taken)]
    return session, _fields(Element("session", "", left, tuple(others)))


def _fields(element: Element) -> dict[str, Any]:
    """Return attributes, text and children as fields; a child that holds text alone is its text."""
    fields: dict[str, Any] = {}
    put = _Put(fields)
    for name, value in sorted(element.attributes.items()):
        put(name, value)
    if (text := element.text()).strip():
        put("text", text)
    for child in element.elements():
        inner = _fields(child)
        put(child.name, inner.get("text", "") if inner.keys() <= {"text"} else inner)
    return fields


def _user(named: str, entry: Entry, host: str, origin: dict[str, Any]) -> str | None:
    """Return whose record it is; mod_audit's own modules write the whole address of an account."""
    user = named or ("" if entry.about in _HOST_WIDE else entry.about) or entry.owner
    others = (("with", entry.about), ("owner", entry.owner))
    origin |= {name: other for name, other in others if other not in _HOST_WIDE and other != user}
    return user.removesuffix(f"@{host}") or None


class _Put:
    """Adds fields to a mapping, those of a name that is taken under a numbered one."""

    def __init__(self, fields: dict[str, Any]) -> None:
        self._fields = fields
        self._numbers: dict[str, int] = {}

    def __call__(self, name: str, value: Any) -> str:
        """Add a field and return its name."""
        base = free = _NOT_NAME.sub("_", name[:_LONGEST_NAME]) or "_"
        number = self._numbers.get(base, 1)
        while free in self._fields:
            number += 1
            free = f"{base}_{number}"
        self._numbers[base] = number
        self._fields[free] = value
        return free


def _without_stamp(stanza: Element) -> Element:
    """Return a stanza without what the internal storage adds to it."""
    kept = {name: value for name, value in stanza.attributes.items() if name not in _OF_STORAGE}
    return stanza._replace(attributes=kept)


def _stamp(text: str) -> float | None:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    return (moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)).timestamp()
