"""Carrying out a compaction up to the point where it counts.

Rows are sorted outside of memory: they go into nameless files, apart by where they will lie, so
that what is held at once is `PART_ROWS` of them without their content, and one row group with it.
"""

import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from typing import IO, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pondfs.errors import StoreDamaged
from pondfs.store.compact import FULL_BYTES, Plan
from pondfs.store.content import DataFile
from pondfs.store.history import ints
from pondfs.store.image import Ints
from pondfs.store.memory import release_memory
from pondfs.store.prune import Progress
from pondfs.store.request import COMPACT, Rewritten
from pondfs.store.rewrite import (
    COLUMNS,
    GROUP_ROWS,
    ROW_BYTES,
    Group,
    Pace,
    Rows,
    Writer,
    cluster_keys,
    cut_groups,
)
from pondfs.store.rowcache import RowCache
from pondfs.store.scan import read_pieces, read_rows
from pondfs.store.schema import SCHEMA
from pondfs.store.table import POND_DIR

PART_ROWS, MOST_PARTS = 1 << 15, 600
"""Rows sorted at once: 15 MB. More of a very large pond, as each part is an open file meanwhile."""

LEAST_GROUP_ROWS, GROUPS_WANTED = 1 << 10, 64
"""Row groups have fewer rows in a small pond: so that a directory touches few of them."""

_SAMPLE_ROWS = 1 << 16
_SMALL_FILE_ROWS = 1000
_PLACE = ("file", "row", "position")
_SPILLED = pa.schema(
    [*(SCHEMA.field(name) for name in COLUMNS), *(pa.field(name, pa.int64()) for name in _PLACE)]
)


def write_files(
    plan: Plan,
    progress: Progress = lambda what, share: None,
    pace: Pace = lambda size: None,
    part_rows: int = PART_ROWS,
) -> Rewritten:
    """Write the plan's rows anew, and the request to put the new files in the place of the old.

    Durability: the new data files and their names are fsynced on return.
    Raises: OSError, StoreDamaged; what was written is gone then.
    """
    started = time.monotonic()
    counts = [_count_rows(file) for file in plan.files]
    total = sum(counts)
    group_rows = min(max(LEAST_GROUP_ROWS, total // GROUPS_WANTED), GROUP_ROWS)
    writer = Writer(plan.store, COMPACT, plan.files, counts, pace)

    sorter = _Sorter(plan.store, plan.files, counts, max(part_rows, total // MOST_PARTS))

    def groups() -> Iterator[Group]:
        done = 0
        last = ""
        for rows in sorter:
            for group in cut_groups(rows, group_rows):
                # The directory may have begun among the rows before.
                begins = group.begins and rows.table["part_id"][group.start].as_py() != last
                yield group._replace(begins=begins)
            last = rows.table["part_id"][-1].as_py()
            done += len(rows.row)
            progress("writing", done / total)
            # Nothing of it is held while the next part is read.
            del rows, group
            release_memory()

    try:
        writer.write(groups(), lambda: total * ROW_BYTES + sorter.content_bytes, FULL_BYTES)
        return writer.finish({"took_s": round(time.monotonic() - started, 3)})
    except BaseException:
        writer.discard()
        raise
    finally:
        writer.close()


def _count_rows(file: DataFile) -> int:
    """Return how many rows a file has: by its own word, as that decides what goes where."""
    if file.row_count is not None:
        return file.row_count
    try:
        return int(pq.read_metadata(file.path).num_rows)
    except (pa.ArrowInvalid, pa.ArrowIOError) as error:
        raise StoreDamaged(
            f"data file {file.path} is damaged ({error}): restore it from a backup"
        ) from error


class _Sorter:
    """Yields all rows of some files, clustered, about *part_rows* at a time.

    Attributes:
        content_bytes: what their contents have, before compression; known with the first rows.
    """

    def __init__(
        self, store: str, files: list[DataFile], counts: list[int], part_rows: int
    ) -> None:
        self._store = store
        self._files = files
        # It has all that decides the order, but not all columns.
        self._cache: RowCache | None = None
        self._counts = counts
        self._part_rows = part_rows
        self.content_bytes = 0

    def __iter__(self) -> Iterator[Rows]:
        if sum(self._counts) <= self._part_rows:
            tables = list(self._tables(COLUMNS))
            if tables:
                whole = _rows(pa.concat_tables(tables)).clustered()
                self.content_bytes = int(whole.length.sum())
                yield whole
            return
        bounds = self._bounds()
        where = os.path.join(self._store, POND_DIR)
        spilled = [tempfile.TemporaryFile(dir=where) for _ in range(len(bounds[0]) + 1)]  # noqa: SIM115 # closed when read
        streams = [pa.ipc.new_stream(file, _SPILLED) for file in spilled]
        for table in self._tables(COLUMNS):
            part = _part_of(table, bounds)
            order = np.argsort(part, kind="stable")
            table = table.take(pa.array(order))
            cuts = np.searchsorted(part[order], np.arange(len(spilled) + 1))
            for stream, start, stop in zip(streams, cuts, cuts[1:], strict=False):
                if start < stop:
                    stream.write_table(table.slice(start, stop - start))
        release_memory()
        for stream, file in zip(streams, spilled, strict=True):
            stream.close()
            with file:
                if rows := _read_spilled(file):
                    yield rows.clustered()
                del rows

    def _bounds(self) -> list[Ints]:
        """Return the keys at which parts begin, from a sample."""
        step = 1 + sum(self._counts) // _SAMPLE_ROWS
        if sum(self._counts) < len(self._counts) * _SMALL_FILE_ROWS:
            # Opening so many files costs more; else the cache, which is mapped whole, takes more
            # memory than all else.
            self._cache = RowCache(self._store)
        names = ("part_id", "node_id", "offset", "version", "seq", "length")
        some: list[list[Ints]] = []
        at = 0
        for table in self._tables(names):
            chosen = np.arange(-at % step, table.num_rows, step)
            at += table.num_rows
            self.content_bytes += int(ints(table, "length").sum())
            some.append(cluster_keys(table.take(pa.array(chosen))))
        self._cache = None
        keys = [np.concatenate(column) for column in zip(*some, strict=True)]
        order = np.lexsort(keys[::-1])
        cuts = np.arange(self._part_rows // step, len(order), self._part_rows // step)
        return [key[order[cuts]] for key in keys]

    def _tables(self, columns: Sequence[str]) -> Iterator[pa.Table]:
        """Yield all rows, with the places they have now, in tables of bounded size."""
        batch: list[int] = []
        for at, count in enumerate(self._counts):
            if count > self._part_rows:
                found = 0
                for table, row, position in read_pieces(self._files[at], columns, self._part_rows):
                    found += len(row)
                    yield _placed(table, np.full(len(row), at), row, position)
                self._check(at, found)
                continue
            if batch and sum(self._counts[b] for b in batch) + count > self._part_rows:
                yield self._read(batch, columns)
                batch = []
            batch.append(at)
        if batch:
            yield self._read(batch, columns)

    def _read(self, batch: list[int], columns: Sequence[str]) -> pa.Table:
        scan = read_rows([self._files[at] for at in batch], columns, self._cache)
        for at, count in zip(batch, np.bincount(scan.file, minlength=len(batch)), strict=True):
            self._check(at, int(count))
        return _placed(scan.table, np.array(batch)[scan.file], scan.row, scan.position)

    def _check(self, at: int, found: int) -> None:
        if found != self._counts[at]:
            raise StoreDamaged(
                f"data file {self._files[at].path} has {found} rows, but its log entry says "
                f"{self._counts[at]}: restore it from a backup"
            )


def _placed(table: pa.Table, *places: Ints) -> pa.Table:
    for name, column in zip(_PLACE, places, strict=True):
        table = table.append_column(name, pa.array(column.astype(np.int64)))
    return table


def _rows(table: pa.Table) -> Rows:
    file, row, position = (table[name].to_numpy() for name in _PLACE)
    return Rows(table.select(list(COLUMNS)), file, row, position, ints(table, "length"))


def _part_of(table: pa.Table, bounds: list[Ints]) -> NDArray[Any]:
    """Return for each row how many of *bounds* are not beyond it."""
    count = len(bounds[0])
    keys = [np.concatenate(pair) for pair in zip(bounds, cluster_keys(table), strict=True)]
    # Stable: a row equal to a bound comes behind it.
    order = np.lexsort(keys[::-1])
    passed = np.cumsum(order < count)
    part = np.empty(len(order), np.int64)
    part[order] = passed
    return part[count:]


def _read_spilled(file: IO[bytes]) -> Rows | None:
    file.seek(0)
    table = pa.ipc.open_stream(file).read_all()
    return _rows(table) if table.num_rows else None
