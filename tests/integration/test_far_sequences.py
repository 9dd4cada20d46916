"""A row that somebody put at a sequence far beyond all others: nothing counts up to there, nor makes room for it."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest

from otel_audit.archive import index
from otel_audit.archive.against import compare
from otel_audit.archive.query import open_archive
from otel_audit.archive.ranges import Range
from otel_audit.archive.verify import verify
from otel_audit.archive.windows import next_window
from tests.archive_material import connect, provider_at
from tests.command_line import otel_audit

FAR = (2**39, 2**62, 2**63 - 1)


@pytest.fixture(params=FAR)
def far(archive_path: Path, request: pytest.FixtureRequest) -> Path:
    """Return an archive with such a row behind five others."""
    with provider_at(archive_path) as provider:
        for n in range(5):
            provider.get_logger("far").audit("user.login.success", user=f"user-{n}")
    with contextlib.closing(connect(archive_path)) as connection:
        connection.execute(
            "CREATE TEMP TABLE far AS SELECT * FROM record WHERE sequence = 1; UPDATE far SET sequence = ?;"
            " INSERT INTO record SELECT * FROM far",
            (request.param,),
        )
    return archive_path


@pytest.mark.parametrize(
    "command",
    [
        ["subject-export", "user-1@example.com"],
        ["erase", "user-1@example.com", "--dry-run"],
        ["prune", "--dry-run", "--rule", "*=1s"],
    ],
)
def test_commands(far: Path, command: list[str]) -> None:
    """Whoever goes through all records comes to an end."""
    otel_audit(*command, "--archive", far, OTEL_AUDIT_READS="off")


def test_comparing(far: Path, tmp_path: Path) -> None:
    """What a collector's file lacks is named, and the memory that takes is that of the records there are."""
    (tmp_path / "empty").touch()
    with open_archive(far) as archive:
        assert compare(archive, tmp_path / "empty", keep=10).missing == 6


def test_folding(far: Path) -> None:
    """Records are folded in as many slices as there are records for, and the row is a fault all the same."""
    with contextlib.closing(connect(far)) as connection:
        for _ in range(9):
            index.fold(connection)
        assert index.fold(connection) == 0
    codes = {fault.code for fault in verify(far).faults}
    assert codes == {"missing", "leaf"}


def test_windows(far: Path) -> None:
    """Windows begin after multiples of their width, and those without a record are passed over."""
    found: list[Range] = []
    with contextlib.closing(connect(far)) as connection:
        last = connection.execute("SELECT max(sequence) FROM record").get
        while window := next_window(connection, found[-1][1] + 1 if found else 2, last, 4):
            found.append(window)
    assert found[:2] == [(2, 4), (5, 8)]
    assert len(found) == 3
    assert found[2][0] <= last <= found[2][1] == last
