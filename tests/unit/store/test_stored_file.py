"""A stored file as a Python file, against the bytes that were put in."""

import io
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pondfs.errors import NoSuchPath, UsageError
from pondfs.oplog import Row
from pondfs.store import open_reader
from pondfs.store.stored_file import StoredFile
from pondfs.store.tree import StoredTree
from pondfs.xattrs import decode_xattrs
from tests.unit.store.support import DIRECTORY, SYMLINK, attr, extent_row, size_row
from tests.unit.store.test_changes import Life

FIRST, SECOND = os.urandom(70_000), os.urandom(5000)
SIZE = 200_000


def _whole() -> bytes:
    """A hole, bytes, other bytes over their middle, a hole, one byte, a hole to the end."""
    whole = bytearray(SIZE)
    whole[1000 : 1000 + len(FIRST)] = FIRST
    whole[30_000 : 30_000 + len(SECOND)] = SECOND
    whole[150_000:150_001] = b"y"
    return bytes(whole)


WHOLE = _whole()


@pytest.fixture
def tree(tmp_path: Path) -> Iterator[StoredTree]:
    life = Life(tmp_path / "store")
    made = life.tree
    made.make(b"d", DIRECTORY)
    made.make(b"soft", SYMLINK, data=b"patchy")
    made.make(b"empty")
    patchy = made.make(b"patchy")
    made.rows += [
        extent_row(patchy, 1000, FIRST),
        extent_row(patchy, 30_000, SECOND),
        extent_row(patchy, 150_000, b"y"),
        size_row(patchy, SIZE),
    ]
    hole = made.make(b"hole")
    made.rows.append(Row("update", 5, 1, hole, attr()[0], attr=attr(size=9)))
    life.commit()
    life.store.close()
    store = open_reader(life.path)
    found = StoredTree(store, store.load_image_at(None), decode_xattrs)
    yield found
    found.close()


def test_any_piece_is_what_was_written(tree: StoredTree) -> None:
    edges = (0, 1, 999, 1000, 1001, 29_999, 30_000, 35_000, 71_000, 71_001, 150_000, 150_001)
    with tree.open(b"patchy") as file:
        for start in (*edges, SIZE - 1, SIZE, SIZE + 5):
            for length in (0, 1, 10, 4096, 60_000, SIZE, -1):
                assert file.seek(start) == start
                stop = None if length < 0 else start + length
                assert file.read(length) == WHOLE[start:stop], (start, length)
                assert file.tell() == max(start, min(SIZE, SIZE if stop is None else stop))


def test_it_is_a_file_for_pythons_own_readers(tree: StoredTree) -> None:
    with io.BufferedReader(tree.open(b"patchy"), 700) as file:
        assert file.readable()
        assert file.seekable()
        assert not file.writable()
        assert file.read(1500) == WHOLE[:1500]
        assert file.seek(-10, os.SEEK_CUR) == 1490
        assert file.read() == WHOLE[1490:]
        assert file.seek(-3, os.SEEK_END) == SIZE - 3
        assert file.read() == b"\0\0\0"
    target = bytearray(b"\xff" * 10)
    with tree.open(b"hole") as raw:
        assert raw.readinto(target) == 9
        assert raw.read() == b""
    assert target == bytes(9) + b"\xff"
    with tree.open(b"empty") as raw:
        assert raw.read() == b""


def test_threads_read_at_their_own_places(tree: StoredTree) -> None:
    with tree.open(b"patchy") as file:

        def piece(start: int) -> bytes:
            target = bytearray(997)
            return bytes(target[: file.read_at(start, memoryview(target))])

        starts = list(range(0, SIZE, 997))
        with ThreadPoolExecutor(8) as pool:
            assert b"".join(pool.map(piece, starts)) == WHOLE
        assert file.tell() == 0


def test_wrong_seeks_and_closed_files(tree: StoredTree) -> None:
    file = tree.open(b"patchy")
    with pytest.raises(ValueError, match="negative"):
        file.seek(-1)
    with pytest.raises(ValueError, match="whence"):
        file.seek(0, 7)
    with pytest.raises(io.UnsupportedOperation):
        file.truncate(0)
    file.close()
    file.close()
    for ask in (file.tell, file.read, lambda: file.seek(0)):
        with pytest.raises(ValueError, match="closed"):
            ask()
    assert tree.open(b"patchy").read(1) == b"\0"


def test_what_cannot_be_opened(tree: StoredTree) -> None:
    with pytest.raises(NoSuchPath, match="version 2 has no '/none'"):
        tree.open(b"none")
    with pytest.raises(UsageError, match="'/d' is a directory"):
        tree.open(b"d")
    with pytest.raises(UsageError, match="'/soft' is a symlink"):
        tree.open(b"soft")
    assert isinstance(tree.open(b"empty"), StoredFile)
