"""Rows that are in no data file yet, as the data file would have them.

They go through the same encoder as a commit's, so they can't say anything else.
"""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pondfs.errors import StoreDamaged
from pondfs.node import FILE_TYPES, Version
from pondfs.oplog import Cut, Preview, Row, Summary
from pondfs.store.content import DataFile
from pondfs.store.datafile import row_groups
from pondfs.store.parquet import ParquetWriter, Part
from pondfs.store.rows import ATTRIBUTES, commit_row, encode
from pondfs.store.scan import Scan
from pondfs.store.schema import CONTENT, SCHEMA
from pondfs.store.table import is_ours


def to_table(version: Version, first_seq: int, rows: Sequence[Row]) -> pa.Table:
    """Return *rows*, of which there is at least one, as the table has them."""
    parts: list[Part] = []
    writer = ParquetWriter(parts.extend)
    writer.write_group(len(rows), encode(version, first_seq, rows).pages)
    writer.finish()
    data = pa.BufferReader(b"".join(parts))
    return pq.read_table(data, use_threads=False).cast(SCHEMA)


def to_stream(preview: Preview) -> Iterator[bytes]:
    """Yield the preview's rows as one Arrow IPC stream, in pieces of some MB.

    What of them is not yet asked for is in memory only once, as what is pending.
    """
    sink = _Pieces()
    with pa.ipc.new_stream(sink, SCHEMA) as writer:
        for start, stop in row_groups(preview.rows) if preview.rows else ():
            writer.write_table(
                to_table(preview.version, preview.first_seq + start, preview.rows[start:stop])
            )
            yield sink.take()
    yield sink.take()


WITHOUT_CONTENT = [name for name in SCHEMA.names if name != CONTENT]
"""Columns that are small however much is pending."""


@dataclass(frozen=True, slots=True)
class PendingRows:
    """All rows of a coming version but its ``commit`` row.

    Attributes:
        staged: data files with its first rows: open, so that they can be read whatever becomes of
            their names.
        rows: those that are in no data file, with the columns of `schema.SCHEMA`.
    """

    staged: list[DataFile]
    rows: pa.Table

    def table(self, columns: Sequence[str] = tuple(SCHEMA.names)) -> pa.Table:
        """Return these columns of all rows, in order."""
        schema = pa.schema([SCHEMA.field(name) for name in columns])
        names = list(columns)
        files = [pq.read_table(file.path, columns=names).cast(schema) for file in self.staged]
        return pa.concat_tables([*files, self.rows.select(names)])


def read_pending(store: str | os.PathLike[str], staged: Sequence[str], data: bytes) -> PendingRows:
    """Return the rows of a coming version: of its *staged* files, and those `to_stream` made.

    Raises: FileNotFoundError for a staged file that is no longer there: ask the daemon again.
    """
    files = [_hold(os.fspath(store), name) for name in staged]
    with pa.ipc.open_stream(data) as reader:
        return PendingRows(files, reader.read_all())


def _hold(store: str, name: str) -> DataFile:
    if not is_ours(name):
        # The daemon may be another user's, and root the one who asks.
        raise StoreDamaged(f"the daemon names {name!r} as a data file, which is no name of one")
    file = DataFile(store, name, 0, "", 0)
    file.hold()
    assert file.held is not None
    file.path = f"/proc/self/fd/{file.held.fd}"
    file.size = os.fstat(file.held.fd).st_size
    file.row_count = pq.read_metadata(file.path).num_rows
    return file


def preview_of(version: Version, table: pa.Table) -> Preview:
    """Return the coming version whose rows *table* has; they come without content."""
    micros = table["timestamp"].cast(pa.int64()).to_pylist()
    rows = []
    for micro, record in zip(micros, table.select(WITHOUT_CONTENT).to_pylist(), strict=True):
        name = record["name_bytes"] or record["name"]
        mode = record["mode"] or _TYPE_BITS[record["file_type"]]
        is_known = record["mode"] is not None
        rows.append(
            Row(
                record["op"], micro * 1000,
                int(record["part_id"], 16), int(record["node_id"], 16), mode,
                name.encode() if isinstance(name, str) else name, record["removed"],
                tuple(record[name] for name in ATTRIBUTES) if is_known else None,
                record["valid_below"], record["metadata"],
            )
        )  # fmt: skip
    first_seq = table["seq"][0].as_py() if rows else 0
    return Preview(version, first_seq, rows, [], frozenset())


_TYPE_BITS = {name: bits for bits, name in FILE_TYPES.items()}


class _Pieces:
    """A file that is read as it is written."""

    closed = False

    def __init__(self) -> None:
        self._parts: list[bytes] = []

    def write(self, data: bytes) -> int:
        self._parts.append(bytes(data))
        return len(data)

    def flush(self) -> None:
        """Nothing is held back."""

    def take(self) -> bytes:
        parts, self._parts = self._parts, []
        return b"".join(parts)


def with_preview(scan: Scan, preview: Preview) -> Scan:
    """Return *scan* with the rows of a coming version behind it, its commit row included.

    They come without content, as nobody may ask for their bytes: they are in no file.
    """
    version = preview.version
    rows = [row._replace(offset=None, content=None) for row in preview.rows]
    rows.append(commit_row(Cut(version, 0, [], Summary())))
    table = to_table(version, preview.first_seq, rows).select(scan.table.column_names)
    count = len(rows)
    return Scan(
        pa.concat_tables([scan.table, table]),
        np.append(scan.file, np.full(count, -1, scan.file.dtype)),
        np.append(scan.row, np.arange(count, dtype=scan.row.dtype)),
        np.append(scan.position, np.full(count, -1, scan.position.dtype)),
    )
