"""What ``otel-audit doctor`` says of an archive, its disk, keys, clock and settings, on real archives."""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import apsw
import pytest

from otel_audit.archive.query import open_archive
from otel_audit.doctor.examine import examine
from otel_audit.doctor.history import examine_clock
from otel_audit.doctor.settings import VARIABLES, examine_names
from otel_audit.doctor.storage import examine_place
from otel_audit.keys import create
from otel_audit.paths import high_water_directory
from tests.archive_material import forked, provider_at
from tests.command_line import otel_audit
from tests.doctor_material import HOUR, doctor

ROOT = Path(__file__).parents[2]
SECOND = 1_000_000_000
NEEDS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="mounts a file system, or gives a file to another user")


@pytest.fixture
def archive(archive_path: Path) -> Path:
    """Return an archive with one event."""
    with provider_at(archive_path) as provider:
        provider.get_logger("shop").audit("user.login.success", user="alice")
    return archive_path


def test_there_is_no_archive(archive_path: Path) -> None:
    """Where nothing was recorded yet, that is a warning, and nothing is made."""
    found = doctor(archive_path)
    assert set(found) == {"archive-missing"}
    assert found["archive-missing"].severity == "warning"
    assert not archive_path.parent.exists()


def test_what_is_no_archive(archive_path: Path) -> None:
    """A file that is something else is an error, and stays as it is."""
    archive_path.parent.mkdir(mode=0o700)
    archive_path.write_text("no database " * 100)
    archive_path.chmod(0o600)
    assert set(doctor(archive_path)) == {"archive-unreadable"}
    assert archive_path.read_text() == "no database " * 100


def test_an_sqlite_that_corrupts(archive: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A library with the WAL-reset bug is an error."""
    monkeypatch.setattr(apsw, "SQLITE_VERSION_NUMBER", 3_051_002)
    found = doctor(archive, probe=False)
    assert found["sqlite-wal-reset"].severity == "error"
    assert "apsw" in found["sqlite-wal-reset"].remedy


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("nfs4", ("error", "network-file-system")),
        ("tmpfs", ("warning", "memory-file-system")),
        ("overlay", ("note", "container-file-system")),
        ("ext4", None),
    ],
)
def test_file_systems(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, expected: tuple[str, str] | None
) -> None:
    """Network file systems are errors, those in memory warnings, those of containers notes, disks nothing."""
    monkeypatch.setattr("otel_audit.archive.files.file_system", lambda *_: kind)
    found = list(examine_place(tmp_path, f"x {tmp_path.resolve()} {kind} rw 0 0\n"))
    assert [(one.severity, one.code) for one in found] == ([] if expected is None else [expected])


@NEEDS_ROOT
def test_a_real_tmpfs(tmp_path: Path) -> None:
    """An archive on a tmpfs is told of: it is lost at a restart of the machine."""
    point = tmp_path / "memory"
    point.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m,mode=0700", "tmpfs", point], check=False).returncode:
        pytest.skip("nothing can be mounted here")
    try:
        found = examine(point / "audit.db", None, longest=HOUR)
    finally:
        subprocess.run(["umount", "--lazy", point], check=True)
    assert "memory-file-system" in {one.code for one in found}


def test_files_that_others_may_read(archive: Path) -> None:
    """Each file of the archive with access for others is named, the log among them."""
    with provider_at(archive, ship=False) as provider:
        provider.get_logger("shop").audit("user.login.success", user="alice")
        for file in (archive, Path(f"{archive}-wal")):
            file.chmod(0o644)
        found = examine(archive, None, longest=HOUR)
    named = [one.what for one in found if one.code == "files-open"]
    assert [what.split()[0] for what in named] == [str(archive), f"{archive}-wal"]
    assert all("0644" in what for what in named)


@pytest.mark.parametrize(("mode", "code"), [(0o777, "directory-open"), (0o770, None), (0o755, None)])
def test_the_directory(archive: Path, mode: int, code: str | None) -> None:
    """A directory where others can replace files is told of, one that they can only read is not."""
    archive.parent.chmod(mode)
    assert set(doctor(archive, probe=False)) == (set() if code is None else {code})


@NEEDS_ROOT
def test_the_group_of_the_directory(archive: Path) -> None:
    """A group other than the owner's own that can replace files is told of."""
    os.chown(archive.parent, -1, 65_533)
    archive.parent.chmod(0o770)
    assert set(doctor(archive, probe=False)) == {"directory-group"}
    archive.parent.chmod(0o1770)
    assert doctor(archive, probe=False) == {}


@NEEDS_ROOT
def test_an_archive_that_root_made() -> None:
    """An archive that root left in the application's directory is told of: it can be read, and takes no record."""
    with tempfile.TemporaryDirectory(prefix="otel-audit-test-") as shared:
        path = Path(shared, "archive", "audit.db")
        Path(shared).chmod(0o755)
        with provider_at(path, high_water=False) as provider:
            provider.get_logger("shop").audit("user.login.success", user="alice")
        os.chown(path.parent, 65_534, 65_534)
        path.chmod(0o644)

        def work() -> None:
            os.setgroups([])
            os.setgid(65_534)
            os.setuid(65_534)
            found = [one.what for one in examine(path, None, longest=HOUR) if one.code == "files-read-only"]
            assert found[0] == f"{path} cannot be written by user 65534", found

        _, status = os.waitpid(forked(work), 0)
    assert status == 0, "see the traceback on standard error"


@NEEDS_ROOT
def test_an_archive_of_somebody_else() -> None:
    """Run as another user than the archive's, doctor says so, and does nothing."""
    # A directory that every user gets to, unlike pytest's own.
    with tempfile.TemporaryDirectory(prefix="otel-audit-test-") as shared:
        path = Path(shared, "archive", "audit.db")
        Path(shared).chmod(0o755)
        with provider_at(path, high_water=False) as provider:
            provider.get_logger("shop").audit("user.login.success", user="alice")
        path.parent.chmod(0o755)
        os.chown(path, 65_533, 65_533)

        def work() -> None:
            os.setgroups([])
            os.setgid(65_534)
            os.setuid(65_534)
            codes = {one.code for one in examine(path, None, longest=HOUR)}
            assert codes >= {"files-foreign", "directory-read-only", "archive-unreadable"}, codes

        _, status = os.waitpid(forked(work), 0)
    assert status == 0, "see the traceback on standard error"


def test_a_link_in_place_of_the_archive(archive: Path) -> None:
    """A symbolic link is refused by those who record, and told of."""
    link = archive.with_name("link.db")
    link.symlink_to(archive)
    assert "files-foreign" in doctor(link, probe=False)


def test_little_space(archive: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The levels of free space are those of the disk watch: a warning, then errors."""
    monkeypatch.setenv("OTEL_AUDIT_DISK_WARNING", "1000TiB")
    assert doctor(archive)["disk-warning"].severity == "warning"
    monkeypatch.setenv("OTEL_AUDIT_DISK_CRITICAL", "1000TiB")
    found = doctor(archive)["disk-critical"]
    assert (found.severity, found.remedy) == ("error", "make room, or prune")
    monkeypatch.setenv("OTEL_AUDIT_DISK_CRITICAL", "much")
    assert "space-unknown" in doctor(archive)


def test_a_long_log(archive: Path) -> None:
    """A write-ahead log that somebody keeps from being folded in is told of."""
    with provider_at(archive, ship=False) as provider:
        provider.get_logger("shop").audit("user.login.success", user="alice")
        os.truncate(f"{archive}-wal", 70 << 20)
        assert "log-long" in {one.code for one in examine(archive, None, longest=HOUR)}


@pytest.mark.parametrize(
    ("ahead", "codes"),
    [(0, []), (-4, []), (-60, ["clock-behind"]), (-40 * 365 * 86_400, ["clock-wrong", "clock-behind"]),
     (80 * 365 * 86_400, ["clock-wrong"])],
)  # fmt: skip
def test_the_clock(archive: Path, ahead: int, codes: list[str]) -> None:
    """A clock that is behind the archive, or in another age, is told of; a few seconds are not."""
    with open_archive(archive) as opened:
        last = opened.status().last
        assert last is not None
        found = list(examine_clock(opened, last + ahead * SECOND, None))
    assert [one.code for one in found] == codes


def test_the_clock_against_the_high_water_mark(archive: Path) -> None:
    """A mark that was noted later than now shows that the clock jumped back, although no record does."""
    marks = high_water_directory()
    assert marks is not None
    (note,) = marks.glob("*.note")
    later = time.time() + 3_600
    os.utime(note, (later, later))
    found = doctor(archive)
    assert set(found) == {"clock-behind"}
    assert "high-water mark" in found["clock-behind"].what


def test_an_older_copy(archive: Path, tmp_path: Path) -> None:
    """An archive that is less than its high-water mark says is an error, and gets no probe."""
    older = archive.read_bytes()
    with provider_at(archive) as provider:
        provider.get_logger("shop").audit("user.login.success", user="bob")
    archive.write_bytes(older)
    found = doctor(archive)
    assert found["archive-older"].severity == "error"


def test_marks_beside_the_archive(archive: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """High-water marks in the archive's own directory are a warning."""
    monkeypatch.setenv("OTEL_AUDIT_HIGH_WATER", str(archive.parent / "marks"))
    assert set(doctor(archive)) == {"high-water-beside"}


@pytest.fixture
def key(tmp_path: Path) -> Path:
    """Return a signing key's file."""
    file = tmp_path / "signing.key"
    create(file, "audit")
    return file


def keyed(path: Path, key: Path) -> None:
    """Record with a signing key."""
    with provider_at(path, signing_key=key) as provider:
        provider.get_logger("shop").audit("user.login.success", user="alice")
    # The first of the archive's own records binds the key.
    otel_audit("checkpoint", "--key", key, "--archive", path)


def test_the_signing_key(archive_path: Path, tmp_path: Path, key: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The archive's own key is fine; none is a note, another one, an open one and a missing one are errors."""
    keyed(archive_path, key)
    assert set(doctor(archive_path)) == {"signing-key-unset"}
    monkeypatch.setenv("OTEL_AUDIT_SIGNING_KEY", str(key))
    assert doctor(archive_path) == {}
    key.chmod(0o644)
    assert doctor(archive_path)["signing-key"].remedy.startswith("chmod 600")
    assert set(doctor(archive_path)) == {"signing-key"}
    other = tmp_path / "other.key"
    create(other, "audit")
    monkeypatch.setenv("OTEL_AUDIT_SIGNING_KEY", str(other))
    assert set(doctor(archive_path)) == {"signing-key-foreign"}
    monkeypatch.setenv("OTEL_AUDIT_SIGNING_KEY", str(tmp_path / "missing.key"))
    assert set(doctor(archive_path)) == {"signing-key"}


def test_a_rotation(archive_path: Path, tmp_path: Path, key: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a rotation the new key is the archive's and the old one is not; one that broke off is a warning."""
    keyed(archive_path, key)
    old = tmp_path / "old.key"
    old.write_bytes(key.read_bytes())
    old.chmod(0o600)
    otel_audit("keys", "rotate", "--key", key, "--archive", archive_path)
    monkeypatch.setenv("OTEL_AUDIT_SIGNING_KEY", str(key))
    assert doctor(archive_path) == {}
    key.with_name("signing.key.next").write_bytes(b"")
    assert set(doctor(archive_path)) == {"rotation-unfinished"}
    monkeypatch.setenv("OTEL_AUDIT_SIGNING_KEY", str(old))
    assert set(doctor(archive_path)) == {"signing-key-foreign"}


@pytest.fixture
def secrets(tmp_path: Path) -> list[Path]:
    """Return two secrets for HMAC-SHA256."""
    files = []
    for name, letter in (("one", "QUFB"), ("two", "QkJC")):
        files.append(tmp_path / name)
        files[-1].write_text(letter * 16)
        files[-1].chmod(0o600)
    return files


def test_the_producer_key(archive_path: Path, secrets: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """The key that signed the last record is fine; another one, and a key where nothing is signed, are warnings."""
    settings: dict[str, Any] = {"integrity_algorithm": "HMAC-SHA256"}
    with provider_at(archive_path, integrity_key=secrets[0], **settings) as provider:
        provider.get_logger("shop").audit("user.login.success", user="alice")
    monkeypatch.setenv("OTEL_AUDIT_INTEGRITY_ALGORITHM", "HMAC-SHA256")
    monkeypatch.setenv("OTEL_AUDIT_INTEGRITY_KEY", str(secrets[0]))
    assert doctor(archive_path) == {}
    monkeypatch.setenv("OTEL_AUDIT_INTEGRITY_KEY", str(secrets[1]))
    assert "signed by another key" in doctor(archive_path)["producer-key-differs"].what
    with provider_at(archive_path, integrity_key=secrets[1], **settings) as provider:
        provider.get_logger("shop").audit("user.login.success", user="alice")
    assert doctor(archive_path) == {}
    secrets[1].chmod(0o604)
    assert set(doctor(archive_path)) == {"producer-key"}


def test_a_key_where_nothing_is_signed(archive: Path, secrets: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """An application that runs without the key that the environment names shows by its last record."""
    monkeypatch.setenv("OTEL_AUDIT_INTEGRITY_ALGORITHM", "HMAC-SHA256")
    monkeypatch.setenv("OTEL_AUDIT_INTEGRITY_KEY", str(secrets[0]))
    assert "not signed" in doctor(archive)["producer-key-differs"].what


def test_the_key_of_pseudonyms(archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pseudonym key that cannot be read is an error, told once."""
    monkeypatch.setenv("OTEL_AUDIT_PSEUDONYM_KEY", str(tmp_path / "missing"))
    assert set(doctor(archive)) == {"pseudonym-key"}


def test_settings_that_are_wrong(archive: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A setting that keeps an application from starting is an error with the remedy."""
    monkeypatch.setenv("OTEL_AUDIT_DURABILITY", "never")
    found = doctor(archive)
    assert set(found) == {"setting"}
    assert "OTEL_AUDIT_DURABILITY='never'" in found["setting"].what
    assert "commit" in found["setting"].remedy


def test_variables_that_nobody_reads() -> None:
    """A variable that looks like ours is named with the nearest one, and its value is not shown."""
    environ = {"OTEL_AUDIT_HIGHWATER": "secret", "OTEL_AUDIT_X": "secret", "OTEL_AUDIT_HOST": "a", "OTEL_X": "b"}
    found = list(examine_names(environ))
    assert [(one.what, one.remedy) for one in found] == [
        ("there is no variable OTEL_AUDIT_HIGHWATER", "set OTEL_AUDIT_HIGH_WATER in its place"),
        ("there is no variable OTEL_AUDIT_X", "unset it; docs/configuration.md has all variables"),
    ]


def test_all_variables_are_known() -> None:
    """The variables that doctor knows are those that the documentation of the settings has."""
    text = (ROOT / "docs" / "configuration.md").read_text("utf-8")
    assert set(re.findall(r"`(OTEL_AUDIT_[A-Z0-9_]+)`", text)) == VARIABLES
