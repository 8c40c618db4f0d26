"""A trace of one path: of all rows only those that can say anything about it.

Ordering a million rows, and turning their ids into numbers, takes half a second; looking for a few
names and ids in them takes 20 ms each time.
"""

import os
from collections.abc import Iterable, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pondfs.entry import encode_name
from pondfs.node import ROOT, Version, format_node_id
from pondfs.store.content import DataFile
from pondfs.store.image import Ints
from pondfs.store.scan import Scan
from pondfs.store.trace import Trace

_ROOT_ID = format_node_id(ROOT)


class PathTrace(Trace):
    """The rows about whatever *path* ever led to.

    Those of the directories it led through, and of all that ever had one of the names of these, are
    among them; so everything that `Trace` tells of the path is the same.
    """

    def __init__(
        self,
        store: str | os.PathLike[str],
        path: Sequence[bytes],
        up_to: Version | None = None,
        files: list[DataFile] | None = None,
    ) -> None:
        """As `Trace`, for *path*."""
        self._path = path
        super().__init__(store, up_to, files=files)

    def _choose(self, scan: Scan) -> Scan:
        rows = _Search(scan.table).around([encode_name(name)[0] for name in self._path])
        return Scan(
            scan.table.take(pa.array(rows)), scan.file[rows], scan.row[rows], scan.position[rows]
        )


class _Search:
    """Looks for rows by the ids and names that stand in them, as text."""

    def __init__(self, table: pa.Table) -> None:
        self._keys = table.select(["part_id", "name", "node_id"])
        self._chosen: Ints = pc.equal(table["op"], "commit").to_numpy()
        # The rows that have one of some names, and those names.
        self._named = np.empty(0, np.int64)
        self._names: set[str] = set()

    def around(self, path: Sequence[str]) -> Ints:
        """Return the rows about whatever had this path, and the ``commit`` rows."""
        self._look_up(path)
        level, known = {_ROOT_ID}, {_ROOT_ID}
        todo: set[str] = set()
        for name in path:
            _, level = self._entries(level, {name})
            todo |= level
        while todo := todo - known:
            known |= todo
            about = np.flatnonzero(_is_in(self._keys["node_id"], todo))
            self._chosen[about] = True
            keys = self._keys.take(pa.array(about)).drop_null()
            parts, names = (_unique(keys[name]) for name in ("part_id", "name"))
            self._look_up(names)
            # With several parts and names these are more than the entries: more than is needed.
            rows, rivals = self._entries(parts, names)
            self._chosen[rows] = True
            todo = rivals | parts
        return np.flatnonzero(self._chosen)

    def _look_up(self, names: Iterable[str]) -> None:
        new = set(names) - self._names
        if new:
            found = np.flatnonzero(_is_in(self._keys["name"], new))
            self._named = np.union1d(self._named, found)
            self._names |= new

    def _entries(self, parts: set[str], names: set[str]) -> tuple[Ints, set[str]]:
        """Return the rows about entries of these names in these directories, and their nodes."""
        some = self._keys.take(pa.array(self._named))
        here = _is_in(some["part_id"], parts) & _is_in(some["name"], names)
        return self._named[here], _unique(some["node_id"].filter(pa.array(here)))


def _is_in(column: pa.ChunkedArray, values: set[str]) -> Ints:
    found: Ints = pc.is_in(column, pa.array(values, pa.string())).to_numpy()
    return found


def _unique(column: pa.ChunkedArray) -> set[str]:
    return set(pc.unique(column).to_pylist())
