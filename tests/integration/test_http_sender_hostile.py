"""The OTLP/HTTP sender against peers that no HTTP library would be: raw sockets that drip, flood, stall and lie."""

from __future__ import annotations

import gzip
import socket
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import pytest

from otel_audit.delivery.http import HttpSender
from otel_audit.delivery.sender import Answer, Verdict
from otel_audit.otlp_settings import OtlpSettings
from tests.otlp_material import request_of

# What Go's server says, with the status of a malformed request.
HTTPS_WANTED = (
    b"HTTP/1.0 400 Bad Request\r\nContent-Type: text/plain\r\n\r\nClient sent an HTTP request to an HTTPS server.\n"
)


@contextmanager
def peer(behave: Callable[[socket.socket], None], *, reads: bool = True) -> Iterator[HttpSender]:
    """Yield a sender to a peer that behaves so on each connection, after reading the request if `reads`."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve(connection: socket.socket) -> None:
        with connection, suppress(OSError):
            if reads:
                connection.recv(1 << 20)
            behave(connection)
            # Closed with bytes unread, the connection would be reset, and the answer lost on its way.
            connection.shutdown(socket.SHUT_WR)
            while connection.recv(1 << 16):
                pass

    def accept() -> None:
        with suppress(OSError):
            while True:
                threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()

    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    sender = HttpSender(
        OtlpSettings("http/protobuf", f"http://127.0.0.1:{listener.getsockname()[1]}/v1/logs", insecure=True)
    )
    try:
        yield sender
    finally:
        sender.close()
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join()


def says(text: bytes) -> Callable[[socket.socket], None]:
    return lambda connection: connection.sendall(text)


def answer_of(behave: Callable[[socket.socket], None], timeout: float = 5.0) -> Answer:
    with peer(behave) as sender:
        return sender.send(request_of(1), timeout)


def drip(text: bytes, *, after: bytes = b"") -> Callable[[socket.socket], None]:
    def behave(connection: socket.socket) -> None:
        connection.sendall(after)
        for byte in text:
            connection.sendall(bytes((byte,)))
            time.sleep(0.1)

    return behave


def stall(connection: socket.socket) -> None:
    time.sleep(5)


@pytest.mark.parametrize(
    "behave",
    [
        drip(b"HTTP/1.1 200 OK\r\n" + b"X-Long: yes\r\n" * 100),
        drip(b"\0" * 500, after=b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n"),
        drip(b"\0" * 500, after=b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n"),
        drip(b"0" * 500, after=b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"),
        stall,
    ],
    ids=["head", "body", "body-without-length", "chunk", "silent"],
)
def test_the_deadline_holds_against_drips(behave: Callable[[socket.socket], None]) -> None:
    """However slowly a peer answers, with every single byte within the socket's time-out, the attempt ends in time."""
    with peer(behave) as sender:
        started = time.monotonic()
        answer = sender.send(request_of(1), 0.6)
        assert time.monotonic() - started < 1.5
    assert answer == Answer(Verdict.RETRY, "no complete answer within 0.6 s")


def test_the_deadline_holds_against_a_peer_that_does_not_read() -> None:
    """A request that the peer never takes ends in time as well."""
    with peer(stall, reads=False) as sender:
        started = time.monotonic()
        answer = sender.send(request_of(1, size=30_000_000), 0.6)
        assert time.monotonic() - started < 2
    assert answer.verdict is Verdict.RETRY


def test_the_deadline_holds_against_a_resolver(monkeypatch: pytest.MonkeyPatch) -> None:
    """A resolver that does not answer takes no longer than the attempt may."""
    released = threading.Event()

    def look_up(*_: object, **__: object) -> list[object]:
        released.wait(10)
        raise socket.gaierror("no answer")

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    sender = HttpSender(OtlpSettings("http/protobuf", "http://collector.invalid/v1/logs", insecure=True))
    started = time.monotonic()
    answer = sender.send(request_of(1), 0.5)
    assert time.monotonic() - started < 1.5
    assert answer.verdict is Verdict.RETRY
    released.set()
    sender.close()


def test_a_dead_address_leaves_time_for_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two addresses the first of which swallows everything, the second is reached within one attempt."""
    with peer(says(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")) as sender, socket.socket() as dead:
        # A full backlog: connecting to it hangs.
        dead.bind(("127.0.0.1", 0))
        dead.listen(0)
        fillers = [socket.socket() for _ in range(2)]
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(dead.getsockname())
        alive = int(sender.endpoint.rpartition(":")[2].partition("/")[0])
        stream = (socket.AF_INET, socket.SOCK_STREAM, 6, "")
        addresses = [(*stream, dead.getsockname()), (*stream, ("127.0.0.1", alive))]
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: addresses)
        assert sender.send(request_of(1), 2).verdict is Verdict.ACCEPTED
        for filler in fillers:
            filler.close()


def test_a_gzip_bomb_is_not_unpacked() -> None:
    """A small body that unpacks to half a gigabyte is an unreadable answer, at no cost of memory."""
    bomb = gzip.compress(gzip.compress(bytes(512 << 20), 9), 9)
    inner = gzip.decompress(bomb)
    head = f"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: {len(inner)}\r\n\r\n".encode()
    with peer(says(head + inner)) as sender:
        tracemalloc.start()
        answer = sender.send(request_of(1), 10)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert answer.verdict is Verdict.RETRY
    assert "above 4 MiB" in answer.reason
    assert peak < 30 << 20


@pytest.mark.parametrize("status", ["200 OK", "302 Found", "503 Busy"])
def test_a_flood_is_not_drunk(status: str) -> None:
    """A body without end is left after 4 MiB, also behind a redirect that nobody follows."""
    sent = 0

    def flood(connection: socket.socket) -> None:
        nonlocal sent
        connection.sendall(f"HTTP/1.1 {status}\r\nLocation: /elsewhere\r\n\r\n".encode())
        while sent < 200 << 20:
            connection.sendall(bytes(1 << 16))
            sent += 1 << 16

    with peer(flood) as sender:
        answer = sender.send(request_of(1), 10)
    assert answer.verdict is (Verdict.BLOCKED if status.startswith("302") else Verdict.RETRY)
    assert sent < 60 << 20


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"", "Remote end closed connection"),
        (b"220 mail.example.com ESMTP\r\n", "not HTTP"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\nshort", "lost"),
        (b"HTTP/1.1 200 OK\r\nContent-Le", "cut short"),
        (b"HTTP/1.1 200 OK\r\nServer: x\r\n", "cut short"),
        (b"HTTP/1.1 200 OK\r\n", "cut short"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n", "cut short"),
        (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n", "cut short"),
        (b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/pl", "cut short"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", "lost"),
        (b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 5\r\n\r\nplain", "compressed"),
        (b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\n" + gzip.compress(b"")[:-4], "compressed"),
        (b"HTTP/1.1 200 OK\r\nContent-Encoding: br\r\nContent-Length: 1\r\n\r\n\x06", "compressed"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nOK", "no answer of an OTLP collector"),
        # http.client takes 100; some libraries raise that for the whole process, to 10,000.
        (b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 20_000 + b"\r\n", "headers"),
        (b"HTTP/1.1 200 OK\r\nX: " + b"y" * 100_000 + b"\r\n\r\n", ""),
        (b"\x00\x00\x12\x04\x00\x00\x00\x00\x00", "not HTTP"),  # HTTP/2
    ],
)
def test_an_answer_that_is_none_is_retried(text: bytes, words: str) -> None:
    """What is broken, cut short or another protocol says nothing about the records: they are sent again."""
    answer = answer_of(says(text))
    assert answer.verdict is Verdict.RETRY
    assert words in answer.reason
    assert answer.reason.isprintable()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"\x15\x03\x01\x00\x02\x02\x46", "https://"),
        (HTTPS_WANTED, "https://"),
        (b"HTTP/1.1 101 Switching Protocols\r\n\r\n", "101"),
        (b"HTTP/1.1 599 Odd\r\nContent-Length: 0\r\n\r\n", "599 Odd"),
    ],
)  # fmt: skip
def test_what_an_operator_has_to_mend_is_blocked(text: bytes, words: str) -> None:
    """A TLS port that is spoken to in plain HTTP does not condemn records, whatever status it gives."""
    answer = answer_of(says(text))
    assert answer.verdict is Verdict.BLOCKED
    assert words in answer.reason


def test_a_gzipped_answer_is_read() -> None:
    """A response that comes compressed unasked is understood."""
    body = gzip.compress(b"\x0a\x02\x08\x03")
    head = "HTTP/1.1 200 OK\r\nContent-Type: application/x-protobuf\r\nContent-Encoding: gzip\r\n"
    answer = answer_of(says(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body))
    assert (answer.verdict, answer.rejected) == (Verdict.PARTIAL, 3)


def test_a_proxy_that_refuses_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy that wants a password is an operator's work, as a 407 of the destination would be."""
    with peer(says(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", proxy.endpoint.removesuffix("/v1/logs"))
        sender = HttpSender(OtlpSettings("http/protobuf", "https://collector.invalid/v1/logs"))
        answer = sender.send(request_of(1), 5)
        sender.close()
    assert answer.verdict is Verdict.BLOCKED
    assert "407" in answer.reason


def test_a_plain_proxy_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """HTTP_PROXY of the environment is honoured, so a name that only the proxy knows is reached."""
    with peer(says(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")) as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy.endpoint.removesuffix("/v1/logs"))
        sender = HttpSender(OtlpSettings("http/protobuf", "http://collector.invalid/v1/logs", insecure=True))
        assert sender.send(request_of(1), 5).verdict is Verdict.ACCEPTED
        sender.close()


@pytest.mark.parametrize("timeout", [0.0, -1.0])
def test_no_time_is_an_answer(timeout: float) -> None:
    """Without time for an attempt nothing is sent, and nothing raised."""
    sender = HttpSender(OtlpSettings("http/protobuf", "http://127.0.0.1:1/v1/logs"))
    assert sender.send(b"", timeout) == Answer(Verdict.RETRY, "no time left for an attempt")
