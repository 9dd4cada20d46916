"""A checkpoint says how far one archive was read, and is never half written."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from otel_audit.cli.cursor import Checkpoint
from otel_audit.errors import ConfigError


def test_it_begins_at_nothing_and_goes_on(tmp_path: Path) -> None:
    """Without a file nothing was read; what is saved is where the next run begins."""
    path = tmp_path / "place" / "seen"
    path.parent.mkdir()
    checkpoint = Checkpoint(str(path), "one", 9)
    assert checkpoint.sequence == 0
    checkpoint.save(7)
    assert Checkpoint(str(path), "one", 9).sequence == 7
    assert json.loads(path.read_text("utf-8")) == {"archive_id": "one", "sequence": 7}
    assert [entry.name for entry in path.parent.iterdir()] == ["seen"]


def test_nothing_read_is_saved_too(tmp_path: Path) -> None:
    """A first run over an empty archive leaves a file, so that a later replacement of the archive shows."""
    path = tmp_path / "seen"
    Checkpoint(str(path), "one", 0).save(0)
    with pytest.raises(ConfigError, match="belongs to archive one, this one is two"):
        Checkpoint(str(path), "two", 0)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b'{"archive_id": "two", "sequence": 1}', "belongs to archive two"),
        (b'{"archive_id": "one", "sequence": 10}', "stands at 10, but the archive ends at 9"),
        (b'{"archive_id": "one", "sequence": -1}', "holds the sequence -1"),
        (b'{"archive_id": "one", "sequence": true}', "holds the sequence True"),
        (b'{"archive_id": "one"}', "is no checkpoint"),
        (b"[1]", "is no checkpoint"),
        (b"", "is no checkpoint"),
        (b"\xff\xfe", "is no checkpoint"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, content: bytes, complaint: str) -> None:
    """A file of another archive, one beyond the archive's end, and junk are errors that name the file."""
    path = tmp_path / "seen"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=complaint) as caught:
        Checkpoint(str(path), "one", 9)
    assert str(path) in str(caught.value)
    assert path.read_bytes() == content


def test_a_failed_save_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the new file cannot be put in place, the old one stays and nothing else is left behind."""
    path = tmp_path / "place" / "seen"
    path.parent.mkdir()
    checkpoint = Checkpoint(str(path), "one", 9)
    checkpoint.save(3)

    def refuse(*_: object) -> None:
        raise OSError("no")

    monkeypatch.setattr(Path, "replace", refuse)
    with pytest.raises(ConfigError, match="cannot be written: no"):
        checkpoint.save(5)
    assert checkpoint.sequence == 3
    assert json.loads(path.read_text("utf-8"))["sequence"] == 3
    assert [entry.name for entry in path.parent.iterdir()] == ["seen"]


def test_a_pipe_is_no_checkpoint(tmp_path: Path) -> None:
    """A FIFO in the checkpoint's place is refused at once, not waited for."""
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ConfigError, match="no regular file"):
        Checkpoint(str(tmp_path / "pipe"), "archive", 0)
