"""`ExtentMap` against the plainest model there is: one byte array."""

from hypothesis import given
from hypothesis import strategies as st

from pondfs.extent import Content, Extent, ExtentMap

SIZE = 48
# (offset, length) of a write, or (size, None) of a truncate; bytes differ from write to write.
steps = st.lists(
    st.tuples(st.integers(0, SIZE - 1), st.one_of(st.none(), st.integers(1, 16))), max_size=40
)


def shown(extents: ExtentMap) -> list[int | None]:
    """What each byte shows; None in holes."""
    found: list[int | None] = [None] * (SIZE + 16)
    end = -1
    for extent in extents:
        assert extent.length > 0
        assert extent.offset >= end, "sorted, without overlap"
        end = extent.offset + extent.length
        assert 0 <= extent.skip
        assert extent.skip + extent.length <= extent.content.length
        data = extent.content.data
        assert data is not None
        found[extent.offset : end] = data[extent.skip : extent.skip + extent.length]
    return found


@given(steps)
def test_writes_and_truncates_show_what_a_byte_array_does(
    plan: list[tuple[int, int | None]],
) -> None:
    extents = ExtentMap()
    model: list[int | None] = [None] * (SIZE + 16)
    contents: list[Content] = []
    freed_bytes = 0
    for number, (offset, length) in enumerate(plan):
        if length is None:
            freed_bytes += extents.truncate(offset)
            model[offset:] = [None] * (len(model) - offset)
        else:
            content = Content(bytes([number]) * length, length, offset)
            contents.append(content)
            freed_bytes += extents.write(Extent(offset, length, content))
            model[offset : offset + length] = [number] * length
        assert shown(extents) == model
        assert extents.allocated_bytes == sum(byte is not None for byte in model)
    for number, content in zip(
        [n for n, (_, length) in enumerate(plan) if length is not None], contents, strict=True
    ):
        assert content.live == model.count(number)
        pieces = extents.pieces_of(content)
        assert sum(piece.length for piece in pieces) == content.live
    assert freed_bytes == sum(content.length for content in contents if content.live == 0)


@given(steps, st.integers(0, SIZE + 20), st.integers(1, SIZE))
def test_find_returns_exactly_the_overlapping_extents(
    plan: list[tuple[int, int | None]], offset: int, length: int
) -> None:
    extents = ExtentMap()
    for start, size in plan:
        if size is None:
            extents.truncate(start)
        else:
            extents.write(Extent(start, size, Content(bytes(size), size, start)))
    expected = [e for e in extents if e.offset < offset + length and e.offset + e.length > offset]
    assert extents.find(offset, length) == expected


def test_replacing_a_piece_shows_the_new_content_in_its_place() -> None:
    extents = ExtentMap()
    old = Content(b"aaaaaa", 6, 0)
    extents.write(Extent(0, 6, old))
    extents.write(Extent(2, 2, Content(b"bb", 2, 2)))
    for piece in extents.pieces_of(old):
        extents.replace(piece, Content(b"c" * piece.length, piece.length, piece.offset))
    assert bytes(b for b in shown(extents) if b is not None) == b"ccbbcc"


def test_appending_does_not_slow_down_with_length() -> None:
    """An append is O(1): the map of a log with many extents is never walked."""
    extents = ExtentMap()
    for number in range(100_000):
        assert extents.write(Extent(number, 1, Content(b"x", 1, number))) == 0
    assert len(extents) == 100_000


def test_settled_content_lets_go_of_its_memory() -> None:
    content = Content(b"abc", 3)
    content.settle("file", 7, 99)
    assert (content.data, content.file, content.row, content.position) == (None, "file", 7, 99)
