"""Commands on an archive that somebody tampered with: they end with an error that says so, not as a fault of theirs."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest

from otel_audit import IntegrityError
from otel_audit.archive import index
from tests.archive_material import connect, provider_at
from tests.command_line import environment, popen


def tampered(path: Path, statement: str) -> None:
    """Record, fold all but the last, and change something."""
    with provider_at(path) as provider:
        log = provider.get_logger("damaged", host="example.com")
        for n in range(6):
            log.audit("user.login.success", user=f"user-{n}")
    with contextlib.closing(connect(path)) as connection:
        index.fold(connection)
        connection.execute(statement)


def ends(*command: str | Path) -> int:
    """Run a command; return its status, which is never that of an unexpected error."""
    with popen(*command, env=environment(OTEL_AUDIT_READS="off")) as process:
        _, complaint = process.communicate(timeout=60)
    assert process.returncode in {0, 2}, complaint
    return process.returncode


@pytest.mark.parametrize("command", [["status"], ["show", "--since", "1h"], ["stats"], ["prune", "--rule", "*=1s"]])
@pytest.mark.parametrize("value", ["x'78'", "-1", "9223372036854775807", "'two'", None])
def test_the_mark_of_what_was_folded(archive_path: Path, command: list[str], value: str | None) -> None:
    """Where it is missing, or none, whoever needs it says so."""
    change = "DELETE FROM meta" if value is None else f"UPDATE meta SET value = {value}"
    tampered(archive_path, f"{change} WHERE key = 'folded'")
    ends(*command, "--archive", archive_path)


@pytest.mark.parametrize(
    ("command", "statement", "status"),
    [
        ("erase", "UPDATE record SET type = CAST(x'ec' AS TEXT)", 0),
        ("erase", "INSERT INTO destination VALUES (CAST(x'ec' AS TEXT), 'x', 1, 1, '', 1, '')", 2),
        ("subject-export", "UPDATE record SET record_id = x'00'", 2),
        ("show", "UPDATE record SET otlp = NULL WHERE sequence = 6", 2),
        ("status", "UPDATE zone SET zone = 9223372036854775807", 2),
        ("stats", "UPDATE zone SET zone = 9223372036854775807", 2),
        ("stats", "UPDATE record SET kind = 6", 0),
        ("checkpoint", "UPDATE record SET sequence = 9223372036854775806 WHERE sequence = 6", 2),
    ],
)
def test_what_no_record_has(archive_path: Path, command: str, statement: str, status: int) -> None:
    """Values that nothing here wrote end in an error or in a result, never in an unexpected one."""
    tampered(archive_path, statement)
    who = {"erase": ["user-1@example.com", "--dry-run"], "subject-export": ["user-1@example.com"]}
    assert ends(command, *who.get(command, []), "--archive", archive_path) in {status, 2}


def test_recording_behind_a_gap(archive_path: Path) -> None:
    """An application that finds no complete tree says that the archive is not what it was."""
    tampered(archive_path, "UPDATE record SET sequence = 2000 WHERE sequence = 6")
    with provider_at(archive_path, high_water=False) as provider, pytest.raises(IntegrityError, match="no complete"):
        provider.get_logger("damaged").audit("user.logout")
