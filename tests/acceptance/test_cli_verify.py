"""``verify``, ``prove`` and ``verify-proof`` as processes: what they print and exit with, what does them no harm."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import apsw
import pytest

from tests.bench.population import Population
from tests.command_line import HOSTILE, environment, fill, on_terminal, otel_audit

RECORDS = 9


@pytest.fixture
def archive(archive_path: Path) -> Path:
    fill(archive_path, [{"user": f"user-{n}"} for n in range(RECORDS)])
    return archive_path


def change(path: Path, statement: str) -> None:
    with closing(apsw.Connection(str(path))) as connection:
        connection.execute(statement)


def verified(path: Path, *options: str | Path, status: int = 0) -> dict[str, Any]:
    result = json.loads(otel_audit("verify", "--archive", path, "-o", "json", *options, status=status).stdout)
    assert isinstance(result, dict)
    assert result["intact"] == (status == 0)
    return result


def root_of(path: Path) -> str:
    state = json.loads(otel_audit("status", "--archive", path, "-o", "json").stdout)
    return f"{state['sequence']}:{state['root']}"


def test_an_intact_archive(archive: Path) -> None:
    """An intact archive ends with 0; text and JSON say the same, and the root is that of `status`."""
    found = verified(archive)
    assert (found["valid"], found["invalid"], found["missing"], found["faults"]) == (RECORDS, 0, 0, [])
    assert f"{found['last']}:{found['root']}" == root_of(archive)
    text = otel_audit("verify", "--archive", archive).stdout
    assert f"records     {RECORDS} valid, 0 invalid, 0 missing\n" in text
    assert f"root        {root_of(archive)}\n" in text
    assert text.endswith("faults      none\n")
    assert f"root                {root_of(archive)}\n" in otel_audit("status", "--archive", archive).stdout


def test_a_changed_archive(archive: Path) -> None:
    """A changed archive ends with 1, with a line for each fault; several processes and a limit do what they say."""
    change(archive, "UPDATE record SET outcome = 'unknown' WHERE sequence IN (2, 5)")
    done = otel_audit("verify", "--archive", archive, status=1)
    assert done.stdout.endswith("faults      2\ncolumn: record 2: outcome\ncolumn: record 5: outcome\n")
    found = verified(archive, status=1)
    assert found["faults"][0] == {"code": "column", "place": "record 2", "detail": "outcome"}
    assert verified(archive, "--jobs", "2", status=1) == found
    limited = otel_audit("verify", "--archive", archive, "--limit", "1", status=1).stdout
    assert limited.endswith("faults      2\ncolumn: record 2: outcome\n... and 1 more\n")
    assert verified(archive, "--since", "6")["first"] == 6
    assert verified(archive, "--since", "2026-01-01", status=1)["first"] == 1
    assert verified(archive, "--since", "now")["valid"] == 1


def test_noted_roots(archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A noted root holds in the archive that grew since, and not in an older copy or another history."""
    older = tmp_path / "older.db"
    older.write_bytes(archive.read_bytes())
    fill(archive, [{}] * 3)
    noted = root_of(archive)
    fill(archive, [{}] * 3)
    assert verified(archive, "--root", noted, "--root", root_of(archive))["roots"][0]["holds"] is True
    (found,) = verified(older, status=1)["faults"]
    assert found["code"] == "high-water"
    monkeypatch.setenv("OTEL_AUDIT_HIGH_WATER", "off")  # as on any other machine
    assert verified(older)["last"] == RECORDS
    assert [fault["code"] for fault in verified(older, "--root", noted, status=1)["faults"]] == ["truncated"]
    fill(older, [{}] * 3)
    assert [fault["code"] for fault in verified(older, "--root", noted, status=1)["faults"]] == ["root"]
    assert "noted root  12 does not hold" in otel_audit("verify", "--archive", older, "--root", noted, status=1).stdout


def test_against_a_collector(archive: Path, tmp_path: Path) -> None:
    """What a collector received is compared, and a difference ends with 1."""
    file = tmp_path / "received.jsonl"
    text = otel_audit("show", "--archive", archive, "-o", "otlp", "--reverse").stdout
    file.write_text(text, "utf-8")
    assert verified(archive, "--against", file)["collector"] == {
        "matching": RECORDS, "missing": 0, "waiting": 0, "removed": 0, "foreign": 0,
    }  # fmt: skip
    file.write_text("".join(text.splitlines(keepends=True)[1:]), "utf-8")
    found = verified(archive, "--against", file, status=1)
    assert [fault["code"] for fault in found["faults"]] == ["export-missing"]
    assert found["fault_count"] == 1
    file.write_text("nonsense", "utf-8")
    assert f"{file}:1 is no OTLP/JSON" in otel_audit("verify", "--archive", archive, "--against", file, status=2).stderr


def test_what_was_sent_does_no_harm(archive_path: Path) -> None:
    """Names of tables and destinations that an attacker chose are shown as escapes."""
    fill(archive_path, [{}])
    with closing(apsw.Connection(str(archive_path))) as connection:
        connection.execute('CREATE TABLE "a\x1b[2J\nb" (x)')
        connection.execute(
            "INSERT INTO destination (name, endpoint, cursor) VALUES (?, 'x', 99)", (HOSTILE["override"],)
        )
    text = otel_audit("verify", "--archive", archive_path, status=1).stdout
    assert "schema: table a\\x1b[2J\\nb: was added\n" in text
    assert "\x1b" not in text
    assert "\u202e" not in text


@pytest.mark.parametrize("sequence", [1, 2, 5, 8, 9])
def test_a_proof(archive: Path, tmp_path: Path, sequence: int) -> None:
    """A proof is checked without the archive, for the present tree and a past one, from a file and standard input."""
    file = tmp_path / "proof.json"
    for size in (sequence, RECORDS):
        proof = otel_audit("prove", str(sequence), "--size", str(size), "--archive", archive).stdout
        file.write_text(proof, "utf-8")
        root = f"{size}:{json.loads(proof)['tree']['root']}"
        text = otel_audit("verify-proof", file, "--root", root, OTEL_AUDIT_ARCHIVE="/nowhere").stdout
        assert text.startswith(f"record {sequence} is in the tree of {size}: ")
        assert f"user-{sequence - 1}@example.com" in text
    assert root == root_of(archive)
    found = json.loads(otel_audit("verify-proof", file, "--root", root, "-o", "json").stdout)
    assert (found["holds"], found["record"]["user"]) == (True, f"user-{sequence - 1}")
    command = [sys.executable, "-m", "otel_audit", "verify-proof", "-", "--root", root]
    piped = subprocess.run(
        command, input=proof, capture_output=True, encoding="utf-8", env=environment(), check=True
    ).stdout
    assert piped == text
    file.write_text(proof.replace('"user.login.success"', '"user.login.failure"'), "utf-8")
    assert "is not proved" in otel_audit("verify-proof", file, "--root", root, status=1).stderr


def test_a_proof_of_consistency(archive: Path, tmp_path: Path) -> None:
    """That a tree extends another is proved with both roots."""
    file = tmp_path / "proof.json"
    file.write_text(otel_audit("prove", "--consistency", "3", "9", "--archive", archive).stdout, "utf-8")
    proof = json.loads(file.read_text("utf-8"))
    old, new = (f"{proof[name]['size']}:{proof[name]['root']}" for name in ("old", "new"))
    done = otel_audit("verify-proof", file, "--root", old, "--root", new)
    assert done.stdout == "the tree of 9 extends the one of 3\n"
    assert (
        "give the root that was noted: --root 9:HEX" in otel_audit("verify-proof", file, "--root", old, status=2).stderr
    )
    otel_audit("verify-proof", file, "--root", old, "--root", f"9:{'0' * 64}", status=1)


@pytest.mark.parametrize(
    "content",
    [b"", b"\xff", b"{}", b"[]", b"7", b"[" * 200_000, b'{"format": "otel-audit/inclusion/1"}', b"1" * 10_000],
)
def test_hostile_proof_files(tmp_path: Path, content: bytes) -> None:
    """A file that is no proof ends with 2 and one line."""
    file = tmp_path / "proof.json"
    file.write_bytes(content)
    done = otel_audit("verify-proof", file, "--root", f"1:{'0' * 64}", status=2)
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1


def test_archives_that_cannot_be_verified(tmp_path: Path) -> None:
    """No archive, and a file that is none, end with 2; damage ends with 1, without a traceback."""
    assert "there is no archive" in otel_audit("verify", "--archive", tmp_path / "none.db", status=2).stderr
    file = tmp_path / "garbage.db"
    file.write_bytes(random.Random(1).randbytes(50_000))
    otel_audit("verify", "--archive", file, status=2)
    path = tmp_path / "damaged.db"
    fill(path, [{}] * 50)
    data = bytearray(path.read_bytes())
    data[40_000:45_000] = random.Random(1).randbytes(5_000)
    path.write_bytes(data)
    assert "faults      " in otel_audit("verify", "--archive", path, status=1).stdout


@pytest.mark.parametrize(
    "arguments",
    [
        ("verify", "--bogus"),
        ("verify", "--root", "5"),
        ("verify", "--root", "5:abc"),
        ("verify", "--since", "0"),
        ("verify", "--since", "soon"),
        ("verify", "--jobs", "0"),
        ("verify", "extra"),
        ("prove",),
        ("prove", "0"),
        ("prove", "1", "--consistency", "1", "2"),
        ("prove", "--consistency", "1", "2", "--size", "3"),
        ("verify-proof",),
        ("verify-proof", "file"),
    ],
)
def test_wrong_usage(archive: Path, arguments: tuple[str, ...]) -> None:
    """Wrong usage ends with 3, so that 2 always means that nothing could be verified."""
    done = otel_audit(*arguments, status=3, OTEL_AUDIT_ARCHIVE=str(archive))
    assert done.stdout == ""
    assert done.stderr.startswith("otel-audit: ")


def test_records_that_are_not_there(archive: Path) -> None:
    """A record or a tree that the archive does not have ends with 2 and says what it has."""
    for arguments in (("prove", "10"), ("prove", "3", "--size", "2"), ("prove", "--consistency", "3", "10")):
        assert "the archive holds the records 1 to 9" in otel_audit(*arguments, "--archive", archive, status=2).stderr


def test_long_work_shows_progress(tmp_path: Path) -> None:
    """On a terminal a bar shows how far a long verification came; elsewhere there is none."""
    path = tmp_path / "large.db"
    Population(100_000).fill(path)
    text = on_terminal("verify", "--archive", path)
    assert "verifying" in text
    assert "100%" in text
    assert otel_audit("verify", "--archive", path, "--jobs", "2").stderr == ""


def test_notes_that_are_none(archive: Path, tmp_path: Path) -> None:
    """A file without a checkpoint, and one that is not there, are wrong usage that says which file and why."""
    other = tmp_path / "other"
    for content in (b"otel-audit/1\n", b"\xff"):
        other.write_bytes(content)
        said = otel_audit("verify", "--archive", archive, "--checkpoint", other, status=3).stderr
        assert f"'{other}' holds no checkpoint: give what otel-audit checkpoint printed" in said
    said = otel_audit("verify", "--archive", archive, "--checkpoint", tmp_path / "none", status=3).stderr
    assert f"'{tmp_path / 'none'}' cannot be read: No such file or directory" in said
