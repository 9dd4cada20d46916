"""Files that somebody else can reach, or has put in place: refused or repaired, with a message that says what to do."""

from __future__ import annotations

import base64
import errno
import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from otel_audit.archive.query import open_archive
from otel_audit.archive.space import lay_by, reserve_path, spend
from otel_audit.delivery.lease import Lease
from otel_audit.errors import ArchiveError, ConfigError
from otel_audit.keys import create, load
from otel_audit.privacy.pseudonyms import load_key
from otel_audit.producer import ProducerKey
from tests.archive_material import assert_sound, forked, provider_at
from tests.command_line import otel_audit

NEEDS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="changes the user")
SOMEBODY, OTHER = 65_533, 65_532


@pytest.fixture
def shared() -> Iterator[Path]:
    """Make a directory that every user can get to, unlike pytest's own."""
    path = Path(tempfile.mkdtemp(prefix="otel-audit-test-"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


def written(path: Path, count: int = 2) -> None:
    with provider_at(path, high_water=False) as provider:
        for _ in range(count):
            provider.get_logger("file").audit("user.login.success", user="alice")


def refused(path: Path) -> str:
    """Return why an archive is refused, having seen that its files were left alone."""
    before = {file.name: file.lstat() for file in path.parent.iterdir()}
    with pytest.raises(ArchiveError) as caught:
        provider_at(path, high_water=False)
    assert caught.value.hint
    after = {file.name: file.lstat() for file in path.parent.iterdir()}
    assert {name: (s.st_mode, s.st_uid, s.st_size) for name, s in before.items()} == {
        name: (s.st_mode, s.st_uid, s.st_size) for name, s in after.items()
    }
    return str(caught.value)


def as_user(user: int, work: Callable[[], object]) -> None:
    """Do something as another user, in a child; fail where it fails."""

    def change() -> None:
        os.setgroups([])
        os.setgid(user)
        os.setuid(user)
        os.umask(0o022)
        work()

    _, status = os.waitpid(forked(change), 0)
    assert status == 0, "see the traceback on standard error"


@pytest.mark.parametrize("suffix", ["", "-wal", "-shm", "-journal"])
@pytest.mark.parametrize("dangling", [False, True])
def test_symbolic_links_are_refused(suffix: str, dangling: bool, archive_path: Path, tmp_path: Path) -> None:
    """Neither the archive nor what SQLite reads with it may be a link: what it leads to keeps content and mode."""
    if suffix:
        written(archive_path)
    victim = tmp_path / "victim"
    if not dangling:
        victim.write_bytes(b"precious")
        victim.chmod(0o644)
    archive_path.parent.mkdir(mode=0o700, exist_ok=True)
    Path(f"{archive_path}{suffix}").symlink_to(victim)
    assert "symbolic link" in refused(archive_path)
    assert victim.exists() != dangling
    if not dangling:
        assert victim.read_bytes() == b"precious"
        assert stat.S_IMODE(victim.stat().st_mode) == 0o644


@pytest.mark.parametrize("suffix", ["", "-wal", "-journal"])
def test_hard_links_are_refused(suffix: str, archive_path: Path, tmp_path: Path) -> None:
    """A second name is refused: SQLite would keep another log for it, and damage the file."""
    if suffix:
        written(archive_path)
    other = tmp_path / "other"
    if suffix:
        other.write_bytes(b"")
    else:
        written(other)
    archive_path.parent.mkdir(mode=0o700, exist_ok=True)
    Path(f"{archive_path}{suffix}").hardlink_to(other)
    assert "hard link" in refused(archive_path)
    other.unlink()
    if suffix:
        Path(f"{archive_path}{suffix}").unlink()
    written(archive_path)
    assert_sound(archive_path, records=4)


def test_a_hard_linked_copy_can_be_read(archive_path: Path, tmp_path: Path) -> None:
    """Backups that share files by hard links, of an archive that nobody writes, can be read."""
    written(archive_path)
    backup = tmp_path / "backup.db"
    backup.hardlink_to(archive_path)
    with open_archive(backup) as archive:
        assert len(list(archive.query())) == 2


@pytest.mark.parametrize("mode", [0o777, 0o707])
def test_a_directory_open_to_all_is_refused(mode: int, tmp_path: Path) -> None:
    """Where everybody can replace files nothing is recorded, but in a directory of its own there, which is private."""
    open_to_all = tmp_path / "volume"
    open_to_all.mkdir()
    open_to_all.chmod(mode)
    assert f"mode {mode:04o}" in refused(open_to_all / "audit.db")
    written(open_to_all / "own" / "audit.db")
    assert stat.S_IMODE((open_to_all / "own").stat().st_mode) == 0o700
    open_to_all.chmod(0o1777)
    written(open_to_all / "audit.db")


def test_a_directory_of_a_group_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Where a group can replace the archive a warning says so, and recording goes on: it may be meant so."""
    directory = tmp_path / "team"
    directory.mkdir()
    directory.chmod(0o775)
    written(directory / "audit.db")
    assert "can replace the archive" not in caplog.text  # a group of one's own
    if os.geteuid() == 0:
        os.chown(directory, -1, SOMEBODY)
        written(directory / "audit.db")
        assert f"the group {SOMEBODY} can replace the archive: chmod g-w {directory}" in caplog.text


def test_missing_directories_are_private(tmp_path: Path) -> None:
    """All directories that are made for an archive and its mark are private, whatever the umask, those between too."""
    before = os.umask(0)
    try:
        path = tmp_path / "a" / "b" / "audit.db"
        with provider_at(path, high_water=tmp_path / "c" / "d") as provider:
            provider.get_logger("file").audit("t")
        made = [tmp_path / name for name in ("a", "a/b", "c", "c/d")]
        assert {stat.S_IMODE(one.stat().st_mode) for one in made} == {0o700}
    finally:
        os.umask(before)


@NEEDS_ROOT
def test_another_users_archive_is_refused(shared: Path) -> None:
    """Whoever is not root records only into archives of their own, or root's; reading is a matter of permissions."""
    theirs = shared / "theirs"
    theirs.mkdir()
    path = theirs / "audit.db"
    written(path)
    os.chown(path, OTHER, OTHER)
    path.chmod(0o666)
    os.chown(theirs, SOMEBODY, SOMEBODY)

    def work() -> None:
        assert f"belongs to user {OTHER}, this process runs as {SOMEBODY}" in refused(path)
        with open_archive(path) as archive:
            assert len(list(archive.query())) == 2

    as_user(SOMEBODY, work)
    for left in theirs.glob("audit.db-*"):
        left.unlink()  # the reader's, who may write to this directory, and not to the archive
    written(path)  # root serves whoever it belongs to
    assert path.stat().st_uid == OTHER


@NEEDS_ROOT
def test_an_archive_that_waits_in_tmp_is_refused(shared: Path) -> None:
    """In a sticky directory for all, not even root uses an archive, or a log, that somebody else put there."""
    common = shared / "tmp"
    common.mkdir()
    common.chmod(0o1777)
    path = common / "audit.db"
    as_user(OTHER, lambda: written(path))
    assert f"belongs to user {OTHER}, this process runs as 0" in refused(path)
    as_user(SOMEBODY, lambda: refused(path))
    path.unlink()
    written(path)
    for suffix in ("-wal", "-shm", "-journal"):
        planted = Path(f"{path}{suffix}")
        as_user(OTHER, lambda planted=planted: planted.write_bytes(b"frames"))  # type: ignore[misc]
        assert f"{planted} belongs to user {OTHER}" in refused(path)
        planted.unlink()
    written(path)
    assert_sound(path, records=4)


@NEEDS_ROOT
def test_what_root_makes_belongs_to_the_archives_owner(shared: Path) -> None:
    """Root may work on an application's archive: lease and reserve are the application's afterwards, and it goes on."""
    own = shared / "own"
    own.mkdir()
    os.chown(own, SOMEBODY, SOMEBODY)
    path = own / "audit.db"
    as_user(SOMEBODY, lambda: written(path))
    lease = Lease(path, "otlp")
    assert lease.acquire()
    lease.release()
    assert lay_by(path, 1 << 20, 0)
    otel_audit("record", "example.com", "server-started", "--archive", path)
    assert {file.stat().st_uid for file in own.iterdir()} == {SOMEBODY}
    as_user(SOMEBODY, lambda: written(path))
    assert_sound(path, records=5)


@NEEDS_ROOT
@pytest.mark.parametrize("what", ["otlp.lease", "reserve"])
def test_root_gives_nobody_a_file_of_its_own(what: str, shared: Path) -> None:
    """A file of root's, linked to the name of the lease or the reserve, is neither given away nor changed."""
    own = shared / "own"
    own.mkdir()
    path, victim = own / "audit.db", shared / "shadow"
    written(path)
    os.chown(path, SOMEBODY, SOMEBODY)
    os.chown(own, SOMEBODY, SOMEBODY)
    victim.write_bytes(b"secret")
    victim.chmod(0o600)
    Path(f"{path}.{what}").hardlink_to(victim)
    with pytest.raises(OSError, match="no file of its own"):
        Lease(path, "otlp").acquire() if "lease" in what else lay_by(path, 1 << 20, 0)
    assert victim.read_bytes() == b"secret"
    assert (victim.stat().st_uid, stat.S_IMODE(victim.stat().st_mode)) == (0, 0o600)
    if what == "reserve":
        assert reserve_path(path).exists()


def secret(path: Path, mode: int = 0o600) -> Path:
    path.write_bytes(base64.b64encode(bytes(range(32))) + b"\n")
    path.chmod(mode)
    return path


LOADERS: dict[str, Callable[[Path], Any]] = {
    "pseudonyms": load_key,
    "producer": lambda path: ProducerKey.load(path, "HMAC-SHA256"),
}


@pytest.mark.parametrize("loader", LOADERS)
@pytest.mark.parametrize("mode", [0o604, 0o602, 0o601, 0o620, 0o666, 0o777])
def test_keys_open_to_others_are_refused(loader: str, mode: int, tmp_path: Path) -> None:
    """A secret that others can read or change is no secret; a group may read it, as mounted secrets have it."""
    path = secret(tmp_path / "key", mode)
    with pytest.raises(ConfigError, match=rf"open to others \(mode {mode:04o}\): chmod 600"):
        LOADERS[loader](path)
    path.chmod(0o640)
    assert LOADERS[loader](path)


@pytest.mark.parametrize("loader", LOADERS)
@pytest.mark.timeout(20)
def test_keys_are_regular_files(loader: str, tmp_path: Path) -> None:
    """A pipe that nobody writes to, a directory and a device are refused at once."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe, 0o600)
    for path in (pipe, tmp_path, Path("/dev/null")):
        with pytest.raises(ConfigError, match="no regular file"):
            LOADERS[loader](path)


@NEEDS_ROOT
@pytest.mark.parametrize("loader", LOADERS)
def test_keys_of_other_users_are_refused(loader: str, shared: Path) -> None:
    """A secret of another user, who can read and replace it, is refused; root's may be used, and root uses any."""
    path = secret(shared / "key", 0o640)
    os.chown(path, OTHER, SOMEBODY)

    def work() -> None:
        with pytest.raises(ConfigError, match=f"belongs to user {OTHER}, this process runs as {SOMEBODY}"):
            LOADERS[loader](path)

    as_user(SOMEBODY, work)
    assert LOADERS[loader](path)
    os.chown(path, 0, SOMEBODY)
    as_user(SOMEBODY, lambda: LOADERS[loader](path))


@NEEDS_ROOT
def test_a_signing_key_of_another_user_is_refused(shared: Path) -> None:
    """A checkpoint is signed with a key of our own alone."""
    path = shared / "signing.key"
    create(path, "example.com/audit")
    path.chmod(0o640)
    os.chown(path, OTHER, SOMEBODY)

    def work() -> None:
        with pytest.raises(ConfigError, match=f"belongs to user {OTHER}"):
            load(path)

    as_user(SOMEBODY, work)


@NEEDS_ROOT
def test_the_command_line_tells_without_a_traceback(shared: Path) -> None:
    """For each of these the command line says one line and exits with 2."""
    common = shared / "tmp"
    common.mkdir()
    common.chmod(0o777)
    done = otel_audit("record", "example.com", "t", "--archive", common / "audit.db", status=2)
    assert done.stderr.count("\n") <= 2
    assert "everybody can replace files" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_reserve_that_is_spent_while_it_is_made(archive_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever makes the reserve stops where another process needs the room, and leaves no hole that holds none."""
    with provider_at(archive_path, disk_reserve=0):
        pass
    real, calls, reserve = os.fsync, list[int](), reserve_path(archive_path)

    def fsync(descriptor: int) -> None:
        real(descriptor)
        calls.append(descriptor)
        if len(calls) == 3:
            assert spend(archive_path)

    monkeypatch.setattr(os, "fsync", fsync)
    assert not lay_by(archive_path, 6 << 20, 0)
    assert reserve.stat().st_size == 3 << 19

    def full(_descriptor: int, _content: bytes) -> int:
        assert spend(archive_path)
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        with pytest.raises(OSError, match="No space"):
            lay_by(archive_path, 6 << 20, 0)
    assert reserve.stat().st_size == 3 << 18
    assert lay_by(archive_path, 6 << 20, 0)
    assert reserve.stat().st_size == 6 << 20 <= reserve.stat().st_blocks * 512
