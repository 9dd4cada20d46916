"""What must hold after every fault: receipts against the archive, the archive against itself, and the collector."""

from __future__ import annotations

from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Any

from otel_audit.archive.verify import verify
from otel_audit.errors import AuditError
from otel_audit.testing import Collector
from tests.archive_material import connect, provider_at, record_ids, ship
from tests.faults.frame import Outcome
from tests.faults.ledger import Acknowledged, Ledger, text_of

__all__ = ["check", "check_archive", "check_delivery", "check_receipts", "compare", "compare_delivered", "restart"]


def restart(path: Path, outcome: Outcome, **settings: Any) -> None:
    """Do what an operator does: start the application again, which must then record."""
    try:
        with provider_at(path, **settings) as provider:
            receipt = provider.get_logger("recovery").audit("server-started")
            outcome.demand(receipt.sequence, "after a restart there is no receipt")
    except AuditError as error:
        outcome.blame(f"after a restart nothing can be recorded: {error}")


def compare(row: tuple[Any, ...] | None, told: Acknowledged) -> bool:
    """Tell whether a row (sequence, leaf, user, OTLP bytes) is the record that a receipt was given for."""
    if row is None:
        return False
    sequence, leaf, user, otlp = row
    same = (sequence, leaf.hex()) == (told.sequence, told.leaf) or not told.sequence
    return same and user == told.user and text_of(told.user).encode() in otlp


def check_receipts(path: Path, ledger: Ledger, outcome: Outcome, first: int = 0) -> None:
    """Look every acknowledged record up, with its content; count what is missing, once.

    Args:
        path: The archive.
        ledger: The receipts.
        outcome: What is counted into.
        first: How many receipts to leave out, which were looked at before.
    """
    told = ledger.acknowledged[first:]
    if not path.exists():
        # As after a power cut amid the making of the archive: then nobody can have had a receipt.
        outcome.lost += sum(map(ledger.miss, told))
        return
    with closing(connect(path)) as connection:
        for receipt in told:
            row = connection.execute(
                "SELECT sequence, leaf, user, otlp FROM record WHERE record_id = ?1 AND sequence BETWEEN ?2 AND ?3",
                # By sequence, where it is known: there is no index of ids.
                (
                    bytes.fromhex(receipt.record_id.replace("-", "")),
                    receipt.sequence or 0,
                    receipt.sequence or 2**62,
                ),
            ).fetchone()
            if not compare(row, receipt):
                outcome.lost += ledger.miss(receipt)


def check_archive(path: Path, outcome: Outcome) -> None:
    """Check the file, that sequences have no gap, and that the archive verifies."""
    with closing(connect(path)) as connection:
        count, last = connection.execute("SELECT count(*), coalesce(max(sequence), 0) FROM record").fetchone() or (0, 0)
        outcome.demand(count == last, f"{count} records, but the last sequence is {last}")
    report = verify(path)
    outcome.demand(report.intact, f"verify: {[fault.code for fault in report.faults[:3]]}")


def check_delivery(path: Path, ledger: Ledger, outcome: Outcome) -> None:
    """Ship the archive: the collector must hold exactly its records, receipts among them, duplicates removed."""
    with Collector() as collector:
        outcome.demand(ship(path, collector), "not everything was delivered")
        compare_delivered(path, ledger, collector, outcome)


def compare_delivered(path: Path, ledger: Ledger, collector: Collector, outcome: Outcome) -> None:
    """Compare what a collector has with the archive and the receipts, and count duplicates and losses."""
    came = Counter(map(str, collector.record_ids))
    outcome.duplicated += came.total() - len(came)
    there = record_ids(path)
    outcome.demand(came.keys() == set(there), f"{len(came)} records delivered, {len(there)} in the archive")
    told = ledger.acknowledged
    outcome.lost += sum(ledger.miss(receipt) for receipt in told if receipt.record_id not in came)
    users = {str(record.record_id): record.attributes.get("user.name") for record in collector.records}
    other = sum(users.get(receipt.record_id, receipt.user) != receipt.user for receipt in told)
    outcome.demand(not other, f"{other} records arrived with another content")


def check(path: Path, ledger: Ledger, outcome: Outcome, *, deliver: bool = True) -> None:
    """Restart, then check everything, and count what the ledger holds."""
    outcome.acknowledged += len(ledger.acknowledged)
    outcome.refused += len(ledger.refused)
    outcome.demand(not ledger.broken, f"writers ended with an unexpected error: {ledger.broken[:3]}")
    restart(path, outcome)
    if not path.exists():
        outcome.lost += sum(map(ledger.miss, ledger.acknowledged))
        outcome.blame("the archive is gone")
        return
    check_receipts(path, ledger, outcome)
    check_archive(path, outcome)
    if deliver and not ledger.lost:
        check_delivery(path, ledger, outcome)
