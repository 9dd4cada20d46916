"""From a login at a real Prosody to ``otel-audit show``: each event once, whatever stops in between."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.archive_material import wait_until
from tests.command_line import SECONDS, json_lines, otel_audit, popen
from tests.prosody import HOST, MODULES, Prosody, free_port, needs_prosody
from tests.xmpp import visit

ALICE = f"alice@{HOST}"
STAND_IN = Path(__file__).parents[1] / "prosody_modules"


@contextmanager
def receiver(archive: Path, port: int) -> Iterator[subprocess.Popen[str]]:
    """Run the receiver until the block ends, and stop it as an operator does."""
    with popen("receive", "--archive", archive, "--listen", f"127.0.0.1:{port}") as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("listening on ")
        try:
            yield process
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
            process.wait(SECONDS)


def shown(archive: Path, *arguments: str) -> list[dict[str, Any]]:
    return json_lines(otel_audit("show", "--archive", archive, *arguments, "--reverse", "-o", "jsonl").stdout)


def test_prosody_live(archive_path: Path, tmp_path: Path) -> None:
    """Each event is found once, with host, user, source, type, session and address, after restarts on both sides."""
    port = free_port()
    prosody = Prosody(tmp_path / "prosody", f'audit_otel_endpoint = "http://127.0.0.1:{port}"')
    queue = prosody.host_data / "audit_otel_queue"
    with receiver(archive_path, port), prosody:
        first = visit(prosody.port, ALICE, "right", register=True)
        assert first.registered
        assert first.logged_in
        wait_until(lambda: not list(queue.glob("*.jsonl")))
    with prosody:  # without a receiver
        wrong = visit(prosody.port, ALICE, "wrong")
        assert not wrong.logged_in
        assert visit(prosody.port, ALICE, "right").logged_in
        wait_until(lambda: "Audit events wait on disk" in prosody.log)
        prosody.kill()
        with receiver(archive_path, port) as process:
            prosody.start()
            wait_until(lambda: not list(queue.glob("*.jsonl")))
            process.kill()  # what was answered is on disk
            process.wait()
        assert not visit(prosody.port, ALICE, "wrong", mechanism="PLAIN").logged_in
        prosody.stop()
        with receiver(archive_path, port), prosody:
            wait_until(lambda: not list(queue.glob("*.jsonl")))
    mine = shown(archive_path, ALICE)
    # A wrong password gives a failure for each mechanism that the client tried.
    assert [(record["type"], record["custom"]["authentication"]["method"]) for record in mine[2:-1]] == [
        *(("authentication-failure", mechanism) for mechanism in wrong.refusals),
        ("authentication-success", wrong.refusals[0]),
    ]
    assert [record["type"] for record in mine] == [
        "user-registered", "authentication-success", "authentication-failure", "authentication-failure",
        "authentication-success", "authentication-failure",
    ]  # fmt: skip
    for record in mine:
        assert (record["host"], record["user"], record["source"]) == (HOST, "alice", "mod_audit_otel")
        assert record["session"]["id"].startswith("c2s")
        assert record["session"]["type"] == (
            "c2s_unbound" if record["type"] == "authentication-success" else "c2s_unauthed"
        )
        assert record["session"]["ip"] == "127.0.0.1"
        assert record["altered"] == []
    assert mine[0]["session"]["id"] == mine[1]["session"]["id"]
    assert mine[2]["custom"]["reason"]["condition"] == "not-authorized"
    everything = shown(archive_path, HOST)
    assert len({record["record_id"] for record in everything}) == len(everything)
    server = [record["type"] for record in shown(archive_path, HOST, "--global")]
    assert server.count("server-crashed") == 1
    assert server.count("server-started") == 4
    assert server.count("server-stopped") in {2, 3}  # the last one may wait for the next start
    otel_audit("verify", "--archive", archive_path)


def test_mod_audit_live(archive_path: Path, tmp_path: Path) -> None:
    """An archive of mod_audit is followed into the receiver, from its beginning, each entry once."""
    port = free_port()
    lines = f'audit_otel_endpoint = "http://127.0.0.1:{port}"\naudit_seed = 300'
    modules = ("roster", "saslauth", "register", "audit", "audit_otel")
    prosody = Prosody(tmp_path / "prosody", lines, modules=modules, plugins=(STAND_IN, MODULES))
    with prosody:  # without a receiver
        assert visit(prosody.port, ALICE, "right", register=True).logged_in
    with receiver(archive_path, port), prosody:
        wait_until(lambda: len(shown(archive_path, HOST, "-n", "all")) >= 302)
        assert visit(prosody.port, ALICE, "right").logged_in
    with receiver(archive_path, port), prosody:
        wait_until(lambda: len(shown(archive_path, HOST, "-n", "all")) >= 303)
    found = shown(archive_path, HOST, "-n", "all")
    assert len(found) == len({record["record_id"] for record in found}) == 303
    mine = shown(archive_path, ALICE)
    assert [(record["source"], record["type"]) for record in mine] == [
        ("mod_audit_register", "user-registered"),
        ("mod_audit_auth", "authentication-failure"),
        ("mod_audit_register", "user-registered"),
        ("mod_audit_auth", "authentication-success"),
        ("mod_audit_auth", "authentication-success"),
    ]
    assert mine[0]["time"] == "2023-11-14T22:13:21.000000000Z"
    assert mine[0]["custom"]["invite-used"] == {"token": "t0k3n"}
    (crashed,) = shown(archive_path, "--type", "server-crashed")
    assert crashed["custom"]["details"]["deep"] == {"a": "1", "inner": "x"}
    (bob,) = shown(archive_path, "--type", "x-success")
    assert (bob["user"], bob["session"]["ip"]) == ("bob@elsewhere.test", "203.0.113.0/24")
    assert bob["custom"]["origin"]["altered"] == ["session.ip:truncated"]


def test_ci_has_prosody(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there is no prosody the tests are skipped, and in CI they fail instead."""
    monkeypatch.setenv("PATH", os.devnull)
    monkeypatch.delenv("CI", raising=False)
    with pytest.raises(pytest.skip.Exception, match="apt-get install prosody"):
        needs_prosody()
    monkeypatch.setenv("CI", "true")
    with pytest.raises(AssertionError, match="CI needs the packages: prosody"):
        needs_prosody()
