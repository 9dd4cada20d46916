"""The provider: its life, the global one, and that an unclosed one is noticed."""

from __future__ import annotations

import gc
import logging
import subprocess
import sys
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import otel_audit
from otel_audit import provider as provider_module
from otel_audit.archive.query import open_archive
from otel_audit.config import Settings
from otel_audit.errors import ArchiveError, ConfigError, InvalidRecord
from otel_audit.provider import (
    AuditProvider,
    configure,
    configure_late,
    current_provider,
    get_logger,
    global_provider,
    redirected,
)
from otel_audit.record import AuditRecord, Session
from otel_audit.testing import Collector
from tests.archive_material import wait_until
from tests.recording import HOSTILE_TEXTS


@pytest.fixture
def no_global(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Start without a global provider, and shut down what the test leaves."""
    monkeypatch.setattr(provider_module, "_global", None)
    yield
    if provider_module._global is not None:
        provider_module._global.shutdown()


def records_in(path: Path) -> list[AuditRecord]:
    with open_archive(path) as archive:
        return list(archive.query(oldest_first=True))


def test_the_example_of_the_documentation(archive_path: Path) -> None:
    """The call returns a receipt, and the record is in the archive with all that was given."""
    with AuditProvider(archive=archive_path) as provider:
        log = provider.get_logger("mod_auth", host="example.com")
        session = Session(id="c2s-1", type="c2s", ip="203.0.113.7", client="Gajim 1.9")
        custom = {"reason": {"condition": "not-authorized"}}
        receipt = log.audit("authentication-failure", user="alice", session=session, custom=custom)
        (record,) = records_in(archive_path)
    assert (record.record_id, record.sequence, record.integrity_hash) == receipt[:3]
    assert (record.host, record.user, record.source) == ("example.com", "alice", "mod_auth")
    assert (record.session, record.custom, record.outcome) == (session, custom, "failure")
    assert receipt.sequence == 1
    assert receipt.timestamp is not None
    assert receipt.timestamp >= record.observed


def test_hostile_texts_survive_the_archive(archive_path: Path) -> None:
    """Whatever a client sends as name, address or agent is in the archive afterwards, and can be read back."""
    with AuditProvider(archive=archive_path, host="h") as provider:
        log = provider.get_logger("s")
        ids = [
            log.audit("t", user=text, session=Session(text, text, text, text), custom={"g": {text: text}}).record_id
            for text in HOSTILE_TEXTS
        ]
    records = records_in(archive_path)
    assert [record.record_id for record in records] == ids
    for text, record in zip(HOSTILE_TEXTS, records, strict=True):
        assert record.user == text or any(mark.startswith("user:") for mark in record.altered)
        assert record.session is not None
        assert record.session.client == record.user


def test_source_is_required(archive_path: Path) -> None:
    """A logger without a source is refused when it is made; one without a host at the call."""
    with AuditProvider(archive=archive_path) as provider:
        wrong: list[Any] = ["", None, 5]
        for source in wrong:
            with pytest.raises(InvalidRecord, match="source="):
                provider.get_logger(source)
        with pytest.raises(InvalidRecord, match="host=None"):
            provider.get_logger("s").audit("t")
        with pytest.raises(TypeError, match="attempts"):
            provider.get_logger("s", "h").audit("t", attempts=3)  # type: ignore[call-arg]


def test_shutdown(archive_path: Path) -> None:
    """Shutdown drains and says so, a second one does nothing, and recording afterwards raises."""
    with Collector() as collector:
        provider = AuditProvider(archive=archive_path, endpoint=collector.endpoint, host="h", durability="queued")
        log = provider.get_logger("s")
        ids = [log.audit("t").record_id for _ in range(20)]
        assert provider.shutdown(10.0) is True
        assert collector.record_ids == ids
    assert provider.shutdown() is True
    with pytest.raises(ArchiveError, match="closed"):
        log.audit("t")


def test_flush_and_shutdown_are_truthful(archive_path: Path) -> None:
    """With nothing listening, both return False within their timeouts, and the records stay."""
    provider = AuditProvider(archive=archive_path, endpoint="http://127.0.0.1:9", host="h")
    provider.get_logger("s").audit("t")
    assert provider.force_flush(0.1) is False
    assert provider.shutdown(0.1) is False
    assert len(records_in(archive_path)) == 1


def test_without_a_destination_all_is_delivered(archive_path: Path) -> None:
    """Where nothing is to be sent, flushing waits for the disk only."""
    with AuditProvider(archive=archive_path, host="h", durability="queued") as provider:
        for _ in range(100):
            provider.get_logger("s").audit("t")
        assert provider.force_flush(5.0) is True
        assert len(records_in(archive_path)) == 100


def test_the_sdk_switch_stops_the_sending_only(archive_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With `OTEL_SDK_DISABLED` records are kept and not sent; the next process without it sends them all."""
    with Collector() as collector:
        monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
        with AuditProvider(archive=archive_path, endpoint=collector.endpoint, host="h") as provider:
            receipt = provider.get_logger("s").audit("t")
            assert receipt.sequence == 1
        assert collector.requests == 0
        monkeypatch.delenv("OTEL_SDK_DISABLED")
        with AuditProvider(archive=archive_path, endpoint=collector.endpoint):
            assert collector.wait_for(1)
        assert collector.record_ids == [receipt.record_id]


def test_what_arrives_at_the_collector(archive_path: Path) -> None:
    """Profile `logs` sends resource, scope and severity; profile `signal` the first alone, to a path of its own."""
    with Collector() as collector:
        for profile in ("logs", "signal"):
            path = archive_path.with_name(f"{profile}.db")
            settings: dict[str, Any] = {"archive": path, "endpoint": collector.endpoint, "profile": profile}
            with AuditProvider(**settings, host="h", resource={"service.name": "shop"}) as provider:
                provider.get_logger("s").audit("t.failure")
                assert provider.force_flush(10.0)
        logs, signal = collector.records
        paths = [call.path for call in collector.calls]
    assert paths == ["/v1/logs", "/v1/audit"]
    assert (logs.resource, signal.resource) == ({"service.name": "shop"}, {"service.name": "shop"})
    assert (logs.scope_name, logs.scope_version, logs.severity) == ("otel_audit", otel_audit.__version__, 13)
    assert (signal.scope_name, signal.scope_version, signal.severity, signal.body) == ("", "", 0, None)
    assert logs.body == "t.failure (failure) h"


@pytest.mark.parametrize("endpoint", [None, "http://127.0.0.1:9"])
def test_an_unclosed_provider_is_noticed(archive_path: Path, endpoint: str | None) -> None:
    """A provider that was used and never shut down warns when nobody holds it any more, with and without a shipper."""
    held = [AuditProvider(archive=archive_path, host="h", endpoint=endpoint)]
    held[0].get_logger("s").audit("t")
    writer, shippers = held[0].writer, list(held[0]._shippers)

    def let_go() -> None:
        held.clear()
        wait_until(lambda: bool(caught.list))  # upkeep may have it for a moment

    with pytest.warns(ResourceWarning, match=r"unclosed <AuditProvider .*audit\.db>") as caught:
        let_go()
    writer.close(1.0)
    for shipper in shippers:
        shipper.stop(1.0)


def test_a_closed_provider_is_not(archive_path: Path) -> None:
    """After shutdown there is no warning, nor after a constructor that failed."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with AuditProvider(archive=archive_path, host="h") as provider:
            provider.get_logger("s").audit("t")
        del provider
        with pytest.raises(ConfigError):
            AuditProvider(archive=archive_path, profile="no such")  # type: ignore[arg-type]
        with pytest.raises(ArchiveError):
            AuditProvider(archive=archive_path.parent)
        gc.collect()


@pytest.mark.parametrize("held", [True, False])
def test_what_was_queued_is_written_at_exit(archive_path: Path, held: bool) -> None:
    """A process that ends without a shutdown writes what it had queued, also where it lost its provider."""
    code = (
        "import otel_audit\n"
        f"provider = otel_audit.AuditProvider(archive={str(archive_path)!r}, host='h', durability='queued')\n"
        "log = provider.get_logger('s')\n"
        "for _ in range(500): log.audit('t')\n"
    )
    subprocess.run([sys.executable, "-c", code + ("" if held else "del provider, log\n")], check=True, timeout=60)
    assert len(records_in(archive_path)) == 500


@pytest.mark.usefixtures("no_global")
def test_loggers_follow_the_global_provider(tmp_path: Path) -> None:
    """A logger that was made before `configure` records through it, and through the next one after that."""
    log = get_logger("s", host="h")
    first, second = tmp_path / "1" / "a.db", tmp_path / "2" / "a.db"
    one = configure(archive=first)
    log.audit("one")
    two = configure(archive=second)
    log.audit("two")
    assert [record.type for record in records_in(first)] == ["one"]
    assert [record.type for record in records_in(second)] == ["two"]
    with pytest.raises(ArchiveError):
        one.get_logger("s", host="h").audit("late")
    two.shutdown()
    with pytest.raises(ArchiveError):
        log.audit("late")


@pytest.mark.usefixtures("no_global")
def test_a_failed_configure_changes_nothing(archive_path: Path) -> None:
    """Where a new configuration is wrong, the provider in place goes on: no record goes to a default archive."""
    configure(archive=archive_path, host="h")
    with pytest.raises(ConfigError):
        configure(archive=archive_path, durability="disk")  # type: ignore[arg-type]
    get_logger("s").audit("t")
    assert len(records_in(archive_path)) == 1


@pytest.mark.usefixtures("no_global")
def test_configure_again_with_the_same_archive(archive_path: Path) -> None:
    """The same archive can be configured again; its records are shipped by the new provider."""
    with Collector() as collector:
        for number in range(3):
            provider = configure(archive=archive_path, endpoint=collector.endpoint, host="h")
            get_logger("s").audit(f"t{number}")
        assert provider.force_flush(10.0)
        assert [record.event_name for record in collector.records] == ["t0", "t1", "t2"]


@pytest.mark.usefixtures("no_global")
def test_the_first_events_configure_from_the_environment(
    archive_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Without `configure` the first event does it, once, however many threads record first, and the log says where."""
    monkeypatch.setenv("OTEL_AUDIT_ARCHIVE", str(archive_path))
    monkeypatch.setenv("OTEL_AUDIT_HOST", "env.example")
    barrier = threading.Barrier(8)
    log = get_logger("s")

    def first() -> None:
        barrier.wait()
        log.audit("t")

    with caplog.at_level(logging.INFO, "otel_audit"):
        threads = [threading.Thread(target=first) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert [record.host for record in records_in(archive_path)] == ["env.example"] * 8
    messages = [entry.getMessage() for entry in caplog.records if "configured itself" in entry.getMessage()]
    assert messages == [f"otel_audit configured itself from the environment: records go to {archive_path}"]


@pytest.mark.usefixtures("no_global")
def test_a_framework_configures_late(archive_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Settings that were given for later are used by the first event, open nothing before, and yield to `configure`."""
    monkeypatch.setattr(provider_module, "_defaults", Settings)
    log = get_logger("s")
    configure_late(lambda: {"archive": archive_path, "host": "late.example", "ship": False})
    assert not archive_path.exists()
    log.audit("t")
    assert current_provider() is global_provider()
    assert [record.host for record in records_in(archive_path)] == ["late.example"]
    other = archive_path.with_name("other.db")
    configure(archive=other, host="now.example", ship=False)
    log.audit("t")
    assert [record.host for record in records_in(other)] == ["now.example"]


@pytest.mark.usefixtures("no_global")
def test_wrong_late_settings_raise_at_the_first_event(archive_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No event goes to a default archive instead of the one that was meant; `redirected` uses the settings, too."""
    monkeypatch.setattr(provider_module, "_defaults", Settings)
    monkeypatch.setenv("OTEL_AUDIT_ARCHIVE", str(archive_path))
    configure_late(lambda: {"host": "*"})
    with pytest.raises(ConfigError, match="is no host"):
        get_logger("s").audit("t")
    assert not archive_path.exists()
    configure_late(lambda: {"host": "late.example", "ship": False})
    with redirected(archive=archive_path) as provider:
        assert provider.host == "late.example"
