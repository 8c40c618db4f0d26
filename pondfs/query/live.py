"""The tree as a mount shows it now, what is pending included, for reading files."""

import errno
import io
import os
import stat

from pondfs.errors import NoSuchPath, UsageError
from pondfs.node import PAST
from pondfs.store.tree import NodeStat, not_a_file

_BLOCK_BYTES = 512  # what st_blocks counts


class LiveTree:
    """A tree by plain system calls, so that permissions count. As `store.tree.StoredTree`.

    Attributes:
        label: how messages call it.
        live_at: the mountpoint.
    """

    def __init__(self, mountpoint: str | os.PathLike[str]) -> None:
        """Hold the mount at *mountpoint*. Raises: OSError."""
        self.label = "the pond"
        self.live_at: bytes | None = os.fsencode(mountpoint)
        self._fd = os.open(mountpoint, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)

    def lstat(self, path: bytes) -> NodeStat:
        """Return what is at *path*; a symlink is not followed. Raises: NoSuchPath, OSError."""
        try:
            return _stat(os.stat(path or b".", dir_fd=self._fd, follow_symlinks=False))
        except OSError as error:
            raise self._why(error, path) from None

    def entries(self, path: bytes) -> list[tuple[bytes, NodeStat]]:
        """Return a directory's names and what they are, sorted. Raises: NoSuchPath, OSError."""
        found = []
        try:
            fd = os.open(path or b".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=self._fd)
        except OSError as error:
            raise self._why(error, path) from None
        try:
            for name in sorted(map(os.fsencode, os.listdir(fd))):
                try:
                    info = os.stat(name, dir_fd=fd, follow_symlinks=False)
                except FileNotFoundError:
                    continue  # gone since it was listed
                if path or info.st_ino < PAST:  # all versions are no part of the tree as it is
                    found.append((name, _stat(info)))
        except OSError as error:
            raise self._why(error, path) from None
        finally:
            os.close(fd)
        return found

    def readlink(self, path: bytes) -> bytes:
        """Return a symlink's target. Raises: NoSuchPath, OSError."""
        try:
            return os.readlink(path, dir_fd=self._fd)
        except OSError as error:
            raise self._why(error, path) from None

    def open(self, path: bytes) -> io.RawIOBase:
        """Return a regular file for reading anywhere in it.

        Raises: NoSuchPath; UsageError for anything but a regular file of this mount; OSError.
        """
        # Without O_NONBLOCK, a pipe would hold us up until somebody writes into it.
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        try:
            fd = os.open(path or b".", flags, dir_fd=self._fd)
        except OSError as error:
            if error.errno in (errno.ELOOP, errno.ENXIO):
                kind = stat.S_IFLNK if error.errno == errno.ELOOP else stat.S_IFSOCK
                raise UsageError(not_a_file(path, kind)) from None
            raise self._why(error, path) from None
        info = os.fstat(fd)
        if stat.S_ISREG(info.st_mode) and info.st_dev == os.fstat(self._fd).st_dev:
            return io.FileIO(fd)
        os.close(fd)
        if stat.S_ISREG(info.st_mode):
            raise UsageError(f"'/{_shown(path)}' is no file of {self.label}")
        raise UsageError(not_a_file(path, info.st_mode))

    def close(self) -> None:
        """Let go of the mount."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _why(self, error: OSError, path: bytes) -> Exception:
        if error.errno in (errno.ENOENT, errno.ENOTDIR):
            return NoSuchPath(f"{self.label} has no '/{_shown(path)}'")
        return OSError(error.errno, error.strerror, f"/{_shown(path)}")


def _shown(path: bytes) -> str:
    return path.decode("utf-8", "backslashreplace")


def _stat(info: os.stat_result) -> NodeStat:
    return NodeStat(
        info.st_ino, info.st_mode, info.st_uid, info.st_gid, info.st_nlink, info.st_rdev,
        info.st_size, info.st_blocks * _BLOCK_BYTES,
        info.st_atime_ns, info.st_mtime_ns, info.st_ctime_ns,
    )  # fmt: skip
