"""The main job, end to end: a real service records, the collector is down, the service is killed, nothing is lost.

    make demo

Plays `examples.login_service` with real HTTP requests; its collector (rotel, a real one) starts only at the end.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from otel_audit.testing import Collector
from tests.rotel import Rotel

LOGINS = [
    ("alice", "wonderland", "Mozilla/5.0 (X11; Linux x86_64)"),
    ("alice", "wonderlnad", "Mozilla/5.0 (X11; Linux x86_64)"),
    ("bob", "builder", "Gajim 1.9"),
    ("mallory\x1b[2J\r\nroot", "x", "curl/8\u202e"),
    ("mallory\udcff", "' OR 1=1 --", "sqlmap/1.8\udcfe"),
]
ROUNDS = 40
OUTAGE = 3.0
"""Seconds over which the requests are spread."""


def main() -> int:
    """Play the demo; return 0 if every record arrived."""
    with tempfile.TemporaryDirectory(prefix="otel-audit-demo-") as folder, Collector() as sink:
        reason = Rotel.missing()
        with Rotel(sink.endpoint) if not reason else contextlib.nullcontext() as rotel:
            if rotel is not None:
                rotel.stop()
            endpoint = rotel.http_endpoint if rotel is not None else sink.endpoint
            environ = {
                **os.environ,
                "OTEL_AUDIT_ARCHIVE": str(Path(folder, "audit.db")),
                # Where there is no rotel, the outage is a port that nobody listens on.
                "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint if rotel is not None else "http://127.0.0.1:9",
                "OTEL_SERVICE_NAME": "login-service",
            }
            say("1. The login service starts. Its collector does not run.")
            began = time.monotonic()
            with service(environ) as (process, port):
                trace_id = play(port)
                say(f"2. It got {ROUNDS * len(LOGINS) + 1} requests, the collector none. Then it is killed (-9).")
                process.kill()
                process.wait()
            say("3. Both are down; the archive answers.")
            command(environ, "show", "example.com", "-n", "6")
            command(
                environ,
                "show",
                "alice@example.com",
                "--outcome",
                "failure",
                "-n",
                "2",
                "--fields",
                "time,type,user,trace_id",
                "-o",
                "jsonl",
            )
            say("   What a hostile client sent is recorded, and harmless to look at.")
            hostile = ("--grep", "mallory", "-n", "2", "--fields", "user,session.client,altered", "-o", "jsonl")
            command(environ, "show", *hostile)
            say("   By the trace id that the service gave to its last request:")
            command(environ, "show", "--trace-id", trace_id)
            before = backlog(environ)
            if rotel is not None:
                say("4. The collector (rotel, a real one) starts; what the dead service left behind is shipped.")
                rotel.start()
            else:
                say(f"4. {reason}: a receiver of otel_audit.testing stands in for the collector.")
                environ["OTEL_EXPORTER_OTLP_ENDPOINT"] = endpoint
            print(f"   The outage lasted {time.monotonic() - began:.1f} s, from the first request on.")
            command(environ, "ship", "--once")
            after = backlog(environ)
            sink.wait_for(before, timeout=20)
            return report(environ, sink, before, after)


def say(text: str) -> None:
    """Print a headline."""
    print(f"\n{text}", flush=True)


@contextlib.contextmanager
def service(environ: dict[str, str]) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """Run the login service, and give its process and port."""
    with subprocess.Popen(
        [sys.executable, "-m", "examples.login_service", "--port", "0"], env=environ, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None  # noqa: S101 - it is a pipe
            yield process, int(process.stdout.readline().rsplit(" ", 1)[-1])
        finally:
            process.kill()


def play(port: int) -> str:
    """Send logins, rightly, wrongly and hostile ones, over some seconds, and a logout; return the logout's trace id."""
    for number in range(ROUNDS):
        time.sleep(OUTAGE / ROUNDS)
        for user, password, agent in LOGINS:
            request(port, "/login", agent, f"r-{number}", user=user, password=password)
    return request(port, "/logout", "Gajim 1.9", "r-last", user="bob")


def request(port: int, path: str, agent: str, identity: str, **form: str) -> str:
    """Send one form; return the trace id that the service answers with."""
    body = urllib.parse.urlencode(form, errors="surrogateescape").encode()
    # http.client writes headers as Latin-1: so the bytes of any text, or of none, go out as they are.
    raw_agent = agent.encode("utf-8", "surrogateescape").decode("latin-1")
    headers = {"User-Agent": raw_agent, "X-Request-Id": identity}
    try:
        with urllib.request.urlopen(
            urllib.request.Request(f"http://127.0.0.1:{port}{path}", body, headers), timeout=10
        ) as answer:
            return str(answer.headers["X-Trace-Id"])
    except urllib.error.HTTPError as error:
        return str(error.headers["X-Trace-Id"])


def command(environ: dict[str, str], *arguments: str) -> None:
    """Run ``otel-audit`` as a user does, showing the command and what it prints."""
    print(f"$ otel-audit {' '.join(arguments)}", flush=True)
    subprocess.run([sys.executable, "-m", "otel_audit", *arguments], env=environ, check=False)


def backlog(environ: dict[str, str]) -> int:
    """Return how many records wait, showing the status."""
    command(environ, "status")
    done = subprocess.run(
        [sys.executable, "-m", "otel_audit", "status", "-o", "json"], env=environ, check=False, capture_output=True
    )
    return int(json.loads(done.stdout)["backlog"])


def shown(environ: dict[str, str], *options: str) -> list[dict[str, Any]]:
    """Return records in their JSON form."""
    done = subprocess.run(
        [sys.executable, "-m", "otel_audit", "show", "-o", "jsonl", *options],
        env=environ, check=True, capture_output=True, text=True,
    )  # fmt: skip
    return [json.loads(line) for line in done.stdout.splitlines()]


def report(environ: dict[str, str], sink: Collector, before: int, after: int) -> int:
    """Compare what the collector passed on with the archive; return the exit code."""
    # Who looked at the archive is recorded there and shipped, too; the looks that follow the shipment are not.
    recorded = {
        record["record_id"]
        for kind in ([], ["--admin"])
        for record in shown(environ, *kind, "--fields", "record_id,sequence")
        if record["sequence"] <= before
    }
    received = sink.record_ids
    say(f"5. Backlog before: {before}, after: {after}. The collector passed on {len(received)} records:")
    for event in sorted({record.event_name for record in sink.records}):
        count = sum(1 for record in sink.records if record.event_name == event)
        print(f"   {count:5d} {event}")
    missing, doubled = recorded - set(received), len(received) - len(set(received))
    print(f"   Recorded: {len(recorded)}. Missing: {len(missing)}. Doubled: {doubled}.")
    return 0 if recorded and not missing and after == 0 and before == len(recorded) else 1


if __name__ == "__main__":
    sys.exit(main())
