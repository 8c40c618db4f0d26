"""What ``pond prune`` and ``pond compact`` have in common: new data files in the place of old ones.

They are written here, beside the daemon if there is one; it is then asked to put them in place.
"""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from pondfs.cli.output import progress
from pondfs.control.client import Client
from pondfs.errors import DaemonGone, DaemonRefused

if TYPE_CHECKING:
    from pondfs.store import DeltaStore
    from pondfs.store.request import Rewritten


@contextlib.contextmanager
def alone(path: Path) -> Iterator[None]:
    """Keep other rewrites off, and wait for one that is under way: the daemon's own, say."""
    from pondfs.store.lock import rewriting

    with contextlib.ExitStack() as stack:
        with progress("waiting for another rewrite"):
            stack.enter_context(rewriting(os.fspath(path / "_pond"), wait=True))
        yield


@contextlib.contextmanager
def open_store(path: Path) -> "Iterator[DeltaStore]":
    """Hold the pond open for writing: one that is not mounted. Raises: PondLocked."""
    from pondfs.store import open_writer

    store = open_writer(path, mountpoint="", socket="")
    try:
        yield store
    finally:
        store.close()


@contextlib.contextmanager
def reading(path: Path, store: "DeltaStore | None") -> Iterator[None]:
    """Let no data file go meanwhile; *store* is what we have open for writing."""
    from pondfs.store.lock import ReaderLock

    # As the writer we would wait for ourselves later.
    lock = None if store is not None else ReaderLock(os.fspath(path / "_pond"))
    try:
        yield
    finally:
        if lock is not None:
            lock.release()


def swap(
    path: Path, rewritten: "Rewritten", store: "DeltaStore | None", client: Client | None
) -> int:
    """Put the new files in the place of the old ones; returns the bytes the old ones had.

    0 while somebody reads them.
    """
    from pondfs.store.prune_swap import is_done
    from pondfs.store.request import discard

    # Of a daemon that was asked, its no alone says that it will not put them in place: not that
    # it hung up, and not that we were interrupted. They are in use then, or strays, which go by
    # themselves.
    refusals = BaseException if store is not None else DaemonRefused
    try:
        if store is not None:
            store.swap_files(rewritten.request)
            store.remove_pruned(now=True)
            removed = store.removed_bytes
        else:
            assert client is not None
            reply = client.call("prune", timeout_s=None, request=rewritten.request)
            if "removed_bytes" not in reply:
                # The farewell of a daemon that ends: it may have done it or not.
                raise DaemonGone("the pond was unmounted meanwhile: run the command again")
            removed = int(reply["removed_bytes"])
    except refusals:
        if not is_done(os.fspath(path), rewritten.files):
            discard(os.fspath(path), rewritten)
        raise
    with contextlib.suppress(OSError):
        os.unlink(path / "_pond" / rewritten.request)
    return removed
