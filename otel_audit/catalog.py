"""What is known of each event type: action, outcome, actor, expected fields, OCSF class, default retention."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final, Literal, get_args

from otel_audit.errors import ConfigError

__all__ = [
    "BUILT_IN",
    "ActorType",
    "Catalog",
    "Durability",
    "EventType",
    "OnFailure",
    "Outcome",
]

ActorType = Literal["user", "service", "system"]
Outcome = Literal["success", "failure", "unknown"]
Durability = Literal["commit", "queued"]
OnFailure = Literal["raise", "log", "block"]

# OCSF 1.9 class ids.
ACCOUNT_CHANGE: Final = 3001
AUTHENTICATION: Final = 3002
ENTITY_MANAGEMENT: Final = 3004
USER_ACCESS: Final = 3005
API_ACTIVITY: Final = 6003
DATASTORE_ACTIVITY: Final = 6005
APPLICATION_LIFECYCLE: Final = 6002


@dataclass(frozen=True, slots=True)
class EventType:
    """Describes one event type; records of this type take from it what the call does not give.

    Args:
        name: The type, e.g. ``invoice.approved``.
        action: Upper-case verb of the draft, e.g. ``APPROVE``.
        outcome: ``success``, ``failure`` or ``unknown``.
        actor_type: Who acts where the call names no actor; None: ``user`` with a user, ``system`` without.
        description: One sentence for the reader of a report.
        custom: Expected custom fields as ``group.field``; a statement, not a check.
        ocsf_class: OCSF class id for exports, None where none fits.
        retention: Default retention such as ``90d``; None: no opinion.
        durability: Overrides the provider's ``durability`` for this type.
        on_failure: Overrides the provider's ``on_failure`` for this type.
    """

    name: str
    action: str
    outcome: Outcome = "success"
    actor_type: ActorType | None = None
    description: str = ""
    custom: tuple[str, ...] = ()
    ocsf_class: int | None = None
    retention: str | None = None
    durability: Durability | None = None
    on_failure: OnFailure | None = None


def _table() -> tuple[EventType, ...]:
    reason = ("reason.condition", "reason.text")
    change = ("reason.condition", "reason.comment", "reason.when")
    repeat = ("authentication.method", "repeat.count", "repeat.since", "repeat.until", "repeat.of")
    server = ("server.instance", "server.pid", "server.version", "server.note")
    grant = ("grant.id", "grant.scopes", "grant.expires")

    def event(
        name: str, action: str, description: str, ocsf: int, *custom: str, outcome: Outcome = "success"
    ) -> EventType:
        return EventType(name, action, outcome, None, description, custom, ocsf)

    return (
        # Prosody's mod_audit family.
        event("authentication-success", "LOGIN", "A user authenticated.", AUTHENTICATION, *repeat),
        event(
            "authentication-failure", "LOGIN", "A login failed.", AUTHENTICATION, *reason, *repeat, outcome="failure"
        ),
        event("new-client", "CREATE", "A client was new.", AUTHENTICATION, "client.id", "client.agent"),
        event("user-registered", "CREATE", "An account was registered.", ACCOUNT_CHANGE, "invite-used.token"),
        event("user-deregistered", "DELETE", "An account was deleted.", ACCOUNT_CHANGE),
        event("user-deregistered-pending", "DELETE", "An account was marked for deletion.", ACCOUNT_CHANGE),
        event("user-enabled", "UPDATE", "An account was enabled.", ACCOUNT_CHANGE, *change),
        event("user-disabled", "UPDATE", "An account was disabled.", ACCOUNT_CHANGE, *change),
        event("token-grant-created", "CREATE", "A grant was created.", USER_ACCESS, *grant),
        event("token-grant-revoked", "DELETE", "A grant was revoked.", USER_ACCESS, *grant),
        event("token-revoked", "DELETE", "A token was revoked.", USER_ACCESS, "token.id", *grant),
        event("server-started", "EXECUTE", "The server started.", APPLICATION_LIFECYCLE, *server),
        event("server-stopped", "EXECUTE", "The server stopped.", APPLICATION_LIFECYCLE, *server, "server.signal"),
        event(
            "server-crashed", "EXECUTE", "The server had crashed.", APPLICATION_LIFECYCLE, *server, outcome="failure"
        ),
        # Web applications.
        event("user.login.success", "LOGIN", "A user logged in.", AUTHENTICATION),
        event("user.login.failure", "LOGIN", "A login failed.", AUTHENTICATION, *reason, outcome="failure"),
        event("user.logout", "LOGOUT", "A user logged out.", AUTHENTICATION),
        event("user.password.changed", "UPDATE", "A password was changed.", ACCOUNT_CHANGE),
        event("user.password.reset.requested", "CREATE", "A password reset was requested.", ACCOUNT_CHANGE),
        event("user.mfa.enabled", "UPDATE", "A second factor was enabled.", ACCOUNT_CHANGE, "mfa.method"),
        event("user.mfa.disabled", "UPDATE", "A second factor was disabled.", ACCOUNT_CHANGE, "mfa.method"),
        event("user.mfa.success", "LOGIN", "A second factor was accepted.", AUTHENTICATION, "mfa.method"),
        event("user.mfa.failure", "LOGIN", "A second factor failed.", AUTHENTICATION, "mfa.method", outcome="failure"),
        event("user.created", "CREATE", "An account was created.", ACCOUNT_CHANGE),
        event("user.updated", "UPDATE", "An account was changed.", ACCOUNT_CHANGE, "change.fields"),
        event("user.deleted", "DELETE", "An account was deleted.", ACCOUNT_CHANGE),
        event("user.locked", "UPDATE", "An account was locked.", ACCOUNT_CHANGE, *reason),
        event("user.unlocked", "UPDATE", "An account was unlocked.", ACCOUNT_CHANGE),
        event("role.assigned", "UPDATE", "A role was assigned.", USER_ACCESS, "role.name"),
        event("role.removed", "UPDATE", "A role was taken away.", USER_ACCESS, "role.name"),
        event("permission.granted", "UPDATE", "A permission was granted.", USER_ACCESS, "permission.name"),
        event("permission.revoked", "UPDATE", "A permission was revoked.", USER_ACCESS, "permission.name"),
        event("permission.denied", "READ", "An access was denied.", API_ACTIVITY, "permission.name", outcome="failure"),
        event("token.created", "CREATE", "A token was created.", USER_ACCESS, "token.id", "token.scopes"),
        event("token.refreshed", "UPDATE", "A token was refreshed.", USER_ACCESS, "token.id"),
        event("token.revoked", "DELETE", "A token was revoked.", USER_ACCESS, "token.id"),
        event("data.exported", "EXPORT", "Data was exported.", DATASTORE_ACTIVITY, "export.rows"),
        event("data.imported", "IMPORT", "Data was imported.", DATASTORE_ACTIVITY, "import.rows"),
        event("object.created", "CREATE", "An object was created.", ENTITY_MANAGEMENT, "object.name"),
        event("object.updated", "UPDATE", "An object was changed.", ENTITY_MANAGEMENT, "object.name", "change.fields"),
        event("object.deleted", "DELETE", "An object was deleted.", ENTITY_MANAGEMENT, "object.name"),
        event("config.changed", "UPDATE", "A setting was changed.", ENTITY_MANAGEMENT, "setting.name"),
    )


BUILT_IN: Final[tuple[EventType, ...]] = _table()


class Catalog:
    """The event types that a provider knows: the built-in ones and the application's own, which win.

    Args:
        types: The application's event types.

    Raises:
        ConfigError: One of them is not an `EventType`, or has a field of a wrong value.
    """

    def __init__(self, types: Iterable[EventType] = ()) -> None:
        self._types = {known.name: known for known in BUILT_IN}
        for known in types:
            if not isinstance(known, EventType):
                raise ConfigError(f"event_types holds {known!r}", "give otel_audit.EventType objects")
            _check(known)
            self._types[known.name] = known

    def __getitem__(self, name: str) -> EventType:
        """Return what is known of `name`; an unknown type's outcome comes from its suffix."""
        return self._types.get(name) or _unknown(name)

    def __contains__(self, name: object) -> bool:
        """Tell whether `name` is a known type."""
        return name in self._types

    def __iter__(self) -> Iterator[EventType]:
        """Iterate over the known types."""
        return iter(self._types.values())


def _check(known: EventType) -> None:
    """Refuse an event type whose records could not be recorded, or not as it says."""
    texts: tuple[tuple[str, Any], ...] = (("name", known.name), ("action", known.action))
    for name, value in texts:
        if not isinstance(value, str) or not value:
            raise ConfigError(f"event_types: the {name} of {known!r} is {value!r}", "give a str that is not empty")
    words: tuple[tuple[str, object, Any], ...] = (
        ("outcome", known.outcome, get_args(Outcome)),
        ("actor_type", known.actor_type, (None, *get_args(ActorType))),
        ("durability", known.durability, (None, *get_args(Durability))),
        ("on_failure", known.on_failure, (None, *get_args(OnFailure))),
    )
    for field, word, allowed in words:
        if word not in allowed:
            raise ConfigError(
                f"event_types: {known.name!r} has {field}={word!r}", f"use {' or '.join(map(repr, allowed))}"
            )


@lru_cache(1024)
def _unknown(name: str) -> EventType:
    outcome: Outcome = "unknown"
    if name.endswith(("-success", ".success")):
        outcome = "success"
    elif name.endswith(("-failure", ".failure")):
        outcome = "failure"
    return EventType(name, "EXECUTE", outcome)
