"""What every pond can be asked, live or past: the reading half of the Python API."""

import errno
import os
import stat
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import PurePosixPath
from types import TracebackType
from typing import IO, TYPE_CHECKING, Any, Self

from pondfs.api.files import open_file, parse_mode
from pondfs.api.names import AnyPath, join, match, to_bytes, to_path
from pondfs.api.paths import find
from pondfs.api.stored import TreeSteps

if TYPE_CHECKING:
    from pondfs.api.backend import Backend
    from pondfs.store.tree import NodeStat

_NOT_THERE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EXDEV)
"""Nothing in this pond, that is: EXDEV is what a symlink that leads out of it gives."""

BLOCK_BYTES = 4096
"""What ``st_blksize`` says."""

_ST_BLOCK_BYTES = 512
"""What ``st_blocks`` counts (stat(2))."""


class Tree(ABC):
    """A tree to read, in the terms of pathlib.

    Paths count from the pond's root, with or without a leading slash; text stands for bytes as
    `os.fsencode` has it. Symlinks are followed within the pond: one that leads out of it is
    OSError EXDEV. What goes wrong with a path is an OSError, as `open` and `os` raise it;
    everything else is a `PondError`. Any thread may use it.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()

    @abstractmethod
    def _backend(self) -> "Backend":
        """Return what to read from; called with the lock held."""

    @abstractmethod
    def close(self) -> None:
        """Let go of the pond."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    # --- files ---

    def open(
        self,
        path: AnyPath,
        mode: str = "r",
        buffering: int = -1,
        encoding: str | None = None,
        errors: str | None = None,
        newline: str | None = None,
    ) -> IO[Any]:
        """Open a regular file and return a file object, as the builtin `open` does.

        Args:
            path: the file.
            mode: ``r`` ``w`` ``a`` ``x``, with ``b`` ``t`` ``+``.
            buffering: bytes; 0 none (binary only), 1 by lines (text only), -1 1 MiB.
            encoding: of text; UTF-8 by default, whatever the locale says.
            errors: as `open`.
            newline: as `open`.

        Raises: OSError; EROFS to write where nothing can be written; ValueError for a bad mode.
        """
        flags, _ = parse_mode(mode)
        writes = flags & os.O_ACCMODE != os.O_RDONLY
        with self._writing() if writes else self._reading() as backend:
            return open_file(
                backend, to_bytes(path), mode, self._lock,
                buffering=buffering, encoding=encoding, errors=errors, newline=newline,
            )  # fmt: skip

    def read_bytes(self, path: AnyPath) -> bytes:
        """Return all of a file. Raises: OSError."""
        with self.open(path, "rb", buffering=0) as file:
            return bytes(file.read())

    def read_text(self, path: AnyPath, encoding: str = "utf-8", errors: str | None = None) -> str:
        """Return all of a file as text, line ends made newlines. Raises: OSError, UnicodeError."""
        with self.open(path, encoding=encoding, errors=errors) as file:
            return str(file.read())

    # --- what is there ---

    def stat(self, path: AnyPath = "/", *, follow_symlinks: bool = True) -> os.stat_result:
        """Return what is at *path*, as `os.stat`; ``st_dev`` is 0. Raises: OSError."""
        with self._reading() as backend:
            return _stat_result(self._find(backend, to_bytes(path), follow_symlinks)[1])

    def lstat(self, path: AnyPath) -> os.stat_result:
        """As `stat`, of a symlink itself. Raises: OSError."""
        return self.stat(path, follow_symlinks=False)

    def exists(self, path: AnyPath, *, follow_symlinks: bool = True) -> bool:
        """Return whether anything is there; a symlink must lead to something in the pond.

        Raises: OSError when that can't be known (a directory may not be searched, say).
        """
        return self._mode(path, follow_symlinks) is not None

    def is_file(self, path: AnyPath, *, follow_symlinks: bool = True) -> bool:
        """Return whether it is a regular file. Raises: as `exists`."""
        return stat.S_ISREG(self._mode(path, follow_symlinks) or 0)

    def is_dir(self, path: AnyPath, *, follow_symlinks: bool = True) -> bool:
        """Return whether it is a directory. Raises: as `exists`."""
        return stat.S_ISDIR(self._mode(path, follow_symlinks) or 0)

    def is_symlink(self, path: AnyPath) -> bool:
        """Return whether it is a symlink, wherever it leads. Raises: as `exists`."""
        return stat.S_ISLNK(self._mode(path, False) or 0)

    def readlink(self, path: AnyPath) -> str:
        """Return a symlink's target, as it is written. Raises: OSError (EINVAL: it is none)."""
        with self._reading() as backend:
            return os.fsdecode(backend.readlink(to_bytes(path)))

    def xattrs(self, path: AnyPath) -> dict[str, bytes]:
        """Return the extended attributes; none where a mount has none. Raises: OSError."""
        with self._reading() as backend:
            found = backend.xattrs(self._find(backend, to_bytes(path), True)[0])
        return {os.fsdecode(name): value for name, value in found.items()}

    # --- directories ---

    def listdir(self, path: AnyPath = "/") -> list[str]:
        """Return a directory's names, sorted. Raises: OSError."""
        with self._reading() as backend:
            return [os.fsdecode(name) for name in self._names(backend, to_bytes(path))]

    def iterdir(self, path: AnyPath = "/") -> Iterator[PurePosixPath]:
        """Yield the paths of what is in a directory, sorted. Raises: OSError, at once."""
        top = to_path(to_bytes(path))
        return iter([top / name for name in self.listdir(path)])

    def walk(
        self,
        top: AnyPath = "/",
        *,
        top_down: bool = True,
        on_error: Callable[[OSError], object] | None = None,
        follow_symlinks: bool = False,
    ) -> Iterator[tuple[PurePosixPath, list[str], list[str]]]:
        """Yield each directory's path, the names of its directories, and its other names.

        As `pathlib.Path.walk`: with *top_down*, what is taken out of the second is not entered;
        directories that can't be listed are told to *on_error*, else left out.
        """
        found = []
        todo = [to_bytes(top)]
        while todo:
            directory = todo.pop()
            names: tuple[list[str], list[str]] = [], []
            try:
                for name, mode in self._entries(directory, follow_symlinks):
                    names[not stat.S_ISDIR(mode)].append(os.fsdecode(name))
            except OSError as error:
                if on_error is not None:
                    on_error(error)
                continue
            directories, others = names
            if top_down:
                yield to_path(directory), directories, others
            else:
                found.append((to_path(directory), directories, others))
            todo.extend(join(directory, os.fsencode(name)) for name in reversed(directories))
        yield from reversed(found)

    def glob(self, pattern: str, top: AnyPath = "/") -> Iterator[PurePosixPath]:
        """Yield the paths below *top* that match, sorted within each directory.

        ``*``, ``?`` and ``[…]`` match within a name, ``**`` any number of directories; what ends
        with a slash matches directories only. Names that begin with a dot are names like others.
        What can't be listed is left out.

        Raises: ValueError for a pattern that is empty or has ``..``.
        """
        return map(to_path, match(to_bytes(top), pattern, self._listable))

    def rglob(self, pattern: str, top: AnyPath = "/") -> Iterator[PurePosixPath]:
        """As `glob` of ``**/`` and *pattern*."""
        return self.glob(f"**/{pattern}", top)

    # --- below ---

    @contextmanager
    def _reading(self) -> "Iterator[Backend]":
        with self._lock:
            yield self._backend()

    @contextmanager
    def _writing(self) -> "Iterator[Backend]":
        """As `_reading`, of something that may be written."""
        with self._lock:
            yield self._backend()

    def _live_at(self) -> bytes | None:
        """Return the mountpoint, if that is where we read."""
        return None

    def _find(self, backend: "Backend", path: bytes, follow: bool) -> "tuple[bytes, NodeStat]":
        """Return where *path* leads, and what is there."""
        info = backend.lstat(path)
        if follow and stat.S_ISLNK(info.mode):
            try:
                steps = TreeSteps(backend)
                path = find(steps, path, last=True, live_at=self._live_at()).existing()
            except OSError as error:
                raise OSError(error.errno, error.strerror, str(to_path(path))) from None
            info = backend.lstat(path)
        return path, info

    def _mode(self, path: AnyPath, follow: bool) -> int | None:
        with self._reading() as backend:
            try:
                return self._find(backend, to_bytes(path), follow)[1].mode
            except OSError as error:
                if error.errno in _NOT_THERE:
                    return None
                raise

    def _names(self, backend: "Backend", path: bytes) -> list[bytes]:
        found, info = self._find(backend, path, True)
        if not stat.S_ISDIR(info.mode):
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(to_path(path)))
        return backend.listdir(found)

    def _entries(self, path: bytes, follow: bool = False) -> list[tuple[bytes, int]]:
        """Return a directory's names and modes; with *follow* those of what symlinks lead to."""
        found = []
        with self._reading() as backend:
            for name in self._names(backend, path):
                inner = join(path, name)
                try:
                    mode = backend.lstat(inner).mode
                except FileNotFoundError:
                    continue  # gone since it was listed
                if follow and stat.S_ISLNK(mode):
                    mode = self._mode(inner, True) or mode
                found.append((name, mode))
        return found

    def _listable(self, path: bytes) -> list[tuple[bytes, int]]:
        try:
            return self._entries(path)
        except OSError as error:
            if error.errno in (*_NOT_THERE, errno.EACCES):
                return []
            raise


def _stat_result(info: "NodeStat") -> os.stat_result:
    times = info.atime_ns, info.mtime_ns, info.ctime_ns
    return os.stat_result(
        (
            info.mode, info.ino, 0, info.nlink, info.uid, info.gid, info.size_bytes,
            *(ns // 10**9 for ns in times), *(ns / 10**9 for ns in times), *times,
        ),
        {
            "st_blksize": BLOCK_BYTES,
            "st_blocks": -(-info.allocated_bytes // _ST_BLOCK_BYTES),
            "st_rdev": info.rdev,
        },
    )  # fmt: skip
