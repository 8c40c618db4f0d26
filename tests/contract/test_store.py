"""What every Store must do, whatever it is made of. A new Store subclasses `StoreContract`."""

import os
import stat
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path

import pytest

from pondfs.extent import Content
from pondfs.interfaces import Image, Store
from pondfs.node import ROOT, NodeId, Version
from pondfs.oplog import Cut, Row, Settled, Summary
from pondfs.store.delta import DeltaStore

FILE = stat.S_IFREG | 0o600
SYMLINK = stat.S_IFLNK | 0o777


def file_row(node: int, name: bytes | None, data: bytes, *, size: int | None = None) -> Row:
    attr = (FILE, 1, 2, 1, 0, len(data) if size is None else size, 3, 4, 5)
    return Row(
        "create", 1, ROOT, node, FILE, name, attr=attr, offset=0, content=Content(data, len(data))
    )


def make_cut(version: int, rows: list[Row], staged: list[Settled] | None = None) -> Cut:
    files = [settled.file for settled in staged or []]
    return Cut(Version(version), 1, rows, Summary(), 100 if files else 0, files)


def adopt(settled: Settled | None) -> list[Content]:
    if settled is None:
        return []
    for content, row, position in zip(
        settled.contents, settled.row_numbers, settled.positions, strict=True
    ):
        content.settle(settled.file, row, position)
    return settled.contents


def read(store: Store, content: Content, skip: int, length: int) -> bytes:
    data = bytearray(length)
    store.read(content, skip, memoryview(data))
    return bytes(data)


def read_file(store: Store, image: Image, node: int) -> bytes:
    found = image.find_node(NodeId(node))
    assert found is not None
    data = bytearray(found.attr[5])
    for extent in image.load_extents(NodeId(node)):
        data[extent.offset : extent.offset + extent.length] = read(
            store, extent.content, extent.skip, extent.length
        )
    return bytes(data)


class StoreContract(ABC):
    """The tests; subclasses give a new Store, and one opened again on what it left."""

    @pytest.fixture
    def place(self, tmp_path: Path) -> Path:
        return tmp_path / "store"

    @abstractmethod
    def make(self, place: Path) -> Store:
        """Return a new Store in *place*."""

    @abstractmethod
    def reopen(self, place: Path) -> Store:
        """Return the Store that is in *place*."""

    @pytest.fixture
    def store(self, place: Path) -> Iterator[Store]:
        store = self.make(place)
        yield store
        store.close()

    def test_new_store_has_version_1_with_an_empty_root(self, store: Store) -> None:
        image = store.load_image()
        assert (image.version, image.node_count) == (1, 1)
        root = image.find_node(ROOT)
        assert root is not None
        assert stat.S_ISDIR(root.attr[0])
        assert root.parent == ROOT
        assert image.load_entries(ROOT) == {}

    def test_unknown_nodes_are_not_there(self, store: Store) -> None:
        image = store.load_image()
        assert image.find_node(NodeId(12345)) is None
        assert image.load_entries(NodeId(12345)) == {}
        assert image.load_extents(NodeId(12345)) == []

    def test_a_commit_survives_reopening(self, place: Path, store: Store) -> None:
        data = os.urandom(70_000)
        contents = adopt(store.commit(make_cut(2, [file_row(5, b"\xff", data)])))
        assert [content.data for content in contents] == [None]
        assert read(store, contents[0], 69_000, 1000) == data[69_000:]
        store.close()
        again = self.reopen(place)
        image = again.load_image()
        assert image.version == 2
        assert image.load_entries(ROOT) == {b"\xff": 5}
        found = image.find_node(NodeId(5))
        assert found is not None
        assert found.attr == (FILE, 1, 2, 1, 0, 70_000, 3, 4, 5)
        assert (found.parent, found.target, found.metadata) == (ROOT, None, None)
        assert read_file(again, image, 5) == data
        again.close()

    def test_staged_rows_appear_with_their_commit_only(self, place: Path, store: Store) -> None:
        staged = store.stage(Version(2), 0, [file_row(5, b"f", b"staged")])
        (content,) = adopt(staged)
        assert read(store, content, 0, 6) == b"staged"
        assert store.load_image().load_entries(ROOT) == {}
        adopt(store.commit(make_cut(2, [file_row(5, None, b"STA", size=6)], [staged])))
        image = store.load_image()
        assert image.load_entries(ROOT) == {b"f": 5}
        assert read_file(store, image, 5) == b"STAged"

    def test_a_stage_without_its_commit_is_forgotten(self, place: Path, store: Store) -> None:
        store.stage(Version(2), 0, [file_row(5, b"f", b"staged")])
        store.close()
        again = self.reopen(place)
        assert again.load_image().load_entries(ROOT) == {}
        adopt(again.commit(make_cut(2, [file_row(6, b"g", b"x")])))
        assert again.load_image().load_entries(ROOT) == {b"g": 6}
        again.close()

    def test_symlinks_keep_their_target(self, store: Store) -> None:
        target = b"../\xff/" * 500
        attr = (SYMLINK, 0, 0, 1, 0, len(target), 1, 1, 1)
        row = Row(
            "create", 1, ROOT, 7, SYMLINK, b"l", attr=attr, offset=0,
            content=Content(target, len(target)),
        )  # fmt: skip
        adopt(store.commit(make_cut(2, [row])))
        found = store.load_image().find_node(NodeId(7))
        assert found is not None
        assert found.target == target

    def test_removed_is_gone(self, store: Store) -> None:
        adopt(store.commit(make_cut(2, [file_row(5, b"f", b"x")])))
        gone = [
            Row("unlink", 1, ROOT, 5, FILE, b"f", removed=True),
            Row("unlink", 1, ROOT, 5, FILE, removed=True),
        ]
        adopt(store.commit(make_cut(3, gone)))
        image = store.load_image()
        assert image.load_entries(ROOT) == {}
        assert image.find_node(NodeId(5)) is None
        assert image.node_count == 1

    def test_an_image_does_not_change_under_later_commits(self, store: Store) -> None:
        adopt(store.commit(make_cut(2, [file_row(5, b"f", b"old")])))
        old = store.load_image()
        adopt(store.commit(make_cut(3, [file_row(5, None, b"new"), file_row(6, b"g", b"x")])))
        assert old.version == 2
        assert old.load_entries(ROOT) == {b"f": 5}
        assert read_file(store, old, 5) == b"old"
        assert read_file(store, store.load_image(), 5) == b"new"

    def test_nowait_answers_right_or_not_at_all(self, store: Store) -> None:
        (content,) = adopt(store.commit(make_cut(2, [file_row(5, b"f", b"hello")])))
        target = bytearray(4)
        if store.read_nowait(content, 1, memoryview(target)):
            assert target == b"ello"
        store.prefetch([(content, 0, 5)])
        assert read(store, content, 1, 4) == b"ello"

    def test_free_space_is_told(self, store: Store) -> None:
        assert store.statvfs().f_blocks > 0


class TestDeltaStore(StoreContract):
    """The store on a local disk."""

    def make(self, place: Path) -> Store:
        DeltaStore.create(place)
        return self.reopen(place)

    def reopen(self, place: Path) -> Store:
        return DeltaStore.open_writer(place, mountpoint="/mnt/test", socket="")
