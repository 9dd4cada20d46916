"""Retention rules: which one counts for a type, what an age is, and where rules come from."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from otel_audit.catalog import EventType
from otel_audit.config import Config
from otel_audit.errors import ConfigError
from otel_audit.retention_settings import Retention, Rule, parse_rule, resolve_retention

SECOND = 10**9
DAY = 86_400 * SECOND
RULES = {"authentication-*": "90d", "user-registered": "2y", "*": "28d", "*-failure": "1w", "config.changed": "keep"}


def age_of(type_: str, rules: dict[str, str]) -> int | None:
    rule = resolve_retention(rules, (), {}).rule(type_)
    assert rule is not None
    return rule.age


@pytest.mark.parametrize(
    ("type_", "age"),
    [
        ("authentication-success", 90 * DAY),
        ("authentication-failure", 90 * DAY),  # 15 characters against 8
        ("invite-failure", 7 * DAY),
        ("user-registered", 730 * DAY),
        ("user-registered-late", 28 * DAY),
        ("", 28 * DAY),
        ("config.changed", None),
        ("audit.read", 28 * DAY),
    ],
)
def test_the_longest_pattern_counts(type_: str, age: int | None) -> None:
    """Of the rules that match a type the one with the most literal characters counts, wherever it stands."""
    assert age_of(type_, RULES) == age
    assert age_of(type_, dict(reversed(RULES.items()))) == age


def test_a_name_wins_over_a_pattern_of_its_length() -> None:
    """Where a pattern has as many literal characters as the name, the name counts; of two patterns, the longer time."""
    assert age_of("user.login", {"user.login*": "1d", "user.login": "2d"}) == 2 * DAY
    assert age_of("user.login", {"user.login": "2d", "*user.login": "3d"}) == 2 * DAY
    assert age_of("abXab", {"ab*": "1d", "*ab": "5d"}) == 5 * DAY
    assert age_of("abXab", {"ab*": "1d", "*ab": "keep"}) is None


def test_no_rule() -> None:
    """A type that no rule matches has none, and without a rule that lets go nothing is pruned."""
    retention = resolve_retention({"user.*": "1d", "user.created": "forever"}, (), {})
    assert retention.rule("server-started") is None
    assert retention
    assert retention.shortest == DAY
    assert not Retention()
    assert not resolve_retention({"*": "keep"}, (), {})
    assert resolve_retention({"*": "keep"}, (), {}).shortest is None


TEXTS = st.text("ab.*?[", max_size=8)


@given(TEXTS, st.text("ab.?[", max_size=8))
def test_only_the_star_is_special(pattern: str, type_: str) -> None:
    """A pattern matches what it says with any text in place of each star, and nothing else."""
    expected = re.fullmatch(".*".join(map(re.escape, pattern.split("*"))), type_, re.DOTALL) is not None
    assert Rule(pattern, 1, "").matches(type_) == expected


@given(st.dictionaries(TEXTS.filter(bool), st.integers(1, 9), min_size=1), st.text("ab.?[", max_size=8), st.randoms())
def test_one_rule_counts(ages: dict[str, int], type_: str, random: Any) -> None:
    """The rule that counts matches, no other that does has more literal characters, and order changes nothing."""
    rules = {pattern: f"{age}d" for pattern, age in ages.items()}
    rule = resolve_retention(rules, (), {}).rule(type_)
    matching = [pattern for pattern in rules if Rule(pattern, 1, "").matches(type_)]
    assert (rule is None) == (not matching)
    if rule is not None:
        assert rule.pattern in matching
        assert len(rule.pattern.replace("*", "")) == max(len(pattern.replace("*", "")) for pattern in matching)
        assert type_ not in rules or rule.pattern == type_
    shuffled = list(rules.items())
    random.shuffle(shuffled)
    other = resolve_retention(dict(shuffled), (), {}).rule(type_)
    assert (rule and rule.age) == (other and other.age)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("1s", 1), ("90m", 5400), ("36h", 129_600), ("90d", 7_776_000), ("2w", 1_209_600), ("2y", 63_072_000),
     ("1y6w", 35_164_800), (" 28d ", 2_419_200)],
)  # fmt: skip
def test_ages(text: str, seconds: int) -> None:
    """An age is a sum of numbers with units; a year has 365 days."""
    assert age_of("t", {"t": text}) == seconds * SECOND


@pytest.mark.parametrize(
    "text", ["", "90", "0d", "-1d", "1.5d", "1M", "d", "1d2", "never", "1" * 101 + "d", "٣d", 90, None]
)
def test_what_is_no_age(text: Any) -> None:
    """Anything else is refused, and the message names the pattern, the value and what to give."""
    with pytest.raises(ConfigError, match=re.escape(f"'user.*' for {text!r}: give an age of at least 1s")):
        resolve_retention({"user.*": text}, (), {})


def test_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    """The variable sets the rules, an empty one none, and the argument wins, even an empty one."""
    monkeypatch.setenv("OTEL_AUDIT_RETENTION", "authentication-*=90d, user-registered = 2y ,*=28d,")
    assert [(rule.pattern, rule.age) for rule in Config.load().retention.rules] == [
        ("authentication-*", 90 * DAY), ("user-registered", 730 * DAY), ("*", 28 * DAY),
    ]  # fmt: skip
    assert [rule.text for rule in Config.load(retention={"a": "1d "}).retention.rules] == ["a=1d"]
    assert Config.load(retention="b=1d").retention.rules[0].pattern == "b"
    assert not Config.load(retention={}).retention
    monkeypatch.setenv("OTEL_AUDIT_RETENTION", "")
    assert Config.load().retention == Retention()


@pytest.mark.parametrize("in_code", [True, False])
def test_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, in_code: bool) -> None:
    """A path that ends in .toml names a file with a table of rules."""
    path = tmp_path / "rules.toml"
    path.write_text('[other]\nx = 1\n[retention]\n"user.*" = "90d"\nserver-started = "keep"\n', encoding="utf-8")
    if not in_code:
        monkeypatch.setenv("OTEL_AUDIT_RETENTION", str(path))
    retention = (Config.load(retention=path) if in_code else Config.load()).retention
    assert {rule.text for rule in retention.rules} == {"user.*=90d", "server-started=keep"}


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (None, "cannot be read: No such file or directory"),
        ("[retention", "is no TOML"),
        ("\xff", "is no TOML"),
        ("[other]\n", r"has no table \[retention\]"),
        ("retention = 3\n", r"has no table \[retention\]"),
        ('[retention]\nuser.created = "1d"\n', "has a table 'user' of its own: put patterns in quotes"),
        ("[retention]\nx = 90\n", "keeps 'x' for 90: give an age"),
    ],
)
def test_a_wrong_file(tmp_path: Path, content: str | None, complaint: str) -> None:
    """What is wrong with a file is said with its path."""
    path = tmp_path / "rules.toml"
    if content is not None:
        path.write_bytes(content.encode("latin-1"))
    with pytest.raises(ConfigError, match=complaint) as caught:
        Config.load(retention=str(path))
    assert "rules.toml" in str(caught.value)


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        ("user.*", "retention holds 'user.*': write PATTERN=AGE"),
        ("=3d", "retention has a rule for ''"),
        ({3: "1d"}, "retention has a rule for 3"),
        ("a=1d,a=2d", "retention has two rules for 'a': give each pattern once"),
        (28, "retention=28 cannot be used: give a mapping"),
    ],
)
def test_wrong_rules(given: Any, complaint: str) -> None:
    """Wrong rules are errors that name the rule and the remedy."""
    with pytest.raises(ConfigError, match=re.escape(complaint)):
        Config.load(retention=given)


def test_event_types_have_rules() -> None:
    """The retention of an application's own type is a rule for its name, which a rule for just that name overrides."""
    types = (EventType("invoice.paid", "PAY", retention="90d"), EventType("invoice.sent", "SEND", retention="keep"))
    retention = Config.load(
        event_types=types, retention={"invoice.*": "1d", "*": "keep", "invoice.sent": "2d"}
    ).retention
    ages = {
        name: rule.age for name in ("invoice.paid", "invoice.sent", "invoice.lost") if (rule := retention.rule(name))
    }
    assert ages == {"invoice.paid": 90 * DAY, "invoice.sent": 2 * DAY, "invoice.lost": DAY}
    with pytest.raises(ConfigError, match="event_types keeps 'x' for 'soon'"):
        Config.load(event_types=[EventType("x", "READ", retention="soon")])


def test_rules_of_the_command_line() -> None:
    """A rule's pattern may hold an equals sign, and is taken in the form in which types are recorded."""
    assert parse_rule("a=b=1d", "--rule") == Rule("a=b", DAY, "a=b=1d")
    assert parse_rule("a\0b=1d", "--rule").matches("a\\x00b")
