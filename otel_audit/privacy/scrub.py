"""Takes the values of an audit call through the rules of privacy, wherever text stands in them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar, Final

from structlog.typing import EventDict, WrappedLogger

from otel_audit.build import bound_values
from otel_audit.clean import MARKS, MAX_BYTES, Cleaner, Marks
from otel_audit.record import PSEUDONYM, Actor, Session, Target, Value

__all__ = ["Privacy", "Rule", "Scrubber", "merged"]

_ADDRESS: Final = re.compile(r"[0-9.]+|[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*")
_LONGEST: Final = 4 * MAX_BYTES
"""Characters that rules look at: a client that sends megabytes must not keep the processor busy."""
_SHORT: Final = 8
"""Texts below this length are looked for as whole words: `in` is a user's name, too, and part of many others."""


class Rule:
    """One measure. Each method has the default of changing nothing."""

    word: ClassVar[str]
    """What the marks say of it."""

    def begin(self, values: Mapping[str, Any], scrubber: Scrubber) -> None:
        """Look at all values of a call before any is taken."""

    def session(self, session: Session, scrubber: Scrubber) -> Session:  # noqa: ARG002
        """Return what is kept of a session's address and location."""
        return session

    def text(self, text: str, name: str, scrubber: Scrubber) -> str:  # noqa: ARG002
        """Return what is kept of a text.

        Args:
            text: Any text.
            name: Where it stands, as the marks say it.
            scrubber: Gathers what must not show elsewhere either.
        """
        return text

    def number(self, value: int, name: str) -> str | None:  # noqa: ARG002
        """Return what takes the place of a number, None where it stays."""
        return None

    def secret(self, key: str) -> bool:  # noqa: ARG002
        """Tell whether what stands under this key must not be kept."""
        return False


class Scrubber(Cleaner):
    """A cleaner that takes each text through rules before it is cleaned and cut.

    Args:
        rules: In their order.
        marks: What earlier processors altered.
    """

    __slots__ = ("_earlier", "_exempt", "_mentions", "_needles", "_pattern", "_rules")

    def __init__(self, rules: Iterable[Rule], marks: Iterable[str]) -> None:
        super().__init__(marks)
        self._rules = tuple(rules)
        self._earlier = frozenset(self.marks)
        self._exempt: set[str] = set()
        self._mentions: dict[str, tuple[str, str]] = {}
        self._needles: set[str] = set()
        self._pattern: re.Pattern[str] | None = None

    def done_before(self, mark: str) -> bool:
        """Tell whether there is nothing to do: an earlier processor left this mark, or the field is exempt."""
        return mark in self._earlier or mark in self._exempt

    def exempt(self, mark: str) -> None:
        """Have `done_before` say yes."""
        self._exempt.add(mark)

    def mention(self, text: str, replacement: str, word: str) -> None:
        """Have a text replaced wherever else it stands, whatever its case."""
        for form in {text, Cleaner().text(text, "")}:
            if form and form != replacement:
                self._mentions[form] = (replacement, word)
                self._needles.add(form.lower())
                self._pattern = None

    def through_rules(self, text: str, name: str) -> str:
        """Return a text after all rules; what is far longer than what is kept is cut first."""
        if len(text) > _LONGEST:
            self.mark(f"{name}:long:{len(text)}")
            text = text[:_LONGEST]
        for rule in self._rules:
            kept = rule.text(text, name, self)
            if kept != text:
                self.mark(f"{name}:{rule.word}")
                text = kept
        return text

    def without_mentions(self, text: str, name: str) -> str:
        """Return a text without what a rule has taken out elsewhere."""
        if not self._mentions or PSEUDONYM.fullmatch(text):
            return text
        lower = text.lower()
        for needle in self._needles:
            if needle in lower:
                break
        else:
            return text  # compiling a pattern takes far longer than this
        forms = sorted(self._mentions, key=len, reverse=True)
        if self._pattern is None:
            self._pattern = re.compile("|".join(map(_whole, forms)), re.IGNORECASE)

        def replaced(match: re.Match[str]) -> str:
            replacement, word = self._mentions[forms[(match.lastindex or 1) - 1]]
            self.mark(f"{name}:{word}")
            return replacement

        return self._pattern.sub(replaced, text)

    def session(self, session: Session) -> Session:
        """Return what the rules keep of a session's address and location."""
        for rule in self._rules:
            session = rule.session(session, self)
        return session

    def text(self, value: str, name: str, limit: int = MAX_BYTES) -> str:
        """Return what is kept of a text, clean."""
        text = str.__str__(value)
        return super().text(self.without_mentions(self.through_rules(text, name), name), name, limit)

    def finished(self, text: str, name: str) -> str:
        """Return a text that has been through the rules without mentions, clean."""
        return super().text(self.without_mentions(text, name), name)

    # -- what stands in custom fields --

    def _key(self, key: Any, name: str) -> str:
        text = super()._key(key, name)
        return self.without_mentions(self.through_rules(text, name), name)

    def _entry(self, key: Any, value: Any, name: str) -> Any:
        group = name.split(".", 2)[1]
        # The catalog's group `token` holds the id and the scopes of a token, not the token.
        if self._is_secret(key) or (group.lower() not in {"token", "tokens"} and self._is_secret(group)):
            return self._withheld(value, name)
        return value

    def _is_secret(self, key: Any) -> bool:
        if isinstance(key, (bytes, bytearray)):
            key = key.decode("latin-1")
        if not isinstance(key, str):
            return False
        text = str.__str__(key)
        return any(rule.secret(text) for rule in self._rules)

    def _withheld(self, value: Any, name: str) -> Any:
        if value is None or value is True or value is False:
            return value  # whether there is one is no secret
        if type(value) is not str or value != REDACTED:
            self.mark(f"{name}:redacted")
        return REDACTED

    def _container(self, value: Any, name: str, depth: int) -> Value:
        # Headers come as lists of pairs, too.
        if isinstance(value, (list, tuple)) and len(value) == 2 and self._is_secret(value[0]):
            value = (value[0], self._withheld(value[1], name))
        return super()._container(value, name, depth)

    def _integer(self, value: int, name: str) -> Value:
        for rule in self._rules:
            kept = rule.number(value, name)
            if kept is not None:
                self.mark(f"{name}:{rule.word}")
                return kept
        return super()._integer(value, name)

    def _bytes(self, value: bytes, name: str) -> bytes:
        text = value.decode(errors="surrogateescape")
        kept = self.without_mentions(self.through_rules(text, name), name)
        return super()._bytes(value if kept == text else kept.encode(errors="surrogateescape"), name)


REDACTED: Final = "[redacted]"
"""What stands in place of a secret."""


def _whole(form: str) -> str:
    # Every form is one group: its number tells which one was found.
    pattern = f"({re.escape(form)})"
    if _ADDRESS.fullmatch(form):
        return rf"(?<![0-9.:]){pattern}(?![0-9]|[.:/][0-9])"
    return f"(?<![0-9A-Za-z]){pattern}(?![0-9A-Za-z])" if len(form) < _SHORT else pattern


class Privacy:
    """A structlog processor that applies rules to an audit call. Made by the functions of `otel_audit.privacy`.

    Args:
        *rules: In the order in which they act.
    """

    __slots__ = ("rules",)

    def __init__(self, *rules: Rule) -> None:
        self.rules = rules

    def __call__(self, _logger: WrappedLogger, _method: str, event_dict: EventDict) -> EventDict:
        """Return the values with what the rules keep of them; values of wrong types are left to be refused."""
        earlier = event_dict.get(MARKS)
        marks = earlier if isinstance(earlier, Marks) else Marks()
        scrubber = Scrubber(self.rules, marks)
        kept: dict[str, Any] = dict(event_dict)
        try:
            for rule in self.rules:
                rule.begin(kept, scrubber)
            _take_named(kept, scrubber)
            _take_custom(kept, scrubber)
        except Exception:  # noqa: BLE001 - whatever a foreign object raises, neither the record nor a secret may go astray
            for name in _CONTENT | bound_values(event_dict).keys():
                kept.pop(name, None)
            scrubber = Scrubber((), (*marks, "custom:dropped", "message:dropped", "session:dropped", "user:dropped"))
        if scrubber.marks:
            kept[MARKS] = Marks(scrubber.marks)
        return kept


_CONTENT: Final = frozenset({"user", "user_id", "session", "actor", "target", "message", "custom"})


def merged(processors: Iterable[Any]) -> tuple[Any, ...]:
    """Return processors with neighbouring `Privacy` ones made one: they see texts before they are cut."""
    result: list[Any] = []
    for processor in processors:
        if result and type(processor) is Privacy and type(result[-1]) is Privacy:
            result[-1] = Privacy(*result[-1].rules, *processor.rules)
        else:
            result.append(processor)
    return tuple(result)


def _take_named(values: dict[str, Any], scrubber: Scrubber) -> None:
    """Replace the texts of arguments: first all of them by the rules, then what the rules found out in the others."""
    parts = [(key, _part(key, values.get(key), scrubber)) for key in ("user", "user_id", "session", "actor", "target")]
    parts.append(("message", _part("message", values.get("message"), scrubber)))
    for key, finish in parts:
        if finish is not None:
            values[key] = finish()


def _part(key: str, value: Any, scrubber: Scrubber) -> Callable[[], Any] | None:
    """Take one argument through the rules, and return what finishes it; None where it is not there or not right."""
    match value:
        case Session():
            return _session(value, scrubber)
        case Actor() if key == "actor" and isinstance(value.id, str):
            actor = _text(value.id, "actor.id", scrubber)
            return lambda: Actor(actor(), value.type)
        case Target() if key == "target" and isinstance(value.id, str):
            target, kind = _text(value.id, "target.id", scrubber), _text(value.type, "target.type", scrubber)
            return lambda: Target(target(), kind())
        case str():
            return _text(value, f"{key}.id" if key in {"actor", "target"} else key, scrubber)
        case _:
            return None


def _text(value: Any, name: str, scrubber: Scrubber) -> Callable[[], Any]:
    if not isinstance(value, str):
        return lambda: value
    text = scrubber.through_rules(str.__str__(value), name)
    return lambda: scrubber.finished(text, name)


def _session(value: Session, scrubber: Scrubber) -> Callable[[], Session]:
    kept = scrubber.session(Session(*value))
    names = ("id", "type", "ip", "client")
    finish = [_text(text, f"session.{name}", scrubber) for name, text in zip(names, kept[:4], strict=True)]
    return lambda: Session(*(text() for text in finish))._replace(country=kept.country, continent=kept.continent)


def _take_custom(values: dict[str, Any], scrubber: Scrubber) -> None:
    """Replace custom groups and bound values; a bound value stays where it is as long as its name does."""
    groups, extra = values.get("custom"), bound_values(values)
    groups = {} if groups is None else groups
    if not isinstance(groups, Mapping) or not all(
        isinstance(group, str) and isinstance(fields, Mapping) for group, fields in groups.items()
    ):
        return  # refused when the record is built
    own = groups.get("context", {})
    if extra:
        groups = {**groups, "context": {**extra, **own}}
    if not groups:
        return
    clean = scrubber.custom(groups)
    context = clean.get("context", {})
    for name in extra:
        del values[name]
        if name in context and name not in own:
            values[name] = context.pop(name)
    if not context:
        clean.pop("context", None)
    values["custom"] = clean or None
