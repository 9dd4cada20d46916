"""Signing keys in files: one line, as C2SP's signers write it, which nobody but the owner may read.

A rotation takes three steps, each of which leaves a state that the next attempt goes on from: the new key is on disk as
``FILE.next``, the archive names it, ``FILE.next`` takes the place of ``FILE``. At no moment is there no key.
"""

from __future__ import annotations

import base64
import contextlib
import errno
import fcntl
import os
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from otel_audit.errors import ConfigError
from otel_audit.keyfile import shown
from otel_audit.notes import ED25519, SigningKey
from otel_audit.paths import expanded, sync_directory

__all__ = ["DEFAULT_NAME", "VARIABLE", "create", "exclusive", "key_path", "load", "next_key", "replace", "resolve"]

VARIABLE: Final = "OTEL_AUDIT_SIGNING_KEY"
DEFAULT_NAME: Final = "otel-audit"
"""The name of a key where nobody gives one; key ids tell keys of the same name apart."""
_PREFIX: Final = "PRIVATE+KEY"
_LONGEST: Final = 2_048
_NEXT: Final = ".next"


def key_path(environ: Mapping[str, str] = os.environ) -> Path | None:
    """Return the path of the key's file by the environment, None where it names none.

    Raises:
        ConfigError: It begins with a home directory that nobody has.
    """
    given = environ.get(VARIABLE)
    return expanded(given) if given else None


def resolve(given: object, environ: Mapping[str, str]) -> tuple[SigningKey | None, Path | None]:
    """Return the signing key, and the absolute path of the file that it came from.

    Args:
        given: A key, the path of its file, or None: the environment says.
        environ: The environment.

    Raises:
        ConfigError: The key cannot be used.
    """
    if isinstance(given, SigningKey):
        return given, None
    if given is None:
        path = key_path(environ)
    elif isinstance(given, (str, os.PathLike)) and os.fspath(given) and not isinstance(os.fspath(given), bytes):
        path = expanded(given)
    else:
        # Whatever was given may be the key itself: it is not shown.
        raise ConfigError(
            f"signing_key= is {type(given).__name__} and no key", "give a SigningKey, or the path of its file"
        )
    # Absolute: it is read again for each checkpoint, and a daemon may have changed its directory by then.
    return (None, None) if path is None else (load(path), path.absolute())


def create(path: Path, name: str) -> SigningKey:
    """Make a new key, in a file that must not exist yet.

    Args:
        path: The file.
        name: The key's name, without spaces and ``+``.

    Raises:
        ConfigError: The name cannot be used, the file exists, or it cannot be written.
    """
    key, text = _generate(name)
    with _file_errors(path, "written"):
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        except FileExistsError:
            raise ConfigError(
                f"there is {path} already", "otel-audit keys rotate replaces a key; or give another FILE"
            ) from None
        try:
            _write(descriptor, text)
        except BaseException:
            path.unlink()
            raise
        sync_directory(path.parent)
    return key


def load(path: str | os.PathLike[str]) -> SigningKey:
    """Return the key that a file holds, as it is now: a rotation replaces the file.

    Args:
        path: A regular file of ours, with access for nobody else.

    Raises:
        ConfigError: There is none, others may read it, it belongs to somebody else, or it holds no key.
    """
    file = Path(path)
    with _file_errors(file, "read"):
        descriptor = _open(file)
        try:
            content = os.read(descriptor, _LONGEST + 1)
        finally:
            os.close(descriptor)
    return _parse(file, content)


@contextlib.contextmanager
def exclusive(path: Path) -> Iterator[SigningKey]:
    """Yield the key of a file that no other rotation works on meanwhile.

    Raises:
        ConfigError: Another rotation is under way, or the key cannot be used.
    """
    with _file_errors(path, "read"):
        descriptor = _open(path)
    try:
        with _file_errors(path, "locked"):
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                ours = os.fstat(descriptor).st_ino == path.stat().st_ino
            except BlockingIOError:
                ours = False
        if not ours:
            raise ConfigError(f"another rotation of {path} is under way", "wait until it is done")
        yield load(path)
    finally:
        os.close(descriptor)


def next_key(path: Path, name: str | None) -> SigningKey:
    """Return the key that is to follow, on disk as ``FILE.next``: a new one, or that of a rotation that broke off.

    Args:
        path: The file of the key that is followed, within `exclusive`.
        name: The new key's name; None: that of the key, whoever began.

    Raises:
        ConfigError: A rotation to a key of another name was begun, or the file cannot be read or written.
    """
    following = _beside(path, _NEXT)
    if following.is_symlink() or following.exists():
        # An archive may name it already, and perhaps not the one that is rotated now.
        key = load(following)
        if name not in {None, key.verifier.name}:
            raise ConfigError(
                f"{following} holds the key {key.verifier.name!r} of a rotation that broke off",
                "finish it: run otel-audit keys rotate without --name",
            )
        return key
    key, text = _generate(load(path).verifier.name if name is None else name)
    _put(following, text)
    return key


def replace(path: Path) -> Path:
    """Put ``FILE.next`` in the place of a key, and return where the old key is kept.

    Args:
        path: The key's file, within `exclusive`.

    Raises:
        ConfigError: A file cannot be written.
    """
    key = load(path)
    kept = _beside(path, f".{key.verifier.key_id.hex()}.old")
    with _file_errors(path, "read"):
        content = path.read_text("utf-8")
    _put(kept, content)
    with _file_errors(path, "replaced"):
        _beside(path, _NEXT).replace(path)
        sync_directory(path.parent)
    return kept


def _beside(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)


def _generate(name: str) -> tuple[SigningKey, str]:
    """Return a new key and the line that holds it."""
    seed = os.urandom(32)
    key = _signing_key(name, seed)
    encoded = base64.b64encode(bytes((ED25519,)) + seed).decode("ascii")
    return key, f"{_PREFIX}+{name}+{key.verifier.key_id.hex()}+{encoded}\n"


def _signing_key(name: str, seed: bytes) -> SigningKey:
    try:
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey  # an extra
    except ImportError as error:
        raise ConfigError("signing keys need the extra `crypto`", "pip install 'otel-audit[crypto]'") from error
    private = Ed25519PrivateKey.from_private_bytes(seed)
    return SigningKey(name, private.public_key().public_bytes_raw(), private.sign)


def _parse(path: Path, content: bytes) -> SigningKey:
    try:
        if len(content) > _LONGEST:
            raise ValueError
        private, word, name, key_id, encoded = content.decode().strip("\r\n").split("+", 4)
        seed = base64.b64decode(encoded, validate=True)
        if f"{private}+{word}" != _PREFIX or len(seed) != 33 or seed[0] != ED25519:
            raise ValueError
        if base64.b64encode(seed).decode("ascii") != encoded:
            raise ValueError
    except ValueError:
        # What it holds instead may be secret, too.
        raise ConfigError(f"{path} holds no signing key", "give a file that otel-audit keys init made") from None
    key = _signing_key(name, seed[1:])
    if key.verifier.key_id.hex() != key_id:
        raise ConfigError(f"the signing key in {path} is not the one that its key id names", "restore a copy of it")
    return key


def _open(path: Path) -> int:
    """Return a descriptor of a file that is ours alone."""
    try:
        # A pipe would be waited for.
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno in {errno.ELOOP, errno.EMLINK}:
            raise ConfigError(
                f"the signing key {path} is a symbolic link", "give the path of the file itself"
            ) from None
        raise
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise ConfigError(f"the signing key {path} is no regular file", "give the path of the key's file")
        if status.st_uid != os.geteuid():
            raise ConfigError(
                f"the signing key {path} belongs to user {status.st_uid}, this process runs as {os.geteuid()}",
                "run it as the owner of the key, or chown the file",
            )
        if status.st_mode & 0o077:
            raise ConfigError(
                f"the signing key {path} is open to others (mode {stat.S_IMODE(status.st_mode):04o})",
                "chmod 600 it; where they may have read it, make another one with otel-audit keys init",
            )
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _write(descriptor: int, text: str) -> None:
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        os.fchmod(descriptor, 0o600)
        file.write(text)
        file.flush()
        os.fsync(descriptor)


def _put(path: Path, text: str) -> None:
    """Write a file as a whole, in place of one that may be there."""
    import tempfile  # start-up time: for rotations only

    with _file_errors(path, "written"):
        descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        try:
            _write(descriptor, text)
            Path(name).replace(path)
        except BaseException:
            with contextlib.suppress(OSError):
                Path(name).unlink()
            raise
        sync_directory(path.parent)


@contextlib.contextmanager
def _file_errors(path: Path, done: str) -> Iterator[None]:
    """Turn what the file system raises into a `ConfigError`."""
    try:
        yield
    except ConfigError:
        raise
    except (OSError, ValueError) as error:
        # A path with a NUL is a ValueError.
        reason: Any = getattr(error, "strerror", None) or error
        remedy = "check the path, its permissions and the disk"
        if done == "read" and isinstance(error, FileNotFoundError):
            remedy = "make it with otel-audit keys init, or check the path"
        raise ConfigError(f"the signing key {shown(path)} cannot be {done}: {reason}", remedy) from error
