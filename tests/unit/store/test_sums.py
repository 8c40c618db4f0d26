"""Every piece of a data file that is read is compared with what was written."""

import os
import random
import struct
from array import array
from pathlib import Path

import pytest

from pondfs.errors import StoreDamaged
from pondfs.extent import Content
from pondfs.node import Version
from pondfs.store.content import ContentReader, DataFile
from pondfs.store.datafile import Written, write_data_file
from pondfs.store.pread import Source, fill, fill_nowait
from pondfs.store.sums import BLOCK_BYTES, BlockSums, Sums, load_sums
from tests.unit.store.support import as_file, as_packed_file, file_row

SIZES = [1, 100, BLOCK_BYTES - 50, 3 * BLOCK_BYTES, 5, 700_000, 0x4000, 9]


@pytest.fixture
def written(tmp_path: Path) -> tuple[Written, DataFile, list[bytes]]:
    """A data file with contents of many sizes."""
    rng = random.Random(5)
    values = [rng.randbytes(size) for size in SIZES]
    rows = [file_row(10 + at, value) for at, value in enumerate(values)]
    made = write_data_file(os.fspath(tmp_path), Version(1), 0, rows)
    return made, DataFile(os.fspath(tmp_path), made.name, made.size, made.stats, 0), values


def read(reader: ContentReader, content: Content, skip: int, length: int) -> bytes:
    target = bytearray(length)
    reader.read(content, skip, memoryview(target))
    again = bytearray(length)
    if reader.read_nowait(content, skip, memoryview(again)):
        assert again == target
    return bytes(target)


def contents_of(made: Written, file: DataFile) -> list[Content]:
    found = []
    for content, row, position in zip(made.contents, made.row_numbers, made.positions, strict=True):
        content.settle(file, row, position)
        found.append(content)
    return found


def test_any_piece_is_read_as_it_was_written(
    written: tuple[Written, DataFile, list[bytes]],
) -> None:
    made, file, values = written
    reader = ContentReader(4)
    rng = random.Random(6)
    for content, value in zip(contents_of(made, file), values, strict=True):
        assert read(reader, content, 0, len(value)) == value
        for _ in range(50):
            skip = rng.randrange(len(value))
            length = rng.randrange(1, len(value) - skip + 1)
            assert read(reader, content, skip, length) == value[skip : skip + length]
    reader.close()


def test_a_flipped_bit_is_an_error_in_its_block_and_nowhere_else(
    written: tuple[Written, DataFile, list[bytes]],
) -> None:
    """Wherever it is; alone, and in a read of many pieces at once."""
    made, file, values = written
    contents = contents_of(made, file)
    large = SIZES.index(700_000)
    rng = random.Random(8)
    for _ in range(20):
        at = rng.randrange(700_000)
        place = contents[large].position + at
        flip(file.path, place)
        reader = ContentReader(4)
        block = place - place % BLOCK_BYTES
        for offset in range(0, 700_000 - 4096, 4096):
            position = contents[large].position + offset
            touched = position < block + BLOCK_BYTES and position + 4096 > block
            if touched:
                with pytest.raises(StoreDamaged, match=file.name):
                    read(reader, contents[large], offset, 4096)
            else:
                assert (
                    read(reader, contents[large], offset, 4096)
                    == (values[large][offset : offset + 4096])
                )
        assert not reader.read_nowait(contents[large], at, memoryview(bytearray(1)))
        with pytest.raises(StoreDamaged, match=file.name):
            reader.read_many([(c, 0, memoryview(bytearray(c.length))) for c in contents])
        reader.close()
        flip(file.path, place)


def test_every_byte_of_the_file_but_its_end_is_covered(
    written: tuple[Written, DataFile, list[bytes]],
) -> None:
    """Rot in the sums themselves is found as well."""
    _, file, _ = written
    fd = os.open(file.path, os.O_RDONLY)
    sums = load_sums(fd, file.path)
    assert sums is not None
    source = Source(fd, file.path, sums)
    whole = bytearray(sums.stop)
    fill(source, 0, memoryview(whole))
    assert fill_nowait(source, 0, memoryview(whole))
    assert whole == Path(file.path).read_bytes()[: sums.stop]
    with pytest.raises(StoreDamaged, match="shorter"):
        fill(source, sums.stop - 1, memoryview(bytearray(2)))
    flip(file.path, sums.stop + 2)
    with pytest.raises(StoreDamaged, match="checksums"):
        load_sums(fd, file.path)
    os.close(fd)


def test_a_file_without_sums_is_read_all_the_same(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"PAR1" + bytes(100) + b"footer" + (6).to_bytes(4, "little") + b"PAR1")
    assert load(path) is None


@pytest.mark.parametrize("data", [b"", b"PAR1", b"PAR1" + bytes(100)])
def test_what_has_no_footer_is_no_file_without_sums(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "file"
    path.write_bytes(data)
    with pytest.raises(StoreDamaged, match="no footer"):
        load(path)


@pytest.mark.parametrize("size", [0, 1, BLOCK_BYTES - 1, BLOCK_BYTES, BLOCK_BYTES + 1, 100_000])
def test_sums_do_not_depend_on_how_the_bytes_came(size: int) -> None:
    data = random.Random(size).randbytes(size)
    whole, pieces = BlockSums(), BlockSums()
    whole.add(data)
    rng = random.Random(1)
    at = 0
    while at < size:
        step = rng.choice([1, 7, 1000, BLOCK_BYTES, 40_000])
        pieces.add(memoryview(data)[at : at + step])
        at += step
    assert whole.table() == pieces.table()


def flip(path: str, place: int) -> None:
    with open(path, "r+b", buffering=0) as file:
        (byte,) = os.pread(file.fileno(), 1, place)
        os.pwrite(file.fileno(), bytes([byte ^ 4]), place)


def test_sums_take_pieces_of_any_size() -> None:
    data = random.Random(2).randbytes(3 * BLOCK_BYTES + 100)
    made = BlockSums()
    made.add(data)
    table = made.table()
    sums = Sums(array("I", table[:16]), len(data), "a file")
    view = memoryview(data)
    sums.check(0, [view[:5], view[5:20_000], view[20_000:20_001], view[20_001:]])
    sums.check(3 * BLOCK_BYTES, [view[3 * BLOCK_BYTES :]])
    with pytest.raises(StoreDamaged, match=f"byte {BLOCK_BYTES} on"):
        sums.check(BLOCK_BYTES, [memoryview(bytes(BLOCK_BYTES))])


@pytest.mark.parametrize("pages", [1, 2, 3])
def test_a_file_that_lost_its_end_is_not_one_without_sums(
    written: tuple[Written, DataFile, list[bytes]], pages: int
) -> None:
    """Positions may be known from elsewhere: nothing else would look there."""
    _, file, _ = written
    with open(file.path, "r+b", buffering=0) as raw:
        raw.seek(file.size - 4096 * pages)
        raw.write(bytes(4096 * pages))
        with pytest.raises(StoreDamaged, match=file.name):
            load_sums(raw.fileno(), file.path)


@pytest.mark.parametrize("is_packed", [False, True])
def test_any_bit_behind_the_last_block_may_rot(tmp_path: Path, is_packed: bool) -> None:
    """Then there are the same sums, or an error: never none."""
    make = as_packed_file if is_packed else as_file
    file = make(
        tmp_path, 1, [file_row(2, b"squeeze " * 5000, b"name"), file_row(3, b"x", b"other")]
    )
    path = Path(file.path)
    right = path.read_bytes()
    sums = load(path)
    assert sums is not None
    mark = right.rindex(b" (build pond-")
    for at in range(sums.stop, len(right)):
        if at in range(mark, mark + 13):
            continue  # else it is a file of before, or another program's
        path.write_bytes(right[:at] + bytes([right[at] ^ 4]) + right[at + 1 :])
        try:
            found = load(path)
        except StoreDamaged:
            continue
        # The table of frames has its own.
        assert found is not None
        assert (found.stop, found._sums) == (sums.stop, sums._sums)
        assert is_packed


def test_bytes_that_look_like_sums_in_a_file_that_has_none(tmp_path: Path) -> None:
    """What was staged by a pondfs of before has a user's bytes there."""
    path = tmp_path / "file"
    for user in (struct.pack("<III4s", 3, BLOCK_BYTES, 5, b"pnd2"), b"pnd1" * 4):
        path.write_bytes(b"PAR1" + bytes(100) + user + b"footer" + b"\6\0\0\0PAR1")
        assert load(path) is None


def load(path: Path) -> Sums | None:
    with path.open("rb") as file:
        return load_sums(file.fileno(), os.fspath(path))
