"""The names that users import: complete, sorted, and loaded only when they are used."""

from __future__ import annotations

import importlib
import pkgutil
import subprocess
import sys

import pytest

import otel_audit

FRAMEWORKS = {
    "celery", "click", "clickhouse_connect", "django", "fastapi", "flask", "flask_login", "grpc", "httpx", "litestar",
    "requests", "starlette", "uvicorn",
}  # fmt: skip
PUBLIC = {
    "Actor", "ArchiveError", "AuditError", "AuditLogger", "AuditProvider", "AuditRecord", "ConfigError",
    "DeliveryError", "EventType", "IntegrityError", "InvalidRecord", "ProducerKey", "Receipt", "Session", "SigningKey",
    "Target",     "__version__", "configure", "get_logger", "open_archive",
}  # fmt: skip


def run(code: str) -> str:
    command = [sys.executable, "-W", "error", "-c", code]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_all_names() -> None:
    """`__all__` is sorted and holds the documented names, each of which can be imported."""
    assert set(otel_audit.__all__) >= PUBLIC
    assert list(otel_audit.__all__) == sorted(otel_audit.__all__)
    for name in otel_audit.__all__:
        assert getattr(otel_audit, name) is not None
    assert set(otel_audit.__all__) <= set(dir(otel_audit))


def test_star_import() -> None:
    """`from otel_audit import *` brings exactly the public names."""
    names = run("from otel_audit import *\nprint(*[name for name in globals() if not name.startswith('__')])").split()
    assert sorted(names) == sorted(name for name in otel_audit.__all__ if not name.startswith("__"))


def test_unknown_names() -> None:
    """A name that is not there raises AttributeError, as in any module."""
    with pytest.raises(AttributeError, match="module 'otel_audit' has no attribute 'no_such_name'"):
        _ = otel_audit.no_such_name


def test_importing_loads_nothing_heavy() -> None:
    """`import otel_audit` loads no framework, no transport, not even its own modules."""
    loaded = run("import sys, otel_audit\nprint(*sys.modules)").split()
    assert not FRAMEWORKS & {name.partition(".")[0] for name in loaded}
    assert not [name for name in loaded if name.startswith(("opentelemetry", "apsw", "structlog"))]
    assert [name for name in loaded if name.startswith("otel_audit.")] == ["otel_audit._version"]


def test_recording_loads_no_framework_and_no_transport() -> None:
    """Recording without a destination loads neither web frameworks nor HTTP and gRPC clients nor protobuf classes."""
    loaded = run("import sys\nfrom otel_audit import *\nprint(*sys.modules)").split()
    assert not FRAMEWORKS & {name.partition(".")[0] for name in loaded}
    assert not [
        name for name in loaded if name.startswith(("opentelemetry.proto", "opentelemetry.sdk", "google.protobuf"))
    ]


def modules() -> list[str]:
    return [found.name for found in pkgutil.walk_packages(otel_audit.__path__, "otel_audit.")]


@pytest.mark.parametrize("name", [name for name in modules() if ".cli" not in name and "__main__" not in name])
def test_every_module_declares_its_names(name: str) -> None:
    """Each module that offers names lists them, each once, and has all that it lists."""
    module = importlib.import_module(name)
    names = getattr(module, "__all__", None)
    if names is None:
        own = [key for key, value in vars(module).items() if getattr(value, "__module__", None) == name]
        assert not [key for key in own if not key.startswith("_")]
        return
    assert len(set(names)) == len(names)
    assert all(hasattr(module, each) for each in names)
