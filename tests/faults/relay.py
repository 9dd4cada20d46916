"""A relay in front of a collector that does what bad networks do, by default on loopback."""

from __future__ import annotations

import contextlib
import ctypes
import os
import random
import socket
import struct
import threading
import time
from dataclasses import dataclass
from typing import Final, Self

__all__ = ["Harm", "Relay"]

_CLONE_NEWNET: Final = 0x40000000
_PIECE: Final = 4_096


@dataclass(frozen=True, kw_only=True)
class Harm:
    """What a relay does to connections.

    Args:
        swallow: Take everything, and pass nothing on.
        say: Answer with these bytes and close, whatever is asked.
        resets_after: Reset the connection after so many bytes of the client.
        answer_resets_after: Reset it after so many bytes of the collector.
        chance: Reset it with this probability at each piece, in both directions.
        delay: Seconds that each piece takes.
        rate: Bytes a second; 0: as fast as it goes.
    """

    swallow: bool = False
    say: bytes | None = None
    resets_after: int | None = None
    answer_resets_after: int | None = None
    chance: float = 0.0
    delay: float = 0.0
    rate: int = 0


class Relay:
    """Passes bytes on to a port on loopback.

    Args:
        target: The port.
        harm: What it does to connections; None: nothing. May be set at any time.
        host: Where it listens.
        namespace: Name of the network namespace in which it listens; None: this one.
    """

    def __init__(
        self, target: int, harm: Harm | None = None, *, host: str = "127.0.0.1", namespace: str | None = None
    ) -> None:
        self.harm = harm
        self._target = target
        self._chance = random.Random(1)
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._listener = _listen(host, namespace)
        self.port: int = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        """Return it."""
        return self

    def __exit__(self, *_: object) -> None:
        """Stop, and drop all connections."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()
        self.drop()

    def drop(self) -> None:
        """Drop all connections."""
        with self._lock:
            for end in self._open:
                _shut(end)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with contextlib.suppress(OSError), client, socket.create_connection(("127.0.0.1", self._target)) as server:
            with self._lock:
                self._open |= {client, server}
            try:
                if self.harm is not None and self.harm.say is not None:
                    client.recv(1 << 20)
                    client.sendall(self.harm.say)
                    client.shutdown(socket.SHUT_WR)
                    while client.recv(1 << 16):
                        pass
                    return
                back = threading.Thread(target=self._pump, args=(server, client, False), daemon=True)
                back.start()
                self._pump(client, server, True)
                back.join()
            finally:
                with self._lock:
                    self._open -= {client, server}

    def _pump(self, source: socket.socket, target: socket.socket, outwards: bool) -> None:
        passed = 0
        client = source if outwards else target
        with contextlib.suppress(OSError):
            while piece := source.recv(_PIECE):
                harm = self.harm or Harm()
                if harm.swallow:
                    continue
                limit = harm.resets_after if outwards else harm.answer_resets_after
                if limit is not None and passed + len(piece) > limit:
                    target.sendall(piece[: limit - passed])
                    _reset(client)
                    break
                if harm.chance and self._chance.random() < harm.chance:
                    _reset(client)
                    break
                time.sleep(harm.delay + (len(piece) / harm.rate if harm.rate else 0.0))
                target.sendall(piece)
                passed += len(piece)
        _shut(source)
        _shut(target)


def _reset(end: socket.socket) -> None:
    """Let the peer see a reset: what was sent to us and not read, and a close without lingering, make one."""
    with contextlib.suppress(OSError):
        end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        end.close()


def _shut(end: socket.socket) -> None:
    with contextlib.suppress(OSError):
        end.shutdown(socket.SHUT_RDWR)


def _listen(host: str, namespace: str | None) -> socket.socket:
    """Return a listener in a network namespace, to which a socket belongs for ever; a thread to it, not this one."""
    if namespace is None:
        return socket.create_server((host, 0), backlog=128)
    made: list[socket.socket | OSError] = []

    def make() -> None:
        try:
            descriptor = os.open(f"/run/netns/{namespace}", os.O_RDONLY)
            try:
                if ctypes.CDLL(None, use_errno=True).setns(descriptor, _CLONE_NEWNET):
                    raise OSError(ctypes.get_errno(), "setns")
            finally:
                os.close(descriptor)
            made.append(socket.create_server((host, 0), backlog=128))
        except OSError as error:
            made.append(error)

    thread = threading.Thread(target=make)
    thread.start()
    thread.join()
    (result,) = made
    if isinstance(result, OSError):
        raise result
    return result
