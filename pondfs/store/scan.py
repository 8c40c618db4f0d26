"""Reading all rows but their content: the input of the fold.

While the lengths are at hand it also finds where each content lies, at the cost of one page
header per row group (or the table of frames, where contents are compressed), so that reading needs
no second look at the file.
"""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pondfs.node import Version
from pondfs.store.content import DataFile
from pondfs.store.damage import damage_of
from pondfs.store.frames import FrameTable, load_table
from pondfs.store.layout import FileBytes, Group, find_groups
from pondfs.store.pages import Positions, locate_values
from pondfs.store.schema import SCHEMA
from pondfs.store.seal import Read, check_body, find_seal, read_of
from pondfs.store.thrift import Buffer

if TYPE_CHECKING:
    from pondfs.store.rowcache import RowCache

SMALL_FILE_BYTES = 256 << 10
"""Files up to this size are read by one system call: most files of a busy pond hold one row."""

_CHUNK_ROWS, _CHUNK_PARTS = 1 << 16, 256
"""Up to here rows of several files are brought together in memory. Of small files after a few: each
one's table takes 30 KB, whatever is in it."""

FOLD_COLUMNS = tuple(name for name in SCHEMA.names if name not in ("file_type", "content"))


class Scan(NamedTuple):
    """Rows of several files, one below the other.

    Shape: *file*, *row* and *position* are parallel to *table*: the index of the row's file, its
    number in it, and the position of its content there (see `Content`; -1 where its row group must
    be decoded, or when nobody asked for lengths).
    """

    table: pa.Table
    file: NDArray[np.int32]
    row: NDArray[np.int64]
    position: NDArray[np.int64]


def in_order(files: Sequence[DataFile], up_to: Version | None) -> list[DataFile]:
    """Return those of *files* that may hold rows up to this version, as they are best read.

    In the order of versions rows are nearly always sorted already; and so they are cached.
    """
    if up_to is not None:
        files = [file for file in files if file.min_version <= up_to]
    return sorted(files, key=lambda file: (file.max_version, file.min_version, file.name))


def read_rows(
    files: Sequence[DataFile],
    columns: Sequence[str] = FOLD_COLUMNS,
    cache: "RowCache | None" = None,
) -> Scan:
    """Return the rows of *files*, in their order; from *cache* those it has.

    Raises: StoreDamaged naming a file that is gone, no Parquet of ours, or not as it was written.
    """
    schema = pa.schema([SCHEMA.field(name) for name in columns])
    sizes: list[int] = []
    positions: list[Positions] = [np.empty(0, np.int64)]
    whole: list[pa.Table] = []
    small: list[pa.Table] = []
    held = 0
    for part, places, rows in _parts(files, columns, schema, cache):
        sizes.extend(rows)
        positions.append(places)
        if held + part.num_rows > _CHUNK_ROWS or len(small) >= _CHUNK_PARTS:
            whole.extend(_join(small))
            small, held = [], 0
        small.append(part)
        held += part.num_rows
    whole.extend(_join(small))
    table = pa.concat_tables(whole) if whole else schema.empty_table()
    counts = np.array(sizes, np.int64)
    starts = np.cumsum(counts) - counts
    return Scan(
        table,
        np.repeat(np.arange(len(files), dtype=np.int32), counts),
        np.arange(table.num_rows, dtype=np.int64) - np.repeat(starts, counts),
        np.concatenate(positions),
    )


def read_pieces(
    file: DataFile, columns: Sequence[str], most_rows: int
) -> Iterator[tuple[pa.Table, NDArray[np.int64], Positions]]:
    """Yield the rows of one file in pieces of about *most_rows*: with each row's number and place.

    Raises: as `read_rows`.
    """
    schema = pa.schema([SCHEMA.field(name) for name in columns])
    with damage_of(file), open(file.path, "rb", buffering=0) as raw:
        parquet = open_checked(*read_of(raw), file, file.path)
        buffer = FileBytes(raw.fileno(), file.size)
        waiting: list[Group] = []
        groups = find_groups(parquet)
        frames = _table(groups, raw.fileno(), file)
        first = 0
        for number, group in enumerate(groups):
            waiting.append(group)
            rows = sum(each.rows for each in waiting)
            if rows < most_rows and number + 1 < len(groups):
                continue
            some = list(range(number + 1 - len(waiting), number + 1))
            table = parquet.read_row_groups(some, columns=list(columns), use_threads=False)
            if table.schema != schema:
                table = table.select(list(columns)).cast(schema)
            positions = np.full(rows, -1, np.int64)
            here = [each._replace(first_row=each.first_row - first) for each in waiting]
            _fill_positions(positions, here, table["length"], buffer, frames, file, first)
            yield table, np.arange(first, first + rows), positions
            first += rows
            waiting = []


def _join(parts: list[pa.Table]) -> list[pa.Table]:
    """Make one piece of many: every step after this costs 1 us for each piece of a column."""
    return [pa.concat_tables(parts).combine_chunks()] if len(parts) > 1 else parts


def _parts(
    files: Sequence[DataFile],
    columns: Sequence[str],
    schema: pa.Schema,
    cache: "RowCache | None",
) -> Iterator[tuple[pa.Table, Positions, list[int]]]:
    """Yield rows, the positions of their contents, and how many rows each file has.

    Files that follow each other in the cache are one part: a slice costs as much as 1,000 rows.
    """
    places = [None if cache is None else cache.find(file) for file in files]
    at = 0
    while at < len(files):
        place = places[at]
        if place is None:
            table, positions = _read(files[at], columns, schema)
            yield table, positions, [table.num_rows]
            at += 1
            continue
        record, first, counts, stop = place.record, place.first, [], place.first
        while place is not None and place.record is record and place.first == stop:
            counts.append(place.rows)
            stop += place.rows
            at += 1
            place = places[at] if at < len(files) else None
        run = record.slice(first, stop - first)
        yield run.select(list(columns)), run["position"].to_numpy(), counts


def _read(file: DataFile, columns: Sequence[str], schema: pa.Schema) -> tuple[pa.Table, Positions]:
    with damage_of(file), open(file.path, "rb", buffering=0) as raw:
        if file.size <= SMALL_FILE_BYTES:
            data = raw.read()
            parquet = open_checked(
                lambda at, length: data[at : at + length], len(data), file, pa.BufferReader(data)
            )
            table = parquet.read(columns=list(columns), use_threads=False)
            buffer: Buffer = data
        else:
            # Threads pay here: columns decode side by side.
            parquet = open_checked(*read_of(raw), file, file.path)
            table = parquet.read(columns=list(columns), use_threads=True)
            buffer = FileBytes(raw.fileno(), file.size)
        if table.schema != schema:
            # A rewrite by another engine may have chosen large_string, or another order.
            table = table.select(list(columns)).cast(schema)
        positions = np.full(table.num_rows, -1, np.int64)
        if "length" in columns:
            groups = find_groups(parquet)
            frames = _table(groups, raw.fileno(), file)
            _fill_positions(positions, groups, table["length"], buffer, frames, file)
        return table, positions


def open_checked(
    read: Read, size: int, file: DataFile, source: Any, *, rows: bool = True
) -> pq.ParquetFile:
    """Return the Parquet reader of *source*, when all that it will believe is as it was written.

    *read* gives its *size* bytes.

    Without *rows* that is the footer alone: each page is compared with its checksum when it is
    read. So are pages of files without a seal.

    Raises: StoreDamaged; what `damage_of` knows.
    """
    seal = find_seal(read, size, file.path)
    parquet = pq.ParquetFile(
        source,
        memory_map=False,
        pre_buffer=False,
        page_checksum_verification=seal is None or not rows,
    )
    if seal is not None and rows:
        check_body(read, seal, _contents(parquet), file.path)
    return parquet


def _contents(parquet: pq.ParquetFile) -> Iterator[tuple[int, int]]:
    """Yield where the contents are in a file of ours: the last column of each row group."""
    metadata = parquet.metadata
    for number in range(metadata.num_row_groups):
        group = metadata.row_group(number)
        chunk = group.column(group.num_columns - 1)
        yield chunk.data_page_offset, chunk.data_page_offset + chunk.total_compressed_size


def _table(groups: Sequence[Group], fd: int, file: DataFile) -> FrameTable | None:
    return load_table(fd, file.size, file.path) if any(g.start < 0 for g in groups) else None


def _fill_positions(
    positions: Positions,
    groups: Sequence[Group],
    length: pa.ChunkedArray,
    buffer: Buffer,
    frames: FrameTable | None,
    file: DataFile,
    first_row: int = 0,
) -> None:
    """Fill in *positions* of the rows of *groups*, which begin at *first_row* of the file."""
    if length.null_count == len(length):
        return
    lengths = (length.fill_null(0) if length.null_count else length).to_numpy()
    if frames is not None:
        positions[:] = frames.locate(first_row, lengths, file.path)
    for first, rows, start, stop in groups:
        if start >= 0:
            part = slice(first, first + rows)
            found = locate_values(buffer, start, stop, lengths[part], file.path)
            if found is not None:
                positions[part] = found
