"""The folded state of the tree at one version, in columns.

Nodes are sorted by id, entries by directory, extents by (node, offset); entries and extents refer
to nodes by their place in the node columns. Integers stand in the narrowest type that holds them,
so that a million nodes with one name and one extent each take about 100 MB.
"""

import mmap
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pondfs.entry import NAME_MAX
from pondfs.extent import Content, Extent
from pondfs.interfaces import StoredNode
from pondfs.node import NodeId, Version
from pondfs.oplog import AttrRow
from pondfs.store.content import DataFile

Ints = NDArray[Any]

ATTRS = ("mode", "uid", "gid", "nlink", "rdev", "size", "atime_ns", "mtime_ns", "ctime_ns")
"""The columns of a node's attributes, in the order of `oplog.AttrRow`."""


MANY_LOOKS = 4096
"""Nodes looked for in a mapped image before the map is emptied. Each look maps 64 KiB of every
column, and numbers are random: after a few hundred all of it counts as the process's memory (45 MB
for a million nodes). It stays in the page cache; having it back costs 3 ms."""


def narrow(values: Ints) -> Ints:
    """Return *values* in the narrowest integer type that holds them all."""
    if not len(values):
        return values.astype(np.uint8)
    low, high = int(values.min()), int(values.max())
    for kind in (np.uint8, np.uint16, np.uint32) if low >= 0 else (np.int8, np.int16, np.int32):
        if np.iinfo(kind).min <= low and high <= np.iinfo(kind).max:
            return values.astype(kind)
    return values


class Blob:
    """Bytes that are mapped into memory; slices of it are bytes."""

    def __init__(self, data: Any) -> None:
        self.view = memoryview(data)

    def __getitem__(self, part: slice) -> bytes:
        return bytes(self.view[part])

    def __len__(self) -> int:
        return len(self.view)


@dataclass(slots=True)
class Columns:
    """What an image holds.

    Shape: ``ids``, the attributes and ``parents`` are parallel, sorted by id. ``entry_*`` are
    parallel, sorted by directory; ``name_ends`` has one more, starting with 0: entry *i* is named
    ``names[name_ends[i]:name_ends[i + 1]]``. ``extent_*`` are parallel, sorted by (node, offset),
    and do not overlap. ``entry_dirs``, ``entry_nodes``, ``parents`` and ``extent_nodes`` are
    places in ``ids``. ``allocated`` is the sum of a node's extents. ``targets`` and ``metadata``
    are by place, only for nodes that have one.
    """

    ids: Ints
    mode: Ints
    uid: Ints
    gid: Ints
    nlink: Ints
    rdev: Ints
    size: Ints
    atime_ns: Ints
    mtime_ns: Ints
    ctime_ns: Ints
    allocated: Ints
    parents: Ints
    entry_dirs: Ints
    entry_nodes: Ints
    names: bytes | Blob
    name_ends: Ints
    extent_nodes: Ints
    extent_offset: Ints
    extent_length: Ints
    extent_skip: Ints
    extent_file: Ints
    extent_row: Ints
    extent_position: Ints
    extent_content_length: Ints
    targets: dict[int, bytes]
    metadata: dict[int, str]

    def entry_span(self, place: int) -> tuple[int, int]:
        """Return the half-open range of a directory's entries."""
        return _span(self.entry_dirs, place)

    def name_array(self) -> pa.Array:
        """Return the entries' names, without a copy of their bytes."""
        ends = pa.py_buffer(self.name_ends.astype(np.int32))
        data = self.names if isinstance(self.names, bytes) else self.names.view
        buffers = [None, ends, pa.py_buffer(data)]
        return pa.Array.from_buffers(pa.binary(), len(self.entry_dirs), buffers)

    def narrow(self) -> "Columns":
        """Return the same with every integer column but the ids in its narrowest type."""
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, np.ndarray) and field.name != "ids":
                setattr(self, field.name, narrow(value))
        return self


def split_names(names: pa.Array) -> dict[str, Any]:
    """Return the columns that hold *names*."""
    ends = np.frombuffer(names.buffers()[1], np.int32)[names.offset : names.offset + len(names) + 1]
    blob = names.buffers()[2]
    data = bytes(memoryview(blob)[int(ends[0]) : int(ends[-1])]) if blob is not None else b""
    return {"names": data, "name_ends": ends - ends[0]}


_SLASH, _DOT = b"/."


def are_names(data: bytes | Blob, ends: Ints) -> bool:
    """Return whether all of these can be names in a directory.

    The kernel lets no ``..`` and no ``a/b`` be made, but whoever wrote the table may not have gone
    through it: such a name would lead a copy out of where it is made. 3 ms for a million.

    Shape: as ``names`` and ``name_ends`` of `Columns`, which rise.
    """
    raw = np.frombuffer(data if isinstance(data, bytes) else data.view, np.uint8)
    raw = raw[: int(ends[-1])]
    length = np.diff(ends)
    if (raw == _SLASH).any() or (raw == 0).any():
        return False
    if len(length) and (length.min() < 1 or length.max() > NAME_MAX):
        return False
    # `.` and `..` are what begins and ends with a dot and is that short.
    short = np.flatnonzero(length <= 2)
    first, last = ends[short].astype(np.int64), ends[short + 1].astype(np.int64) - 1
    return not ((raw[first] == _DOT) & (raw[last] == _DOT)).any()


_NONE = np.empty(0, np.int64)

EMPTY = Columns(
    **{
        field.name: _NONE
        for field in fields(Columns)
        if field.name not in ("names", "name_ends", "targets", "metadata")
    },
    names=b"",
    name_ends=np.zeros(1, np.int64),
    targets={},
    metadata={},
)
"""What there is before the first version."""


class TableImage:
    """An image over columns. Implements `interfaces.Image`."""

    def __init__(
        self,
        version: Version,
        columns: Columns,
        files: list[DataFile],
        mapped: mmap.mmap | None = None,
    ) -> None:
        self.version = version
        self.node_count = len(columns.ids)
        self.is_mapped = mapped is not None
        self._mapped = mapped
        self._looks = 0
        self._columns = columns
        self._files = files
        c = columns
        self._attr = (
            c.mode, c.uid, c.gid, c.nlink, c.rdev, c.size, c.atime_ns, c.mtime_ns, c.ctime_ns,
        )  # fmt: skip

    @property
    def nbytes(self) -> int:
        """Memory the columns take."""
        return sum(
            value.nbytes if isinstance(value, np.ndarray) else len(value)
            for value in (getattr(self._columns, field.name) for field in fields(Columns))
        )

    def moved(self, files: list[DataFile], file: Ints, row: Ints, position: Ints) -> "TableImage":
        """Return the same tree with its bytes in other places.

        Shape: *file*, *row* and *position* are parallel to the ``extent_*`` columns; *file* counts
        in *files*.
        """
        columns = replace(
            self._columns,
            extent_file=narrow(file),
            extent_row=narrow(row),
            extent_position=narrow(position),
        )
        return TableImage(self.version, columns, files)

    def release(self) -> None:
        """Count no memory that is only mapped. See `interfaces.Tree.release`."""
        if self._mapped is not None and self._looks:
            self._looks = 0
            self._mapped.madvise(mmap.MADV_DONTNEED)

    @property
    def columns(self) -> Columns:
        """The columns: not to be changed."""
        return self._columns

    @property
    def places(self) -> tuple[list[DataFile], Ints, Ints, Ints]:
        """Where the bytes are: what `moved` takes."""
        c = self._columns
        return self._files, c.extent_file, c.extent_row, c.extent_position

    def node_ids(self) -> list[int]:
        """Return all node ids, ascending."""
        ids: list[int] = self._columns.ids.tolist()
        return ids

    def find_node(self, node_id: NodeId) -> StoredNode | None:
        """Return the node, or None when this version does not have it."""
        place = self._find(node_id)
        return None if place < 0 else self._node(place, self._columns.parents.item(place))

    def node_at(self, place: int) -> tuple[NodeId, StoredNode, int]:
        """Return the node with that number, its id, and its parent's number. Raises: IndexError."""
        parent = self._columns.parents.item(place)
        return NodeId(self._columns.ids.item(place)), self._node(place, parent), parent

    def _node(self, place: int, parent: int) -> StoredNode:
        columns = self._columns
        attr: AttrRow = tuple([column.item(place) for column in self._attr])
        return StoredNode(
            attr,
            columns.ids.item(parent),
            columns.targets.get(place),
            columns.metadata.get(place),
            columns.allocated.item(place),
        )

    def find_place(self, node_id: NodeId) -> int:
        """Return the node's number among this version's nodes, from 0; -1 if it is not there."""
        return self._find(node_id)

    def find_parents(self, node_id: NodeId) -> list[NodeId]:
        """Return every directory with an entry for the node. Looks at all entries."""
        place = self._find(node_id)
        if place < 0:
            return []
        c = self._columns
        if place > np.iinfo(c.entry_nodes.dtype).max:
            return []
        found = c.entry_dirs[c.entry_nodes == c.entry_nodes.dtype.type(place)]
        return [NodeId(node) for node in np.unique(c.ids[found]).tolist()]

    def load_entries(self, directory: NodeId) -> dict[bytes, NodeId]:
        """Return the directory's entries; empty for an empty or unknown directory."""
        place = self._find(directory)
        return {} if place < 0 else self._entries(place, self._columns.ids)

    def entries_at(self, place: int) -> dict[bytes, int]:
        """Return the entries of the directory with that number, each with its node's number."""
        return self._entries(place, None)

    def _entries(self, place: int, numbers: Ints | None) -> dict[bytes, Any]:
        columns = self._columns
        start, stop = _span(columns.entry_dirs, place)
        if start == stop:
            return {}
        ends = columns.name_ends[start : stop + 1].tolist()
        names = columns.names
        places = columns.entry_nodes[start:stop]
        nodes = (places if numbers is None else numbers[places]).tolist()
        return {
            names[ends[i] : ends[i + 1]]: node for i, node in enumerate(nodes)
        }  # fmt: skip

    def load_extents(self, node_id: NodeId) -> list[Extent]:
        """Return the file's extents, sorted, not overlapping, within its size."""
        place = self._find(node_id)
        if place < 0:
            return []
        c = self._columns
        start, stop = _span(c.extent_nodes, place)
        part = slice(start, stop)
        extents: list[Extent] = []
        # Pieces of one row share one content, so that it is located once.
        contents: dict[tuple[int, int], Content] = {}
        for offset, length, skip, file, row, position, content_length in zip(
            c.extent_offset[part].tolist(),
            c.extent_length[part].tolist(),
            c.extent_skip[part].tolist(),
            c.extent_file[part].tolist(),
            c.extent_row[part].tolist(),
            c.extent_position[part].tolist(),
            c.extent_content_length[part].tolist(),
            strict=True,
        ):
            content = contents.get((file, row))
            if content is None:
                content = contents[file, row] = Content.stored(
                    self._files[file], row, content_length
                )
                content.position = position
            extents.append(Extent(offset, length, content, skip))
        return extents

    def _find(self, node_id: int) -> int:
        self._looks += 1
        if self._looks > MANY_LOOKS:
            self.release()
        ids = self._columns.ids
        place = int(ids.searchsorted(node_id))
        return place if place < len(ids) and ids[place] == node_id else -1


def _span(sorted_places: Ints, place: int) -> tuple[int, int]:
    """Return the half-open range of *place* in a sorted column."""
    kind = sorted_places.dtype.type
    most = np.iinfo(kind).max
    if place > most:
        return len(sorted_places), len(sorted_places)
    # In the column's own type: numpy would widen the whole column for a plain int.
    start = int(sorted_places.searchsorted(kind(place)))
    if place == most:
        return start, len(sorted_places)
    return start, int(sorted_places.searchsorted(kind(place + 1)))
