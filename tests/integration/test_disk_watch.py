"""The watch over the archive's disk: told once a change, with room for the last records, over once there is space."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import apsw
import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

from otel_audit import metrics as metrics_module
from otel_audit import upkeep
from otel_audit.archive import commit, diskwatch
from otel_audit.archive.query import open_archive
from otel_audit.archive.ranges import count
from otel_audit.archive.received import keep
from otel_audit.archive.space import lay_by, look, reserve_path, spend
from otel_audit.errors import ArchiveError, AuditError
from otel_audit.provider import AuditProvider
from otel_audit.record import AuditRecord, Receipt
from otel_audit.testing import Collector
from tests.archive_material import assert_delivered, assert_sound, provider_at, run_python, wait_until
from tests.command_line import otel_audit
from tests.erasure_material import erased
from tests.integration.test_received import foreign
from tests.retention_material import prune as pruned
from tests.retention_material import rules

NEEDS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="mounts file systems")
LEVELS = {"disk_warning": "6MiB", "disk_critical": "4MiB", "disk_reserve": "2MiB"}
VARIABLES = {f"OTEL_AUDIT_{name.upper()}": value for name, value in LEVELS.items()}
EVENT: dict[str, Any] = {"user": "alice", "custom": {"x": {"y": "z" * 400}}}


@pytest.fixture(params=["tmpfs", "ext4"])
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """Mount an empty file system of 24 MiB."""
    point, image = tmp_path / "small", tmp_path / "image"
    point.mkdir()
    if request.param == "tmpfs":
        command = ["mount", "-t", "tmpfs", "-o", "size=24m,mode=0700", "tmpfs", str(point)]
    else:
        image.write_bytes(b"")
        os.truncate(image, 24 << 20)
        if subprocess.run(["mkfs.ext4", "-q", "-m", "0", image], check=False).returncode:
            pytest.skip("there is no mkfs.ext4")
        command = ["mount", "-o", "loop", str(image), str(point)]
    if subprocess.run(command, check=False).returncode:
        pytest.skip("nothing can be mounted here")
    yield point
    subprocess.run(["umount", "--lazy", point], check=True)


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the watch look often, and make the reserve at once."""
    monkeypatch.setattr(upkeep, "_PAUSE", 0.01)
    monkeypatch.setattr(upkeep, "_AGAIN", 0.05)
    monkeypatch.setattr(diskwatch, "_IDLE", 0.05)
    monkeypatch.setattr(diskwatch, "_SETTLED", 0.0)


def fill(disk: Path, leave: int = 0) -> None:
    """Take what a disk has left, but for some bytes, or give back what is taken too much."""
    with (disk / "ballast").open("ab", buffering=0) as file:
        file.truncate(file.tell() - min(file.tell(), max(0, leave - look(disk / "audit.db").free)))
        try:
            while (free := look(disk / "audit.db").free - leave) > 0:
                file.write(b"\0" * min(free, 1 << 20))
        except OSError:
            pass


def record_until_refused(provider: AuditProvider, receipts: list[Receipt]) -> ArchiveError:
    """Record until it is refused, and return the error."""
    log = provider.get_logger("disk")
    for _ in range(20_000):
        try:
            receipts.append(log.audit("user.login.success", **EVENT))
        except ArchiveError as error:
            return error
    raise AssertionError("the disk was never full")


def told(path: Path) -> list[AuditRecord]:
    """Return what the archive recorded of its disk."""
    with open_archive(path) as archive:
        return list(archive.query(admin=True, types=["audit.disk.changed"], oldest_first=True))


def levels(path: Path) -> list[str]:
    return [str(record.custom["disk"]["level"]) for record in told(path)]


def status(path: Path) -> tuple[int, Any, str]:
    """Return exit status, the disk's state and the complaint of ``otel-audit status``."""
    process = subprocess.run(
        [sys.executable, "-m", "otel_audit", "status", "-o", "json", "--archive", path],
        env={**os.environ, **VARIABLES},
        capture_output=True,
        text=True,
        check=False,
    )
    return process.returncode, json.loads(process.stdout)["disk"], process.stderr


@pytest.fixture
def watched(disk: Path) -> Iterator[AuditProvider]:
    """Return a provider whose reserve is made."""
    provider = provider_at(disk / "audit.db", **LEVELS)
    provider.get_logger("disk").audit("user.login.success", **EVENT)
    wait_until(lambda: look(disk / "audit.db").reserve == 2 << 20)
    yield provider
    provider.shutdown()


@NEEDS_ROOT
def test_the_reserve_lets_the_last_records_in(
    disk: Path, watched: AuditProvider, caplog: pytest.LogCaptureFixture
) -> None:
    """On a full disk the reserve takes records, that of the full disk too; then calls say so, until space is back."""
    path, receipts = disk / "audit.db", list[Receipt]()
    assert status(path)[0] == 0
    fill(disk)
    error = record_until_refused(watched, receipts)
    assert "the disk is full" in str(error)
    assert len(receipts) > 100
    wait_until(lambda: levels(path)[-1:] == ["full"])
    code, state, complaint = status(path)
    assert (code, state["level"]) == (1, "full")
    assert state["reserve"] <= 1 << 19
    assert "is full" in complaint
    (disk / "ballast").unlink()
    wait_until(lambda: levels(path)[-1:] == ["ok"])
    wait_until(lambda: look(path).reserve == 2 << 20)
    receipts.append(watched.get_logger("disk").audit("user.login.success", **EVENT))
    assert watched.shutdown()
    assert_sound(path, receipts)
    assert status(path)[0] == 0
    lines = [r.getMessage() for r in caplog.records if "the disk of" in r.getMessage()]
    assert len(lines) == len(set(lines)) == len(levels(path))
    otel_audit("verify", "--archive", path)


@NEEDS_ROOT
def test_each_own_record_has_its_part(disk: Path, watched: AuditProvider) -> None:
    """What an own record leaves of its part of the reserve a burst of events takes; the next one has another part."""
    fill(disk)
    for _ in range(2):
        record_until_refused(watched, [])
        assert "not recorded" not in otel_audit("checkpoint", "--archive", disk / "audit.db").stderr
    wait_until(lambda: levels(disk / "audit.db")[-1:] == ["full"])


@NEEDS_ROOT
def test_levels_are_told_once(
    disk: Path, watched: AuditProvider, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each change makes one line and one record, whoever else watches; a level is left with a tenth more to spare."""
    path = disk / "audit.db"
    with provider_at(path, **LEVELS) as other:
        log = other.get_logger("disk")

        def settle(leave: int, expected: list[str]) -> None:
            fill(disk, leave)
            log.audit("user.login.success", user="alice")
            wait_until(lambda: levels(path) == expected)
            time.sleep(0.3)  # for whatever should not come
            assert levels(path) == expected

        settle(5 << 20, ["warning"])
        settle((6 << 20) + (1 << 18), ["warning"])
        settle(3 << 20, ["warning", "critical"])
        settle((4 << 20) + (1 << 17), ["warning", "critical"])
        settle(5 << 20, ["warning", "critical", "warning"])
        settle(8 << 20, ["warning", "critical", "warning", "ok"])
    lines = [(r.levelname, r.getMessage()) for r in caplog.records if "the disk of" in r.getMessage()]
    assert [name for name, _ in lines].count("ERROR") == 2  # one a watch
    assert len(lines) == 8
    assert {record.custom["disk"]["total"] for record in told(path)} == {look(path).total}


@NEEDS_ROOT
@pytest.mark.parametrize("policy", ["raise", "block", "log"])
def test_behaviour_at_zero(disk: Path, policy: Any, caplog: pytest.LogCaptureFixture) -> None:
    """Without a reserve and without space each policy keeps its deadline, and the reason is in its error or log."""
    path = disk / "audit.db"
    with provider_at(path, on_failure=policy, block_timeout=0.5, disk_reserve=0) as provider:
        log = provider.get_logger("disk")
        receipts = [log.audit("user.login.success", **EVENT)]
        fill(disk)
        with open_archive(path) as archive:
            before = archive.status().sequence
        started = time.monotonic()
        if policy == "log":
            for _ in range(100):
                receipt = log.audit("user.login.success", **EVENT)
                receipts += [receipt] if receipt.sequence is not None else []
            assert "was not recorded" in caplog.text
            assert "the disk is full" in caplog.text
        else:
            assert "the disk is full" in str(record_until_refused(provider, receipts))
        assert time.monotonic() - started < 20
        if policy == "block":
            # Room that is made in time is found.
            (disk / "ballast").unlink()
            receipts.append(log.audit("user.login.success", **EVENT))
        (disk / "ballast").unlink(missing_ok=True)
        receipts.append(log.audit("user.login.success", **EVENT))
    assert before <= len(receipts)
    assert_sound(path, receipts, records=len(receipts))


@NEEDS_ROOT
def test_a_start_on_a_full_disk(disk: Path, watched: AuditProvider) -> None:
    """A process that starts when nothing is left records by the reserve; without one it says why it cannot."""
    path = disk / "audit.db"
    watched.shutdown()
    fill(disk)
    assert len(list(_records(path))) == 1  # readers need no room
    program = """
    import sys
    from otel_audit import AuditProvider
    with AuditProvider(archive=sys.argv[1], host="example.com") as provider:
        print(provider.get_logger("disk").audit("user.login.success", user="bob").sequence)
    """
    assert int(run_python(program, path)) == 2
    assert (look(path).reserve or 0) < 2 << 20
    while spend(path, own=True):
        pass
    fill(disk)
    with pytest.raises(ArchiveError, match="the disk is full"):
        provider_at(path)
    assert [record.user for record in _records(path)] == ["bob", "alice"]
    assert status(path)[1]["free"] == 0


def _records(path: Path) -> Iterator[AuditRecord]:
    with open_archive(path) as archive:
        yield from archive.query()


@NEEDS_ROOT
def test_pruning_on_a_full_disk(disk: Path, watched: AuditProvider) -> None:
    """The remedy works where it is needed: the reserve makes room for what pruning writes."""
    path, log = disk / "audit.db", watched.get_logger("disk")
    for _ in range(1_500):
        log.audit("user.login.success", **EVENT)
    fill(disk)
    time.sleep(1.1)
    otel_audit("prune", "--archive", path, "--rule", "user.*=1s")
    assert len(list(_records(path))) == 0
    receipts = [log.audit("user.login.success", **EVENT) for _ in range(20)]
    assert watched.shutdown()
    assert_sound(path, receipts)


@NEEDS_ROOT
def test_shipping_on_a_full_disk(disk: Path) -> None:
    """A cursor that cannot be written loses nothing: what was sent may come again, and all of it comes."""
    path = disk / "audit.db"
    with Collector() as collector:
        provider = provider_at(path, endpoint=collector.endpoint, disk_reserve=0)
        receipts = [provider.get_logger("disk").audit("user.login.success", **EVENT)]
        assert provider.force_flush(20)
        fill(disk)
        record_until_refused(provider, receipts)
        provider.force_flush(1)
        (disk / "ballast").unlink()
        receipts.append(provider.get_logger("disk").audit("user.login.success", **EVENT))
        assert provider.force_flush(30)
        assert provider.shutdown()
        assert_delivered(path, collector)
    assert_sound(path, receipts, records=len(receipts))


@NEEDS_ROOT
def test_metrics_of_the_disk(disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Gauges tell free bytes, the reserve and the level, asked when they are read."""
    reader = InMemoryMetricReader()
    meters = MeterProvider(metric_readers=[reader])
    monkeypatch.setattr(metrics_module, "get_meter", meters.get_meter)

    def gauges() -> dict[str, int | float]:
        data: Any = reader.get_metrics_data()
        return {
            metric.name: metric.data.data_points[0].value
            for resource in (data.resource_metrics if data else ())
            for scope in resource.scope_metrics
            for metric in scope.metrics
            if metric.name.startswith("audit.disk") and metric.data.data_points
        }

    with provider_at(disk / "audit.db", **LEVELS):
        lay_by(disk / "audit.db", 2 << 20, 0)
        free = look(disk / "audit.db").free
        assert gauges() == {"audit.disk.free": free, "audit.disk.reserve": 2 << 20, "audit.disk.level": 0}
        fill(disk)
        assert gauges()["audit.disk.level"] == 2
        spend(disk / "audit.db")
        assert gauges()["audit.disk.level"] == 3
        assert gauges()["audit.disk.reserve"] == 1 << 20
    assert gauges() == {}  # of an archive that is closed, nothing
    meters.shutdown()


def test_calls_do_not_look(archive_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not one of a thousand calls asks for the space: only the upkeep's thread does, once a round."""
    callers = list[str]()
    real: Callable[..., os.statvfs_result] = os.statvfs

    def statvfs(path: Any) -> os.statvfs_result:
        callers.append(threading.current_thread().name)
        return real(path)

    monkeypatch.setattr(os, "statvfs", statvfs)
    with provider_at(archive_path) as provider:
        for _ in range(1_000):
            provider.get_logger("disk").audit("t")
        wait_until(lambda: callers)
        assert set(callers) == {"otel-audit-upkeep"}


@pytest.mark.parametrize("what", ["symbolic link", "hard link", "directory", "pipe"])
def test_the_reserve_is_a_file_of_its_own(what: str, archive_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Somebody else's file in the reserve's place is neither grown nor cut, and recording goes on."""
    archive_path.parent.mkdir(mode=0o700)
    victim, reserve = archive_path.parent / "victim", reserve_path(archive_path)
    victim.write_bytes(b"precious")
    match what:
        case "symbolic link":
            reserve.symlink_to(victim)
        case "hard link":
            reserve.hardlink_to(victim)
        case "directory":
            reserve.mkdir()
        case _:
            os.mkfifo(reserve)
    with caplog.at_level(logging.WARNING), provider_at(archive_path, disk_reserve="1MiB") as provider:
        provider.get_logger("disk").audit("t")
        wait_until(lambda: "the archive's upkeep" in caplog.text)
        assert not spend(archive_path)
        provider.get_logger("disk").audit("t")
    assert victim.read_bytes() == b"precious"
    with pytest.raises((AuditError, OSError)):
        lay_by(archive_path, 1 << 20, 0)
    assert_sound(archive_path, records=2)


@pytest.fixture
def full_once(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Return what lets the next commit find a full disk, and the reserve make room for another try."""
    real = commit._insert
    pending = [False]

    def insert(connection: apsw.Connection, values: list[object]) -> None:
        real(connection, values)
        if pending[0]:
            pending[0] = False
            raise apsw.FullError("database or disk is full")

    def arm() -> None:
        pending[0] = True

    monkeypatch.setattr(commit, "_insert", insert)
    monkeypatch.setattr(commit, "spend", lambda _archive, own: True)
    return arm


def test_what_is_made_anew_is_made_once(archive_path: Path, full_once: Callable[[], None]) -> None:
    """Foreign records, erasures and prunings that begin anew after a full disk tell what they did, once."""
    with provider_at(archive_path, high_water=False, checkpoint_interval=0) as provider:
        full_once()
        assert [one.outcome for one in keep(provider.writer, [foreign(1), foreign(2), foreign(1)])] == [
            "recorded", "recorded", "repeat",
        ]  # fmt: skip
        for user in ("alice", "bob"):
            full_once()
            provider.get_logger("disk").audit("user.login.success", user=user)
    full_once()
    assert count(erased(archive_path).ranges) == 1
    time.sleep(1.1)
    full_once()
    assert pruned(archive_path, rules({"user.*": "1s"})).records.total() == 1
    assert_sound(archive_path)
