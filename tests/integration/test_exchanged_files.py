"""The archive's file exchanged, moved or removed while it is in use: nobody takes another file for it, nor its log."""

from __future__ import annotations

import contextlib
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import apsw
import pytest

from otel_audit.archive import connecting
from otel_audit.archive.connecting import connect_to_read
from otel_audit.archive.query import open_archive
from otel_audit.archive.verify import verify
from otel_audit.errors import ArchiveError, AuditError, IntegrityError
from tests.archive_material import assert_sound, connect, provider_at, record, run_python, written


@contextlib.contextmanager
def exchanged(path: Path, other: Path | None) -> Iterator[None]:
    """Put a copy of another file, or none, in the archive's place, and the original back afterwards."""
    original = path.with_name("original")
    path.rename(original)
    if other is not None:
        shutil.copy(other, path)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        original.rename(path)


@pytest.mark.parametrize("what", ["removed", "replaced by another", "replaced by a copy", "replaced by an older copy"])
def test_a_file_that_was_exchanged_is_noticed_at_once(what: str, archive_path: Path, tmp_path: Path) -> None:
    """Recording raises until the original is back, and neither writes to nor makes another file."""
    written(archive_path)
    older, other = tmp_path / "older.db", tmp_path / "other.db"
    shutil.copy(archive_path, older)
    written(other, 50)
    provider = provider_at(archive_path)
    receipts = record(provider, 2)
    with contextlib.closing(connect(archive_path)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    copy = tmp_path / "copy.db"
    shutil.copy(archive_path, copy)
    replacement = {"another": other, "copy": copy, "older copy": older}.get(what.partition("by a")[2].lstrip("n "))
    with exchanged(archive_path, replacement):
        for _ in range(2):
            with pytest.raises(IntegrityError, match=r"removed or replaced|removed while"):
                record(provider)
        assert archive_path.exists() == (replacement is not None)
        if replacement is not None:
            assert archive_path.read_bytes() == replacement.read_bytes()
    receipts += record(provider, 2)
    assert provider.shutdown()
    assert_sound(archive_path, receipts, records=7)


def open_and_look(path: Path) -> None:
    with open_archive(path) as archive:
        archive.status()


def verify_it(path: Path) -> None:
    verify(path)


def add_to_it(path: Path) -> None:
    written(path, 1)


@pytest.mark.parametrize("exchange", ["removed", "replaced"])
@pytest.mark.parametrize("use", [open_and_look, verify_it, add_to_it])
def test_nobody_opens_what_is_not_the_file_in_use(
    use: Callable[[Path], None], exchange: str, archive_path: Path, tmp_path: Path
) -> None:
    """The log beside it belongs to the original: another file is not read by it, and nothing is written to that."""
    written(archive_path)
    older = tmp_path / "older.db"
    shutil.copy(archive_path, older)
    with provider_at(archive_path) as provider:
        receipts = record(provider, 40)
        with exchanged(archive_path, older if exchange == "replaced" else None):
            with pytest.raises(AuditError, match=r"was removed or replaced while it was in use|there is no archive"):
                use(archive_path)
            # Neither does another process, which names this one.
            said = complaint(use, archive_path)
            assert "removed or replaced" in said or "there is no archive" in said
            if exchange == "replaced":
                assert f"was removed or replaced while process {os.getpid()} had it open" in said
                assert archive_path.read_bytes() == older.read_bytes()
            else:
                assert not archive_path.exists()
        receipts += record(provider, 2)
    assert_sound(archive_path, receipts, records=45)


@pytest.mark.parametrize("log", ["there", "removed"])
@pytest.mark.parametrize("exchange", ["removed", "replaced"])
def test_the_log_stays_with_the_original(exchange: str, log: str, archive_path: Path, tmp_path: Path) -> None:
    """A process that ends while another file has the archive's name leaves that one no log of the original's."""
    written(archive_path)
    original = tmp_path / "elsewhere" / "audit.db"
    original.parent.mkdir(mode=0o700)
    copy = tmp_path / "copy.db"
    shutil.copy(archive_path, copy)
    with provider_at(archive_path) as provider:
        receipts = record(provider, 40)
        archive_path.rename(original)
        if exchange == "replaced":
            copy.rename(archive_path)
        if log == "removed":
            archive_path.with_name("audit.db-wal").unlink()
            archive_path.with_name("audit.db-shm").unlink()
    assert_sound(original, receipts, records=43)
    if exchange == "removed":
        written(archive_path, 3)
    open_and_look(archive_path)
    assert_sound(archive_path, records=3)


def test_log_without_an_index(archive_path: Path, tmp_path: Path) -> None:
    """Where the index was removed as well, the log alone tells that another process uses it for the original."""
    written(archive_path)
    copy = tmp_path / "copy.db"
    shutil.copy(archive_path, copy)
    with provider_at(archive_path) as provider:
        receipts = record(provider, 40)
        with exchanged(archive_path, copy):
            archive_path.with_name("audit.db-shm").unlink()
            assert f"while process {os.getpid()} had it open" in complaint(open_and_look, archive_path)
        receipts += record(provider)
    assert_sound(archive_path, receipts, records=44)


def test_a_link_to_another_file(archive_path: Path, tmp_path: Path) -> None:
    """Readers may reach an archive by a link to it: what is at its end counts."""
    written(archive_path)
    copy, link = tmp_path / "copy.db", tmp_path / "link.db"
    shutil.copy(archive_path, copy)
    link.symlink_to(archive_path)
    with provider_at(archive_path) as provider:
        receipts = record(provider, 40)
        assert complaint(open_and_look, link) == ""
        with exchanged(archive_path, copy):
            for use in (open_and_look, verify_it):
                with pytest.raises(IntegrityError, match="removed or replaced"):
                    use(link)
                assert f"while process {os.getpid()} had it open" in complaint(use, link)
    assert_sound(archive_path, receipts, records=43)


def test_the_original_by_its_new_name(archive_path: Path) -> None:
    """SQLite would find no log beside it, and share the index of the one that it has: it is not opened here."""
    written(archive_path)
    renamed = archive_path.with_name("renamed.db")
    with provider_at(archive_path) as provider:
        receipts = record(provider, 40)
        archive_path.rename(renamed)
        for use in (open_and_look, verify_it, add_to_it):
            with pytest.raises(IntegrityError, match="removed or replaced"):
                use(renamed)
        renamed.rename(archive_path)
        receipts += record(provider)
    assert_sound(archive_path, receipts, records=44)


def test_exchanged_while_it_is_opened(archive_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that is put there while the archive is being opened is noticed, and the original is not taken for it."""
    written(archive_path)
    copy, original = tmp_path / "copy.db", archive_path.with_name("original")
    shutil.copy(archive_path, copy)
    real = connecting._connect_to_read

    def exchanging(path: Path) -> apsw.Connection:
        connection = real(path)
        if copy.exists():
            path.rename(original)
            copy.rename(path)
        return connection

    with provider_at(archive_path) as provider:
        receipts = record(provider, 40)
        monkeypatch.setattr(connecting, "_connect_to_read", exchanging)
        with pytest.raises(IntegrityError, match="removed or replaced"):
            open_and_look(archive_path)
        original.rename(archive_path)
        open_and_look(archive_path)
        receipts += record(provider)
    assert_sound(archive_path, receipts, records=44)


@pytest.mark.parametrize("name", ["a\0b", "x" * 300])
@pytest.mark.parametrize("use", [open_and_look, verify_it, add_to_it])
def test_no_name_of_a_file(use: Callable[[Path], None], name: str, tmp_path: Path, archive_path: Path) -> None:
    """A path that no file can have is refused, and keeps nothing else from being opened."""
    with pytest.raises(ArchiveError, match=r"NUL|too long|no archive"):
        use(tmp_path / name)
    written(archive_path)


def complaint(use: Callable[[Path], None], path: Path) -> str:
    """Return what another process is told that uses an archive; empty where it is not refused."""
    program = f"""
    import sys
    from pathlib import Path
    from otel_audit.errors import AuditError
    from tests.integration.test_exchanged_files import {use.__name__}
    try:
        {use.__name__}(Path(sys.argv[1]))
    except AuditError as error:
        print(error)
    """
    return run_python(program, path)


def test_another_archive_amid_a_statement(archive_path: Path, tmp_path: Path) -> None:
    """A connection does not tell what it has open while a thread uses it: it is not taken for this archive's."""
    receipts, began, ended = written(archive_path), threading.Event(), threading.Event()

    def hold(*_: object) -> bool:
        began.set()
        return ended.wait(20)

    with contextlib.closing(connect_to_read(archive_path).connection) as connection:
        connection.create_scalar_function("hold", hold, 0)
        with ThreadPoolExecutor() as pool:
            held = pool.submit(lambda: connection.execute("SELECT hold()").get)
            assert began.wait(20)
            assert len(written(tmp_path / "other.db")) == 3
            ended.set()
            assert held.result() == 1
    assert_sound(archive_path, receipts, records=3)


def test_who_copied_the_archive_is_not_taken_for_one_who_uses_another(archive_path: Path, tmp_path: Path) -> None:
    """A process that read the archive's file itself has lost SQLite's locks of it: others open it all the same."""
    with provider_at(archive_path) as provider:
        receipts = record(provider, 2)
        shutil.copy(archive_path, tmp_path / "copy.db")
        assert complaint(add_to_it, archive_path) == ""
        receipts += record(provider)
    assert_sound(archive_path, receipts, records=4)
