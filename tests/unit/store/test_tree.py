"""A version's tree straight from the store, against what was put in."""

import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from pondfs.errors import NoSuchPath
from pondfs.node import Version
from pondfs.oplog import Row
from pondfs.store import open_reader
from pondfs.store.tree import PIECE_BYTES, StoredTree
from pondfs.xattrs import decode_xattrs, encode_xattrs
from tests.unit.store.support import DIRECTORY, SYMLINK, attr, extent_row, size_row
from tests.unit.store.test_changes import Life

XATTRS = {b"user.a": b"\0\xff", b"user.\xff": b"odd"}


@pytest.fixture
def tree(tmp_path: Path) -> Iterator[StoredTree]:
    """Version 2 of a small pond; version 3 is empty."""
    life = Life(tmp_path / "store")
    made = life.tree
    made.make(b"d", DIRECTORY)
    made.make(b"d/b", data=b"content")
    made.make(b"d/\xff\n", data=b"odd")
    made.link(b"d/b", b"d/a")
    made.make(b"soft", SYMLINK, data=b"d/b")
    sparse = made.make(b"sparse")
    made.rows += [
        extent_row(sparse, 5, b"x" * (PIECE_BYTES + 1)),
        extent_row(sparse, 3 << 20, b"y"),
        size_row(sparse, 9 << 20),
    ]
    noted = made.make(b"noted")
    made.rows.append(
        Row("update", 5, 1, noted, attr()[0], attr=attr(), metadata=encode_xattrs(XATTRS))
    )
    life.commit()
    made.remove(b"d")
    life.commit()
    life.store.close()
    store = open_reader(life.path)
    found = StoredTree(store, store.load_image_at(Version(2)), decode_xattrs)
    yield found
    found.close()


def test_names_and_what_they_are(tree: StoredTree) -> None:
    assert [name for name, _ in tree.entries(b"")] == [b"d", b"noted", b"soft", b"sparse"]
    found = dict(tree.entries(b"d"))
    assert list(found) == [b"a", b"b", b"\xff\n"]
    assert found[b"a"].ino == found[b"b"].ino != found[b"\xff\n"].ino
    assert found[b"a"] == tree.lstat(b"d/a")
    assert (found[b"a"].nlink, found[b"a"].size_bytes) == (2, 7)
    assert stat.S_ISDIR(tree.lstat(b"").mode)
    assert tree.entries(b"noted") == []
    assert tree.readlink(b"soft") == b"d/b"
    assert tree.xattrs(b"noted") == XATTRS
    assert tree.xattrs(b"d") == {}


def test_bytes_come_in_pieces_without_the_holes(tree: StoredTree) -> None:
    assert list(tree.read(b"d/b")) == [(0, b"content")]
    assert [(at, len(data), data[:1]) for at, data in tree.read(b"sparse")] == [
        (5, PIECE_BYTES, b"x"),
        (5 + PIECE_BYTES, 1, b"x"),
        (3 << 20, 1, b"y"),
    ]
    info = tree.lstat(b"sparse")
    assert (info.size_bytes, info.allocated_bytes) == (9 << 20, PIECE_BYTES + 2)


@pytest.mark.parametrize("path", [b"none", b"d/none", b"none/x", b"noted/x", b"soft/x"])
def test_what_is_not_there(tree: StoredTree, path: bytes) -> None:
    for ask in (tree.lstat, tree.entries, tree.readlink, tree.xattrs):
        with pytest.raises(NoSuchPath, match=f"version 2 has no '/{path.decode()}'"):
            ask(path)
