"""The list of versions as the data files have it: one ``commit`` row each, on the root.

Rows are the truth; log entries say the same of the newest versions, until they are removed. The
root's partition and the root's own rows come first in a compacted file, in the order of versions,
so by the statistics of row groups the newest twenty of 100,000 versions cost one row group.
"""

import heapq
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pondfs.errors import StoreDamaged
from pondfs.node import ROOT, Version, format_node_id
from pondfs.oplog import VersionInfo, info_from_facts
from pondfs.store.content import UNKNOWN_VERSION, DataFile
from pondfs.store.damage import damage_of
from pondfs.store.files import data_files
from pondfs.store.lock import ReaderLock
from pondfs.store.rowcache import RowCache
from pondfs.store.scan import SMALL_FILE_BYTES, open_checked
from pondfs.store.seal import read_of
from pondfs.store.table import POND_DIR, open_table

_COLUMNS = ("version", "timestamp", "op", "metadata")
_ROOT_ID = format_node_id(ROOT)

_SCHEMA = pa.schema(
    {"version": pa.int64(), "timestamp": pa.timestamp("us", "UTC"), "metadata": pa.string()}
)

FILES_BEFORE_CACHE = 32
"""Data files that are read one by one (1 ms each) before the cache of rows is opened for more."""


@dataclass(order=True, slots=True)
class _Piece:
    """A data file, or one row group of it, that may have commit rows.

    Attributes:
        key: what it is ordered by: the newest version that may be in it, negative.
        file: the data file.
        parquet: it, open; None: it was not looked into yet.
        group: the number of the row group.
    """

    key: int
    number: int
    file: DataFile = field(compare=False)
    parquet: pq.ParquetFile | None = field(default=None, compare=False)
    group: int = field(default=-1, compare=False)


class CommitRows:
    """The versions of a pond from *first* to *last* (None: the newest). Reads what it must.

    For one question; no data file goes meanwhile.
    """

    def __init__(self, store: str, first: int = 1, last: int | None = None) -> None:
        """Raises: NotAPond; StoreDamaged."""
        self._lock = ReaderLock(os.path.join(store, POND_DIR))
        self._store = store
        self._first = first
        self._last = UNKNOWN_VERSION if last is None else last
        self._cache: RowCache | None = None
        self._read_files = 0
        self._count = 0
        self._pieces: list[_Piece] = []
        for file in data_files(store, open_table(store, writable=False).snapshot):
            self._add(file.min_version, file.max_version, file)

    def newest(self, limit: int | None) -> list[VersionInfo]:
        """Return the newest *limit* of the versions (None: all), newest first.

        Raises: StoreDamaged.
        """
        tables: list[pa.Table] = []
        count = 0
        for table, rest in self._tables():
            tables.append(table)
            count += table.num_rows
            # What is not read yet has no version newer than *rest*.
            if limit is not None and count >= limit:
                found = _sorted(tables)["version"]
                if not limit or rest < found[limit - 1].as_py():
                    break
        return _infos(_sorted(tables)[:limit])

    def times(self) -> tuple[list[Version], list[int]]:
        """Return the versions, oldest first, and when each was committed, ns since 1970 UTC."""
        table = _sorted([table for table, _ in self._tables()])
        times_us = table["timestamp"].cast(pa.int64())
        versions: list[Version] = table["version"].to_pylist()[::-1]
        times_ns: list[int] = pc.multiply(times_us, 1000).to_pylist()[::-1]
        return versions, times_ns

    def _tables(self) -> Iterator[tuple[pa.Table, int]]:
        """Yield commit rows, and each time the newest version that others may have."""
        while self._pieces:
            piece = heapq.heappop(self._pieces)
            table = self._read(piece)
            if table is not None:
                yield table, -self._pieces[0].key if self._pieces else 0

    def _add(self, low: int, high: int, file: DataFile, **where: Any) -> None:
        if low <= self._last and high >= self._first:
            self._count += 1
            heapq.heappush(self._pieces, _Piece(-min(high, self._last), self._count, file, **where))

    def _read(self, piece: _Piece) -> pa.Table | None:
        """Return the commit rows in a piece; None when it was only looked into."""
        file = piece.file
        with damage_of(file):
            if piece.parquet is not None:
                return self._choose(
                    piece.parquet.read_row_group(piece.group, list(_COLUMNS), use_threads=False)
                )
            if (cached := self._find_cached(file)) is not None:
                return self._choose(cached)
            with open(file.path, "rb", buffering=0) as raw:
                parquet = open_checked(
                    *read_of(raw), file, file.path, rows=file.size <= SMALL_FILE_BYTES
                )
            groups = _root_groups(parquet, file)
            if parquet.metadata.num_row_groups == 1:
                return self._choose(parquet.read(list(_COLUMNS), use_threads=False))
        for group, (low, high) in groups.items():
            self._add(low, high, file, parquet=parquet, group=group)
        return None

    def _find_cached(self, file: DataFile) -> pa.Table | None:
        self._read_files += 1
        if self._read_files <= FILES_BEFORE_CACHE:
            return None
        if self._cache is None:
            self._cache = RowCache(self._store)
        place = self._cache.find(file)
        if place is None:
            return None
        return place.record.slice(place.first, place.rows).select(list(_COLUMNS))

    def _choose(self, table: pa.Table) -> pa.Table:
        table = table.filter(pc.equal(table["op"], "commit"))
        version = table["version"]
        inside = pc.and_(pc.greater_equal(version, self._first), pc.less_equal(version, self._last))
        return table.filter(inside).select(["version", "timestamp", "metadata"])


def _root_groups(parquet: pq.ParquetFile, file: DataFile) -> dict[int, tuple[int, int]]:
    """Return the row groups that may have rows of the root, and the versions they may have."""
    metadata = parquet.metadata
    number_of = {name: number for number, name in enumerate(metadata.schema.names)}
    at = {name: number_of[name] for name in ("version", "part_id", "node_id")}
    found: dict[int, tuple[int, int]] = {}
    for number in range(metadata.num_row_groups):
        group = metadata.row_group(number)
        bounds = {}
        for name, column in at.items():
            statistics = group.column(column).statistics
            if statistics is not None and statistics.has_min_max:
                bounds[name] = statistics.min, statistics.max
        if all(
            low <= _ROOT_ID <= high
            for low, high in (bounds.get(name, ("", "g")) for name in ("part_id", "node_id"))
        ):
            found[number] = bounds.get("version", (file.min_version, file.max_version))
    return found


def _sorted(tables: list[pa.Table]) -> pa.Table:
    """Bring the tables together, newest version first."""
    if not tables:
        return _SCHEMA.empty_table()
    kinds = [table.cast(_SCHEMA) if table.schema != _SCHEMA else table for table in tables]
    return pa.concat_tables(kinds).sort_by([("version", "descending")])


def _infos(table: pa.Table) -> list[VersionInfo]:
    try:
        # As one text, that takes half as long.
        texts = table["metadata"].fill_null("{}").to_pylist()
        return [
            info_from_facts(version, time_us, facts)
            for version, time_us, facts in zip(
                table["version"].to_pylist(),
                table["timestamp"].cast(pa.int64()).to_pylist(),
                json.loads(f"[{','.join(texts)}]"),
                strict=True,
            )
        ]
    except (ValueError, RecursionError) as error:
        raise StoreDamaged(f"a commit row is damaged ({error}): restore from a backup") from error
