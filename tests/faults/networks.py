"""What is between application and collector: TLS that cannot be trusted, networks that lose, cut, delay, trickle."""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from ipaddress import IPv4Address
from itertools import count
from pathlib import Path
from typing import Any, Final

from otel_audit.otlp_settings import Protocol
from otel_audit.testing import Collector
from tests.faults.delivering import Fault, World
from tests.faults.relay import Harm, Relay
from tests.otlp_material import Authority

__all__ = ["NAMESPACES", "NETWORK", "TLS", "no_namespaces"]

PROTOCOLS: Final[tuple[Protocol, ...]] = ("http/protobuf", "grpc")
_numbers = count(1)


def _port(collector: Collector, protocol: Protocol) -> int:
    endpoint = collector.grpc_endpoint if protocol == "grpc" else collector.endpoint
    return int(endpoint.rpartition(":")[2])


@contextmanager
def untrusted(protocol: Protocol, how: str, folder: Path) -> Iterator[World]:
    """Make a collector whose TLS is not what it should be, until it gets another certificate, or the application."""
    authority = Authority(folder)
    good, demanding = authority.issue("server"), how == "no client certificate"
    client = authority.issue("client")
    bad = {
        "expired": lambda: authority.issue("bad", expired=True),
        "another host": lambda: authority.issue("bad", host="other.example.com"),
        "an unknown authority": lambda: Authority(folder, "other").issue("bad"),
    }.get(how, lambda: good)()
    names = {"CERTIFICATE": authority.certificate, "CLIENT_CERTIFICATE": client.certificate, "CLIENT_KEY": client.key}
    collector = Collector(certificate=bad.certificate, key=bad.key, client_ca=authority.certificate)
    if how == "a plaintext port":
        collector = Collector()
    if not demanding and how != "a plaintext port":
        collector = Collector(certificate=bad.certificate, key=bad.key)
    with collector, _environ({f"OTEL_EXPORTER_OTLP_{name}": path for name, path in names.items()}) as environ:
        port = _port(collector, protocol)
        if demanding:
            del os.environ["OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE"], os.environ["OTEL_EXPORTER_OTLP_CLIENT_KEY"]
        scheme = "http" if how == "plaintext to a TLS port" else "https"

        def mend() -> None:
            os.environ.update(environ)
            world.endpoint = f"https://127.0.0.1:{port}"
            if good is not bad or how == "a plaintext port":
                # As its operator would: with a good certificate, on the same port; what it has stays.
                collector.stop()
                collector._certificate, collector._key = good.certificate, good.key
                collector.start()

        world = World(collector, f"{scheme}://127.0.0.1:{port}", protocol, mend)
        yield world


@contextmanager
def _environ(values: dict[str, str]) -> Iterator[dict[str, str]]:
    os.environ.update(values)
    try:
        yield values
    finally:
        for name in values:
            os.environ.pop(name, None)


@contextmanager
def relayed(protocol: Protocol, harm: Harm, _folder: Path) -> Iterator[World]:
    """Put a relay that does harm in front of a collector."""
    with Collector() as collector, Relay(_port(collector, protocol), harm) as relay:

        def mend() -> None:
            relay.harm = None
            relay.drop()

        yield World(collector, f"http://127.0.0.1:{relay.port}", protocol, mend)


@contextmanager
def away(protocol: Protocol, _folder: Path) -> Iterator[World]:
    """Make a collector that is stopped, so that its port refuses, until it is started again."""
    with Collector() as collector:
        port = _port(collector, protocol)
        collector.stop()
        yield World(collector, f"http://127.0.0.1:{port}", protocol, collector.start)


@contextmanager
def restarting(protocol: Protocol, _folder: Path) -> Iterator[World]:
    """Make a collector that stops and starts all the time."""
    mended = threading.Event()
    with Collector() as collector:
        port = _port(collector, protocol)

        def work() -> None:
            while not mended.wait(0.05):
                collector.stop()
                collector.start()

        thread = threading.Thread(target=work)
        thread.start()

        def mend() -> None:
            mended.set()
            thread.join()

        try:
            yield World(collector, f"http://127.0.0.1:{port}", protocol, mend)
        finally:
            mend()


Touch = Callable[[str, str], None]
"""Does something to a link: given the namespace's name, which its interface has too, and the near end's address."""


@contextmanager
def namespaced(protocol: Protocol, cut: Touch, restore: Touch, _folder: Path) -> Iterator[World]:
    """Put the way to a collector through a pair of interfaces, the far one in a network namespace of its own."""
    serial = next(_numbers)
    name = f"oaf{os.getpid() % 100_000}x{serial}"
    # 198.18.0.0/15 is kept for tests of networks: no real one is hidden by it.
    base = 0xC6120000 + (os.getpid() * 16 + serial) % 16_384 * 4
    near, far = (str(IPv4Address(base + number)) for number in (1, 2))
    _run("ip", "netns", "add", name)
    try:
        _run("ip", "link", "add", f"{name}h", "type", "veth", "peer", "name", name, "netns", name)
        _run("ip", "addr", "add", f"{near}/30", "dev", f"{name}h")
        _run("ip", "link", "set", f"{name}h", "up")
        _run("ip", "-n", name, "addr", "add", f"{far}/30", "dev", name)
        _run("ip", "-n", name, "link", "set", name, "up")
        with Collector() as collector, Relay(_port(collector, protocol), host=far, namespace=name) as relay:
            cut(name, near)

            def mend() -> None:
                restore(name, near)
                relay.drop()

            yield World(collector, f"http://{far}:{relay.port}", protocol, mend)
    finally:
        _run("ip", "netns", "del", name)


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)


def _down(name: str, _near: str) -> None:
    _run("ip", "-n", name, "link", "set", name, "down")


def _up(name: str, _near: str) -> None:
    _run("ip", "-n", name, "link", "set", name, "up")


def _lose_answers(name: str, near: str) -> None:
    _run("ip", "-n", name, "route", "add", "blackhole", near)


def _find_answers(name: str, near: str) -> None:
    _run("ip", "-n", name, "route", "del", "blackhole", near)


def _trickle(name: str, _near: str) -> None:
    # Away from the collector and towards it: each end limits what it sends.
    for place, device in ((("-n", name), name), ((), f"{name}h")):
        limit = ("rate", "64kbit", "burst", "2kb", "latency", "200ms")
        _run("tc", *place, "qdisc", "add", "dev", device, "root", "tbf", *limit)


def _flow(name: str, _near: str) -> None:
    for place, device in ((("-n", name), name), ((), f"{name}h")):
        _run("tc", *place, "qdisc", "del", "dev", device, "root")


class _Flapping:
    """Takes a link down and up, ten times a second."""

    def __init__(self) -> None:
        self._mended = threading.Event()
        self._thread: threading.Thread | None = None

    def cut(self, name: str, near: str) -> None:
        """Begin."""

        def work() -> None:
            while not self._mended.is_set():
                _down(name, near)
                self._mended.wait(0.05)
                _up(name, near)
                self._mended.wait(0.05)

        self._thread = threading.Thread(target=work)
        self._thread.start()

    def restore(self, _name: str, _near: str) -> None:
        """End, with the link up."""
        self._mended.set()
        if self._thread is not None:
            self._thread.join()


@contextmanager
def flapping(protocol: Protocol, folder: Path) -> Iterator[World]:
    """Put a link that comes and goes before a collector."""
    link = _Flapping()
    try:
        with namespaced(protocol, link.cut, link.restore, folder) as world:
            yield world
            link.restore("", "")
    finally:
        link.restore("", "")


def no_namespaces() -> str:
    """Return why there can be no network namespaces here; empty where there can."""
    if os.geteuid() != 0:
        return "needs root"
    if shutil.which("ip") is None or shutil.which("tc") is None:
        return "there is no ip or tc (iproute2)"
    name = f"oaf{os.getpid() % 100_000}probe"
    if subprocess.run(["ip", "netns", "add", name], check=False, capture_output=True).returncode:
        return "network namespaces cannot be made here"
    subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)
    return ""


def _both(name: str, world: Callable[..., Any], *arguments: Any) -> tuple[Fault, ...]:
    return tuple(Fault(name, partial(world, protocol, *arguments)) for protocol in PROTOCOLS)


TLS: Final[dict[str, tuple[Fault, ...]]] = {
    how: _both(how, untrusted, how)
    for how in (
        "expired",
        "another host",
        "an unknown authority",
        "a plaintext port",
        "plaintext to a TLS port",
        "no client certificate",
    )
}
"""By what is wrong."""
_RAW: Final = {
    "another protocol": b"220 mail.example.com ESMTP\r\n",
    "a TLS alert": b"\x15\x03\x01\x00\x02\x02\x46",
    "an old HTTP error": b"HTTP/1.0 400 Bad Request\r\n\r\n",
    "an interim answer": b"HTTP/1.1 100 Continue\r\n\r\n",
    "another protocol is offered": b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
    "half a head": b"HTTP/1.1 200 OK\r\nContent-Le",
    "half a body": b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\nshort",
    "broken chunks": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    "thousands of headers": b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 5_000 + b"\r\n",
    "two lengths": b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nContent-Length: 9\r\n\r\n",
    "HTTP/2 settings, then nothing": bytes.fromhex("000000040000000000"),
    "HTTP/2, going away": bytes.fromhex("0000000400000000000000080700000000000000000000000002"),
    "nothing": b"",
    "noise": bytes(range(256)) * 64,
}
NETWORK: Final[dict[str, tuple[Fault, ...]]] = {
    "a port that refuses": _both("refused", away),
    "a collector that restarts all the time": _both("restarting", restarting),
    "everything swallowed": _both("swallowed", relayed, Harm(swallow=True)),
    "reset amid the request": tuple(
        fault for size in (0, 1, 100, 2_000) for fault in _both(f"at {size}", relayed, Harm(resets_after=size))
    ),
    "reset amid the answer": tuple(
        fault for size in (0, 1, 20, 100) for fault in _both(f"at {size}", relayed, Harm(answer_resets_after=size))
    ),
    "reset at random": tuple(
        fault for chance in (0.1, 0.3, 0.6) for fault in _both(f"{chance:.0%}", relayed, Harm(chance=chance))
    ),
    "delays, also above the time-out": tuple(
        fault for delay in (0.05, 0.2, 1.0) for fault in _both(f"{delay} s", relayed, Harm(delay=delay))
    ),
    "a trickle": _both("2 KB/s", relayed, Harm(rate=2_000)),
    "answers of other protocols, half answers, noise": tuple(
        fault for name, text in _RAW.items() for fault in _both(name, relayed, Harm(say=text))
    ),
}
"""By what is wrong; without root."""
NAMESPACES: Final[dict[str, tuple[Fault, ...]]] = {
    "partition": _both("partition", namespaced, _down, _up),
    "all answers lost": _both("answers lost", namespaced, _lose_answers, _find_answers),
    "a link that comes and goes": _both("flapping", flapping),
    "64 kbit/s": _both("64 kbit/s", namespaced, _trickle, _flow),
}
"""By what is wrong; with interfaces of their own."""
