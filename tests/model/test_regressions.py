"""What broke once in the live tree, in its smallest form."""

import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import trio

from pondfs.node import ROOT, NodeId
from pondfs.store.delta import DeltaStore
from pondfs.vfs.attr import Change
from pondfs.vfs.base import Caller, VfsOptions
from pondfs.vfs.pending import DEAD_BYTES
from pondfs.vfs.vfs import Vfs
from tests.model.test_vfs import FaultyStore

ME = Caller(os.getuid(), os.getgid())


class Tree:
    """A Vfs over a real store in a temporary place, its committer running."""

    def __init__(self, path: Path) -> None:
        self.path = path
        DeltaStore.create(path)
        self.open()

    def open(self) -> None:
        self.store = FaultyStore(DeltaStore.open_writer(self.path, mountpoint="", socket=""))
        self.vfs = Vfs(self.store, VfsOptions(commit_s=3600))

    def run(self, work: Callable[[], Any]) -> None:
        async def main() -> None:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self.vfs.committer.run)
                await work()
                nursery.cancel_scope.cancel()

        trio.run(main)

    def file(self, name: bytes) -> NodeId:
        return self.vfs.make(ROOT, name, stat.S_IFREG | 0o644, 0, ME).id

    async def content(self, name: bytes) -> bytes:
        node = self.vfs.lookup(ROOT, name)
        assert node is not None
        return bytes(await self.vfs.read(node.id, 0, 1 << 20))


async def until(condition: Callable[[], bool]) -> None:
    """Wait for what the committer says only by its state."""
    with trio.fail_after(60):
        while not condition():  # noqa: ASYNC110 - there is no event for it but in this test
            await trio.sleep(0.001)


@pytest.fixture
def tree(tmp_path: Path) -> Iterator[Tree]:
    made = Tree(tmp_path / "store")
    yield made
    made.store.close()


def test_a_failed_stage_never_lies_over_later_bytes(tree: Tree) -> None:
    """Its rows were written after a later stage's: after a remount the old bytes were back."""

    async def work() -> None:
        vfs = tree.vfs
        vfs.committer.stage_at_bytes = 1000
        node_id = tree.file(b"f")
        tree.store.fails = 1
        await vfs.write(node_id, 0, b"A" * 2000)
        await until(lambda: vfs.committer.failure is not None)
        await vfs.write(node_id, 0, b"B" * 2000)
        await vfs.fsync(node_id)

    tree.run(work)
    tree.store.close()
    tree.open()

    async def look() -> None:
        assert await tree.content(b"f") == b"B" * 2000

    tree.run(look)


def test_a_failed_stage_is_tried_again_without_being_asked(tree: Tree) -> None:
    """It waited for the timer or an fsync, refusing growth all the while."""

    async def work() -> None:
        vfs = tree.vfs
        vfs.committer.stage_at_bytes = 1000
        tree.store.fails = 1
        await vfs.write(tree.file(b"f"), 0, b"A" * 2000)
        await until(lambda: vfs.committer.last is not None)
        assert vfs.committer.failure is None

    tree.run(work)


def test_overwritten_bytes_do_not_pile_up(tree: Tree) -> None:
    """They were not counted any more, and not let go of either."""

    async def work() -> None:
        node_id = tree.file(b"f")
        for number in range(100):
            await tree.vfs.write(node_id, 0, bytes([number]) * (1 << 20))
        held = sum(content.length for content in tree.vfs.nodes.get(node_id).fresh)
        assert held <= DEAD_BYTES + (2 << 20)

    tree.run(work)


@pytest.mark.parametrize("time_ns", [99999999999 * 10**9, -99999999999 * 10**9])
def test_a_time_no_row_can_hold_is_clamped(tree: Tree, time_ns: int) -> None:
    """It stopped every commit for the life of the mount."""

    async def work() -> None:
        node_id = tree.file(b"f")
        node = tree.vfs.setattr(node_id, Change(mtime_ns=time_ns, atime_ns=time_ns))
        assert abs(node.mtime_ns) >= (1 << 63) - 1
        await tree.vfs.fsync(node_id)

    tree.run(work)


def test_a_message_that_is_not_utf8(tree: Tree) -> None:
    """It stopped every commit, too."""

    async def work() -> None:
        tree.file(b"f")
        assert await tree.vfs.committer.commit(os.fsdecode(b"caf\xe9")) == 2

    tree.run(work)
    assert tree.store.list_versions()[0].message == "caf?"


def test_a_nameless_file_is_readable_while_the_kernel_holds_it(tree: Tree) -> None:
    """Held by O_PATH alone it has no open handle, and came back as zeros."""

    async def work() -> None:
        node_id = tree.file(b"f")
        await tree.vfs.write(node_id, 0, b"content")
        tree.vfs.unlink(ROOT, b"f")
        tree.vfs.open(node_id, os.O_RDONLY)
        assert bytes(await tree.vfs.read(node_id, 0, 100)) == b"content"
        tree.vfs.release(node_id)
        tree.vfs.forget([(node_id, 1)])
        assert node_id not in tree.vfs.nodes.live
        assert tree.vfs.pending.bytes == 0

    tree.run(work)


def test_what_was_only_read_is_forgotten(tree: Tree) -> None:
    """An atime that moved kept its node in memory until the next commit, or for ever."""

    async def make() -> None:
        for number in range(50):
            tree.file(b"%d" % number)
        await tree.vfs.committer.commit()

    tree.run(make)
    tree.store.close()
    tree.open()

    async def read() -> None:
        vfs = tree.vfs
        for number in range(50):
            node = vfs.lookup(ROOT, b"%d" % number)
            assert node is not None
            vfs.open(node.id, os.O_RDONLY)
            vfs.release(node.id)
            vfs.forget([(node.id, 1)])
        assert set(vfs.nodes.live) == {ROOT}
        assert not vfs.pending.accessed

    tree.run(read)


def test_a_renamed_file_counts_as_changed(tree: Tree) -> None:
    """The log said that nothing had changed in a version that only renamed."""

    async def work() -> None:
        tree.file(b"f")
        await tree.vfs.committer.commit()
        tree.vfs.rename(ROOT, b"f", ROOT, b"g", 0)
        await tree.vfs.committer.commit()

    tree.run(work)
    assert tree.store.list_versions()[0].nodes_changed == 1
