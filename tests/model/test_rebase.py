"""Turning to a newer image: when, what stays, and what may not happen meanwhile."""

import contextlib
import os
import stat
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import trio
import trio.testing

from pondfs.interfaces import Swap
from pondfs.node import ROOT
from pondfs.store import imagefile
from pondfs.store.compact import make_plan
from pondfs.store.compact_files import write_files
from pondfs.store.image import TableImage
from pondfs.vfs import past, rebase
from pondfs.vfs.attr import Change
from pondfs.vfs.nodes import CLEAN
from pondfs.vfs.past import VERSIONS, PastNode
from pondfs.vfs.rebase import Rebaser
from pondfs.vfs.swap import remove_pruned, swap_files
from tests.model.test_regressions import ME, Tree

WAIT_S = 30.0


@pytest.fixture
def tree(tmp_path: Path) -> Iterator[Tree]:
    made = Tree(tmp_path / "store")
    yield made
    made.store.close()


def test_one_is_due_when_enough_is_committed(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rebase, "FEW_CHANGED", 20)

    async def work() -> None:
        rebaser = Rebaser(tree.vfs)
        for number in range(30):
            tree.file(b"%d" % number)
        assert not rebaser.is_due()  # what is pending no image can have
        await tree.vfs.committer.commit()
        assert rebaser.is_due()
        await rebaser.look()
        assert tree.vfs.nodes.changed == 0
        assert tree.vfs.nodes.image.version == 2
        assert tree.vfs.nodes.count() == 31
        for number in range(30):
            node = tree.vfs.lookup(ROOT, b"%d" % number)
            assert node is not None
            tree.vfs.setattr(node.id, Change(mode=0o600))
        await tree.vfs.committer.commit()
        assert tree.vfs.nodes.changed == 30
        assert not rebaser.is_due()  # not that soon

    tree.run(work)


def test_rows_make_one_due_as_well(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rebase, "MANY_ROWS", 21)

    async def work() -> None:
        rebaser = Rebaser(tree.vfs)
        node_id = tree.file(b"log")
        for number in range(20):
            assert not rebaser.is_due()
            await tree.vfs.write(node_id, number, b"x")
            await tree.vfs.committer.commit()
        assert rebaser.is_due()

    tree.run(work)


def test_what_the_kernel_holds_keeps_its_attributes_only(tree: Tree) -> None:
    async def work() -> None:
        vfs = tree.vfs
        vfs.make(ROOT, b"d", stat.S_IFDIR | 0o755, 0, ME)
        held, opened, written = tree.file(b"held"), tree.file(b"still"), tree.file(b"open")
        for node_id in (held, opened, written):
            await vfs.write(node_id, 5000, b"content")
        vfs.open(opened, os.O_RDONLY)
        vfs.open(written, os.O_RDWR)
        await vfs.committer.commit()
        await vfs.write(written, 0, b"later")
        await Rebaser(vfs).renew()
        root, node = vfs.nodes.live[ROOT], vfs.nodes.live[held]
        assert (root.children, node.extents, node.allocated_bytes) == (None, None, 7)
        assert node.changed == CLEAN
        assert vfs.nodes.live[written].changed != CLEAN
        assert None not in (vfs.nodes.live[written].extents, vfs.nodes.live[opened].extents)
        assert await tree.content(b"held") == bytes(5000) + b"content"
        assert await tree.content(b"open") == b"later" + bytes(4995) + b"content"
        vfs.forget([(held, 2)])
        assert held not in vfs.nodes.live

    tree.run(work)


def test_what_is_newer_than_the_image_stays(tree: Tree) -> None:
    """A version that came while it was folded; what is pending; a file that lost its name."""

    async def work() -> None:
        vfs = tree.vfs
        ids = {name: tree.file(name) for name in (b"old", b"later", b"pending", b"gone")}
        for node_id in ids.values():
            await vfs.write(node_id, 0, b"one")
        await vfs.committer.commit()
        await Rebaser(vfs).renew()
        vfs.open(ids[b"gone"], os.O_RDONLY)
        assert vfs.nodes.live[ids[b"gone"]].extents is None
        vfs.unlink(ROOT, b"gone")
        await vfs.write(ids[b"old"], 3, b"!")
        await vfs.committer.commit()
        image = tree.store.save_image()
        await vfs.write(ids[b"later"], 0, b"two")
        made = tree.file(b"made")
        await vfs.committer.commit()
        await vfs.write(ids[b"pending"], 0, b"two")
        vfs.forget([(node_id, 1) for node_id in (*ids.values(), made)])
        assert set(vfs.nodes.live) == {ROOT, made, *ids.values()}
        await Rebaser(vfs).turn_to(image)
        assert set(vfs.nodes.live) == {ROOT, made, *ids.values()} - {ids[b"old"]}
        assert vfs.nodes.count() == 5
        assert await tree.content(b"old") == b"one!"
        assert await tree.content(b"later") == b"two"
        assert await tree.content(b"pending") == b"two"
        assert await tree.content(b"made") == b""
        assert bytes(await vfs.read(ids[b"gone"], 0, 9)) == b"one"
        vfs.release(ids[b"gone"])
        assert ids[b"gone"] not in vfs.nodes.live

    tree.run(work)


def test_a_disk_without_room(tree: Tree, caplog: pytest.LogCaptureFixture) -> None:
    """It is tried again much later, and the tree is as it was."""
    (tree.path / "_pond/image.tmp").mkdir()

    async def work() -> None:
        rebaser = Rebaser(tree.vfs)
        tree.file(b"f")
        await tree.vfs.committer.commit()
        before = tree.vfs.nodes.image
        await rebaser.renew()
        assert tree.vfs.nodes.image is before
        assert rebaser._not_before >= trio.current_time() + rebase.RETRY_S - WAIT_S

    tree.run(work)
    assert "could not be written" in caplog.text
    (tree.path / "_pond/image.tmp").rmdir()


def test_files_are_not_exchanged_meanwhile(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    """The image would lead to those that go; or the swap would put back the one before."""
    began, go_on = threading.Event(), threading.Event()
    save = imagefile.save

    def slow(path: str, image: TableImage) -> None:
        began.set()
        assert go_on.wait(WAIT_S)
        save(path, image)

    async def work() -> None:
        vfs = tree.vfs
        for number in range(12):
            await vfs.write(tree.file(b"%d" % number), 0, b"content %d" % number)
            await vfs.committer.commit()
        plan = await trio.to_thread.run_sync(make_plan, os.fspath(tree.path))
        request = (await trio.to_thread.run_sync(write_files, plan)).request
        monkeypatch.setattr(imagefile, "save", slow)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(Rebaser(vfs).renew)
            assert await trio.to_thread.run_sync(began.wait, WAIT_S)
            nursery.start_soon(swap_files, vfs, request)
            await trio.testing.wait_all_tasks_blocked()
            assert tree.store._store._swaps == 0
            go_on.set()
        assert tree.store._store._swaps == 1
        assert vfs.nodes.image.version == vfs.committer.published
        for number in range(12):
            assert await tree.content(b"%d" % number) == b"content %d" % number

    tree.run(work)


@pytest.mark.parametrize("begun", [True, False])
def test_whoever_asked_for_other_files_may_go_away(
    tree: Tree, begun: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The store had exchanged them, the tree had not: with the next prune every file was gone."""
    began, go_on = threading.Event(), threading.Event()
    swap: Callable[[str], Swap] = tree.store.swap_files

    def slow(request: str) -> Swap:
        began.set()
        assert go_on.wait(WAIT_S)
        return swap(request)

    monkeypatch.setattr(tree.store, "swap_files", slow, raising=False)

    async def work() -> None:
        vfs = tree.vfs
        for number in range(12):
            await vfs.write(tree.file(b"%d" % number), 0, b"content %d" % number)
            await vfs.committer.commit()
        await Rebaser(vfs).renew()
        plan = await trio.to_thread.run_sync(make_plan, os.fspath(tree.path))
        request = (await trio.to_thread.run_sync(write_files, plan)).request
        async with contextlib.AsyncExitStack() as held, trio.open_nursery() as nursery:
            if not begun:
                await held.enter_async_context(vfs.committer.hold())
            nursery.start_soon(swap_files, vfs, request)
            if begun:
                assert await trio.to_thread.run_sync(began.wait, WAIT_S)
            else:
                await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
            go_on.set()
        assert tree.store._store._swaps == begun
        await remove_pruned(vfs)
        assert tree.store._store._swaps == begun
        for number in range(12):
            assert await tree.content(b"%d" % number) == b"content %d" % number

    tree.run(work)


def test_trees_of_the_past_let_go_of_their_images(
    tree: Tree, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the kernel remembers of old versions must not keep them all in memory."""
    monkeypatch.setattr(past, "IMAGES_KEPT", 2)

    async def work() -> None:
        vfs = tree.vfs
        node_id = tree.file(b"f")
        for number in range(6):
            await vfs.write(node_id, 0, b"%d" % number)
            await vfs.committer.commit()
        files = []
        for version in range(2, 8):
            root = await vfs.past.lookup(VERSIONS, b"%d" % version)
            assert root is not None
            file = vfs.lookup(root.id, b"f")
            assert file is not None
            assert bytes(await vfs.read(file.id, 0, 9)) == b"%d" % (version - 2)
            files.append(file.id)
        vfs.open(files[0], os.O_RDONLY)
        await Rebaser(vfs).renew()
        nodes = [node for node in vfs.nodes.live.values() if isinstance(node, PastNode)]
        assert len(nodes) == 12
        held = {node.view.version for node in nodes if node.image is not None}
        assert held == {2, 6, 7}  # one is open, two are kept
        for at, file_id in enumerate(files):
            await vfs.past.ready(file_id)
            assert bytes(await vfs.read(file_id, 0, 9)) == b"%d" % at

    tree.run(work)


def test_memory_is_given_back_when_many_left(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rebase, "MANY_FORGOTTEN", 50)

    async def work() -> None:
        vfs, rebaser = tree.vfs, Rebaser(tree.vfs)
        ids = [tree.file(b"%d" % number) for number in range(100)]
        await vfs.committer.commit()
        await rebaser.renew()
        await rebaser.look()
        before = vfs.nodes.live
        vfs.forget([(node_id, 1) for node_id in ids[:90]])
        await rebaser.look()
        assert vfs.nodes.live is not before
        assert set(vfs.nodes.live) == {ROOT, *ids[90:]}

    tree.run(work)
