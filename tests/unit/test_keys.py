"""Signing keys in files: the form that others write too, files that are refused, and what a rotation leaves behind."""

from __future__ import annotations

import base64
import builtins
import fcntl
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from otel_audit import SigningKey
from otel_audit.config import Config
from otel_audit.errors import ConfigError, IntegrityError
from otel_audit.keys import create, exclusive, load, next_key, replace
from otel_audit.notes import Verifier, parse_note, sign_note
from otel_audit.privacy.pseudonyms import load_key
from otel_audit.producer import ProducerKey
from otel_audit.producer_keys import load_verifier

EXAMPLE = "PRIVATE+KEY+PeterNeumann+c74f20a3+AYEKFALVFGyNhPJEMzD1QIDr+Y7hfZx09iUvxdXHKDFz"
VERIFIER = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
TEXT = "If you think cryptography is the answer to your problem,\nthen you don't know what your problem is.\n"
SIGNATURE = (
    "\u2014 PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n"
)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "key"


def put(file: Path, content: str | bytes, mode: int = 0o600) -> None:
    file.write_bytes(content.encode() if isinstance(content, str) else content)
    file.chmod(mode)


@pytest.mark.parametrize("end", ["", "\n", "\r\n"])
def test_the_published_example(file: Path, end: str) -> None:
    """A key of the reference implementation is read, and signs as that one does."""
    put(file, EXAMPLE + end)
    key = load(file)
    assert str(key.verifier) == VERIFIER
    assert str(sign_note(TEXT, key)) == f"{TEXT}\n{SIGNATURE}"
    assert parse_note(f"{TEXT}\n{SIGNATURE}").signed_by(Verifier.parse(VERIFIER))


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o777])
def test_a_new_key(file: Path, umask: int) -> None:
    """A new key's file has mode 0600 whatever the umask, holds one line, and gives the same key again."""
    before = os.umask(umask)
    try:
        key = create(file, "example.com/audit")
    finally:
        os.umask(before)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    text = file.read_text("ascii")
    assert text.startswith(f"PRIVATE+KEY+example.com/audit+{key.verifier.key_id.hex()}+")
    assert (text.count("\n"), text[-1]) == (1, "\n")
    assert load(file).verifier == key.verifier
    assert sign_note("text\n", load(file)) == sign_note("text\n", key)
    assert text.split("+", 4)[4].strip() not in repr(key)


def test_keys_differ(tmp_path: Path) -> None:
    """No two keys are the same."""
    assert len({create(tmp_path / str(n), "name").verifier for n in range(20)}) == 20


def test_no_file_is_overwritten(file: Path, tmp_path: Path) -> None:
    """Whatever is there already stays as it is: a key, an empty file, a directory, a symbolic link to nowhere."""
    put(file, "")
    (tmp_path / "directory").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    for name in ("key", "directory", "link"):
        with pytest.raises(ConfigError, match="already"):
            create(tmp_path / name, "name")
    assert file.read_bytes() == b""
    assert not (tmp_path / "elsewhere").exists()


def test_a_key_that_cannot_be_written(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a directory, and where the disk fails, the error says so and no part of a file is left."""
    with pytest.raises(ConfigError, match=r"cannot be written: No such file.*check the path"):
        create(tmp_path / "none" / "key", "name")
    with pytest.raises(ConfigError, match="cannot be written"):
        create(Path("a\0b"), "name")

    def fail(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(ConfigError, match="No space left"):
        create(file, "name")
    assert list(tmp_path.glob("key*")) == []


@pytest.mark.parametrize("name", ["", "a b", "a+b", "a\n", "\x1b[2J", "\ud800", "x" * 256, "a\u202eb"])
def test_names_that_cannot_be_used(file: Path, name: str) -> None:
    """A name that a signature line cannot carry, or that harms a terminal, is refused before a file is made."""
    with pytest.raises(ConfigError, match="without spaces"):
        create(file, name)
    assert not file.exists()


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o620, 0o610, 0o601, 0o644, 0o777])
def test_files_open_to_others(file: Path, mode: int) -> None:
    """A file that anybody else may read, write or execute is refused, with its mode and the remedy."""
    put(file, EXAMPLE, mode)
    with pytest.raises(ConfigError, match=rf"open to others \(mode {mode:04o}\): chmod 600 .* keys init"):
        load(file)


@pytest.mark.parametrize("mode", [0o600, 0o400, 0o700])
def test_files_of_ours(file: Path, mode: int) -> None:
    """What the owner may do with the file is the owner's choice."""
    put(file, EXAMPLE, mode)
    assert str(load(file).verifier) == VERIFIER


def test_files_of_others(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file of another user is refused."""
    put(file, EXAMPLE)
    monkeypatch.setattr(os, "geteuid", lambda: file.stat().st_uid + 1)
    with pytest.raises(ConfigError, match="belongs to user"):
        load(file)


def symbolic_link(file: Path) -> None:
    put(file.with_name("real"), EXAMPLE)
    file.symlink_to(file.with_name("real"))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (symbolic_link, "is a symbolic link"),
        (lambda file: file.mkdir(mode=0o700), "is no regular file"),
        (os.mkfifo, "is no regular file"),
        (lambda _file: None, r"cannot be read: No such file.*keys init"),
    ],
)
def test_what_is_no_file(file: Path, make: Callable[[Path], object], message: str) -> None:
    """A symbolic link, a directory, a pipe and nothing at all are refused, without waiting."""
    make(file)
    with pytest.raises(ConfigError, match=message):
        load(file)


def changed(text: str, old: str, new: str) -> str:
    assert old in text
    return text.replace(old, new)


SEED = base64.b64decode(EXAMPLE.split("+", 4)[4])


@pytest.mark.parametrize(
    "content",
    [
        "",
        "\n",
        VERIFIER,
        "correct horse battery staple",
        b"\xff\xfe",
        "+" * 3_000,
        EXAMPLE + "\n" + EXAMPLE,
        EXAMPLE + " ",
        EXAMPLE[:-1],
        changed(EXAMPLE, "PRIVATE", "private"),
        changed(EXAMPLE, "c74f20a3", "c74f20a4"),
        changed(EXAMPLE, "c74f20a3", "C74F20A3"),
        changed(EXAMPLE, "PeterNeumann", "PeterNeuman"),
        changed(EXAMPLE, "PeterNeumann", "Peter Neumann"),
        "PRIVATE+KEY+PeterNeumann+c74f20a3+" + base64.b64encode(b"\x02" + SEED[1:]).decode(),
        "PRIVATE+KEY+PeterNeumann+c74f20a3+" + base64.b64encode(SEED[:-1]).decode(),
        "PRIVATE+KEY+PeterNeumann+c74f20a3+" + base64.b64encode(SEED + b"x").decode(),
        b"-----BEGIN OPENSSH PRIVATE KEY-----\nc2VjcmV0\n-----END OPENSSH PRIVATE KEY-----\n",
    ],
)
def test_files_that_hold_no_key(file: Path, content: str | bytes) -> None:
    """What is no key, or not the one that it says, is refused, and nothing of it is quoted."""
    put(file, content)
    with pytest.raises(ConfigError) as caught:
        load(file)
    assert caught.value.hint
    for secret in ("c2VjcmV0", "horse", base64.b64encode(SEED[1:]).decode()[:12], EXAMPLE[-12:]):
        assert secret not in str(caught.value)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    content=st.binary(max_size=80) | st.text(alphabet="PRIVATE+KEYabc0=/\n ").map(str.encode), cut=st.integers(0, 77)
)
def test_hostile_content(file: Path, content: bytes, cut: int) -> None:
    """No content makes anything but a key or a `ConfigError`; nor does any put into the middle of a key."""
    for candidate in (content, EXAMPLE.encode()[:cut] + content + EXAMPLE.encode()[cut:]):
        put(file, candidate)
        try:
            key = load(file)
        except ConfigError:
            continue
        assert str(key.verifier) == VERIFIER
        assert candidate.strip(b"\r\n") == EXAMPLE.encode()


def test_without_the_extra(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where `cryptography` is not installed, the error names the extra, and no file is made."""
    real = builtins.__import__

    def blocked(name: str, *arguments: Any, **keywords: Any) -> Any:
        if name.startswith("cryptography"):
            raise ImportError(name)
        return real(name, *arguments, **keywords)

    monkeypatch.setattr(builtins, "__import__", blocked)
    with pytest.raises(ConfigError, match=r"extra `crypto`: pip install"):
        create(file, "name")
    assert not file.exists()


# -- settings --


def test_the_setting(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The variable and the argument name a file, or the argument is the key itself; the argument wins."""
    assert (Config.load().signing_key, Config.load().signing_key_path) == (None, None)
    mine, other = create(file, "mine"), create(tmp_path / "other", "other")
    monkeypatch.setenv("OTEL_AUDIT_SIGNING_KEY", str(tmp_path / "other"))
    config = Config.load()
    assert config.signing_key is not None
    assert (config.signing_key.verifier, config.signing_key_path) == (other.verifier, tmp_path / "other")
    for path in (file, str(file)):
        config = Config.load(signing_key=path)
        assert config.signing_key is not None
        assert (config.signing_key.verifier, config.signing_key_path) == (mine.verifier, file)
    config = Config.load(signing_key=mine)
    assert (config.signing_key, config.signing_key_path) == (mine, None)
    monkeypatch.setenv("OTEL_AUDIT_SIGNING_KEY", "")
    assert Config.load().signing_key is None
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("OTEL_AUDIT_SIGNING_KEY", "~/key")
    assert Config.load().signing_key_path == file


@pytest.mark.parametrize("given", ["", b"secret-bytes", 5, True, ["secret-bytes"]])
def test_wrong_settings(given: Any) -> None:
    """What is neither a key nor a path is refused, and not quoted."""
    with pytest.raises(ConfigError, match="give a SigningKey") as caught:
        Config.load(signing_key=given)
    assert "secret" not in str(caught.value)


def test_a_relative_path(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A relative path means the same file after the process has changed its directory, whoever names it."""
    create(file, "mine")
    monkeypatch.chdir(file.parent)
    assert Config.load(signing_key=file.name).signing_key_path == file
    monkeypatch.setenv("OTEL_AUDIT_SIGNING_KEY", file.name)
    assert Config.load().signing_key_path == file


def test_a_file_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A variable that names no key is an error of the settings, not of the first signature."""
    monkeypatch.setenv("OTEL_AUDIT_SIGNING_KEY", str(tmp_path / "none"))
    with pytest.raises(ConfigError, match="none cannot be read"):
        Config.load()


def test_a_key_elsewhere(file: Path) -> None:
    """A key that a service holds signs like one in a file, and its failures are errors of ours."""
    local = create(file, "local")
    remote = SigningKey("kms/audit", local.verifier.public_key, local.sign)
    note = sign_note("text\n", remote)
    assert note.signed_by(remote.verifier)
    assert not note.signed_by(local.verifier)  # another name, another key id

    def fail(_message: bytes) -> bytes:
        raise RuntimeError("the service is away")

    with pytest.raises(ConfigError, match="does not sign: RuntimeError: the service is away"):
        sign_note("text\n", SigningKey("kms/audit", local.verifier.public_key, fail))
    with pytest.raises(IntegrityError, match="belong together"):
        sign_note("text\n", SigningKey("kms/audit", bytes(32), local.sign))


# -- replacing --


def test_a_key_is_replaced(file: Path, tmp_path: Path) -> None:
    """The next key takes the place of the first, which is kept; both files are private."""
    old = create(file, "name")
    with exclusive(file) as held:
        assert held.verifier == old.verifier
        new = next_key(file, None)
        assert load(file).verifier == old.verifier
        kept = replace(file)
    assert load(file).verifier == new.verifier != old.verifier
    assert kept == tmp_path / f"key.{old.verifier.key_id.hex()}.old"
    assert load(kept).verifier == old.verifier
    assert new.verifier.name == "name"
    assert {path.name for path in tmp_path.glob("*key*")} == {"key", kept.name}
    assert {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.glob("key*")} == {0o600}


def test_the_next_key_is_kept_until_it_is_used(file: Path) -> None:
    """A rotation that broke off goes on with the key that it made, never with another one."""
    create(file, "name")
    new = next_key(file, "new/name")
    assert next_key(file, None).verifier == next_key(file, "new/name").verifier == new.verifier
    with pytest.raises(ConfigError, match="'new/name' of a rotation that broke off"):
        next_key(file, "other")
    file.with_name("key.next").chmod(0o644)
    with pytest.raises(ConfigError, match="open to others"):
        next_key(file, None)


def test_a_planted_next_key(file: Path, tmp_path: Path) -> None:
    """A symbolic link in the place of the next key is not followed."""
    create(file, "name")
    create(tmp_path / "planted", "name")
    file.with_name("key.next").symlink_to(tmp_path / "planted")
    with pytest.raises(ConfigError, match="symbolic link"):
        next_key(file, None)


def test_one_rotation_at_a_time(file: Path) -> None:
    """While one rotation works on a key, another one is refused; afterwards it is not."""
    create(file, "name")
    with exclusive(file), pytest.raises(ConfigError, match="another rotation"), exclusive(file):
        pass
    with exclusive(file):
        pass


def test_a_rotation_that_was_overtaken(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A rotation that waited with the file open, while another one replaced it, does not go on with the old key."""
    create(file, "name")
    real = fcntl.flock

    def overtaken(descriptor: int, operation: int) -> None:
        monkeypatch.setattr(fcntl, "flock", real)
        with exclusive(file):
            next_key(file, None)
            replace(file)
        real(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", overtaken)
    with pytest.raises(ConfigError, match="another rotation"), exclusive(file):
        pass


def test_a_disk_that_fails(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the old key cannot be kept, it stays in use, and no part of a file is left."""
    old = create(file, "name")
    next_key(file, None)
    before = sorted(file.parent.iterdir())

    def fail(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", fail)
        with pytest.raises(ConfigError, match="No space left"):
            replace(file)
    assert load(file).verifier == old.verifier
    assert sorted(file.parent.iterdir()) == before


@pytest.mark.parametrize("form", ["signing", "producer", "verifier", "pseudonyms"])
@pytest.mark.parametrize("secret", [f"PRIVATE+KEY+name+01234567+{'A' * 44}", "c2VjcmV0" * 5 + "c2U=", "0123abcd" * 8])
def test_a_key_in_place_of_its_path(form: str, secret: str) -> None:
    """Whoever gives the key itself where the path of its file belongs does not find it in messages."""
    ways: dict[str, Callable[[], object]] = {
        "signing": lambda: load(secret),
        "producer": lambda: ProducerKey.load(secret),
        "verifier": lambda: load_verifier(secret),
        "pseudonyms": lambda: load_key(secret),
    }
    with pytest.raises(ConfigError) as caught:
        ways[form]()
    assert secret not in str(caught.value)
    assert secret[:32] not in str(caught.value)
