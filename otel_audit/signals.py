"""Signals by which any code has events recorded without holding a logger.

`audit` is the event bus: what is sent there is recorded. The others are each named after an event type; those that
subscribe to them, the classes of `otel_audit.sources` above all, decide what becomes of an event.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Generator
from functools import partial
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final

from blinker import ANY, NamedSignal

if TYPE_CHECKING:
    from otel_audit.provider import AuditProvider
    from otel_audit.record import Receipt

__all__ = [
    "ANY",
    "AuditSignal",
    "RecordingReceiver",
    "audit",
    "authentication_failure",
    "authentication_success",
    "new_client",
    "record_through",
    "role_assigned",
    "role_removed",
    "server_crashed",
    "server_started",
    "server_stopped",
    "token_grant_created",
    "token_grant_revoked",
    "token_revoked",
    "user_deregistered",
    "user_deregistered_pending",
    "user_disabled",
    "user_enabled",
    "user_logout",
    "user_password_changed",
    "user_registered",
    "user_updated",
]

_Wrapper = Callable[[Callable[..., Any]], Callable[..., Coroutine[Any, Any, Any]]]


class RecordingReceiver:
    """A receiver that records: it is called before all others, so that none of them can keep an event from it."""

    def __call__(self, _sender: Any, **given: Any) -> Receipt | None:
        """Record the event."""
        raise NotImplementedError


class AuditSignal(NamedSignal):
    """A blinker signal whose recording receivers come first; what they raise reaches the sender."""

    def receivers_for(self, sender: Any) -> Generator[Callable[..., Any], None, None]:
        """Yield the receivers, those that record before all others."""
        receivers = list(super().receivers_for(sender))
        yield from sorted(receivers, key=lambda receiver: not isinstance(receiver, RecordingReceiver))

    async def send_async(
        self, sender: Any = None, /, *, _sync_wrapper: _Wrapper | None = None, **given: Any
    ) -> list[tuple[Callable[..., Any], Any]]:
        """Send without blocking the event loop: receivers that are no coroutine functions run in a thread.

        Args:
            sender: Who sends.
            **given: What the signal tells, as with `send`.

        Returns:
            Each receiver with what it returned.
        """
        return await super().send_async(sender, _sync_wrapper=_sync_wrapper or _in_thread, **given)


def _in_thread(receiver: Callable[..., Any]) -> Callable[..., Coroutine[Any, Any, Any]]:
    # `to_thread` takes the context along: the current span, and values bound to the task.
    return partial(asyncio.to_thread, receiver)


class _Bus(RecordingReceiver):
    """Records what is sent to `audit`."""

    def __init__(self) -> None:
        self.provider: AuditProvider | None = None

    def __call__(
        self, _sender: Any, *, type: Any = None, source: Any = None, host: Any = None, **given: Any
    ) -> Receipt | None:
        # Late, so that whoever only sends loads neither archive nor provider before the first event.
        from otel_audit import provider
        from otel_audit.logger import Arguments

        get_logger = provider.get_logger if self.provider is None else self.provider.get_logger
        logger = get_logger(_name(_sender) if source is None else source, host)
        arguments: Arguments = {}
        bound = {}
        for key, value in given.items():
            if key in Arguments.__annotations__:
                arguments[key] = value  # type: ignore[literal-required]
            else:
                bound[key] = value
        return logger.bind(**bound).audit(type, **arguments)


def _name(sender: Any) -> str:
    """Return the source of events whose sender names none."""
    if isinstance(sender, str) and sender:
        return sender
    if sender is None:
        return "signal"
    if isinstance(sender, ModuleType):
        return sender.__name__
    named = sender if hasattr(sender, "__qualname__") else type(sender)
    return f"{named.__module__}.{named.__qualname__}"


_bus: Final = _Bus()

audit: Final = AuditSignal(
    "audit",
    """Event bus: what is sent is recorded, like ``audit.send("billing", type="invoice.approved", user="alice")``.

    It takes ``type``, ``source`` (default: the sender, where it is a str, else its name), ``host``, and what
    `AuditLogger.audit` takes; further values join the custom group ``context``.
    """,
)
audit.connect(_bus, weak=False)


def record_through(provider: AuditProvider | None) -> None:
    """Record what is sent to `audit` through a provider.

    Args:
        provider: None: the global provider, as before the first call.
    """
    _bus.provider = provider


# `otel_audit.sources.auth`
authentication_success: Final = AuditSignal("authentication-success")
authentication_failure: Final = AuditSignal("authentication-failure")
new_client: Final = AuditSignal("new-client")
user_logout: Final = AuditSignal("user.logout")

# `otel_audit.sources.accounts`
user_registered: Final = AuditSignal("user-registered")
user_deregistered: Final = AuditSignal("user-deregistered")
user_deregistered_pending: Final = AuditSignal("user-deregistered-pending")
user_enabled: Final = AuditSignal("user-enabled")
user_disabled: Final = AuditSignal("user-disabled")
user_password_changed: Final = AuditSignal("user.password.changed")
user_updated: Final = AuditSignal("user.updated")
role_assigned: Final = AuditSignal("role.assigned")
role_removed: Final = AuditSignal("role.removed")

# `otel_audit.sources.tokens`
token_grant_created: Final = AuditSignal("token-grant-created")
token_grant_revoked: Final = AuditSignal("token-grant-revoked")
token_revoked: Final = AuditSignal("token-revoked")

# `otel_audit.sources.server`
server_started: Final = AuditSignal("server-started")
server_stopped: Final = AuditSignal("server-stopped")
server_crashed: Final = AuditSignal("server-crashed")
