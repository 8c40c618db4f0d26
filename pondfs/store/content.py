"""Reading contents: one `pread` where the layout is ours, decoded row groups where it is not.

The hot path is `read_nowait` and `read` of a content whose position is known and whose file is
open: attribute look-ups and one system call. Page checksums are not looked at there: they cover
whole pages, so checking one would mean reading up to 8 MiB to answer 4 KiB. Other readers of the
table check them.
"""

import errno
import json
import os
import threading
import time
from bisect import bisect_right
from collections import OrderedDict, deque
from collections.abc import Container

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pondfs.errors import StoreDamaged
from pondfs.extent import Content
from pondfs.store.layout import FileBytes, Group, find_groups
from pondfs.store.pages import Positions, locate_values
from pondfs.store.schema import CONTENT

CACHE_BYTES = 64 << 20
"""Decoded row groups of compacted files kept in memory."""

SMALL_READ_BYTES = 64 << 10
"""Up to this a read waits a moment for the disk on the spot before it goes through a thread."""

DISK_MOMENT_S = 150e-6
"""That moment: what the thread would cost."""

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
        row_count: how many rows it has; None when nobody knows.
        handle: the open file, or None; see `ContentReader`.
        held: keeps the file readable when its name is gone; see `hold`.
        used: read again since it was opened, or since the reader's clock hand last passed.
    """

    __slots__ = (
        "handle", "held", "max_version", "min_version", "modified_ms", "name", "path", "row_count",
        "size", "stats", "used",
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
        self.row_count: int | None = parsed.get("numRecords")
        self.handle: Handle | None = None
        self.held: Handle | None = None
        self.used = False

    def hold(self) -> None:
        """Keep the file readable until the last reader has let go of this, whatever its name does.

        Raises: OSError.
        """
        if self.held is None:
            self.held = Handle(os.open(self.path, os.O_RDONLY | os.O_CLOEXEC))

    def __repr__(self) -> str:
        return f"DataFile({self.name}, {self.size} bytes)"


class Handle:
    """An open data file.

    Closed when the last user lets go, so a read can never meet a number that meanwhile means
    another file.
    """

    __slots__ = ("fd", "groups", "lengths", "lock", "positions", "starts")

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.lock = threading.Lock()
        # Bytes of content of each row; set with `starts`.
        self.lengths: Positions = np.empty(0, np.int64)
        # The row groups and the first row of each; empty until somebody asks.
        self.groups: list[Group] = []
        self.starts: list[int] = []
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

    def read_nowait(self, content: Content, skip: int, target: memoryview) -> bool:
        """Fill *target* from *skip*; False when that could mean waiting for the disk.

        Into the caller's buffer: making and zeroing a fresh one costs as much as the read.
        """
        file: DataFile = content.file
        handle = file.handle
        if content.position < 0 or handle is None or not self._nowait:
            return False
        file.used = True
        try:
            got = os.preadv(handle.fd, (target,), content.position + skip, os.RWF_NOWAIT)
            # A short answer is a part that is cached, or a damaged file: `read` tells them apart.
            return got == len(target)
        except BlockingIOError:
            if len(target) > SMALL_READ_BYTES:
                return False
            return _read_soon(handle.fd, content.position + skip, target)
        except OSError as error:
            if error.errno in (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS):
                self._nowait = False
                return False
            raise

    def read(self, content: Content, skip: int, target: memoryview) -> None:
        """Fill *target* with bytes of *content* from *skip*.

        Raises: StoreDamaged (EIO) naming the file when it is gone, too short, or not what its
            rows say; OSError as the disk says.
        """
        file: DataFile = content.file
        handle = file.handle
        if handle is None:
            handle = self._open_file(file)
        else:
            file.used = True
        position = self._position(file, handle, content)
        if position < 0:
            target[:] = self._read_decoded(file, handle, content, skip, len(target))
            return
        done = 0
        while done < len(target):
            got = os.preadv(handle.fd, (target[done:],), position + skip + done)
            if not got:
                raise StoreDamaged(
                    f"data file {file.path} is shorter than its rows say: restore it from a backup"
                )
            done += got

    def prefetch(self, content: Content, skip: int, length: int) -> None:
        """Have the disk begin to read *length* bytes of *content* from *skip*.

        Raises: as `read`.
        """
        file: DataFile = content.file
        handle = file.handle or self._open_file(file)
        position = self._position(file, handle, content)
        if position >= 0:
            os.posix_fadvise(handle.fd, position + skip, length, os.POSIX_FADV_WILLNEED)

    # --- opening and locating ---

    def _open_file(self, file: DataFile) -> Handle:
        with self._open_lock:
            if file.handle is not None:
                return file.handle
            if file.held is not None:
                # Not among the open ones: it shall go with the last who knows it.
                file.handle = file.held
                return file.held
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

    def _position(self, file: DataFile, handle: Handle, content: Content) -> int:
        """Return where the content begins in the file; -1 when its row group must be decoded."""
        position = content.position
        if position < 0:
            position = content.position = self._locate(file, handle, content)
        return position

    def _locate(self, file: DataFile, handle: Handle, content: Content) -> int:
        """Return the content's byte position; -1 when its row group must be decoded."""
        group, at = self._group(file, handle, content.row)
        if handle.groups[group].start < 0:
            return -1
        found = handle.positions.get(group)
        if found is None:
            with handle.lock:
                found = handle.positions.get(group) or self._load_positions(file, handle, group)
                if found is None:
                    handle.groups[group] = handle.groups[group]._replace(start=-1)
                    return -1
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
        at = row - handle.starts[group]
        if at >= handle.groups[group].rows:
            raise StoreDamaged(f"data file {file.path} has no row {row}")
        return group, at

    def _load_positions(
        self, file: DataFile, handle: Handle, group: int
    ) -> tuple[Positions, Positions] | None:
        first, rows, start, stop = handle.groups[group]
        lengths = handle.lengths[first : first + rows]
        found = locate_values(FileBytes(handle.fd, stop), start, stop, lengths, file.path)
        return None if found is None else (found, lengths)

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

    def forget(self, names: Container[str]) -> None:
        """Let go of files that are about to be removed."""
        with self._open_lock:
            for file in self._open:
                if file.name in names:
                    file.handle = None
            self._open = deque(file for file in self._open if file.name not in names)

    def close(self) -> None:
        """Let go of every open file and decoded row group."""
        with self._open_lock:
            for file in self._open:
                file.handle = None
            self._open.clear()
        with self._decode_lock:
            self._decoded.clear()
            self._decoded_bytes = 0


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
        handle.groups = find_groups(parquet)
        # All at once: opening the reader anew for each row group costs more than this column.
        column = parquet.read(columns=["length"], use_threads=False)["length"]
        handle.lengths = column.fill_null(0).to_numpy().astype(np.int64)
    # Last: others look at `starts` without the lock.
    handle.starts = [group.first_row for group in handle.groups]


def _read_soon(fd: int, position: int, target: memoryview) -> bool:
    """Send the disk for a small piece and look for it a moment; False when it takes longer.

    Going through a thread and back costs 150 us, a flash disk answers in 60. A slower disk costs
    us the moment on top.
    """
    os.posix_fadvise(fd, position, len(target), os.POSIX_FADV_WILLNEED)
    stop = time.perf_counter() + DISK_MOMENT_S
    while time.perf_counter() < stop:
        try:
            return os.preadv(fd, (target,), position, os.RWF_NOWAIT) == len(target)
        except BlockingIOError:
            continue
    return False
