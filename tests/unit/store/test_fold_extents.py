"""Single cases; `test_fold` holds the whole fold against one that goes row by row."""

from pathlib import Path

from pondfs.node import NodeId
from pondfs.store.fold import load_image
from tests.unit.store.support import (
    extent_row,
    file_row,
    new_reader,
    read_bytes,
    root_row,
    size_row,
    write_version,
)


def test_old_bytes_do_not_come_back_after_truncating_and_writing_beyond(tmp_path: Path) -> None:
    """truncate(0), then write at 50: without ``valid_below`` bytes 0 to 49 came back."""
    files = [
        write_version(tmp_path, 1, [root_row(), file_row(10, b"x" * 60, b"a")]),
        write_version(
            tmp_path, 2, [size_row(10, 52, valid_below=0), extent_row(10, 50, b"yy")]
        ),
    ]  # fmt: skip
    reader = new_reader()
    (extent,) = load_image(files, reader).load_extents(NodeId(10))
    assert (extent.offset, extent.length) == (50, 2)


def test_pieces_of_one_row_share_one_located_content(tmp_path: Path) -> None:
    files = [
        write_version(tmp_path, 1, [root_row(), file_row(10, b"abcdef", b"a")]),
        write_version(tmp_path, 2, [extent_row(10, 2, b"XX"), size_row(10, 6)]),
    ]
    first, middle, last = load_image(files, new_reader()).load_extents(NodeId(10))
    assert first.content is last.content
    assert first.content is not middle.content
    assert (first.skip, last.skip) == (0, 4)
    assert first.content.position > 0


def test_many_overwrites_of_one_file_among_calm_ones(tmp_path: Path) -> None:
    """Only files with overlaps are laid out extent by extent; the others stay as they are."""
    calm = [file_row(100 + i, b"calm", b"c%d" % i) for i in range(50)]
    files = [write_version(tmp_path, 1, [root_row(), *calm, file_row(10, bytes(4096), b"db")])]
    model = bytearray(4096)
    for version in range(2, 40):
        offset, data = version * 97 % 4000, b"%03d" % version * 30
        data = data[: 4096 - offset]
        model[offset : offset + len(data)] = data
        files.append(write_version(tmp_path, version, [extent_row(10, offset, data)]))
    reader = new_reader()
    image = load_image(files, reader)
    found = bytearray(4096)
    for extent in image.load_extents(NodeId(10)):
        data = read_bytes(reader, extent.content, extent.skip, extent.length)
        found[extent.offset : extent.offset + extent.length] = data
    assert found == model
    assert all(len(image.load_extents(NodeId(100 + i))) == 1 for i in range(50))
