"""`PondFileSystem`: ponds for fsspec, and so for pandas, Polars, DuckDB, pyarrow and Dask."""

import errno
import os
import shutil
import stat
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from datetime import UTC, datetime
from functools import partial, wraps
from typing import IO, Any, ClassVar, TypeVar, cast

from fsspec import AbstractFileSystem  # type: ignore[import-untyped]
from fsspec.utils import stringify_path  # type: ignore[import-untyped]

from pondfs.api.files import BUFFER_BYTES
from pondfs.api.fs_writes import PondTransaction, Upload
from pondfs.api.past import PastPond
from pondfs.api.pond import Pond
from pondfs.api.reach import When

LOCK_TIMEOUT_S = 10.0
"""How long a call waits for another writer of a pond that is not mounted: bursts are short."""

_HOW = {"r": "", "w": "wb", "x": "xb", "a": "ab", "+w": "wb", "+x": "xb", "+r": "wb"}
"""How a file opened in a mode is written in the end."""

F = TypeVar("F", bound=Callable[..., Any])


def _burst(method: F) -> F:
    """Make one call one version, and let go of the pond after it."""

    @wraps(method)
    def call(self: "PondFileSystem", *args: Any, **kwargs: Any) -> Any:
        with self._at_work(f"fsspec: {method.__name__}"):
            return method(self, *args, **kwargs)

    return cast(F, call)


class PondFileSystem(AbstractFileSystem):  # type: ignore[misc]
    """The files of a pond, mounted or not: ``pond:///sensors/a.csv``.

    A file that is written appears when it is closed, whole. Of a pond that is not mounted, every
    call that changes something, and every file that was written, is a version of its own, durable
    on return, or nothing if it fails; a call on many files (``put``, ``rm``, ``cp``, ``pipe``) is
    one version. So nothing is pending between calls, and the lock is free: others may mount it, or
    write as well. ``with fs.transaction`` makes one version of many calls. On a mounted pond
    what is written is committed by the mount, when it is time or at once by ``commit``.

    Instances are cached by fsspec, and safe in threads.

    Attributes:
        pond: what is behind it: a `Pond`, or with *at* a `PastPond`.
    """

    protocol = "pond"
    root_marker = "/"
    cachable = True
    transaction_type: ClassVar[type] = PondTransaction

    def __init__(
        self,
        store: str | os.PathLike[str] | None = None,
        pond: str | os.PathLike[str] | None = None,
        at: When | None = None,
        auto_mkdir: bool = False,
        lock_timeout_s: float = LOCK_TIMEOUT_S,
        **storage_options: Any,
    ) -> None:
        """Open a pond when it is first used.

        Args:
            store: its store or mountpoint; None: as `pondfs.open` finds one.
            pond: another name for *store*.
            at: the version to show, as `Pond.at` takes it; read-only.
            auto_mkdir: make missing directories above what is written.
            lock_timeout_s: how long to wait for another writer of a pond that is not mounted.
            storage_options: fsspec's own.
        """
        # A listing kept would not show what others write, and looking costs little here.
        super().__init__(**{**storage_options, "use_listings_cache": False})
        self.auto_mkdir = auto_mkdir
        self._where = store if store is not None else pond
        self._at = at
        self._lock_timeout_s = lock_timeout_s
        self._opened: tuple[str | None, Pond | PastPond] | None = None

    @property
    def fsid(self) -> str:
        """What kind of filesystem it is."""
        return "pond"

    @property
    def pond(self) -> Pond | PastPond:
        """What is behind it."""
        # The instance outlives the environment it was made in.
        named = os.environ.get("POND") if self._where is None else None
        if self._opened is None or self._opened[0] != named:
            live = Pond(self._where, lock_timeout_s=self._lock_timeout_s)
            self._opened = named, live if self._at is None else live.at(self._at)
        return self._opened[1]

    @classmethod
    def _strip_protocol(cls, path: Any) -> Any:
        if isinstance(path, list):
            return [cls._strip_protocol(one) for one in path]
        text: str = stringify_path(path)
        text = text.removeprefix("pond:")
        return "/" + "/".join(part for part in text.split("/") if part not in ("", "."))

    # --- looking ---

    @_burst
    def info(self, path: str, **_: Any) -> dict[str, Any]:
        """Return what is at *path*; of a symlink, what it leads to, if that is in the pond."""
        return self._info(self._strip_protocol(path), follow=True)

    @_burst
    def ls(self, path: str, detail: bool = True, **_: Any) -> list[Any]:
        """Return what is in a directory, sorted; for a file, the file.

        A symlink to a directory is ``other`` here, so that walks do not go round in circles.
        """
        path = self._strip_protocol(path)
        top = self._info(path, follow=True)
        if top["type"] != "directory":
            return [top if detail else path]
        names = [self._below(path, name) for name in self.pond.listdir(path)]
        return [self._info(name, follow=False) for name in names] if detail else names

    @_burst
    def find(self, *args: Any, **kwargs: Any) -> Any:
        """Return all files below a path. See `AbstractFileSystem.find`."""
        return super().find(*args, **kwargs)

    @_burst
    def glob(self, *args: Any, **kwargs: Any) -> Any:
        """Return what matches a pattern. See `AbstractFileSystem.glob`."""
        return super().glob(*args, **kwargs)

    @_burst
    def lexists(self, path: str, **_: Any) -> bool:
        """Return whether anything is there, a symlink that leads nowhere included."""
        return self.pond.exists(self._strip_protocol(path), follow_symlinks=False)

    @_burst
    def islink(self, path: str) -> bool:
        """Return whether it is a symlink."""
        return self.pond.is_symlink(self._strip_protocol(path))

    def created(self, path: str) -> datetime:
        """Return when the file's attributes last changed: files have no time of birth."""
        return datetime.fromtimestamp(self.info(path)["created"], UTC)

    def modified(self, path: str) -> datetime:
        """Return when the file's bytes last changed."""
        return datetime.fromtimestamp(self.info(path)["mtime"], UTC)

    # --- files ---

    def _open(
        self, path: str, mode: str = "rb", block_size: int | None = None, **_: Any
    ) -> IO[bytes]:
        mode = "".join(sorted(set(mode) - {"b", "t"}))
        if mode not in _HOW:
            raise ValueError(f"mode {mode!r} is not supported: open the file with Pond.open")
        with self._at_work():
            if mode == "r":
                return self.pond.open(path, "rb", block_size or BUFFER_BYTES)
            self._check_target(path, new="x" in mode)
            upload = Upload(path, partial(self._store, _HOW[mode]))
            if mode == "+r":
                with self.pond.open(path, "rb") as source:
                    shutil.copyfileobj(source, upload, BUFFER_BYTES)
                upload.seek(0)
            return upload

    def _store(self, how: str, upload: Upload) -> None:
        with self._at_work(f"fsspec: write {upload.path}"):
            self._make_parent(upload.path)
            with self._writable().open(upload.path, how, 0) as target:
                shutil.copyfileobj(upload, target, BUFFER_BYTES)

    def _check_target(self, path: str, *, new: bool) -> None:
        """Refuse what could not be written later: that shall show before the work is done."""
        pond = self._writable()
        parent = self._parent(path)
        wrong = 0
        if pond.is_dir(path):
            wrong = errno.EISDIR
        elif new and pond.exists(path, follow_symlinks=False):
            wrong = errno.EEXIST
        elif not self.auto_mkdir and not pond.is_dir(parent):
            wrong = errno.ENOTDIR if pond.exists(parent) else errno.ENOENT
        if wrong:
            raise OSError(wrong, os.strerror(wrong), path)

    @_burst
    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **_: Any) -> None:
        """Make *value* all of a file; with *mode* ``create`` it must not be there."""
        path = self._strip_protocol(path)
        self._make_parent(path)
        with self._writable().open(path, "xb" if mode == "create" else "wb", 0) as file:
            file.write(value)

    @_burst
    def put_file(
        self, lpath: Any, rpath: str, callback: Any = None, mode: str = "overwrite", **_: Any
    ) -> None:
        """Copy a file of this machine into the pond."""
        rpath = self._strip_protocol(rpath)
        if os.path.isdir(lpath):
            self.makedirs(rpath, exist_ok=True)
            return
        self.makedirs(self._parent(rpath), exist_ok=True)
        pond = self._writable()
        with (
            open(lpath, "rb") as source,
            pond.open(rpath, "xb" if mode == "create" else "wb", 0) as target,
        ):
            if callback is not None:
                callback.set_size(os.fstat(source.fileno()).st_size)
            while data := source.read(BUFFER_BYTES):
                target.write(data)
                if callback is not None:
                    callback.relative_update(len(data))

    @_burst
    def cp_file(self, path1: str, path2: str, **_: Any) -> None:
        """Copy a file within the pond, or make the directory."""
        path1, path2 = self._strip_protocol(path1), self._strip_protocol(path2)
        pond = self._writable()
        if pond.is_dir(path1):
            self.makedirs(path2, exist_ok=True)
            return
        self._make_parent(path2)
        pond.copy(path1, path2)

    @_burst
    def touch(self, path: str, truncate: bool = True, **_: Any) -> None:
        """Make an empty file; with *truncate* empty it, else set its times."""
        path = self._strip_protocol(path)
        self._make_parent(path)
        if truncate:
            self._writable().write_bytes(path, b"")
        else:
            self._writable().touch(path)

    # --- names ---

    @_burst
    def mkdir(self, path: str, create_parents: bool = True, **_: Any) -> None:
        """Make a directory. Raises: FileExistsError."""
        self._writable().mkdir(self._strip_protocol(path), parents=create_parents)

    @_burst
    def makedirs(self, path: str, exist_ok: bool = False) -> None:
        """Make a directory and what is missing above it. Raises: FileExistsError."""
        self._writable().mkdir(self._strip_protocol(path), parents=True, exist_ok=exist_ok)

    @_burst
    def rmdir(self, path: str) -> None:
        """Remove an empty directory."""
        self._writable().rmdir(self._strip_protocol(path))

    @_burst
    def rm_file(self, path: str) -> None:
        """Remove a file, or a symlink."""
        self._writable().unlink(self._strip_protocol(path))

    def _rm(self, path: str) -> None:
        self.rm_file(path)

    @_burst
    def rm(self, path: Any, recursive: bool = False, maxdepth: int | None = None) -> None:
        """Remove files, and with *recursive* directories; patterns are understood.

        Raises: FileNotFoundError; IsADirectoryError without *recursive*.
        """
        pond = self._writable()
        deep = recursive and maxdepth is None
        # What is below a directory goes with it, unless only some of it is to go.
        for one in reversed(
            self.expand_path(path, recursive=recursive and not deep, maxdepth=maxdepth)
        ):
            if not pond.is_dir(one, follow_symlinks=False):
                pond.unlink(one)
            elif deep:
                pond.rmtree(one)
            elif recursive:
                pond.rmdir(one)
            else:
                why = "is a directory: say recursive=True to remove it"
                raise IsADirectoryError(errno.EISDIR, why, one)

    @_burst
    def mv(
        self,
        path1: Any,
        path2: Any,
        recursive: bool = False,
        maxdepth: int | None = None,
        **kwargs: Any,
    ) -> None:
        """Move within the pond, a single path by a rename: into *path2* if that is a directory."""
        many = not isinstance(path1, str | os.PathLike) or not isinstance(path2, str | os.PathLike)
        if many or maxdepth is not None or any(c in os.fspath(path1) for c in "*?["):
            self.copy(path1, path2, recursive=recursive, maxdepth=maxdepth, on_error="raise")
            self.rm(path1, recursive=recursive, maxdepth=maxdepth)
            return
        pond = self._writable()
        into = os.fspath(path2).endswith("/")
        old, new = self._strip_protocol(path1), self._strip_protocol(path2)
        if into or pond.is_dir(new):
            new = self._below(new, old.rpartition("/")[2])
        self._make_parent(new)
        pond.rename(old, new)

    @_burst
    def link(self, src: str, dst: str, **_: Any) -> None:
        """Make *dst* another name of the file *src*."""
        self._writable().hardlink_to(self._strip_protocol(dst), self._strip_protocol(src))

    @_burst
    def symlink(self, src: str, dst: str, **_: Any) -> None:
        """Make *dst* a symlink with the text *src*."""
        self._writable().symlink_to(self._strip_protocol(dst), src)

    # --- many at once ---

    @_burst
    def put(self, *args: Any, **kwargs: Any) -> Any:
        """Copy files of this machine into the pond. See `AbstractFileSystem.put`."""
        return super().put(*args, **kwargs)

    @_burst
    def get(self, *args: Any, **kwargs: Any) -> Any:
        """Copy files of the pond to this machine. See `AbstractFileSystem.get`."""
        return super().get(*args, **kwargs)

    @_burst
    def copy(self, *args: Any, **kwargs: Any) -> Any:
        """Copy within the pond. See `AbstractFileSystem.copy`."""
        return super().copy(*args, **kwargs)

    @_burst
    def pipe(self, *args: Any, **kwargs: Any) -> Any:
        """Write whole files. See `AbstractFileSystem.pipe`."""
        return super().pipe(*args, **kwargs)

    # --- versions ---

    def commit(self, message: str = "") -> int | None:
        """Make what is pending on a mounted pond one version, now. See `Pond.commit`."""
        with self._at_work():
            return self._writable().commit(message)

    # --- below ---

    def _at_work(self, message: str = "") -> AbstractContextManager[None]:
        pond = self.pond
        return pond._burst(message) if isinstance(pond, Pond) else nullcontext()

    def _writable(self) -> Pond:
        pond = self.pond
        if isinstance(pond, PastPond):
            raise OSError(errno.EROFS, f"version {pond.version} can't be changed")
        return pond

    def _make_parent(self, path: str) -> None:
        if self.auto_mkdir:
            self._writable().mkdir(self._parent(path), parents=True, exist_ok=True)

    def _below(self, directory: str, name: str) -> str:
        return f"{directory.removesuffix('/')}/{name}"

    def _info(self, path: str, *, follow: bool) -> dict[str, Any]:
        found = self.pond.lstat(path)
        is_link = stat.S_ISLNK(found.st_mode)
        kind = _type(found.st_mode)
        info: dict[str, Any] = {"name": path, "islink": is_link}
        if is_link:
            info["destination"] = self.pond.readlink(path)
            if self.pond.exists(path):
                found = self.pond.stat(path)
                kind = _type(found.st_mode)
                if kind == "directory" and not follow:
                    kind = "other"
        return {
            **info,
            "type": kind,
            "size": found.st_size if kind == "file" else 0,
            "created": found.st_ctime,
            "mtime": found.st_mtime,
            "mode": found.st_mode,
            "uid": found.st_uid,
            "gid": found.st_gid,
            "ino": found.st_ino,
            "nlink": found.st_nlink,
        }


def _type(mode: int) -> str:
    if stat.S_ISDIR(mode):
        return "directory"
    return "file" if stat.S_ISREG(mode) else "link" if stat.S_ISLNK(mode) else "other"
