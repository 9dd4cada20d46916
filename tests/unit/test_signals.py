"""The signals: the event bus records by itself, what records comes first, and asynchronous sending does not block."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from structlog.contextvars import bound_contextvars

from otel_audit import provider as provider_module
from otel_audit import signals
from otel_audit.archive.query import open_archive
from otel_audit.catalog import Catalog
from otel_audit.errors import InvalidRecord
from otel_audit.provider import AuditProvider, configure
from otel_audit.record import AuditRecord, Session
from otel_audit.signals import AuditSignal, RecordingReceiver, audit, record_through
from tests.archive_material import run_python


@pytest.fixture
def provider(archive_path: Path) -> Iterator[AuditProvider]:
    """Record what is sent to the bus in an archive of the test's own."""
    with AuditProvider(archive=archive_path, host="example.com") as provider:
        record_through(provider)
        yield provider
        record_through(None)


def records_in(path: Path) -> list[AuditRecord]:
    with open_archive(path) as archive:
        return list(archive.query(oldest_first=True))


class Application:
    """A sender."""


def test_the_bus_records(provider: AuditProvider, archive_path: Path) -> None:
    """What is sent to `audit` is recorded with all that an audit call takes; further values join the context."""
    session = Session("r-1", "http", "203.0.113.7")
    ((_, receipt),) = audit.send(
        "billing.api", type="invoice.approved", user="alice", session=session, custom={"g": {"f": 1}}, attempt=2
    )
    (record,) = records_in(archive_path)
    assert record.record_id == receipt.record_id
    assert (record.source, record.host, record.type) == ("billing.api", "example.com", "invoice.approved")
    assert (record.user, record.session) == ("alice", session)
    assert record.custom == {"g": {"f": 1}, "context": {"attempt": 2}}


@pytest.mark.parametrize(
    ("sender", "source"),
    [
        ("shop", "shop"),
        ("", "builtins.str"),
        (None, "signal"),
        (logging, "logging"),
        (Application, f"{__name__}.Application"),
        (Application(), f"{__name__}.Application"),
        (run_python, "tests.archive_material.run_python"),
    ],
)
def test_the_source_of_a_sender(provider: AuditProvider, archive_path: Path, sender: Any, source: str) -> None:
    """Where no source is given it is the sender's text or name; a source that is given wins, as does a host."""
    audit.send(sender, type="t")
    audit.send(sender, type="t", source="own", host="b.example")
    first, second = records_in(archive_path)
    assert (first.source, first.host) == (source, "example.com")
    assert (second.source, second.host) == ("own", "b.example")


def test_programmers_errors_reach_the_sender(provider: AuditProvider, archive_path: Path) -> None:
    """An event without a type, with an empty source or a user that is no text raises where it is sent."""
    wrong: list[dict[str, Any]] = [
        {},
        {"type": "t", "source": ""},
        {"type": "t", "user": 5},
        {"type": "t", "host": "*"},
    ]
    for given in wrong:
        with pytest.raises(InvalidRecord):
            audit.send("s", **given)
    assert records_in(archive_path) == []


def test_the_global_provider_records_by_default(archive_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without `record_through` events go to whatever provider is the global one at that moment."""
    monkeypatch.setattr(provider_module, "_global", None)
    with configure(archive=archive_path, host="h"):
        audit.send("s", type="t")
    assert [record.source for record in records_in(archive_path)] == ["s"]


def test_context_and_thread_of_asynchronous_sending(provider: AuditProvider, archive_path: Path) -> None:
    """`send_async` records in another thread than the event loop's, with the task's bound values, before it returns."""
    threads = []

    def listener(_sender: object, **_given: object) -> None:
        threads.append(threading.current_thread())

    async def main() -> None:
        with bound_contextvars(user="alice", request_id="r"):
            await audit.send_async("s", type="t")
        assert len(records_in(archive_path)) == 1

    with audit.connected_to(listener):
        asyncio.run(main())
    (record,) = records_in(archive_path)
    assert (record.user, record.custom) == ("alice", {"context": {"request_id": "r"}})
    assert threads
    assert threading.main_thread() not in threads


def test_what_records_comes_first() -> None:
    """A receiver that raises keeps no recording receiver from its event, in whatever order they were connected."""
    recorded = []

    class Recorder(RecordingReceiver):
        """Notes its calls."""

        def __call__(self, _sender: Any, **given: Any) -> None:
            recorded.append(given)

    def broken(_sender: object, **_given: object) -> None:
        raise ZeroDivisionError

    for _ in range(20):
        signal = AuditSignal("t")
        others = [partial(broken) for _ in range(5)]
        receivers: list[Callable[..., None]] = [broken, *others[:3], Recorder(), *others[3:], Recorder()]
        for receiver in receivers:
            signal.connect(receiver, weak=False)
        recorded.clear()
        with pytest.raises(ZeroDivisionError):
            signal.send("s", a=1)
        assert recorded == [{"a": 1}, {"a": 1}]


def test_each_signal_is_named_after_a_known_type() -> None:
    """Every signal but the bus has the name of a built-in event type, written with underscores in Python."""
    catalog = Catalog()
    found = {name: value for name, value in vars(signals).items() if isinstance(value, AuditSignal)}
    assert set(found) < set(signals.__all__)
    for name, signal in found.items():
        if signal is not audit:
            assert signal.name in catalog
            assert signal.name.replace("-", "_").replace(".", "_") == name


def test_sending_code_loads_no_archive() -> None:
    """Importing the signals loads neither provider nor archive: a library that only sends costs nothing."""
    loaded = run_python("import sys, otel_audit.signals; print(*sys.modules)").split()
    assert "blinker" in loaded
    assert not [name for name in loaded if name.startswith(("apsw", "otel_audit.provider", "otel_audit.archive"))]
