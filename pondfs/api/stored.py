"""A version as the store has it, as a backend: everything can be read, nothing written."""

import errno
import os
import stat
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from pondfs.api.names import join, to_text
from pondfs.api.paths import Steps, find, naming
from pondfs.errors import NoSuchPath, StoreDamaged

if TYPE_CHECKING:
    from pondfs.api.backend import Backend
    from pondfs.node import Version
    from pondfs.store.stored_file import StoredFile
    from pondfs.store.tree import NodeStat, StoredTree


class StoredBackend:
    """One version of a pond that need not be mounted. Implements `backend.Backend`.

    The store stays open until `close` was called and the last file opened in it is closed, so
    that pruning does not take bytes away under a reader.

    Attributes:
        label: how messages call it.
        version: what is shown.
    """

    def __init__(self, store: Path, version: "Version | None" = None) -> None:
        """Open *version*; None: the newest.

        Raises: NotAPond; NoSuchVersion; StoreDamaged; OSError.
        """
        from pondfs.store import open_reader
        from pondfs.store.tree import StoredTree
        from pondfs.xattrs import decode_xattrs

        opened = open_reader(store)
        try:
            image = opened.load_image_at(version)
        except BaseException:
            opened.close()
            raise
        self._tree: StoredTree = StoredTree(opened, image, decode_xattrs)
        self.label = self._tree.label
        self.version: Version = image.version
        self._users = 1
        self._closed = False
        self._guard = threading.RLock()

    def lstat(self, path: bytes) -> "NodeStat":
        """Return what is at *path*."""
        with naming(path):
            return self._tree.lstat(self._find(path))

    def listdir(self, path: bytes) -> list[bytes]:
        """Return a directory's names, sorted."""
        with naming(path):
            found = self._find(path)
            if not stat.S_ISDIR(self._tree.lstat(found).mode):
                raise OSError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
            return [name for name, _ in self._tree.entries(found)]

    def readlink(self, path: bytes) -> bytes:
        """Return a symlink's target."""
        with naming(path):
            found = self._find(path)
            if not stat.S_ISLNK(self._tree.lstat(found).mode):
                raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
            return self._tree.readlink(found)

    def xattrs(self, path: bytes) -> dict[bytes, bytes]:
        """Return the extended attributes."""
        with naming(path):
            return self._tree.xattrs(self._find(path))

    def open(self, path: bytes, flags: int, mode: int = 0o666) -> "StoredHandle":
        """Open a regular file for reading."""
        with naming(path):
            if flags & (os.O_ACCMODE | os.O_TRUNC | os.O_CREAT):
                self._refuse(path)
            found = self._find(path, last=True)
            info = self._tree.lstat(found)
            if not stat.S_ISREG(info.mode):
                number = errno.EISDIR if stat.S_ISDIR(info.mode) else errno.ENXIO
                raise OSError(number, os.strerror(number))
            with self._guard:
                self._users += 1
            try:
                return StoredHandle(self, self._tree.open(found), info, path)
            except BaseException:
                self.release()
                raise

    def close(self) -> None:
        """Let go of it; files that are open can still be read."""
        if not self._closed:
            self._closed = True
            self.release()

    def discard(self) -> None:
        """Let go of it."""
        self.close()

    def commit(self, message: str = "") -> None:
        """Do nothing: nothing is ever pending."""

    def release(self) -> None:
        """Count one user less; the last one closes the store."""
        with self._guard:
            self._users -= 1
            if self._users:
                return
        self._tree.close()

    def _refuse(self, *args: Any, **_: Any) -> NoReturn:
        raise OSError(errno.EROFS, f"{self.label} can't be changed", to_text(args[0]))

    mkdir = mknod = unlink = rmdir = rename = symlink = link = _refuse
    chmod = chown = utime = setxattr = removexattr = _refuse

    def _find(self, path: bytes, *, last: bool = False) -> bytes:
        spot = find(TreeSteps(self._tree), path, last=last, live_at=None)
        return spot.existing()


class StoredHandle:
    """An open file of a version. Implements `backend.Handle`."""

    def __init__(
        self, backend: StoredBackend, file: "StoredFile", info: "NodeStat", path: bytes
    ) -> None:
        self._backend = backend
        self._file = file
        self._info = info
        self._path = path

    def pread(self, length: int, offset: int) -> bytes:
        """Return up to *length* bytes; fewer only at the end of the file.

        Raises: OSError EIO for a store that is damaged.
        """
        data = bytearray(max(0, min(length, self._info.size_bytes - offset)))
        try:
            self._file.read_at(offset, memoryview(data))
        except StoreDamaged as damaged:
            raise OSError(damaged.errno, str(damaged), to_text(self._path)) from damaged
        return bytes(data)

    def fstat(self) -> "NodeStat":
        """Return what is open."""
        return self._info

    def pwrite(self, data: bytes | bytearray | memoryview, offset: int) -> int:
        """Refuse."""
        self._backend._refuse(self._path)

    def truncate(self, size: int) -> None:
        """Refuse."""
        self._backend._refuse(self._path)

    def fsync(self) -> None:
        """Do nothing: it is durable."""

    def close(self) -> None:
        """Close it. Calling it twice is harmless."""
        if not self._file.closed:
            self._file.close()
            self._backend.release()


class TreeSteps(Steps[bytes]):
    """Steps through a tree that is asked by paths; a node is its path without symlinks."""

    def __init__(self, tree: "StoredTree | Backend") -> None:
        self._tree = tree

    def root(self) -> bytes:
        """Return the root."""
        return b""

    def child(self, directory: bytes, name: bytes) -> bytes | None:
        """Return what has *name* in a directory; None for nothing."""
        path = join(directory, name)
        try:
            self._tree.lstat(path)
        except (NoSuchPath, FileNotFoundError):
            return None
        return path

    def mode(self, node: bytes) -> int:
        """Return the type and permissions."""
        return self._tree.lstat(node).mode

    def target(self, node: bytes) -> bytes:
        """Return a symlink's target."""
        return self._tree.readlink(node)

    def is_reserved(self, node: bytes) -> bool:
        """Return False: there is no ``.pond`` in such a tree."""
        return False
