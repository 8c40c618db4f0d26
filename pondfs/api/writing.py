"""The writing half of the Python API, in the terms of pathlib and shutil."""

import errno
import os
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from pondfs.api.copy import copy_tree
from pondfs.api.names import AnyPath, join, split, to_bytes, to_path, to_text
from pondfs.api.paths import find
from pondfs.api.reading import Tree
from pondfs.api.stored import TreeSteps

if TYPE_CHECKING:
    from pondfs.api.backend import Backend


class WritableTree(Tree):
    """A tree that can be changed. See `Tree` for paths and errors.

    New files and directories belong to the process's user and group; the umask applies.
    """

    def write_bytes(self, path: AnyPath, data: bytes | bytearray | memoryview) -> int:
        """Make *data* all of a file, new or not; return its length. Raises: OSError."""
        with self._lock, self.open(path, "wb", buffering=0) as file:
            return int(file.write(data))

    def write_text(
        self,
        path: AnyPath,
        text: str,
        encoding: str = "utf-8",
        errors: str | None = None,
        newline: str | None = None,
    ) -> int:
        """As `write_bytes`, with text; return its length. Raises: OSError, UnicodeError."""
        with (
            self._lock,
            self.open(path, "w", encoding=encoding, errors=errors, newline=newline) as file,
        ):
            return int(file.write(text))

    def mkdir(
        self,
        path: AnyPath,
        mode: int = 0o777,
        parents: bool = False,
        exist_ok: bool = False,
    ) -> None:
        """Make a directory.

        Args:
            path: the directory.
            mode: its permissions, less the umask.
            parents: make what is missing above it, too.
            exist_ok: no error if a directory is there already.
        Raises: OSError.
        """
        with self._writing() as backend:
            self._mkdir(backend, to_bytes(path), mode, parents=parents, exist_ok=exist_ok)

    def unlink(self, path: AnyPath, missing_ok: bool = False) -> None:
        """Remove the name of anything but a directory. Raises: OSError."""
        with self._writing() as backend:
            try:
                backend.unlink(to_bytes(path))
            except FileNotFoundError:
                if not missing_ok:
                    raise

    def rmdir(self, path: AnyPath) -> None:
        """Remove an empty directory. Raises: OSError."""
        with self._writing() as backend:
            backend.rmdir(to_bytes(path))

    def rmtree(self, path: AnyPath) -> None:
        """Remove a directory and everything below it; the root's own content, of the root.

        Raises: OSError; what was removed before stays removed (see `Pond.transaction`).
        """
        top = to_bytes(path)
        with self._writing() as backend:
            if not stat.S_ISDIR(backend.lstat(top).mode):
                number = errno.ENOTDIR
                raise NotADirectoryError(number, os.strerror(number), to_text(top))
            directories, todo = [], [top]
            while todo:
                directory = todo.pop()
                directories.append(directory)
                for name in backend.listdir(directory):
                    inner = join(directory, name)
                    if stat.S_ISDIR(backend.lstat(inner).mode):
                        todo.append(inner)
                    else:
                        backend.unlink(inner)
            for directory in reversed(directories):
                if directory:
                    backend.rmdir(directory)

    def rename(self, source: AnyPath, target: AnyPath) -> PurePosixPath:
        """Move, over what is at *target*: a file over a file, a directory over an empty one.

        Returns: where it is now.
        Raises: OSError.
        """
        with self._writing() as backend:
            backend.rename(to_bytes(source), to_bytes(target))
        return to_path(to_bytes(target))

    replace = rename

    def copy(
        self,
        source: AnyPath,
        target: AnyPath,
        *,
        follow_symlinks: bool = True,
        preserve_metadata: bool = False,
    ) -> PurePosixPath:
        """Copy a file, or a directory with everything below it, to be what *target* names.

        A file at *target* is written over (through a symlink what it leads to, if a file is
        copied), a directory must not be there. Symlinks inside are
        copied as they are, permissions come along, holes stay holes.

        Args:
            source: what to copy.
            target: where it shall be.
            follow_symlinks: copy what *source* leads to, if it is a symlink.
            preserve_metadata: also owner, times, extended attributes and the set-id bits.

        Returns: where the copy is.
        Raises: OSError.
        """
        with self._writing() as backend:
            old, info = self._find(backend, to_bytes(source), follow_symlinks)
            # Without symlinks on the way: one of two paths may be inside the other.
            old = self._real(backend, old, follow=False)
            new = self._real(backend, to_bytes(target), follow=stat.S_ISREG(info.mode))
            copy_tree(backend, old, new, preserve=preserve_metadata)
        return to_path(to_bytes(target))

    def symlink_to(self, path: AnyPath, target: AnyPath) -> None:
        """Make *path* a symlink with the text *target*. Raises: OSError."""
        with self._writing() as backend:
            backend.symlink(os.fsencode(target), to_bytes(path))

    def hardlink_to(self, path: AnyPath, target: AnyPath) -> None:
        """Make *path* another name of the file *target*. Raises: OSError."""
        with self._writing() as backend:
            backend.link(to_bytes(target), to_bytes(path))

    def touch(self, path: AnyPath, mode: int = 0o666, exist_ok: bool = True) -> None:
        """Make an empty file; of what is there, set the times to now. Raises: OSError."""
        name = to_bytes(path)
        with self._writing() as backend:
            if exist_ok and self._mode(path, True) is not None:
                self.utime(path)
                return
            flags = os.O_WRONLY | os.O_CREAT | (0 if exist_ok else os.O_EXCL)
            backend.open(name, flags, mode).close()

    def chmod(self, path: AnyPath, mode: int, *, follow_symlinks: bool = True) -> None:
        """Set the permission bits. Raises: OSError (EOPNOTSUPP for those of a symlink)."""
        with self._at(path, follow_symlinks) as (backend, found):
            backend.chmod(found, mode)

    def chown(
        self, path: AnyPath, uid: int = -1, gid: int = -1, *, follow_symlinks: bool = True
    ) -> None:
        """Set the owner and the group, as numbers; -1 leaves one alone. Raises: OSError."""
        with self._at(path, follow_symlinks) as (backend, found):
            backend.chown(found, uid, gid)

    def utime(
        self,
        path: AnyPath,
        ns: tuple[int, int] | None = None,
        *,
        follow_symlinks: bool = True,
    ) -> None:
        """Set the times of access and change, in ns since 1970; None: now. Raises: OSError."""
        times = ns or (time.time_ns(),) * 2
        with self._at(path, follow_symlinks) as (backend, found):
            backend.utime(found, *times)

    def setxattr(self, path: AnyPath, name: str, value: bytes) -> None:
        """Set an extended attribute, ``user.…`` for example. Raises: OSError."""
        with self._at(path, True) as (backend, found):
            backend.setxattr(found, os.fsencode(name), value)

    def removexattr(self, path: AnyPath, name: str) -> None:
        """Remove an extended attribute. Raises: OSError (ENODATA: there is none)."""
        with self._at(path, True) as (backend, found):
            backend.removexattr(found, os.fsencode(name))

    def _real(self, backend: "Backend", path: bytes, *, follow: bool) -> bytes:
        """Return *path*, which need not be there, without symlinks and ``..``; see `paths.find`."""
        try:
            spot = find(TreeSteps(backend), path, last=follow, live_at=self._live_at())
        except OSError as error:
            raise OSError(error.errno, error.strerror, to_text(path)) from None
        return join(spot.directory, spot.name) if spot.name else spot.directory

    @contextmanager
    def _at(self, path: AnyPath, follow: bool) -> "Iterator[tuple[Backend, bytes]]":
        with self._writing() as backend:
            yield backend, self._find(backend, to_bytes(path), follow)[0]

    def _mkdir(
        self, backend: "Backend", path: bytes, mode: int, *, parents: bool, exist_ok: bool
    ) -> None:
        missing = []
        above = path
        while True:
            try:
                backend.mkdir(above, mode if above == path else 0o777)
                break
            except FileNotFoundError:
                if not parents or not above:
                    raise
                missing.append(above)
                above = split(above)[0]
            except FileExistsError:
                if missing:
                    break  # made by somebody else meanwhile
                if not (exist_ok and stat.S_ISDIR(self._find(backend, path, True)[1].mode)):
                    raise
                return
        for one in reversed(missing):
            backend.mkdir(one, mode if one == path else 0o777)
