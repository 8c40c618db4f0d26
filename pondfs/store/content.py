"""Reading contents: one `pread` where the layout is ours, decoded row groups where it is not.

The hot path is `read_nowait` and `read` of a content whose position is known and whose file is
open: attribute look-ups and one system call. Page checksums are not looked at there: they cover
whole pages, so checking one would mean reading up to 8 MiB to answer 4 KiB. Other readers of the
table check them, and so does `pond check`.
"""

import errno
import json
import os
import threading
from bisect import bisect_right
from collections import OrderedDict, deque

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pondfs.errors import StoreDamaged
from pondfs.extent import Content
from pondfs.store.pages import Positions, locate_values
from pondfs.store.schema import CONTENT

CACHE_BYTES = 64 << 20
"""Decoded row groups of compacted files kept in memory."""


UNKNOWN_VERSION = 1 << 62


class DataFile:
    """The store's handle of one data file. Cheap: a pond has thousands.

    Attributes:
        name: its path inside the store.
        path: its whole path.
        size: bytes.
        stats: Delta statistics as they stand in its add action: JSON, "" when there are none.
        min_version: oldest version with a row in here; 0 when nobody knows.
        max_version: newest version with a row in here; 2^62 when nobody knows.
        modified_ms: modification time as in its add action.
        handle: the open file, or None; see `ContentReader`.
        used: read since the reader's clock hand last passed.
    """

    __slots__ = (
        "handle", "max_version", "min_version", "modified_ms", "name", "path", "size", "stats",
        "used",
    )  # fmt: skip

    def __init__(self, store: str, name: str, size: int, stats: str, modified_ms: int) -> None:
        self.name = name
        self.path = os.path.join(store, name)
        self.size = size
        self.stats = stats
        self.modified_ms = modified_ms
        parsed = json.loads(stats) if stats else {}
        self.min_version = int(parsed.get("minValues", {}).get("version", 0))
        self.max_version = int(parsed.get("maxValues", {}).get("version", UNKNOWN_VERSION))
        self.handle: Handle | None = None
        self.used = False

    def __repr__(self) -> str:
        return f"DataFile({self.name}, {self.size} bytes)"


class Handle:
    """An open data file.

    Closed when the last user lets go, so a read can never meet a number that meanwhile means
    another file.
    """

    __slots__ = ("fd", "groups", "lock", "positions", "starts")

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.lock = threading.Lock()
        # First row of each row group, and a last one past the end; empty until somebody asks.
        self.starts: list[int] = []
        # Of each row group the (start, stop) of its content, or None when it must be decoded.
        self.groups: list[tuple[int, int] | None] = []
        self.positions: dict[int, tuple[Positions, Positions]] = {}

    def __del__(self) -> None:
        os.close(self.fd)


class ContentReader:
    """Reads contents of any data file; bounds open files and decoded memory. Thread-safe."""

    def __init__(self, max_open: int, cache_bytes: int = CACHE_BYTES) -> None:
        self._max_open = max_open
        self._cache_bytes = cache_bytes
        self._open: deque[DataFile] = deque()
        self._open_lock = threading.Lock()
        self._nowait = True
        self._decode_lock = threading.Lock()
        self._decoded: OrderedDict[tuple[str, int], pa.ChunkedArray] = OrderedDict()
        self._decoded_bytes = 0

    # --- hot ---

    def read_nowait(self, content: Content, skip: int, length: int) -> memoryview | None:
        """Return the bytes, or None when answering could mean waiting for the disk.

        A fresh buffer each time: it is handed on as it is, and a copy would cost more than its
        zeroing (1 MiB: 63 µs so, 139 µs through a reused buffer, 47 µs by a plain pread).
        """
        file: DataFile = content.file
        handle = file.handle
        if content.position < 0 or handle is None or not self._nowait:
            return None
        file.used = True
        buffer = bytearray(length)
        try:
            got = os.preadv(handle.fd, (buffer,), content.position + skip, os.RWF_NOWAIT)
            # A short answer is a part that is cached, or a damaged file: `read` tells them apart.
            return memoryview(buffer) if got == length else None
        except BlockingIOError:
            return None
        except OSError as error:
            if error.errno in (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS):
                self._nowait = False
                return None
            raise

    def read(self, content: Content, skip: int, length: int) -> bytes:
        """Return *length* bytes of *content* from *skip*.

        Raises: StoreDamaged (EIO) naming the file when it is gone, too short, or not what its
            rows say; OSError as the disk says.
        """
        file: DataFile = content.file
        file.used = True
        handle = file.handle or self._open_file(file)
        position = content.position
        if position < 0:
            position = self._locate(file, handle, content)
            if position < 0:
                return self._read_decoded(file, handle, content, skip, length)
            content.position = position
        data = os.pread(handle.fd, length, position + skip)
        if len(data) != length:
            data = self._read_rest(file, handle, position + skip, length, data)
        return data

    # --- opening and locating ---

    def _read_rest(
        self, file: DataFile, handle: Handle, at: int, length: int, data: bytes
    ) -> bytes:
        while len(data) < length:
            more = os.pread(handle.fd, length - len(data), at + len(data))
            if not more:
                raise StoreDamaged(
                    f"data file {file.path} is shorter than its rows say: restore it from a backup"
                )
            data += more
        return data

    def _open_file(self, file: DataFile) -> Handle:
        with self._open_lock:
            if file.handle is not None:
                return file.handle
            while len(self._open) >= self._max_open:
                # The clock algorithm: what was read since the hand last passed stays once more.
                old = self._open.popleft()
                if old.used:
                    old.used = False
                    self._open.append(old)
                else:
                    old.handle = None
            try:
                handle = Handle(os.open(file.path, os.O_RDONLY | os.O_CLOEXEC))
            except FileNotFoundError:
                raise StoreDamaged(
                    f"data file {file.path} is gone: restore it from a backup"
                ) from None
            file.handle = handle
            self._open.append(file)
            return handle

    def _locate(self, file: DataFile, handle: Handle, content: Content) -> int:
        """Return the content's byte position; -1 when its row group must be decoded."""
        group, at = self._group(file, handle, content.row)
        if handle.groups[group] is None:
            return -1
        found = handle.positions.get(group)
        if found is None:
            with handle.lock:
                found = handle.positions.get(group) or self._load_positions(file, handle, group)
                handle.positions[group] = found
        positions, lengths = found
        self._check_length(file, content, int(lengths[at]))
        return int(positions[at])

    def _group(self, file: DataFile, handle: Handle, row: int) -> tuple[int, int]:
        """Return the row group that holds *row*, and the row's number in it."""
        if not handle.starts:
            with handle.lock:
                if not handle.starts:
                    _load_layout(file, handle)
        group = bisect_right(handle.starts, row) - 1
        if not 0 <= group < len(handle.groups):
            raise StoreDamaged(f"data file {file.path} has no row {row}")
        return group, row - handle.starts[group]

    def _load_positions(
        self, file: DataFile, handle: Handle, group: int
    ) -> tuple[Positions, Positions]:
        span = handle.groups[group]
        assert span is not None
        start, stop = span
        with _parquet(file, handle) as parquet:
            column = parquet.read_row_group(group, columns=["length"], use_threads=False)["length"]
        lengths = column.fill_null(0).to_numpy().astype(np.int64)
        buffer = _FileBytes(handle.fd, stop)
        return locate_values(buffer, start, stop, lengths, file.path), lengths

    def _check_length(self, file: DataFile, content: Content, length: int) -> None:
        if length != content.length:
            raise StoreDamaged(
                f"data file {file.path} row {content.row} holds {length} bytes of content, "
                f"not {content.length}: restore it from a backup"
            )

    # --- decoding ---

    def _read_decoded(
        self, file: DataFile, handle: Handle, content: Content, skip: int, length: int
    ) -> bytes:
        group, at = self._group(file, handle, content.row)
        # Decoding is serialized: two at once would hold twice the memory.
        with self._decode_lock:
            key = (file.name, group)
            column = self._decoded.get(key)
            if column is None:
                with _parquet(file, handle) as parquet:
                    column = parquet.read_row_group(group, columns=[CONTENT], use_threads=False)[
                        CONTENT
                    ]
                self._decoded[key] = column
                self._decoded_bytes += column.nbytes
                while self._decoded_bytes > self._cache_bytes and len(self._decoded) > 1:
                    _, old = self._decoded.popitem(last=False)
                    self._decoded_bytes -= old.nbytes
            else:
                self._decoded.move_to_end(key)
        value = column[at].as_buffer()
        self._check_length(file, content, 0 if value is None else value.size)
        return bytes(memoryview(value)[skip : skip + length])

    def close(self) -> None:
        """Let go of every open file and decoded row group."""
        with self._open_lock:
            for file in self._open:
                file.handle = None
            self._open.clear()
        with self._decode_lock:
            self._decoded.clear()
            self._decoded_bytes = 0


class _FileBytes:
    """A file seen as bytes, one byte at a time, read in blocks: page headers lie far apart."""

    BLOCK = 4096

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


def _parquet(file: DataFile, handle: Handle) -> pq.ParquetFile:
    """Open the Parquet reader on the very file we hold, even if its name is gone meanwhile."""
    try:
        return pq.ParquetFile(f"/proc/self/fd/{handle.fd}", memory_map=False)
    except (pa.ArrowInvalid, pa.ArrowIOError) as error:
        raise StoreDamaged(
            f"data file {file.path} is damaged ({error}): restore it from a backup"
        ) from error


def _load_layout(file: DataFile, handle: Handle) -> None:
    with _parquet(file, handle) as parquet:
        metadata = parquet.metadata
        schema = parquet.schema
        index = parquet.schema_arrow.get_field_index(CONTENT)
        column = schema.column(index)
        required = column.max_definition_level == 0 and column.max_repetition_level == 0
        starts = [0]
        for number in range(metadata.num_row_groups):
            group = metadata.row_group(number)
            chunk = group.column(index)
            plain = (
                required
                and chunk.compression == "UNCOMPRESSED"
                and not chunk.has_dictionary_page
                and "PLAIN" in chunk.encodings
                and set(chunk.encodings) <= {"PLAIN", "RLE", "BIT_PACKED"}
            )
            begin = chunk.data_page_offset
            handle.groups.append((begin, begin + chunk.total_compressed_size) if plain else None)
            starts.append(starts[-1] + group.num_rows)
    # Last: others look at `starts` without the lock.
    handle.starts = starts
