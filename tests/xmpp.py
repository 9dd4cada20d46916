"""A real XMPP client that registers, logs in, changes its password and deletes its account."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any

import slixmpp

__all__ = ["Visit", "visit"]

_SECONDS = 30


@dataclass
class Visit:
    """What the client saw.

    Args:
        registered: Whether the account was registered.
        logged_in: Whether it logged in.
        refusals: The SASL mechanisms that it was refused with, in turn.
    """

    registered: bool = False
    logged_in: bool = False
    refusals: list[str] = field(default_factory=list)


class _Client(slixmpp.ClientXMPP):
    def __init__(self, jid: str, password: str, seen: Visit, *, register: bool, delete: bool, mechanism: str) -> None:
        # A mechanism of its own choice is tried alone, else one after the other.
        super().__init__(jid, password, sasl_mech=mechanism or None)
        self.enable_starttls = self.enable_direct_tls = False
        self.enable_plaintext = True
        self._mechanisms: Any = self.plugin["feature_mechanisms"]
        self._mechanisms.unencrypted_plain = self._mechanisms.unencrypted_scram = True
        self._seen, self._delete = seen, delete
        self.register_plugin("xep_0077")
        self.plugin["xep_0077"].force_registration = register
        if register:
            self.add_event_handler("register", self._register)
        self.add_event_handler("session_start", self._started)
        self.add_event_handler("failed_auth", self._refused)
        self.add_event_handler("failed_all_auth", self._gave_up)
        self.add_event_handler("disconnected", self._ended)
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def _register(self, _form: Any) -> None:
        request = self.make_iq_set()
        request["register"]["username"] = self.boundjid.user
        request["register"]["password"] = self.password
        await request.send()  # type: ignore[no-untyped-call]
        self._seen.registered = True

    async def _started(self, _event: Any) -> None:
        self._seen.logged_in = True
        if self._delete:
            request = self.make_iq_set()
            request["register"]["remove"] = True
            request.send()  # type: ignore[no-untyped-call]
            await asyncio.sleep(0.2)
        _ = self.disconnect()

    def _refused(self, _failure: Any) -> None:
        self._seen.refusals.append(self._mechanisms.mech.name)

    def _gave_up(self, _event: Any) -> None:
        _ = self.disconnect()

    def _ended(self, _reason: Any) -> None:
        if not self.done.done():
            self.done.set_result(None)


def visit(
    port: int, jid: str, password: str, *, register: bool = False, delete: bool = False, mechanism: str = ""
) -> Visit:
    """Connect once, do what is asked for, and disconnect.

    Args:
        port: The server's on 127.0.0.1.
        jid: The account.
        password: Its password, or a wrong one.
        register: Register the account first, in band.
        delete: Delete the account at the end.
        mechanism: The one SASL mechanism to use; default: all that both sides know, until one succeeds.
    """

    async def run() -> Visit:
        seen = Visit()
        client = _Client(jid, password, seen, register=register, delete=delete, mechanism=mechanism)
        _ = client.connect("127.0.0.1", port)
        await asyncio.wait_for(client.done, _SECONDS)
        return seen

    return asyncio.run(run())
