"""The write-ahead log is begun anew where readers keep SQLite from it, and no more often than helps."""

from __future__ import annotations

import threading
from contextlib import closing
from pathlib import Path

import apsw
import pytest

from otel_audit.archive import logkeeping
from otel_audit.archive.logkeeping import LogKeeping
from otel_audit.provider import AuditProvider
from tests.archive_material import assert_sound, connect, provider_at, record


class Never(LogKeeping):
    """Leaves the log to itself."""

    def run(self, *, idle: bool = False) -> None:
        pass


def outgrown(provider: AuditProvider, reader: apsw.Connection) -> LogKeeping:
    """Let the log outgrow its limit beside a reader's transaction, and return what would have looked after it."""
    record(provider, 3)
    database = provider.writer._database
    keeping, provider.writer._log_keeping = provider.writer._log_keeping, Never(database)
    reader.execute("BEGIN")
    reader.execute("SELECT count(*) FROM record").fetchall()
    for _ in range(200):
        provider.get_logger("m").audit("any", message="x" * 10_000)
    database._log_checked = 0.0
    record(provider, 3)
    return keeping


@pytest.mark.parametrize("kept", [True, False])
def test_the_log_is_begun_anew_beside_readers(kept: bool, archive_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A log that has outgrown its limit is written from its beginning once the reads under way have ended."""
    monkeypatch.setattr(logkeeping, "LOG_LIMIT", 2**20)
    log = archive_path.with_name("audit.db-wal")

    def times_begun() -> int:
        return int.from_bytes(log.read_bytes()[12:16], "big")

    with provider_at(archive_path) as provider, closing(connect(archive_path)) as reader:
        keeping = outgrown(provider, reader)
        assert provider.writer._database.log_size > 2**20
        before = times_begun()
        over = threading.Timer(0.05, reader.execute, ["COMMIT"])
        over.start()
        if kept:
            keeping.run()
        over.join()
        record(provider, 3)
        assert times_begun() == before + kept
    assert_sound(archive_path, records=209)


def test_a_reader_that_stays(archive_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a reader keeps its transaction, each attempt to begin the log anew takes twice as long to come."""
    monkeypatch.setattr(logkeeping, "LOG_LIMIT", 2**20)
    with provider_at(archive_path) as provider, closing(connect(archive_path)) as reader:
        keeping = outgrown(provider, reader)
        pauses = []
        for _ in range(12):
            keeping._next = 0.0
            keeping.run()
            pauses.append(keeping._pause)
        assert pauses[:4] == [4.0, 8.0, 16.0, 32.0]
        assert pauses[-1] == 300.0
        reader.execute("COMMIT")
        keeping._next = 0.0
        keeping.run()
        assert keeping._pause == 2.0
        # Until somebody records there is nothing to do: the file keeps its size.
        keeping._next = 0.0
        monkeypatch.setattr(keeping, "_begin_anew", None)
        keeping.run()
