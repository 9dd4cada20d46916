"""The OTLP/HTTP sender against the testing collector, and against a real one."""

from __future__ import annotations

import email.utils
import gzip
import os
import threading
import time
from collections.abc import Iterator

import pytest
from google.rpc.status_pb2 import Status

from otel_audit.delivery.factory import make_sender
from otel_audit.delivery.http import HttpSender
from otel_audit.delivery.sender import Answer, Verdict
from otel_audit.errors import ConfigError
from otel_audit.otlp_settings import OtlpSettings, resolve
from otel_audit.testing import Collector, Reply
from tests.otlp_material import request_of
from tests.rotel import Rotel


def sender_to(endpoint: str, environ: dict[str, str] | None = None, **options: str) -> HttpSender:
    settings = resolve(environ or {}, endpoint=endpoint, **options)  # type: ignore[arg-type]
    assert settings is not None
    return HttpSender(settings)


def answer_to(reply: Reply, *, path: str = "/v1/logs", timeout: float = 5.0, request: bytes = b"") -> Answer:
    with Collector([reply]) as collector:
        sender = sender_to(collector.endpoint, path=path)
        try:
            return sender.send(request or request_of(3), timeout)
        finally:
            sender.close()


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector() as running:
        yield running


def test_an_accepted_request_arrives_whole(collector: Collector) -> None:
    """Every record arrives, under the path for logs, with the headers that were set and our user agent."""
    sender = sender_to(collector.endpoint, {"OTEL_EXPORTER_OTLP_HEADERS": "api-key=a%20b,x-y=1"})
    assert sender.send(request_of(5), 5) == Answer(Verdict.ACCEPTED)
    sender.close()
    assert collector.record_ids == [f"id-{number}" for number in range(5)]
    headers = collector.calls[0].headers
    assert headers["api-key"] == "a b"
    assert headers["x-y"] == "1"
    assert headers["user-agent"].startswith("otel-audit/")
    assert headers["content-type"] == "application/x-protobuf"
    assert "content-encoding" not in headers  # loopback


def test_gzip_is_used_where_it_is_stated(collector: Collector) -> None:
    """With compression the body is gzip, smaller, and decodes to the same records."""
    sender = sender_to(collector.endpoint, compression="gzip")
    request = request_of(100)
    assert sender.send(request, 5).verdict is Verdict.ACCEPTED
    sender.close()
    call = collector.calls[0]
    assert call.headers["content-encoding"] == "gzip"
    assert gzip.decompress(call.body) == request
    assert len(collector.records) == 100


def test_a_connection_is_kept_between_requests() -> None:
    """Requests that are answered follow each other on one connection."""
    ports = set()

    def script() -> None:
        ports.add(threading.get_ident())  # the collector gives each connection a thread

    with Collector(script) as collector:
        sender = sender_to(collector.endpoint)
        for _ in range(5):
            assert sender.send(request_of(1), 5).verdict is Verdict.ACCEPTED
        sender.close()
    assert len(ports) == 1


@pytest.mark.parametrize(
    ("status", "verdict"),
    [
        *[(status, Verdict.RETRY) for status in (429, 502, 503, 504)],
        *[(status, Verdict.REFUSED) for status in (400, 409, 412, 418, 422)],
        (413, Verdict.TOO_LARGE),
        *[(status, Verdict.BLOCKED) for status in (301, 302, 307, 401, 403, 404, 405, 407, 408, 415)],
        *[(status, Verdict.BLOCKED) for status in (500, 501, 505, 511)],
        *[(status, Verdict.ACCEPTED) for status in (200, 202, 204)],
    ],
)
def test_each_status_has_its_verdict(status: int, verdict: Verdict) -> None:
    """A status decides what becomes of the records, and the reason shows status and message."""
    # 204 has no body, not even an empty one with a type.
    answer = answer_to(Reply(status=status, message="the message" if status >= 400 else ""))
    assert answer.verdict is verdict
    assert answer.reason == "" if status < 300 else str(status) in answer.reason
    if status >= 400:
        assert answer.reason.endswith(": the message")


@pytest.mark.parametrize(
    ("status", "verdict"),
    [
        (200, Verdict.ACCEPTED),
        (202, Verdict.RETRY),
        (429, Verdict.RETRY),
        (503, Verdict.RETRY),
        (400, Verdict.REFUSED),
        (409, Verdict.REFUSED),
        (413, Verdict.TOO_LARGE),
        (401, Verdict.BLOCKED),
    ],
)
def test_the_audit_path_has_rules_of_its_own(status: int, verdict: Verdict) -> None:
    """On /v1/audit 202 means "not yet", and 409 that an id came twice with different content."""
    assert answer_to(Reply(status=status), path="/v1/audit").verdict is verdict


def test_partial_success_tells_how_many_were_rejected() -> None:
    """Rejected records make the answer partial, with their number and the collector's words."""
    answer = answer_to(Reply(rejected=2, message="no tenant"))
    assert answer == Answer(Verdict.PARTIAL, "2 records rejected: no tenant", rejected=2)


def test_a_warning_is_no_rejection() -> None:
    """A partial success that rejects nothing is accepted, and its message stays as the reason."""
    assert answer_to(Reply(message="slow down")) == Answer(Verdict.ACCEPTED, "warning: slow down")


def test_a_negative_rejection_is_not_believed() -> None:
    """A response that rejects minus one record is retried: taken for none, it could drop records."""
    assert answer_to(Reply(rejected=-1)).verdict is Verdict.RETRY


@pytest.mark.parametrize(
    ("content_type", "body", "verdict"),
    [
        ("application/json", b"{}", Verdict.ACCEPTED),
        ("application/json; charset=utf-8", b'{"partialSuccess":{}}', Verdict.ACCEPTED),
        ("application/json", b'{"partialSuccess":{"rejectedLogRecords":"2","errorMessage":"no"}}', Verdict.PARTIAL),
        ("application/json", b'{"partialSuccess":{"rejectedLogRecords":2}}', Verdict.PARTIAL),
        ("application/json", b'{"partialSuccess":[1]}', Verdict.RETRY),
        ("application/json", b"[" * 100_000, Verdict.RETRY),
        ("application/json", b"nonsense", Verdict.RETRY),
        ("application/x-protobuf", b"\x0a\x02\x08", Verdict.RETRY),  # truncated
        ("application/x-protobuf", b"\x12\x00", Verdict.ACCEPTED),  # a field that a newer protocol may have
        ("text/html", b"<html>Please log in</html>", Verdict.RETRY),
        ("text/plain", b"OK", Verdict.RETRY),
        ("application/octet-stream", b"\x0a\x02\x08\x01", Verdict.PARTIAL),
        ("application/x-protobuf", b"\x0a" + b"\xff" * (5 << 20), Verdict.RETRY),  # above 4 MiB
    ],
)
def test_a_success_is_believed_by_its_body(content_type: str, body: bytes, verdict: Verdict) -> None:
    """A 2xx counts as success only with the body of an OTLP collector; JSON is understood."""
    answer = answer_to(Reply(body=body, content_type=content_type))
    assert answer.verdict is verdict
    assert bool(answer.reason) == (verdict is not Verdict.ACCEPTED)


@pytest.mark.parametrize(
    ("value", "low", "high"),
    [
        ("7", 7, 7),
        ("0", 0, 0),
        ("999999999999", 3600, 3600),
        ("date:600", 500, 601),
        ("date:-600", 0, 0),
        ("-5", None, None),
        ("soon", None, None),
        ("1.5", None, None),
        ("٣", None, None),
        ("Mon, 99 Foo 2026 25:61:61 GMT", None, None),
    ],
)
def test_retry_after_is_seconds_or_a_date(value: str, low: int | None, high: int | None) -> None:
    """A usable Retry-After is honoured up to an hour; junk is as good as none."""
    if value.startswith("date:"):
        value = email.utils.formatdate(time.time() + int(value.removeprefix("date:")), usegmt=True)
    if not value.isascii():
        value = value.encode().decode("latin-1")
    answer = answer_to(Reply(status=503, headers={"Retry-After": value}))
    assert answer.verdict is Verdict.RETRY
    if low is None or high is None:
        assert answer.retry_after is None
    else:
        assert answer.retry_after is not None
        assert low <= answer.retry_after <= high


def test_the_reason_cannot_steer_a_terminal() -> None:
    """What a peer says is one line of printable characters, of bounded length."""
    answer = answer_to(Reply(status=400, message="\x1b[31mred\r\n\u202eevil " + "long " * 1000))
    assert len(answer.reason) <= 300
    assert answer.reason.isprintable()
    assert "\\x1b[31mred\\r\\n\\u202eevil" in answer.reason


def test_the_body_of_an_error_may_be_anything() -> None:
    """A web page as the body of an error is not quoted, plain text is, and broken protobuf does no harm."""
    assert (
        answer_to(Reply(status=503, body=b"<html>", content_type="text/html")).reason == "HTTP 503 Service Unavailable"
    )
    assert answer_to(Reply(status=503, body=b"busy", content_type="text/plain")).reason.endswith(": busy")
    assert answer_to(Reply(status=503, body=b"\xff\xff\xff")).reason == "HTTP 503 Service Unavailable"
    said = Status(message="later").SerializeToString()
    assert answer_to(Reply(status=503, body=said)).reason.endswith(": later")


@pytest.mark.parametrize(
    "reply", [Reply(drop="before"), Reply(drop="after"), Reply(lose_answer=True)], ids=["before", "after", "lost"]
)
def test_a_lost_connection_is_retried(reply: Reply) -> None:
    """However the connection is lost, the answer is RETRY, and the next request finds a new one."""
    with Collector([reply]) as collector:
        sender = sender_to(collector.endpoint)
        assert sender.send(request_of(2), 5).verdict is Verdict.RETRY
        assert len(collector.records) == (2 if reply.lose_answer else 0)
        assert sender.send(request_of(2), 5).verdict is Verdict.ACCEPTED
        sender.close()
        assert len(collector.records) == (4 if reply.lose_answer else 2)


def test_the_sender_outlives_its_collector() -> None:
    """While the collector is away every answer is RETRY; back on its port it is found again."""
    with Collector() as collector:
        sender = sender_to(collector.endpoint)
        assert sender.send(request_of(1), 5).verdict is Verdict.ACCEPTED
        collector.stop()
        for _ in range(3):
            away = sender.send(request_of(1), 5)
            assert away.verdict is Verdict.RETRY
            assert away.reason
        collector.start()
        assert sender.send(request_of(1), 5).verdict is Verdict.ACCEPTED
        sender.close()
        assert len(collector.records) == 2


def test_close_ends_an_attempt_in_another_thread() -> None:
    """Closing does not wait for the attempt under way, which answers at once; later ones say that it is closed."""
    with Collector([Reply(delay=30)]) as collector:
        sender = sender_to(collector.endpoint)
        answers: list[Answer] = []
        thread = threading.Thread(target=lambda: answers.append(sender.send(request_of(1), 30)))
        thread.start()
        while not collector.requests:
            time.sleep(0.01)
        started = time.monotonic()
        sender.close()
        sender.close()
        thread.join(5)
        assert time.monotonic() - started < 2
        assert answers == [Answer(Verdict.RETRY, "the sender was closed meanwhile")]
        assert sender.send(request_of(1), 5) == Answer(Verdict.RETRY, "the sender is closed")


def test_a_forked_child_has_connections_of_its_own(collector: Collector) -> None:
    """A child forked during an attempt of the parent sends at once, and the parent's connection goes on working."""
    slow = [Reply(), Reply(delay=1.0)]
    with Collector(slow) as parent_collector:
        sender = sender_to(parent_collector.endpoint)
        assert sender.send(request_of(1), 5).verdict is Verdict.ACCEPTED
        answers: list[Answer] = []
        thread = threading.Thread(target=lambda: answers.append(sender.send(request_of(1), 10)))
        thread.start()
        while parent_collector.requests < 2:
            time.sleep(0.01)
        child = os.fork()
        if child == 0:
            # The lock is held by a thread that does not exist here.
            answer = sender.send(request_of(1), 5)
            os._exit(0 if answer.verdict is Verdict.ACCEPTED else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        thread.join()
        assert answers == [Answer(Verdict.ACCEPTED)]
        assert sender.send(request_of(1), 5).verdict is Verdict.ACCEPTED
        sender.close()


def test_a_request_above_the_limit_is_not_sent(collector: Collector) -> None:
    """A request above 64 MiB is too large without asking."""
    sender = sender_to(collector.endpoint)
    assert sender.send(bytes(64 * 1024 * 1024 + 1), 5).verdict is Verdict.TOO_LARGE
    sender.close()
    assert collector.requests == 0


def test_credentials_are_sent_but_not_shown(collector: Collector) -> None:
    """User information becomes an Authorization header, a query goes along, and neither is in `endpoint`."""
    url = collector.endpoint.replace("http://", "http://us%40er:p%3Aw@") + "/v1/logs?token=secret"
    settings = resolve({"OTEL_EXPORTER_OTLP_LOGS_ENDPOINT": url})
    assert settings is not None
    sender = make_sender(settings)
    assert sender.send(request_of(1), 5).verdict is Verdict.ACCEPTED
    sender.close()
    assert collector.calls[0].headers["authorization"] == "Basic dXNAZXI6cDp3"  # us@er:p:w
    assert sender.endpoint == collector.endpoint + "/v1/logs"
    assert "dXNAZXI6cDp3" not in repr(settings)


def test_netrc_does_not_replace_the_header(collector: Collector, monkeypatch: pytest.MonkeyPatch) -> None:
    """An entry in .netrc leaves a configured Authorization header alone."""
    netrc = os.path.join(os.environ["HOME"], ".netrc")  # noqa: PTH118 - as requests does
    with open(netrc, "w", encoding="ascii", opener=lambda path, flags: os.open(path, flags, 0o600)) as file:
        file.write("machine 127.0.0.1 login someone password else\n")
    monkeypatch.setenv("NETRC", netrc)
    sender = sender_to(collector.endpoint, {"OTEL_EXPORTER_OTLP_HEADERS": "Authorization=Bearer%20token"})
    assert sender.send(request_of(1), 5).verdict is Verdict.ACCEPTED
    sender.close()
    assert collector.calls[0].headers["authorization"] == "Bearer token"


def test_settings_of_another_protocol_are_refused() -> None:
    """A sender made with the settings of gRPC raises instead of posting to a gRPC port."""
    with pytest.raises(ConfigError, match="grpc"):
        HttpSender(OtlpSettings("grpc", "localhost:4317"))


def test_a_real_collector_takes_it(collector: Collector) -> None:
    """Rotel accepts plain and compressed requests, and forwards every record."""
    with Rotel(collector.endpoint) as rotel:
        for compression in ("none", "gzip"):
            sender = sender_to(rotel.http_endpoint, compression=compression)
            assert sender.send(request_of(500), 10).verdict is Verdict.ACCEPTED
            sender.close()
        assert collector.wait_for(1000, timeout=20)
    assert len(collector.records) == 1000
    assert set(collector.record_ids) == {f"id-{number}" for number in range(500)}
