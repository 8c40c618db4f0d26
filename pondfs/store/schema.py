"""The table's columns: what each means, its unit, and what stands there when there is nothing.

One flat row per change. The comments below travel with the table (Delta field metadata), so that
someone who meets it in another engine years from now can read it.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import pyarrow as pa

if TYPE_CHECKING:
    from deltalake import Schema


@dataclass(frozen=True, slots=True)
class Column:
    """One column: its Arrow type, its name for Delta, and what it means."""

    name: str
    arrow: pa.DataType
    delta: str
    nullable: bool
    comment: str


_INT64 = (pa.int64(), "long")
_INT32 = (pa.int32(), "integer")
_STRING = (pa.string(), "string")
_BINARY = (pa.binary(), "binary")

COLUMNS = (
    Column("version", *_INT64, False, "pond version that wrote the row: 1, 2, 3 ..."),
    Column("seq", *_INT32, False, "order inside the version; (version, seq) is a total order"),
    Column(
        "timestamp", pa.timestamp("us", "UTC"), "timestamp", False, "when the operation happened"
    ),
    Column(
        "op",
        *_STRING,
        False,
        "create, update, link, unlink, rename, extent, commit; touch: only times moved, as names "
        "in the directory changed or the file was read",
    ),
    Column(
        "part_id",
        *_STRING,
        False,
        "16 hex digits: a directory's own id on its own row, else the directory the node is in",
    ),
    Column("node_id", *_STRING, False, "16 hex digits: the node the row is about; root is 1"),
    Column(
        "file_type",
        *_STRING,
        False,
        "file, directory, symlink, fifo, socket, block, char",
    ),
    Column(
        "name",
        *_STRING,
        True,
        "set when the row says something about entry (part_id, name); null otherwise. "
        "U+FFFD stands for bytes that are not UTF-8",
    ),
    Column(
        "name_bytes",
        *_BINARY,
        True,
        "the name's true bytes; only set when the name is not UTF-8",
    ),
    Column(
        "removed",
        pa.bool_(),
        "boolean",
        False,
        "with a name: the entry is gone; without: the node is gone",
    ),
    # The nine below are all set (the node's attributes after this version) or all null.
    Column("mode", *_INT32, True, "st_mode: type and permission bits"),
    Column("uid", *_INT64, True, "owner"),
    Column("gid", *_INT64, True, "group"),
    Column("nlink", *_INT32, True, "number of names; a directory: 2 + its subdirectories"),
    Column("rdev", *_INT64, True, "device number of block and char nodes, else 0"),
    Column("size", *_INT64, True, "bytes; of a symlink, of its target"),
    Column("atime_ns", *_INT64, True, "last access, nanoseconds since 1970 UTC"),
    Column("mtime_ns", *_INT64, True, "last change of content, nanoseconds since 1970 UTC"),
    Column("ctime_ns", *_INT64, True, "last change of the node, nanoseconds since 1970 UTC"),
    Column(
        "valid_below",
        *_INT64,
        True,
        "bytes of extents earlier than this row count only below this offset (the smallest size "
        "the file had); null: all of them count",
    ),
    Column("metadata", *_STRING, True, "JSON: xattrs; on commit rows who, why and how much"),
    Column("offset", *_INT64, True, "where content lies in the file; null without content"),
    Column(
        "length",
        *_INT64,
        True,
        "bytes of content on this row; null (never 0) on rows that carry none",
    ),
    # Never null, so that a page holds nothing but length-prefixed values: `pages.py` counts on it.
    Column("content", *_BINARY, False, "file bytes, or a symlink's target; empty without content"),
)

SCHEMA = pa.schema([pa.field(c.name, c.arrow, c.nullable) for c in COLUMNS])
"""The Arrow schema of every data file we write."""

CONTENT = "content"
CONTENT_INDEX = len(COLUMNS) - 1

STATISTICS = ("version", "timestamp", "part_id", "node_id")
"""Columns that get Parquet statistics and Delta file statistics. Others would only cost bytes:
nobody skips files by uid. (Data files of earlier days have none of `timestamp`.)"""


def delta_schema() -> "Schema":
    """Return the schema as delta-rs wants it, with the comments."""
    from deltalake import Field, Schema
    from deltalake.schema import PrimitiveType

    return Schema(
        [
            Field(
                c.name, PrimitiveType(c.delta), nullable=c.nullable, metadata={"comment": c.comment}
            )
            for c in COLUMNS
        ]
    )
