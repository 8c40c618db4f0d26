"""Extents: which bytes of a file come from where.

A file is a sorted run of extents that do not overlap; a gap reads as zeros. Each extent shows a
part of one `Content`: bytes that arrived together, first in memory and later in a data file. A
commit moves a content from memory to disk by changing the one `Content`, so no map has to be
rebuilt, however often its extents were split meanwhile.
"""

from bisect import bisect_right
from collections.abc import Iterable, Iterator
from typing import Any


class Content:
    """Bytes that were written together: pending in memory, or stored in a data file.

    Exactly one of two states: *data* is set (pending, or being committed), or *file* is set
    (stored). ``settle`` moves from the first to the second and never back.

    Attributes:
        data: the bytes while they are in memory.
        length: number of bytes; never changes.
        file: the store's handle of the data file; only the store looks inside.
        row: row number inside that file.
        position: byte position of the first byte inside that file; -1 while nobody has located
            it yet (a content that came from an image); less where the bytes are compressed
            (`store.frames`).
        live: bytes some extent still shows. Kept only while *fresh*.
        fresh: written since the last cut, so still in no row.
        offset: where in the file these bytes were written. Kept only while *fresh*.
    """

    __slots__ = ("data", "file", "fresh", "length", "live", "offset", "position", "row")

    def __init__(self, data: bytes | memoryview | None, length: int, offset: int = 0) -> None:
        self.data = data
        self.length = length
        self.live = length
        self.fresh = data is not None
        self.offset = offset
        self.file: Any = None
        self.row = -1
        self.position = -1

    @classmethod
    def stored(cls, file: Any, row: int, length: int) -> "Content":
        """Return a content that is already in *file* at *row*."""
        content = cls(None, length)
        content.file = file
        content.row = row
        return content

    def settle(self, file: Any, row: int, position: int) -> None:
        """Say where the bytes are now durable and let go of the memory."""
        self.file = file
        self.row = row
        self.position = position
        # Last: whoever reads concurrently looks at `data` first.
        self.data = None


class Extent:
    """A half-open range of a file shown from *skip* bytes inside *content*.

    Units: bytes. Never empty. Treated as immutable once it is in a map.
    """

    __slots__ = ("content", "length", "offset", "skip")

    def __init__(self, offset: int, length: int, content: Content, skip: int = 0) -> None:
        self.offset = offset
        self.length = length
        self.content = content
        self.skip = skip

    def __repr__(self) -> str:
        return f"Extent({self.offset}+{self.length} skip {self.skip} row {self.content.row})"


class ExtentMap:
    """The extents of one file, sorted by offset.

    A write at the end costs O(1), elsewhere O(log n) plus what it covers, so that an appended log
    with a hundred thousand extents does not slow down.
    """

    __slots__ = ("_extents", "_starts", "allocated_bytes")

    def __init__(self, extents: Iterable[Extent] = ()) -> None:
        self._extents = list(extents)
        self._starts = [extent.offset for extent in self._extents]
        # What is no hole. Kept, not summed: every stat of the file asks for it.
        self.allocated_bytes = sum(extent.length for extent in self._extents)

    def __iter__(self) -> Iterator[Extent]:
        return iter(self._extents)

    def __len__(self) -> int:
        return len(self._extents)

    def write(self, extent: Extent) -> int:
        """Put *extent* over whatever was there.

        Returns: bytes of fresh contents that nothing shows any more (memory that came free).
        """
        extents = self._extents
        self.allocated_bytes += extent.length
        if not extents or extents[-1].offset + extents[-1].length <= extent.offset:
            extents.append(extent)
            self._starts.append(extent.offset)
            return 0
        freed, at = self._clear(extent.offset, extent.offset + extent.length)
        extents.insert(at, extent)
        self._starts.insert(at, extent.offset)
        return freed

    def truncate(self, size: int) -> int:
        """Drop every byte at or above *size*. Returns as `write` does."""
        extents = self._extents
        if not extents or extents[-1].offset + extents[-1].length <= size:
            return 0
        return self._clear(size, extents[-1].offset + extents[-1].length)[0]

    def find(self, offset: int, length: int) -> list[Extent]:
        """Return the extents that overlap ``[offset, offset + length)``, in order, unclipped."""
        first = bisect_right(self._starts, offset) - 1
        if first < 0 or self._end(first) <= offset:
            first += 1
        last = bisect_right(self._starts, offset + length - 1, first)
        return self._extents[first:last]

    def pieces_of(self, content: Content) -> list[Extent]:
        """Return the extents that show the fresh *content*, in order."""
        return [e for e in self.find(content.offset, content.length) if e.content is content]

    def replace(self, old: Extent, content: Content) -> None:
        """Show *content* from its start in the place of *old* (same range)."""
        at = bisect_right(self._starts, old.offset) - 1
        self._extents[at] = Extent(old.offset, old.length, content)

    def _end(self, at: int) -> int:
        extent = self._extents[at]
        return extent.offset + extent.length

    def _clear(self, start: int, stop: int) -> tuple[int, int]:
        """Uncover ``[start, stop)``. Returns the freed fresh bytes and the index of *start*."""
        extents, starts = self._extents, self._starts
        first = bisect_right(starts, start) - 1
        if first < 0 or self._end(first) <= start:
            first += 1
        last = bisect_right(starts, stop - 1, first)
        freed = 0
        kept: list[Extent] = []
        insert_at = first
        for extent in extents[first:last]:
            end = extent.offset + extent.length
            gone = min(end, stop) - max(extent.offset, start)
            self.allocated_bytes -= gone
            if extent.offset < start:
                kept.append(
                    Extent(extent.offset, start - extent.offset, extent.content, extent.skip)
                )
                insert_at += 1
            if end > stop:
                cut = stop - extent.offset
                kept.append(Extent(stop, end - stop, extent.content, extent.skip + cut))
            content = extent.content
            if content.fresh:
                content.live -= gone
                if content.live == 0:
                    freed += content.length
        extents[first:last] = kept
        starts[first:last] = [extent.offset for extent in kept]
        return freed, insert_at
