"""Whether two files hold the same bytes; reads only what is not one and the same stored content."""

from collections.abc import Iterator, Sequence
from itertools import pairwise

from pondfs.extent import Extent
from pondfs.store.content import ContentReader

_PIECE_BYTES = 1 << 20


def same_bytes(
    reader: ContentReader, some: Sequence[Extent], other: Sequence[Extent], size: int
) -> bool:
    """Return whether two files of *size* bytes hold the same.

    Args:
        reader: reads the contents that have to be compared.
        some: the extents of one, sorted; gaps are zeros.
        other: the extents of the other.
        size: of both.
    Raises: StoreDamaged, OSError.
    """
    for start, stop, one, two in _side_by_side(some, other, size):
        if one is None and two is None:
            continue
        if one is not None and two is not None and _same_place(one, two):
            continue
        for at in range(start, stop, _PIECE_BYTES):
            length = min(_PIECE_BYTES, stop - at)
            if _read(reader, one, at, length) != _read(reader, two, at, length):
                return False
    return True


def _read(reader: ContentReader, extent: Extent | None, offset: int, length: int) -> bytes:
    data = bytearray(length)
    if extent is not None:
        skip = extent.skip + offset - extent.offset
        reader.read(extent.content, skip, memoryview(data))
    return bytes(data)


def _same_place(one: Extent, two: Extent) -> bool:
    return (
        one.content.file.name == two.content.file.name
        and one.content.row == two.content.row
        and one.skip - one.offset == two.skip - two.offset
    )


def _side_by_side(
    some: Sequence[Extent], other: Sequence[Extent], size: int
) -> Iterator[tuple[int, int, Extent | None, Extent | None]]:
    """Yield the ranges of a file over which neither side changes, and what shows on each side."""
    edges = {0, size}
    for extents in (some, other):
        for extent in extents:
            edges.add(min(extent.offset, size))
            edges.add(min(extent.offset + extent.length, size))
    border = sorted(edges)
    at = [0, 0]
    for start, stop in pairwise(border):
        shown: list[Extent | None] = []
        for side, extents in enumerate((some, other)):
            while (
                at[side] < len(extents)
                and extents[at[side]].offset + extents[at[side]].length <= start
            ):
                at[side] += 1
            here = extents[at[side]] if at[side] < len(extents) else None
            shown.append(here if here is not None and here.offset <= start else None)
        yield start, stop, shown[0], shown[1]
