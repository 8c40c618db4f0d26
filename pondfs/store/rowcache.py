"""The rows of all data files once more, in one local file that is mapped into memory.

Most data files of a busy pond hold a few rows, and each costs 0.6 ms to open: after a thousand
commits a mount, and each ``pond diff``, took 0.6 s for it (measured 2026-11; from here, 5 ms).

Data files never change and have names nobody gives twice, so what is cached can be missing but
never stale. It is believed only as far as its checksums go; what is not here, or not whole, is
read from the data files. ``_pond/rows`` may be deleted at any time.

The file is a run of records (`records`), whose schema names the data files. The writer appends
records while a pond is mounted and makes one of them when it opens the pond: beside readers at any
moment, as a header is written after what it is for, and nothing is ever cut off that one may have
mapped.
"""

import json
import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pondfs.oplog import Settled
from pondfs.store.content import DataFile
from pondfs.store.datafile import Run
from pondfs.store.lock import open_own
from pondfs.store.records import (
    TROUBLE,
    BadRecordError,
    Kind,
    headers,
    read_records,
    replace,
    write_record,
)
from pondfs.store.row_tables import record_of
from pondfs.store.scan import FOLD_COLUMNS, Scan
from pondfs.store.schema import SCHEMA
from pondfs.store.table import POND_DIR

log = logging.getLogger("pondfs.store")

MOST_BYTES = 256 << 20
"""Of rows kept here, about 1.4 million; files with few rows first. Reading a file costs 0.6 ms and
then 0.1 us a row, so what is left out is what gains least."""

WORTH_FILES = 100
"""Data files missing here, or here in vain, that are worth writing the cache anew at opening: 60 ms
of reading, against 0.1 s for every 100 MB of writing."""

_USUAL_ROW_BYTES = 170
"""What a row takes here, measured; only to guess before all rows are read."""

_ROWS_LIKE_A_FILE = 5000
"""So many more rows make a data file cost twice as much to read."""

NOTED_FILES, NOTED_ROWS = 200, 4000
"""New data files, or rows in them, that make a record: 2 ms (4 ms) of the thread that commits."""

CLOSING_FILES = 20
"""New data files worth a record at closing."""

MOST_RECORDS = 16
"""More are made one at the next opening; each costs a reader 0.1 ms."""

_MOST_NOTED_ROWS = 1000  # in one file; reading such a file costs little for what it holds
_BATCH_ROWS = 1 << 16

_KIND = Kind(b"pondrows", 2)
_FILES = b"pond.files"

CACHED_SCHEMA = pa.schema(
    [*(SCHEMA.field(name) for name in FOLD_COLUMNS), pa.field("position", pa.int64(), False)]
)


Item = tuple[str, int, int]
"""A data file as a record lists it: its name, its bytes, its rows."""


class Place(NamedTuple):
    """Where a data file's rows are: the record's rows from *first*, as many as *rows*."""

    record: pa.Table
    first: int
    rows: int
    size_bytes: int


class RowCache:
    """What the cache holds, as one look found it. Opening costs 1 ms, and 15 ms per 100 MB.

    Attributes:
        places: by name of the data file.
        records: how many there are.
        is_whole: whether all of it could be used.
    """

    def __init__(self, store: str) -> None:
        self._path = _path(store)
        self.places: dict[str, Place] = {}
        self.records = 0
        self.is_whole = True
        try:
            self._load()
        except FileNotFoundError:
            pass
        except TROUBLE as error:
            self.is_whole = False
            log.warning("%s is not used from here on: %s", self._path, error)

    def _load(self) -> None:
        for record in read_records(self._path, _KIND):
            self._add(record)

    def _add(self, record: pa.Table) -> None:
        if record.schema != CACHED_SCHEMA:
            raise BadRecordError("it has other columns than this version of pondfs")
        files: list[Item] = json.loads(record.schema.metadata[_FILES])
        if sum(rows for _, _, rows in files) != record.num_rows:
            raise BadRecordError("a record has not the rows it says")
        first = 0
        for name, size_bytes, rows in files:
            self.places[name] = Place(record, first, rows, size_bytes)
            first += rows
        self.records += 1

    def find(self, file: DataFile) -> Place | None:
        """Return where the rows of *file* are; None when they are not here."""
        place = self.places.get(file.name)
        return place if place is not None and place.size_bytes == file.size else None

    def is_worn(self, files: Sequence[DataFile]) -> bool:
        """Return whether writing it anew for *files*, all that the pond has, may be worth it."""
        counts = np.array([file.row_count or 0 for file in files], np.int64)
        return self._is_worn(files, counts, self._fits(counts, _USUAL_ROW_BYTES))

    def _is_worn(
        self, files: Sequence[DataFile], counts: NDArray[Any], fits: NDArray[np.bool_]
    ) -> bool:
        is_here = np.array([self.find(file) is not None for file in files], bool)
        missing = counts[fits & ~is_here]
        cost = len(missing) + missing.sum() / _ROWS_LIKE_A_FILE
        in_vain = len(self.places) - is_here.sum()
        return not self.is_whole or self.records > MOST_RECORDS or max(cost, in_vain) > WORTH_FILES

    @staticmethod
    def _fits(counts: NDArray[Any], row_bytes: float) -> NDArray[np.bool_]:
        by_rows = np.argsort(counts, kind="stable")
        fits = np.zeros(len(counts), bool)
        fits[by_rows] = np.cumsum(counts[by_rows]) * row_bytes <= MOST_BYTES
        return fits

    def renew(self, files: Sequence[DataFile], scan: Scan) -> bool:
        """Write the cache anew if that is worth it; only the holder of the writer lock may.

        *scan* holds the rows of *files*, which are all the pond has. Never fails: what could not
        be written is read from the data files the next time.
        """
        counts = np.bincount(scan.file, minlength=len(files))
        fits = self._fits(counts, scan.table.nbytes / max(1, scan.table.num_rows) + 8)
        if not self._is_worn(files, counts, fits):
            return False
        table = scan.table.append_column(CACHED_SCHEMA.field("position"), [scan.position])
        items = zip(files, counts.tolist(), fits.tolist(), strict=True)
        listed = [(file.name, file.size, rows) for file, rows, fit in items if fit]
        try:
            _replace(self._path, _batches(table, fits[scan.file]), listed)
        except TROUBLE as error:
            log.warning("%s could not be written: %s", self._path, error)
            return False
        return True


class RowKeeper:
    """Brings the rows of new data files into the cache, from what was written.

    For the holder of the writer lock, one call at a time. Never fails, as a commit must not for
    the sake of a cache.
    """

    def __init__(self, store: str) -> None:
        self._path = _path(store)
        self._files: dict[str, tuple[int, list[tuple[object, ...]]]] = {}
        self._rows = 0

    def note(self, settled: Settled, runs: Sequence[Run]) -> None:
        """Take down rows, now durable in a data file; now and then, write what was noted."""
        if sum(len(run.rows) for run in runs) > _MOST_NOTED_ROWS:
            return
        positions = dict(zip(settled.row_numbers, settled.positions, strict=True))
        noted: list[tuple[object, ...]] = []
        at = 0
        for run in runs:
            for seq, row in enumerate(run.rows, run.first_seq):
                noted.append((*record_of(run.version, seq, row), positions.get(at, -1)))
                at += 1
        self._files[settled.file.name] = (settled.file.size, noted)
        self._rows += len(noted)
        if len(self._files) >= NOTED_FILES or self._rows >= NOTED_ROWS:
            self._write()

    def forget(self, file: DataFile) -> None:
        """Drop what was noted of a file that will be in no commit."""
        self._files.pop(file.name, None)

    def close(self) -> None:
        """Write what was noted, if it is worth it."""
        if len(self._files) >= CLOSING_FILES:
            self._write()

    def _write(self) -> None:
        files = [(name, size, len(rows)) for name, (size, rows) in self._files.items()]
        columns = zip(*(row for _, rows in self._files.values() for row in rows), strict=True)
        self._files, self._rows = {}, 0
        try:
            kinds = CACHED_SCHEMA.types
            arrays = [pa.array(*pair) for pair in zip(columns, kinds, strict=True)]
            table = pa.Table.from_arrays(arrays, schema=CACHED_SCHEMA)
            _append(self._path, [table], files)
        except TROUBLE as error:
            log.warning("%s could not be written: %s", self._path, error)


def _path(store: str) -> str:
    return os.path.join(store, POND_DIR, "rows")


# --- writing ---


def _batches(table: pa.Table, chosen: NDArray[np.bool_]) -> Iterator[pa.Table]:
    """Yield the chosen rows in pieces: all at once would be in memory twice."""
    for start in range(0, table.num_rows, _BATCH_ROWS):
        part = table.slice(start, _BATCH_ROWS)
        if not chosen.all():
            part = part.filter(pa.array(chosen[start : start + _BATCH_ROWS]))
        yield part.combine_chunks()


def _replace(path: str, tables: Iterable[pa.Table], files: Sequence[Item]) -> None:
    replace(path, lambda file: write_record(file, 0, _KIND, _schema(files), tables))


def _append(path: str, tables: Iterable[pa.Table], files: Sequence[Item]) -> None:
    fd = open_own(path, os.O_RDWR | os.O_CREAT)
    try:
        end = os.fstat(fd).st_size
        try:
            with open(fd, "r+b", closefd=False) as file:
                for _ in headers(fd, end, _KIND):
                    pass  # raises when what is there is not whole: nothing behind it would be found
                if end < 2 * MOST_BYTES:
                    write_record(file, end, _KIND, _schema(files), tables)
        except BaseException:
            # The file object is closed first, as that tries to write again. By what is open: the
            # name may lead elsewhere by now. Nobody uses a record without its header.
            os.ftruncate(fd, end)
            raise
    finally:
        os.close(fd)


def _schema(files: Sequence[Item]) -> pa.Schema:
    return CACHED_SCHEMA.with_metadata({_FILES: json.dumps(files, separators=(",", ":"))})
