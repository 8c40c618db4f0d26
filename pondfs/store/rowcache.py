"""The rows of all data files once more, in one local file that is mapped into memory.

Most data files of a busy pond hold a few rows, and each costs 0.6 ms to open: after a thousand
commits a mount, and each ``pond diff``, took 0.6 s for it (measured 2026-11; from here, 5 ms).

Data files never change and have names nobody gives twice, so what is cached can be missing but
never stale. It is believed only as far as its checksums go; what is not here, or not whole, is
read from the data files. ``_pond/rows`` may be deleted at any time.

The file is a run of records. Each is a header (`_HEADER`, zeros up to 64 bytes) and a stream of
Arrow IPC, padded to 64 bytes, whose schema names the data files. The writer appends records while
a pond is mounted and makes one of them when it opens the pond: beside readers at any moment, as
a header is written after what it is for, and nothing is ever cut off that one may have mapped.
"""

import json
import logging
import mmap
import os
import struct
import zlib
from collections.abc import Iterable, Iterator, Sequence
from typing import BinaryIO, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pondfs.entry import encode_name
from pondfs.node import Version, format_node_id
from pondfs.oplog import Row, Settled
from pondfs.store.content import DataFile
from pondfs.store.datafile import unlink_quietly
from pondfs.store.lock import acting_as, find_owner
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

_ROWS_LIKE_A_FILE = 5000
"""So many more rows make a data file cost twice as much to read."""

NOTED_FILES, NOTED_ROWS = 200, 4000
"""New data files, or rows in them, that make a record: 2 ms (4 ms) of the thread that commits."""

CLOSING_FILES = 20
"""New data files worth a record at closing."""

MOST_RECORDS = 16
"""More are made one at the next opening; each costs a reader 0.1 ms."""

_MOST_NOTED_ROWS = 1000  # in one file; reading such a file costs little for what it holds
_NO_ATTR = (None,) * 9
_BATCH_ROWS = 1 << 16

_FORMAT = 2
_MAGIC = b"pondrows"
_HEADER = struct.Struct("<8sIIQ")  # magic, format, checksum, bytes that follow the 64
_HEADER_BYTES = 64
_PIECE_BYTES = 1 << 20
_BLOCK_BYTES = 4096
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


class BadRecordError(ValueError):
    """Something in the cache is not as it was written; the message says what."""


_TROUBLE = (OSError, ValueError, TypeError, OverflowError, pa.ArrowException)


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
        except _TROUBLE as error:
            self.is_whole = False
            log.warning("%s is not used from here on: %s", self._path, error)

    def _load(self) -> None:
        with open(self._path, "rb", buffering=0) as raw:
            whole = pa.py_buffer(mmap.mmap(raw.fileno(), 0, access=mmap.ACCESS_READ))
            for start, size, checksum in _headers(raw.fileno(), whole.size):
                # By reading, not through the map: there a bad sector would be the end of us.
                if _checksum(raw.fileno(), start, size) != checksum:
                    raise BadRecordError(f"the record at byte {start} is damaged")
                self._add(pa.ipc.open_stream(whole.slice(start, size)).read_all())

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

    def renew(self, files: Sequence[DataFile], scan: Scan) -> bool:
        """Write the cache anew if that is worth it; only the holder of the writer lock may.

        *scan* holds the rows of *files*, which are all the pond has. Never fails: what could not
        be written is read from the data files the next time.
        """
        counts = np.bincount(scan.file, minlength=len(files))
        by_rows = np.argsort(counts, kind="stable")
        row_bytes = scan.table.nbytes / max(1, scan.table.num_rows) + 8
        fits = np.zeros(len(files), bool)
        fits[by_rows] = np.cumsum(counts[by_rows]) * row_bytes <= MOST_BYTES
        is_here = np.array([self.find(file) is not None for file in files], bool)
        missing = counts[fits & ~is_here]
        cost = len(missing) + missing.sum() / _ROWS_LIKE_A_FILE
        in_vain = len(self.places) - is_here.sum()
        if self.is_whole and self.records <= MOST_RECORDS and max(cost, in_vain) <= WORTH_FILES:
            return False
        table = scan.table.append_column(CACHED_SCHEMA.field("position"), [scan.position])
        items = zip(files, counts.tolist(), fits.tolist(), strict=True)
        listed = [(file.name, file.size, rows) for file, rows, fit in items if fit]
        try:
            _replace(self._path, _batches(table, fits[scan.file]), listed)
        except _TROUBLE as error:
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

    def note(self, settled: Settled, version: Version, first_seq: int, rows: Sequence[Row]) -> None:
        """Take down *rows*, now durable in a data file; now and then, write what was noted."""
        if len(rows) > _MOST_NOTED_ROWS:
            return
        positions = dict(zip(settled.row_numbers, settled.positions, strict=True))
        noted: list[tuple[object, ...]] = []
        for at, row in enumerate(rows):
            # Not the content itself: it holds its bytes until the committer has settled it.
            length = None if row.content is None else row.content.length
            noted.append(
                (
                    version, first_seq + at, row.time_ns // 1000, row.op,
                    format_node_id(row.part), format_node_id(row.node),
                    *((None, None) if row.name is None else encode_name(row.name)),
                    row.removed, *(row.attr or _NO_ATTR), row.valid_below, row.metadata,
                    None if length is None else row.offset, length, positions.get(at, -1),
                )
            )  # fmt: skip
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
        except _TROUBLE as error:
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
    temporary = f"{path}.tmp"
    try:
        with open(temporary, "w+b", opener=_open_private) as file:
            _write_record(file, 0, tables, files)
        os.rename(temporary, path)
    except BaseException:
        unlink_quietly(temporary)
        raise


def _append(path: str, tables: Iterable[pa.Table], files: Sequence[Item]) -> None:
    fd = _open_private(path, os.O_RDWR)
    end = os.fstat(fd).st_size
    try:
        with open(fd, "r+b") as file:
            for _ in _headers(fd, end):
                pass  # raises when what is there is not whole: nothing behind it would be found
            if end < 2 * MOST_BYTES:
                _write_record(file, end, tables, files)
    except BaseException:
        # Closed first, as that tries to write again. Nobody uses a record without its header.
        os.truncate(path, end)
        raise


def _open_private(path: str, flags: int) -> int:
    with acting_as(find_owner(os.path.dirname(os.path.dirname(path)))):
        return os.open(path, flags | os.O_CREAT | os.O_CLOEXEC, 0o600)


def _write_record(
    file: BinaryIO, start: int, tables: Iterable[pa.Table], files: Sequence[Item]
) -> None:
    schema = CACHED_SCHEMA.with_metadata({_FILES: json.dumps(files, separators=(",", ":"))})
    file.seek(start + _HEADER_BYTES)
    with pa.ipc.new_stream(file, schema) as stream:
        for table in tables:
            stream.write_table(table)
    file.write(bytes(-file.tell() % _HEADER_BYTES))
    file.flush()
    size = file.tell() - start - _HEADER_BYTES
    checksum = _checksum(file.fileno(), start + _HEADER_BYTES, size)
    os.pwrite(file.fileno(), _HEADER.pack(_MAGIC, _FORMAT, checksum, size), start)


# --- what is whole ---


def _headers(fd: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Yield each record's first byte, its size and its checksum.

    Raises: BadRecordError where they do not lead to the file's end.
    """
    at = 0
    while at < end:
        header = os.pread(fd, _HEADER.size, at)
        if len(header) < _HEADER.size:
            raise BadRecordError("it ends in the middle of a record")
        magic, number, checksum, size = _HEADER.unpack(header)
        if magic != _MAGIC or number != _FORMAT:
            raise BadRecordError(f"at byte {at} there is no record of this version of pondfs")
        at += _HEADER_BYTES + size
        if at > end or size % _HEADER_BYTES:
            raise BadRecordError("it ends in the middle of a record")
        yield at - size, size, checksum


def _checksum(fd: int, start: int, size: int) -> int:
    """Return the CRC-32 of the sums along and across all 4 KiB blocks: 15 ms per 100 MB.

    CRC-32 itself takes 37. It is about torn writes, lost blocks, flipped bits and words in the
    wrong place, not about anybody's intent.
    """
    piece = bytearray(min(_PIECE_BYTES, size + -size % _BLOCK_BYTES))
    blocks = np.frombuffer(piece, np.uint64).reshape(-1, _BLOCK_BYTES // 8)
    across = np.zeros(_BLOCK_BYTES // 8, np.uint64)
    checksum = zlib.crc32(size.to_bytes(8, "little"))
    stop = start + size
    while start < stop:
        got = os.preadv(fd, (memoryview(piece)[: stop - start],), start)
        if not got:
            raise BadRecordError("it ends in the middle of a record")
        used = -(-got // _BLOCK_BYTES)
        piece[got : used * _BLOCK_BYTES] = bytes(used * _BLOCK_BYTES - got)
        checksum = zlib.crc32(blocks[:used].sum(axis=1), checksum)
        across += blocks[:used].sum(axis=0)
        start += got
    return zlib.crc32(across.data, checksum)
