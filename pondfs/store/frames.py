"""Where compressed contents lie in a data file: which frame to decode for which bytes.

In files that are written anew the content column is compressed where that pays: in pages, each of
one or more ZSTD frames of `FRAME_BYTES` before compression. To anybody else these are ordinary
Parquet pages (a page of several frames is what RFC 8878 calls Zstandard data). To us every frame
stands for itself, so 4 KiB out of a value of 1 MiB cost the reading and decoding of one frame.

A table of them lies in the file, behind the last row group and before the footer, where Parquet
looks at nothing it was not pointed to: pages, frames, and 16 bytes at the end to know it by. It has
a checksum of each frame, as the one in a page's header covers the whole page.

Shape: see `PAGE` and `FRAME`; the end is the number of pages, the number of frames, the CRC-32 of
all that, and `MAGIC`.
"""

import os
from array import array
from bisect import bisect_left
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from zlib_ng.zlib_ng import crc32

from pondfs.errors import StoreDamaged

FRAME_BYTES = 128 << 10
"""What one frame holds: decoding it takes 0.1 to 0.2 ms, and smaller ones compress less well."""

MAGIC = b"pnd1"

PAGE = np.dtype(
    [("row", "<i8"), ("body", "<i8"), ("rows", "<i4"), ("size", "<i4"), ("frames", "<i4")]
)
"""A page: number of its first row in the file, where its first frame begins, its rows, its bytes
before compression, its frames."""

FRAME = np.dtype([("size", "<i4"), ("crc", "<u4")])
"""A frame: its bytes, and their CRC-32."""

_END = np.dtype([("pages", "<u4"), ("frames", "<u4"), ("crc", "<u4"), ("magic", "S4")])
_FOOTER_END_BYTES = 8  # the footer's length, and Parquet's own magic
_PREFIX_BYTES = 4
_START_BITS = 20

Ints = NDArray[np.int64]


def pack_position(body: int, start: int) -> int:
    """Return, as a content's position, that it begins *start* bytes into the page at *body*.

    Less than -1, so it is taken for no byte position; -1 means that nobody knows.
    """
    return -2 - (body << _START_BITS | start)


def unpack_position(position: int) -> tuple[int, int]:
    """Return where the page's first frame begins in the file, and where the content does in it."""
    code = -2 - position
    return code >> _START_BITS, code & (1 << _START_BITS) - 1


class FrameTable:
    """The compressed pages of one data file. Immutable.

    Attributes:
        starts: where each frame begins in the file.
        sizes: how many bytes it has there.
        crcs: their checksum.
        wholes: how many bytes it has when decoded.
    """

    def __init__(self, pages: NDArray[np.void], frames: NDArray[np.void]) -> None:
        self._pages = pages
        counts = pages["frames"].astype(np.int64)
        first = np.cumsum(counts) - counts
        sizes = frames["size"].astype(np.int64)
        before = np.cumsum(sizes) - sizes
        of_frame = np.repeat(np.arange(len(pages)), counts)
        starts = pages["body"][of_frame] + before - before[first[of_frame]]
        nth = np.arange(len(frames)) - first[of_frame]
        wholes = np.minimum(pages["size"][of_frame] - nth * FRAME_BYTES, FRAME_BYTES)
        # Arrays: an item of numpy's costs ten times as much, and a read looks at a few; a list of
        # numbers takes five times the memory, and a TiB has eight million frames.
        self.starts = _numbers(starts)
        self.sizes = _numbers(frames["size"])
        self.crcs = _numbers(frames["crc"])
        self.wholes = _numbers(wholes)
        # Of each page: where it begins, its first frame, what it has when decoded. In order.
        self._bodies = _numbers(pages["body"])
        self._firsts = _numbers(first)
        self._page_sizes = _numbers(pages["size"])

    def find(self, position: int, skip: int, length: int, name: str) -> tuple[int, int, int]:
        """Return where *length* bytes lie from *skip* in the content at *position*.

        Returns: the number of the first frame, of the one after the last, and where in the first.
        Raises: StoreDamaged naming *name* when there is no such page, or it is shorter.
        """
        body, start = unpack_position(position)
        at = bisect_left(self._bodies, body)
        first, size = 0, -1
        if at < len(self._bodies) and self._bodies[at] == body:
            first, size = self._firsts[at], self._page_sizes[at]
        start += skip
        if start + length > size:
            raise _damaged(name, "its table of frames does not have what its rows say")
        stop = start + length
        return (
            first + start // FRAME_BYTES,
            first + -(-stop // FRAME_BYTES),
            start % FRAME_BYTES,
        )

    def locate(self, first_row: int, lengths: Ints, name: str) -> Ints:
        """Return the positions of the contents of one row group or several; -1 where not here.

        Shape: *lengths* are those of the rows from *first_row* on.
        Raises: StoreDamaged naming *name* when the pages do not hold what the rows say.
        """
        positions = np.full(len(lengths), -1, np.int64)
        low, high = np.searchsorted(self._pages["row"], [first_row, first_row + len(lengths)])
        pages = self._pages[low:high]
        if not len(pages):
            return positions
        rows = pages["rows"].astype(np.int64)
        # Rows that are in no page, between: those of row groups that are not compressed.
        at = np.repeat(pages["row"] - first_row - (np.cumsum(rows) - rows), rows)
        at += np.arange(len(at))
        if at[-1] >= len(lengths):
            raise _damaged(name, "its pages do not end where the column does")
        length = lengths[at]
        ends = np.cumsum(length + _PREFIX_BYTES)
        sizes = np.cumsum(pages["size"].astype(np.int64))
        if (ends[np.cumsum(rows) - 1] != sizes).any():
            raise _damaged(name, "a page does not hold what its rows say")
        start = ends - length - np.repeat(sizes - pages["size"], rows)
        if (start >> _START_BITS).any():
            raise _damaged(name, "a page has no end")
        positions[at] = -2 - (np.repeat(pages["body"], rows) << _START_BITS | start)
        return positions


def _numbers(column: NDArray[Any]) -> "array[int]":
    return array("q", column.astype(np.int64).tobytes())


def table_bytes(
    pages: Sequence[tuple[int, int, int, int, int]], frames: Sequence[tuple[int, int]]
) -> bytes:
    """Return the table as it lies in the file: of `PAGE`s and `FRAME`s."""
    data = np.array(pages, PAGE).tobytes() + np.array(frames, FRAME).tobytes()
    end = np.array([(len(pages), len(frames), crc32(data), MAGIC)], _END)
    return data + end.tobytes()


def load_table(fd: int, size: int, name: str) -> FrameTable | None:
    """Return the table of a data file of *size* bytes; None when it has none.

    Raises: StoreDamaged naming *name* when it has one that is damaged.
    """
    stop = size - _FOOTER_END_BYTES
    if stop < 0:
        return None
    stop -= int.from_bytes(os.pread(fd, 4, stop), "little")
    at = stop - _END.itemsize
    if at < 0:
        return None
    (end,) = np.frombuffer(os.pread(fd, _END.itemsize, at), _END).tolist() or [None]
    if end is None or end[3] != MAGIC:
        return None
    pages, frames, crc, _ = end
    length = pages * PAGE.itemsize + frames * FRAME.itemsize
    data = os.pread(fd, length, at - length) if length <= at else b""
    if len(data) != length or crc32(data) != crc:
        raise _damaged(name, "its table of frames is not as it was written")
    return FrameTable(
        np.frombuffer(data, PAGE, pages), np.frombuffer(data, FRAME, frames, pages * PAGE.itemsize)
    )


def _damaged(name: str, what: str) -> StoreDamaged:
    return StoreDamaged(f"data file {name} is damaged ({what}): restore it from a backup")
