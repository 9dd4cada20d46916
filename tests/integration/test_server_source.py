"""A server's life in processes of its own: started, stopped by signals and otherwise, killed, forked."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from structlog.contextvars import bound_contextvars

from otel_audit.archive.query import open_archive
from otel_audit.errors import ArchiveError, ConfigError
from otel_audit.provider import AuditProvider
from otel_audit.record import AuditRecord, Session
from otel_audit.sources.server import Server
from tests.archive_material import forked, provider_at, run_python, wait_until
from tests.recording import Tape, bound_logger

SERVER = """
import os, signal, sys, threading, time
import otel_audit
from otel_audit.sources.server import Server
otel_audit.configure(archive=sys.argv[1], host="example.com")
server = Server(heartbeat=sys.argv[2], interval=0.02)
"""
WAIT = """
server.catch(signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
server.started(version="1.0")
print("ready", flush=True)
while True:
    time.sleep(0.05)
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return the path of a heartbeat file, in a directory that does not exist yet."""
    return tmp_path / "run" / "server.heartbeat"


@pytest.fixture
def provider(archive_path: Path) -> Iterator[AuditProvider]:
    with provider_at(archive_path) as provider:
        yield provider


def records_in(path: Path) -> list[AuditRecord]:
    with open_archive(path) as archive:
        return list(archive.query(oldest_first=True))


def types_in(path: Path) -> list[str]:
    return [record.type.removeprefix("server-") for record in records_in(path)]


def run_server(archive: Path, heartbeat: Path, number: signal.Signals, program: str = WAIT) -> int:
    """Start a server, send it a signal once it beats, and return its exit status."""
    command = [sys.executable, "-c", SERVER + program, str(archive), str(heartbeat)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        first = heartbeat.read_text()
        wait_until(lambda: heartbeat.read_text() != first)
        process.send_signal(number)
        return process.wait(30)


def test_stopped_by_a_signal(archive_path: Path, path: Path) -> None:
    """SIGTERM and SIGINT end the program in order, and the record names them; no crash is inferred afterwards."""
    assert run_server(archive_path, path, signal.SIGTERM) == 128 + signal.SIGTERM
    assert path.read_bytes() == b""
    assert run_server(archive_path, path, signal.SIGINT) != 0
    assert types_in(archive_path) == ["started", "stopped"] * 2
    started, stopped, _, interrupted = records_in(archive_path)
    assert started.custom["server"]["version"] == "1.0"
    assert started.custom["server"]["instance"] == stopped.custom["server"]["instance"]
    assert (stopped.user, stopped.outcome, stopped.host) == (None, "success", "example.com")
    assert [record.custom["server"]["signal"] for record in (stopped, interrupted)] == ["SIGTERM", "SIGINT"]


def test_a_kill_is_found_out(archive_path: Path, path: Path) -> None:
    """After a kill the next start records a crash at the time of the last heartbeat, once."""
    assert run_server(archive_path, path, signal.SIGKILL) == -signal.SIGKILL
    last = json.loads(path.read_text())
    assert run_server(archive_path, path, signal.SIGTERM) == 128 + signal.SIGTERM
    assert run_server(archive_path, path, signal.SIGTERM) == 128 + signal.SIGTERM
    assert types_in(archive_path) == ["started", "crashed", *["started", "stopped"] * 2]
    started, crashed, again, *_ = records_in(archive_path)
    assert crashed.time == last["beat"] > started.time
    assert crashed.observed > crashed.time
    assert (crashed.outcome, crashed.user, crashed.altered) == ("failure", None, ())
    same = {key: started.custom["server"][key] for key in ("instance", "pid")}
    assert crashed.custom == {"server": {**same, "note": "last heartbeat"}}
    assert again.custom["server"]["instance"] != same["instance"]


def test_handlers_that_were_there_are_called(archive_path: Path, path: Path) -> None:
    """A handler that was there before is called, and decides; an ignored signal stays ignored."""
    program = """
def handle(number, frame):
    server.stopped(note="handled")
    os._exit(7)
signal.signal(signal.SIGTERM, handle)
signal.signal(signal.SIGUSR1, signal.SIG_IGN)
server.catch(signal.SIGTERM, signal.SIGUSR1)
server.catch(signal.SIGTERM)
assert signal.getsignal(signal.SIGUSR1) is signal.SIG_IGN
server.started()
print("ready", flush=True)
while True:
    time.sleep(0.05)
"""
    assert run_server(archive_path, path, signal.SIGTERM, program) == 7
    _, stopped = records_in(archive_path)
    assert {key: stopped.custom["server"][key] for key in ("signal", "note")} == {
        "signal": "SIGTERM",
        "note": "handled",
    }
    assert path.read_bytes() == b""


def test_the_end_of_the_interpreter(archive_path: Path, path: Path) -> None:
    """A program that just ends, or configures anew in between, has stopped once, with the last words to the end."""
    program = """
server.started()
otel_audit.configure(archive=sys.argv[1], host="example.com")
otel_audit.get_logger("work").audit("t")
"""
    run_python(SERVER + program, archive_path, path)
    assert types_in(archive_path) == ["started", "t", "stopped"]
    assert path.read_bytes() == b""


def test_a_living_server_has_its_file(provider: AuditProvider, archive_path: Path, path: Path) -> None:
    """A second server on the same file is refused, records nothing, and leaves the first one's life alone."""
    with Server(provider.get_logger("a"), heartbeat=path):
        content = path.read_text()
        with pytest.raises(
            ConfigError, match="belongs to a server that is running: give each server a file of its own"
        ):
            Server(provider.get_logger("b"), heartbeat=path).started()
        assert path.read_text() == content
    assert [(record.source, record.type) for record in records_in(archive_path)] == [
        ("a", "server-started"),
        ("a", "server-stopped"),
    ]


def test_children_are_no_servers(provider: AuditProvider, archive_path: Path, path: Path) -> None:
    """A forked child neither stops the server nor keeps its file; it may be a server itself, with another one."""
    server = Server(provider.get_logger("server"), heartbeat=path)
    server.started()
    go, told = os.pipe()

    def ended() -> None:
        server.__exit__(SystemExit, SystemExit(), None)
        assert provider.shutdown(20.0)

    assert os.waitpid(forked(ended), 0)[1] == 0
    assert types_in(archive_path) == ["started"]
    assert path.read_bytes()

    def other() -> None:
        with Server(provider.get_logger("child"), heartbeat=path.with_name("child")):
            os.read(go, 1)

    child = forked(other)
    wait_until(lambda: len(records_in(archive_path)) == 2)
    # The child lives, and the parent's file is free as soon as the parent lets go of it.
    server.stopped()
    with Server(provider.get_logger("server"), heartbeat=path):
        pass
    os.write(told, b"!")
    assert os.waitpid(child, 0)[1] == 0
    assert [(record.source, record.type.removeprefix("server-")) for record in records_in(archive_path)] == [
        ("server", "started"), ("child", "started"), ("server", "stopped"), ("server", "started"),
        ("server", "stopped"), ("child", "stopped"),
    ]  # fmt: skip


def test_an_exception_is_a_failure(provider: AuditProvider, archive_path: Path, path: Path) -> None:
    """Leaving the context by an exception is a failed stop that names it; an exit is none; a stop counts once."""
    log = provider.get_logger("server")
    with pytest.raises(ZeroDivisionError), Server(log, heartbeat=path):
        raise ZeroDivisionError("oops")
    with pytest.raises(SystemExit), Server(log, heartbeat=path):
        raise SystemExit(3)
    with Server(log, heartbeat=path) as server:
        server.stopped(note="early")
    _, failed, _, left, _, early = records_in(archive_path)
    assert (failed.outcome, failed.custom["server"]["note"]) == ("failure", "ZeroDivisionError: oops")
    assert (left.outcome, early.outcome, early.custom["server"]["note"]) == ("success", "success", "early")


def test_the_context_of_a_request_is_not_the_server_s(provider: AuditProvider, archive_path: Path) -> None:
    """Neither user nor session of the context, in which a shutdown happens to be called, gets into the records."""
    server = Server(provider.get_logger("server"))
    with bound_contextvars(user="alice", session=Session("s"), request_id="r"):
        server.started()
        server.crashed(when=5, note="n")
        provider.shutdown()
    found = records_in(archive_path)
    assert [record.type for record in found] == ["server-started", "server-crashed", "server-stopped"]
    assert {(record.user, record.session) for record in found} == {(None, None)}
    assert found[1].time == 5


def test_the_signals(provider: AuditProvider, archive_path: Path, path: Path) -> None:
    """The application's signals do all that the methods do, the heartbeat included."""
    server = Server(provider.get_logger("server"), heartbeat=path).subscribe()
    try:
        Server.signals["started"].send("app", version="1.0")
        assert json.loads(path.read_text())["state"] == "running"
        Server.signals["stopped"].send("app", signal="SIGTERM")
        Server.signals["crashed"].send("app", when=5)
    finally:
        server.unsubscribe()
    assert path.read_bytes() == b""
    assert types_in(archive_path) == ["started", "stopped", "crashed"]


@pytest.mark.parametrize(
    "content",
    [
        b"x", b"\x00" * 200, b'{"beat": 5', b"[]", b"5\n", b'{"beat": true, "instance": "i", "pid": 1}', b"[" * 4_000,
        b'{"beat": -5, "instance": "i", "pid": 1}', b'{"beat": 99999999999999999999, "instance": "i", "pid": 1}',
        b'{"beat": 5, "instance": 5, "pid": 1}', b'{"beat": 5, "instance": "i"}', b"x" * 9_999,
    ],
    ids=range(12),
)  # fmt: skip
def test_a_damaged_file(provider: AuditProvider, archive_path: Path, path: Path, content: bytes) -> None:
    """A file that cannot be read is a crash at the time of its last change, and is used again."""
    path.parent.mkdir()
    path.write_bytes(content)
    os.utime(path, ns=(10**18, 10**18))
    with Server(provider.get_logger("server"), heartbeat=path):
        assert json.loads(path.read_text())["state"] == "running"
    assert types_in(archive_path) == ["crashed", "started", "stopped"]
    assert records_in(archive_path)[0].time == 10**18
    assert path.read_bytes() == b""


class Failing:
    """A writer that fails for the types that it is told."""

    closed = False

    def __init__(self, tape: Tape) -> None:
        self._writer: Any = tape.writer
        self.types: set[str] = set()

    def write(self, record: AuditRecord, *rest: Any) -> Any:
        """Fail or write."""
        if record.type in self.types:
            raise ArchiveError("full")
        return self._writer.write(record, *rest)


def test_a_full_archive(path: Path) -> None:
    """A start that cannot be recorded leaves things as they were; a stop that cannot be recorded shows as a crash."""
    tape = Tape()
    writer: Any = Failing(tape)
    written = tape.written
    tape.writer = writer
    server = Server(bound_logger(tape), heartbeat=path)
    writer.types = {"server-started"}
    with pytest.raises(ArchiveError):
        server.started()
    assert path.read_bytes() == b""
    writer.types = {"server-stopped"}
    server.started()
    with pytest.raises(ArchiveError):
        server.stopped()
    writer.types = {"server-crashed"}
    with pytest.raises(ArchiveError):
        server.started()
    writer.types = set()
    server.started()
    server.stopped()
    assert [record.type for record, _ in written] == [
        "server-started",
        "server-crashed",
        "server-started",
        "server-stopped",
    ]
    assert written[1][0].custom["server"]["note"] == "last heartbeat; it had begun to stop"


def test_a_heartbeat_that_fails(
    provider: AuditProvider, path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A disk without room does not stop a running server; it is complained of once."""
    server = Server(provider.get_logger("server"), heartbeat=path, interval=0.01)
    server.started()
    failures: list[int] = []

    def fail(*_: Any) -> None:
        failures.append(1)
        raise OSError(28, "No space left on device")

    with caplog.at_level(logging.WARNING, "otel_audit.sources"):
        with monkeypatch.context() as patch:
            patch.setattr(os, "pwrite", fail)
            wait_until(lambda: len(failures) > 3)
        server.stopped()
    assert path.read_bytes() == b""
    complaints = [record.getMessage() for record in caplog.records]
    assert len(complaints) == 1
    assert "No space left on device" in complaints[0]


def test_files_that_cannot_be_used(provider: AuditProvider, tmp_path: Path, archive_path: Path) -> None:
    """A directory, a link and a place below a file are refused by name, before anything is recorded."""
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "elsewhere")
    below = tmp_path / "file"
    below.write_text("")
    for wrong in (tmp_path, link, below / "heartbeat"):
        with pytest.raises(ConfigError, match=r"the heartbeat file .* cannot be used"):
            Server(provider.get_logger("server"), heartbeat=wrong).started()
    for argument in ({"heartbeat": ""}, {"heartbeat": 5}, {"interval": 0}, {"interval": "60"}, {"interval": True}):
        options: Any = argument
        with pytest.raises(ConfigError, match=next(iter(argument))):
            Server(provider.get_logger("server"), **options)
    assert records_in(archive_path) == []
