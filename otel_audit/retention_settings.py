"""How long records of each type keep their content, resolved from arguments and ``OTEL_AUDIT_RETENTION``."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

from otel_audit.catalog import EventType
from otel_audit.clean import Cleaner
from otel_audit.errors import ConfigError
from otel_audit.paths import expanded

__all__ = ["Retention", "Rule", "parse_rule", "resolve_retention"]

_VARIABLE: Final = "OTEL_AUDIT_RETENTION"
_KEEP: Final = ("keep", "forever")
_UNITS: Final = {"y": 31_536_000, "w": 604_800, "d": 86_400, "h": 3_600, "m": 60, "s": 1}
_AGE: Final = re.compile(r"(?:[0-9]{1,12}[ywdhms])+")
_PART: Final = re.compile(r"([0-9]+)([ywdhms])")
_FORMS: Final = "give an age of at least 1s such as 90d, 12h or 2y (units s, m, h, d, w, y), or keep"


class Rule(NamedTuple):
    """How long records of some types keep their content.

    Args:
        pattern: The types; ``*`` matches any text, nothing else is special.
        age: Nanoseconds; None: for ever.
        text: The rule as it was given, ``PATTERN=AGE``.
    """

    pattern: str
    age: int | None
    text: str

    def matches(self, type_: str) -> bool:
        """Tell whether a type is one of those."""
        first, *rest = self.pattern.split("*")
        if not rest:
            return type_ == first
        *middle, last = rest
        if not type_.startswith(first):
            return False
        # The leftmost place for each part leaves the most room for those that follow.
        position = len(first)
        for part in middle:
            position = type_.find(part, position)
            if position < 0:
                return False
            position += len(part)
        return len(type_) - len(last) >= position and type_.endswith(last)

    @property
    def weight(self) -> tuple[int, bool, float]:
        """What decides between rules that match: literal characters, being a name, the longer time."""
        literal = self.pattern.replace("*", "")
        return len(literal), literal == self.pattern, float("inf") if self.age is None else self.age


@dataclass(frozen=True, slots=True)
class Retention:
    """The rules of an archive; without any, nothing is pruned.

    Args:
        rules: Of those that match a type, the one with the most literal characters counts; among equals a name before a
            pattern, and then the longer time.
    """

    rules: tuple[Rule, ...] = ()

    def __post_init__(self) -> None:
        """Check that no two rules contradict each other.

        Raises:
            ConfigError: Two are for the same pattern.
        """
        patterns = set[str]()
        for rule in self.rules:
            if rule.pattern in patterns:
                raise ConfigError(f"retention has two rules for {rule.pattern!r}", "give each pattern once")
            patterns.add(rule.pattern)

    def __bool__(self) -> bool:
        """Tell whether any rule lets records be pruned."""
        return any(rule.age is not None for rule in self.rules)

    def rule(self, type_: str) -> Rule | None:
        """Return the rule for a type; None where there is none."""
        return max((rule for rule in self.rules if rule.matches(type_)), key=lambda rule: rule.weight, default=None)

    @property
    def shortest(self) -> int | None:
        """The shortest time of all, in nanoseconds; None where everything is kept."""
        return min((rule.age for rule in self.rules if rule.age is not None), default=None)


def parse_rule(text: str, where: str) -> Rule:
    """Return the rule ``PATTERN=AGE``.

    Args:
        text: The rule.
        where: Where it comes from, for messages.

    Raises:
        ConfigError: It is none.
    """
    pattern, separator, age = text.rpartition("=")
    if not separator:
        raise ConfigError(f"{where} holds {text!r}", "write PATTERN=AGE, such as user.login.*=90d")
    return _rule(pattern.strip(), age, where)


def _rule(pattern: Any, age: Any, where: str) -> Rule:
    if not isinstance(pattern, str) or not pattern:
        raise ConfigError(f"{where} has a rule for {pattern!r}", "name an event type, or a pattern such as 'user.*'")
    # Types are recorded so.
    pattern = Cleaner().text(pattern, "")
    word = age.strip() if isinstance(age, str) else ""
    if word in _KEEP:
        return Rule(pattern, None, f"{pattern}={word}")
    seconds = 0
    # Small letters only: who writes 1M means a month. Python refuses to read numbers of thousands of digits.
    if len(word) <= 100 and _AGE.fullmatch(word):
        seconds = sum(int(number) * _UNITS[unit] for number, unit in _PART.findall(word))
    if not seconds:
        raise ConfigError(f"{where} keeps {pattern!r} for {age!r}", _FORMS)
    return Rule(pattern, seconds * 1_000_000_000, f"{pattern}={word}")


def resolve_retention(given: Any, event_types: Iterable[Any], environ: Mapping[str, str]) -> Retention:
    """Return the rules: the argument's, else the environment's, and behind them those of the application's event types.

    Args:
        given: A mapping of patterns to ages, or what the variable may hold; None: not given.
        event_types: The application's own; the `retention` of one is a rule for its name, where no other names it.
        environ: The environment.

    Raises:
        ConfigError: A rule is wrong; names it and the remedy.
    """
    rules = tuple(_rules(given, "retention") if given is not None else _rules(environ.get(_VARIABLE, ""), _VARIABLE))
    # Of two types of one name the later one counts, as in the catalog; what is no type is refused there.
    types = {known.name: known.retention for known in event_types if isinstance(known, EventType)}
    own = [_rule(name, age, "event_types") for name, age in types.items() if age is not None]
    named = {rule.pattern for rule in rules}
    return Retention((*rules, *(rule for rule in own if rule.pattern not in named)))


def _rules(given: Any, where: str) -> Iterator[Rule]:
    if isinstance(given, Mapping):
        yield from (_rule(pattern, age, where) for pattern, age in given.items())
    elif isinstance(given, os.PathLike) or (isinstance(given, str) and given.strip().endswith(".toml")):
        yield from _from_file(expanded(given.strip() if isinstance(given, str) else given), where)
    elif isinstance(given, str):
        yield from (parse_rule(part, where) for part in given.split(",") if part.strip())
    else:
        raise ConfigError(
            f"{where}={given!r} cannot be used", "give a mapping such as {'user.*': '90d'}, or the path of a TOML file"
        )


def _from_file(path: Path, where: str) -> Iterator[Rule]:
    import tomllib  # start-up time: for those who have such a file

    try:
        table = tomllib.loads(path.read_text("utf-8")).get("retention")
    except OSError as error:
        raise ConfigError(
            f"{where}: {str(path)!r} cannot be read: {error.strerror or error}", "check the path and its permissions"
        ) from None
    except ValueError as error:
        raise ConfigError(f"{where}: {str(path)!r} is no TOML: {error}", "correct it there") from None
    if not isinstance(table, dict):
        raise ConfigError(
            f"{where}: {str(path)!r} has no table [retention]", 'write one with lines such as "user.*" = "90d"'
        )
    for pattern, age in table.items():
        if isinstance(age, dict):
            # A dot outside of quotes makes a table.
            raise ConfigError(f"{where}: {str(path)!r} has a table {pattern!r} of its own", "put patterns in quotes")
        yield _rule(pattern, age, f"{where}: {str(path)!r}")
