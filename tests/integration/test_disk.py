"""A disk that is full or read-only is told at the call, with the remedy, and recording goes on afterwards.

Where file systems can be mounted, `tests.faults` does it more often, and fills them up.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from otel_audit.archive.query import open_archive
from otel_audit.errors import ArchiveError
from otel_audit.provider import AuditProvider
from otel_audit.record import Receipt
from tests.archive_material import assert_sound, provider_at, run_python

NEEDS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="mounts file systems, changes the user")


def record(provider: AuditProvider, count: int = 1) -> list[Receipt]:
    log = provider.get_logger("disk")
    return [log.audit("user.login.success", user=f"user{number}") for number in range(count)]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Mount a file system of 1.5 MiB."""
    point = tmp_path / "small"
    point.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1536k,mode=0700", "tmpfs", point], check=False).returncode:
        pytest.skip("tmpfs cannot be mounted here")
    yield point
    subprocess.run(["umount", "--lazy", point], check=True)


def test_a_limit_on_file_sizes_is_told_and_recording_goes_on_above_it(archive_path: Path) -> None:
    """No receipt is given for what does not fit, where a resource limit stops the file from growing."""
    program = """
    import resource, signal, sys
    from otel_audit import AuditProvider
    from otel_audit.errors import ArchiveError
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    provider = AuditProvider(archive=sys.argv[1], host="example.com")
    log = provider.get_logger("file")
    def record():
        receipt = log.audit("user.login.success", user="alice", custom={"x": {"y": "z" * 2000}})
        print(receipt.record_id, receipt.sequence, receipt.integrity_hash)
    record()
    resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, resource.RLIM_INFINITY))
    failures = 0
    for _ in range(2000):
        try:
            record()
        except ArchiveError as error:
            assert error.hint, error
            failures += 1
            if failures == 5:
                break
    assert failures == 5
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    for _ in range(10):
        record()
    assert provider.shutdown()
    """
    lines = [line.split() for line in run_python(program, archive_path).splitlines()]
    receipts = [Receipt(identity, int(sequence), leaf) for identity, sequence, leaf in lines]
    assert_sound(archive_path, receipts, records=len(receipts))


def test_queued_records_outlast_a_full_disk(archive_path: Path) -> None:
    """What is in memory while the disk is full is written once there is space."""
    program = """
    import logging, resource, signal, sys, time
    from otel_audit import AuditProvider
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    logging.disable(logging.CRITICAL)
    provider = AuditProvider(archive=sys.argv[1], host="example.com", durability="queued")
    log = provider.get_logger("file")
    def record(count):
        for _ in range(count):
            log.audit("user.login.success", user="alice", custom={"x": {"y": "z" * 2000}})
    record(10)
    assert provider.force_flush(20)
    resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, resource.RLIM_INFINITY))
    record(500)
    assert not provider.force_flush(0.5)
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    assert provider.force_flush(20)
    assert provider.shutdown()
    """
    run_python(program, archive_path)
    assert_sound(archive_path, records=510)


@NEEDS_ROOT
def test_a_read_only_file_system_is_told_and_recovers(small_disk: Path) -> None:
    """While the file system is read-only, recording raises and reading works; afterwards it goes on without a gap."""
    path = small_disk / "audit.db"
    with provider_at(path) as provider:
        receipts = record(provider, 3)
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    with pytest.raises(ArchiveError, match="read-only"):
        provider_at(path)
    with open_archive(path) as archive:
        assert [r.sequence for r in archive.query()] == [3, 2, 1]
    subprocess.run(["mount", "-o", "remount,rw,size=1536k", small_disk], check=True)
    with provider_at(path) as provider:
        receipts += record(provider, 3)
    assert_sound(path, receipts, records=6)
