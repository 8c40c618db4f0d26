"""Checksums of a data file's blocks, so that a read of any piece of it is checked for rot.

The checksum in a Parquet page's header covers the whole page, 8 MiB of contents perhaps, which
nobody can look at to answer 4 KiB. So each file has a CRC-32 of every `BLOCK_BYTES` of it, from its
first byte on: headers, columns and contents alike. They lie behind the last row group, before the
table of frames if there is one (see `frames`), where Parquet points at nothing: 4 bytes a block,
and 16 bytes at the end to know them by.

Shape: the checksums; then the number of them, `BLOCK_BYTES`, the CRC-32 of the checksums, `MAGIC`.
The last block ends where they begin.
"""

import os
import struct
import sys
from array import array
from collections.abc import Sequence

from zlib_ng.zlib_ng import crc32

from pondfs.errors import StoreDamaged
from pondfs.store.seal import find_seal

BLOCK_BYTES = 16 << 10
"""What is read and checked at least, in 0.5 us. The checksums of a TiB take 256 MiB."""

MAGIC = b"pnd2"

_FRAMES_MAGIC = b"pnd1"
_END = struct.Struct("<III4s")
_TAIL_BYTES = 16 << 10
"""Read at once from the end of a file: in most files the footer and the checksums are there."""
_FRAMES_PAGE_BYTES, _FRAMES_FRAME_BYTES = 28, 8


class BlockSums:
    """The checksums of a file's blocks as it is written."""

    def __init__(self) -> None:
        self._sums = array("I")
        self._sum = 0
        self._room = BLOCK_BYTES

    def add(self, part: bytes | memoryview) -> None:
        """Go on with *part*."""
        size = len(part)
        if size < self._room:
            self._sum = crc32(part, self._sum)
            self._room -= size
            return
        whole = memoryview(part)
        at = 0
        while at < size:
            some = whole[at : at + self._room]
            self._sum = crc32(some, self._sum)
            self._room -= len(some)
            at += len(some)
            if not self._room:
                self._sums.append(self._sum)
                self._sum, self._room = 0, BLOCK_BYTES

    def table(self) -> bytes:
        """Return the checksums of what was added, as they lie in the file."""
        sums = array("I", self._sums)
        if self._room < BLOCK_BYTES:
            sums.append(self._sum)
        data = _little_endian(sums).tobytes()
        return data + _END.pack(len(sums), BLOCK_BYTES, crc32(data), MAGIC)


class Sums:
    """The checksums of one data file. Immutable.

    Attributes:
        stop: where the last block ends.
    """

    __slots__ = ("_path", "_sums", "stop")

    def __init__(self, sums: "array[int]", stop: int, path: str) -> None:
        self._sums = sums
        self.stop = stop
        self._path = path

    def around(self, position: int, length: int) -> tuple[int, int]:
        """Return where the blocks begin and end that have these bytes.

        Raises: StoreDamaged when they are not all in the file.
        """
        end = position + length
        if end > self.stop:
            raise StoreDamaged(
                f"data file {self._path} is shorter than its rows say: restore it from a backup"
            )
        begin = position - position % BLOCK_BYTES
        return begin, min(end + -end % BLOCK_BYTES, self.stop)

    def check(self, begin: int, parts: Sequence[memoryview]) -> None:
        """Compare whole blocks, from the one at *begin* on, in any number of pieces.

        Raises: StoreDamaged naming the file and the place when they are not as they were written.
        """
        sums = self._sums
        block, left = begin // BLOCK_BYTES, min(BLOCK_BYTES, self.stop - begin)
        found = 0
        for part in parts:
            at, size = 0, len(part)
            while at < size:
                some = part[at : at + left] if at or size > left else part
                found = crc32(some, found)
                at += len(some)
                left -= len(some)
                if not left:
                    if found != sums[block]:
                        raise self._damaged(block)
                    found = 0
                    block += 1
                    left = min(BLOCK_BYTES, self.stop - block * BLOCK_BYTES)

    def _damaged(self, block: int) -> StoreDamaged:
        return StoreDamaged(
            f"data file {self._path} is damaged (in the {BLOCK_BYTES >> 10} KiB from byte "
            f"{block * BLOCK_BYTES} on): restore it from a backup"
        )


def load_sums(fd: int, path: str) -> Sums | None:
    """Return the checksums of a data file; None when it has none: others write none.

    Its seal says whether there are some: not the place where they are, which may have rotted, or
    hold somebody's bytes that look like them.

    Raises: StoreDamaged naming *path* when they, or the footer, are not as they were written;
        OSError.
    """
    size = os.fstat(fd).st_size
    tail = _Tail(fd, size)
    seal = find_seal(tail.read, size, path)
    if seal is None:
        return None
    stop = seal.footer_start
    end = _find_end(tail, stop)
    if end is not None and end[3] == _FRAMES_MAGIC:
        pages, frames, _, _ = end
        stop -= _END.size + pages * _FRAMES_PAGE_BYTES + frames * _FRAMES_FRAME_BYTES
        end = _find_end(tail, stop)
    if end is None or end[3] != MAGIC:
        raise StoreDamaged(
            f"data file {path} is damaged (it has no checksums): restore it from a backup"
        )
    count, block_bytes, expected, _ = end
    begin = stop - _END.size - 4 * count
    data = tail.read(begin, 4 * count) if begin >= 0 else b""
    if (
        len(data) != 4 * count
        or crc32(data) != expected
        or block_bytes != BLOCK_BYTES
        or count != -(-begin // BLOCK_BYTES)
    ):
        raise StoreDamaged(
            f"data file {path} is damaged (its checksums are not as they were written): restore it "
            "from a backup"
        )
    sums = array("I")
    sums.frombytes(data)
    return Sums(_little_endian(sums), begin, path)


def _little_endian(sums: "array[int]") -> "array[int]":
    if sys.byteorder == "big":
        sums = array("I", sums)
        sums.byteswap()
    return sums


def _find_end(tail: "_Tail", stop: int) -> tuple[int, int, int, bytes] | None:
    at = stop - _END.size
    return _END.unpack(tail.read(at, _END.size)) if at >= 0 else None


class _Tail:
    """The end of a file, read at once, and what lies before it as it is asked for."""

    def __init__(self, fd: int, size: int) -> None:
        self._fd = fd
        self._start = max(0, size - _TAIL_BYTES)
        self._data = os.pread(fd, size - self._start, self._start)

    def read(self, at: int, length: int) -> bytes:
        if at >= self._start:
            return self._data[at - self._start : at - self._start + length]
        return os.pread(self._fd, length, at)
