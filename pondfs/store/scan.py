"""Reading all rows but their content: the input of the fold."""

import os
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pondfs.errors import StoreDamaged
from pondfs.store.content import DataFile
from pondfs.store.schema import SCHEMA

SMALL_FILE_BYTES = 256 << 10
"""Files up to this size are read by one system call: most files of a busy pond hold one row."""

FOLD_COLUMNS = tuple(
    name for name in SCHEMA.names if name not in ("timestamp", "content")
)  # fmt: skip
_SCHEMA = pa.schema([SCHEMA.field(name) for name in FOLD_COLUMNS])


def read_rows(
    files: Sequence[DataFile], columns: Sequence[str] = FOLD_COLUMNS
) -> tuple[pa.Table, NDArray[np.int32], NDArray[np.int64]]:
    """Return the rows of *files*, and for each row its file's index and its number in it.

    Raises: StoreDamaged naming a file that is gone or no Parquet of ours.
    """
    schema = pa.schema([SCHEMA.field(name) for name in columns])
    tables = [_read(file, columns, schema) for file in files]
    counts = np.array([table.num_rows for table in tables], np.int64)
    table = pa.concat_tables(tables) if tables else schema.empty_table()
    file_index = np.repeat(np.arange(len(files), dtype=np.int32), counts)
    starts = np.cumsum(counts) - counts
    row_number = np.arange(table.num_rows, dtype=np.int64) - np.repeat(starts, counts)
    return table, file_index, row_number


def _read(file: DataFile, columns: Sequence[str], schema: pa.Schema) -> pa.Table:
    try:
        if file.size <= SMALL_FILE_BYTES:
            with open(file.path, "rb", buffering=0) as raw:
                source = pa.BufferReader(raw.read())
            with pq.ParquetFile(source) as parquet:
                table = parquet.read(columns=list(columns), use_threads=False)
        else:
            # Threads pay here: columns decode side by side.
            with pq.ParquetFile(file.path, memory_map=False, pre_buffer=False) as parquet:
                table = parquet.read(columns=list(columns), use_threads=True)
        if table.schema != schema:
            # A rewrite by another engine may have chosen large_string, or another order.
            table = table.select(list(columns)).cast(schema)
    except FileNotFoundError:
        raise StoreDamaged(f"data file {file.path} is gone: restore it from a backup") from None
    except (pa.ArrowInvalid, pa.ArrowKeyError, pa.ArrowTypeError, KeyError) as error:
        raise StoreDamaged(
            f"data file {os.path.basename(file.path)} is damaged ({error}): "
            "restore it from a backup"
        ) from error
    return table
