"""Reconciling an archive with VictoriaLogs: the real one where it was built, and what only a faulty one answers."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import pytest

from otel_audit import Session
from otel_audit.archive.against import Comparison, compare_held
from otel_audit.archive.query import open_archive
from otel_audit.errors import ArchiveError
from otel_audit.reconcile import victorialogs
from otel_audit.reconcile.backends import open_backend
from tests.archive_material import connect, provider_at, wait_until
from tests.victorialogs import victoria_logs

RECORDS = 60
START = 1_767_225_600_000_000_000
SECOND = 1_000_000_000
VALUES: list[Any] = [
    1, 2**62, 1.0, -0.0, 1e-7, 1e21, float("nan"), True, None, "", "é\u2028<&>\x1b[2J", b"\0\xff", ["a", 1, True],
    [b"x"], [None], {"b": {"c": 1.5}}, "1.0",
]  # fmt: skip


def fill(path: Path, endpoint: str | None) -> None:
    """Record values of every type, and ship them where an endpoint is given."""
    with provider_at(path, endpoint=endpoint, resource={"service.name": "shop", "n": 1}) as provider:
        log = provider.get_logger("m")
        for number in range(RECORDS):
            log.audit(
                "user.login.failure",
                user=f"user-{number}",
                session=Session(f"s{number}", "http", "203.0.113.7"),
                custom={"g": {"v": VALUES[number % len(VALUES)]}},
                timestamp=START + number * SECOND + number,
            )
        assert endpoint is None or provider.force_flush(20)


def compare(path: Path, url: str, between: tuple[int, int] = (-(2**63), 2**63 - 1)) -> Comparison:
    with open_archive(path) as archive:
        read = open_backend(url)
        return compare_held(
            archive, lambda: read(archive.id, *between, lambda _done, _total: None), keep=1000, between=between
        )


def test_the_real_one(archive_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What VictoriaLogs was sent is equal, also in small pieces; what was lost, sent twice or changed is named."""
    monkeypatch.setattr(victorialogs, "_MOST", 7)
    with victoria_logs(tmp_path / "data") as address:
        fill(archive_path, f"http://{address}/insert/opentelemetry")
        url = f"victorialogs://{address}"

        def came() -> Comparison:
            return compare(archive_path, url)

        wait_until(lambda: came().matching == RECORDS)
        found = came()
        assert (found.faults, found.missing, found.doubled, found.foreign) == ((), 0, 0, 0)
        found = compare(archive_path, url, (START + 10 * SECOND + 10, START + 20 * SECOND + 20))
        assert (found.matching, found.missing) == (11, 0)
        # Nothing can be deleted there: the archive gets a record more, and one is changed here instead.
        with provider_at(archive_path) as provider:
            provider.get_logger("m").audit("any", timestamp=START)
        connection = connect(archive_path)
        connection.execute("UPDATE destination SET cursor = 61")
        connection.execute("UPDATE record SET otlp = CAST(replace(CAST(otlp AS TEXT), 'user-7', 'user-X') AS BLOB)")
        found = came()
        assert [(fault.code, fault.detail) for fault in found.faults] == [
            ("export-differs", "record 8 of the archive: body, audit.actor.id, user.name"),
            ("export-missing", "record 61 of the archive"),
        ]


Answer = Callable[[str], list[dict[str, Any]]]


@contextmanager
def server(answer: Answer, status: int = 200, *, cut: int = 0) -> Iterator[str]:
    """Run a server that speaks VictoriaLogs' format, as its documentation gives it."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            length = int(self.headers["content-length"])
            query = parse_qs(self.rfile.read(length).decode())["query"][0]
            content = "".join(json.dumps(line) + "\n" for line in answer(query)).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content[: len(content) - cut])

        def log_message(self, *_: object) -> None:
            pass

    running = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=running.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"victorialogs://127.0.0.1:{running.server_address[1]}"
    finally:
        running.shutdown()
        thread.join()
        running.server_close()


def lines(path: Path) -> list[dict[str, Any]]:
    """Return what VictoriaLogs answers of an archive, for records without lists and maps."""
    found = []
    with open_archive(path) as archive:
        for record in archive.query(oldest_first=True):
            line = {
                "_time": f"{record.when:%Y-%m-%dT%H:%M:%S}.{record.time % SECOND:09d}Z", "_msg": record.message,
                "severity": "WARN", "event_name": record.type, "service.name": "shop", "n": "1",
                "audit.record.id": record.record_id, "log.record.uid": record.record_id,
                "audit.sequence.number": str(record.sequence), "audit.sequence.stream_id": archive.id,
                "otel_audit.host": record.host, "otel_audit.source": record.source, "user.name": record.user,
                "audit.actor.id": record.actor.id, "audit.actor.type": record.actor.type,
                "audit.action": record.action, "audit.outcome": record.outcome, "audit.schema.version": "0.1.0",
            }  # fmt: skip
            found.append({name: str(value) for name, value in line.items()})
    return found


@pytest.fixture
def filled(archive_path: Path) -> Path:
    with provider_at(archive_path, resource={"service.name": "shop", "n": 1}) as provider:
        for number in range(5):
            provider.get_logger("m").audit("user.login.failure", user=f"u{number}", timestamp=START + number)
    return archive_path


def answers(held: list[dict[str, Any]], counted: int | None = None) -> Answer:
    """Return what answers as VictoriaLogs, with all that it holds."""
    total = len(held) if counted is None else counted
    stats = {"n": str(total), "first": min(line["_time"] for line in held), "last": max(line["_time"] for line in held)}
    return lambda query: [stats] if "| stats" in query else held


def test_the_format(filled: Path) -> None:
    """Lines in the documented format are compared field by field, and each that is missing or came twice is named."""
    held = lines(filled)
    with server(answers(held)) as url:
        found = compare(filled, url)
        assert (found.matching, found.faults) == (5, ())
    changed = [held[0], {**held[1], "audit.outcome": "success"}, {**held[2], "event_name": "x"}, held[4], held[4]]
    del changed[0]["user.name"]
    with server(answers(changed)) as url:
        found = compare(filled, url)
    assert [(fault.code, fault.detail) for fault in found.faults] == [
        ("export-differs", "record 1 of the archive: user.name"),
        ("export-differs", "record 2 of the archive: audit.outcome"),
        ("export-differs", "record 3 of the archive: eventName"),
        ("export-missing", "record 4 of the archive"),
    ]
    assert (found.matching, found.doubled, found.gaps) == (1, 1, ((4, 4),))


def test_answers_that_are_not_whole(filled: Path) -> None:
    """An answer that ends early, says no, or is something else, is an error: never a list of missing records."""
    held = lines(filled)
    with server(answers(held, counted=6)) as url, pytest.raises(ArchiveError, match="answered with 5 of 6 records"):
        compare(filled, url)
    with server(answers(held), cut=10) as url, pytest.raises(ArchiveError, match=r"IncompleteRead|127\.0\.0\.1"):
        compare(filled, url)
    with server(answers(held), status=401) as url, pytest.raises(ArchiveError, match="answered 401"):
        compare(filled, url)
    with server(answers(held), status=302) as url, pytest.raises(ArchiveError, match="answered 302"):
        compare(filled, url)
    with server(lambda _query: [{"message": "hello"}]) as url, pytest.raises(ArchiveError, match="answers otherwise"):
        compare(filled, url)
    with server(lambda _query: []) as url, pytest.raises(ArchiveError, match="answers otherwise"):
        compare(filled, url)


@pytest.mark.parametrize("value", [1, None, ["x"], {"a": "b"}, True])
def test_values_that_are_no_text(filled: Path, value: Any) -> None:
    """A server whose values are no texts is no VictoriaLogs: that is said, whichever field it is."""
    held = lines(filled)
    for name in ("severity", "otel_audit.custom.g.v", "n"):
        strange = [{**held[0], name: value}, *held[1:]]
        with server(answers(strange, counted=5)) as url, pytest.raises(ArchiveError, match="answers otherwise"):
            compare(filled, url)


def test_a_line_nested_too_deeply(filled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A line that no parser follows is an error that names the server."""
    real = json.dumps
    with server(answers(lines(filled))) as url:
        monkeypatch.setattr(json, "dumps", lambda value: real(value) if isinstance(value, str) else "[" * 200_000)
        with pytest.raises(ArchiveError, match="answers otherwise"):
            compare(filled, url)


def test_a_server_that_tells_the_password(filled: Path) -> None:
    """What a server says goes into the error, but not the password that it was given."""
    with server(lambda _query: [{"wrong": "hunter2"}], status=401) as url, pytest.raises(ArchiveError) as caught:
        compare(filled, url.replace("//", "//shop:hunter2@"))
    assert "answered 401" in str(caught.value)
    assert "hunter2" not in str(caught.value)


def test_nothing_held(filled: Path) -> None:
    """Where nothing is held at all, every record is missing."""
    with server(lambda _query: [{"n": "0", "first": "", "last": ""}]) as url:
        found = compare(filled, url)
    assert (found.matching, found.missing, found.gaps) == (0, 5, ((1, 5),))
