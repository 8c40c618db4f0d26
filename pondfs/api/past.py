"""`PastPond`: the tree as it was."""

import os
from typing import TYPE_CHECKING

from pondfs.api.reach import may_read_store, query
from pondfs.api.stored import StoredBackend
from pondfs.api.writing import WritableTree
from pondfs.control.reach import Place
from pondfs.errors import NotPermitted

if TYPE_CHECKING:
    import pyarrow as pa

    from pondfs.api.backend import Backend
    from pondfs.node import Version


class PastPond(WritableTree):
    """One version of a pond, to read. Made by `Pond.at`; to write anything is OSError EROFS.

    It is read from the store, whether the pond is mounted or not.

    Attributes:
        version: which.
    """

    def __init__(self, place: Place, version: "Version") -> None:
        """Open *version*. See `Pond.at`."""
        super().__init__()
        if not may_read_store(place):
            raise NotPermitted(
                f"{place.store} is not readable: look into .pond/at/{version} of the mount instead"
            )
        self.version = version
        self._place = place
        self._tree: StoredBackend | None = StoredBackend(place.store, version)

    def __repr__(self) -> str:
        return f"<PastPond {os.fspath(self._place.store)!r} version {self.version}>"

    def sql(self, text: str) -> "pa.Table":
        """Return what a query answers, as a pyarrow Table, as of this version. See `Pond.sql`."""
        return query(self._place, text, self.version)

    def close(self) -> None:
        """Let go of it; files that are open can still be read. Calling it twice is harmless."""
        with self._lock:
            if self._tree is not None:
                self._tree.close()
                self._tree = None

    def __del__(self) -> None:
        if getattr(self, "_tree", None) is not None:
            self.close()

    def _backend(self) -> "Backend":
        if self._tree is None:
            raise ValueError("the pond is closed")
        return self._tree
