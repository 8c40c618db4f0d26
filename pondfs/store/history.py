"""All rows in the order of time, as numpy columns."""

from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pondfs.errors import StoreDamaged
from pondfs.node import Version
from pondfs.store.image import Ints
from pondfs.store.scan import Scan

_HEX_DIGITS = 16


class Places(NamedTuple):
    """Where nodes are among those of an image that is being made; -1 where they are not.

    Attributes:
        of_row: each row's node.
        of_base: each node of the image that the rows are laid over.
    """

    of_row: Ints
    of_base: Ints


class History:
    """The rows as numpy columns, in the order of (version, seq).

    Only columns every row needs are taken out here; the rest by `take`, for the rows that count.
    """

    def __init__(self, scan: Scan, up_to: Version | None) -> None:
        table = scan.table
        version = ints(table, "version")
        is_commit = pc.equal(table["op"], "commit").to_numpy()
        commits = version[is_commit]
        if up_to is not None:
            commits = commits[commits <= up_to]
        if not len(commits):
            raise StoreDamaged("the table holds no commit of this pond")
        self.newest = Version(int(commits.max()))
        seq = ints(table, "seq")
        order = np.flatnonzero((version <= self.newest) & ~is_commit)
        version, seq = version[order], seq[order]
        later = (version[1:] > version[:-1]) | (
            (version[1:] == version[:-1]) & (seq[1:] >= seq[:-1])
        )
        if not later.all():
            order = order[np.lexsort((seq, version))]
        elif len(order) == table.num_rows:
            order = np.arange(table.num_rows)
        self.table = table
        self.order = order
        self.count = len(order)
        self.file = scan.file[order]
        self.row = scan.row[order]
        self.position = scan.position[order]
        self.part = node_ids(table, "part_id")[order]
        self.node = node_ids(table, "node_id")[order]
        self.removed = table["removed"].to_numpy()[order]
        self.has_name = pc.is_valid(table["name"]).to_numpy()[order]
        self.has_attr = pc.is_valid(table["mode"]).to_numpy()[order]
        self.has_content = pc.is_valid(table["length"]).to_numpy()[order]

    def take(self, name: str, rows: Ints) -> Ints:
        """Return an integer column's values for *rows*, 0 where null."""
        return ints(self.table, name)[self.order[rows]]

    def arrow(self, name: str, rows: Ints) -> pa.Array:
        """Return a column's values for *rows*."""
        return self.table[name].take(pa.array(self.order[rows])).combine_chunks()


def ints(table: pa.Table, name: str, null: int = 0) -> Ints:
    """Return an integer column, with *null* where there is nothing."""
    column = table[name]
    if column.null_count:
        column = column.fill_null(null)
    values: Ints = column.to_numpy()
    return values


def node_ids(table: pa.Table, name: str) -> Ints:
    """Turn 16 hex digits each into numbers, without a Python string per row."""
    column = table[name].combine_chunks()
    count = len(column)
    if not count:
        return np.empty(0, np.int64)
    ends = np.frombuffer(column.buffers()[1], np.int32)[column.offset : column.offset + count + 1]
    start, stop = int(ends[0]), int(ends[-1])
    if stop - start != count * _HEX_DIGITS or (np.diff(ends) != _HEX_DIGITS).any():
        raise StoreDamaged(f"column {name} holds something that is no node id")
    digits = memoryview(column.buffers()[2])[start:stop]
    try:
        raw = bytes.fromhex(str(digits, "ascii"))
    except ValueError:
        raw = b""
    # fromhex passes over spaces, so it may also come out short.
    if len(raw) != count * 8:
        raise StoreDamaged(f"column {name} holds something that is no node id")
    return np.frombuffer(raw, ">i8").astype(np.int64)


def last_of(*keys: Ints) -> Ints:
    """Return, sorted by *keys* (the first counts most), the place of each group's last row."""
    order = np.lexsort(keys[::-1])
    if not len(order):
        return order
    differs = np.zeros(len(order), bool)
    differs[-1] = True
    for key in keys:
        ordered = key[order]
        differs[:-1] |= ordered[1:] != ordered[:-1]
    return order[differs]


def places_of(ids: Ints, wanted: Ints) -> Ints:
    """Return the place of each wanted id in the sorted *ids*; -1 where it is not."""
    if not len(ids):
        return np.full(len(wanted), -1, np.int64)
    places = np.minimum(ids.searchsorted(wanted), len(ids) - 1)
    found: Ints = np.where(ids[places] == wanted, places, -1)
    return found
