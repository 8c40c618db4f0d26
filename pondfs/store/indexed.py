"""A trace that is asked often: an index for each question, not a look at all rows."""

import os
from collections import OrderedDict

import numpy as np
import pyarrow as pa

from pondfs.store.history import ints
from pondfs.store.image import Ints
from pondfs.store.trace import Key, Trace

NAMES_KEPT = 500_000
"""Names of directories looked at last that stay grouped: about 100 MB."""

_KEYS_KEPT = 20_000

Holders = tuple[list[int], list[int]]
"""As `Trace.holders` tells."""


class _Rows:
    """The rows of each value of a column, found without looking at all of them."""

    def __init__(self, values: Ints) -> None:
        self._order = np.argsort(values, kind="stable")
        self._sorted = values[self._order]

    def of(self, value: int) -> Ints:
        """Return the rows with *value*, ascending."""
        start, stop = self._sorted.searchsorted(value), self._sorted.searchsorted(value, "right")
        found: Ints = self._order[start:stop]
        return found


class IndexedTrace(Trace):
    """All rows of a pond, found by node, by directory and by name. One call at a time.

    Attributes:
        mode: of each row, 0 where it has no attributes; parallel to the columns of *rows*.
        times_us: when each version was committed.
    """

    def __init__(self, store: str | os.PathLike[str]) -> None:
        super().__init__(store)
        # It is kept for a while: whoever removes files meanwhile makes us begin anew.
        self.release()
        rows = self.rows
        if any(column.num_chunks > 1 for column in rows.table.columns):
            # Taking a few rows out of many chunks costs as much as looking at all of them.
            rows.table = rows.table.combine_chunks()
            self._scan = self._scan._replace(table=rows.table)
        self._by_node = _Rows(rows.node)
        self._named = np.flatnonzero(rows.has_name)
        self._by_part = _Rows(rows.part[self._named])
        self.mode = ints(rows.table, "mode")[rows.order]
        self._directories: OrderedDict[int, dict[bytes, Holders]] = OrderedDict()
        self._kept = 0
        times = rows.table["timestamp"].take(pa.array(self._commits)).cast(pa.int64())
        versions = rows.table["version"].take(pa.array(self._commits))
        self.times_us: dict[int, int] = dict(
            zip(versions.to_pylist(), times.to_pylist(), strict=True)
        )

    def about(self, node: int) -> Ints:
        """Return the rows about a node, oldest first."""
        return self._by_node.of(node)

    def keys(self, node: int) -> list[Key]:
        """Return every entry the node ever had, oldest first."""
        if len(self._keys) > _KEYS_KEPT:
            self._keys.clear()
        return super().keys(node)

    def holders(self, key: Key) -> Holders:
        """Return whose an entry was, and from when on. See `Trace.holders`."""
        return self.directory(key.part).get(key.name, ([], []))

    def directory(self, part: int) -> dict[bytes, Holders]:
        """Return all names a directory ever had, oldest first, each with its holders."""
        found = self._directories.get(part)
        if found is not None:
            self._directories.move_to_end(part)
            return found
        some = self._named[self._by_part.of(part)]
        nodes = np.where(self.rows.removed[some], 0, self.rows.node[some])
        found = {}
        for name, version, node in zip(
            self.names(some), self.version[some].tolist(), nodes.tolist(), strict=True
        ):
            versions, held = found.setdefault(name, ([], []))
            versions.append(version)
            held.append(node)
        self._directories[part] = found
        self._kept += len(found)
        while self._kept > NAMES_KEPT and len(self._directories) > 1:
            self._kept -= len(self._directories.popitem(last=False)[1])
        return found

    def last_attr(self, node: int) -> int:
        """Return the newest row with the node's attributes; -1 when there is none."""
        about = self.about(node)
        about = about[self.rows.has_attr[about]]
        return int(about[-1]) if len(about) else -1
