"""Reading compressed contents back."""

import errno
import os
import random
import threading
from pathlib import Path

import pytest

from pondfs.errors import StoreDamaged
from pondfs.extent import Content
from pondfs.store.content import ContentReader, DataFile
from pondfs.store.frames import FRAME_BYTES, load_table
from pondfs.store.scan import read_rows
from tests.unit.store.support import (
    as_packed_file,
    extent_row,
    new_reader,
    read_bytes,
    read_nowait,
    size_row,
)
from tests.unit.store.test_packing import text

SIZES = [10_000] * 60 + [1 << 20, 300_000, 7, FRAME_BYTES, FRAME_BYTES - 4] + [2_000] * 30


@pytest.fixture
def values() -> list[bytes]:
    return [text(size, at) for at, size in enumerate(SIZES)]


@pytest.fixture
def file(tmp_path: Path, values: list[bytes]) -> DataFile:
    rows = [extent_row(9, 0, value) for value in values]
    # One in between that carries none, and a row group that can't be compressed.
    rows.insert(3, size_row(9, 0))
    rows += [extent_row(9, 0, os.urandom(50_000)) for _ in range(20)]
    return as_packed_file(tmp_path, 2, rows, 32)


@pytest.fixture
def contents(file: DataFile, values: list[bytes]) -> list[Content]:
    """As an image has them."""
    positions = read_rows([file]).position.tolist()
    found = []
    for at, value in enumerate(values):
        row = at + (at >= 3)
        content = Content.stored(file, row, len(value))
        content.position = positions[row]
        assert content.position < -1
        found.append(content)
    return found


def test_any_range_of_any_content(contents: list[Content], values: list[bytes]) -> None:
    reader = new_reader()
    rng = random.Random(1)
    for _ in range(500):
        at = rng.randrange(len(values))
        skip = rng.randrange(len(values[at]))
        length = rng.randrange(len(values[at]) - skip + 1)
        assert read_bytes(reader, contents[at], skip, length) == values[at][skip : skip + length]
        assert read_nowait(reader, contents[at], skip, length) == values[at][skip : skip + length]
    assert reader.cache_hits > reader.cache_misses > 0
    assert reader.cache_bytes <= sum(SIZES) + 4 * len(SIZES)


def test_four_kilobytes_of_a_megabyte_cost_one_frame(contents: list[Content]) -> None:
    reader = new_reader()
    assert read_nowait(reader, contents[60], 500_000, 4096) is None
    read_bytes(reader, contents[60], 500_000, 4096)
    assert reader.cache_misses == 1
    assert reader.cache_bytes == FRAME_BYTES


def test_without_a_position_they_are_located(file: DataFile, values: list[bytes]) -> None:
    reader = new_reader()
    for at, value in enumerate(values):
        content = Content.stored(file, at + (at >= 3), len(value))
        assert read_bytes(reader, content, 0, len(value)) == value
        assert content.position < -1
    with pytest.raises(StoreDamaged, match="holds 10000 bytes of content, not 5"):
        read_bytes(reader, Content.stored(file, 0, 5), 0, 5)


def test_many_at_once(contents: list[Content], values: list[bytes]) -> None:
    """In the order in which they lie, and in any other."""
    rng = random.Random(2)
    for shuffled in (False, True):
        reader = ContentReader(max_open=4, cache_bytes=1 << 20)
        order = list(range(len(values)))
        if shuffled:
            rng.shuffle(order)
        skips = [rng.randrange(len(values[at])) for at in order]
        targets = [bytearray(len(values[at]) - skip) for at, skip in zip(order, skips, strict=True)]
        reader.read_many(
            [
                (contents[at], skip, memoryview(target))
                for at, skip, target in zip(order, skips, targets, strict=True)
            ]
        )
        assert targets == [values[at][skip:] for at, skip in zip(order, skips, strict=True)]
        assert reader.cache_bytes <= 1 << 20


def test_what_lies_side_by_side_takes_few_system_calls(
    contents: list[Content], monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = new_reader()
    read_bytes(reader, contents[0], 0, 1)
    calls = []
    real = os.pread

    def counted(fd: int, length: int, offset: int) -> bytes:
        calls.append(length)
        return real(fd, length, offset)

    monkeypatch.setattr(os, "pread", counted)
    targets = [memoryview(bytearray(10_000)) for _ in range(31)]
    reader.read_many([(contents[at], 0, targets[at]) for at in range(31)])
    assert len(calls) == 1, "three pages"


def test_what_is_fetched_ahead_is_there_at_once(contents: list[Content]) -> None:
    reader = new_reader()
    reader.prefetch([(content, 0, content.length) for content in contents])
    assert all(read_nowait(reader, c, 0, c.length) for c in contents)
    # In a small cache it would only push out what is being read.
    small = ContentReader(max_open=4, cache_bytes=1 << 20)
    small.prefetch([(content, 0, content.length) for content in contents])
    assert small.cache_misses == 0


def test_a_rotten_frame_is_told_and_costs_no_other(
    file: DataFile, contents: list[Content], values: list[bytes]
) -> None:
    content, value = contents[60], values[60]
    with open(file.path, "r+b") as raw:
        table = load_table(raw.fileno(), file.size, file.path)
        assert table is not None
        first, stop, _ = table.find(content.position, 0, content.length, "")
        assert stop - first == 9
        at = table.starts[first + 3] + table.sizes[first + 3] // 2
        (byte,) = os.pread(raw.fileno(), 1, at)
        os.pwrite(raw.fileno(), bytes([byte ^ 1]), at)
    reader = new_reader()
    rotten = range(3 * FRAME_BYTES - 4, 4 * FRAME_BYTES - 4)
    for skip in (0, rotten.start - 4096, rotten.stop, len(value) - 4096):
        assert read_bytes(reader, content, skip, 4096) == value[skip : skip + 4096]
    for skip in (rotten.start - 1, rotten.start, rotten.stop - 1):
        for _ in range(2):  # not only the first time
            with pytest.raises(StoreDamaged, match="is damaged") as caught:
                read_bytes(reader, content, skip, 4096 if skip < 1 << 19 else 1)
            assert caught.value.errno == errno.EIO
            assert file.path in str(caught.value)
    for other, expected in zip(contents, values, strict=True):
        if other is not content:
            assert read_bytes(reader, other, 0, other.length) == expected


def test_a_rotten_table_is_told(file: DataFile, contents: list[Content]) -> None:
    with open(file.path, "r+b") as raw:
        data = raw.read()
        end = data.rindex(b"pnd1")
        raw.seek(end - 100)
        raw.write(b"\xff")
    with pytest.raises(StoreDamaged, match="table of frames"):
        read_bytes(new_reader(), contents[0], 0, 10)


def test_a_file_cut_short(file: DataFile, contents: list[Content]) -> None:
    reader = new_reader()
    read_bytes(reader, contents[0], 0, 10)
    os.truncate(file.path, 1000)
    with pytest.raises(StoreDamaged, match="shorter than its rows say"):
        read_bytes(reader, contents[60], 0, 10)


def test_a_position_that_leads_nowhere(contents: list[Content]) -> None:
    reader = new_reader()
    for wrong in (contents[0].position - (1 << 20), -2 - (1 << 60)):
        lost = Content.stored(contents[0].file, 0, contents[0].length)
        lost.position = wrong
        assert read_nowait(reader, lost, 0, 10) is None
        with pytest.raises(StoreDamaged, match="does not have what its rows say"):
            read_bytes(reader, lost, 0, 10)
        assert read_nowait(reader, lost, 0, 10) is None


def test_many_threads_decode_each_frame_once(contents: list[Content], values: list[bytes]) -> None:
    reader = new_reader()
    wrong: list[int] = []
    barrier = threading.Barrier(6)

    def work() -> None:
        barrier.wait()
        for at, (content, value) in enumerate(zip(contents, values, strict=True)):
            if read_bytes(reader, content, 0, content.length) != value:
                wrong.append(at)

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    file = contents[0].file
    with open(file.path, "rb") as raw:
        frames = load_table(raw.fileno(), file.size, file.path)
    assert frames is not None
    assert reader.cache_misses <= len(frames.starts)
