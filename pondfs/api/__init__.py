"""Ponds for Python programs: `open`, and the fsspec filesystem ``pond://``.

- ``backend``: what is needed of a tree that can be changed; ``paths``: where a path leads in one
- ``mounted`` ``unmounted`` (``local``, ``loop``) ``transaction`` ``stored``: the backends
- ``names`` ``files`` ``copy``: paths as people write them, file objects, copying
- ``reading`` ``writing``: the methods that every tree has
- ``reach`` ``pond`` ``past``: which pond; a pond, live; a version of one
- ``fs``: fsspec

Importing the package costs a few milliseconds; trio and pyarrow come when a pond is opened.
"""

import os

from pondfs.api.past import PastPond
from pondfs.api.pond import Pond, Transaction, init

__all__ = ["PastPond", "Pond", "Transaction", "init", "open"]


def open(  # noqa: A001  as gzip.open
    store_or_mountpoint: str | os.PathLike[str] | None = None,
    mode: str = "r+",
    *,
    lock_timeout_s: float = 0.0,
) -> Pond:
    """Return a pond to work with; use it in a ``with``.

    Args:
        store_or_mountpoint: its store, or where it is mounted; None: ``$POND``, else the mount the
            working directory is in, else the default store.
        mode: ``r`` to read only, ``r+`` to write as well.
        lock_timeout_s: how long to wait for another writer of a pond that is not mounted.

    Raises: NotAPond; NotPermitted; UsageError.
    """
    return Pond(store_or_mountpoint, mode, lock_timeout_s=lock_timeout_s)
