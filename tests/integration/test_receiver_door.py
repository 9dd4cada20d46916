"""Who may send to the receiver, over what, and where it does not listen."""

from __future__ import annotations

import datetime as dt
import ipaddress
import resource
import socket
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.command_line import otel_audit
from tests.receiving import Receiving, binary, message, post, records, status_of

TOKEN = "0123456789abcdef0123456789abcdef"


@pytest.fixture
def token_file(tmp_path: Path) -> Path:
    """A file with a token that only its owner can read."""
    path = tmp_path / "token"
    path.write_text(f"{TOKEN}\n")
    path.chmod(0o600)
    return path


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1, and its key."""
    folder = tmp_path_factory.mktemp("tls")
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "receiver")])
    now = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    (folder / "certificate.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    (folder / "key.pem").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return folder / "certificate.pem", folder / "key.pem"


@pytest.fixture
def named(tmp_path: Path, pair: tuple[Path, Path], token_file: Path) -> Iterator[dict[str, object]]:
    """Files by name, and a port that somebody listens on."""
    short = tmp_path / "short"
    short.write_text("secret")
    short.chmod(0o600)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        taken = listening.getsockname()[1]
        yield {"certificate": pair[0], "key": pair[1], "token": token_file, "taken": taken, "short": short}


@pytest.mark.parametrize("where", ["file", "environment"])
def test_a_token_is_demanded(archive_path: Path, token_file: Path, where: str) -> None:
    """With a token, only those who send it are answered with more than 401; the state of health is no secret."""
    body = binary(message())
    receiving = (
        Receiving(archive_path, "--token-file", token_file)
        if where == "file"
        else Receiving(archive_path, OTEL_AUDIT_TOKEN=TOKEN)
    )
    with receiving:
        for wrong in ({}, {"Authorization": f"Bearer {TOKEN}x"}, {"Authorization": f"Basic {TOKEN}"}):
            answer = post(receiving.url, body, **wrong)  # type: ignore[arg-type]
            assert (answer.status, answer.headers["www-authenticate"]) == (401, "Bearer")
            assert status_of(answer)[0] == 16
        assert post(receiving.url, body, Authorization="Bearer \xff").status == 401
        assert not records(archive_path)
        assert post(receiving.url, body, Authorization=f"Bearer {TOKEN}").status == 200
        assert post(receiving.url, body, Authorization=f"bearer {TOKEN}").status == 200
        assert post(receiving.url, b"", "/healthz", method="GET").status == 200
    assert len(records(archive_path)) == 2


def test_tls(archive_path: Path, pair: tuple[Path, Path], token_file: Path) -> None:
    """With certificate, key and token it listens on all addresses, over TLS."""
    certificate, key = pair
    options = ("--certificate", certificate, "--key", key, "--token-file", token_file)
    with Receiving(archive_path, *options, listen="0.0.0.0:0") as receiving:
        assert receiving.url.startswith("https://0.0.0.0:")
        url = receiving.url.replace("0.0.0.0", "127.0.0.1")
        answer = post(url, binary(message()), trust=certificate, Authorization=f"Bearer {TOKEN}")
        assert answer.status == 200
        with pytest.raises(ConnectionError):
            post(url.replace("https", "http"), binary(message()))
    assert len(records(archive_path)) == 1


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["--listen", "0.0.0.0:0"], "without a token and TLS: listen on 127.0.0.1"),
        (["--listen", "[::]:0"], "without a token and TLS"),
        (["--listen", "audit.example.com:4318"], "without a token and TLS"),
        (["--listen", "0.0.0.0:0", "--certificate", "{certificate}", "--key", "{key}"], "without a token:"),
        (["--listen", "0.0.0.0:0", "--token-file", "{token}"], "without TLS:"),
        (["--listen", "127.0.0.1"], "'127.0.0.1' is no address to listen on"),
        (["--listen", "127.0.0.1:99999"], "is no address to listen on"),
        (["--listen", ":4318"], "is no address to listen on"),
        (["--listen", "http://127.0.0.1:4318"], "is no address to listen on"),
        (["--listen", "127.0.0.1:{taken}"], "Address already in use: find out what uses the port"),
        (["--listen", "nobody.localhost:0"], "cannot listen on nobody.localhost:0"),
        (["--listen", "127.0.0.1:0", "--key", "{key}"], "has no certificate: give --certificate"),
        (["--listen", "127.0.0.1:0", "--certificate", "{certificate}"], "cannot be used"),
        (["--listen", "127.0.0.1:0", "--certificate", "{key}", "--key", "{certificate}"], "cannot be used"),
        (["--listen", "127.0.0.1:0", "--token-file", "{certificate}"], "is open to others"),
        (["--listen", "127.0.0.1:0", "--token-file", "{short}"], "is no token: it must have 16 or more"),
        (["--max-body", "0"], "Invalid value for '--max-body'"),
    ],
)
def test_what_it_refuses_to_do(tmp_path: Path, named: dict[str, object], options: list[str], complaint: str) -> None:
    """Where others could send unseen, or nothing could be answered, it does not start, and says what to do."""
    arguments = [option.format(**named) for option in options]
    done = otel_audit("receive", "--archive", tmp_path / "audit.db", *arguments, status=2)
    assert complaint in done.stderr
    assert done.stderr.count("\n") == 1
    assert "secret" not in done.stderr


@pytest.mark.parametrize(
    "endpoint", ["http://127.0.0.1:{}", "http://localhost:{}/", "http://127.0.0.1:{}/prefix", "http://[::1]:{}"]
)
def test_it_does_not_ship_to_itself(tmp_path: Path, endpoint: str) -> None:
    """Records that it would send to itself are refused before any is taken."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    done = otel_audit(
        "receive", "--archive", tmp_path / "audit.db", "--listen", f"127.0.0.1:{port}", status=2,
        OTEL_EXPORTER_OTLP_ENDPOINT=endpoint.format(port),
    )  # fmt: skip
    assert "which is this receiver" in done.stderr


def test_whoever_only_holds_connections_keeps_nobody_out(archive_path: Path) -> None:
    """Connections whose requests never begin give way to others, also where there are more than file descriptors."""
    receiving = Receiving(archive_path)
    receiving.start()
    assert receiving.process is not None
    try:
        resource.prlimit(receiving.process.pid, resource.RLIMIT_NOFILE, (128, 128))
        where = urlsplit(receiving.url)
        with ExitStack() as held:
            for _ in range(200):
                connection = held.enter_context(socket.create_connection((where.hostname, where.port), timeout=60))
                with suppress(ConnectionError):
                    connection.sendall(b"POST /v1/logs HTTP/1.1\r\n")
            for _ in range(3):
                assert post(receiving.url, binary(message())).status == 200
    finally:
        # It may complain of too few descriptors, once.
        receiving.stop(check=False)
    assert receiving.complaints.count("Too many open files") <= 1
    assert len(records(archive_path)) == 3


def test_a_weak_token_of_the_environment_is_refused_and_not_shown(tmp_path: Path) -> None:
    """A token that is none is named by its variable, never by its text."""
    done = otel_audit(
        "receive", "--archive", tmp_path / "audit.db", status=2, OTEL_AUDIT_TOKEN="hunter2 hunter2 hunter2"
    )
    assert "OTEL_AUDIT_TOKEN is no token" in done.stderr
    assert "hunter2" not in done.stderr
