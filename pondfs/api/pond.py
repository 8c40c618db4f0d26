"""`Pond`: a pond to read and write, mounted or not."""

import os
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING, Any, cast

from pondfs.api.hold import HeldTree
from pondfs.api.mounted import MountedBackend
from pondfs.api.names import AnyPath, to_names
from pondfs.api.reach import When, find_mount, load_pending, query, resolve_version
from pondfs.control.reach import load_changes, load_history, load_tags, load_versions
from pondfs.errors import UsageError

if TYPE_CHECKING:
    import pyarrow as pa

    from pondfs.api.backend import Backend
    from pondfs.api.past import PastPond
    from pondfs.api.unmounted import LocalBackend
    from pondfs.change import Change, Event
    from pondfs.node import Version
    from pondfs.oplog import VersionInfo


def init(store: str | os.PathLike[str]) -> None:
    """Make an empty pond in the directory *store*, which is empty or not there.

    Durability: all of it on return.
    Raises: PondExists; OSError.
    """
    from pondfs.options import parse_store
    from pondfs.store import create

    create(parse_store(os.fspath(store)))


class Transaction:
    """What `Pond.transaction` gives.

    Attributes:
        message: goes into the log; may be set until the end.
        version: the version it became, once it is over; None when it changed nothing.
    """

    def __init__(self, message: str) -> None:
        self.message = message
        self.version: Version | None = None


class Pond(HeldTree):
    """A pond, live: what is pending included. Made by `pondfs.open`; use it in a ``with``.

    A mounted pond is worked on through its mount, with the permissions there; it is as busy for
    ``pond umount`` as with a shell that stands in it. One that is not mounted is read from its
    store without a lock; the first write takes the writer's lock and keeps it until `close`, which
    commits.

    Attributes:
        store: the directory of the pond.
        mode: ``r`` or ``r+``.
    """

    _files_outside: "weakref.WeakSet[IO[Any]]"

    def __repr__(self) -> str:
        return f"<Pond {os.fspath(self.store)!r}{' closed' if self._closed else ''}>"

    # --- versions ---

    def commit(self, message: str = "") -> "Version | None":
        """Make everything pending one version; None when nothing was pending.

        What an open file object still holds back (`flush`) is not in it. Of a mounted pond it is
        what everybody wrote.

        Durability: it is durable on return.
        Raises: CommitFailed; DaemonGone; UsageError in a transaction, which is one version.
        """
        with self._lock:
            self._check_writable()
            if self._in_transaction:
                raise UsageError("a transaction is one version: it is committed at its end")
            if self._live is None and find_mount(self._place) is None:
                return None
            return self._open_backend(write=True).commit(message)

    @contextmanager
    def transaction(self, message: str = "") -> Iterator[Transaction]:
        """Make what is done inside one version, or nothing if an exception leaves it.

        What this pond is asked meanwhile, by any thread, is part of it and sees it; nobody else
        does before the end. Files opened inside are closed then. What was pending on a pond that
        is not mounted becomes a version of its own before.

        Durability: it is durable on return.
        Raises: UsageError for one within another, or while files are open for writing, or any of
            a tree that goes with what was pending; PondLocked; CommitFailed; Conflict when others
            changed the same on a mount.
        """
        current = Transaction(message)
        self._begin()
        try:
            yield current
        except BaseException:
            self._end(current, commit=False)
            raise
        self._end(current, commit=True)

    def _begin(self) -> None:
        with self._lock:
            self._check_writable()
            if self._in_transaction:
                raise UsageError("a transaction is open already: end it before the next")
            # Of a tree of our own the open files go with it; of a mount they just stay.
            is_ours = self._live is not None and not isinstance(self._live, MountedBackend)
            if any(file.writable() or is_ours for file in self._files if not file.closed):
                raise UsageError("files are open: close them before a transaction")
            self._let_go()
            self._live = self._wait_for_lock(self._begin_backend)
            self._in_transaction = True
            self._files_outside, self._files = self._files, weakref.WeakSet()

    def _begin_backend(self) -> "Backend":
        from pondfs.api.transaction import begin

        return begin(self.store, find_mount(self._place))

    def _end(self, current: Transaction, *, commit: bool) -> None:
        with self._lock:
            live = self._live
            assert live is not None
            try:
                if commit:
                    self._close_files()
                    current.version = live.commit(current.message)
                live.discard()
            except BaseException:
                live.discard()
                raise
            finally:
                self._forget_files()
                self._live, self._in_transaction = None, False
                self._files = self._files_outside

    @property
    def version(self) -> "Version":
        """The newest version. Raises: NotAPond; StoreDamaged."""
        return self.log(1)[0].version

    @property
    def tags(self) -> "dict[str, Version]":
        """The tags, sorted by name, and the versions they keep."""
        return load_tags(self._place)

    def log(self, limit: int | None = None) -> "list[VersionInfo]":
        """Return the newest *limit* versions (all when None), newest first."""
        return load_versions(self._place, limit)

    def at(self, when: When) -> "PastPond":
        """Return the tree as it was, to read.

        Args:
            when: a version's number, a time, or text as ``--at`` takes it: ``10m-ago``,
                ``2026-06-20``, a tag.
        Raises: NoSuchVersion; NotPermitted for who may not read the store; StoreDamaged.
        """
        from pondfs.api.past import PastPond

        return PastPond(self._place, resolve_version(self._place, when))

    def changes(self, old: When, new: When = "latest", path: AnyPath = "/") -> "list[Change]":
        """Return what is different in version *new*, at *path* or below, sorted by path.

        Raises: NoSuchVersion; NoSuchPath when neither has *path*; StoreDamaged.
        """
        versions = [resolve_version(self._place, when) for when in (old, new)]
        return load_changes(self._place, versions[0], versions[1], to_names(path))

    def history(self, path: AnyPath) -> "list[Event]":
        """Return what committed versions did to a file, newest first, through its renames.

        Raises: NoSuchPath when no version has it; UsageError for a directory; StoreDamaged.
        """
        return load_history(self._place, to_names(path))

    # --- SQL ---

    def sql(self, text: str, *, at: When | None = None, pending: bool = False) -> "pa.Table":
        """Return what a query answers, as a pyarrow Table. See docs/reference/sql.md.

        Args:
            text: one SELECT.
            at: the version that ``nodes``, ``read`` and files show; None: now.
            pending: with what is not committed yet.
        Raises: UsageError for SQL that is wrong or does more than read; NoSuchVersion;
            StoreDamaged.
        """
        version = None if at is None else resolve_version(self._place, at)
        rows, live = None, None
        if pending and version is None:
            with self._reading() as backend:
                if isinstance(backend, MountedBackend):
                    rows, live = load_pending(self._place, backend.mount), backend.mount.mountpoint
                elif self._live is not None:
                    rows = cast("LocalBackend", backend).pending(self.store)
        return query(self._place, text, version, rows, live)
