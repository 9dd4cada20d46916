"""The example's Django project on real servers, in processes of their own; and ``manage.py audit``."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from otel_audit.archive.query import open_archive
from otel_audit.record import AuditRecord
from tests.archive_material import assert_sound

ROOT = Path(__file__).parents[2]
MANAGE = (sys.executable, "-m", "examples.django_shop")
SERVERS = {
    # Loaded before the fork: the archive is open when the workers are made.
    "gunicorn": (
        "gunicorn", "--preload", "--workers=3", "--threads=2", "--no-control-socket", "--bind=fd://{fd}",
        "--worker-tmp-dir={directory}", "examples.django_shop:application",
    ),
    "uvicorn": (
        "uvicorn", "--fd={fd}", "--no-proxy-headers", "--log-level=warning", "examples.django_shop:asgi_application",
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """Return the database file of a project with an administrator; made once, since migrating takes seconds."""
    directory = tmp_path_factory.mktemp("shop")
    manage(directory, "migrate", "--verbosity=0")
    os.environ["DJANGO_SUPERUSER_PASSWORD"] = "right"
    try:
        manage(directory, "createsuperuser", "--noinput", "--username=root", "--email=root@shop.example")
    finally:
        del os.environ["DJANGO_SUPERUSER_PASSWORD"]
    return (directory / "shop.sqlite3").read_bytes()


@pytest.fixture
def directory(tmp_path: Path, prepared: bytes) -> Path:
    """Return the folder of a new project."""
    folder = tmp_path / "shop"
    folder.mkdir()
    (folder / "shop.sqlite3").write_bytes(prepared)
    return folder


def environment(directory: Path) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "SHOP_DIRECTORY": str(directory)}


def manage(directory: Path, *words: str, status: int = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [*MANAGE, *words], env=environment(directory), cwd=directory, capture_output=True, encoding="utf-8", check=False
    )
    assert done.returncode == status, done.stderr
    assert "Traceback" not in done.stderr
    return done


def records(directory: Path) -> list[AuditRecord]:
    with open_archive(directory / "audit.db") as archive:
        return list(archive.query())[::-1]


@contextlib.contextmanager
def serving(name: str, directory: Path) -> Iterator[str]:
    """Serve the project on a socket of ours."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(64)
        words = [word.format(fd=listening.fileno(), directory=directory) for word in SERVERS[name]]
        server = subprocess.Popen(
            [sys.executable, "-m", *words],
            env=environment(directory), cwd=directory, pass_fds=[listening.fileno()], stderr=subprocess.PIPE,
            encoding="utf-8",
        )  # fmt: skip
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
            assert server.poll() is None
        finally:
            server.send_signal(signal.SIGTERM)
            try:
                _, errors = server.communicate(timeout=30)
            except subprocess.TimeoutExpired:
                server.kill()
                _, errors = server.communicate()
    assert "Traceback" not in errors, errors


def log_in(client: httpx.Client, password: str) -> httpx.Response:
    page = client.get("/admin/login/").text
    found = re.search('name="csrfmiddlewaretoken" value="([^"]+)"', page)
    assert found is not None
    given = {"username": "root", "password": password, "csrfmiddlewaretoken": found[1], "next": "/orders/1/"}
    return client.post("/admin/login/", data=given)


@pytest.mark.parametrize("name", sorted(SERVERS))
def test_the_shop(directory: Path, name: str) -> None:
    """On forked workers and in an event loop alike, each event is one record with user, session and address."""
    headers = {"X-Forwarded-For": "6.6.6.6, 203.0.113.7", "User-Agent": "browser"}
    with serving(name, directory) as url, httpx.Client(base_url=url, headers=headers, timeout=60) as client:
        assert client.post("/admin/login/", data={"username": "root", "password": "x"}).status_code == 403
        assert log_in(client, "wrong").status_code == 200
        assert log_in(client, "right").status_code == 302
        for path, status in (("/orders/1/", 200), ("/orders/9/", 404), ("/export/", 200), ("/close/", 200)):
            assert client.get(path).status_code == status
        client.cookies.delete("sessionid")
        assert client.get("/close/").status_code == 403
        assert client.get("/export/").status_code == 401
    found = records(directory)
    assert [(record.type, record.user, record.outcome) for record in found] == [
        ("permission.denied", None, "failure"), ("user.login.failure", "root", "failure"),
        ("user.login.success", "root", "success"), ("order.viewed", "root", "success"),
        ("order.viewed", "root", "failure"), ("order.exported", "root", "success"),
        ("permission.denied", None, "failure"), ("order.exported", None, "failure"),
    ]  # fmt: skip
    sessions = [record.session for record in found if record.session is not None]
    assert {(session.type, session.ip, session.client) for session in sessions} == {("http", "203.0.113.7", "browser")}
    assert len({session.id for session in sessions[2:6]}) == 1
    assert {record.altered for record in found} == {()}
    assert_sound(directory / "audit.db")


def test_many_workers_write_one_archive(directory: Path) -> None:
    """Of requests to forked workers at once, and of a worker that is killed, no record that was answered is missing."""
    with serving("gunicorn", directory) as url:
        with httpx.Client(base_url=url, timeout=60) as client:
            assert client.get("/close/").status_code == 403
        answered = 0
        for _ in range(3):
            with httpx.Client(base_url=url, timeout=60) as client:
                for _ in range(20):
                    assert client.get("/close/").status_code == 403
                    answered += 1
            os.kill(a_worker(directory), signal.SIGKILL)
    assert len(records(directory)) >= answered + 1
    assert_sound(directory / "audit.db")


def a_worker(directory: Path) -> int:
    """Return the process id of one of gunicorn's workers."""
    import psutil

    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        servers = [child for child in psutil.Process().children() if "gunicorn" in " ".join(child.cmdline())]
        workers = [worker.pid for server in servers for worker in server.children()]
        if workers:
            return workers[0]
        time.sleep(0.05)
    raise AssertionError("gunicorn has no worker")


def test_manage_py_audit(directory: Path) -> None:
    """``manage.py audit`` is the command line on the project's archive: output, status, help, and no traceback."""
    missing: Any = manage(directory, "audit", "show", status=2)
    assert missing.stderr.startswith("otel-audit: ")
    assert not (directory / "audit.db").exists()
    recorded = manage(directory, "audit", "record", "shop.example", "order.shipped", "--user", "alice")
    assert recorded.returncode == 0
    shown = manage(directory, "audit", "show", "alice@shop.example", "-o", "jsonl", "--settings=examples.none")
    assert '"type": "order.shipped"' in shown.stdout
    assert manage(directory, "audit", "nope", status=2).stderr.startswith("otel-audit: no such command: 'nope'")
    for words in (["audit", "--help"], ["help", "audit"]):
        assert "Usage: otel-audit" in manage(directory, *words).stdout
    assert "audit" in manage(directory, "help").stdout.split()
    assert "no issues" in manage(directory, "check").stdout


def test_commands_open_no_archive(directory: Path) -> None:
    """A command that records nothing needs no archive; one that changes a password does, and records it."""
    manage(directory, "check")
    assert not (directory / "audit.db").exists()
    script = "from django.contrib.auth.models import User; u = User.objects.get(); u.set_password('x'); u.save()"
    manage(directory, "shell", "--verbosity=0", "--command", script)
    (record,) = records(directory)
    assert (record.type, record.user, record.session) == ("user.password.changed", "root", None)
