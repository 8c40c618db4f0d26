"""Writing rows anew, clustered: new data files, and where each content went.

A row keeps its version, number and time, so a fold gives what it gave. Rows lie by directory, node
and offset: what is read together, by whoever lists a directory or reads a file. Nothing refers to
the new files before `prune_swap` publishes them: until then they are strays. They have hidden names
of their request while they are written: what a killed process leaves is known for what it is, and
the next one removes it.
"""

import contextlib
import json
import math
import mmap
import os
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pondfs import __version__
from pondfs.extent import Content
from pondfs.node import Version
from pondfs.oplog import Row
from pondfs.store.content import ContentReader, DataFile
from pondfs.store.damage import damage_of
from pondfs.store.datafile import (
    ROW_GROUP_CONTENT_BYTES,
    new_name,
    statistics,
    unlink_quietly,
    write_groups,
)
from pondfs.store.faults import fault
from pondfs.store.history import ints, node_ids
from pondfs.store.image import Ints
from pondfs.store.lock import ONESELF, acting_as, find_owner
from pondfs.store.packing import pack_contents
from pondfs.store.parquet import Page
from pondfs.store.request import MOVE, Rewritten, remove_requests
from pondfs.store.row_tables import decode
from pondfs.store.rows import Encoded, encode, renumber
from pondfs.store.scan import open_checked
from pondfs.store.schema import CONTENT, CONTENT_INDEX, SCHEMA
from pondfs.store.seal import read_of
from pondfs.store.table import POND_DIR, fsync_path

ROW_BYTES = 170
"""What a row without content costs in a large file, about (measured 2026-11)."""

GROUP_ROWS = 1 << 12
"""Rows in a new row group at most: they are Python objects while it is written (1 KB each)."""

COLUMNS = tuple(name for name in SCHEMA.names if name != CONTENT)

_OPEN_FILES = 256
_CACHE_BYTES = 8 << 20
_MAPPED_BYTES, _MOVES_AT_ONCE = 32 << 20, 1 << 13

Pace = Callable[[int], None]
"""Is told of bytes about to be written, and takes the time that these shall take."""


class Rows(NamedTuple):
    """Rows that stay, of several old files.

    Shape: all parallel to *table*, which has `COLUMNS`; *file* counts in the files that go, *row*
    in the file; *length* is that of the content that stays, 0 where none does.
    """

    table: pa.Table
    file: Ints
    row: Ints
    position: Ints
    length: Ints

    def take(self, some: Ints) -> "Rows":
        """Return some of them."""
        return Rows(self.table.take(pa.array(some)), *(column[some] for column in self[1:]))

    def clustered(self) -> "Rows":
        """Return them in the order in which they shall lie."""
        order = np.lexsort(cluster_keys(self.table)[::-1])
        return self if (order[1:] > order[:-1]).all() else self.take(order)


def cluster_keys(table: pa.Table) -> list[Ints]:
    """Return the columns by which rows are ordered, the one that counts most first."""
    return [
        node_ids(table, "part_id"),
        node_ids(table, "node_id"),
        ints(table, "offset", -1),
        ints(table, "version"),
        ints(table, "seq"),
    ]


class Group(NamedTuple):
    """A row group to be: *rows* from *start* to *stop*.

    Attributes:
        size: bytes it will take, about.
        begins: whether its first row is the first of its directory.
    """

    rows: Rows
    start: int
    stop: int
    size: int
    begins: bool


def cut_groups(rows: Rows, most_rows: int) -> Iterator[Group]:
    """Yield row groups; a directory that would fit into one is not cut in two."""
    part = node_ids(rows.table, "part_id")
    ends = np.append(np.flatnonzero(part[1:] != part[:-1]) + 1, len(part))
    content = np.append(0, np.cumsum(rows.length))
    start = 0
    while start < len(part):
        most = content[start] + ROW_GROUP_CONTENT_BYTES
        stop = min(start + most_rows, int(np.searchsorted(content, most, "right")) - 1)
        stop = max(stop, start + 1)
        # The last end of a directory that is not beyond.
        at = int(np.searchsorted(ends, stop, "right")) - 1
        if at >= 0 and ends[at] > start:
            stop = int(ends[at])
        size = (stop - start) * ROW_BYTES + int(content[stop] - content[start])
        yield Group(rows, start, stop, size, start == 0 or part[start] != part[start - 1])
        start = stop


class Writer:
    """Writes new files, notes where each content went, and makes the request in the end.

    Args:
        store: the pond's directory.
        kind: `PRUNE` or `COMPACT`; also what the faults are called.
        files: the data files that go.
        counts: how many rows each of them has.
        pace: says when to go on.

    Raises: StoreDamaged when a file that goes is not as it was written; OSError.
    """

    def __init__(
        self,
        store: str,
        kind: str,
        files: Sequence[DataFile],
        counts: Sequence[int],
        pace: Pace = lambda size: None,
    ) -> None:
        for file in files:
            check_pages(file)
        self._store = store
        self._kind = kind
        self._files = files
        self._counts = list(counts)
        self._starts = np.cumsum([0, *counts])
        self._pace = pace
        self._reader = ContentReader(max_open=_OPEN_FILES, cache_bytes=_CACHE_BYTES)
        self._owner = find_owner(store)
        self._added: list[dict[str, Any]] = []
        # Where the next file begins, or the next row group.
        self._next: Group | None = None
        self._request = f"{kind}-{uuid.uuid4()}"
        remove_requests(store, kind)
        self._path = os.path.join(store, POND_DIR, self._request)
        with acting_as(self._owner):
            fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            self._map = _map_file(fd, int(self._starts[-1]) * MOVE.itemsize)
            self._moves: NDArray[Any] = np.frombuffer(self._map or b"", MOVE)
        except BaseException:
            unlink_quietly(self._path)
            raise
        finally:
            os.close(fd)

    def write(
        self, groups: Iterable[Group], total_bytes: Callable[[], float], full_bytes: int
    ) -> None:
        """Write *groups* as files of equal size up to *full_bytes*.

        What they have after compression counts; of what is to come that is a guess, from what was
        written.

        Args:
            groups: what to write.
            total_bytes: the sizes of all groups; asked for when there is one.
            full_bytes: see above.
        """
        waiting = iter(groups)
        with self._reading():
            self._next = next(waiting, None)
        share = _Share(total_bytes(), full_bytes)
        while self._next is not None:
            self._write_file(waiting, share)

    def _write_file(self, waiting: Iterator[Group], share: "_Share") -> None:
        fault(f"{self._kind}:data-file")
        summary = _Summary()
        moved: list[tuple[Ints, Ints]] = []

        def encoded() -> Iterator[tuple[int, Encoded]]:
            row = 0
            share.begin()
            while (group := self._next) is not None and not share.is_full(group):
                self._pace(group.size)
                with self._reading():
                    made = self._encode(group)
                summary.add(group)
                some = np.flatnonzero(group.rows.length[group.start : group.stop] > 0)
                at = some + group.start
                moved.append((self._starts[group.rows.file[at]] + group.rows.row[at], some + row))
                share.add(group, sum(map(_size_of, made.pages)))
                row += group.stop - group.start
                yield group.stop - group.start, made
                # Nothing of it is held while what comes next is read.
                del group, made
                self._next = None
                with self._reading():
                    self._next = next(waiting, None)

        with acting_as(self._owner):
            _, size, positions = write_groups(
                self._store, encoded(), self._hidden_name(len(self._added)), rewritten=True
            )
        self._added.append({"name": new_name(), "size": size, "stats": summary.statistics()})
        old, new = (np.concatenate(column) for column in zip(*moved, strict=True))
        moves = np.empty(len(old), MOVE)
        moves["file"], moves["row"], moves["position"] = len(self._added), new, positions
        self._note(old, moves)

    def _hidden_name(self, number: int) -> str:
        return f".{self._request}.{number}"

    def _note(self, old: Ints, moves: NDArray[Any]) -> None:
        """Take down where rows went; of many, no more than a part of the map stays in memory."""
        for start in range(0, len(old), _MOVES_AT_ONCE):
            some = slice(start, start + _MOVES_AT_ONCE)
            self._moves[old[some]] = moves[some]
            if self._map is not None and len(self._map) > _MAPPED_BYTES:
                self._map.madvise(mmap.MADV_DONTNEED)

    def _reading(self) -> contextlib.AbstractContextManager[None]:
        """While files are made as the store's owner: be oneself for what may need an import."""
        return acting_as(ONESELF if self._owner else None)

    def _encode(self, group: Group) -> Encoded:
        """Return one row group, the contents in memory."""
        rows, part = group.rows, slice(group.start, group.stop)
        table = rows.table.slice(group.start, group.stop - group.start)
        new: list[Row] = []
        for record, file, row, position, length in zip(
            decode(table),
            rows.file[part].tolist(),
            rows.row[part].tolist(),
            rows.position[part].tolist(),
            rows.length[part].tolist(),
            strict=True,
        ):
            if length:
                content = self._read(self._files[file], row, position, length)
                record = record._replace(content=content)
            else:
                record = record._replace(offset=None)
            new.append(record)
        versions, seqs = ints(table, "version"), ints(table, "seq")
        pages, places = renumber(encode(Version(0), 0, new), versions.tolist(), seqs.tolist())
        pages[CONTENT_INDEX] = pack_contents(pages[CONTENT_INDEX], rows.length[part])
        return Encoded(pages, places)

    def _read(self, file: DataFile, row: int, position: int, length: int) -> Content:
        old = Content.stored(file, row, length)
        old.position = position
        data = bytearray(length)
        self._reader.read(old, 0, memoryview(data))
        return Content(memoryview(data), length)

    def finish(self, facts: dict[str, Any]) -> Rewritten:
        """Write the request.

        Durability: the new data files and their names are fsynced on return.
        """
        fault(f"{self._kind}:store-dir-fsync")
        with acting_as(self._owner):
            for number, file in enumerate(self._added):
                hidden = os.path.join(self._store, self._hidden_name(number))
                os.rename(hidden, os.path.join(self._store, file["name"]))
                fault(f"{self._kind}:rename")
        fsync_path(self._store)
        removed = zip((file.name for file in self._files), self._counts, strict=True)
        facts = {
            **facts,
            "pondfs": __version__,
            "kind": self._kind,
            "removed": list(removed),
            "added": self._added,
        }
        data = json.dumps(facts).encode()
        with open(self._path, "ab") as request:
            request.write(data + len(data).to_bytes(8, "little"))
        fault(f"{self._kind}:written")
        before = sum(file.size for file in self._files)
        after = sum(file["size"] for file in self._added)
        return Rewritten(
            self._request, [file["name"] for file in self._added], after, before - after
        )

    def discard(self) -> None:
        """Remove what was written."""
        for number, added in enumerate(self._added):
            for name in (self._hidden_name(number), added["name"]):
                unlink_quietly(os.path.join(self._store, name))
        unlink_quietly(self._path)

    def close(self) -> None:
        """Let go of the old files."""
        self._reader.close()


def _map_file(fd: int, size: int) -> mmap.mmap | None:
    if not size:
        return None
    # A full disk has to show here, not when a page is written back.
    os.posix_fallocate(fd, 0, size)
    return mmap.mmap(fd, size)


class _Summary:
    """The bounds of a file's columns, group by group."""

    def __init__(self) -> None:
        self._bounds: list[list[int]] = [[], [], [], []]
        self._rows = 0

    def add(self, group: Group) -> None:
        table = group.rows.table.slice(group.start, group.stop - group.start)
        self._rows += table.num_rows
        times = table["timestamp"].cast(pa.int64()).to_numpy()
        columns = (
            ints(table, "version"), times, node_ids(table, "part_id"), node_ids(table, "node_id"),
        )  # fmt: skip
        for bounds, column in zip(self._bounds, columns, strict=True):
            bounds += [int(column.min()), int(column.max())]

    def statistics(self) -> str:
        return statistics(*self._bounds, count=self._rows)


class _Share:
    """Says when a file is full, so that all become as large as each other.

    Shape: *before* are sizes as a `Group` has them, *after* as they are written.
    """

    def __init__(self, before: float, full_bytes: int) -> None:
        self._left = before
        self._full = full_bytes
        self._before = self._after = 0.0
        self._size = 0

    def begin(self) -> None:
        """A new file begins."""
        self._size = 0

    def add(self, group: Group, size: int) -> None:
        """*group* was written, and took *size* bytes."""
        self._left = max(0.0, self._left - group.size)
        self._before += group.size
        self._after += size
        self._size += size

    def is_full(self, group: Group) -> bool:
        """Return whether the file ends before *group*: best where a directory does."""
        if not self._size:
            return False
        ratio = self._after / self._before
        coming = group.size * ratio
        total = self._size + max(self._left, group.size) * ratio
        if total <= self._full:
            return False
        goal = total / math.ceil(total / self._full)
        return self._size + coming > 1.25 * goal or (
            group.begins and self._size + coming / 2 > goal
        )


def _size_of(page: Page) -> int:
    parts = page.parts if page.packed is None else [f for p in page.packed for f in p.frames]
    return sum(map(len, parts))


def check_pages(file: DataFile) -> None:
    """Read all of a file that is to be rewritten, and compare with its checksums.

    Contents are copied as they are found, under new checksums: nobody could tell any more what a
    disk made of them.

    Raises: StoreDamaged.
    """
    with damage_of(file), open(file.path, "rb", buffering=0) as raw:
        open_checked(*read_of(raw), file, file.path)
        with pq.ParquetFile(
            file.path, memory_map=False, pre_buffer=False, page_checksum_verification=True
        ) as parquet:
            for number in range(parquet.num_row_groups):
                parquet.read_row_group(number, use_threads=False)
