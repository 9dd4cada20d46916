"""Puts pseudonyms in place of names: the same for the same name and key, and not to be guessed without the key."""

from __future__ import annotations

import hmac
import os
from collections.abc import Iterable, Mapping
from ipaddress import IPv4Address, IPv6Address
from typing import Any, Final

from otel_audit.build import bound_values
from otel_audit.clean import Cleaner
from otel_audit.errors import ConfigError
from otel_audit.keyfile import read_key_file, refuse_open_file, shown
from otel_audit.privacy.scrub import Privacy, Rule, Scrubber
from otel_audit.record import Actor, Session, canonical_address

__all__ = ["DEFAULT_FIELDS", "Key", "Pseudonyms", "load_key", "pseudonymise"]

Key = bytes | str | os.PathLike[str]
"""A key, or the path of the file that holds it."""

DEFAULT_FIELDS: Final = ("user", "user_id", "actor")
_FIELDS: Final = {
    "user": "user",
    "user_id": "user_id",
    "actor": "actor.id",
    "target": "target.id",
    "session.id": "session.id",
    "session.ip": "session.ip",
    "session.client": "session.client",
}
_SHORTEST_KEY: Final = 16
_DOMAIN: Final = b"otel-audit/v1/pseudonym\0"


def load_key(key: Key) -> bytes:
    """Return a key for pseudonyms.

    Args:
        key: The key as bytes; or the path of a file that holds it, whose white space at the end does not count.

    Raises:
        ConfigError: There is none, it is shorter than 16 bytes, or others than owner and group may read the file.
    """
    given: Any = key
    if isinstance(given, bytes):
        found, where = given, "the key for pseudonyms"
    elif isinstance(given, (str, os.PathLike)) and os.fspath(given):
        where = f"the key for pseudonyms in {shown(given)}"
        content, status = read_key_file(given, where)
        refuse_open_file(status, where)
        found = content.rstrip()
    else:
        raise ConfigError("the key for pseudonyms is neither bytes nor a path", "give the path of the key's file")
    if len(found) < _SHORTEST_KEY:
        raise ConfigError(f"{where} is shorter than {_SHORTEST_KEY} bytes", "make one with secrets.token_hex(32)")
    return found


class Pseudonyms:
    """Turns texts into pseudonyms: ``psn-`` and 32 hex digits of HMAC-SHA256.

    Args:
        key: See `load_key`.
    """

    __slots__ = ("_key",)

    def __init__(self, key: Key) -> None:
        self._key = load_key(key)

    def __call__(self, text: str) -> str:
        """Return the pseudonym of a text; an address has one, in whatever form it comes."""
        text = Cleaner().text(canonical_address(text) or text, "")
        return f"psn-{hmac.digest(self._key, _DOMAIN + text.encode(), 'sha256').hex()[:32]}"


def pseudonymise(key: Key, fields: Iterable[str] = DEFAULT_FIELDS) -> Privacy:
    """Return a processor that puts pseudonyms in place of names, and of their mentions in all other texts.

    Equal texts have equal pseudonyms, in any field, record and process with the same key; ``otel-audit show
    --pseudonym-key FILE`` finds them by the name. Only actors of type ``user`` have a pseudonym.

    Args:
        key: The key, or the path of its file, see `load_key`.
        fields: ``user``, ``user_id``, ``actor``, ``target``, ``session.id``, ``session.ip``, ``session.client``, or a
            custom field such as ``order.customer``; bound values are ``context.NAME``.

    Raises:
        ConfigError: The key cannot be used, or a field is unknown.
    """
    if isinstance(fields, str):
        raise ConfigError(f"fields={fields!r} is one text", f"give a sequence: fields=[{fields!r}]")
    names = set()
    given: tuple[Any, ...] = tuple(fields)
    for field in given:
        group, dot, name = field.removeprefix("custom.").partition(".") if isinstance(field, str) else ("", "", "")
        if not isinstance(field, str) or (field not in _FIELDS and (not dot or not group or not name)):
            known = ", ".join(_FIELDS)
            raise ConfigError(f"{field!r} is no field for pseudonyms", f"give some of {known}, GROUP.FIELD")
        names.add(_FIELDS.get(field) or f"custom.{group}.{name}")
    return Privacy(Pseudonymise(Pseudonyms(key), names))


class Pseudonymise(Rule):
    """Puts pseudonyms in place of fields; see `pseudonymise`."""

    word = "pseudonym"

    def __init__(self, pseudonyms: Pseudonyms, fields: Iterable[str]) -> None:
        self._pseudonyms = pseudonyms
        self._fields = frozenset(fields)
        self._custom = [field.split(".", 2)[1:] for field in self._fields if field.startswith("custom.")]

    def begin(self, values: Mapping[str, Any], scrubber: Scrubber) -> None:
        """Find custom fields whose values may stand in texts that come before them."""
        actor = values.get("actor")
        if isinstance(actor, Actor) and actor.type != "user":
            scrubber.exempt(f"actor.id:{self.word}")
        if not self._custom:
            return
        groups = values.get("custom")
        groups = groups if isinstance(groups, Mapping) else {}
        for group, name in self._custom:
            fields = groups.get(group)
            value = fields.get(name) if isinstance(fields, Mapping) else None
            if value is None and group == "context":
                value = bound_values(values).get(name)
            if isinstance(value, str) and value and not scrubber.done_before(f"custom.{group}.{name}:{self.word}"):
                scrubber.mention(str.__str__(value), self._pseudonyms(value), self.word)

    def session(self, session: Session, scrubber: Scrubber) -> Session:
        """Return the session with the pseudonym of its address."""
        given: Any = session.ip
        mark = f"session.ip:{self.word}"
        if "session.ip" not in self._fields or not isinstance(given, (str, IPv4Address, IPv6Address)):
            return session
        text = str.__str__(given) if isinstance(given, str) else str(given)
        if not text or mark in scrubber.marks:
            return session
        pseudonym = self._pseudonyms(text)
        scrubber.mark(mark)
        for form in {text, canonical_address(text) or text}:
            scrubber.mention(form, pseudonym, self.word)
        return session._replace(ip=pseudonym)

    def text(self, text: str, name: str, scrubber: Scrubber) -> str:
        """Return the pseudonym of a field, and any other text as it is."""
        if not text or name not in self._fields or name == "session.ip" or scrubber.done_before(f"{name}:{self.word}"):
            return text
        pseudonym = self._pseudonyms(text)
        if not name.startswith("custom."):
            scrubber.mention(text, pseudonym, self.word)
        return pseudonym

    def number(self, value: int, name: str) -> str | None:
        """Return the pseudonym of a number."""
        return self._pseudonyms(str(value)) if name in self._fields and value.bit_length() < 4_096 else None
