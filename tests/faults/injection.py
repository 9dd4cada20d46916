"""What injects faults from outside the library: strace, loop-mounted file systems, limits of the kernel."""

from __future__ import annotations

import fcntl
import os
import shutil
import struct
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

__all__ = ["Loop", "needs_loop", "needs_root", "needs_strace", "small_tmpfs", "traced", "unmount_below"]

_SHUTDOWN: Final = 0x8004587D
"""EXT4_IOC_SHUTDOWN, which xfs has as XFS_IOC_GOINGDOWN under the same number."""


def needs_root() -> str:
    """Return what is missing to mount file systems or change the user."""
    return "" if os.geteuid() == 0 else "needs root"


def needs_strace() -> str:
    """Return what is missing to inject faults into system calls."""
    if shutil.which("strace") is None:
        return "needs strace"
    done = subprocess.run(["strace", "-qq", "-o", os.devnull, "true"], capture_output=True, check=False)
    return "" if done.returncode == 0 else "strace may not trace here"


def needs_loop(kind: str) -> str:
    """Return what is missing to mount a file system of a kind from a file."""
    if missing := needs_root():
        return missing
    if shutil.which(f"mkfs.{kind}") is None:
        return f"needs mkfs.{kind}"
    if subprocess.run(["losetup", "--find"], capture_output=True, check=False).returncode:
        return "needs loop devices"
    with tempfile.TemporaryDirectory() as point:
        if subprocess.run(["mount", "-t", "tmpfs", "tmpfs", point], capture_output=True, check=False).returncode:
            return "may not mount file systems"
        subprocess.run(["umount", point], check=True)
    return ""


def unmount_below(folder: Path) -> None:
    """Unmount what an experiment that was ended from outside left mounted."""
    mounts = Path("/proc/self/mounts")
    for line in mounts.read_text(errors="replace").splitlines() if mounts.exists() else ():
        point = Path(line.split()[1])
        if point.is_relative_to(folder):
            subprocess.run(["umount", "--lazy", str(point)], check=True)


@contextmanager
def traced(child: int, injection: str, calls: Path) -> Iterator[None]:
    """Have strace inject a fault into a process, which waits meanwhile, and into threads that it starts later.

    Args:
        child: The process; it must not have any other thread yet.
        injection: As for strace's ``inject=``, e.g. ``pwrite64:error=EIO:when=3``.
        calls: The file that the calls are listed in, those that failed with the word ``INJECTED``.
    """
    call = injection.partition(":")[0]
    command = ["strace", "-f", "-qq", "-s", "0", "-o", str(calls)]
    command += ["-e", f"trace={call}", "-e", f"inject={injection}"]
    tracer = subprocess.Popen([*command, "-p", str(child)], stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 20.0
        while "TracerPid:\t0\n" in Path(f"/proc/{child}/status").read_text():
            if tracer.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"strace does not trace process {child}")
            time.sleep(0.001)
        yield
    finally:
        # It ends with the process that it traces.
        try:
            tracer.wait(20)
        except subprocess.TimeoutExpired:
            tracer.kill()
            tracer.wait()


class Loop:
    """A file system in a file, mounted, whose power can be cut.

    Args:
        folder: Where file and mount point are made.
        kind: ``ext4`` or ``xfs``.
    """

    def __init__(self, folder: Path, kind: str, megabytes: int | None = None) -> None:
        self.point = folder / "mounted"
        self._image = folder / f"disk.{kind}"
        self.point.mkdir(mode=0o700)
        with self._image.open("wb") as file:
            # What xfs wants at least.
            file.truncate((megabytes or (320 if kind == "xfs" else 64)) * 2**20)
        quiet = ["-q", "-F"] if kind == "ext4" else ["-q"]
        subprocess.run([f"mkfs.{kind}", *quiet, str(self._image)], check=True, capture_output=True)
        self.mounted = False

    def __enter__(self) -> Loop:
        """Mount it."""
        self.mount()
        return self

    def __exit__(self, *_: object) -> None:
        """Unmount it."""
        if self.mounted:
            self.unmount(lazy=True)

    def mount(self) -> None:
        """Mount it; the file system repairs itself from its journal."""
        options = "loop,noatime" + (",errors=remount-ro" if self._image.suffix == ".ext4" else "")
        subprocess.run(["mount", "-o", options, str(self._image), str(self.point)], check=True)
        self.mounted = True
        self.point.chmod(0o700)

    def unmount(self, *, lazy: bool = False) -> None:
        """Unmount it."""
        subprocess.run(["umount", *(["--lazy"] if lazy else []), str(self.point)], check=True)
        self.mounted = False

    def remount(self, options: str) -> None:
        """Mount it anew with other options, such as ``ro``."""
        subprocess.run(["mount", "-o", f"remount,{options}", str(self.point)], check=True)

    def fail(self) -> int:
        """Let ext4 meet an error, upon which it is read-only; return the moment before, by the monotonic clock."""
        device = subprocess.run(
            ["findmnt", "-n", "-o", "SOURCE", str(self.point)], check=True, capture_output=True, text=True
        ).stdout.strip()
        trigger = Path(f"/sys/fs/ext4/{Path(device).name}/trigger_fs_error")
        moment = time.monotonic_ns()
        trigger.write_text("harness\n")
        return moment

    def cut(self, flag: int) -> int:
        """Stop the file system as a power cut does; return the moment before, by the monotonic clock.

        Args:
            flag: 0: what is under way is still written; 1: the journal only; 2: nothing at all.
        """
        descriptor = os.open(self.point, os.O_RDONLY)
        try:
            moment = time.monotonic_ns()
            fcntl.ioctl(descriptor, _SHUTDOWN, struct.pack("I", flag))
        finally:
            os.close(descriptor)
        return moment


@contextmanager
def small_tmpfs(point: Path, size: str) -> Iterator[Path]:
    """Mount a file system of a size, e.g. ``1536k``."""
    point.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size},mode=0700", "tmpfs", str(point)], check=True)
    try:
        yield point
    finally:
        subprocess.run(["umount", "--lazy", str(point)], check=True)
