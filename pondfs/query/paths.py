"""Paths of all names in a tree, level by level: a directory's path once, not once for each file."""

from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pondfs.store.image import Columns, Ints

_CHUNK_ROWS = 1 << 20
"""Paths in one array at most, as an array of text holds 2 GiB."""

_TYPE_BITS, _DIRECTORY = 0o170000, 0o040000


class Paths:
    """The names in a tree, and where they are. Paths begin with a slash.

    Attributes:
        raw: the names' bytes, parallel to the image's entries.
    """

    def __init__(self, columns: Columns, root: int) -> None:
        """Look at an image; *root* is the place of its root."""
        self.raw: pa.Array = columns.name_array()
        self._parents = columns.entry_dirs
        self._nodes = columns.entry_nodes
        self._is_directory = (columns.mode & _TYPE_BITS) == _DIRECTORY
        self._root = root

    @cached_property
    def names(self) -> pa.Array:
        """The names as text."""
        return as_text(self.raw)

    @cached_property
    def text(self) -> pa.ChunkedArray:
        """The paths as text; null where nothing leads from the root to an entry."""
        return self._join(self.names, pa.string())

    @cached_property
    def bytes(self) -> pa.ChunkedArray:
        """The bytes of those paths that are not UTF-8, null for the others."""
        if self.names.equals(_view(self.raw, pa.string())):
            return pa.chunked_array([pa.nulls(len(self.raw), pa.binary())])
        raw = self._join(self.raw, pa.binary())
        return pc.if_else(pc.equal(raw, self.text.cast(pa.binary())), None, raw)

    @cached_property
    def name_bytes(self) -> pa.Array:
        """The bytes of those names that are not UTF-8, null for the others."""
        return pc.if_else(pc.equal(self.raw, self.names.cast(pa.binary())), None, self.raw)

    @cached_property
    def _levels(self) -> list[tuple[Ints, Ints]]:
        """For each level, from the root's: its directories' entries, and where in the level above
        each has its own directory.
        """
        some = np.flatnonzero(self._is_directory[self._nodes])
        parents, nodes = self._parents[some], self._nodes[some].astype(np.int64)
        level = np.array([self._root])
        found: list[tuple[Ints, Ints]] = []
        while len(level):
            # In the column's own type: numpy would widen the whole column for another.
            wanted = level.astype(parents.dtype)
            start = parents.searchsorted(wanted)
            count = parents.searchsorted(wanted, "right") - start
            above = np.repeat(np.arange(len(level)), count)
            inside = np.arange(len(above)) - np.repeat(np.cumsum(count) - count, count)
            at = start[above] + inside
            level = nodes[at]
            if len(level):
                found.append((some[at], above))
        return found

    def _join(self, names: pa.Array, kind: pa.DataType) -> pa.ChunkedArray:
        slash = pa.scalar("/").cast(kind)
        level = pa.array([""], pa.string()).cast(kind)
        known, places = [level], [np.array([self._root])]
        for entries, above in self._levels:
            level = pc.binary_join_element_wise(
                level.take(pa.array(above)), names.take(pa.array(entries)), slash
            )
            known.append(level)
            places.append(self._nodes[entries])
        directories = pa.chunked_array(known, kind).combine_chunks()
        number = np.full(len(self._is_directory), -1, np.int64)
        number[np.concatenate(places)] = np.arange(len(directories))
        above = number[self._parents]
        chunks = []
        for start in range(0, len(above), _CHUNK_ROWS):
            part = above[start : start + _CHUNK_ROWS]
            chunks.append(
                pc.binary_join_element_wise(
                    directories.take(pa.array(part, mask=part < 0)),
                    names.slice(start, _CHUNK_ROWS),
                    slash,
                )
            )
        return pa.chunked_array(chunks, kind)


def as_text(names: pa.Array) -> pa.Array:
    """Return bytes as text, U+FFFD for what is not UTF-8."""
    text = _view(names, pa.string())
    try:
        text.validate(full=True)
    except pa.ArrowInvalid:
        return pa.array([name.decode("utf-8", "replace") for name in names.to_pylist()])
    return text


def _view(names: pa.Array, kind: pa.DataType) -> pa.Array:
    return pa.Array.from_buffers(kind, len(names), names.buffers(), offset=names.offset)
