"""How the OTLP settings are resolved from arguments and environment."""

from __future__ import annotations

import re
from typing import Any

import pytest

from otel_audit.errors import ConfigError
from otel_audit.otlp_settings import OtlpSettings, is_loopback, resolve

BASE = "OTEL_EXPORTER_OTLP_"
LOGS = "OTEL_EXPORTER_OTLP_LOGS_"


def resolved(environ: dict[str, str] | None = None, **arguments: Any) -> OtlpSettings:
    settings = resolve(environ or {}, **arguments)
    assert settings is not None
    return settings


def test_without_an_endpoint_there_are_no_settings() -> None:
    """Neither argument nor environment name an endpoint: None, unless the default is asked for."""
    assert resolve({}) is None
    assert resolve({f"{BASE}PROTOCOL": "grpc", f"{BASE}TIMEOUT": "5"}) is None
    assert resolved(default=True).endpoint == "http://localhost:4318/v1/logs"
    grpc = resolved({f"{BASE}PROTOCOL": "grpc"}, default=True)
    assert (grpc.endpoint, grpc.insecure) == ("localhost:4317", True)


def test_defaults() -> None:
    """With nothing but an endpoint: HTTP, ten seconds, no headers, compression off loopback."""
    settings = resolved(endpoint="https://collector.example.com")
    assert settings == OtlpSettings(
        protocol="http/protobuf", endpoint="https://collector.example.com/v1/logs", timeout=10.0, insecure=False
    )
    assert settings.gzip


@pytest.mark.parametrize(
    ("environ", "argument", "expected"),
    [
        ({f"{BASE}ENDPOINT": "http://c:4318"}, None, "http://c:4318/v1/logs"),
        ({f"{BASE}ENDPOINT": "http://c:4318/"}, None, "http://c:4318/v1/logs"),
        ({f"{BASE}ENDPOINT": "http://c:4318/otlp"}, None, "http://c:4318/otlp/v1/logs"),
        ({f"{BASE}ENDPOINT": "http://c:4318/otlp/?t=1#x"}, None, "http://c:4318/otlp/v1/logs?t=1"),
        ({f"{LOGS}ENDPOINT": "http://c:4318/my/logs/"}, None, "http://c:4318/my/logs/"),
        ({f"{LOGS}ENDPOINT": "http://c:4318"}, None, "http://c:4318/"),
        ({f"{LOGS}ENDPOINT": "http://logs/a", f"{BASE}ENDPOINT": "http://base"}, None, "http://logs/a"),
        ({f"{LOGS}ENDPOINT": " ", f"{BASE}ENDPOINT": " http://base "}, None, "http://base/v1/logs"),
        ({f"{LOGS}ENDPOINT": "http://logs/a"}, "http://argument:1", "http://argument:1/v1/logs"),
        ({}, "HTTPS://Collector", "https://Collector/v1/logs"),
        ({}, "http://[::1]:4318", "http://[::1]:4318/v1/logs"),
        ({}, "http://user:pass@c:1/x", "http://c:1/x/v1/logs"),
    ],
)
def test_the_endpoint_for_http(environ: dict[str, str], argument: str | None, expected: str) -> None:
    """The variable for logs is the whole URL; the general one, and the argument, get the path appended."""
    assert resolved(environ, endpoint=argument).endpoint == expected


def test_the_path_can_be_another() -> None:
    """The strict draft's path is appended to a base URL, and not to a whole one."""
    assert resolved(endpoint="http://c", path="/v1/audit").endpoint == "http://c/v1/audit"
    assert resolved({f"{LOGS}ENDPOINT": "http://c/v1/logs"}, path="/v1/audit").endpoint == "http://c/v1/logs"


@pytest.mark.parametrize(
    ("url", "insecure_variable", "expected", "insecure"),
    [
        ("http://c:4317", None, "c:4317", True),
        ("https://c:4317", None, "c:4317", False),
        ("http://c:4317", "false", "c:4317", True),
        ("https://c:4317", "true", "c:4317", False),
        ("c:4317", None, "c:4317", False),
        ("c:4317", "true", "c:4317", True),
        ("c:4317", "TRUE", "c:4317", True),
        ("c:4317", "false", "c:4317", False),
        ("http://c:4317/path?query", None, "c:4317", True),
        ("https://c", None, "c:443", False),
        ("http://c", None, "c:80", True),
        ("http://c:", None, "c:80", True),
        ("[::1]:4317", "true", "[::1]:4317", True),
        ("http://user:pass@c:4317", None, "c:4317", True),
    ],
)
def test_the_endpoint_for_grpc(url: str, insecure_variable: str | None, expected: str, insecure: bool) -> None:
    """The scheme decides over TLS; where there is none …INSECURE does, and TLS is its default. Paths do not matter."""
    environ = {f"{BASE}ENDPOINT": url, f"{BASE}PROTOCOL": "grpc"}
    if insecure_variable is not None:
        environ[f"{BASE}INSECURE"] = insecure_variable
    settings = resolved(environ)
    assert (settings.endpoint, settings.insecure) == (expected, insecure)


@pytest.mark.parametrize(
    ("name", "texts", "values"),
    [
        ("PROTOCOL", ("http/protobuf", "grpc"), ("http/protobuf", "grpc")),
        ("TIMEOUT", ("5", "2.5"), (5.0, 2.5)),
        ("COMPRESSION", ("gzip", "none"), ("gzip", "none")),
        ("CERTIFICATE", ("/a", "/b"), ("/a", "/b")),
        ("CLIENT_CERTIFICATE", ("/a", "/b"), ("/a", "/b")),
        ("HEADERS", ("a=1,b=2", "c=3"), ((("a", "1"), ("b", "2")), (("c", "3"),))),
        ("INSECURE", ("true", "false"), (True, False)),
    ],
)
def test_the_variable_for_logs_wins(name: str, texts: tuple[str, str], values: tuple[object, object]) -> None:
    """Each variable is honoured; its form for logs replaces the general one as a whole; empty is not set."""
    (general, special), (from_general, from_special), field = texts, values, name.lower()
    arguments = {"endpoint": "c:4317", "protocol": "grpc"} if name == "INSECURE" else {"endpoint": "http://c"}
    assert getattr(resolved({BASE + name: general}, **arguments), field) == from_general
    assert getattr(resolved({BASE + name: general, LOGS + name: special}, **arguments), field) == from_special
    assert getattr(resolved({BASE + name: general, LOGS + name: "  "}, **arguments), field) == from_general


def test_client_key() -> None:
    """The key of a client certificate comes along, and alone it is an error that names the missing variable."""
    environ = {f"{LOGS}CLIENT_KEY": "/k", f"{BASE}CLIENT_CERTIFICATE": "/c"}
    settings = resolved(environ, endpoint="https://c")
    assert (settings.client_key, settings.client_certificate) == ("/k", "/c")
    with pytest.raises(ConfigError, match="OTEL_EXPORTER_OTLP_LOGS_CLIENT_CERTIFICATE"):
        resolve({f"{LOGS}CLIENT_KEY": "/k"}, endpoint="https://c")


def test_arguments_win() -> None:
    """Every argument is stronger than both its variables; headers are merged by name."""
    environ = {
        f"{LOGS}PROTOCOL": "http/protobuf",
        f"{LOGS}TIMEOUT": "1",
        f"{LOGS}COMPRESSION": "none",
        f"{LOGS}HEADERS": "A=env,b=env",
    }
    headers = {"a": "arg%20", "C": "arg"}
    settings = resolved(environ, endpoint="http://c:1", protocol="grpc", timeout=3, compression="gzip", headers=headers)
    assert settings.protocol == "grpc"
    assert settings.timeout == 3.0
    assert settings.compression == "gzip"
    assert dict(settings.headers) == {"a": "arg%20", "b": "env", "c": "arg"}
    assert dict(resolved(endpoint="http://c", headers=[("X", "1")]).headers) == {"x": "1"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a=1", {"a": "1"}),
        (" a = 1 , b=2,", {"a": "1", "b": "2"}),
        ("Authorization=Bearer%20abc==", {"authorization": "Bearer abc=="}),
        ("authorization=Basic dXNlcjpwYXNz", {"authorization": "Basic dXNlcjpwYXNz"}),
        ("a=b%2Cc%3Dd%25", {"a": "b,c=d%"}),
        ("a=1;x=2", {"a": "1;x=2"}),  # no properties here, unlike baggage
        ("a=%C3%A4", {"a": "ä"}),
        ("a=", {"a": ""}),
        ("a=1,A=2", {"a": "2"}),
        (",", {}),
    ],
)
def test_headers_of_the_environment(text: str, expected: dict[str, str]) -> None:
    """Headers are a list as in W3C baggage, values percent-decoded, names without case."""
    assert dict(resolved({f"{BASE}HEADERS": text}, endpoint="http://c").headers) == expected


def test_user_information_becomes_a_header() -> None:
    """Name and password of the URL are sent as basic authentication, unless a header says otherwise, and not shown."""
    settings = resolved(endpoint="http://us%40er:p%3Aw@c")
    assert dict(settings.headers) == {"authorization": "Basic dXNAZXI6cDp3"}
    assert "us" not in settings.endpoint
    assert "dXNA" not in repr(settings)
    stronger = resolved({f"{BASE}HEADERS": "authorization=own"}, endpoint="http://user:pass@c")
    assert dict(stronger.headers) == {"authorization": "own"}


def test_timeouts_are_seconds() -> None:
    """The variables count seconds, as those of the OpenTelemetry SDK for Python do, and not milliseconds."""
    assert resolved({f"{BASE}TIMEOUT": "10"}, endpoint="http://c").timeout == 10.0
    assert resolved({f"{BASE}TIMEOUT": "0.5"}, endpoint="http://c").timeout == 0.5


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("localhost", True),
        ("LOCALHOST.", True),
        ("app.localhost", True),
        ("127.0.0.1", True),
        ("127.9.9.9", True),
        ("::1", True),
        ("::ffff:127.0.0.1", True),
        ("128.0.0.1", False),
        ("fe80::1%lo", False),
        ("localhost.example.com", False),
        ("collector", False),
        ("", False),
    ],
)
def test_loopback(host: str, loopback: bool) -> None:
    """Loopback is known by name and number, without a resolver; there, and only there, nothing is compressed."""
    assert is_loopback(host) is loopback
    if host:
        written = f"[{host}]" if ":" in host else host
        assert OtlpSettings("grpc", f"{written}:4317").gzip is not loopback
        assert OtlpSettings("http/protobuf", f"http://{written}:4318/v1/logs").gzip is not loopback
        assert OtlpSettings("grpc", f"{written}:4317", compression="gzip").gzip
        assert not OtlpSettings("grpc", f"{written}:4317", compression="none").gzip


@pytest.mark.parametrize(
    ("environ", "arguments", "words"),
    [
        ({f"{BASE}PROTOCOL": "http/json"}, {"endpoint": "http://c"}, [f"{BASE}PROTOCOL", "http/json", "http/protobuf"]),
        ({f"{LOGS}PROTOCOL": "udp"}, {"endpoint": "http://c"}, [f"{LOGS}PROTOCOL", "'udp'", "grpc"]),
        ({}, {"endpoint": "http://c", "protocol": ""}, ["protocol", "''"]),
        ({}, {"endpoint": ""}, ["endpoint", "http://localhost:4318"]),
        ({f"{BASE}ENDPOINT": "localhost:4318"}, {}, [f"{BASE}ENDPOINT", "'localhost:4318'", "http://"]),
        ({f"{BASE}ENDPOINT": "collector"}, {}, ["'collector'", "http://"]),
        ({f"{LOGS}ENDPOINT": "ftp://c"}, {}, [f"{LOGS}ENDPOINT", "'ftp://c'"]),
        ({}, {"endpoint": "http://"}, ["host"]),
        ({}, {"endpoint": "http://:4318"}, ["host"]),
        ({}, {"endpoint": "http://c:99999"}, ["c:99999"]),
        ({}, {"endpoint": "http://c:0"}, ["c:0"]),
        ({}, {"endpoint": "http://c:abc"}, ["c:abc"]),
        ({}, {"endpoint": "http://a b"}, ["http://a b"]),
        ({}, {"endpoint": "http://c/a b"}, ["blank"]),
        ({}, {"endpoint": "http://[::1"}, ["http://[::1"]),
        ({}, {"endpoint": "collector", "protocol": "grpc"}, ["'collector'", "port"]),
        ({}, {"endpoint": "unix:///run/x", "protocol": "grpc"}, ["unix:///run/x"]),
        ({f"{BASE}INSECURE": "yes"}, {"endpoint": "c:1", "protocol": "grpc"}, [f"{BASE}INSECURE", "'yes'", "true"]),
        *[
            ({f"{BASE}TIMEOUT": value}, {"endpoint": "http://c"}, [f"{BASE}TIMEOUT", repr(value), "seconds"])
            for value in ("0", "-1", "nan", "inf", "10s")
        ],
        ({}, {"endpoint": "http://c", "timeout": 0}, ["timeout", "0"]),
        ({f"{BASE}COMPRESSION": "deflate"}, {"endpoint": "http://c"}, [f"{BASE}COMPRESSION", "'deflate'", "gzip"]),
        ({f"{BASE}HEADERS": "a=1,secret"}, {"endpoint": "http://c"}, [f"{BASE}HEADERS", "entry 2"]),
        ({f"{BASE}HEADERS": "a b=1"}, {"endpoint": "http://c"}, [f"{BASE}HEADERS", "'a b'"]),
        ({f"{BASE}HEADERS": "a=x%0D%0Asecret"}, {"endpoint": "http://c"}, [f"{BASE}HEADERS", "'a'"]),
        ({f"{BASE}HEADERS": "a=%FFsecret"}, {"endpoint": "http://c"}, ["UTF-8"]),
        ({f"{BASE}HEADERS": "a=%C3%A4"}, {"endpoint": "http://c", "protocol": "grpc"}, ["ASCII"]),
        ({}, {"endpoint": "http://c", "headers": {"a": "secret\n\n1"}}, ["headers", "'a'"]),
    ],
)
def test_what_is_wrong_is_named(environ: dict[str, str], arguments: dict[str, Any], words: list[str]) -> None:
    """An invalid value raises ConfigError, naming the variable or argument, the value and the remedy."""
    with pytest.raises(ConfigError) as caught:
        resolve(environ, **arguments)
    for word in words:
        assert word in str(caught.value)
    assert caught.value.hint
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        "ftp://user:secret@c",
        "https://user:sec#secret@c",
        "https://user:secret@c:port",
        "https://user:secret@",
        "user:secret@c:1",
        "http://c:99999/?token=secret",
    ],
)
def test_credentials_are_not_in_error_messages(url: str) -> None:
    """The message about a wrong endpoint, and what it was raised from, hide its password and query."""
    with pytest.raises(ConfigError) as caught:
        resolve({f"{BASE}ENDPOINT": url})
    assert "secret" not in str(caught.value)
    assert "secret" not in repr(caught.value.__cause__)
    assert re.search("endpoint", str(caught.value), re.IGNORECASE)
