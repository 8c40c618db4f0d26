"""A follower beside a writer, without a kernel: after every commit it shows what a fresh Vfs shows.

The kernel's part is played by what a follower is told to forget: whoever forgets just that must end
up with the truth.
"""

import contextlib
import os
import random
import stat
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import trio
from deltalake import DeltaTable

from pondfs.errors import FileError, StoreDamaged
from pondfs.interfaces import Image
from pondfs.node import ROOT, NodeId, Version
from pondfs.oplog import Row
from pondfs.store import news
from pondfs.store.delta import DeltaStore
from pondfs.vfs.attr import Change
from pondfs.vfs.base import Caller, Stale, VfsOptions
from pondfs.vfs.follow import Follower
from pondfs.vfs.nodes import Node
from pondfs.vfs.vfs import Vfs
from tests.unit.store.support import directory_rows, extent_row, file_row, make_cut

ME = Caller(os.getuid(), os.getgid())
NAMES = [b"a", b"b", b"c", b"d", b"\xff", b"\xfe"]
STEPS = 120

Facts = tuple[Any, ...]
Tree = dict[tuple[bytes, ...], Facts]


def facts(node: Node) -> Facts:
    extents = node.extents
    allocated = node.allocated_bytes if extents is None else extents.allocated_bytes
    xattrs = sorted((node.xattrs or {}).items())
    return (node.id, *node.attr_row(), allocated, node.target, tuple(xattrs))


async def show(vfs: Vfs) -> Tree:
    """Return everything a program could see."""
    tree: Tree = {}

    async def visit(node: Node, path: tuple[bytes, ...], parent: NodeId) -> None:
        data = b""
        if stat.S_ISREG(node.mode):
            data = bytes(await vfs.read(node.id, 0, 1 << 20))
        tree[path] = (*facts(node), data)
        if stat.S_ISDIR(node.mode):
            listing = vfs.open_directory(node.id)
            for name in vfs.list_names(listing, 0)[2:]:
                child = vfs.list_entry(listing, name)
                assert child is not None
                await visit(child, (*path, name), node.id)
            above = vfs.list_entry(listing, b"..")
            assert above is not None
            assert above.id == parent
            vfs.close_directory(listing)

    await visit(vfs.nodes.get(ROOT), (), ROOT)
    return tree


class Kernel:
    """Remembers what it looked up until it is told to forget it."""

    def __init__(self, vfs: Vfs) -> None:
        self.vfs = vfs
        self.entries: dict[tuple[NodeId, bytes], NodeId | None] = {}
        self.attributes: dict[NodeId, Facts] = {}
        self.contents: dict[NodeId, bytes] = {}
        self.held: list[NodeId] = []
        vfs.invalidate = self.forget

    async def forget(self, stale: Stale) -> None:
        for entry in stale.entries:
            self.entries.pop(entry, None)
        for node_id in stale.attributes:
            self.attributes.pop(node_id, None)
        for node_id in stale.contents:
            self.contents.pop(node_id, None)
            self.attributes.pop(node_id, None)

    async def look(self, directory: NodeId, name: bytes) -> NodeId | None:
        if (directory, name) not in self.entries:
            node = self.vfs.lookup(directory, name)
            self.entries[directory, name] = None if node is None else node.id
            if node is not None:
                self.held.append(node.id)
        return self.entries[directory, name]

    async def stat(self, node_id: NodeId) -> Facts:
        if node_id not in self.attributes:
            self.attributes[node_id] = facts(self.vfs.getattr(node_id))
        return self.attributes[node_id]

    async def read(self, node_id: NodeId) -> bytes:
        if node_id not in self.contents:
            self.contents[node_id] = bytes(await self.vfs.read(node_id, 0, 1 << 20))
        return self.contents[node_id]

    async def walk(self) -> Tree:
        tree: Tree = {}

        async def visit(node_id: NodeId, path: tuple[bytes, ...]) -> None:
            shown = await self.stat(node_id)
            mode = shown[1]
            data = await self.read(node_id) if stat.S_ISREG(mode) else b""
            tree[path] = (*shown, data)
            if stat.S_ISDIR(mode):
                for name in NAMES:
                    child = await self.look(node_id, name)
                    if child is not None:
                        await visit(child, (*path, name))

        await visit(ROOT, ())
        return tree

    def drop(self, rng: random.Random) -> None:
        """Forget as under memory pressure: some leaves, or all of it."""
        if rng.random() < 0.5:
            return
        self.entries.clear()
        self.attributes.clear()
        self.contents.clear()
        self.vfs.forget([(node_id, 1) for node_id in self.held])
        self.held.clear()


@dataclass
class Beside:
    """A writer, and a follower with its kernel."""

    path: Path
    writer: Vfs
    reader: Vfs
    follower: Follower
    kernel: Kernel
    rng: random.Random
    orphans: list[NodeId] = field(default_factory=list)

    # --- what a writer does ---

    def nodes(self, wanted: Callable[[int], bool]) -> list[tuple[NodeId, bytes, Node]]:
        """Return the entries that lead to nodes of the wanted kind: directory, name, node."""
        found = []
        nodes = self.writer.nodes

        def visit(directory: Node) -> None:
            for name, node_id in sorted(nodes.children(directory).items()):
                node = nodes.get(node_id)
                if wanted(node.mode):
                    found.append((directory.id, name, node))
                if stat.S_ISDIR(node.mode):
                    visit(node)

        visit(nodes.get(ROOT))
        return found

    def directory(self) -> NodeId:
        return self.rng.choice([ROOT, *(node.id for *_, node in self.nodes(stat.S_ISDIR))])

    async def step(self) -> None:
        rng, vfs = self.rng, self.writer
        files = self.nodes(stat.S_ISREG)
        every = self.nodes(lambda mode: True)
        name = rng.choice(NAMES)
        with contextlib.suppress(FileError):
            match rng.choice(
                ["file"] * 4 + ["dir", "dir", "soft", "link", "chmod", "xattr", "truncate"]
                + ["rename"] * 4 + ["exchange", "unlink", "rmdir", "orphan", "shrink"]
                + ["write"] * 5
            ):  # fmt: skip
                case "file":
                    node = vfs.make(self.directory(), name, stat.S_IFREG | 0o644, 0, ME)
                    await vfs.write(node.id, 0, rng.randbytes(rng.randrange(1, 3000)))
                    vfs.forget([(node.id, 1)])
                case "dir":
                    node = vfs.make(self.directory(), name, stat.S_IFDIR | 0o755, 0, ME)
                    vfs.forget([(node.id, 1)])
                case "soft":
                    node = vfs.symlink(self.directory(), name, rng.randbytes(20).hex().encode(), ME)
                    vfs.forget([(node.id, 1)])
                case "link" if files:
                    node = vfs.link(rng.choice(files)[2].id, self.directory(), name)
                    vfs.forget([(node.id, 1)])
                case "chmod" if every:
                    vfs.setattr(rng.choice(every)[2].id, Change(mode=rng.randrange(0o777)))
                case "xattr" if every:
                    vfs.setxattr(rng.choice(every)[2].id, b"user.x", rng.randbytes(5))
                case "truncate" if files:
                    vfs.setattr(rng.choice(files)[2].id, Change(size=rng.randrange(4000)))
                case "shrink" if files:
                    node_id = rng.choice(files)[2].id
                    vfs.setattr(node_id, Change(size=rng.randrange(1000)))
                    vfs.setattr(node_id, Change(size=5000))
                case "write" if files:
                    data = rng.randbytes(rng.randrange(1, 3000))
                    await vfs.write(rng.choice(files)[2].id, rng.randrange(6000), data)
                case "rename" if every:
                    directory, old, _ = rng.choice(every)
                    vfs.rename(directory, old, self.directory(), name, 0)
                case "exchange" if every:
                    (a, a_name, _), (b, b_name, _) = rng.choice(every), rng.choice(every)
                    vfs.rename(a, a_name, b, b_name, 2)
                case "unlink" if every:
                    vfs.unlink(*rng.choice(every)[:2])
                case "rmdir" if every:
                    vfs.rmdir(*rng.choice(every)[:2])
                case "orphan" if files:
                    directory, old, node = rng.choice(files)
                    vfs.open(node.id, os.O_RDWR)
                    vfs.unlink(directory, old)
                    await vfs.write(node.id, 0, rng.randbytes(500))
                    await vfs.committer._stage()
                    self.orphans.append(node.id)
                    if len(self.orphans) > 2:
                        vfs.release(self.orphans.pop(0))
        if rng.random() < 0.1:
            await vfs.committer._stage()

    # --- what the follower must show ---

    async def check(self) -> None:
        """Compare with a Vfs that opens the pond now, and let the kernel look at everything."""
        store = DeltaStore.open_reader(self.path)
        try:
            fresh = Vfs(store, VfsOptions(read_only=True))
            truth = await show(fresh)
            assert await self.kernel.walk() == truth
            assert await show(self.reader) == truth
            assert (
                self.reader.nodes.count()
                == fresh.nodes.count()
                == len({node_id for node_id, *_ in truth.values()})
            )
            assert self.reader.committer.version == fresh.committer.version
        finally:
            store.close()


@contextlib.asynccontextmanager
async def beside(path: Path, seed: int) -> AsyncIterator[Beside]:
    DeltaStore.create(path)
    writing = DeltaStore.open_writer(path, mountpoint="", socket="")
    reading = DeltaStore.open_reader(path)
    try:
        writer = Vfs(writing, VfsOptions())
        writer.committer.stage_at_bytes = 5000
        reader = Vfs(reading, VfsOptions(read_only=True))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(writer.committer.run)
            yield Beside(path, writer, reader, Follower(reader), Kernel(reader),
                         random.Random(seed))  # fmt: skip
            nursery.cancel_scope.cancel()
    finally:
        reading.close()
        writing.close()


def run(main: Callable[[], Awaitable[None]]) -> None:
    trio.run(main)


def exchange(path: Path, remove: bool) -> None:
    """Have another engine write the table's files anew; take the old ones away."""
    before = set(DeltaTable(path).file_uris())
    DeltaTable(path).optimize.compact()
    for uri in before - set(DeltaTable(path).file_uris()):
        if remove:
            os.unlink(uri.removeprefix("file://"))


@pytest.mark.campaign("followers", suite=4, long=100)
def test_a_random_life(seed: int, tmp_path: Path) -> None:
    """With and without new images, commits in bunches, and a kernel that forgets."""

    async def main() -> None:
        async with beside(tmp_path / "pond", seed) as both:
            rng = both.rng
            for _ in range(STEPS):
                await both.step()
                if rng.random() < 0.4:
                    await both.writer.committer.commit()
                    if rng.random() < 0.3:
                        continue
                    if rng.random() < 0.3:
                        # A new image while following goes on.
                        async with trio.open_nursery() as nursery:
                            nursery.start_soon(both.follower.fold)
                            nursery.start_soon(both.follower.keep_up)
                    await both.follower.keep_up()
                    await both.check()
                    both.kernel.drop(rng)

    run(main)


@pytest.mark.campaign("followers, files exchanged", suite=4, long=50)
@pytest.mark.parametrize("most_rows", [news.MOST_ROWS, 3])
def test_a_life_in_which_files_are_exchanged(
    seed: int, most_rows: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before it was noticed, after, at the same time as commits; and too much for rows."""
    monkeypatch.setattr(news, "MOST_ROWS", most_rows)

    async def main() -> None:
        async with beside(tmp_path / "pond", seed) as both:
            rng = both.rng
            for _ in range(STEPS):
                await both.step()
                if rng.random() < 0.4:
                    await both.writer.committer.commit()
                if rng.random() < 0.1:
                    # The writer reads the files it knows, so they stay where they are.
                    await trio.to_thread.run_sync(exchange, both.path, False)
                if rng.random() < 0.2:
                    await both.follower.keep_up()
                    await both.check()

    run(main)


def test_a_file_that_vanishes_before_it_is_noticed(tmp_path: Path) -> None:
    """A read looks at the log by itself; what is open and nameless keeps what is left."""

    async def main() -> None:
        async with beside(tmp_path / "pond", 1) as both:
            writer, reader = both.writer, both.reader
            for name in NAMES:
                node = writer.make(ROOT, name, stat.S_IFREG | 0o644, 0, ME)
                await writer.write(node.id, 0, name * 1000)
                await writer.committer.commit()
            await both.follower.keep_up()
            found = reader.lookup(ROOT, b"a")
            assert found is not None
            reader.open(found.id, os.O_RDONLY)
            exchange(both.path, True)
            assert bytes(await reader.read(found.id, 0, 5000)) == b"a" * 1000
            await both.check()
            old = await reader.past.lookup(reader_at(reader), b"3")
            assert old is not None
            past = reader.lookup(old.id, b"a")
            assert past is not None
            assert bytes(await reader.read(past.id, 0, 5000)) == b"a" * 1000

    run(main)


def test_what_is_open_stays_what_it_is(tmp_path: Path) -> None:
    """A file that loses its name keeps its bytes, and shows that it has no name."""

    async def main() -> None:
        async with beside(tmp_path / "pond", 1) as both:
            writer, reader = both.writer, both.reader
            made = writer.make(ROOT, b"a", stat.S_IFREG | 0o644, 0, ME)
            await writer.write(made.id, 0, b"before")
            await writer.committer.commit()
            await both.follower.keep_up()
            await both.follower.fold()
            found = await both.kernel.look(ROOT, b"a")
            assert found is not None
            assert (await both.kernel.stat(found))[4] == 1
            reader.open(found, os.O_RDONLY)
            writer.unlink(ROOT, b"a")
            await writer.committer.commit()
            await both.follower.keep_up()
            await both.check()
            await both.follower.fold()
            assert (await both.kernel.stat(found))[4] == 0
            assert bytes(await reader.read(found, 0, 100)) == b"before"
            both.kernel.vfs.forget([(found, 1)])
            reader.release(found)
            assert found not in reader.nodes.live

    run(main)


def test_a_new_image_that_comes_too_late(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files were exchanged while it was folded: it is from the old ones, so it is not taken."""

    async def main() -> None:
        async with beside(tmp_path / "pond", 1) as both:
            for name in NAMES:
                node = both.writer.make(ROOT, name, stat.S_IFREG | 0o644, 0, ME)
                await both.writer.write(node.id, 0, name * 1000)
                await both.writer.committer.commit()
            await both.follower.keep_up()
            feed = both.follower._feed
            folded, go_on = threading.Event(), threading.Event()

            def fold(version: Version) -> Image:
                image = DeltaStore.open_reader(both.path).load_image_at(version)
                folded.set()
                assert go_on.wait(10)
                return image

            monkeypatch.setattr(feed, "fold", fold)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(both.follower.fold)
                await trio.to_thread.run_sync(folded.wait)
                both.writer.unlink(ROOT, b"a")
                await both.writer.committer.commit()
                exchange(both.path, True)
                await both.follower.keep_up()
                go_on.set()
            await both.check()

    run(main)


def test_rows_that_pondfs_would_not_write(tmp_path: Path) -> None:
    """Only what the fold counts on is counted on: entries move alone, bytes come alone."""

    async def main() -> None:
        async with beside(tmp_path / "pond", 1) as both:
            store = both.writer.store
            store.commit(make_cut(2, [
                *directory_rows(5, b"a"), *directory_rows(6, b"b"),
                file_row(7, b"seven", b"c"), file_row(8, b"eight", b"d"),
            ]))  # fmt: skip
            await both.follower.keep_up()
            await both.check()
            store.commit(make_cut(3, [
                Row("rename", 1, ROOT, 6, stat.S_IFDIR, b"b", removed=True),
                Row("rename", 1, 5, 6, stat.S_IFDIR, b"d"),
                extent_row(7, 2, b"xx"),
                Row("unlink", 1, ROOT, 99, stat.S_IFREG, removed=True),
                Row("link", 1, ROOT, 98, stat.S_IFREG, b"d"),
            ]))  # fmt: skip
            await both.follower.keep_up()
            truth = await show(Vfs(DeltaStore.open_reader(both.path), VfsOptions(read_only=True)))
            assert (b"a", b"d") in truth
            assert truth[(b"c",)][-1] == b"sexxn"
            shown = await show(both.reader)
            assert shown == truth

    run(main)


def reader_at(reader: Vfs) -> NodeId:
    found = reader.lookup(ROOT, b".pond")
    assert found is not None
    versions = reader.lookup(found.id, b"versions")
    assert versions is not None
    return versions.id


def test_a_past_file_whose_data_file_vanishes(tmp_path: Path) -> None:
    """A tree of the past that is looked at while files are exchanged is folded anew."""

    async def main() -> None:
        async with beside(tmp_path / "pond", 1) as both:
            writer, reader = both.writer, both.reader
            for name in NAMES:
                node = writer.make(ROOT, name, stat.S_IFREG | 0o644, 0, ME)
                await writer.write(node.id, 0, name * 1000)
                await writer.committer.commit()
            await both.follower.keep_up()
            old = await reader.past.lookup(reader_at(reader), b"4")
            assert old is not None
            past = reader.lookup(old.id, b"a")
            assert past is not None
            exchange(both.path, True)
            assert bytes(await reader.read(past.id, 0, 5000)) == b"a" * 1000

    run(main)


def test_a_damaged_entry_is_waited_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """One line in the log; what came before is shown, and what comes after it is repaired."""

    async def main() -> None:
        async with beside(tmp_path / "pond", 1) as both:
            for name in (b"a", b"b"):
                both.writer.make(ROOT, name, stat.S_IFREG | 0o644, 0, ME)
                await both.writer.committer.commit()
            log = both.path / "_delta_log"
            last = log / f"{max(int(p.stem) for p in log.glob('*.json')):020d}.json"
            whole = last.read_bytes()
            last.write_bytes(whole[:100])
            for _ in range(3):
                await both.follower.keep_up()
            assert both.reader.lookup(ROOT, b"a") is not None
            assert both.reader.lookup(ROOT, b"b") is None
            last.write_bytes(whole)
            await both.follower.keep_up()
            await both.check()

    run(main)
    warnings = [record for record in caplog.records if record.levelname == "WARNING"]
    assert len(warnings) == 1
    assert "showing version 2 until it can be read" in warnings[0].message


def test_a_damaged_data_file_is_an_error_still(tmp_path: Path) -> None:
    """Nothing was exchanged, so looking again does not help: the read fails as ever."""

    async def main() -> None:
        async with beside(tmp_path / "pond", 1) as both:
            node = both.writer.make(ROOT, b"a", stat.S_IFREG | 0o644, 0, ME)
            await both.writer.write(node.id, 0, b"x" * 1000)
            await both.writer.committer.commit()
            await both.follower.keep_up()
            for file in both.path.glob("*.parquet"):
                file.unlink()
            found = both.reader.lookup(ROOT, b"a")
            assert found is not None
            with pytest.raises(StoreDamaged, match="is gone"):
                await both.reader.read(found.id, 0, 1000)

    run(main)


def test_only_what_changed_is_forgotten(tmp_path: Path) -> None:
    """The kernel keeps what it knows of everything else."""

    async def main() -> None:
        async with beside(tmp_path / "pond", 1) as both:
            writer, told = both.writer, []

            async def tell(stale: Stale) -> None:
                told.append(stale)

            both.reader.invalidate = tell
            ids = {}
            for name in NAMES:
                ids[name] = writer.make(ROOT, name, stat.S_IFREG | 0o644, 0, ME).id
                await writer.write(ids[name], 0, b"x" * 1000)
            await writer.committer.commit()
            await both.follower.keep_up()
            for name in (b"a", b"b", b"c", b"not there"):
                both.reader.lookup(ROOT, name)
            told.clear()
            await writer.write(ids[b"a"], 5, b"y")
            writer.setattr(ids[b"b"], Change(mode=0o600))
            await writer.write(ids[b"d"], 5, b"nobody looked at this one")
            await writer.committer.commit()
            await both.follower.keep_up()
            assert told == [Stale([], [ids[b"b"]], [ids[b"a"]])]

    run(main)
