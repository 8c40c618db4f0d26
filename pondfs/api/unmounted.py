"""A pond that is not mounted, as a tree that can be changed: the tree runs in this process.

Importing this is cheap; trio and pyarrow come when a pond is opened.
"""

import contextlib
import logging
import math
import os
import warnings
from collections.abc import Awaitable, Callable
from operator import index
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from pondfs.api.paths import naming
from pondfs.node import Version
from pondfs.store.tree import NodeStat

if TYPE_CHECKING:
    import pyarrow as pa

    from pondfs.api.local import LocalTree, Opened
    from pondfs.vfs.base import Caller
    from pondfs.vfs.vfs import Vfs

log = logging.getLogger("pondfs.store")

_RENAME_NOREPLACE = 1

T = TypeVar("T")


class LocalBackend:
    """A tree in a thread of this process. Implements `backend.Backend`, but for how it is closed.

    New nodes belong to the process's effective user and group. Nothing becomes a version but by
    `commit`. Arguments of a wrong type are refused (TypeError) before they are in the tree, where
    they would make every commit fail.

    Attributes:
        label: how messages call it.
    """

    def __init__(
        self,
        vfs: "Vfs",
        label: str,
        *,
        finish: Callable[[], None],
        live_at: bytes | None = None,
        fsync_commits: bool = True,
    ) -> None:
        """Run *vfs*.

        Args:
            vfs: the tree, which belongs to this from here on.
            label: how messages call it.
            finish: is called in the thread in the end.
            live_at: the mountpoint: what absolute symlinks begin with that lead into the tree.
            fsync_commits: whether a handle's `fsync` commits; else it does nothing.
        """
        from pondfs.api.local import LocalTree
        from pondfs.api.loop import VfsThread

        self.label = label
        self._fsync_commits = fsync_commits
        self._tree: LocalTree = LocalTree(vfs, live_at)
        self._thread = VfsThread(vfs, finish)
        self._is_open = True

    @property
    def is_here(self) -> bool:
        """Whether it was opened in this process, and not in one that forked it."""
        return self._thread.is_here

    # --- looking ---

    def lstat(self, path: bytes) -> NodeStat:
        """Return what is at *path*."""
        return self._do(lambda: self._tree.lstat(path), path)

    def listdir(self, path: bytes) -> list[bytes]:
        """Return a directory's names, sorted, without ``.`` and ``..`` and ``.pond``."""
        return self._do(lambda: self._tree.listdir(path), path)

    def readlink(self, path: bytes) -> bytes:
        """Return a symlink's target."""
        return self._do(lambda: self._tree.readlink(path), path)

    def xattrs(self, path: bytes) -> dict[bytes, bytes]:
        """Return the extended attributes."""
        return self._do(lambda: self._tree.xattrs(path), path)

    # --- files ---

    def open(self, path: bytes, flags: int, mode: int = 0o666) -> "LocalHandle":
        """Open a regular file. See `backend.Backend.open`."""
        caller = _caller()
        opened = self._do(lambda: self._tree.open(path, flags, mode, caller), path)
        return LocalHandle(self, opened, path)

    # --- names ---

    def mkdir(self, path: bytes, mode: int = 0o777) -> None:
        """Make a directory; the umask applies to *mode*."""
        caller = _caller()
        self._do(lambda: self._tree.mkdir(path, mode, caller), path)

    def mknod(self, path: bytes, mode: int, rdev: int = 0) -> None:
        """Make a FIFO, socket or device (or an empty file). See `backend.Backend.mknod`."""
        caller = _caller()
        self._do(lambda: self._tree.mknod(path, mode, rdev, caller), path)

    def symlink(self, target: bytes, path: bytes) -> None:
        """Make a symlink at *path*."""
        caller = _caller()
        self._do(lambda: self._tree.symlink(target, path, caller), path)

    def link(self, old: bytes, new: bytes) -> None:
        """Give a file another name."""
        self._do(lambda: self._tree.link(old, new), old, new)

    def unlink(self, path: bytes) -> None:
        """Remove the name of anything but a directory."""
        self._do(lambda: self._tree.unlink(path), path)

    def rmdir(self, path: bytes) -> None:
        """Remove an empty directory."""
        self._do(lambda: self._tree.rmdir(path), path)

    def rename(self, old: bytes, new: bytes, *, replace: bool = True) -> None:
        """Move, over what is at *new* unless *replace* is false (EEXIST)."""
        flags = 0 if replace else _RENAME_NOREPLACE
        self._do(lambda: self._tree.rename(old, new, flags), old, new)

    # --- attributes ---

    def chmod(self, path: bytes, mode: int) -> None:
        """Set the permission bits; of a symlink it is refused (EOPNOTSUPP)."""
        bits = index(mode)
        self._do(lambda: self._tree.chmod(path, bits), path)

    def chown(self, path: bytes, uid: int, gid: int) -> None:
        """Set the owner, of a symlink its own; -1 leaves one alone."""
        owner = index(uid), index(gid)
        self._do(lambda: self._tree.chown(path, *owner), path)

    def utime(self, path: bytes, atime_ns: int, mtime_ns: int) -> None:
        """Set the times, of a symlink its own."""
        times = index(atime_ns), index(mtime_ns)
        self._do(lambda: self._tree.utime(path, *times), path)

    def setxattr(self, path: bytes, name: bytes, value: bytes) -> None:
        """Set one."""
        copy = bytes(memoryview(value))
        self._do(lambda: self._tree.setxattr(path, name, copy), path)

    def removexattr(self, path: bytes, name: bytes) -> None:
        """Remove one."""
        self._do(lambda: self._tree.removexattr(path, name), path)

    # --- the whole ---

    def commit(self, message: str = "") -> Version | None:
        """Make everything pending one version. See `backend.Backend.commit`."""
        return self._thread.wait(lambda: self._tree.vfs.committer.commit(message))

    def pending(self, store: Path) -> "pa.Table | None":
        """Return the rows that *store* would get by a commit now, its ``commit`` row aside."""
        from pondfs.store.preview import read_pending, to_stream

        preview = self._thread.call(lambda: self._tree.vfs.preview(contents=True))
        if preview is None:
            return None
        staged = [file.name for file in preview.staged]
        return read_pending(store, staged, b"".join(to_stream(preview)))

    def discard(self) -> None:
        """Let go of it without a commit. Calling it, or `close`, again is harmless."""
        self._is_open = False
        self._thread.stop()

    def _do(self, function: Callable[[], T], path: bytes, other: bytes | None = None) -> T:
        """Do one operation in the tree's thread."""
        with naming(path, other):
            return self._thread.call(lambda: self._tree.run(function))

    def __del__(self) -> None:
        """Say that nobody closed it: what was not committed is lost."""
        if getattr(self, "_is_open", False) and self.is_here:
            warnings.warn(f"{self.label} was not closed", ResourceWarning, 2, source=self)
            self.discard()


class UnmountedBackend(LocalBackend):
    """A pond that is not mounted; holds its writer lock. Implements `backend.Backend`."""

    def __init__(self, store: Path, *, message: str = "", fsync_commits: bool = True) -> None:
        """Open the pond in *store* for changing it.

        Args:
            store: its directory.
            message: of the version that `close` makes.
            fsync_commits: whether a handle's `fsync` commits; else it does nothing.
        Raises: NotAPond; PondLocked naming who has it; StoreDamaged; OSError.
        """
        from pondfs.store import open_writer
        from pondfs.vfs.base import VfsOptions
        from pondfs.vfs.vfs import Vfs

        self._message = message
        opened = open_writer(store, mountpoint="", socket="")
        try:
            for note in opened.notes:
                log.warning("%s", note)
            vfs = Vfs(opened, VfsOptions(acl=True, commit_s=math.inf))

            def finish() -> None:
                try:
                    vfs.committer.discard_staged()
                finally:
                    opened.close()

            super().__init__(
                vfs, f"the pond in {store}", finish=finish, fsync_commits=fsync_commits
            )
        except BaseException:
            opened.close()
            raise

    def close(self) -> None:
        """Commit what is pending and let go of the lock, of that even if the commit fails.

        Calling it twice is harmless.

        Raises: CommitFailed; what was pending is lost then, and the pond as it was.
        """
        if not self._is_open:
            return
        try:
            self.commit(self._message)
        finally:
            self.discard()


class LocalHandle:
    """An open file of a `LocalBackend`. Implements `backend.Handle`."""

    def __init__(self, backend: LocalBackend, opened: "Opened", path: bytes) -> None:
        """Take over *opened*; *path* is for messages."""
        self._backend = backend
        self._opened = opened
        self._path = path
        self._is_open = True

    def pread(self, length: int, offset: int) -> bytes:
        """Return up to *length* bytes; fewer only at the end of the file."""
        return self._wait(lambda tree: tree.pread(self._opened, length, offset))

    def pwrite(self, data: bytes | bytearray | memoryview, offset: int) -> int:
        """Write all of *data*; return its length."""
        view, caller = memoryview(data).cast("B"), _caller()
        return self._wait(lambda tree: tree.pwrite(self._opened, view, offset, caller))

    def truncate(self, size: int) -> None:
        """Set the size; growing leaves a hole."""
        caller, length = _caller(), index(size)
        self._do(lambda tree: tree.truncate(self._opened, length, caller))

    def fstat(self) -> NodeStat:
        """Return what is open."""
        return self._do(lambda tree: tree.fstat(self._opened))

    def fsync(self) -> None:
        """Make the whole pond durable; in a transaction, do nothing."""
        if self._backend._fsync_commits:
            self._wait(lambda tree: tree.vfs.fsync(self._opened.node))

    def close(self) -> None:
        """Close it. Calling it twice is harmless."""
        if self._is_open:
            self._is_open = False
            if self._backend._is_open and self._backend.is_here:
                # Where the tree is gone there is nothing to let go of.
                with contextlib.suppress(OSError):
                    self._backend._thread.call(lambda: self._backend._tree.release(self._opened))

    def _do(self, function: "Callable[[LocalTree], T]") -> T:
        with naming(self._path):
            return self._backend._thread.call(lambda: function(self._backend._tree))

    def _wait(self, function: "Callable[[LocalTree], Awaitable[T]]") -> T:
        with naming(self._path):
            return self._backend._thread.wait(lambda: function(self._backend._tree))


def _caller() -> "Caller":
    from pondfs.vfs.base import Caller

    return Caller(os.geteuid(), os.getegid(), _umask())


def _umask() -> int:
    """Return the process's umask; umask(2) could only tell by changing it under other threads."""
    with open("/proc/self/status", "rb") as status:
        for line in status:
            if line.startswith(b"Umask:"):
                return int(line[6:], 8)
    raise OSError("/proc/self/status does not tell the umask: Linux 4.7 or newer does")
