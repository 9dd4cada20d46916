"""Kills processes in the middle of recording: what was acknowledged is there, whole and in order."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from pathlib import Path

from otel_audit.record import Receipt, Session
from otel_audit.testing import Collector
from tests.archive_material import assert_delivered, assert_sound, forked, provider_at, ship

ROUNDS = 50
THREADS = 4


def write_for_ever(path: Path, pipe: int, seed: int) -> None:
    """Audit from several threads as fast as it goes; each receipt is one write to the pipe, which is atomic."""
    provider = provider_at(path)

    def work(number: int) -> None:
        log = provider.get_logger(f"thread-{number}")
        for count in range(10**9):
            session = Session(id=f"{seed}-{number}-{count}", ip="203.0.113.7")
            receipt = log.audit("user.login.failure", user=f"user{count % 50}", session=session)
            line = f"{receipt.record_id} {receipt.sequence} {receipt.integrity_hash} {receipt.timestamp}\n"
            os.write(pipe, line.encode())

    for number in range(THREADS):
        threading.Thread(target=work, args=(number,), daemon=True).start()
    threading.Event().wait()


def read_receipts(pipe: int) -> list[Receipt]:
    with os.fdopen(pipe, encoding="ascii") as lines:
        receipts = []
        for line in lines:
            record_id, sequence, leaf, timestamp = line.split()
            receipts.append(Receipt(record_id, int(sequence), leaf, int(timestamp)))
        return receipts


def one_round(path: Path, seed: int) -> list[Receipt]:
    """Start a writer, kill it after some commits, and return the receipts that it had reported."""
    reading, writing = os.pipe()
    child = forked(lambda: write_for_ever(path, writing, seed))
    os.close(writing)
    receipts: list[Receipt] = []
    collected = threading.Thread(target=lambda: receipts.extend(read_receipts(reading)))
    collected.start()
    time.sleep(random.Random(seed).uniform(0.05, 0.2))
    os.kill(child, signal.SIGKILL)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL
    collected.join(20)
    assert not collected.is_alive()
    return receipts


def test_nothing_acknowledged_is_lost_when_the_process_is_killed(archive_path: Path) -> None:
    """Over 50 kills each receipt's record is there as the receipt says, sequences have no gap, all can be shipped."""
    receipts: list[Receipt] = []
    for seed in range(ROUNDS):
        receipts.extend(one_round(archive_path, seed))
    assert len(receipts) > ROUNDS
    assert len({receipt.record_id for receipt in receipts}) == len(receipts)
    assert_sound(archive_path, receipts)
    with Collector() as collector:
        assert ship(archive_path, collector)
        assert_delivered(archive_path, collector)
        delivered = set(collector.record_ids)
        assert {receipt.record_id for receipt in receipts} <= delivered
