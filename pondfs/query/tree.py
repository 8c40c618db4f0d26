"""The tree at one version as tables: nodes, names, extents.

They are made of the columns of an image, which mostly need not be copied. Only columns that are
asked for are made: paths, and ids as text, cost more than everything else.
"""

from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pondfs.node import FILE_TYPES, ROOT, Version
from pondfs.query.paths import Paths
from pondfs.query.pond import Pond, format_ids
from pondfs.store.image import Ints, TableImage

_TIME = pa.timestamp("ns", "UTC")

NODES = pa.schema(
    [
        pa.field("node_id", pa.string(), False),
        pa.field("part_id", pa.string(), False),
        pa.field("path", pa.string()),
        pa.field("path_bytes", pa.binary()),
        pa.field("name", pa.string()),
        pa.field("file_type", pa.string(), False),
        pa.field("mode", pa.int32(), False),
        pa.field("uid", pa.int64(), False),
        pa.field("gid", pa.int64(), False),
        pa.field("nlink", pa.int32(), False),
        pa.field("rdev", pa.int64(), False),
        pa.field("size", pa.int64(), False),
        pa.field("allocated", pa.int64(), False),
        pa.field("atime", _TIME, False),
        pa.field("mtime", _TIME, False),
        pa.field("ctime", _TIME, False),
        pa.field("target", pa.string()),
        pa.field("metadata", pa.string()),
    ]
)

ENTRIES = pa.schema(
    [
        pa.field("part_id", pa.string(), False),
        pa.field("name", pa.string(), False),
        pa.field("name_bytes", pa.binary()),
        pa.field("node_id", pa.string(), False),
        pa.field("file_type", pa.string(), False),
        pa.field("path", pa.string()),
        pa.field("path_bytes", pa.binary()),
    ]
)

EXTENTS = pa.schema(
    [
        pa.field("node_id", pa.string(), False),
        pa.field("path", pa.string()),
        pa.field("offset", pa.int64(), False),
        pa.field("length", pa.int64(), False),
        pa.field("data_file", pa.string()),
        pa.field("row", pa.int64()),
        pa.field("skip", pa.int64(), False),
        pa.field("position", pa.int64()),
    ]
)

_TYPE_SHIFT = 12  # S_IFMT's bits are 12 to 15
_TYPE_NAMES = pa.array([FILE_TYPES.get(number << _TYPE_SHIFT) for number in range(16)], pa.string())


class TreeTables:
    """The tables of one version; None is the newest, with what is pending."""

    def __init__(self, pond: Pond, version: Version | None) -> None:
        self._pond = pond
        self._version = version

    def nodes(self, columns: frozenset[str]) -> pa.Table:
        """Return one row for each node. Raises: NoSuchVersion, StoreDamaged."""
        return self._made.table(NODES, columns, "node")

    def entries(self, columns: frozenset[str]) -> pa.Table:
        """Return one row for each name. Raises: as `nodes`."""
        return self._made.table(ENTRIES, columns, "entry")

    def extents(self, columns: frozenset[str]) -> pa.Table:
        """Return one row for each run of bytes of each file. Raises: as `nodes`."""
        return self._made.table(EXTENTS, columns, "extent")

    @cached_property
    def _made(self) -> "_Made":
        return _Made(self._pond.image(self._version))


class _Made:
    """Arrow columns made of an image's, each by a method called after its table and itself."""

    def __init__(self, image: TableImage) -> None:
        self._columns = image.columns
        self._files = image.places[0]
        root = image.find_place(ROOT)
        self._root = root
        self._paths = Paths(image.columns, root)

    def table(self, schema: pa.Schema, columns: frozenset[str], kind: str) -> pa.Table:
        count = {
            "node": len(self._columns.ids),
            "entry": len(self._columns.entry_dirs),
            "extent": len(self._columns.extent_nodes),
        }[kind]
        fields = [field for field in schema if field.name in columns]
        if not fields:
            return pa.table({"": pa.nulls(count)}).select([])
        arrays = [self._array(f"{kind}_{field.name}", field.type) for field in fields]
        return pa.Table.from_arrays(arrays, schema=pa.schema(fields))

    def _array(self, name: str, kind: pa.DataType) -> Any:
        made = getattr(self, f"_{name}", None)
        column = self._plain(name) if made is None else made()
        if isinstance(column, np.ndarray):
            column = pa.array(column)
        return column if column.type == kind else column.cast(kind)

    def _plain(self, name: str) -> Ints:
        """Return a column that the image has under this name, a node's under the bare one."""
        values: Ints = getattr(self._columns, name.removeprefix("node_"))
        return values

    # --- nodes ---

    @cached_property
    def _first(self) -> pa.Array:
        """The entry of each node: of several the first by the bytes of their paths; null: none."""
        nodes = self._columns.entry_nodes
        first = np.full(len(self._columns.ids), -1, np.int64)
        first[nodes] = np.arange(len(nodes))
        several = np.flatnonzero((np.bincount(nodes, minlength=len(first)) > 1)[nodes])
        if len(several):
            at = pa.array(several)
            paths = pc.coalesce(
                self._paths.bytes.take(at), self._paths.text.take(at).cast(pa.binary())
            ).to_pylist()
            # What is assigned last counts.
            order = sorted(range(len(several)), key=lambda i: paths[i] or b"", reverse=True)
            first[nodes[several[order]]] = several[order]
        return pa.array(first, mask=first < 0)

    def _node_node_id(self) -> pa.Array:
        return format_ids(self._columns.ids)

    def _node_part_id(self) -> pa.Array:
        c = self._columns
        parts = pa.array(c.entry_dirs.astype(np.int64)).take(self._first)
        # What has no name is where it had one; the root is in itself.
        places = pc.coalesce(parts, pa.array(c.parents.astype(np.int64))).to_numpy()
        return format_ids(c.ids[places])

    def _node_path(self) -> Any:
        is_root = pa.array(np.arange(len(self._columns.ids)) == self._root)
        return pc.if_else(is_root, "/", self._paths.text.take(self._first))

    def _node_path_bytes(self) -> Any:
        return self._paths.bytes.take(self._first)

    def _node_name(self) -> pa.Array:
        return self._paths.names.take(self._first)

    def _node_file_type(self) -> pa.Array:
        return _file_types(self._columns.mode)

    def _node_atime(self) -> pa.Array:
        return _times(self._columns.atime_ns)

    def _node_mtime(self) -> pa.Array:
        return _times(self._columns.mtime_ns)

    def _node_ctime(self) -> pa.Array:
        return _times(self._columns.ctime_ns)

    def _node_target(self) -> pa.Array:
        targets = self._columns.targets
        texts = [target.decode("utf-8", "replace") for target in targets.values()]
        return self._sparse(list(targets), texts)

    def _node_metadata(self) -> pa.Array:
        metadata = self._columns.metadata
        return self._sparse(list(metadata), list(metadata.values()))

    def _sparse(self, places: list[int], texts: list[str]) -> pa.Array:
        """Return a column of the nodes with *texts* at *places*, null elsewhere."""
        at = np.full(len(self._columns.ids), -1, np.int64)
        at[places] = np.arange(len(places))
        return pa.array(texts, pa.string()).take(pa.array(at, mask=at < 0))

    # --- entries ---

    def _entry_part_id(self) -> pa.Array:
        return format_ids(self._columns.ids[self._columns.entry_dirs])

    def _entry_name(self) -> pa.Array:
        return self._paths.names

    def _entry_name_bytes(self) -> pa.Array:
        return self._paths.name_bytes

    def _entry_node_id(self) -> pa.Array:
        return format_ids(self._columns.ids[self._columns.entry_nodes])

    def _entry_file_type(self) -> pa.Array:
        return _file_types(self._columns.mode[self._columns.entry_nodes])

    def _entry_path(self) -> Any:
        return self._paths.text

    def _entry_path_bytes(self) -> Any:
        return self._paths.bytes

    # --- extents ---

    def _extent_node_id(self) -> pa.Array:
        return format_ids(self._columns.ids[self._columns.extent_nodes])

    def _extent_path(self) -> Any:
        return self._node_path().take(pa.array(self._columns.extent_nodes))

    def _extent_data_file(self) -> pa.Array:
        # What is pending lies in a file without a name.
        names = pa.array([file.name or None for file in self._files], pa.string())
        return names.take(pa.array(self._columns.extent_file))

    def _extent_row(self) -> pa.Array:
        row = pa.array(self._columns.extent_row.astype(np.int64))
        return pc.if_else(self._extent_data_file().is_valid(), row, None)

    def _extent_position(self) -> pa.Array:
        c = self._columns
        position = c.extent_position.astype(np.int64)
        return pa.array(position + c.extent_skip, mask=position < 0)


def _file_types(mode: Ints) -> pa.Array:
    return _TYPE_NAMES.take(pa.array(mode >> _TYPE_SHIFT & 15))


def _times(times_ns: Ints) -> pa.Array:
    return pa.array(times_ns.astype(np.int64)).view(_TIME)
