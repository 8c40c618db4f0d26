"""A tree as the kernel shows it, below a mount: plain system calls, so that permissions count."""

import contextlib
import errno
import io
import os
import stat
from collections.abc import Iterator

from pondfs.errors import NoSuchPath, UsageError
from pondfs.node import PAST
from pondfs.store.tree import PIECE_BYTES, NodeStat, Piece, Xattrs, not_a_file, shown

BLOCK_BYTES = 4096
"""The smallest hole that is kept: the mount does not say where holes are."""

_HOLD = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# Without O_NONBLOCK, a pipe would hold us up until somebody writes into it.
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC

_ST_BLOCK_BYTES = 512
"""What st_blocks counts (stat(2))."""


class MountedTree:
    """A tree below a directory that is held open. Implements `cli.trees.Tree`.

    Held, because ``at/10m-ago`` means another version every second. Every path is walked from there
    name by name, and no symlink is followed: whoever may write in the tree could put one in the
    place of a directory between two looks, and have root read what that user can't.

    Attributes:
        label: how messages call it.
        live_at: the mountpoint, if this is the tree as it is now.
    """

    def __init__(self, root_fd: int, label: str, live_at: bytes | None = None) -> None:
        """Take over *root_fd*, the tree's root (O_PATH will do)."""
        self.label = label
        self.live_at = live_at
        self._fd = root_fd

    def lstat(self, path: bytes) -> NodeStat:
        """Return what is at *path*."""
        try:
            with self._above(path) as (above, name):
                return _stat(os.stat(name, dir_fd=above, follow_symlinks=False))
        except OSError as error:
            raise self._why(error, path) from None

    def entries(self, path: bytes) -> list[tuple[bytes, NodeStat]]:
        """Return a directory's names and what they are, sorted."""
        found = []
        try:
            with self._above(path) as (above, name):
                fd = os.open(
                    name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=above
                )
        except OSError as error:
            raise self._why(error, path) from None
        try:
            for name in map(os.fsencode, sorted(os.listdir(fd), key=os.fsencode)):
                try:
                    info = os.stat(name, dir_fd=fd, follow_symlinks=False)
                except FileNotFoundError:
                    continue  # gone since it was listed
                except OSError as error:
                    raise self._why(error, os.path.join(path, name)) from None
                # `.pond` where it is visible: all versions are no part of the tree as it is.
                if path or info.st_ino < PAST or self.live_at is None:
                    found.append((name, _stat(info)))
        finally:
            os.close(fd)
        return found

    def readlink(self, path: bytes) -> bytes:
        """Return a symlink's target."""
        try:
            with self._above(path) as (above, name):
                return os.readlink(name, dir_fd=above)
        except OSError as error:
            if error.errno == errno.EINVAL:
                raise _became_another(path) from None
            raise self._why(error, path) from None

    def xattrs(self, path: bytes) -> Xattrs:
        """Return the extended attributes; none where the mount has none."""
        found: Xattrs = {}
        try:
            with self._above(path) as (above, last):
                # There are no such calls relative to a directory.
                whole = b"/proc/self/fd/%d/%s" % (above, last)
                for name in os.listxattr(whole, follow_symlinks=False):
                    found[os.fsencode(name)] = os.getxattr(whole, name, follow_symlinks=False)
        except OSError as error:
            if error.errno in (errno.EOPNOTSUPP, errno.ENODATA):
                return found
            raise self._why(error, path) from None
        return found

    def read(self, path: bytes) -> Iterator[Piece]:
        """Yield a regular file's bytes in order, each with its offset.

        The mount does not say where holes are; a file that has some is searched for zeros.
        """
        try:
            with self._above(path) as (above, name):
                fd = os.open(name, _READ, dir_fd=above)
        except OSError as error:
            if error.errno in (errno.ELOOP, errno.ENXIO):
                raise _became_another(path) from None
            raise self._why(error, path) from None
        info = os.fstat(fd)
        if not stat.S_ISREG(info.st_mode):
            os.close(fd)
            raise _became_another(path)
        with open(fd, "rb", buffering=0) as file:
            has_holes = info.st_blocks * _ST_BLOCK_BYTES < info.st_size
            offset = 0
            try:
                while data := file.read(PIECE_BYTES):
                    yield from nonzero(offset, data) if has_holes else ((offset, data),)
                    offset += len(data)
            except OSError as error:
                raise self._why(error, path) from None

    def open(self, path: bytes) -> io.RawIOBase:
        """Return a regular file for reading anywhere in it. It may outlive this tree.

        Raises: NoSuchPath; UsageError for anything but a regular file of this mount; OSError.
        """
        try:
            with self._above(path) as (above, name):
                fd = os.open(name, _READ, dir_fd=above)
        except OSError as error:
            if error.errno == errno.ELOOP:
                raise UsageError(not_a_file(path, stat.S_IFLNK)) from None
            if error.errno == errno.ENXIO:
                raise UsageError(not_a_file(path, stat.S_IFSOCK)) from None
            raise self._why(error, path) from None
        try:
            info = os.fstat(fd)
            if not stat.S_ISREG(info.st_mode):
                raise UsageError(not_a_file(path, info.st_mode))
            if info.st_dev != os.fstat(self._fd).st_dev:
                # Something is mounted there.
                raise UsageError(f"'/{shown(path)}' is no file of {self.label}")
            return io.FileIO(fd)
        except BaseException:
            os.close(fd)
            raise

    def close(self) -> None:
        """Let go of the directory."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    @contextlib.contextmanager
    def _above(self, path: bytes) -> Iterator[tuple[int, bytes]]:
        """Hold the directory that *path* is in, and tell its name there; ``.`` for the root."""
        *directories, name = path.split(b"/")
        held = self._fd
        try:
            for part in directories:
                inner = os.open(part, _HOLD, dir_fd=held)
                if held != self._fd:
                    os.close(held)
                held = inner
            yield held, name or b"."
        finally:
            if held != self._fd:
                os.close(held)

    def _why(self, error: OSError, path: bytes) -> Exception:
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
            return NoSuchPath(f"{self.label} has no '/{shown(path)}'")
        # As a command of the system says it: the path, then what is wrong.
        return OSError(error.errno, error.strerror, shown(path) or "/")


def _became_another(path: bytes) -> OSError:
    """Return the error of what was looked at as one thing, and is another when it is read."""
    return OSError(errno.ESTALE, "became something else meanwhile: try again", shown(path))


def _stat(info: os.stat_result) -> NodeStat:
    return NodeStat(
        info.st_ino, info.st_mode, info.st_uid, info.st_gid, info.st_nlink, info.st_rdev,
        info.st_size, info.st_blocks * _ST_BLOCK_BYTES,
        info.st_atime_ns, info.st_mtime_ns, info.st_ctime_ns,
    )  # fmt: skip


def nonzero(offset: int, data: bytes) -> Iterator[Piece]:
    """Yield the runs of blocks in *data* that are not all zeros."""
    zeros = bytes(BLOCK_BYTES)
    start: int | None = None
    for at in range(0, len(data), BLOCK_BYTES):
        is_hole = data[at : at + BLOCK_BYTES] == zeros[: len(data) - at]
        if is_hole and start is not None:
            yield offset + start, data[start:at]
            start = None
        elif not is_hole and start is None:
            start = at
    if start is not None:
        yield offset + start, data[start:]
