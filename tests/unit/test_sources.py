"""The sources: each method gives its record, called or by signal, and loses nothing that is bound."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from structlog.contextvars import bound_contextvars, clear_contextvars

from otel_audit.catalog import Catalog
from otel_audit.errors import ConfigError, InvalidRecord
from otel_audit.record import Actor, Session, Target
from otel_audit.sources.accounts import Accounts
from otel_audit.sources.auth import Auth
from otel_audit.sources.base import Source
from otel_audit.sources.server import Server
from otel_audit.sources.tokens import Tokens
from tests.recording import HOSTILE_TEXTS, Tape, bound_logger

SENDER = object()
SESSION = Session("c2s-1", "c2s_unauthed", "203.0.113.7", "Gajim 1.9")
WHEN = datetime(2026, 1, 31, 12, tzinfo=UTC)
WHY = {"reason": "abuse", "comment": "spam", "when": WHEN}
REASON = {"reason": {"condition": "abuse", "comment": "spam", "when": "2026-01-31T12:00:00+00:00"}}
GRANT = {"grant": "g-1", "scopes": "read  write", "expires": WHEN}
CUSTOM_GRANT = {"id": "g-1", "scopes": ("read", "write"), "expires": "2026-01-31T12:00:00+00:00"}

# Class, method, its arguments, type of the record, custom fields.
EVENTS: list[tuple[type[Source], str, dict[str, Any], str, dict[str, Any]]] = [
    (Auth, "success", {"method": "password"}, "authentication-success", {"authentication": {"method": "password"}}),
    (
        Auth, "failure", {"condition": "not-authorized", "text": "wrong", "method": "PLAIN"}, "authentication-failure",
        {"reason": {"condition": "not-authorized", "text": "wrong"}, "authentication": {"method": "PLAIN"}},
    ),
    (Auth, "new_client", {"client_id": "c", "agent": "G"}, "new-client", {"client": {"id": "c", "agent": "G"}}),
    (Auth, "logout", {}, "user.logout", {}),
    (Accounts, "registered", {"invite": "i-1"}, "user-registered", {"invite-used": {"token": "i-1"}}),
    (Accounts, "deregistered", {}, "user-deregistered", {}),
    (Accounts, "deregistered_pending", {}, "user-deregistered-pending", {}),
    (Accounts, "enabled", WHY, "user-enabled", REASON),
    (Accounts, "disabled", WHY, "user-disabled", REASON),
    (Accounts, "password_changed", {}, "user.password.changed", {}),
    (Accounts, "updated", {"fields": ["email", "name"]}, "user.updated", {"change": {"fields": ("email", "name")}}),
    (Accounts, "role_assigned", {"role": "admin"}, "role.assigned", {"role": {"name": "admin"}}),
    (Accounts, "role_removed", {"role": "admin"}, "role.removed", {"role": {"name": "admin"}}),
    (Tokens, "grant_created", GRANT, "token-grant-created", {"grant": CUSTOM_GRANT}),
    (Tokens, "grant_revoked", GRANT, "token-grant-revoked", {"grant": CUSTOM_GRANT}),
    (Tokens, "revoked", {**GRANT, "token": "t-1"}, "token-revoked", {"grant": CUSTOM_GRANT, "token": {"id": "t-1"}}),
]  # fmt: skip


@pytest.fixture(autouse=True)
def _no_context() -> Iterator[None]:
    clear_contextvars()
    yield
    clear_contextvars()


@pytest.fixture
def tape() -> Tape:
    return Tape()


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: event[1] + "-" + event[0].__name__)
def test_each_event(tape: Tape, event: tuple[type[Source], str, dict[str, Any], str, dict[str, Any]]) -> None:
    """A method records its type with user, session and fields; its signal records the same; the catalog knows both."""
    kind, method, arguments, type_, custom = event
    source = kind(bound_logger(tape))
    further: dict[str, Any] = {
        "actor": Actor("admin"),
        "user_id": "7",
        "target": Target("o"),
        "message": "m",
        "timestamp": 5,
    }
    receipt = getattr(source, method)("alice", SESSION, **arguments, **further)
    assert receipt.record_id == tape.record.record_id
    source.subscribe()
    source.signals[method].send(SENDER, user="alice", session=SESSION, **arguments, **further)
    source.unsubscribe()
    assert len(tape.written) == 2
    for record, _ in tape.written:
        assert (record.type, record.user, record.session, record.custom) == (type_, "alice", SESSION, custom)
        assert (record.actor.id, record.user_id, record.time, record.message) == ("admin", "7", 5, "m")
        assert (record.target, record.source, record.altered) == (Target("o"), "mod_auth", ())
    known = Catalog()
    assert type_ in known
    assert {f"{group}.{field}" for group, fields in custom.items() for field in fields} <= set(known[type_].custom)


@pytest.mark.parametrize("kind", [Auth, Accounts, Tokens, Server])
def test_every_signal_has_a_tested_method(kind: type[Source]) -> None:
    """The table above holds every method that has a signal, and each signal stands with the method of its type."""
    for method, signal in kind.signals.items():
        if kind is not Server:
            assert signal.name in {type_ for other, name, _, type_, _ in EVENTS if (other, name) == (kind, method)}
        assert callable(getattr(kind, method))


def test_what_is_not_given_comes_from_the_context(tape: Tape) -> None:
    """User, session and host that are not given are those of logger and context; those given win."""
    auth = Auth(bound_logger(tape).bind(user="bound"))
    with bound_contextvars(session=SESSION, request_id="r"):
        auth.failure(condition="c")
        auth.failure("alice", Session("own"), host="b.example")
    first, second = (record for record, _ in tape.written)
    assert (first.host, first.user, first.session) == ("example.com", "bound", SESSION)
    assert first.custom == {"reason": {"condition": "c"}, "context": {"request_id": "r"}}
    assert (second.host, second.user, second.session) == ("b.example", "alice", Session("own"))


def test_custom_fields_are_joined(tape: Tape) -> None:
    """Custom fields, bound or given, stay beside the source's own, and win where both name one field."""
    auth = Auth(bound_logger(tape).bind(custom={"app": {"v": 1}}))
    auth.failure("alice", condition="c", text="t")
    assert tape.record.custom == {"app": {"v": 1}, "reason": {"condition": "c", "text": "t"}}
    auth.failure("alice", condition="c", custom={"reason": {"text": "own", "code": 5}})
    assert tape.record.custom == {"reason": {"condition": "c", "text": "own", "code": 5}}
    auth.logout("alice")
    assert tape.record.custom == {"app": {"v": 1}}


def test_wrong_calls_raise(tape: Tape) -> None:
    """Arguments that no method takes, wrong types and naive times are programmers' errors and record nothing."""
    auth: Any = Auth(bound_logger(tape)).subscribe()
    accounts: Any = Accounts(bound_logger(tape))
    tokens: Any = Tokens(bound_logger(tape))
    try:
        with pytest.raises(TypeError, match="usr"):
            auth.signals["failure"].send(SENDER, usr="alice")
        with pytest.raises(TypeError, match="invite"):
            auth.failure("alice", invite="i")
    finally:
        auth.unsubscribe()
    wrong_calls: list[Callable[[], object]] = [
        lambda: auth.failure(5),
        lambda: auth.failure("alice", custom=5),
        lambda: auth.failure("alice", condition="c", custom={"reason": 5}),
        lambda: accounts.disabled("alice", when=datetime(2026, 1, 31)),  # noqa: DTZ001 - this is the error
        lambda: accounts.disabled("alice", when=5),
        lambda: accounts.updated("alice", fields=5),
        lambda: accounts.updated("alice", fields=b"email"),
        lambda: tokens.grant_created("alice", scopes={"read": 1}),
    ]
    for wrong in wrong_calls:
        with pytest.raises(InvalidRecord):
            wrong()
    with pytest.raises(ConfigError, match="no AuditLogger"):
        Auth("auth")  # type: ignore[arg-type]
    assert tape.written == []


@pytest.mark.parametrize("text", HOSTILE_TEXTS, ids=range(len(HOSTILE_TEXTS)))
def test_hostile_texts_are_recorded(tape: Tape, text: str) -> None:
    """Whatever a client sends as name, address, agent, condition, scope or token id gives a record."""
    session = Session(text, text, text, text)
    Auth(bound_logger(tape), repeat_failures=60).failure(text, session, condition=text, text=text)
    Accounts(bound_logger(tape)).registered(text, session, invite=text)
    Tokens(bound_logger(tape)).grant_created(text, session, grant=text, scopes=text, expires=text)
    assert len(tape.written) == 3


def test_names_come_in_any_form(tape: Tape) -> None:
    """Scopes and fields are one text, a list, a generator or a set, which is sorted."""
    tokens, accounts = Tokens(bound_logger(tape)), Accounts(bound_logger(tape))
    for scopes in ("b a", ["b", "a"], (name for name in "ba")):
        tokens.grant_created("alice", scopes=scopes)
        assert tape.record.custom == {"grant": {"scopes": ("b", "a")}}
    tokens.grant_created("alice", scopes={"b", "a"})
    assert tape.record.custom == {"grant": {"scopes": ("a", "b")}}
    accounts.updated("alice", fields="full name")
    assert tape.record.custom == {"change": {"fields": ("full name",)}}


def test_subscriptions(tape: Tape) -> None:
    """A subscription outlives its source's last name, records once however often it is made, also for one sender."""
    signal = Accounts.signals["deregistered"]
    one, two = object(), object()
    source = Accounts(bound_logger(tape)).subscribe(one).subscribe(one)
    signal.send(one, user="a")
    signal.send(two, user="b")
    source.subscribe()
    signal.send(one, user="c")
    assert [record.user for record, _ in tape.written] == ["a", "c"]
    source.unsubscribe()
    signal.send(one, user="d")
    assert len(tape.written) == 2
    Accounts(bound_logger(tape)).subscribe(one)
    gc.collect()
    ((receiver, _),) = signal.send(one, user="e")
    subscription: Any = receiver
    assert tape.record.user == "e"
    subscription._method.__self__.unsubscribe(one)
    assert signal.send(one, user="f") == []
