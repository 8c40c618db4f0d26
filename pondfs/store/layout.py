"""Where the content column of an existing data file lies, row group by row group.

Files we wrote can be read by position; a rewrite by another program (compressed, dictionary,
optional column) has to be decoded.
"""

import os
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from pondfs.store.schema import CONTENT


class Group(NamedTuple):
    """One row group: its rows, and the bytes of its content column.

    Attributes:
        first_row: number of its first row inside the file.
        rows: how many it has.
        start: first byte of the content column; -1 when it must be decoded.
        stop: the byte after it.
    """

    first_row: int
    rows: int
    start: int
    stop: int


def find_groups(parquet: pq.ParquetFile) -> list[Group]:
    """Return the row groups of an open data file, in order."""
    metadata = parquet.metadata
    # Not `metadata.schema`: it and the metadata would hold each other, 80 KB a file, until the
    # collector comes, and in a daemon it comes rarely.
    schema = parquet.schema_arrow
    if CONTENT not in schema.names:
        raise KeyError(f"it has no column {CONTENT}")
    field = schema.field(CONTENT)
    required = not field.nullable and field.type in (pa.binary(), pa.large_binary())
    groups: list[Group] = []
    first_row = 0
    for number in range(metadata.num_row_groups):
        group = metadata.row_group(number)
        chunk = _content_of(group)
        start = stop = -1
        if (
            required
            and chunk.compression == "UNCOMPRESSED"
            and not chunk.has_dictionary_page
            and {"PLAIN"} <= set(chunk.encodings) <= {"PLAIN", "RLE", "BIT_PACKED"}
        ):
            start = chunk.data_page_offset
            stop = start + chunk.total_compressed_size
        groups.append(Group(first_row, group.num_rows, start, stop))
        first_row += group.num_rows
    return groups


def _content_of(group: pq.RowGroupMetaData) -> pq.ColumnChunkMetaData:
    # Nearly always the last one.
    for index in reversed(range(group.num_columns)):
        chunk = group.column(index)
        if chunk.path_in_schema == CONTENT:
            return chunk
    raise KeyError(f"it has no plain column {CONTENT}")


class FileBytes:
    """A file seen as bytes, read in blocks: page headers lie far apart."""

    BLOCK = 1024

    def __init__(self, fd: int, stop: int) -> None:
        self._fd = fd
        self._stop = stop
        self._start = 0
        self._block = b""

    def __getitem__(self, at: int) -> int:
        if not self._start <= at < self._start + len(self._block):
            if at >= self._stop:
                raise IndexError(at)
            self._start = at
            self._block = os.pread(self._fd, min(self.BLOCK, self._stop - at), at)
        return self._block[at - self._start]
