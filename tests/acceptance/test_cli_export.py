"""``otel-audit export`` as a command: whole files or none, streams, filters, hostile values, complaints."""

from __future__ import annotations

import os
import pty
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from otel_audit.exports import FORMATS
from otel_audit.record import Session
from tests.acceptance.test_cli_start import SLOW, imported
from tests.archive_material import connect
from tests.command_line import HOSTILE, environment, fill, json_lines, otel_audit, popen

TEXT_FORMATS = sorted({*FORMATS} - {"parquet"})


@pytest.fixture
def archive(archive_path: Path) -> Path:
    fill(archive_path, [{"user": f"user-{n % 3}", "session": Session("s", "http", "203.0.113.7")} for n in range(6)])
    return archive_path


def test_json_lines_are_those_of_show(archive: Path) -> None:
    """The default format has the lines that `show` prints, oldest first."""
    shown = otel_audit("show", "--reverse", "-o", "jsonl", "--archive", archive).stdout
    done = otel_audit("export", "--archive", archive)
    assert done.stdout == shown
    assert done.stderr == ""
    assert [line["sequence"] for line in json_lines(shown)] == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize(
    ("arguments", "sequences"),
    [
        (("user-1@example.com",), [2, 5]),
        (("other.example",), []),
        (("--where", "user=user-2"), [3, 6]),
        (("--ip", "203.0.113.0/24", "--type", "user.login.*"), [1, 2, 3, 4, 5, 6]),
        (("--until", "1d"), []),
    ],
)
def test_filters(archive: Path, arguments: tuple[str, ...], sequences: list[int]) -> None:
    """The target and the options of `show` choose the records."""
    lines = json_lines(otel_audit("export", *arguments, "--archive", archive).stdout)
    assert [line["sequence"] for line in lines] == sequences


@pytest.mark.parametrize("form", TEXT_FORMATS)
def test_hostile_values_on_a_terminal(archive_path: Path, form: str) -> None:
    """No format lets what clients sent reach a terminal, or break a line."""
    fill(
        archive_path,
        [
            {"user": text, "target": text, "message": text, "session": Session(text, text, text, text),
             "custom": {"sent": {"text": text, "deep": {text: [text]}}}}
            for text in HOSTILE.values()
        ],
    )  # fmt: skip
    text = otel_audit("export", "--format", form, "--archive", archive_path).stdout
    lines = text.replace("\r\n", "\n").split("\n")
    assert len(lines) == len(HOSTILE) + (2 if form == "csv" else 1)
    assert all(line.isprintable() for line in lines)


@pytest.mark.parametrize("form", FORMATS)
def test_a_file(archive: Path, tmp_path: Path, form: str) -> None:
    """The file holds what goes to standard output, is private, and nothing else is left beside it."""
    folder = tmp_path / "out"
    folder.mkdir()
    done = otel_audit("export", "--format", form, "--output", folder / "x", "--archive", archive)
    assert (done.stdout, done.stderr) == ("", "")
    assert [path.name for path in folder.iterdir()] == ["x"]
    assert stat.S_IMODE((folder / "x").stat().st_mode) == 0o600
    if form in TEXT_FORMATS:
        again = otel_audit("export", "--format", form, "--archive", archive).stdout
        # Both with line ends as Python reads them.
        assert (folder / "x").read_text("utf-8") == again


@pytest.mark.parametrize(
    ("name", "options", "begins"),
    [
        ("all.csv", (), "sequence,"),
        ("ALL.CEF", (), "CEF:0|"),
        ("all.txt", (), '{"sequence": 1'),
        ("all.csv", ("--format", "jsonl"), '{"sequence": 1'),
    ],
)
def test_the_name_says_the_format(
    archive: Path, tmp_path: Path, name: str, options: tuple[str, ...], begins: str
) -> None:
    """What the file's name ends with is its format, unless another one is given or it is none."""
    otel_audit("export", "-O", tmp_path / name, *options, "--archive", archive)
    assert (tmp_path / name).read_text().startswith(begins)


def test_no_file_is_replaced(archive: Path, tmp_path: Path) -> None:
    """A file that is there, a dangling link and a directory are refused, and stay as they are."""
    file, link = tmp_path / "there.csv", tmp_path / "link"
    file.write_text("old")
    link.symlink_to(tmp_path / "elsewhere")
    for path in (file, link, tmp_path):
        done = otel_audit("export", "-O", path, "--archive", archive, status=2)
        assert done.stderr == f"otel-audit: {path} is there already: give a file that does not exist yet\n"
    assert file.read_text() == "old"
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.parametrize("name", ["none/x", "x" * 250, ""])
def test_a_file_that_cannot_be(archive: Path, tmp_path: Path, name: str) -> None:
    """Where no file can be made that is said at once, with the name that was given."""
    path = f"{tmp_path}/{name}" if name else ""
    done = otel_audit("export", "-O", path, "--archive", archive, status=2)
    assert done.stderr.startswith(f"otel-audit: {path or '.'} ")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("form", FORMATS)
def test_a_failed_export_leaves_no_file(archive: Path, tmp_path: Path, form: str) -> None:
    """Where a record cannot be read, the export says so and leaves nothing, not even a part."""
    connect(archive).execute("UPDATE record SET otlp = CAST('alice' AS BLOB) WHERE sequence = 5")
    folder = tmp_path / "out"
    folder.mkdir()
    done = otel_audit("export", "--format", form, "-O", folder / "x", "--archive", archive, status=2)
    assert done.stderr.startswith("otel-audit: record 5 cannot be decoded")
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("form", FORMATS)
def test_a_full_disk(archive_path: Path, tmp_path: Path, form: str) -> None:
    """Where the file cannot grow, the export names it and leaves nothing."""
    # More than the limit even when it is compressed; SQLite's own files keep within it.
    fill(archive_path, [{"custom": {"a": {"b": os.urandom(8_000).hex()}}} for _ in range(20)])
    folder = tmp_path / "out"
    folder.mkdir()
    line = 'ulimit -f 64; exec "$0" -m otel_audit export --format "$1" -O "$2" --archive "$3"'
    done = subprocess.run(
        ["bash", "-c", line, sys.executable, form, folder / "x", archive_path],
        env=environment(), capture_output=True, encoding="utf-8", check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.startswith(f"otel-audit: {folder / 'x'}: File too large")
    assert list(folder.iterdir()) == []


def test_an_interrupted_export_leaves_no_file(archive: Path, tmp_path: Path) -> None:
    """Ctrl-C ends an export with 130, and what was written of the file is removed."""
    folder = tmp_path / "out"
    folder.mkdir()
    script = (
        "import sys, time; from otel_audit.cli import main; from otel_audit.exports import jsonl;"
        "jsonl.to_json = lambda record: time.sleep(60); main()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, "export", "-O", folder / "x", "--archive", archive],
        stderr=subprocess.PIPE, env=environment(),
    ) as process:  # fmt: skip
        deadline = time.monotonic() + 30
        while not list(folder.iterdir()) and time.monotonic() < deadline:
            time.sleep(0.01)
        assert next(folder.iterdir()).name.startswith(".x.")
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 130
        assert process.stderr is not None
        assert process.stderr.read() == b""
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("form", TEXT_FORMATS)
def test_a_reader_that_has_enough(archive_path: Path, form: str) -> None:
    """A closed pipe ends an export quietly."""
    fill(archive_path, [{"message": "x" * 10_000}] * 100)
    with popen("export", "--format", form, "--archive", archive_path) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == ""
        assert process.wait(20) == 0


def test_little_is_imported(archive: Path) -> None:
    """An export imports neither other formats nor what only recording and shipping need."""
    modules = imported("export", "--archive", archive)
    slow = {*SLOW, "csv", "pyarrow", "rich", "tempfile"}
    assert not {name for name in modules for other in slow if name == other or name.startswith(f"{other}.")}


def test_progress(archive_path: Path, tmp_path: Path) -> None:
    """A terminal sees how much of a long export is done; the export itself stays clean, and no other reader sees it."""
    fill(archive_path, [{}] * 5)
    with connect(archive_path) as connection:
        # As large as an archive must be to be worth a bar.
        connection.execute("UPDATE record SET sequence = 200000 WHERE sequence = 5")
    leader, follower = pty.openpty()
    done = subprocess.run(
        [sys.executable, "-m", "otel_audit", "export", "--archive", archive_path],
        stdout=subprocess.PIPE, stderr=follower, env=environment(TERM="xterm-256color"), check=True,
    )  # fmt: skip
    os.close(follower)
    assert b"exporting" in os.read(leader, 65_536)
    os.close(leader)
    assert len(json_lines(done.stdout.decode())) == 5
    assert otel_audit("export", "--archive", archive_path, "-O", tmp_path / "x").stderr == ""


def test_wrong_usage(archive: Path) -> None:
    """Formats that there are not, and contradictions among the filters, are refused by name."""
    assert "'xml' is not one of" in otel_audit("export", "--format", "xml", "--archive", archive, status=2).stderr
    assert "names no host" in otel_audit("export", "alice@", "--archive", archive, status=2).stderr
    done = otel_audit("export", "--format", "parquet", "--archive", archive, status=2)
    assert done.stderr == "otel-audit: --format parquet cannot go to standard output: give --output FILE\n"
