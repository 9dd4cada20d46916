"""The setting of Django's integration: what is refused, how checks say it, and what the command line is told."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.test import override_settings
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.sdk.resources import Resource

from otel_audit.config import Config, Settings
from otel_audit.errors import ConfigError
from otel_audit.integrations.django.checks import check_archive, check_middleware, check_setting
from otel_audit.integrations.django.command_line import command_environment
from otel_audit.integrations.django.management.commands import audit as command
from otel_audit.integrations.django.options import read_options
from otel_audit.integrations.web import request_user
from tests import django_project
from tests.command_line import fill

WRONG: list[tuple[Any, str]] = [
    (None, "OTEL_AUDIT=None is no dictionary"),
    (["HOST"], "is no dictionary"),
    ({"HOST": "x", "host": "x"}, "unknown key 'host': did you mean 'HOST'"),
    ({"HOST": "x", "TRUSTED_PROXY": 1}, "did you mean 'TRUSTED_PROXIES'"),
    ({"HOST": "x", 5: 1}, "unknown key 5"),
    ({}, "OTEL_AUDIT has no HOST"),
    ({"HOST": "*"}, r"host='\*' is no host"),
    ({"HOST": "x", "TRANSACTIONS": "commit"}, "TRANSACTIONS='commit' is unknown: use 'immediate' or 'on_commit'"),
    ({"HOST": "x", "TRANSACTIONS": []}, r"TRANSACTIONS=\[\] is unknown"),
    ({"HOST": "x", "TRUSTED_PROXIES": -1}, "trusted_proxies=-1 is no number of proxies"),
    ({"HOST": "x", "PROXY_HEADER": "via"}, "proxy_header='via' is unknown"),
    ({"HOST": "x", "ON_FAILURE": "ignore"}, "on_failure='ignore' is unknown"),
    ({"HOST": "x", "PROCESSORS": 5}, "PROCESSORS=5 cannot be used"),
    ({"HOST": "x", "PROCESSORS": ["x"]}, "processors holds 'x'"),
    ({"HOST": "x", "SIGNING_KEY": "/nowhere/key"}, "/nowhere/key"),
]


@pytest.mark.parametrize(("value", "message"), WRONG, ids=[message for _, message in WRONG])
def test_what_is_wrong_is_named(value: Any, message: str) -> None:
    """A wrong setting is refused by its key and value, and the system check says the same."""
    with pytest.raises(ConfigError, match=message) as raised:
        read_options(value)
    with override_settings(OTEL_AUDIT=value):
        (error,) = check_setting()
    assert (error.id, error.is_serious()) == ("otel_audit.E001", True)
    assert (error.msg, error.hint) == (raised.value.message, raised.value.hint)


def test_right_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All arguments of `configure` are keys; the environment counts, too; a request's user is always looked for."""
    options = read_options({"ARCHIVE": tmp_path / "a.db", "HOST": "x", "TRANSACTIONS": "on_commit", "REDACT": True})
    assert options.provider == {
        "archive": tmp_path / "a.db", "host": "x", "redact": True, "processors": (request_user,)
    }  # fmt: skip
    assert (options.transactions, options.trusted_proxies, options.proxy_header) == ("on_commit", 0, "x-forwarded-for")
    assert list(tmp_path.iterdir()) == [tmp_path / "home"]  # nothing was opened
    monkeypatch.setenv("OTEL_AUDIT_HOST", "from.environment")
    assert Config.load(**read_options({}).provider).host == "from.environment"


def test_the_middleware_is_checked() -> None:
    """A project without the middleware, or a subclass, is warned; one that cannot be imported is not our concern."""
    assert check_middleware() == []
    with override_settings(MIDDLEWARE=[*django_project.MIDDLEWARE[1:], "no.such.Middleware"]):
        (warning,) = check_middleware()
    assert (warning.id, warning.is_serious()) == ("otel_audit.W001", False)
    with override_settings(OTEL_AUDIT={"HOST": "x"}):
        call_command("check")


@pytest.mark.parametrize("archive", ["audit.db", Path("data/audit.db")])
def test_a_relative_archive_is_warned_of(archive: object) -> None:
    """A path that depends on where a process was started is warned of; an absolute one, or none, is not."""
    with override_settings(OTEL_AUDIT={"HOST": "x", "ARCHIVE": archive}):
        (warning,) = check_archive()
    assert (warning.id, warning.is_serious(), warning.hint) == (
        "otel_audit.W002", False, f"write BASE_DIR / {str(archive)!r}"
    )  # fmt: skip
    for right in ({"HOST": "x", "ARCHIVE": Path("/srv/audit.db")}, {"ARCHIVE": "~/audit.db"}, {"HOST": "x"}, None):
        with override_settings(OTEL_AUDIT=right):
            assert check_archive() == []


def test_the_command_line_is_told_everything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Read back from the environment, the settings are those of the project."""
    key = tmp_path / "key"
    key.write_bytes(b"k" * 32)
    key.chmod(0o600)
    given: Settings = {
        "archive": tmp_path / "audit.db",
        "host": "example.com",
        "profile": "signal",
        "durability": "queued",
        "on_failure": "block",
        "redact": ["pin", "cvc"],
        "ip_prefix": (16, 32),
        "drop_ip": False,
        "pseudonym_key": key,
        "pseudonymise": ["user"],
        "checkpoint_interval": 60.0,
        "high_water": tmp_path / "marks",
        "retention": {"user.login.*": "90d", "*": "28d"},
        "resource": {"service.name": "shop, and more", "deployment": "eu"},
        "endpoint": "http://127.0.0.1:4318",
        "protocol": "http/protobuf",
        "headers": {"authorization": "Bearer a,b=c"},
        "timeout": 5.0,
        "compression": "none",
    }
    for name, value in {
        "OTEL_EXPORTER_OTLP_HEADERS": "authorization=old,x-tenant=a",
        "OTEL_RESOURCE_ATTRIBUTES": "deployment=us,zone=b",
        "OTEL_SERVICE_NAME": "old",
    }.items():
        monkeypatch.setenv(name, value)
    expected = Config.load(**given)
    stale = {"OTEL_LOGS_EXPORTER": "none", "OTEL_EXPORTER_OTLP_LOGS_ENDPOINT": "http://127.0.0.1:1"}
    environment = command_environment(given, {**os.environ, **stale})
    for name in os.environ.keys() - environment.keys():
        monkeypatch.delenv(name)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    told = Config.load()
    for field in (
        "archive",
        "host",
        "profile",
        "durability",
        "on_failure",
        "checkpoint_interval",
        "high_water",
        "otlp",
    ):
        assert getattr(told, field) == getattr(expected, field)
    assert told.retention == expected.retention
    assert told.resource == expected.resource
    assert told.resource.items() >= {"service.name": "shop, and more", "deployment": "eu", "zone": "b"}.items()
    assert len(told.processors) == len(expected.processors)


def test_settings_without_a_variable_are_left_out() -> None:
    """What is an object, and what is None, has no variable; False is said where it means something."""
    given: Any = {
        "host": None, "processors": [request_user], "exporters": {}, "pseudonym_key": b"k" * 32, "high_water": False,
        "redact": True, "drop_ip": True, "ip_prefix": 24, "resource": Resource({"a": "b"}), "retention": "x=1d",
    }  # fmt: skip
    assert command_environment(given, {"PATH": "/bin", "OTEL_AUDIT_HOST": "kept"}) == {
        "PATH": "/bin", "OTEL_AUDIT_HOST": "kept", "OTEL_AUDIT_HIGH_WATER": "off", "OTEL_AUDIT_REDACT": "true",
        "OTEL_AUDIT_DROP_IP": "true", "OTEL_AUDIT_IP_PREFIX_V4": "24", "OTEL_RESOURCE_ATTRIBUTES": "a=b",
        "OTEL_AUDIT_RETENTION": "x=1d",
    }  # fmt: skip


@given(
    st.lists(st.sampled_from(["show", "--settings", "--settings=a.b", "x", "--pythonpath", "--pythonpath=/p", "-v"]))
)
def test_words_of_manage_py_are_not_passed_on(words: list[str]) -> None:
    """Django's own options, which it takes wherever they stand, are left out; all others keep their order."""
    kept = command._words(words)
    assert not [word for word in kept if word.startswith(("--settings", "--pythonpath"))]
    if not {"--settings", "--pythonpath"} & {*words}:
        assert kept == [word for word in words if "=" not in word]


def test_call_command(archive_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """From a program the command writes where it is told to, and a status other than 0 is an error."""
    from io import StringIO

    fill(archive_path, [{"user": "alice"}])
    out = StringIO()
    with django_project.project(archive_path):
        call_command("audit", "show", "-o", "jsonl", stdout=out)
        assert '"user": "alice"' in out.getvalue()
        with pytest.raises(CommandError, match="no such command: 'nope'") as raised:
            call_command("audit", "nope")
        assert raised.value.returncode == 2
    with override_settings(OTEL_AUDIT={"HOST": "*"}), pytest.raises(CommandError, match="is no host"):
        call_command("audit", "status")
    assert capfd.readouterr().out == ""
