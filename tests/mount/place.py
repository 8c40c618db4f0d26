"""Where a semantics test works, and small deeds it does there."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.mount.harness import PondMount, wait_until

# Two users without a name, a home or a group in common with anyone.
ALICE, BOB = 60_001, 60_002

Say = Callable[..., tuple[int, str, str]]
"""Runs a verb of ``pond`` as another user who stands in the mount: code, output, errors."""
# The clock file times are taken from; <linux/time.h>, not in the time module.
_CLOCK_REALTIME_COARSE = 5


@dataclass(frozen=True)
class Place:
    """A directory, on a pond or (``pond`` None) on the ordinary filesystem."""

    dir: Path
    pond: PondMount | None = None

    def path(self, name: str | bytes) -> Path:
        """Return a path in the directory; bytes need not be UTF-8."""
        return self.dir / os.fsdecode(name)

    def file(self, name: str = "file", content: bytes = b"", mode: int = 0o644) -> Path:
        """Make a file and return its path."""
        path = self.dir / name
        path.write_bytes(content)
        path.chmod(mode)
        return path

    def remount(self) -> None:
        """Unmount and mount again, which an ordinary directory does not need."""
        if self.pond is not None:
            self.pond.remount()


@contextlib.contextmanager
def opened(path: Path | str, flags: int, mode: int = 0o644) -> Iterator[int]:
    """Hold a file descriptor for the length of a ``with``."""
    fd = os.open(path, flags, mode)
    try:
        yield fd
    finally:
        os.close(fd)


@contextlib.contextmanager
def as_user(uid: int, directory: Path, gid: int | None = None) -> Iterator[None]:
    """Act as another user inside *directory*, by relative paths.

    The working directory is entered first, as root: the directories above it are private.
    Source: credentials(7); the filesystem uid follows the effective one, and root's capabilities
    leave the effective set with it.
    """
    assert os.geteuid() == 0, "tests about other users need root: run them with sudo"
    before, groups = os.open(".", os.O_RDONLY), os.getgroups()
    os.chdir(directory)
    os.setgroups([])
    os.setegid(uid if gid is None else gid)
    os.seteuid(uid)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)
        os.setgroups(groups)
        os.fchdir(before)
        os.close(before)


def errno_of(call: Callable[..., Any], *args: Any, **kwargs: Any) -> str:
    """Return the name of the errno a call fails with, or ``OK``."""
    try:
        call(*args, **kwargs)
    except OSError as error:
        # Two names for one number on Linux.
        return errno.errorcode[error.errno or 0].replace("ENOTSUP", "EOPNOTSUPP")
    return "OK"


def tick(*paths: Path) -> None:
    """Return once a change to these paths must show in their timestamps.

    The kernel stamps files with a clock that moves every few milliseconds.
    """
    latest = max((path.lstat().st_ctime_ns for path in paths), default=time.time_ns())
    wait_until(lambda: time.clock_gettime_ns(_CLOCK_REALTIME_COARSE) > latest, "the clock to move")


def tree(root: Path, *, times: bool = False, inodes: bool = False) -> dict[bytes, tuple[Any, ...]]:
    """Return everything that can be seen below *root* (and itself), by relative name.

    A file's content, a symlink's target and a device's number are in it; sizes of directories are
    not, they mean nothing. Hard links show as equal ``inodes`` when asked for.
    """
    seen: dict[bytes, tuple[Any, ...]] = {}
    start = os.fsencode(root)

    def visit(path: bytes, name: bytes) -> None:
        info = os.lstat(path)
        what: tuple[Any, ...] = (oct(info.st_mode), info.st_nlink, info.st_uid, info.st_gid)
        if times:
            what += (info.st_mtime_ns, info.st_ctime_ns)
        if inodes:
            what += (info.st_ino,)
        if stat.S_ISREG(info.st_mode):
            with open(path, "rb") as file:
                what += (info.st_size, file.read())
        elif stat.S_ISLNK(info.st_mode):
            what += (info.st_size, os.readlink(path))
        elif stat.S_ISBLK(info.st_mode) or stat.S_ISCHR(info.st_mode):
            what += (info.st_rdev,)
        seen[name] = what
        if stat.S_ISDIR(info.st_mode):
            for entry in sorted(os.listdir(path)):
                visit(path + b"/" + entry, name + b"/" + entry if name else entry)

    visit(start, b"")
    return seen
