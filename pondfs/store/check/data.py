"""The bytes: every page of every data file read, its checksum compared, its contents counted.

One row group is in memory at a time, some 10 MiB.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from zlib_ng.zlib_ng import crc32

from pondfs.errors import StoreDamaged
from pondfs.store.check.report import MOST_PATHS, Wrong, invariant
from pondfs.store.check.tree import Tree
from pondfs.store.content import DataFile
from pondfs.store.frames import load_table
from pondfs.store.image import TableImage
from pondfs.store.layout import find_groups
from pondfs.store.schema import CONTENT
from pondfs.store.sums import load_sums

Progress = Callable[[str, float], None]

_RUN_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class BadRows:
    """Rows whose content can't be believed.

    Attributes:
        file: the number of their data file.
        first: the first of them in it.
        stop: the one after the last.
        why: what is wrong.
    """

    file: int
    first: int
    stop: int
    why: str


def read_bytes(files: Sequence[DataFile], progress: Progress) -> tuple[int, list[BadRows]]:
    """Read all bytes of all rows. Returns: how many were read, and what is wrong."""
    whole = sum(file.size for file in files)
    done = 0
    bad: list[BadRows] = []
    for number, file in enumerate(files):
        for size, wrong in _read_file(number, file):
            done += size
            if wrong is not None:
                bad.append(wrong)
            progress("reading", done / max(1, whole))
    return done, bad


def _read_file(number: int, file: DataFile) -> Iterator[tuple[int, BadRows | None]]:
    """Yield how much was read on, and what is wrong there."""
    left = file.size
    first = 0
    is_sound = True
    try:
        with open(file.path, "rb", buffering=0) as raw:
            parquet = pq.ParquetFile(
                raw, memory_map=False, pre_buffer=False, page_checksum_verification=True
            )
            metadata = parquet.metadata
            for at, group in enumerate(find_groups(parquet)):
                first = group.first_row
                size = _stored_bytes(metadata.row_group(at))
                left -= size
                wrong = _read_group(number, parquet, at, first, group.rows)
                is_sound = is_sound and wrong is None
                yield size, wrong
            first = 0
            _check_frames(raw.fileno(), file)
            if is_sound:  # else they say no more, and not of which rows
                _check_sums(raw.fileno(), file)
    except (StoreDamaged, OSError, pa.ArrowException, KeyError) as error:
        rows = file.row_count if file.row_count is not None else 1 << 62
        yield left, BadRows(number, first, rows, str(error))
        return
    yield left, None


def _stored_bytes(group: pq.RowGroupMetaData) -> int:
    return sum(group.column(at).total_compressed_size for at in range(group.num_columns))


def _read_group(
    number: int, parquet: pq.ParquetFile, at: int, first: int, rows: int
) -> BadRows | None:
    try:
        table = parquet.read_row_group(at, use_threads=False)
    except (OSError, pa.ArrowException) as error:
        return BadRows(number, first, first + rows, str(error))
    length = table["length"].fill_null(0)
    differs = pc.not_equal(_lengths(table[CONTENT]), length).to_numpy()
    if differs.any():
        row = int(np.flatnonzero(differs)[0])
        return BadRows(
            number, first + row, first + row + 1, "a content has not the length its row says"
        )
    return None


def _lengths(contents: pa.ChunkedArray) -> pa.ChunkedArray:
    return pc.fill_null(pc.binary_length(contents).cast(pa.int64()), 0)


def _check_frames(fd: int, file: DataFile) -> None:
    """Compare the checksums of frames: reading goes by those. Raises: StoreDamaged."""
    try:
        table = load_table(fd, file.size, file.path)
    except StoreDamaged:
        table = None
        if _is_compressed(file):
            raise
    if table is None:
        return
    for at in range(len(table.starts)):
        data = os.pread(fd, table.sizes[at], table.starts[at])
        if crc32(data) != table.crcs[at]:
            raise StoreDamaged(f"the frame at byte {table.starts[at]} has not its checksum")


def _check_sums(fd: int, file: DataFile) -> None:
    """Compare the checksums of blocks: reading goes by those, too. Raises: StoreDamaged."""
    sums = load_sums(fd, file.path)
    if sums is None:
        return
    for start in range(0, sums.stop, _RUN_BYTES):
        sums.check(start, [memoryview(os.pread(fd, min(_RUN_BYTES, sums.stop - start), start))])


def _is_compressed(file: DataFile) -> bool:
    """Return whether some content needs a table of frames.

    One that was staged ends with somebody's bytes: they may look like the end of such a table.
    """
    with pq.ParquetFile(file.path, memory_map=False) as parquet:
        return any(group.start < 0 for group in find_groups(parquet))


@invariant("data-checksums")
def bytes_are_whole(
    files: Sequence[DataFile], bad: Sequence[BadRows], tree: Tree | None, image: TableImage | None
) -> Iterator[Wrong]:
    """Every page, frame and block of every data file has the checksum it was written with, and
    every content the length that its row says.
    """
    for each in bad:
        file = files[each.file]
        rows = f"data file {file.path}, rows {each.first} to {each.stop - 1}: {each.why}"
        if tree is None or image is None:
            yield Wrong(f"{rows}: restore it from a backup")
            continue
        columns = image.columns
        here = (
            (columns.extent_file == each.file)
            & (columns.extent_row >= each.first)
            & (columns.extent_row < each.stop)
        )
        places = np.unique(columns.extent_nodes[here])
        paths = tuple(
            path for place in places[:MOST_PATHS].tolist() for path in tree.call(place)[1]
        )
        yield Wrong(
            f"{rows}: {_whose(tree, places.tolist())}: restore it from a backup",
            paths,
        )


def _whose(tree: Tree, places: list[int]) -> str:
    """Say which files the bytes are of."""
    if not places:
        return "only earlier versions have bytes there, or none"
    called = [tree.call(place)[0] for place in places[:3]]
    more = f" and {len(places) - 3:,} more" if len(places) > 3 else ""
    return f"bytes of {', '.join(called)}{more}"
