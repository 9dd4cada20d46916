"""What happens to the archive's file under the feet of the application: nothing of it passes unseen."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import stat
import tempfile
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import apsw
import pytest

from otel_audit.archive import connecting
from otel_audit.archive.connecting import APPLICATION_ID, SCHEMA_VERSION, connect_to_read
from otel_audit.archive.files import file_system, refuse_network_file_system
from otel_audit.archive.query import open_archive
from otel_audit.archive.verify import verify
from otel_audit.errors import ArchiveError, AuditError, IntegrityError
from otel_audit.provider import AuditProvider
from otel_audit.record import Receipt
from tests.archive_material import assert_sound, connect, forked, provider_at, run_python

NEEDS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="mounts file systems, changes the user")


def record(provider: AuditProvider, count: int = 1) -> list[Receipt]:
    log = provider.get_logger("file")
    return [log.audit("user.login.success", user=f"user{number}") for number in range(count)]


def written(path: Path, count: int = 3) -> list[Receipt]:
    with provider_at(path) as provider:
        return record(provider, count)


def refused(path: Path) -> str:
    with pytest.raises(ArchiveError) as caught:
        provider_at(path)
    assert caught.value.hint
    assert str(path) in caught.value.message
    return str(caught.value)


@pytest.mark.parametrize("what", ["removed", "replaced by another", "replaced by a copy", "replaced by an older copy"])
def test_a_file_that_was_exchanged_is_noticed_at_once(what: str, archive_path: Path, tmp_path: Path) -> None:
    """Recording raises until the original is back, and neither writes to nor makes another file."""
    written(archive_path)
    older, other = tmp_path / "older.db", tmp_path / "other.db"
    shutil.copy(archive_path, older)
    written(other, 50)
    provider = provider_at(archive_path)
    receipts = record(provider, 2)
    original = archive_path.with_name("original")
    with contextlib.closing(connect(archive_path)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    copy = tmp_path / "copy.db"
    shutil.copy(archive_path, copy)
    archive_path.rename(original)
    replacement = {"another": other, "copy": copy, "older copy": older}.get(what.partition("by a")[2].lstrip("n "))
    if replacement is not None:
        shutil.copy(replacement, archive_path)
    before = archive_path.read_bytes() if replacement is not None else None
    for _ in range(2):
        with pytest.raises(IntegrityError, match=r"removed or replaced|removed while"):
            record(provider)
    assert archive_path.exists() == (replacement is not None)
    if before is not None:
        assert archive_path.read_bytes() == before
        archive_path.unlink()
    original.rename(archive_path)
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
    older, original = tmp_path / "older.db", archive_path.with_name("original")
    shutil.copy(archive_path, older)
    with provider_at(archive_path) as provider:
        receipts = record(provider, 40)
        archive_path.rename(original)
        if exchange == "replaced":
            shutil.copy(older, archive_path)
        with pytest.raises(AuditError, match=r"was removed or replaced while it was in use|there is no archive"):
            use(archive_path)
        # Neither does another process, which names this one.
        said = complaint(use, archive_path)
        assert "removed or replaced" in said or "there is no archive" in said
        if exchange == "replaced":
            assert f"was removed or replaced while process {os.getpid()} had it open" in said
            assert archive_path.read_bytes() == older.read_bytes()
            archive_path.unlink()
        assert not archive_path.exists()
        original.rename(archive_path)
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
    copy, original = tmp_path / "copy.db", archive_path.with_name("original")
    shutil.copy(archive_path, copy)
    with provider_at(archive_path) as provider:
        receipts = record(provider, 40)
        archive_path.rename(original)
        copy.rename(archive_path)
        archive_path.with_name("audit.db-shm").unlink()
        assert f"while process {os.getpid()} had it open" in complaint(open_and_look, archive_path)
        archive_path.unlink()
        original.rename(archive_path)
        receipts += record(provider)
    assert_sound(archive_path, receipts, records=44)


def test_a_link_to_another_file(archive_path: Path, tmp_path: Path) -> None:
    """Readers may reach an archive by a link to it: what is at its end counts."""
    written(archive_path)
    copy, original, link = tmp_path / "copy.db", archive_path.with_name("original"), tmp_path / "link.db"
    shutil.copy(archive_path, copy)
    link.symlink_to(archive_path)
    with provider_at(archive_path) as provider:
        receipts = record(provider, 40)
        assert complaint(open_and_look, link) == ""
        archive_path.rename(original)
        copy.rename(archive_path)
        for use in (open_and_look, verify_it):
            with pytest.raises(IntegrityError, match="removed or replaced"):
                use(link)
            assert f"while process {os.getpid()} had it open" in complaint(use, link)
        archive_path.unlink()
        original.rename(archive_path)
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
    from tests.integration.test_archive_file import {use.__name__}
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


def test_a_removed_archive_is_not_made_anew_by_a_child(archive_path: Path) -> None:
    """A child of a fork, which opens the file itself, refuses to begin another archive in its place."""
    program = """
    import os, sys
    from otel_audit import AuditProvider
    from otel_audit.errors import IntegrityError
    provider = AuditProvider(archive=sys.argv[1], host="example.com")
    log = provider.get_logger("file")
    log.audit("user.login.success", user="alice")
    child = os.fork()
    if child == 0:
        os.unlink(sys.argv[1])
        try:
            log.audit("user.login.success", user="alice")
        except IntegrityError:
            os._exit(7)
        os._exit(1)
    assert os.waitpid(child, 0)[1] >> 8 == 7
    os._exit(0)
    """
    run_python(program, archive_path)
    assert not archive_path.exists()


@pytest.mark.parametrize("how", ["deleted", "restored"])
def test_an_archive_that_shrank_is_noticed(how: str, archive_path: Path, tmp_path: Path) -> None:
    """Records deleted by, or an older state restored through, SQLite itself raise at the next call."""
    written(archive_path)
    older = tmp_path / "older.db"
    shutil.copy(archive_path, older)
    provider = provider_at(archive_path)
    record(provider, 5)
    with connect(archive_path) as connection:
        if how == "deleted":
            connection.execute("DELETE FROM record WHERE sequence > 6")
        else:
            with connection.backup("main", connect(older), "main") as backup:
                backup.step()
    with pytest.raises(IntegrityError, match="older copy was restored or records were deleted"):
        record(provider)
    provider.shutdown()
    assert connect(archive_path).execute("SELECT count(*) FROM record").get == (6 if how == "deleted" else 3)


def test_file_and_directory_are_private(tmp_path: Path) -> None:
    """Whatever the umask, nobody else can read archive, write-ahead log or their directory."""
    path = tmp_path / "new" / "audit.db"
    before = os.umask(0)
    try:
        provider = provider_at(path)
        record(provider)
        files = list(path.parent.iterdir())
        assert {file.name for file in files} >= {"audit.db", "audit.db-wal", "audit.db-shm"}
        assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
        provider.shutdown()
        path.chmod(0o644)
        written(path)
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    finally:
        os.umask(before)


@pytest.mark.parametrize("dangling", [False, True])
def test_a_symbolic_link_is_refused(tmp_path: Path, dangling: bool) -> None:
    """The archive is no symbolic link, wherever it leads: somebody else could have placed it."""
    target, link = tmp_path / "target.db", tmp_path / "audit.db"
    if not dangling:
        written(target)
    link.symlink_to(target)
    assert "symbolic link" in refused(link)
    assert target.exists() != dangling


def test_a_newer_archive_is_refused(archive_path: Path) -> None:
    """An archive of a later schema is neither written nor read, and named as such."""
    written(archive_path)
    connect(archive_path).execute(f"PRAGMA user_version={SCHEMA_VERSION + 1}")
    before = archive_path.read_bytes()
    assert "newer otel_audit" in refused(archive_path)
    with pytest.raises(ArchiveError, match="newer otel_audit"):
        open_archive(archive_path)
    assert archive_path.read_bytes() == before


@pytest.mark.parametrize("kind", ["text", "another program's database", "another program's with our version"])
def test_what_is_no_archive_is_refused_and_left_alone(kind: str, tmp_path: Path) -> None:
    """Another program's file keeps its content, its mode and its journal mode."""
    path = tmp_path / "other.db"
    if kind == "text":
        path.write_text("no database at all\n" * 100)
    else:
        connection = apsw.Connection(str(path))
        connection.execute("CREATE TABLE other (value TEXT); INSERT INTO other VALUES ('theirs')")
        if "version" in kind:
            connection.execute(f"PRAGMA user_version={SCHEMA_VERSION}")
        connection.close()
    path.chmod(0o644)
    before = path.read_bytes()
    assert "no" in refused(path)
    with pytest.raises(ArchiveError):
        open_archive(path)
    assert path.read_bytes() == before
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    assert [file.name for file in tmp_path.glob("other*")] == ["other.db"]


def test_an_archive_is_marked_as_one(archive_path: Path) -> None:
    """The file says what it is, for `file` and for people with a hexadecimal viewer."""
    written(archive_path)
    assert archive_path.read_bytes()[68:72] == APPLICATION_ID.to_bytes(4) == b"OAUD"


def test_an_archive_that_is_not_there_is_not_made_by_reading(tmp_path: Path) -> None:
    """Opening to read makes neither file nor directory, and says where to look."""
    with pytest.raises(ArchiveError, match="there is no archive"):
        open_archive(tmp_path / "none" / "audit.db")
    assert not (tmp_path / "none").exists()


def test_a_relative_path_means_the_same_file_after_a_change_of_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The path is resolved when the provider is made."""
    (tmp_path / "first").mkdir()
    (tmp_path / "second").mkdir()
    monkeypatch.chdir(tmp_path / "first")
    provider = provider_at(Path("audit.db"))
    monkeypatch.chdir(tmp_path / "second")
    receipts = record(provider, 3)
    assert provider.shutdown()
    assert_sound(tmp_path / "first" / "audit.db", receipts, records=3)
    assert not (tmp_path / "second" / "audit.db").exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_directory_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    """Without permission the error names the path and the permissions."""
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o500)
    assert "permission" in refused(closed / "audit.db").lower()


@NEEDS_ROOT
def test_an_unprivileged_process_cannot_write_a_foreign_archive() -> None:
    """A process that may not write gets an error with the remedy, and the file stays as it is."""
    program = """
    import os, sys
    from otel_audit import AuditProvider
    from otel_audit.errors import ArchiveError
    os.setuid(65534)
    try:
        AuditProvider(archive=sys.argv[1], host="example.com")
    except ArchiveError as error:
        assert "permission" in str(error), error
    else:
        raise AssertionError("it was opened")
    """
    # Not below pytest's own directory, which other users cannot enter.
    with tempfile.TemporaryDirectory() as directory:
        Path(directory).chmod(0o755)
        path = Path(directory) / "audit.db"
        written(path)
        run_python(program, path)
        assert_sound(path, records=3)


MOUNTS = r"""
/dev/vda1 / ext4 rw 0 0
server:/export /srv nfs4 rw 0 0
tmpfs /srv/local tmpfs rw 0 0
//host/share /mnt/with\040space cifs rw 0 0
broken line
host:/x /home/user/remote fuse.sshfs rw 0 0
"""


@pytest.mark.parametrize(
    ("directory", "kind"),
    [
        ("/var/lib", "ext4"),
        ("/srv", "nfs4"),
        ("/srv/audit/deep", "nfs4"),
        ("/srv/local/x", "tmpfs"),
        ("/srvother", "ext4"),
        ("/mnt/with space/a", "cifs"),
        ("/home/user/remote", "fuse.sshfs"),
    ],
)
def test_the_file_system_of_a_directory_is_found(directory: str, kind: str) -> None:
    """The longest mount point that holds the directory decides, names with spaces among them."""
    assert file_system(Path(directory), MOUNTS) == kind


def test_network_file_systems_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An archive on a network file system is refused by name; on a local one it is not."""
    mounts = f"x / ext4 rw 0 0\ny {tmp_path.resolve()} nfs4 rw 0 0\n"
    monkeypatch.setattr(Path, "read_text", lambda self, *args, **kwargs: mounts)
    monkeypatch.setattr("sys.platform", "linux")
    with pytest.raises(ArchiveError, match="nfs4"):
        refuse_network_file_system(tmp_path)
    refuse_network_file_system(Path("/"))


def test_a_signal_does_not_interrupt_a_commit(archive_path: Path) -> None:
    """Signals that arrive while records are committed leave the archive sound and every receipt true."""
    provider = provider_at(archive_path)
    hits: list[int] = []
    previous = signal.signal(signal.SIGUSR1, lambda number, frame: hits.append(number))
    try:
        child = os.fork()
        if child == 0:
            for _ in range(200):
                os.kill(os.getppid(), signal.SIGUSR1)
            os._exit(0)
        receipts = record(provider, 300)
        os.waitpid(child, 0)
    finally:
        signal.signal(signal.SIGUSR1, previous)
    assert hits
    assert provider.shutdown()
    assert_sound(archive_path, receipts, records=300)


@NEEDS_ROOT
def test_a_directory_that_may_not_be_entered_is_told(tmp_path: Path) -> None:
    """Whoever may not even look for the archive gets the error of an archive, with a remedy."""
    path = tmp_path / "closed" / "audit.db"
    path.parent.mkdir(mode=0o700)

    def work() -> None:
        os.setuid(65_534)
        with pytest.raises(ArchiveError, match=r"Permission denied.*permissions"):
            provider_at(path, high_water=False)

    for parent in (tmp_path, *tmp_path.parents[:2]):
        parent.chmod(0o711)
    assert os.waitpid(forked(work), 0)[1] == 0
