"""How a pond is held: what is read, where writes go, and when it is let go of."""

import errno
import os
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import PurePosixPath
from typing import IO, TYPE_CHECKING, Any, NamedTuple

from pondfs.api.mounted import MountedBackend
from pondfs.api.names import AnyPath
from pondfs.api.reach import find_mount, may_read_store
from pondfs.api.writing import WritableTree
from pondfs.control.reach import Place, load_versions, locate
from pondfs.errors import PondLocked, UsageError

if TYPE_CHECKING:
    from pondfs.api.backend import Backend
    from pondfs.api.stored import StoredBackend

MODES = ("r", "r+")

_LOOK_AGAIN_S = 0.02
"""How often a lock that somebody has is tried again."""


class _Seen(NamedTuple):
    log_ns: int
    lock_ns: int


class HeldTree(WritableTree):
    """A pond, live: through its mount if there is one, else its store. See `Pond`.

    Attributes:
        store: the directory of the pond.
        mode: ``r`` or ``r+``.
    """

    def __init__(
        self,
        where: str | os.PathLike[str] | None = None,
        mode: str = "r+",
        *,
        lock_timeout_s: float = 0.0,
    ) -> None:
        """See `pondfs.open`."""
        super().__init__()
        if mode not in MODES:
            raise ValueError(f"mode must be 'r' or 'r+', not {mode!r}")
        self._place: Place = locate(None if where is None else os.fspath(where), os.environ)
        may_read_store(self._place)
        self.store = self._place.store
        self.mode = mode
        self._lock_timeout_s = lock_timeout_s
        self._closed = False
        self._bursts = 0
        # Where writes go; a mount is read there, too.
        self._live: Backend | None = None
        self._stored: StoredBackend | None = None
        self._seen: _Seen | None = None
        self._in_transaction = False
        self._files: weakref.WeakSet[IO[Any]] = weakref.WeakSet()

    @property
    def mountpoint(self) -> PurePosixPath | None:
        """Where the pond is mounted, and so worked on; None when it is not."""
        mount = find_mount(self._place)
        return None if mount is None else PurePosixPath(mount.mountpoint)

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._closed

    def open(self, path: AnyPath, mode: str = "r", *args: Any, **kwargs: Any) -> IO[Any]:
        """Open a file. See `Tree.open`; `close` closes what is still open."""
        with self._lock:
            file = super().open(path, mode, *args, **kwargs)
            self._files.add(file)
            return file

    # --- the whole ---

    def close(self) -> None:
        """Close open files, commit what is pending if the pond is not mounted, and let go of it.

        Calling it twice is harmless.

        Raises: CommitFailed: the pond is as it was at the last commit then; UsageError in a
            transaction.
        """
        with self._lock:
            if self._is_inherited():
                self._live, self._in_transaction = None, False
                self._files.clear()
            if self._closed:
                return
            if self._in_transaction:
                raise UsageError("a transaction is open: end it before closing the pond")
            try:
                self._close_files()
            finally:
                self._closed = True
                try:
                    self._let_go()
                finally:
                    self._drop_stored()

    def __del__(self) -> None:
        # What is pending is lost, and the backend says so; but no lock stays.
        if getattr(self, "_stored", None) is not None:
            self._drop_stored()

    # --- below ---

    def _backend(self) -> "Backend":
        return self._open_backend(write=False)

    @contextmanager
    def _writing(self) -> "Iterator[Backend]":
        with self._lock:
            self._check_writable()
            yield self._open_backend(write=True)

    def _live_at(self) -> bytes | None:
        mountpoint = self.mountpoint
        return None if mountpoint is None else os.fsencode(mountpoint)

    def _check_open(self) -> None:
        if self._closed:
            raise ValueError("the pond is closed")

    def _check_writable(self) -> None:
        self._check_open()
        if self.mode == "r":
            raise OSError(errno.EROFS, "the pond was opened with mode='r'")

    def _open_backend(self, *, write: bool) -> "Backend":
        self._check_open()
        if self._live is not None:
            return self._live
        seen = self._look()
        if self._stored is not None and not write and seen and seen == self._seen:
            return self._stored
        if write:
            self._live = self._wait_for_lock(self._open_writer)
        elif (mount := find_mount(self._place)) is not None:
            self._live = MountedBackend(mount.mountpoint)
        if self._live is not None:
            self._drop_stored()
            return self._live
        self._seen = seen
        return self._newest()

    def _look(self) -> "_Seen | None":
        """Return what changes when the pond is mounted or gets a version; None while it is in use.

        Two stats, where the mount table takes much longer to read than a path to look up.
        """
        try:
            changed_ns = os.stat(self.store / "_delta_log").st_mtime_ns
            lock = os.stat(self.store / "_pond" / "lock")
        except OSError:  # no lock yet; or not our store, but mounted
            return None
        # Whoever takes the lock writes into the file, and empties it in the end.
        return None if lock.st_size else _Seen(changed_ns, lock.st_mtime_ns)

    def _open_writer(self) -> "Backend":
        from pondfs.api.unmounted import UnmountedBackend

        mount = find_mount(self._place)
        if mount is not None:
            return MountedBackend(mount.mountpoint)
        return UnmountedBackend(self.store)

    def _wait_for_lock(self, take: "Callable[[], Backend]") -> "Backend":
        deadline = time.monotonic() + self._lock_timeout_s
        while True:
            try:
                return take()
            except PondLocked:
                if time.monotonic() >= deadline:
                    raise
            time.sleep(_LOOK_AGAIN_S)

    def _newest(self) -> "StoredBackend":
        """Return the newest version as stored, also when another process has just made it."""
        from pondfs.api.stored import StoredBackend

        if (
            self._stored is not None
            and load_versions(self._place, 1)[0].version != self._stored.version
        ):
            self._drop_stored()
        if self._stored is None:
            self._stored = StoredBackend(self.store)
        return self._stored

    def _drop_stored(self) -> None:
        stored, self._stored = self._stored, None
        if stored is not None:
            stored.close()

    def _let_go(self, message: str = "") -> None:
        """Commit what is pending here, and be as after opening. Not in a transaction."""
        live, self._live = self._live, None
        if live is None:
            return
        try:
            if not isinstance(live, MountedBackend):
                live.commit(message)
        finally:
            live.discard()

    @contextmanager
    def _burst(self, message: str = "") -> Iterator[None]:
        """Let go of the pond after what is done inside: of one that is not mounted, it is one
        version then, or nothing if an exception leaves it. In a transaction, it is part of that.
        """
        with self._lock:
            # What was held before is not ours to let go of.
            is_ours = self._live is None and not self._bursts
            self._bursts += 1
            try:
                yield
            except BaseException:
                if is_ours and self._live is not None and not self._in_transaction:
                    self._live.discard()
                    self._live = None
                raise
            else:
                if is_ours and not self._in_transaction:
                    self._let_go(message)
            finally:
                self._bursts -= 1

    def _is_inherited(self) -> bool:
        """Whether the process that forked this one is writing, and will do all that is left."""
        from pondfs.api.unmounted import LocalBackend

        live: object = self._live
        return isinstance(live, LocalBackend) and not live.is_here

    def _close_files(self) -> None:
        with ExitStack() as each:
            # All of them, whatever becomes of one.
            for file in list(self._files):
                each.callback(file.close)
        self._files.clear()

    def _forget_files(self) -> None:
        """Close files whose tree is gone: what they hold back is nobody's any more."""
        for file in list(self._files):
            try:
                file.close()
            except OSError:
                pass
