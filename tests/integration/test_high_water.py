"""The high-water mark, and what `verify` makes of it."""

from __future__ import annotations

import logging
import os
import shutil
import stat
from pathlib import Path

import pytest

from otel_audit import IntegrityError
from otel_audit.archive.administration import Administration
from otel_audit.archive.checkpoints import append_checkpoint
from otel_audit.archive.highwater import HighWater
from otel_audit.archive.query import open_archive
from otel_audit.archive.verify import verify
from otel_audit.errors import ArchiveError
from otel_audit.notes import Checkpoint, sign_note
from tests.archive_material import forked, provider_at, wait_until
from tests.checkpoint_material import codes, mark, record, recorded


def test_an_older_copy_is_found(archive_path: Path, tmp_path: Path) -> None:
    """Where an older copy was put in place of the archive, the first event raises, and `verify` says why."""
    recorded(archive_path)
    older = tmp_path / "older.db"
    shutil.copy(archive_path, older)
    recorded(archive_path)
    file = mark(archive_path)
    shutil.copy(older, archive_path)
    with provider_at(archive_path) as provider, pytest.raises(IntegrityError, match="had 6 records here"):
        record(provider)
    assert codes(archive_path, high_water=file.parent) == ["high-water"]
    file.unlink()
    recorded(archive_path)
    assert codes(archive_path, high_water=file.parent) == []


def test_history_written_anew_is_found(archive_path: Path, tmp_path: Path) -> None:
    """Another history of the same archive, longer than what was seen here, raises and is reported."""
    recorded(archive_path, 1)
    other = tmp_path / "other.db"
    shutil.copy(archive_path, other)
    recorded(archive_path, 4)
    file = mark(archive_path)
    recorded(other, 20, high_water=False)
    shutil.copy(other, archive_path)
    with provider_at(archive_path) as provider, pytest.raises(IntegrityError):
        record(provider)
    assert codes(archive_path, high_water=file.parent) == ["high-water"]


def test_the_mark_is_private_and_only_grows(archive_path: Path) -> None:
    """The file is the user's alone, and a smaller checkpoint never takes the place of a larger one."""
    recorded(archive_path)
    file = mark(archive_path)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
    high_water = HighWater(file.parent)
    with open_archive(archive_path) as archive:
        for size in (7, 5):
            high_water.note(sign_note(str(Checkpoint.of_archive(archive.id, size, bytes(32))), None))
            found = high_water.read(archive.id)
            assert found is not None
            assert found.size == 7
    assert [path.name for path in file.parent.iterdir()] == [file.name]


def test_a_mark_that_another_writer_replaces_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two providers of one process that note how far the archive came at once, neither spoils the other's file."""
    high_water = HighWater(tmp_path / "marks")
    notes = [sign_note(str(Checkpoint.of_archive("ab", size, bytes(32))), None) for size in (99, 100)]
    replace = Path.replace

    def late(new: Path, path: Path) -> Path:
        monkeypatch.setattr(Path, "replace", replace)
        high_water.note(notes[0])
        return replace(new, path)

    monkeypatch.setattr(Path, "replace", late)
    high_water.note(notes[1])
    found = high_water.read("ab")
    assert found is not None
    assert found.size == 100
    assert [path.name for path in high_water.directory.iterdir()] == ["ab.note"]


def test_a_mark_that_is_none(archive_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A file that holds something else is logged and keeps nothing from being recorded; `verify` names it."""
    recorded(archive_path)
    file = mark(archive_path)
    file.write_text("nonsense")
    with caplog.at_level(logging.ERROR, "otel_audit"):
        recorded(archive_path)
    assert "high-water mark" in caplog.text
    assert codes(archive_path, high_water=file.parent) == ["high-water"]


def test_a_mark_is_no_link(tmp_path: Path) -> None:
    """A symbolic link in place of the file is not followed, nor an id that would leave the directory."""
    (tmp_path / "ab.note").symlink_to("/etc/passwd")
    with pytest.raises(ArchiveError):
        HighWater(tmp_path).read("ab")
    with pytest.raises(ArchiveError, match="no archive's id"):
        HighWater(tmp_path).read("../ab")


def test_a_directory_that_cannot_be_made(archive_path: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Where the mark cannot be written, that is logged, and recording goes on."""
    file = tmp_path / "file"
    file.write_text("")
    with caplog.at_level(logging.WARNING, "otel_audit"):
        recorded(archive_path, high_water=file / "below")
    assert str(file) in caplog.text
    assert verify(archive_path).last == 3


def test_children_note_theirs(archive_path: Path) -> None:
    """What a forked child records is noted as well."""
    with provider_at(archive_path) as provider:
        record(provider)
        file = mark(archive_path)

        def work() -> None:
            record(provider, 5)
            provider.shutdown()

        assert os.waitpid(forked(work), 0)[1] == 0
        wait_until(lambda: "\n8\n" in file.read_text())


def test_a_mark_that_is_newer_than_a_look(archive_path: Path) -> None:
    """What others commit and note while the tree is only looked at is no older copy; an append has the write lock."""
    recorded(archive_path)
    with open_archive(archive_path) as archive:
        later = Checkpoint.of_archive(archive.id, 9, bytes(32))
    with Administration(archive_path, b"", b"", floor=lambda _: later) as administration:
        assert administration.tree()[1].size == 3
        for _ in range(2):
            with pytest.raises(IntegrityError, match="had 9 records here"):
                append_checkpoint(administration, None)
    assert verify(archive_path).last == 3
