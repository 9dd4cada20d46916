"""``show --follow`` shows what comes, ``show --checkpoint`` goes on where it stopped; neither loses a record."""

from __future__ import annotations

import json
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

import pytest

from otel_audit.archive.query import open_archive
from otel_audit.record import to_json
from tests.command_line import fill, json_lines, otel_audit, popen

SECONDS = 20


class Follower:
    """A running ``show --follow``, whose lines are read as they come."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self._lines: queue.Queue[str] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._lines.put(line)

    def line(self, timeout: float = SECONDS) -> str:
        return self._lines.get(timeout=timeout).rstrip("\n")

    def lines(self, count: int) -> list[str]:
        return [self.line() for _ in range(count)]

    def interrupt(self) -> int:
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(SECONDS)


@contextmanager
def following(path: Path, *options: str | Path) -> Iterator[Follower]:
    with popen("show", "--archive", path, "--follow", *options) as process:
        try:
            yield Follower(process)
        finally:
            process.kill()


def sequences(lines: list[str]) -> list[int]:
    return [json.loads(line)["sequence"] for line in lines]


def numbered(first: int, last: int) -> list[dict[str, str]]:
    return [{"user": f"user-{n}"} for n in range(first, last + 1)]


def test_follow_begins_with_the_last_and_goes_on(tmp_path: Path) -> None:
    """The last ten come first, oldest of them first, then each new one as it is recorded; SIGINT ends it with 0."""
    path = tmp_path / "audit.db"
    fill(path, numbered(1, 15))
    with following(path, "-o", "jsonl") as follower:
        assert sequences(follower.lines(10)) == list(range(6, 16))
        fill(path, numbered(16, 17))
        assert sequences(follower.lines(2)) == [16, 17]
        fill(path, numbered(18, 18))
        assert sequences(follower.lines(1)) == [18]
        assert follower.interrupt() == 0
        assert follower.process.stderr is not None
        assert follower.process.stderr.read() == ""


@pytest.mark.parametrize(("limit", "first"), [("2", 2), ("all", 1)])
def test_follow_begins_where_the_limit_says(tmp_path: Path, limit: str, first: int) -> None:
    """-n says how many of the last records come first, all included."""
    path = tmp_path / "audit.db"
    fill(path, numbered(1, 3))
    with following(path, "-o", "jsonl", "-n", limit) as follower:
        assert sequences(follower.lines(4 - first)) == list(range(first, 4))
        fill(path, numbered(4, 4))
        assert sequences(follower.lines(1)) == [4]


def test_follow_can_begin_with_none(tmp_path: Path) -> None:
    """With -n 0 only what is recorded from now on comes."""
    path = tmp_path / "audit.db"
    fill(path, numbered(1, 3))
    with following(path, "-o", "jsonl", "-n", "0") as follower:
        # Nothing tells from outside when it looks for the first time: records come until it shows one.
        for number in range(4, 100):
            fill(path, numbered(number, number))
            with suppress(queue.Empty):
                assert sequences([follower.line(0.3)])[0] > 3
                return
    pytest.fail("no record was shown")


def test_follow_heeds_the_filter(tmp_path: Path) -> None:
    """Only records that match come, in the order of recording, from several processes' records too."""
    path = tmp_path / "audit.db"
    fill(path, [{"user": "alice"}, {"user": "bob"}])
    with following(path, "alice@example.com", "--type", "*.failure", "-n", "all", "-o", "jsonl") as follower:
        fill(path, [{"user": "alice"}, {"user": "bob", "type": "x.failure"}, {"user": "alice", "type": "x.failure"}])
        assert sequences(follower.lines(1)) == [5]


def test_tables_and_csv_follow(tmp_path: Path) -> None:
    """Tables are aligned lines, CSV has its header once; each line comes at once, and types are whole."""
    path = tmp_path / "audit.db"
    fill(path, [{"user": "alice", "type": "a"}])
    with following(path) as table, following(path, "-o", "csv", "--fields", "user,type") as comma:
        header, row = table.lines(2)
        assert comma.lines(2) == ["user,type", "alice,a"]
        fill(path, [{"user": "bob", "type": "user.password.reset.requested"}])
        new = table.line()
        assert comma.line() == "bob,user.password.reset.requested"
    place = header.index("Event")
    assert row[place:].startswith("a ")
    assert new[place:].startswith("user.password.reset") or "user.password.reset" in new
    assert new.index("bob") == header.index("User")


def test_follow_ends_with_its_time(tmp_path: Path) -> None:
    """With --until it ends with 0 when the time has passed, having shown what was recorded before."""
    path = tmp_path / "audit.db"
    fill(path, numbered(1, 1))
    until = time.time() + 2.5
    stamp = datetime.fromtimestamp(until, UTC).isoformat()
    with following(path, "-o", "jsonl", "--until", stamp) as follower:
        assert sequences(follower.lines(1)) == [1]
        fill(path, numbered(2, 2))
        assert sequences(follower.lines(1)) == [2]
        assert follower.process.wait(SECONDS) == 0
        assert time.time() >= until


def test_follow_of_an_empty_archive(tmp_path: Path) -> None:
    """An archive without records can be followed; its first record comes."""
    path = tmp_path / "audit.db"
    fill(path, [])
    with following(path, "-o", "otlp", "-n", "all") as follower:
        fill(path, numbered(1, 1))
        assert "user-1" in follower.line()


def test_follow_tells_of_a_replaced_archive(tmp_path: Path) -> None:
    """An archive that is removed under the reader ends with 2 rather than with silence."""
    path = tmp_path / "audit.db"
    fill(path, numbered(1, 1))
    with following(path, "-o", "jsonl") as follower:
        follower.line()
        for file in tmp_path.glob("audit.db*"):
            file.unlink()
        assert follower.process.wait(SECONDS) == 2
        assert follower.process.stderr is not None
        assert "was removed or replaced" in follower.process.stderr.read()


def test_a_checkpoint_continues(tmp_path: Path) -> None:
    """Each run shows, oldest first, what the one before has not shown; filters and limits lose nothing."""
    path, seen = tmp_path / "audit.db", tmp_path / "seen"

    def run(*options: str) -> list[int]:
        text = otel_audit("show", "--archive", path, "-o", "jsonl", "--checkpoint", seen, *options).stdout
        return [record["sequence"] for record in json_lines(text)]

    fill(path, numbered(1, 5))
    assert run("-n", "2") == [1, 2]
    assert run("-n", "2") == [3, 4]
    assert run() == [5]
    assert run() == []
    fill(path, [{"user": "alice"}, {"user": "bob"}, {"user": "alice"}])
    assert run("alice@example.com", "-n", "1") == [6]
    assert run("alice@example.com") == [8]
    fill(path, [{"user": "bob"}])
    # What does not match has been passed too.
    assert run("alice@example.com") == []
    assert run() == []


def test_a_checkpoint_works_in_every_form(tmp_path: Path) -> None:
    """Tables, arrays, CSV and OTLP go on from a checkpoint as well."""
    path = tmp_path / "audit.db"
    fill(path, numbered(1, 60))
    for form in ("table", "json", "csv", "otlp"):
        seen = tmp_path / f"seen.{form}"
        text = otel_audit("show", "--archive", path, "-o", form, "--checkpoint", seen).stdout
        assert "user-1" in text
        assert "user-60" in text
        assert "user-60" not in otel_audit("show", "--archive", path, "-o", form, "--checkpoint", seen).stdout


def test_a_checkpoint_of_another_archive_is_refused(tmp_path: Path) -> None:
    """A checkpoint belongs to one archive; nothing is printed where it is another's, or no checkpoint."""
    first, second, seen = tmp_path / "a.db", tmp_path / "b.db", tmp_path / "seen"
    fill(first, numbered(1, 1))
    fill(second, numbered(1, 1))
    otel_audit("show", "--archive", first, "--checkpoint", seen)
    done = otel_audit("show", "--archive", second, "-o", "json", "--checkpoint", seen, status=2)
    assert "belongs to archive" in done.stderr
    assert done.stdout == ""


def test_what_was_not_read_is_shown_again(tmp_path: Path) -> None:
    """Where the output could not be written, the checkpoint stays: nothing is skipped."""
    path, seen = tmp_path / "audit.db", tmp_path / "seen"
    fill(path, [{"user": f"user-{n}", "message": "x" * 1000} for n in range(100)])
    with popen("show", "--archive", path, "-o", "jsonl", "--checkpoint", seen) as process:
        assert process.stdout is not None
        process.stdout.close()
    assert process.returncode == 0
    assert not seen.exists()
    assert otel_audit("show", "--archive", path, "-o", "jsonl", "--checkpoint", seen).stdout.count("\n") == 100


def test_follow_moves_the_checkpoint(tmp_path: Path) -> None:
    """A follower that is killed goes on where it was; at most the records of its last look come again."""
    path, seen = tmp_path / "audit.db", tmp_path / "seen"
    fill(path, numbered(1, 3))
    with following(path, "-o", "jsonl", "--checkpoint", seen) as follower:
        assert sequences(follower.lines(3)) == [1, 2, 3]
        fill(path, numbered(4, 4))
        assert sequences(follower.lines(1)) == [4]
        deadline = time.monotonic() + SECONDS
        while json.loads(seen.read_text("utf-8"))["sequence"] < 4 and time.monotonic() < deadline:
            time.sleep(0.02)
        follower.process.kill()
    fill(path, numbered(5, 5))
    with following(path, "-o", "jsonl", "--checkpoint", seen) as follower:
        assert sequences(follower.lines(1)) == [5]


def test_nothing_is_lost_while_others_record(tmp_path: Path) -> None:
    """Beside processes that record, a follower shows every record once, in order, exactly as the archive has it."""
    path = tmp_path / "audit.db"
    fill(path, [])
    writer = (
        "import sys; from pathlib import Path; from tests.command_line import fill\n"
        "fill(Path(sys.argv[1]), [{'user': f'{sys.argv[2]}-{n}'} for n in range(100)])"
    )
    with following(path, "-o", "jsonl", "-n", "all") as follower:
        root = str(Path(__file__).parents[2])
        writers = [subprocess.Popen([sys.executable, "-c", writer, str(path), name], cwd=root) for name in "ab"]
        assert [process.wait(SECONDS) for process in writers] == [0, 0]
        shown = [json.loads(line) for line in follower.lines(200)]
    with open_archive(path) as archive:
        assert shown == [to_json(record) for record in archive.query(oldest_first=True)]
