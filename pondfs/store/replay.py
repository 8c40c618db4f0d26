"""A file's bytes, version by version: its rows gone through once, oldest first."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import pyarrow as pa

from pondfs.extent import Content, Extent, ExtentMap
from pondfs.store.image import Ints

if TYPE_CHECKING:
    from pondfs.store.trace import Trace

_FAR = 1 << 63

_Row = tuple[int, int, bool, int, int | None, bool, int, int]
"""version, row, has_attr, size, valid_below, has_content, offset, length."""


class Replay:
    """What a file held, as `step` goes on.

    Attributes:
        size: bytes.
        attr_row: the row its attributes stand in, in the trace; -1 before there is one.
    """

    def __init__(self, trace: "Trace", about: Ints) -> None:
        """Take *about*, the rows about the file; only from the middle of its life on if there is
        one that cuts everything off.
        """
        rows = trace.rows
        about = about[rows.has_attr[about] | rows.has_content[about]]
        # In one go: each call to Arrow costs more than a few rows do.
        table = rows.table.select(["size", "valid_below", "offset", "length"])
        size, below, offset, length = table.take(pa.array(rows.order[about])).columns
        self._rows = list(
            zip(
                trace.version[about].tolist(),
                about.tolist(),
                rows.has_attr[about].tolist(),
                size.to_pylist(),
                below.to_pylist(),
                rows.has_content[about].tolist(),
                offset.to_pylist(),
                length.to_pylist(),
                strict=True,
            )
        )
        self._trace = trace
        self._at = 0
        self._map = ExtentMap()
        self.size = 0
        self.attr_row = -1

    def step(self, version: int) -> bool:
        """Go on to *version*; return whether the file holds something else than before.

        Only what was written in between is compared, so a step costs what it wrote.

        Raises: StoreDamaged.
        """
        stop = self._at
        while stop < len(self._rows) and self._rows[stop][0] <= version:
            stop += 1
        rows, self._at = self._rows[self._at : stop], stop
        size = next((row[3] for row in reversed(rows) if row[2]), self.size)
        if size != self.size:
            self._apply(rows)
            return True
        ranges = _touched(rows, size)
        before = [part for touched in ranges for part in self._find(*touched)]
        self._apply(rows)
        after = [part for touched in ranges for part in self._find(*touched)]
        return bool(ranges) and not self._trace.same_bytes(before, after, size)

    def take(self, version: int) -> None:
        """Go on to *version* without comparing."""
        while self._at < len(self._rows) and self._rows[self._at][0] <= version:
            self._apply(self._rows[self._at : self._at + 1])
            self._at += 1

    def _apply(self, rows: Sequence[_Row]) -> None:
        trace = self._trace
        for _, row, has_attr, size, below, has_content, offset, length in rows:
            if has_attr:
                self.size = size
                self.attr_row = row
                if below is not None:
                    self._map.truncate(below)
            if has_content and length:
                content = Content.stored(trace.file_of(row), int(trace.rows.row[row]), length)
                content.position = int(trace.rows.position[row])
                self._map.write(Extent(offset, length, content))

    def _find(self, start: int, stop: int) -> list[Extent]:
        return _clipped(self._map.find(start, stop - start), start, stop)

    def extents(self) -> list[Extent]:
        """Return what the file holds, sorted, within its size."""
        return _clipped(list(self._map), 0, self.size)

    @property
    def allocated_bytes(self) -> int:
        """How much of the size is no hole."""
        beyond = self._map.find(self.size, _FAR - self.size)
        if not beyond:
            return self._map.allocated_bytes
        whole = sum(extent.length for extent in beyond)
        return self._map.allocated_bytes - whole + max(0, self.size - beyond[0].offset)


def _touched(rows: Sequence[_Row], size: int) -> list[tuple[int, int]]:
    """Return the ranges below *size* that *rows* change, sorted, apart from each other."""
    found: list[tuple[int, int]] = []
    for _, _, has_attr, _, below, has_content, offset, length in rows:
        if has_attr and below is not None:
            found.append((below, size))
        if has_content and length:
            found.append((offset, offset + length))
    merged: list[tuple[int, int]] = []
    for start, stop in sorted(found):
        stop = min(stop, size)
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(stop, merged[-1][1]))
        elif start < stop:
            merged.append((start, stop))
    return merged


def _clipped(extents: list[Extent], start: int, stop: int) -> list[Extent]:
    parts = []
    for extent in extents:
        begin, end = max(extent.offset, start), min(extent.offset + extent.length, stop)
        if begin < end:
            skip = extent.skip + begin - extent.offset
            parts.append(Extent(begin, end - begin, extent.content, skip))
    return parts
