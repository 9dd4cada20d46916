"""Takes secrets out: by the key that they stand under, and by their form in any text."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache
from typing import Any, Final

from otel_audit.errors import ConfigError
from otel_audit.privacy.scrub import REDACTED, Privacy, Rule, Scrubber

__all__ = ["DEFAULT_KEYS", "DEFAULT_PATTERNS", "Redact", "redact"]

DEFAULT_KEYS: Final = (
    "password", "passwd", "passphrase", "passcode", "pass", "pwd", "pw", "password_confirmation", "password_hash",
    "secret", "secret_key", "token", "token_value", "api_key", "access_key", "private_key", "signing_key",
    "authorization", "authorisation", "cookie", "credential", "credentials", "cvc", "cvv", "otp", "pin", "card_number",
)  # fmt: skip
"""A key that ends with one of these stands for a secret, in any case and with any separators: ``X-Api-Key``."""

DEFAULT_PATTERNS: Final = (
    re.compile(r"\b(?:Bearer|Negotiate)\s{1,4}(?P<secret>[\w.~+/=-]{4,})", re.IGNORECASE),
    re.compile(r"\bBasic\s{1,4}(?P<secret>[A-Za-z0-9+/]{8,}={0,2})", re.IGNORECASE),
    re.compile(r"\beyJ[\w-]{5,}\.[\w-]{5,}(?:\.[\w-]*){1,3}"),  # JSON Web Tokens
    re.compile(r"-----BEGIN [A-Z ]{0,32}PRIVATE KEY-----.*?(?:-----END [A-Z ]{0,32}PRIVATE KEY-----|\Z)", re.DOTALL),
    re.compile(r"://[^\s/:@]{0,256}:(?P<secret>[^\s/@]{1,256})@"),  # in URLs
    # Keys of cloud and code services, which begin with what they are.
    re.compile(r"\b(?:(?:AKIA|ASIA)[0-9A-Z]{16}|gh[opsur]_\w{20,}|github_pat_\w{20,}|glpat-[\w-]{16,})"),
    re.compile(r"\b(?:xox[abeoprs]-[\w-]{10,}|[rs]k_(?:live|test)_\w{10,}|AIza[\w-]{30,})"),
)
"""Where a pattern has a group ``secret``, only that is taken out."""

_CARD: Final = re.compile(r"(?<!\d)(?<!\d[ -])\d(?:[ -]?\d){12,18}(?![ -]?\d)")
_SHORT: Final = 4
"""Longest key that has to be a word of its own: ``pin`` ends other words, too."""
_SEPARATED: Final = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+")
_VALUE: Final = r"""(?:"(?:[^"\\]|\\.)*"?|'(?:[^'\\]|\\.)*'?|[^\s&]+)"""
_LINE: Final = r"""(?:"(?:[^"\\]|\\.)*"?|'(?:[^'\\]|\\.)*'?|[^\r\n]+)"""
_SIGN: Final = r"""s?\d{0,3}(?:\\{0,4}["'])?\s{0,8}(?:[:=]>?|%3d|%3a)\s{0,8}"""


def redact(
    keys: Iterable[str] = DEFAULT_KEYS,
    patterns: Iterable[str | re.Pattern[str]] = DEFAULT_PATTERNS,
    *,
    cards: bool = True,
) -> Privacy:
    """Return a processor that takes secrets out, and puts ``[redacted]`` in their place.

    Secrets are what stands under one of the keys in custom fields, bound values, maps and pairs in them, and behind
    ``key=`` or ``key:`` in texts; and what one of the patterns finds in a text.

    Args:
        keys: Ends of the keys, in any case and with any separators.
        patterns: Regular expressions; where there is a group ``secret``, only that is taken out.
        cards: Whether to take out card numbers: 13 to 19 digits whose check digit (Luhn) is right.

    Raises:
        ConfigError: A key is empty or a pattern is no regular expression.
    """
    if isinstance(keys, str) or isinstance(patterns, (str, re.Pattern)):
        raise ConfigError("keys and patterns of redact() are several", "give sequences")
    names: tuple[Any, ...] = tuple(keys)
    for name in names:
        if not isinstance(name, str) or not _normal(name):
            raise ConfigError(f"{name!r} is no key of a secret", "give names made of letters and digits")
    compiled = []
    for pattern in patterns:
        try:
            compiled.append(re.compile(pattern))
        except (re.error, TypeError) as error:
            raise ConfigError(f"{pattern!r} is no regular expression: {error}", "correct it") from None
    return Privacy(Redact(names, compiled, cards=cards))


class Redact(Rule):
    """Takes secrets out; see `redact`."""

    word = "redacted"

    def __init__(self, keys: Iterable[str], patterns: Iterable[re.Pattern[str]], *, cards: bool) -> None:
        self._patterns = tuple(patterns)
        self._cards = cards
        keys = tuple(keys)
        normal = {_normal(key) for key in keys}
        self._whole = frozenset(key for key in normal if len(key) <= _SHORT)
        self._ends = tuple(key for key in normal if len(key) > _SHORT)
        self._secret = lru_cache(4096)(self._names_a_secret)
        self._in_text = _behind_keys(keys)
        self._hints = frozenset(re.split(r"[\W_]+", key.casefold().strip("_-. "))[0] for key in keys)

    def secret(self, key: str) -> bool:
        """Tell whether a key's last words are a secret's."""
        return self._secret(key[-256:])

    def _names_a_secret(self, key: str) -> bool:
        normal = _normal(key).rstrip("0123456789")
        if normal.endswith(self._ends) or normal.removesuffix("s").endswith(self._ends):
            return True
        words = _SEPARATED.findall(key)
        return bool(words) and (words[-1].lower() in self._whole or normal in self._whole)

    def number(self, value: int, name: str) -> str | None:  # noqa: ARG002
        """Return what takes the place of a card's number."""
        return REDACTED if self._cards and 10**12 <= value < 10**19 and _is_card(str(value)) else None

    def text(self, text: str, name: str, scrubber: Scrubber) -> str:  # noqa: ARG002
        """Return a text without secrets."""
        # Looking for a word takes a twentieth of the time that the patterns take.
        if "=" in text or ":" in text or "%3" in text:
            folded = text.casefold()
            if any(hint in folded for hint in self._hints):
                for pattern in self._in_text:
                    text = pattern.sub(_behind_key, text)
        for pattern in self._patterns:
            text = pattern.sub(_found, text)
        return _CARD.sub(_card, text) if self._cards else text


def _normal(key: str) -> str:
    return "".join(character for character in key.casefold() if character.isalnum())


def _behind_keys(keys: Iterable[str]) -> tuple[re.Pattern[str], ...]:
    """Return patterns of ``key=value`` in texts; a header's value is the whole line."""
    lines: list[str] = []
    values: list[str] = []
    for key in sorted(keys, key=len, reverse=True):
        parts = [re.escape(part) for part in re.split(r"[\W_]+", key) if part]
        pattern = r"[\W_]?".join(parts)
        if len(_normal(key)) <= _SHORT:
            pattern = rf"(?<![A-Za-z0-9]){pattern}"
        (lines if _normal(key) in {"authorization", "authorisation", "cookie"} else values).append(pattern)
    return tuple(
        re.compile(rf"(?P<key>(?:{'|'.join(alternatives)}){_SIGN})(?P<value>{value})", re.IGNORECASE | re.DOTALL)
        for alternatives, value in ((lines, _LINE), (values, _VALUE))
        if alternatives
    )


def _behind_key(match: re.Match[str]) -> str:
    value = match["value"]
    quote = value[0] if value[0] in "\"'" else ""
    return f"{match['key']}{quote}{REDACTED}{quote}"


def _found(match: re.Match[str]) -> str:
    if "secret" not in match.re.groupindex or match["secret"] is None:
        return REDACTED
    whole, start = match[0], match.start()
    return whole[: match.start("secret") - start] + REDACTED + whole[match.end("secret") - start :]


def _card(match: re.Match[str]) -> str:
    return REDACTED if _is_card("".join(c for c in match[0] if c.isdigit())) else match[0]


def _is_card(digits: str) -> bool:
    """Tell whether digits are a card's number: issued under 2 to 6 (a 1 begins times), with the right check digit."""
    numbers = [int(digit) for digit in digits]
    if not 2 <= numbers[0] <= 6:
        return False
    doubled = (number * 2 for number in numbers[-2::-2])
    return (sum(numbers[-1::-2]) + sum(number - 9 if number > 9 else number for number in doubled)) % 10 == 0
