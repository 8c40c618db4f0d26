"""Rows that are in no data file yet, beside those that are: to compare with what is pending."""

import numpy as np
import pyarrow as pa

from pondfs.entry import encode_name
from pondfs.node import format_node_id
from pondfs.oplog import Preview
from pondfs.store.scan import Scan
from pondfs.store.schema import SCHEMA

_ATTRIBUTES = (
    "mode", "uid", "gid", "nlink", "rdev", "size", "atime_ns", "mtime_ns", "ctime_ns",
)  # fmt: skip


def with_preview(scan: Scan, preview: Preview) -> Scan:
    """Return *scan* with the rows of a coming version behind it, its commit row included."""
    records = []
    for seq, row in enumerate(preview.rows):
        record = {
            "version": preview.version,
            "seq": seq,
            "timestamp": 0,
            "op": row.op,
            "part_id": format_node_id(row.part),
            "node_id": format_node_id(row.node),
            "removed": row.removed,
            "metadata": row.metadata,
        }
        if row.name is not None:
            record["name"], record["name_bytes"] = encode_name(row.name)
        if row.attr is not None:
            record.update(zip(_ATTRIBUTES, row.attr, strict=True))
        records.append(record)
    end = {"version": preview.version, "seq": len(records), "timestamp": 0, "op": "commit"}
    root = format_node_id(1)
    records.append({**end, "part_id": root, "node_id": root, "removed": False})
    schema = pa.schema([SCHEMA.field(name) for name in scan.table.column_names])
    table = pa.Table.from_pylist(records, schema=schema)
    count = len(records)
    return Scan(
        pa.concat_tables([scan.table, table]),
        # In no file: nobody may ask for their bytes.
        np.append(scan.file, np.full(count, -1, scan.file.dtype)),
        np.append(scan.row, np.arange(count, dtype=scan.row.dtype)),
        np.append(scan.position, np.full(count, -1, scan.position.dtype)),
    )
