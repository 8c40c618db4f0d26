"""Rows as Arrow tables have them, and back: for caches, the journal, and what is written anew.

Content has its own ways; here a row says only where it lies in the file and how long it is.
"""

from collections.abc import Iterator

import pyarrow as pa

from pondfs.entry import encode_name
from pondfs.node import FILE_TYPES, format_node_id
from pondfs.oplog import Row
from pondfs.store.history import node_ids
from pondfs.store.rows import ATTRIBUTES

_NO_ATTR = (None,) * len(ATTRIBUTES)
_KINDS = {name: kind for kind, name in FILE_TYPES.items()}


def record_of(version: int, seq: int, row: Row) -> tuple[object, ...]:
    """Return the row's values for `scan.FOLD_COLUMNS`, in their order."""
    # Not the content itself: it holds its bytes until the committer has settled it.
    length = None if row.content is None else row.content.length
    return (
        version, seq, row.time_ns // 1000, row.op,
        format_node_id(row.part), format_node_id(row.node),
        *((None, None) if row.name is None else encode_name(row.name)),
        row.removed, *(row.attr or _NO_ATTR), row.valid_below, row.metadata,
        None if length is None else row.offset, length,
    )  # fmt: skip


def decode(table: pa.Table) -> Iterator[Row]:
    """Yield the rows of a table without their content: of one with all columns but that."""
    columns = {name: table[name] for name in table.column_names}
    times = columns.pop("timestamp").cast(pa.int64())
    lists = {name: column.to_pylist() for name, column in columns.items()}
    attrs = list(zip(*(lists[name] for name in ATTRIBUTES), strict=True))
    parts, nodes = node_ids(table, "part_id").tolist(), node_ids(table, "node_id").tolist()
    for at, time_us in enumerate(times.to_pylist()):
        raw, name = lists["name_bytes"][at], lists["name"][at]
        attr = attrs[at]
        has_attr = attr[0] is not None
        yield Row(
            lists["op"][at],
            time_us * 1000,
            parts[at],
            nodes[at],
            _KINDS[lists["file_type"][at]],
            raw if raw is not None else None if name is None else name.encode(),
            lists["removed"][at],
            attr if has_attr else None,
            lists["valid_below"][at],
            lists["metadata"][at],
            lists["offset"][at],
        )
