"""The setting ``OTEL_AUDIT``: the arguments of `otel_audit.configure` in upper case, and what only Django needs."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final, Literal, get_args

from django.conf import settings

from otel_audit.config import Config, Settings
from otel_audit.errors import ConfigError
from otel_audit.integrations.forwarded import ProxyHeader
from otel_audit.integrations.web import Requests, request_user

__all__ = ["SETTING", "Options", "Transactions", "forget_options", "options", "provider_settings", "read_options"]

Transactions = Literal["immediate", "on_commit"]

SETTING: Final = "OTEL_AUDIT"
_OWN: Final = ("TRANSACTIONS", "TRUSTED_PROXIES", "PROXY_HEADER")
_KNOWN: Final = (*(name.upper() for name in Settings.__annotations__), *_OWN)


@dataclass(frozen=True, slots=True)
class Options:
    """``OTEL_AUDIT``, read and checked.

    Args:
        provider: The arguments of `otel_audit.configure`.
        transactions: When changes in the database are recorded.
        trusted_proxies: How many proxies are in front.
        proxy_header: The header that they append to.
    """

    provider: Settings
    transactions: Transactions
    trusted_proxies: int
    proxy_header: ProxyHeader


def read_options(given: object) -> Options:
    """Return the options.

    Args:
        given: The value of the setting.

    Raises:
        ConfigError: It is wrong; names the key.
    """
    if not isinstance(given, Mapping):
        raise ConfigError(
            f"{SETTING}={given!r} is no dictionary", f"write {SETTING} = {{'ARCHIVE': …, 'HOST': 'example.com'}}"
        )
    for key in given:
        if key not in _KNOWN:
            near = difflib.get_close_matches(str(key).upper(), _KNOWN, 1)
            raise ConfigError(
                f"{SETTING} has the unknown key {key!r}",
                f"did you mean {near[0]!r}?" if near else f"use {', '.join(sorted(_KNOWN))}",
            )
    transactions = given.get("TRANSACTIONS", "immediate")
    if transactions not in get_args(Transactions):
        raise ConfigError(
            f"TRANSACTIONS={transactions!r} is unknown", f"use {' or '.join(map(repr, get_args(Transactions)))}"
        )
    proxies, header = given.get("TRUSTED_PROXIES", 0), given.get("PROXY_HEADER", "x-forwarded-for")
    # For its checks: what reads requests is made from the options later.
    Requests[Any](user=None, session_id=None, trusted_proxies=proxies, proxy_header=header)
    provider: Any = {key.lower(): value for key, value in given.items() if key not in _OWN}
    # First, so that the application's processors see the user, too.
    provider["processors"] = (request_user, *_processors(provider.get("processors", ())))
    if Config.load(**provider).host is None:
        raise ConfigError(f"{SETTING} has no HOST", "name the tenant or virtual host that events belong to")
    return Options(provider, transactions, proxies, header)


def _processors(given: Any) -> tuple[Any, ...]:
    try:
        return tuple(given)
    except TypeError:
        raise ConfigError(f"PROCESSORS={given!r} cannot be used", "give a list") from None


@lru_cache(1)
def options() -> Options:
    """Return the options of the project.

    Raises:
        ConfigError: The setting is missing or wrong.
    """
    return read_options(getattr(settings, SETTING, None))


def provider_settings() -> Settings:
    """Return what the project's provider is made with.

    Raises:
        ConfigError: The setting is missing or wrong.
    """
    return options().provider


def forget_options(*, setting: str, **_: Any) -> None:
    """Read the setting anew after a test changed it."""
    if setting == SETTING:
        options.cache_clear()
