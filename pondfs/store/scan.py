"""Reading all rows but their content: the input of the fold.

While the lengths are at hand it also finds where each content lies, at the cost of one page
header per row group, so that reading needs no second look at the file.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pondfs.errors import StoreDamaged
from pondfs.store.content import DataFile
from pondfs.store.layout import FileBytes, find_groups
from pondfs.store.pages import Positions, locate_values
from pondfs.store.schema import SCHEMA
from pondfs.store.thrift import Buffer

SMALL_FILE_BYTES = 256 << 10
"""Files up to this size are read by one system call: most files of a busy pond hold one row."""

FOLD_COLUMNS = tuple(
    name for name in SCHEMA.names if name not in ("timestamp", "file_type", "content")
)  # fmt: skip


class Scan(NamedTuple):
    """Rows of several files, one below the other.

    Shape: *file*, *row* and *position* are parallel to *table*: the index of the row's file, its
    number in it, and the byte position of its content there (-1 where it must be decoded, or
    when nobody asked for lengths).
    """

    table: pa.Table
    file: NDArray[np.int32]
    row: NDArray[np.int64]
    position: NDArray[np.int64]


def read_rows(files: Sequence[DataFile], columns: Sequence[str] = FOLD_COLUMNS) -> Scan:
    """Return the rows of *files*, in their order.

    Raises: StoreDamaged naming a file that is gone or no Parquet of ours.
    """
    schema = pa.schema([SCHEMA.field(name) for name in columns])
    parts = [_read(file, columns, schema) for file in files]
    counts = np.array([table.num_rows for table, _ in parts], np.int64)
    table = pa.concat_tables([table for table, _ in parts]) if parts else schema.empty_table()
    starts = np.cumsum(counts) - counts
    return Scan(
        table,
        np.repeat(np.arange(len(files), dtype=np.int32), counts),
        np.arange(table.num_rows, dtype=np.int64) - np.repeat(starts, counts),
        np.concatenate([np.empty(0, np.int64), *(positions for _, positions in parts)]),
    )


def _read(file: DataFile, columns: Sequence[str], schema: pa.Schema) -> tuple[pa.Table, Positions]:
    try:
        with open(file.path, "rb", buffering=0) as raw:
            if file.size <= SMALL_FILE_BYTES:
                data = raw.read()
                parquet = pq.ParquetFile(pa.BufferReader(data))
                table = parquet.read(columns=list(columns), use_threads=False)
                buffer: Buffer = data
            else:
                # Threads pay here: columns decode side by side.
                parquet = pq.ParquetFile(file.path, memory_map=False, pre_buffer=False)
                table = parquet.read(columns=list(columns), use_threads=True)
                buffer = FileBytes(raw.fileno(), file.size)
            if table.schema != schema:
                # A rewrite by another engine may have chosen large_string, or another order.
                table = table.select(list(columns)).cast(schema)
            positions = np.full(table.num_rows, -1, np.int64)
            if "length" in columns:
                _fill_positions(positions, parquet, table["length"], buffer, file)
            return table, positions
    except FileNotFoundError:
        raise StoreDamaged(f"data file {file.path} is gone: restore it from a backup") from None
    except (pa.ArrowInvalid, pa.ArrowKeyError, pa.ArrowTypeError, KeyError) as error:
        raise StoreDamaged(
            f"data file {file.path} is damaged ({error}): restore it from a backup"
        ) from error


def _fill_positions(
    positions: Positions,
    parquet: pq.ParquetFile,
    length: pa.ChunkedArray,
    buffer: Buffer,
    file: DataFile,
) -> None:
    if length.null_count == len(length):
        return
    lengths = (length.fill_null(0) if length.null_count else length).to_numpy()
    for first, rows, start, stop in find_groups(parquet):
        if start >= 0:
            part = slice(first, first + rows)
            found = locate_values(buffer, start, stop, lengths[part], file.path)
            if found is not None:
                positions[part] = found
