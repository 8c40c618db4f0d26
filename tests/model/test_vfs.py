"""The live tree against a small reference, without a kernel: commits, stages, faults and crashes.

What the kernel tests can't reach often enough is here: content that is staged, cut off and written
again inside one version; files that are removed while staged; stages and commits that fail.
"""

import errno
import math
import os
import stat
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from pondfs.errors import CommitFailed, FileError
from pondfs.interfaces import Image
from pondfs.node import ROOT, NodeId
from pondfs.store.delta import DeltaStore
from pondfs.vfs import rebase
from pondfs.vfs.attr import Change
from pondfs.vfs.base import Caller, VfsOptions
from pondfs.vfs.journaled import FIRST_SYNC_S
from pondfs.vfs.nodes import CLEAN
from pondfs.vfs.pending import DEAD_BYTES
from pondfs.vfs.rebase import Rebaser
from pondfs.vfs.vfs import Vfs
from tests.campaign import Campaign

ME = Caller(os.getuid(), os.getgid())
NAMES = st.sampled_from([b"a", b"b", b"c", b"\xff"])
OFFSETS = st.integers(0, 9000)
SIZES = st.integers(1, 5000)


class File:
    """A reference file: shared by its names and handles."""

    def __init__(self) -> None:
        self.data = bytearray()
        self.names = 1

    def frozen(self) -> bytes:
        return bytes(self.data)


class FaultyStore:
    """The real store, which can be told to fail as a disk does."""

    def __init__(self, store: DeltaStore) -> None:
        self._store = store
        self.fails = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def stage(self, *args: Any) -> Any:
        return self._may_fail(self._store.stage, *args)

    def commit(self, *args: Any) -> Any:
        return self._may_fail(self._store.commit, *args)

    def journal(self, *args: Any) -> Any:
        return self._may_fail(self._store.journal, *args)

    def _may_fail(self, call: Callable[..., Any], *args: Any) -> Any:
        if self.fails:
            self.fails -= 1
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return call(*args)


Tree = dict[tuple[bytes, ...], bytes | None]
"""Path to content; None for a directory."""


class VfsMachine(RuleBasedStateMachine):
    """Two directories' worth of files, written in pieces, staged, committed, crashed."""

    def __init__(self) -> None:
        super().__init__()
        self._place = tempfile.TemporaryDirectory(prefix="pond-model-")
        self.path = Path(self._place.name) / "store"
        DeltaStore.create(self.path)
        self.dirs: set[tuple[bytes, ...]] = {()}
        self.files: dict[tuple[bytes, ...], File] = {}
        self.handles: list[tuple[NodeId, File]] = []
        self.committed: Tree = self.snapshot()
        self.open()

    def open(self) -> None:
        self.store = FaultyStore(DeltaStore.open_writer(self.path, mountpoint="", socket=""))
        # Each step is a trio of its own, whose clock begins anywhere: no timer shall fire.
        self.vfs = Vfs(self.store, VfsOptions(journal=True, commit_s=1e12))
        self.rebaser = Rebaser(self.vfs)
        self.image: Image | None = None

    def teardown(self) -> None:
        self.store.close()
        self._place.cleanup()

    # --- driving ---

    def do(self, call: Callable[..., Any], *args: Any) -> Any:
        async def main() -> Any:
            result = call(*args)
            return await result if isinstance(result, Awaitable) else result

        return trio.run(main)

    async def commit(self, *, publish: bool = True, at_rest: bool = False) -> CommitFailed | None:
        failure: CommitFailed | None = None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.vfs.committer.run)
            if at_rest and self.vfs.committer.failure is None:
                await trio.testing.wait_all_tasks_blocked()
            try:
                await self.vfs.committer.commit(publish=publish)
            except CommitFailed as error:
                failure = error
            nursery.cancel_scope.cancel()
        return failure

    def snapshot(self) -> Tree:
        tree: Tree = dict.fromkeys(self.dirs)
        tree.update({path: file.frozen() for path, file in self.files.items()})
        return tree

    def node_id(self, path: tuple[bytes, ...]) -> NodeId:
        node_id = ROOT
        for name in path:
            node = self.do(self.vfs.lookup, node_id, name)
            assert node is not None, path
            node_id = node.id
            self.do(self.vfs.forget, [(node_id, 1)])
        return node_id

    def make(self, top: tuple[bytes, ...], name: bytes, mode: int) -> None:
        node = self.do(self.vfs.make, self.node_id(top), name, mode, 0, ME)
        self.do(self.vfs.forget, [(node.id, 1)])

    def walk(self) -> Tree:
        """Return the tree as the Vfs shows it, link counts checked on the way."""
        tree: Tree = {}

        async def visit(node_id: NodeId, path: tuple[bytes, ...]) -> None:
            vfs = self.vfs
            tree[path] = None
            listing = vfs.open_directory(node_id)
            names = vfs.list_names(listing, 0)
            below = 0
            for name in names[2:]:
                node = vfs.list_entry(listing, name)
                assert node is not None
                if stat.S_ISDIR(node.mode):
                    below += 1
                    await visit(node.id, (*path, name))
                else:
                    data = await vfs.read(node.id, 0, 1 << 20)
                    tree[(*path, name)] = bytes(data)
                    assert len(data) == node.size
                    assert node.nlink == self.names_of((*path, name))
            assert listing.node.nlink == 2 + below
            vfs.close_directory(listing)

        self.do(visit, ROOT, ())
        return tree

    def names_of(self, path: tuple[bytes, ...]) -> int:
        file = self.files.get(path)
        return file.names if file is not None else -1

    # --- rules ---

    @rule(parent=st.data(), name=NAMES)
    def mkdir(self, parent: st.DataObject, name: bytes) -> None:
        top = parent.draw(st.sampled_from(sorted(path for path in self.dirs if len(path) < 2)))
        path = (*top, name)
        if path in self.dirs or path in self.files:
            return
        self.make(top, name, stat.S_IFDIR | 0o755)
        self.dirs.add(path)

    @rule(where=st.data(), name=NAMES)
    def create(self, where: st.DataObject, name: bytes) -> None:
        top = where.draw(st.sampled_from(sorted(self.dirs)))
        path = (*top, name)
        if path in self.dirs or path in self.files:
            return
        self.make(top, name, stat.S_IFREG | 0o644)
        self.files[path] = File()

    @precondition(lambda self: self.files)
    @rule(which=st.data(), offset=OFFSETS, size=SIZES, byte=st.integers(1, 255))
    def write(self, which: st.DataObject, offset: int, size: int, byte: int) -> None:
        path = which.draw(st.sampled_from(sorted(self.files)))
        self.write_to(self.node_id(path), self.files[path], offset, size, byte)

    def write_to(self, node_id: NodeId, file: File, offset: int, size: int, byte: int) -> None:
        data = bytes([byte]) * size
        self.do(self.vfs.write, node_id, offset, data)
        if offset > len(file.data):
            file.data.extend(bytes(offset - len(file.data)))
        file.data[offset : offset + size] = data

    @precondition(lambda self: self.files)
    @rule(which=st.data(), size=OFFSETS)
    def truncate(self, which: st.DataObject, size: int) -> None:
        path = which.draw(st.sampled_from(sorted(self.files)))
        self.do(self.vfs.setattr, self.node_id(path), Change(size=size))
        file = self.files[path]
        if size < len(file.data):
            del file.data[size:]
        else:
            file.data.extend(bytes(size - len(file.data)))

    @precondition(lambda self: self.files)
    @rule(which=st.data(), where=st.data(), name=NAMES)
    def link(self, which: st.DataObject, where: st.DataObject, name: bytes) -> None:
        path = which.draw(st.sampled_from(sorted(self.files)))
        top = where.draw(st.sampled_from(sorted(self.dirs)))
        if (*top, name) in self.dirs or (*top, name) in self.files:
            return
        node = self.do(self.vfs.link, self.node_id(path), self.node_id(top), name)
        self.do(self.vfs.forget, [(node.id, 1)])
        self.files[(*top, name)] = self.files[path]
        self.files[path].names += 1

    @precondition(lambda self: self.files)
    @rule(which=st.data(), where=st.data(), name=NAMES)
    def rename_file(self, which: st.DataObject, where: st.DataObject, name: bytes) -> None:
        path = which.draw(st.sampled_from(sorted(self.files)))
        top = where.draw(st.sampled_from(sorted(self.dirs)))
        target = (*top, name)
        call = (self.node_id(path[:-1]), path[-1], self.node_id(top), name, 0)
        if target in self.dirs:
            assert self.errno_of(self.vfs.rename, *call) == errno.EISDIR
            return
        self.do(self.vfs.rename, *call)
        if self.files.get(target) is self.files[path]:
            return  # two names of one file
        if target in self.files:
            self.files[target].names -= 1
        self.files[target] = self.files.pop(path)

    @precondition(lambda self: len(self.dirs) > 1)
    @rule(which=st.data(), name=NAMES)
    def rename_directory(self, which: st.DataObject, name: bytes) -> None:
        path = which.draw(st.sampled_from(sorted(self.dirs - {()})))
        target = (name,)
        if target in self.dirs or target in self.files or target == path[:1]:
            return
        self.do(self.vfs.rename, self.node_id(path[:-1]), path[-1], ROOT, name, 0)
        depth = len(path)
        self.dirs = {target + p[depth:] if p[:depth] == path else p for p in self.dirs}
        self.files = {
            (target + p[depth:] if p[:depth] == path else p): f for p, f in self.files.items()
        }

    @precondition(lambda self: self.files)
    @rule(which=st.data())
    def unlink(self, which: st.DataObject) -> None:
        path = which.draw(st.sampled_from(sorted(self.files)))
        self.do(self.vfs.unlink, self.node_id(path[:-1]), path[-1])
        self.files.pop(path).names -= 1

    @precondition(lambda self: len(self.dirs) > 1)
    @rule(which=st.data())
    def rmdir(self, which: st.DataObject) -> None:
        path = which.draw(st.sampled_from(sorted(self.dirs - {()})))
        call = (self.vfs.rmdir, self.node_id(path[:-1]), path[-1])
        depth = len(path)
        if any(p[:depth] == path and p != path for p in [*self.dirs, *self.files]):
            assert self.errno_of(*call) == errno.ENOTEMPTY
            return
        self.do(*call)
        self.dirs.remove(path)

    @precondition(lambda self: self.files)
    @rule(which=st.data())
    def open_file(self, which: st.DataObject) -> None:
        path = which.draw(st.sampled_from(sorted(self.files)))
        node_id = self.node_id(path)
        self.do(self.vfs.open, node_id, os.O_RDWR)
        self.handles.append((node_id, self.files[path]))

    @precondition(lambda self: self.handles)
    @rule(offset=OFFSETS, size=SIZES, byte=st.integers(1, 255))
    def write_handle(self, offset: int, size: int, byte: int) -> None:
        """Through a handle, so that nameless files are written and staged as well."""
        self.write_to(*self.handles[0], offset, size, byte)

    @precondition(lambda self: self.handles)
    @rule()
    def close_file(self) -> None:
        node_id, file = self.handles.pop(0)
        data = self.do(self.vfs.read, node_id, 0, 1 << 20)
        assert bytes(data) == file.frozen()
        self.do(self.vfs.release, node_id)

    @rule()
    def stage(self) -> None:
        self.do(self.vfs.committer._stage)

    @rule()
    def save_image(self) -> None:
        """Which is turned to now or later, when there may be versions that it does not have."""
        self.image = self.store.save_image()
        assert self.image is not None
        assert self.image.version == self.vfs.committer.published

    @precondition(lambda self: self.image is not None)
    @rule()
    def turn_to_image(self) -> None:
        image, self.image = self.image, None
        assert image is not None
        self.do(self.rebaser.turn_to, image)
        live = self.vfs.nodes.live.values()
        assert all(node.changed == CLEAN or node.changed > image.version for node in live)
        if self.vfs.pending.empty and image.version == self.vfs.committer.version:
            held = {node_id for node_id, _ in self.handles}
            assert {node.id for node in live} <= {ROOT, *held}

    @precondition(lambda self: self.image is not None and self.files)
    @rule(which=st.data(), after=st.integers(0, 12), commits=st.booleans())
    def unlink_while_turning(self, which: st.DataObject, after: int, commits: bool) -> None:
        """A name goes, and a version comes, between two of the turn's steps."""
        image, self.image = self.image, None
        assert image is not None
        path = which.draw(st.sampled_from(sorted(self.files)))
        parent = self.node_id(path[:-1])

        async def main() -> None:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self.rebaser.turn_to, image)
                for _ in range(after):
                    await trio.lowlevel.checkpoint()
                self.vfs.unlink(parent, path[-1])
                if commits:
                    assert await self.commit() is None

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(rebase, "SLICE", 1)
            self.do(main)
        self.files.pop(path).names -= 1
        if commits:
            self.committed = self.snapshot()

    @rule(fails=st.booleans())
    def commit_all(self, fails: bool) -> None:
        self.store.fails = int(fails)
        failure = self.do(self.commit)
        self.store.fails = 0
        if failure is None:
            self.committed = self.snapshot()
            self.no_dead_files()
        else:
            assert fails
            assert failure.errno == errno.EIO

    @rule(fails=st.integers(0, 2), here=st.booleans())
    def sync_all(self, fails: int, here: bool) -> None:
        """An fsync: in the journal; if that fails in the table; if that does, too, it is told.

        *here*: on the spot, as on a disk that has proved to be quick.
        """
        self.store.fails = fails
        self.vfs.committer.journaled._sync_s = 0.0 if here else FIRST_SYNC_S
        self.vfs.committer.journaled._threaded = 0
        failure = self.do(lambda: self.commit(publish=False, at_rest=here))
        self.store.fails = 0
        if failure is None:
            self.committed = self.snapshot()
        else:
            assert fails
            assert failure.errno == errno.EIO
        self.vfs.committer.journaled._usable_at = -math.inf

    @precondition(lambda self: self.vfs.committer.journaled and not self.vfs.committer.failure)
    @rule()
    def publish(self) -> None:
        """Somebody looks at `.pond/`: every version there is must be in the table."""

        async def main() -> None:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self.vfs.committer.run)
                await self.vfs.committer.publish()
                nursery.cancel_scope.cancel()

        trio.run(main)
        assert self.store.version == self.vfs.committer.version

    def no_dead_files(self) -> None:
        """What only ever held bytes of files that came and went between two commits is gone."""
        live = {file.name for file in self.store._store._files}
        found = {name for name in os.listdir(self.path) if name.endswith(".parquet")}
        assert found - set(self.store.strays) == live

    @rule()
    def stage_that_fails(self) -> None:
        self.store.fails = 1
        self.do(self.vfs.committer._stage)
        self.store.fails = 0

    @rule(crash=st.booleans())
    def reopen(self, crash: bool) -> None:
        """Come back: after a crash with what was committed last, else with everything."""
        for node_id, _ in self.handles:
            self.do(self.vfs.release, node_id)
        self.handles.clear()
        if not crash:
            assert self.do(self.commit) is None
            self.committed = self.snapshot()
        self.store.close()
        self.open()
        if crash:
            self.take_over()
        assert self.walk() == self.committed

    def take_over(self) -> None:
        """Make the model what was committed: the same paths, files shared by the same nodes."""
        self.dirs = {path for path, data in self.committed.items() if data is None}
        by_node: dict[NodeId, File] = {}
        self.files = {}
        for path, data in self.committed.items():
            if data is not None:
                node_id = self.node_id(path)
                file = by_node.get(node_id)
                if file is None:
                    file = by_node[node_id] = File()
                    file.data, file.names = bytearray(data), 0
                file.names += 1
                self.files[path] = file

    def errno_of(self, call: Callable[..., Any], *args: Any) -> int:
        try:
            self.do(call, *args)
        except FileError as error:
            return error.errno
        return 0

    @invariant()
    def the_tree_is_the_models(self) -> None:
        assert self.walk() == self.snapshot()
        live = self.vfs.nodes.live.values()
        assert self.vfs.nodes.changed == sum(node.changed != CLEAN for node in live)
        assert self.vfs.nodes.count() == len(self.dirs) + len(set(map(id, self.files.values())))

    @invariant()
    def memory_is_accounted_for(self) -> None:
        pending = self.vfs.pending
        dead = sum(c.length for node in pending.nodes.values() for c in node.fresh if not c.live)
        assert dead <= DEAD_BYTES
        held = [*pending.nodes.values(), *pending.orphans.values()]
        fresh = sum(c.length for node in held for c in node.fresh if c.live)
        assert pending.bytes == fresh
        committer = self.vfs.committer
        cuts, cut = list(committer.journaled.cuts), committer._cut
        if cut is not None and cut.version <= committer.durable:
            cuts.append(cut)  # a commit of journaled versions alone failed: it comes last in that
        rows = [row for cut in cuts for row in cut.rows]
        journaled = sum(row.content.length for row in rows if row.content is not None)
        assert pending.journaled_bytes == journaled
        assert pending.inflight >= journaled


@pytest.mark.campaign
def test_the_live_tree_is_as_the_reference(campaign: Campaign) -> None:
    """See the module's docstring."""
    examples = campaign.rounds(suite=60, long=3000)
    run_state_machine_as_test(
        VfsMachine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=40,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            print_blob=True,
        ),
    )
    campaign.tell("the live tree, faults and crashes", rounds=examples, faults=0, losses=0)
