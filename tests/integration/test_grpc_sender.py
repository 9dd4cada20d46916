"""The OTLP/gRPC sender against the testing collector, and against a real one."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator

import pytest
from google.protobuf.duration_pb2 import Duration
from google.rpc.error_details_pb2 import RetryInfo
from google.rpc.status_pb2 import Status

from otel_audit.delivery.factory import make_sender
from otel_audit.delivery.grpc import GrpcSender
from otel_audit.delivery.sender import Answer, Verdict
from otel_audit.errors import ConfigError
from otel_audit.otlp_settings import OtlpSettings, resolve
from otel_audit.testing import Collector, Reply
from tests.otlp_material import request_of
from tests.rotel import Rotel


def sender_to(endpoint: str, environ: dict[str, str] | None = None, compression: str | None = None) -> GrpcSender:
    settings = resolve(environ or {}, endpoint=endpoint, protocol="grpc", compression=compression)
    assert settings is not None
    return GrpcSender(settings)


def answer_to(reply: Reply, *, timeout: float = 5.0, request: bytes = b"") -> Answer:
    with Collector([reply]) as collector:
        sender = sender_to(collector.grpc_endpoint)
        try:
            return sender.send(request or request_of(3), timeout)
        finally:
            sender.close()


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector() as running:
        yield running


@pytest.mark.parametrize("compression", ["none", "gzip"])
def test_an_accepted_request_arrives_whole(collector: Collector, compression: str) -> None:
    """Every record arrives, with the metadata that was set and our user agent."""
    environ = {"OTEL_EXPORTER_OTLP_HEADERS": "Api-Key=a%20b,user-agent=other"}
    sender = sender_to(collector.grpc_endpoint, environ, compression)
    assert sender.send(request_of(5), 5) == Answer(Verdict.ACCEPTED)
    sender.close()
    assert collector.record_ids == [f"id-{number}" for number in range(5)]
    headers = collector.calls[0].headers
    assert headers["api-key"] == "a b"
    assert headers["user-agent"].startswith("otel-audit/")


@pytest.mark.parametrize(
    ("code", "verdict"),
    [
        ("CANCELLED", Verdict.RETRY),
        ("DEADLINE_EXCEEDED", Verdict.RETRY),
        ("ABORTED", Verdict.RETRY),
        ("OUT_OF_RANGE", Verdict.RETRY),
        ("UNAVAILABLE", Verdict.RETRY),
        ("DATA_LOSS", Verdict.RETRY),
        ("INVALID_ARGUMENT", Verdict.REFUSED),
        ("FAILED_PRECONDITION", Verdict.REFUSED),
        ("ALREADY_EXISTS", Verdict.REFUSED),
        ("UNAUTHENTICATED", Verdict.BLOCKED),
        ("PERMISSION_DENIED", Verdict.BLOCKED),
        ("UNIMPLEMENTED", Verdict.BLOCKED),
        ("NOT_FOUND", Verdict.BLOCKED),
        ("INTERNAL", Verdict.BLOCKED),
        ("UNKNOWN", Verdict.BLOCKED),
    ],
)
def test_each_code_has_its_verdict(code: str, verdict: Verdict) -> None:
    """A code decides what becomes of the records, and the reason shows code and message."""
    assert answer_to(Reply(code=code, message="the message")) == Answer(verdict, f"{code}: the message")


@pytest.mark.parametrize(
    ("reply", "size", "verdict"),
    [
        (Reply(code="RESOURCE_EXHAUSTED", message="quota", retry_after=1.5), 10, Verdict.RETRY),
        (Reply(code="RESOURCE_EXHAUSTED", message="grpc: received message larger than max"), 10, Verdict.TOO_LARGE),
        (Reply(code="RESOURCE_EXHAUSTED", message="gRPC message exceeds maximum size 4: 8"), 10, Verdict.TOO_LARGE),
        (Reply(code="RESOURCE_EXHAUSTED", message="no words for it"), 5 << 20, Verdict.TOO_LARGE),
        (Reply(code="RESOURCE_EXHAUSTED", message="data refused due to high memory usage"), 10, Verdict.BLOCKED),
        (Reply(code="RESOURCE_EXHAUSTED"), 10, Verdict.BLOCKED),
        (Reply(code="OUT_OF_RANGE", message="decoded message length too large: found 8 bytes"), 10, Verdict.TOO_LARGE),
        (Reply(code="UNKNOWN", message="Stream removed"), 10, Verdict.RETRY),
    ],
)  # fmt: skip
def test_exhaustion_is_told_apart(reply: Reply, size: int, verdict: Verdict) -> None:
    """A message above a limit is taken apart; a collector short of memory or quota costs no record."""
    assert answer_to(reply, request=request_of(1, size=size)).verdict is verdict


@pytest.mark.parametrize(("asked", "kept"), [(0.0, 0.0), (1.25, 1.25), (7200.0, 3600.0), (-3.0, None), (None, None)])
def test_retry_info_is_honoured(asked: float | None, kept: float | None) -> None:
    """The delay of a RetryInfo is passed on, up to an hour; a negative one is as good as none."""
    answer = answer_to(Reply(code="UNAVAILABLE", message="busy", retry_after=asked))
    assert answer == Answer(Verdict.RETRY, "UNAVAILABLE: busy", retry_after=kept)


def test_broken_details_do_no_harm() -> None:
    """Status details that are no protobuf, or hold a broken RetryInfo, leave the code to speak for itself."""
    broken = Status(message="inner")
    broken.details.add(type_url="type.googleapis.com/google.rpc.RetryInfo", value=b"\xff")
    broken.details.add().Pack(Duration(seconds=1))
    last = broken.details.add()
    last.Pack(RetryInfo(retry_delay=Duration(seconds=2)))
    for body, reason, delay in (
        (b"\xff\xff", "UNAVAILABLE: outer", None),
        (broken.SerializeToString(), "UNAVAILABLE: outer (inner)", 2.0),
    ):
        answer = answer_to(Reply(code="UNAVAILABLE", message="outer", body=body))
        assert answer == Answer(Verdict.RETRY, reason, retry_after=delay)


def test_partial_success_tells_how_many_were_rejected() -> None:
    """Rejected records make the answer partial; a message alone is a warning."""
    assert answer_to(Reply(rejected=2, message="no")) == Answer(Verdict.PARTIAL, "2 records rejected: no", rejected=2)
    assert answer_to(Reply(message="slow down")) == Answer(Verdict.ACCEPTED, "warning: slow down")


@pytest.mark.parametrize("body", [b"<html>", b"\x0a\x02\x08", b"\x0a" + b"\xff" * (5 << 20)])
def test_an_unreadable_response_is_retried(body: bytes) -> None:
    """OK with a body that is no response, or one above 4 MiB, is no success, and never too large a request."""
    answer = answer_to(Reply(body=body))
    assert answer.verdict is Verdict.RETRY
    assert answer.reason


def test_the_reason_cannot_steer_a_terminal() -> None:
    """What a peer says is one line of printable characters, of bounded length."""
    answer = answer_to(Reply(code="INVALID_ARGUMENT", message="\x1b[31mred\r\n\u202eevil " + "long " * 500))
    assert len(answer.reason) <= 300
    assert answer.reason.isprintable()
    assert "\\x1b[31mred\\r\\n\\u202eevil" in answer.reason


@pytest.mark.parametrize(
    "reply", [Reply(drop="before"), Reply(drop="after"), Reply(lose_answer=True)], ids=["before", "after", "lost"]
)
def test_a_lost_connection_is_retried(reply: Reply) -> None:
    """However the connection is lost, the answer is RETRY, and the next request finds a new one."""
    with Collector([reply]) as collector:
        sender = sender_to(collector.grpc_endpoint)
        assert sender.send(request_of(2), 5).verdict is Verdict.RETRY
        assert len(collector.records) == (2 if reply.lose_answer else 0)
        assert sender.send(request_of(2), 5).verdict is Verdict.ACCEPTED
        sender.close()
        assert len(collector.records) == (4 if reply.lose_answer else 2)


@pytest.mark.parametrize("reply", [Reply(delay=10), Reply(drip=0.2, message="x" * 1000)], ids=["silent", "drip"])
def test_the_deadline_holds(reply: Reply) -> None:
    """A peer that is silent or drips is left in time."""
    started = time.monotonic()
    answer = answer_to(reply, timeout=0.6)
    assert time.monotonic() - started < 2
    assert answer.verdict is Verdict.RETRY
    assert answer.reason.startswith("DEADLINE_EXCEEDED")


def test_the_sender_outlives_its_collector() -> None:
    """While the collector is away every answer is RETRY; back on its port it is found at once."""
    with Collector() as collector:
        sender = sender_to(collector.grpc_endpoint)
        assert sender.send(request_of(1), 5).verdict is Verdict.ACCEPTED
        collector.stop()
        for _ in range(3):
            assert sender.send(request_of(1), 5).verdict is Verdict.RETRY
        collector.start()
        assert sender.send(request_of(1), 5).verdict is Verdict.ACCEPTED
        sender.close()
        assert len(collector.records) == 2


def test_close_ends_an_attempt_in_another_thread() -> None:
    """Closing ends the attempt under way; later ones say that the sender is closed."""
    with Collector([Reply(delay=30)]) as collector:
        sender = sender_to(collector.grpc_endpoint)
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
        assert [answer.verdict for answer in answers] == [Verdict.RETRY]
        assert sender.send(request_of(1), 5) == Answer(Verdict.RETRY, "the sender is closed")


def test_a_forked_child_has_a_channel_of_its_own() -> None:
    """A child forked after the parent's first call sends over a channel of its own, and the parent's stays usable."""
    with Rotel() as rotel:  # not in this process: a gRPC server would not outlive the fork as a server
        sender = sender_to(rotel.grpc_endpoint)
        assert sender.send(request_of(1), 5).verdict is Verdict.ACCEPTED
        child = os.fork()
        if child == 0:
            verdicts = [sender.send(request_of(1), 5).verdict for _ in range(2)]
            os._exit(0 if verdicts == [Verdict.ACCEPTED] * 2 else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert sender.send(request_of(1), 5).verdict is Verdict.ACCEPTED
        sender.close()


def test_forking_during_a_call_harms_nobody() -> None:
    """Children forked while a thread is in a call send as well, and the thread's call ends with RETRY at worst."""
    with Rotel() as rotel:
        sender = sender_to(rotel.grpc_endpoint)
        done = threading.Event()
        verdicts: set[Verdict] = set()

        def ship() -> None:
            while not done.is_set():
                verdicts.add(sender.send(request_of(200), 5).verdict)

        thread = threading.Thread(target=ship)
        thread.start()
        codes = []
        for _ in range(20):
            child = os.fork()
            if child == 0:
                os._exit(0 if sender.send(request_of(1), 5).verdict is Verdict.ACCEPTED else 1)
            codes.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        done.set()
        thread.join(10)
        assert codes == [0] * 20
        assert verdicts <= {Verdict.ACCEPTED, Verdict.RETRY}
        assert sender.send(request_of(1), 5).verdict is Verdict.ACCEPTED
        sender.close()


def test_a_request_above_the_limit_is_not_sent(collector: Collector) -> None:
    """A request above 64 MiB is too large without asking; one of 20 MiB passes."""
    sender = sender_to(collector.grpc_endpoint)
    assert sender.send(bytes(64 * 1024 * 1024 + 1), 5).verdict is Verdict.TOO_LARGE
    assert collector.requests == 0
    assert sender.send(request_of(1, size=20 << 20), 20).verdict is Verdict.ACCEPTED
    sender.close()


def test_metadata_that_grpc_cannot_send_blocks(collector: Collector) -> None:
    """A header whose name gRPC keeps to itself is an operator's work, not an exception in the shipper."""
    sender = sender_to(collector.grpc_endpoint, {"OTEL_EXPORTER_OTLP_HEADERS": "bad!name=1"})
    answer = sender.send(request_of(1), 5)
    sender.close()
    assert answer.verdict is Verdict.BLOCKED
    assert "metadata" in answer.reason


def test_the_factory_chooses_by_protocol(collector: Collector) -> None:
    """Settings for gRPC make a gRPC sender, and the sender for gRPC refuses those for HTTP."""
    settings = resolve({"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, endpoint=collector.grpc_endpoint)
    assert settings is not None
    sender = make_sender(settings)
    assert sender.endpoint == collector.grpc_endpoint
    assert sender.send(request_of(1), 5).verdict is Verdict.ACCEPTED
    sender.close()
    with pytest.raises(ConfigError, match="http/protobuf"):
        GrpcSender(OtlpSettings("http/protobuf", "http://localhost:4318/v1/logs"))


def test_a_real_collector_takes_it(collector: Collector) -> None:
    """Rotel accepts plain and compressed requests, and forwards every record."""
    with Rotel(collector.endpoint) as rotel:
        for compression in ("none", "gzip"):
            sender = sender_to(rotel.grpc_endpoint, compression=compression)
            assert sender.send(request_of(500), 10).verdict is Verdict.ACCEPTED
            sender.close()
        assert collector.wait_for(1000, timeout=20)
    assert set(collector.record_ids) == {f"id-{number}" for number in range(500)}


def test_a_real_collector_says_what_is_too_large() -> None:
    """Rotel's limit of 4 MiB, which it reports with a code that means "retry", leads to bisecting."""
    with Rotel() as rotel:
        sender = sender_to(rotel.grpc_endpoint, compression="none")
        answer = sender.send(request_of(6, size=1 << 20), 10)
        sender.close()
    assert answer.verdict is Verdict.TOO_LARGE, answer
