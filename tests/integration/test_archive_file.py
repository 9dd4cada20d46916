"""What happens to the archive's file under the feet of the application: nothing of it passes unseen."""

from __future__ import annotations

import os
import shutil
import signal
import stat
import tempfile
from pathlib import Path

import apsw
import pytest

from otel_audit.archive.connecting import APPLICATION_ID, SCHEMA_VERSION
from otel_audit.archive.files import file_system, refuse_network_file_system
from otel_audit.archive.query import open_archive
from otel_audit.errors import ArchiveError, IntegrityError
from tests.archive_material import assert_sound, connect, forked, provider_at, record, run_python, written

NEEDS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="mounts file systems, changes the user")


def refused(path: Path) -> str:
    with pytest.raises(ArchiveError) as caught:
        provider_at(path)
    assert caught.value.hint
    assert str(path) in caught.value.message
    return str(caught.value)


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
