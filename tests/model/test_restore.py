"""Restore and undo over random histories, on the real store, without a kernel.

The histories have what plans trip over: renames of directories into each other, hard links,
replaced directories, files that became directories, contents that changed back.
"""

import errno
import os
import random
import stat
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from pondfs.errors import CommitFailed, Conflict, FileError, NoSuchPath
from pondfs.node import ROOT, NodeId, Version
from pondfs.oplog import Cut, Settled
from pondfs.store.changes import load_changes
from pondfs.store.delta import DeltaStore
from pondfs.vfs.attr import Change
from pondfs.vfs.base import Caller, VfsOptions
from pondfs.vfs.vfs import Vfs

ME = Caller(os.getuid(), os.getgid())
ROOT_CALLER = Caller(0, 0)
NAMES = (b"a", b"b", b"c", b"\xff")

of_many_lives = pytest.mark.campaign("restores, undos", suite=25, long=250)

Snapshot = dict[bytes, tuple[Any, ...]]


async def snapshot(vfs: Vfs) -> Snapshot:
    """Return every path with all that a person could see of it; names of one file share a mark."""
    found: Snapshot = {}
    firsts: dict[NodeId, bytes] = {}
    queue = [(b"", ROOT)]
    for path, node_id in queue:
        node = vfs.nodes.get(node_id)
        data: object = node.target
        mtime = None
        if stat.S_ISDIR(node.mode):
            children = vfs.nodes.children(node)
            queue += [(path + b"/" + name, child) for name, child in sorted(children.items())]
            data = sum(stat.S_ISDIR(vfs.nodes.get(child).mode) for child in children.values()) + 2
            assert node.nlink == data
        elif stat.S_ISREG(node.mode):
            data = bytes(await vfs.read(node_id, 0, node.size))
            mtime = node.mtime_ns
        first = firsts.setdefault(node_id, path)
        found[path] = (node.mode, node.uid, node.gid, node.nlink, node.xattrs, data, mtime, first)
    return found


class Life:
    """A tree that random things happen to."""

    def __init__(self, path: Path, seed: int) -> None:
        self.path = path
        DeltaStore.create(path)
        self.store = DeltaStore.open_writer(path, mountpoint="", socket="")
        self.vfs = Vfs(self.store, VfsOptions(acl=False))
        self.rng = random.Random(seed)
        self.kept: dict[Version, Snapshot] = {}
        self.clock = 10**18

    def places(self) -> list[tuple[NodeId, bytes, NodeId]]:
        nodes = self.vfs.nodes
        queue, found = [ROOT], []
        for directory in queue:
            for name, child in sorted(nodes.children(nodes.get(directory)).items()):
                found.append((directory, name, child))
                if stat.S_ISDIR(nodes.get(child).mode):
                    queue.append(child)
        return found

    async def act(self) -> None:
        vfs, rng = self.vfs, self.rng
        places = self.places()
        directories = [
            ROOT, *(node for _, _, node in places if stat.S_ISDIR(vfs.nodes.get(node).mode))
        ]  # fmt: skip
        where, name = rng.choice(directories), rng.choice(NAMES)
        some = rng.choice(places) if places else None
        what = rng.choice(
            "make make make mkdir mkdir write write truncate unlink rmdir rename rename rename "
            "link symlink chmod chown exchange".split()
        )
        try:
            if what == "make":
                node = vfs.make(where, name, stat.S_IFREG | 0o644, 0, ME)
                await self.write(node.id)
            elif what == "mkdir":
                vfs.make(where, name, stat.S_IFDIR | 0o755, 0, ME)
            elif what == "symlink":
                vfs.symlink(where, name, b"to " + name, ME)
            elif some is not None:
                await self.change(what, some, where, name)
        except FileError:
            pass

    async def change(
        self, what: str, some: tuple[NodeId, bytes, NodeId], where: NodeId, name: bytes
    ) -> None:
        vfs, rng = self.vfs, self.rng
        directory, old_name, node_id = some
        node = vfs.nodes.get(node_id)
        is_file = stat.S_ISREG(node.mode)
        if what == "write" and is_file:
            await self.write(node_id)
        elif what == "truncate" and is_file:
            vfs.setattr(node_id, Change(size=rng.randrange(node.size + 40), mtime_ns=self.tick()))
        elif what == "unlink":
            vfs.unlink(directory, old_name)
        elif what == "rmdir":
            vfs.rmdir(directory, old_name)
        elif what == "rename":
            vfs.rename(directory, old_name, where, name, 0)
        elif what == "exchange":
            vfs.rename(directory, old_name, where, name, 2)
        elif what == "link":
            vfs.link(node_id, where, name)
        elif what == "chmod" and not stat.S_ISLNK(node.mode):
            vfs.setattr(node_id, Change(mode=stat.S_IFMT(node.mode) | rng.choice((0o600, 0o755))))
        elif what == "chown":
            vfs.setattr(node_id, Change(uid=rng.randrange(3)))

    async def write(self, node_id: NodeId) -> None:
        # Few different contents, so that some come back.
        data = bytes([self.rng.randrange(3)]) * self.rng.randrange(1, 60)
        await self.vfs.write(node_id, self.rng.randrange(40), data)
        self.vfs.setattr(node_id, Change(mtime_ns=self.tick()))

    def tick(self) -> int:
        self.clock += 10**9
        return self.clock

    async def keep(self) -> None:
        await self.vfs.committer.commit()
        self.kept[self.vfs.committer.version] = await snapshot(self.vfs)

    async def check_stored(self) -> None:
        """What is on disk is what is shown."""
        assert self.vfs.pending.empty
        fresh = DeltaStore.open_reader(self.path)
        try:
            stored = Vfs(fresh, VfsOptions(read_only=True))
            assert await snapshot(stored) == await snapshot(self.vfs)
            assert stored.nodes.count() == self.vfs.nodes.count()
        finally:
            fresh.close()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.vfs.committer.run)
            yield
            nursery.cancel_scope.cancel()

    async def live(self, versions: int) -> None:
        await self.keep()
        for _ in range(versions):
            for _ in range(self.rng.randrange(1, 7)):
                await self.act()
            await self.keep()


@pytest.fixture
def life(seed: int, tmp_path: Path) -> Any:
    life = Life(tmp_path / "pond", seed)
    yield life
    life.store.close()


@of_many_lives
def test_a_restored_tree_is_the_old_one(life: Life) -> None:
    """After ``restore --at n /``, ``diff n`` is empty; and an undo of it leads back, exactly."""

    async def main() -> None:
        async with life.running():
            await life.live(8)
            for _ in range(3):
                for _ in range(life.rng.randrange(4)):
                    await life.act()
                await life.keep()
                before, top = await snapshot(life.vfs), life.vfs.committer.version
                old = life.rng.choice(list(life.kept))
                outcome = await life.vfs.restorer.restore(old, [()], ROOT_CALLER)
                assert await snapshot(life.vfs) == life.kept[old]
                assert life.vfs.committer.version == outcome.version or outcome.version is None
                assert life.vfs.committer.version - top == (outcome.version is not None)
                assert load_changes(life.path, old, life.vfs.committer.version) == []
                await life.check_stored()
                if outcome.version is None:
                    continue
                life.kept[outcome.version] = await snapshot(life.vfs)
                undone = await life.vfs.restorer.undo(outcome.version, ROOT_CALLER)
                assert undone.version == outcome.version + 1
                assert await snapshot(life.vfs) == before
                await life.check_stored()
                life.kept[undone.version] = before

    trio.run(main)


@of_many_lives
def test_a_restored_path_leaves_the_rest_alone(life: Life) -> None:
    async def main() -> None:
        async with life.running():
            await life.live(8)
            for _ in range(4):
                old = life.rng.choice(list(life.kept))
                paths = [path for path in life.kept[old] if path]
                if not paths:
                    continue
                path = life.rng.choice(paths)
                before = await snapshot(life.vfs)
                try:
                    await life.vfs.restorer.restore(old, [tuple(path.split(b"/")[1:])], ROOT_CALLER)
                except Conflict:
                    continue  # a file is where a directory was
                after = await snapshot(life.vfs)
                assert shape(after, path) == shape(life.kept[old], path)
                above = {path[:end] for end, byte in enumerate(path) if byte == ord("/")}
                assert_same_outside(before, after, path, above)
                await life.check_stored()
                await life.keep()

    trio.run(main)


@of_many_lives
def test_undo_takes_back_one_version_or_names_what_is_in_the_way(life: Life) -> None:
    async def main() -> None:
        async with life.running():
            await life.live(6)
            for version in sorted(life.kept, reverse=True)[:-1]:
                top = life.vfs.committer.version
                before = await snapshot(life.vfs)
                try:
                    undone = await life.vfs.restorer.undo(version, ROOT_CALLER)
                except Conflict as conflict:
                    said = str(conflict)
                    if version == top or "/" not in said:
                        raise
                    assert await snapshot(life.vfs) == before
                else:
                    if version == top:
                        assert await snapshot(life.vfs) == life.kept[Version(version - 1)]
                    if undone.version is not None:
                        life.kept[undone.version] = await snapshot(life.vfs)
                await life.check_stored()
            for version in (Version(3), Version(4)):
                try:
                    await life.vfs.restorer.undo(version, ROOT_CALLER, force=True)
                except Conflict:
                    pass  # it would contradict the rest of the tree
                await life.check_stored()

    trio.run(main)


@of_many_lives
def test_a_commit_that_fails_is_told_and_nothing_is_lost(life: Life) -> None:
    async def main() -> None:
        async with life.running():
            await life.live(3)
            old = life.rng.choice(list(life.kept))
            before = await snapshot(life.vfs)
            commit = life.store.commit

            def fail(cut: Cut, earlier: Sequence[Cut] = ()) -> Settled:
                if cut.summary.message.startswith("restore"):
                    raise OSError(errno.EIO, os.strerror(errno.EIO))
                return commit(cut, earlier)

            life.store.commit = fail  # type: ignore[method-assign]
            failed = False
            try:
                await life.vfs.restorer.restore(old, [()], ROOT_CALLER)
            except CommitFailed:
                failed = True
            life.store.commit = commit  # type: ignore[method-assign]
            await life.keep()
            assert await snapshot(life.vfs) == life.kept[old]
            await life.check_stored()
            assert failed == (before != life.kept[old])

    trio.run(main)


@of_many_lives
def test_a_dry_run_says_it_and_does_nothing(life: Life) -> None:
    async def main() -> None:
        async with life.running():
            await life.live(4)
            before, version = await snapshot(life.vfs), life.vfs.committer.version
            old = life.rng.choice(list(life.kept))
            planned = await life.vfs.restorer.restore(old, [()], ROOT_CALLER, dry_run=True)
            assert (await snapshot(life.vfs), life.vfs.committer.version) == (before, version)
            done = await life.vfs.restorer.restore(old, [()], ROOT_CALLER)
            assert done.changes == planned.changes
            assert (done.version is None) == (not planned.changes)

    trio.run(main)


@of_many_lives
def test_copies_beside_what_is_there(life: Life) -> None:
    async def main() -> None:
        async with life.running():
            await life.live(6)
            old = life.rng.choice(list(life.kept))
            paths = sorted(path for path in life.kept[old] if path)
            if not paths:
                return
            path = life.rng.choice(paths)
            before = await snapshot(life.vfs)
            names = tuple(path.split(b"/")[1:])
            await life.vfs.restorer.restore(old, [names], ROOT_CALLER, into=(b"copy",))
            after = await snapshot(life.vfs)
            assert shape(after, b"/copy") == shape(life.kept[old], path)
            assert_same_outside(before, after, b"/copy", {b""})
            await life.check_stored()
            with pytest.raises(NoSuchPath):
                await life.vfs.restorer.restore(old, [names], ROOT_CALLER, into=(b"no", b"x"))
            with pytest.raises(NoSuchPath):
                await life.vfs.restorer.restore(old, [(b"never",)], ROOT_CALLER)

    trio.run(main)


def shape(tree: Snapshot, path: bytes) -> dict[bytes, tuple[Any, ...]]:
    """Return what is at *path* and below, relative to it; link counts as far as they are inside."""
    inside = {
        where: facts
        for where, facts in tree.items()
        if where == path or where.startswith(path + b"/")
    }
    marks: dict[bytes, bytes] = {}
    found = {}
    for where, (mode, uid, gid, _, xattrs, data, mtime, first) in inside.items():
        mark = marks.setdefault(first, where)
        found[where[len(path) :]] = (mode, uid, gid, xattrs, data, mtime, mark[len(path) :])
    return found


def assert_same_outside(before: Snapshot, after: Snapshot, path: bytes, above: set[bytes]) -> None:
    """Fail unless everything but *path* is as it was; a shared file's mode is its names' alike."""
    linked = {where for tree in (before, after) for where, facts in tree.items() if facts[3] > 1}
    some, other = contents(before, path, above, linked), contents(after, path, above, linked)
    assert some == other


def contents(
    tree: Snapshot, without: bytes, above: set[bytes], linked: set[bytes]
) -> dict[bytes, tuple[Any, ...]]:
    """Return what is outside *without*, but for what a file's other names share with it."""
    found: dict[bytes, tuple[Any, ...]] = {}
    for where, (mode, uid, gid, _, xattrs, data, mtime, _) in tree.items():
        if where == without or where.startswith(without + b"/") or where in above:
            continue
        if stat.S_ISDIR(mode):
            found[where] = (mode, uid, gid, xattrs)
        elif where in linked:
            found[where] = (stat.S_IFMT(mode), data)
        else:
            found[where] = (mode, uid, gid, xattrs, data, mtime)
    return found
