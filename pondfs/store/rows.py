"""Rows to Arrow: column by column, because a commit may have one row or a hundred thousand.

Measured 2026-11 on 2 cores: 0.1 ms for one row (every fsync pays it), 0.25 s for 100,000.
"""

import json
import stat
from collections.abc import Sequence
from dataclasses import fields
from typing import Any

import numpy as np
import pyarrow as pa

from pondfs.entry import encode_name
from pondfs.node import FILE_TYPES, ROOT, Version
from pondfs.oplog import Cut, Row, Summary
from pondfs.store.schema import SCHEMA

_TYPES = {field.name: field.type for field in SCHEMA}
_ATTR_COLUMNS = (
    "mode", "uid", "gid", "nlink", "rdev", "size", "atime_ns", "mtime_ns", "ctime_ns",
)  # fmt: skip
_NO_ATTR = (None,) * len(_ATTR_COLUMNS)
_HEX_DIGITS = 16
_SUMMARY_FIELDS = [field.name for field in fields(Summary)]


def commit_row(cut: Cut) -> Row:
    """Return the row that ends the version: who, why and how much, on the root."""
    metadata = json.dumps(summary_facts(cut.summary), ensure_ascii=False, separators=(",", ":"))
    return Row("commit", cut.time_ns, ROOT, ROOT, stat.S_IFDIR, metadata=metadata)


def summary_facts(summary: Summary) -> dict[str, Any]:
    """Return the summary as the commit row and the log entry carry it."""
    return {name: getattr(summary, name) for name in _SUMMARY_FIELDS}


def to_batch(version: Version, first_seq: int, rows: Sequence[Row]) -> pa.RecordBatch:
    """Return *rows* as the table's columns, in their order.

    Shape: as `schema.SCHEMA`; ``seq`` counts up from *first_seq*.
    """
    count = len(rows)
    ops, times, parts, nodes, modes, names, removed, attrs, below, metadata, offsets, contents = (
        zip(*rows, strict=True)
    )
    columns: dict[str, Any] = {
        "version": pa.array(np.full(count, version, np.int64)),
        "seq": pa.array(np.arange(first_seq, first_seq + count, dtype=np.int32)),
        "timestamp": pa.array(np.array(times, np.int64) // 1000).view(_TYPES["timestamp"]),
        "op": pa.array(ops, pa.string()),
        "part_id": hex_ids(parts),
        "node_id": hex_ids(nodes),
        "file_type": pa.array([FILE_TYPES[stat.S_IFMT(mode)] for mode in modes], pa.string()),
        "removed": pa.array(removed, pa.bool_()),
        "valid_below": pa.array(below, pa.int64()),
        "metadata": pa.array(metadata, pa.string()),
        "offset": pa.array(
            [None if c is None else o for o, c in zip(offsets, contents, strict=True)], pa.int64()
        ),
        "length": pa.array([None if c is None else c.length for c in contents], pa.int64()),
        "content": pa.array([b"" if c is None else c.data for c in contents], pa.binary()),
    }
    columns["name"], columns["name_bytes"] = _names(names)
    values = zip(*[_NO_ATTR if attr is None else attr for attr in attrs], strict=True)
    for name, column in zip(_ATTR_COLUMNS, values, strict=True):
        columns[name] = pa.array(column, _TYPES[name])
    return pa.RecordBatch.from_arrays([columns[name] for name in SCHEMA.names], schema=SCHEMA)


def hex_ids(ids: Sequence[int]) -> pa.StringArray:
    """Return node ids as 16 hex digits each, without a Python string per id."""
    digits = np.array(ids, dtype=">i8").tobytes().hex().encode("ascii")
    ends = np.arange(0, len(digits) + 1, _HEX_DIGITS, dtype=np.int32)
    return pa.StringArray.from_buffers(len(ids), pa.py_buffer(ends), pa.py_buffer(digits))


def _names(names: Sequence[bytes | None]) -> tuple[pa.Array, pa.Array]:
    try:
        # The cast checks for UTF-8 in bulk; nearly always all of them are.
        return pa.array(names, pa.binary()).cast(pa.string()), pa.nulls(len(names), pa.binary())
    except pa.ArrowInvalid:
        pairs = [(None, None) if name is None else encode_name(name) for name in names]
        return (
            pa.array([text for text, _ in pairs], pa.string()),
            pa.array([raw for _, raw in pairs], pa.binary()),
        )
