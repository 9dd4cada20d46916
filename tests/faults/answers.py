"""Every answer that a bad collector may give, over HTTP and gRPC, until it is mended."""

from __future__ import annotations

import email.utils
import gzip
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Final

from google.rpc.code_pb2 import Code

from otel_audit.otlp_settings import Protocol
from otel_audit.testing import Collector, Reply
from tests.faults.delivering import Fault, World

__all__ = ["GRPC", "HTTP"]

HOSTILE: Final = "\x1b]0;pwned\x07\r\n\u202e'; DROP TABLE record; -- =cmd|' /C calc'!A0"
TRUNCATED: Final = b"\x0a\x20\x08\x03\x12"
TOO_MUCH: Final = b"\x0a" + b"\xff" * (5 << 20)


@contextmanager
def answering(protocol: Protocol, replies: tuple[Reply, ...], _folder: Path) -> Iterator[World]:
    """Make a collector that gives some answers in turn, over and over."""
    mended = False
    given = 0

    def script() -> Reply | None:
        nonlocal given
        given += 1
        return None if mended else replies[given % len(replies)]

    def mend() -> None:
        nonlocal mended
        mended = True

    with Collector(script) as collector:
        endpoint = collector.grpc_endpoint if protocol == "grpc" else collector.endpoint
        yield World(collector, endpoint, protocol, mend)


def _faults(protocol: Protocol, replies: dict[str, Reply]) -> tuple[Fault, ...]:
    return tuple(Fault(name, partial(answering, protocol, (reply,))) for name, reply in replies.items())


def _statuses(first: int, last: int) -> tuple[Fault, ...]:
    return _faults("http/protobuf", {str(n): Reply(status=n, message=HOSTILE) for n in range(first, last + 1)})


def _date(seconds: float) -> str:
    return email.utils.formatdate(time.time() + seconds, usegmt=True)


_DELAYS = {
    "seconds": "0", "a date": _date(1), "a date of the past": _date(-10**9), "a date far ahead": _date(10**9),
    "huge": "9" * 400, "negative": "-1", "a fraction": "0.5", "junk": "\xb2 soon", "empty": "", "a list": "1, 2",
    "no date": "Mon, 99 Zzz 99999 99:99:99 GMT",
}  # fmt: skip
_BOMB = gzip.compress(bytes(200 << 20), 9)
_BODIES = {
    "HTML": Reply(body=b"<html>Sign in to this network</html>", content_type="text/html"),
    "text": Reply(body=b"OK", content_type="text/plain"),
    "truncated": Reply(body=TRUNCATED),
    "over 4 MiB": Reply(body=TOO_MUCH),
    "a gzip bomb": Reply(body=_BOMB, headers={"Content-Encoding": "gzip"}),
    "no gzip": Reply(body=b"plain", headers={"Content-Encoding": "gzip"}),
    "an unknown coding": Reply(body=b"\x06", headers={"Content-Encoding": "br"}),
    "broken JSON": Reply(body=b'{"partialSuccess": {', content_type="application/json"),
    "other JSON": Reply(body=b'{"partialSuccess": [1]}', content_type="application/json"),
    "nested JSON": Reply(body=b"[" * 100_000, content_type="application/json"),
    "JSON with rejections": Reply(
        body=b'{"partialSuccess": {"rejectedLogRecords": "3"}}', content_type="application/json", rejected=3
    ),
    "too short for its length": Reply(body=b"", headers={"Content-Length": "50"}, drip=0.001),
    "no length": Reply(body=b"abc", headers={"Content-Length": "x"}),
}
_PARTIAL = {
    "a warning": Reply(message=HOSTILE),
    "one rejected": Reply(rejected=1, message=HOSTILE),
    "all rejected": Reply(rejected=10**6, message="no room"),
    "more than an int": Reply(rejected=2**63 - 1),
    "less than none": Reply(body=b"\x0a\x0b\x08" + b"\xff" * 9 + b"\x01", rejected=10**6),
}
_BROKEN = {
    "dropped before reading": Reply(drop="before"),
    "dropped after reading": Reply(drop="after"),
    "acknowledgement lost": Reply(lose_answer=True),
}
_SLOW = {
    "no answer": Reply(delay=60),
    "late": Reply(delay=0.6),
    "a drip": Reply(drip=0.05, message="x" * 1_000),
}
_CODES = [name for name in Code.keys() if name != "OK"]  # noqa: SIM118 - a wrapper of protobuf, no dict
_INFO: dict[str, float | None] = {"without RetryInfo": None, "with": 0.1, "zero": 0.0, "huge": 1e9, "negative": -3.0}

HTTP: Final[dict[str, tuple[Fault, ...]]] = {
    "every 4xx": _statuses(400, 499),
    "every 5xx": _statuses(500, 599),
    "every other 2xx, empty": _faults("http/protobuf", {str(n): Reply(status=n, body=b"") for n in range(201, 300)}),
    "3xx with a Location": _faults(
        "http/protobuf",
        {str(n): Reply(status=n, headers={"Location": "http://127.0.0.1:9/elsewhere"}) for n in range(300, 309)},
    ),
    "Retry-After: seconds, dates, junk, huge": tuple(
        fault
        for status in (429, 503)
        for fault in _faults(
            "http/protobuf",
            {f"{status} {what}": Reply(status=status, headers={"Retry-After": text}) for what, text in _DELAYS.items()},
        )
    ),
    "partial success, with and without rejections": _faults("http/protobuf", _PARTIAL),
    "200 with a body that is no answer": _faults("http/protobuf", _BODIES),
    "dropped before, after reading, acknowledgement lost": _faults("http/protobuf", _BROKEN),
    "late, dripping, no answer": _faults("http/protobuf", _SLOW),
    "another fault at each request": (
        Fault(
            "mixed",
            partial(answering, "http/protobuf", (Reply(status=503), Reply(drop="after"), Reply(lose_answer=True),
                Reply(status=400), Reply(rejected=2), Reply(body=TRUNCATED), Reply(status=413), Reply())),
        ),
    ),
}  # fmt: skip
"""By what is wrong."""
GRPC: Final[dict[str, tuple[Fault, ...]]] = {
    "every code": _faults("grpc", {name: Reply(code=name, message=HOSTILE) for name in _CODES}),
    "RESOURCE_EXHAUSTED and UNAVAILABLE, with and without RetryInfo": tuple(
        fault
        for code in ("RESOURCE_EXHAUSTED", "UNAVAILABLE")
        for fault in _faults(
            "grpc", {f"{code} {what}": Reply(code=code, retry_after=info) for what, info in _INFO.items()}
        )
    ),
    "status details that are none": _faults(
        "grpc", {"details": Reply(code="UNAVAILABLE", message="x", body=b"\xff\xff")}
    ),
    "partial success, with and without rejections": _faults("grpc", _PARTIAL),
    "OK with a body that is no answer": _faults(
        "grpc",
        {"HTML": Reply(body=b"<html>"), "truncated": Reply(body=TRUNCATED), "over 4 MiB": Reply(body=TOO_MUCH)},
    ),
    "dropped before, after reading, acknowledgement lost": _faults("grpc", _BROKEN),
    "late, dripping, no answer": _faults("grpc", _SLOW),
    "another fault at each request": (
        Fault(
            "mixed",
            partial(answering, "grpc", (Reply(code="UNAVAILABLE"), Reply(drop="after"), Reply(lose_answer=True),
                Reply(code="INVALID_ARGUMENT"), Reply(rejected=2), Reply(body=TRUNCATED), Reply(code="DATA_LOSS"),
                Reply())),
        ),
    ),
}  # fmt: skip
"""By what is wrong."""
