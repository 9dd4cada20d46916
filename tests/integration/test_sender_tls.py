"""TLS, over both protocols: what is trusted, what is not, and what the answer says about it."""

from __future__ import annotations

from pathlib import Path

import pytest

from otel_audit.delivery.factory import make_sender
from otel_audit.delivery.sender import Answer, Verdict
from otel_audit.otlp_settings import Protocol, resolve
from otel_audit.testing import Collector
from tests.otlp_material import Authority, Pair, request_of

PROTOCOLS: list[Protocol] = ["http/protobuf", "grpc"]
pytestmark = pytest.mark.parametrize("protocol", PROTOCOLS)


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


def serving(pair: Pair, client_ca: str | None = None) -> Collector:
    return Collector(certificate=pair.certificate, key=pair.key, client_ca=client_ca)


def answer_of(collector: Collector, protocol: Protocol, *, scheme: str = "https", **certificates: str) -> Answer:
    """Send one record, trusting the files given as ``ca``, ``certificate`` and ``key``, the environment's way."""
    names = {"ca": "CERTIFICATE", "certificate": "CLIENT_CERTIFICATE", "key": "CLIENT_KEY"}
    environ = {f"OTEL_EXPORTER_OTLP_{names[name]}": path for name, path in certificates.items()}
    endpoint = collector.grpc_endpoint if protocol == "grpc" else collector.endpoint
    url = f"{scheme}://{endpoint.partition('//')[2]}"
    settings = resolve(environ, endpoint=url, protocol=protocol)
    assert settings is not None
    sender = make_sender(settings)
    try:
        return sender.send(request_of(1), 5)
    finally:
        sender.close()


def test_a_trusted_certificate_is_accepted(protocol: Protocol, authority: Authority) -> None:
    """With the authority's certificate configured the records arrive over TLS."""
    with serving(authority.issue("server")) as collector:
        assert answer_of(collector, protocol, ca=authority.certificate) == Answer(Verdict.ACCEPTED)
        assert collector.record_ids == ["id-0"]


def test_an_expired_certificate_blocks(protocol: Protocol, authority: Authority) -> None:
    """An expired certificate blocks the destination, and the reason says so."""
    with serving(authority.issue("server", expired=True)) as collector:
        answer = answer_of(collector, protocol, ca=authority.certificate)
    assert answer.verdict is Verdict.BLOCKED
    assert "expired" in answer.reason


def test_a_certificate_for_another_host_blocks(protocol: Protocol, authority: Authority) -> None:
    """A certificate for another name blocks the destination, and the reason says so."""
    with serving(authority.issue("server", host="other.example.com")) as collector:
        answer = answer_of(collector, protocol, ca=authority.certificate)
    assert answer.verdict is Verdict.BLOCKED
    assert "127.0.0.1" in answer.reason


def test_an_unknown_authority_blocks(protocol: Protocol, authority: Authority, tmp_path: Path) -> None:
    """A certificate of an authority that is not trusted blocks, with another authority configured and with none."""
    other = Authority(tmp_path, "other")
    with serving(authority.issue("server")) as collector:
        answers = [answer_of(collector, protocol, ca=other.certificate), answer_of(collector, protocol)]
    assert [answer.verdict for answer in answers] == [Verdict.BLOCKED] * 2
    assert all("certificate is not accepted" in answer.reason for answer in answers)


def test_a_plaintext_port_blocks(protocol: Protocol, authority: Authority) -> None:
    """TLS to a port that does not speak it blocks, and the reason says so."""
    with Collector() as collector:
        answer = answer_of(collector, protocol, ca=authority.certificate)
        assert collector.requests == 0
    assert answer.verdict is Verdict.BLOCKED
    assert "does not speak TLS" in answer.reason


def test_plaintext_to_a_tls_port_loses_nothing(protocol: Protocol, authority: Authority) -> None:
    """Plain text to a TLS port never condemns the records."""
    with serving(authority.issue("server")) as collector:
        answer = answer_of(collector, protocol, scheme="http")
        assert collector.requests == 0
    assert answer.verdict in (Verdict.RETRY, Verdict.BLOCKED)


def test_a_client_certificate_is_shown(protocol: Protocol, authority: Authority) -> None:
    """With a client certificate a collector that demands one accepts."""
    client = authority.issue("client")
    with serving(authority.issue("server"), authority.certificate) as collector:
        answer = answer_of(
            collector, protocol, ca=authority.certificate, certificate=client.certificate, key=client.key
        )
        assert answer == Answer(Verdict.ACCEPTED)
        assert len(collector.records) == 1


def test_certificate_and_key_may_share_a_file(protocol: Protocol, authority: Authority, tmp_path: Path) -> None:
    """A client certificate whose file holds the key too needs no second variable."""
    client = authority.issue("client")
    both = tmp_path / "both.pem"
    both.write_text(Path(client.certificate).read_text() + Path(client.key).read_text())
    with serving(authority.issue("server"), authority.certificate) as collector:
        answer = answer_of(collector, protocol, ca=authority.certificate, certificate=str(both))
    assert answer == Answer(Verdict.ACCEPTED)


def test_a_missing_client_certificate_blocks(protocol: Protocol, authority: Authority) -> None:
    """Where the collector demands a client certificate and none is set, nothing arrives, and the reason suggests it."""
    with serving(authority.issue("server"), authority.certificate) as collector:
        answers = [answer_of(collector, protocol, ca=authority.certificate) for _ in range(5)]
        assert collector.requests == 0
    # With TLS 1.3 the refusal comes after the handshake, and gRPC tells no more than that the connection was closed;
    # over HTTP a reset may overtake it, though not every time.
    wanted = Verdict.RETRY if protocol == "grpc" else Verdict.BLOCKED
    told = [answer for answer in answers if answer.verdict is wanted and "want" in answer.reason]
    assert told, answers
    assert {answer.verdict for answer in answers} <= {Verdict.BLOCKED, Verdict.RETRY}


@pytest.mark.parametrize("name", ["ca", "certificate"])
def test_a_missing_file_blocks(protocol: Protocol, authority: Authority, name: str) -> None:
    """A certificate file that is not there is named in the reason, instead of raising in the shipper."""
    with serving(authority.issue("server")) as collector:
        answer = answer_of(collector, protocol, **{name: "/nowhere/file.pem"})
    assert answer.verdict is Verdict.BLOCKED
    assert "/nowhere/file.pem" in answer.reason


def test_a_broken_file_blocks(protocol: Protocol, authority: Authority, tmp_path: Path) -> None:
    """A certificate file that holds none blocks too."""
    broken = tmp_path / "broken.pem"
    broken.write_text("no certificate")
    with serving(authority.issue("server")) as collector:
        answer = answer_of(collector, protocol, ca=str(broken))
        assert collector.requests == 0
    assert answer.verdict is Verdict.BLOCKED
