"""Reading contents: one `pread` if they lie as they are, decoded frames if they are compressed.

The hot path is `read_nowait` and `read` of a content whose position is known and whose file is
open: attribute look-ups and one system call, or a copy from the cache of what was decoded. Either
way nothing goes out that was not compared with a checksum: of its blocks where contents lie as they
are (see `sums`), of its frames where they are compressed, of its pages where another program wrote
them. Files of an earlier pondfs have no sums of blocks: what lies in them as it is goes unchecked.

Row groups that another program wrote are decoded whole.
"""

import errno
import json
import os
import threading
from bisect import bisect_right
from collections import deque
from collections.abc import Container, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pondfs.errors import StoreDamaged
from pondfs.extent import Content
from pondfs.store.damage import damage_of, naming
from pondfs.store.decode import AT_ONCE, OpenFile, PackedFile
from pondfs.store.framecache import FrameCache
from pondfs.store.frames import FRAME_BYTES, load_table, unpack_position
from pondfs.store.layout import FileBytes, Group, find_groups
from pondfs.store.pages import Positions, locate_values
from pondfs.store.pread import Piece, Source, fill, fill_nowait, read_run, read_soon
from pondfs.store.schema import CONTENT
from pondfs.store.seal import find_seal, read_of
from pondfs.store.sums import load_sums

CACHE_BYTES = 64 << 20
"""Decoded contents kept in memory by whoever does not say how much: pondfs's own commands."""

AHEAD_SHARE = 4
"""What is decoded ahead of one reader is at most this part of the cache."""

SMALL_READ_BYTES = 64 << 10
"""Up to this a read waits a moment for the disk on the spot before it goes through a thread."""

UNKNOWN_VERSION = 1 << 62

OPEN = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
"""A symlink is no data file of ours, see `table`."""


_NO_LENGTHS: Positions = np.empty(0, np.int64)


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
        self.min_version = int((parsed.get("minValues") or {}).get("version") or 0)
        self.max_version = int((parsed.get("maxValues") or {}).get("version") or UNKNOWN_VERSION)
        self.row_count: int | None = parsed.get("numRecords")
        self.handle: Handle | None = None
        self.held: Handle | None = None
        self.used = False

    def hold(self) -> None:
        """Keep the file readable until the last reader has let go of this, whatever its name does.

        Raises: OSError; StoreDamaged.
        """
        if self.held is None:
            self.held = Handle(self.path)

    def __repr__(self) -> str:
        return f"DataFile({self.name}, {self.size} bytes)"


class Handle:
    """An open data file, and what is known of what is in it."""

    __slots__ = (
        "asked",
        "fd",
        "groups",
        "lengths",
        "lock",
        "open",
        "packed",
        "positions",
        "source",
        "starts",
    )

    def __init__(self, path: str) -> None:
        """Open it. Raises: OSError; StoreDamaged."""
        fd = os.open(path, OPEN)
        self.open = OpenFile(fd)
        self.fd = fd
        with naming(path):
            self.source = Source(fd, path, load_sums(fd, path))
        # What is compressed in it: nothing, or nobody asked yet.
        self.packed: PackedFile | None = None
        self.asked = False
        self.lock = threading.Lock()
        # Bytes of content of each row; set with `starts`.
        self.lengths: Positions = _NO_LENGTHS
        # The row groups and the first row of each; empty until somebody asks.
        self.groups: list[Group] = []
        self.starts: list[int] = []
        self.positions: dict[int, tuple[Positions, Positions]] = {}


class ContentReader:
    """Reads contents of any data file; bounds open files and decoded memory. Thread-safe."""

    def __init__(self, max_open: int, cache_bytes: int = CACHE_BYTES) -> None:
        self._max_open = max_open
        self._open: deque[DataFile] = deque()
        self._open_lock = threading.Lock()
        self._nowait = True
        self._cache = FrameCache(cache_bytes)
        self._decode_lock = threading.Lock()

    def limit_cache(self, most_bytes: int) -> None:
        """Keep at most *most_bytes* of what was decoded."""
        self._cache.limit(most_bytes)

    @property
    def cache_hits(self) -> int:
        """How often decoded bytes were found in memory."""
        return self._cache.hits

    @property
    def cache_misses(self) -> int:
        """How often bytes had to be decoded."""
        return self._cache.misses

    @property
    def cache_bytes(self) -> int:
        """What is decoded and in memory."""
        return self._cache.bytes

    # --- hot ---

    def read_nowait(self, content: Content, skip: int, target: memoryview) -> bool:
        """Fill *target* from *skip*; False when that could mean waiting: for the disk, for a frame
        to be decoded.

        Into the caller's buffer: making and zeroing a fresh one costs as much as the read.
        """
        file: DataFile = content.file
        handle = file.handle
        position = content.position
        if position == -1 or handle is None:
            return False
        file.used = True
        if position < -1:
            packed = handle.packed
            return packed is not None and packed.copy_cached(position, skip, target)
        if not self._nowait:
            return False
        try:
            return fill_nowait(handle.source, position + skip, target)
        except BlockingIOError:
            if len(target) > SMALL_READ_BYTES:
                return False
            return read_soon(handle.source, position + skip, target)
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
        handle = self._handle(file)
        position = self._position(file, handle, content)
        if position == -1:
            target[:] = self._read_decoded(file, handle, content, skip, len(target))
        elif position < -1:
            self._packed(file, handle).copy(position, skip, target)
        else:
            fill(handle.source, position + skip, target)

    def read_many(self, pieces: Sequence[Piece]) -> None:
        """Do what `read` does with each; what lies side by side comes by one system call.

        Raises: as `read`; some may be filled then.
        """
        at = 0
        while at < len(pieces):
            content, skip, target = pieces[at]
            file: DataFile = content.file
            handle = self._handle(file)
            position = self._position(file, handle, content)
            if position == -1:
                self.read(content, skip, target)
                at += 1
            elif position < -1:
                at = self._read_packed(pieces, at, file, self._packed(file, handle))
            else:
                at = read_run(pieces, at, handle.source)

    def _read_packed(
        self, pieces: Sequence[Piece], at: int, file: DataFile, packed: PackedFile
    ) -> int:
        """Read pieces of one file whose frames follow each other. Returns: the one after."""
        first = -1
        stop = 0
        chosen: list[tuple[int, int, memoryview]] = []
        for content, skip, target in pieces[at:]:
            if content.file is not file or content.position >= -1:
                break
            start, end, begin = packed.table.find(content.position, skip, len(target), file.path)
            if first < 0:
                first, stop = start, end
            elif not first <= start <= stop or end - first > AT_ONCE:
                break
            stop = max(stop, end)
            chosen.append((start, begin, target))
        if len(chosen) == 1:
            content, skip, target = pieces[at]
            packed.copy(content.position, skip, target)
            return at + 1
        frames = packed.frames(first, stop)
        for number, begin, target in chosen:
            done, number = 0, number - first
            while done < len(target):
                part = frames[number][begin : begin + len(target) - done]
                target[done : done + len(part)] = part
                done += len(part)
                begin = 0
                number += 1
        return at + len(chosen)

    def prefetch(self, wanted: Sequence[tuple[Content, int, int]]) -> None:
        """Have the disk begin to read what will be wanted: contents, from where, how much.

        What is compressed is decoded, too, unless it would take too much of the cache.

        Raises: as `read`.
        """
        compressed: list[tuple[PackedFile, int, int]] = []
        whole = 0
        noted: tuple[DataFile | None, int] = None, -1
        for content, skip, length in wanted:
            file: DataFile = content.file
            if content.position < -1:
                # Most lie in the frame of the one before, and looking up takes as long as decoding.
                body, begin = unpack_position(content.position)
                if begin + skip + length <= FRAME_BYTES:
                    if noted == (file, body):
                        continue
                    noted = file, body
            handle = self._handle(file)
            position = self._position(file, handle, content)
            if position >= 0:
                os.posix_fadvise(handle.fd, position + skip, length, os.POSIX_FADV_WILLNEED)
            elif position < -1:
                packed = self._packed(file, handle)
                first, stop, _ = packed.table.find(position, skip, length, file.path)
                if compressed:
                    last, start, end = compressed[-1]
                    if last is packed and start <= first <= end:
                        compressed[-1] = packed, start, max(end, stop)
                        continue
                compressed.append((packed, first, stop))
        for packed, first, stop in compressed:
            packed.advise(first, stop)
            whole += sum(packed.table.wholes[first:stop])
        if whole <= self._cache.most_bytes // AHEAD_SHARE:
            for packed, first, stop in compressed:
                for start in range(first, stop, AT_ONCE):
                    packed.frames(start, min(start + AT_ONCE, stop))

    # --- opening and locating ---

    def _handle(self, file: DataFile) -> Handle:
        handle = file.handle
        if handle is None:
            return self._open_file(file)
        file.used = True
        return handle

    def _packed(self, file: DataFile, handle: Handle) -> PackedFile:
        packed = self._find_packed(file, handle)
        if packed is None:
            raise StoreDamaged(
                f"data file {file.path} is damaged (it has no table of its frames): "
                "restore it from a backup"
            )
        return packed

    def _find_packed(self, file: DataFile, handle: Handle) -> PackedFile | None:
        if not handle.asked:
            with handle.lock:
                size = os.fstat(handle.fd).st_size
                if table := load_table(handle.fd, size, file.path):
                    handle.packed = PackedFile(
                        file.name, file.path, handle.open, table, self._cache
                    )
                # Last: others look at it without the lock.
                handle.asked = True
        return handle.packed

    def _open_file(self, file: DataFile) -> Handle:
        if (known := self._find_open(file)) is not None:
            return known
        # Without the lock: the sums come from the disk, and others open other files meanwhile.
        try:
            handle = Handle(file.path)
        except FileNotFoundError:
            if (known := self._find_open(file)) is not None:
                return known
            raise StoreDamaged(f"data file {file.path} is gone: restore it from a backup") from None
        with self._open_lock:
            if file.handle is not None:
                return file.handle  # another was quicker
            while len(self._open) >= self._max_open:
                # The clock algorithm: what was read since the hand last passed stays once more.
                old = self._open.popleft()
                if old.used:
                    old.used = False
                    self._open.append(old)
                else:
                    old.handle = None
            file.handle = handle
            self._open.append(file)
            return handle

    def _find_open(self, file: DataFile) -> Handle | None:
        with self._open_lock:
            if file.handle is None and file.held is not None:
                # Not among the open ones: it shall go with the last who knows it.
                file.handle = file.held
            return file.handle

    def _position(self, file: DataFile, handle: Handle, content: Content) -> int:
        """Return the content's position; -1 when its row group must be decoded."""
        position = content.position
        if position == -1:
            with naming(file.path):
                position = content.position = self._locate(file, handle, content)
        return position

    def _locate(self, file: DataFile, handle: Handle, content: Content) -> int:
        """Return the content's position; -1 when its row group must be decoded."""
        group, at = self._group(file, handle, content.row)
        if handle.groups[group].start < 0 and self._find_packed(file, handle) is None:
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
        if start < 0:
            assert handle.packed is not None
            return handle.packed.table.locate(first, lengths, file.path), lengths
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
        key = (file.name, f"row group {group}")
        column = self._cache.wait_or_claim(key)
        if column is None:
            try:
                # Decoding is serialized: two at once would hold twice the memory.
                with self._decode_lock:
                    column = _decode_contents(file, handle, group)
            except BaseException:
                self._cache.give_up(key)
                raise
            self._cache.keep(key, column, column.nbytes)
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
        self._cache.clear()


def _parquet(file: DataFile, handle: Handle) -> pq.ParquetFile:
    """Open the Parquet reader on the very file we hold, even if its name is gone meanwhile.

    Raises: StoreDamaged; what `damage_of` knows.
    """
    find_seal(*read_of(handle.fd), file.path)
    return pq.ParquetFile(
        f"/proc/self/fd/{handle.fd}", memory_map=False, page_checksum_verification=True
    )


def _decode_contents(file: DataFile, handle: Handle, group: int) -> pa.ChunkedArray:
    with damage_of(file), _parquet(file, handle) as parquet:
        return parquet.read_row_group(group, columns=[CONTENT], use_threads=False)[CONTENT]


def _load_layout(file: DataFile, handle: Handle) -> None:
    with damage_of(file), _parquet(file, handle) as parquet:
        handle.groups = find_groups(parquet)
        # All at once: opening the reader anew for each row group costs more than this column.
        column = parquet.read(columns=["length"], use_threads=False)["length"]
        handle.lengths = column.fill_null(0).to_numpy().astype(np.int64)
    # Last: others look at `starts` without the lock.
    handle.starts = [group.first_row for group in handle.groups]
