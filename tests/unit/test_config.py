"""The settings: each variable and each argument, who wins, and errors that name what is wrong."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.sdk._logs.export import ConsoleLogRecordExporter, InMemoryLogRecordExporter
from opentelemetry.sdk.resources import Resource

from otel_audit.catalog import EventType
from otel_audit.config import Config
from otel_audit.errors import ConfigError
from otel_audit.paths import archive_path, default_archive

MEMORY: Any = InMemoryLogRecordExporter


def keep(_logger: Any, _method: str, values: Any) -> Any:
    return values


def test_defaults(tmp_path: Path) -> None:
    """Without arguments and environment: the user's state directory, durable, raising, and nowhere to ship to."""
    config = Config.load()
    assert config == Config(
        archive=tmp_path / "home" / ".local" / "state" / "otel_audit" / "audit.db",
        resource={"service.name": "unknown_service"},
        high_water=tmp_path / "home" / ".local" / "share" / "otel_audit" / "high-water",
    )
    assert config.archive == default_archive() == archive_path()
    assert (config.profile, config.durability, config.on_failure) == ("logs", "commit", "raise")
    assert (config.otlp, config.sending) == (None, True)


def test_destinations(monkeypatch: pytest.MonkeyPatch) -> None:
    """The destinations are the collector and the exporters, also of a process that sends nothing."""
    assert Config.load().destinations == frozenset()
    assert Config.load(endpoint="http://collector", ship=False).destinations == {"otlp"}
    assert Config.load(endpoint="http://collector", exporters={"own": MEMORY()}).destinations == {"otlp", "own"}
    monkeypatch.setenv("OTEL_LOGS_EXPORTER", "console")
    assert Config.load().destinations == {"console"}


ENVIRONMENT = [
    ("OTEL_AUDIT_ARCHIVE", "archive", "/a/b.db", Path("/a/b.db"), "c.db", Path("c.db")),
    ("OTEL_AUDIT_HOST", "host", "a.example", "a.example", "b.example", "b.example"),
    ("OTEL_AUDIT_CHECKPOINT_INTERVAL", "checkpoint_interval", "60", 60.0, 0, 0.0),
    ("OTEL_AUDIT_HIGH_WATER", "high_water", "/a/marks", Path("/a/marks"), "/b/marks", Path("/b/marks")),
    ("OTEL_AUDIT_HIGH_WATER", "high_water", "off", None, "/b/marks", Path("/b/marks")),
    ("OTEL_AUDIT_PROFILE", "profile", "signal", "signal", "logs", "logs"),
    ("OTEL_AUDIT_DURABILITY", "durability", "queued", "queued", "commit", "commit"),
    ("OTEL_AUDIT_ON_FAILURE", "on_failure", "block", "block", "log", "log"),
]


@pytest.mark.parametrize(("variable", "argument", "text", "value", "given", "wins"), ENVIRONMENT)
def test_variables_and_arguments(  # noqa: PLR0917 - the columns of the table
    monkeypatch: pytest.MonkeyPatch, variable: str, argument: str, text: str, value: Any, given: Any, wins: Any
) -> None:
    """Each variable sets its value, an empty one does not, and the argument wins."""
    default = getattr(Config.load(), argument)
    monkeypatch.setenv(variable, "")
    assert getattr(Config.load(), argument) == default
    monkeypatch.setenv(variable, text)
    assert getattr(Config.load(), argument) == value
    assert getattr(Config.load(**{argument: given}), argument) == wins


def test_arguments_without_a_variable() -> None:
    """Processors, event types, exporters, resource and timeouts are taken as given."""
    exporter, own = MEMORY(), EventType("t", "READ")
    config = Config.load(
        block_timeout=2,
        processors=[keep],
        event_types=[own],
        exporters={"mine": exporter},
        resource={"a": 1},
        ship=False,
    )
    assert (config.block_timeout, config.processors, config.event_types) == (2.0, (keep,), (own,))
    assert (config.exporters, config.sending) == ({"mine": exporter}, False)
    assert config.resource == {"service.name": "unknown_service", "a": 1}


@pytest.mark.parametrize(
    ("variable", "text"),
    [
        ("OTEL_AUDIT_PROFILE", "json"),
        ("OTEL_AUDIT_DURABILITY", "disk"),
        ("OTEL_AUDIT_ON_FAILURE", "ignore"),
        ("OTEL_AUDIT_HOST", "*"),
        ("OTEL_LOGS_EXPORTER", "zipkin"),
        ("OTEL_LOGS_EXPORTER", "otlp,zipkin"),
        ("OTEL_RESOURCE_ATTRIBUTES", "a=1,b"),
        ("OTEL_RESOURCE_ATTRIBUTES", "=1"),
    ],
)
def test_wrong_variables_are_named(monkeypatch: pytest.MonkeyPatch, variable: str, text: str) -> None:
    """A variable of a wrong value raises ConfigError, which names it and what is allowed."""
    monkeypatch.setenv(variable, text)
    with pytest.raises(ConfigError) as caught:
        Config.load()
    assert variable in caught.value.message
    assert caught.value.hint


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("archive", ""),
        ("archive", 5),
        ("host", ""),
        ("host", "*"),
        ("host", 5),
        ("profile", "json"),
        ("profile", ""),
        ("durability", "disk"),
        ("durability", ["commit"]),
        ("on_failure", "ignore"),
        ("block_timeout", 0),
        ("block_timeout", -1),
        ("block_timeout", float("nan")),
        ("block_timeout", float("inf")),
        ("block_timeout", "5"),
        ("processors", ["upper"]),
        ("processors", 5),
        ("event_types", 5),
        ("exporter", {"exporters": {"otlp": MEMORY()}}),
        ("exporter", {"exporters": {"../x": MEMORY()}}),
        ("exporter", {"exporters": {"": MEMORY()}}),
        ("resource", "a=b"),
        ("resource attribute 'a'", {"resource": {"a": object()}}),
        ("resource attribute 'a'", {"resource": {"a": 2**63}}),
        ("resource attribute 'a'", {"resource": {"a": "\ud800"}}),
        ("resource attribute 'a'", {"resource": {"a": [1, {"b": {1, 2}}]}}),
        ("resource attribute 5", {"resource": {5: "a"}}),
        ("resource attribute ''", {"resource": {"": "a"}}),
        ("protocol", {"protocol": "udp", "endpoint": "http://c"}),
        ("timeout", {"timeout": -1, "endpoint": "http://c"}),
        ("compression", {"compression": "zip", "endpoint": "http://c"}),
        ("headers", {"headers": {"a b": "c"}, "endpoint": "http://c"}),
        ("endpoint", {"endpoint": "collector"}),
    ],
)
def test_wrong_arguments_are_named(argument: str, value: Any) -> None:
    """An argument of a wrong value raises ConfigError, which names it and the remedy."""
    with pytest.raises(ConfigError) as caught:
        Config.load(**(value if isinstance(value, dict) else {argument: value}))
    assert argument in caught.value.message
    assert caught.value.hint


@pytest.mark.parametrize(
    ("exporter", "endpoint", "argument", "expected"),
    [
        (None, None, None, None),
        ("", None, None, None),
        ("otlp", None, None, "http://localhost:4318/v1/logs"),
        ("OTLP", None, None, "http://localhost:4318/v1/logs"),
        ("otlp", "http://e:1", None, "http://e:1/v1/logs"),
        (None, "http://e:1", None, "http://e:1/v1/logs"),
        (None, None, "http://a:1", "http://a:1/v1/logs"),
        ("none", None, None, None),
        ("none", "http://e:1", None, None),
        ("none", "http://e:1", "http://a:1", "http://a:1/v1/logs"),
        ("console", "http://e:1", None, None),
        ("console,otlp", None, None, "http://localhost:4318/v1/logs"),
    ],
)
def test_where_records_are_sent(
    monkeypatch: pytest.MonkeyPatch,
    exporter: str | None,
    endpoint: str | None,
    argument: str | None,
    expected: str | None,
) -> None:
    """No endpoint, no destination, unless `OTEL_LOGS_EXPORTER` says `otlp`; `none` beats the endpoint's variable."""
    for variable, value in (("OTEL_LOGS_EXPORTER", exporter), ("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint)):
        if value is not None:
            monkeypatch.setenv(variable, value)
    config = Config.load(endpoint=argument)
    assert (config.otlp and config.otlp.endpoint) == expected
    named = [type(exporter) for exporter in config.exporters.values()]
    assert named == ([ConsoleLogRecordExporter] if "console" in (exporter or "") else [])


def test_settings_of_the_destination(monkeypatch: pytest.MonkeyPatch) -> None:
    """Protocol, headers, timeout and compression reach the destination; arguments win over the variables."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_LOGS_ENDPOINT", "http://e:1/logs")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "3")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "k=1")
    first = Config.load().otlp
    assert first is not None
    assert (first.endpoint, first.timeout, first.headers) == ("http://e:1/logs", 3.0, (("k", "1"),))
    second = Config.load(endpoint="http://a:2", protocol="grpc", timeout=4, headers={"k": "2"}, compression="gzip").otlp
    assert second is not None
    assert (second.protocol, second.endpoint, second.timeout) == ("grpc", "a:2", 4.0)
    assert (second.headers, second.compression) == ((("k", "2"),), "gzip")


@pytest.mark.parametrize("as_argument", [True, False])
def test_the_signal_profile_has_its_own_path(monkeypatch: pytest.MonkeyPatch, as_argument: bool) -> None:
    """Profile `signal` sends to `/v1/audit`, however it is chosen."""
    if not as_argument:
        monkeypatch.setenv("OTEL_AUDIT_PROFILE", "signal")
    config = Config.load(endpoint="http://c:1", profile="signal" if as_argument else None)
    assert config.otlp is not None
    assert config.otlp.endpoint == "http://c:1/v1/audit"


@pytest.mark.parametrize(
    ("text", "sending"), [("true", False), ("TRUE", False), ("false", True), ("", True), ("1", True)]
)
def test_the_sdk_switch_stops_the_sending(monkeypatch: pytest.MonkeyPatch, text: str, sending: bool) -> None:
    """`OTEL_SDK_DISABLED` stops the sending and changes nothing else: the destination stays, for another process."""
    monkeypatch.setenv("OTEL_SDK_DISABLED", text)
    config = Config.load(endpoint="http://c:1")
    assert config.sending is sending
    assert config.otlp is not None


def test_resource_attributes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Attributes of the environment are percent-decoded; service name wins over them, the argument over both."""
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", " service.name=a , b = x%20y%2Cz,,c==d")
    assert Config.load().resource == {"service.name": "a", "b": "x y,z", "c": "=d"}
    monkeypatch.setenv("OTEL_SERVICE_NAME", "named")
    assert Config.load().resource["service.name"] == "named"
    assert Config.load(resource={"service.name": "own", "n": (1, 2.5)}).resource == {
        "service.name": "own", "b": "x y,z", "c": "=d", "n": (1, 2.5),
    }  # fmt: skip


def test_the_sdk_s_resource(monkeypatch: pytest.MonkeyPatch) -> None:
    """The SDK's `Resource` object is understood as well."""
    attributes = Config.load(resource=Resource({"service.name": "shop", "list": ["a", "b"]})).resource
    assert attributes == {"service.name": "shop", "list": ("a", "b")}


@pytest.mark.skipif(os.name != "posix", reason="environments hold bytes on POSIX only")
def test_invalid_unicode_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """An attribute that is no valid UTF-8 is named when the settings are read, not where it would be encoded."""
    monkeypatch.setenv("OTEL_SERVICE_NAME", os.fsdecode(b"shop\xff"))
    with pytest.raises(ConfigError, match=r"service\.name"):
        Config.load()
