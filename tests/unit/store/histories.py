"""Ponds with a past, made through the live tree by a seeded random walk, and what they hold."""

import os
import random
import stat
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import trio

from pondfs.errors import FileError
from pondfs.node import ROOT, NodeId, Version
from pondfs.store.delta import DeltaStore
from pondfs.vfs.attr import Change
from pondfs.vfs.base import Caller, VfsOptions
from pondfs.vfs.nodes import Node
from pondfs.vfs.vfs import Vfs
from tests.unit.store.support import open_pond, read_file

ME = Caller(os.getuid(), os.getgid())
NAMES = [b"a", b"b", b"c", b"\xff"]

State = dict[int, Any]
"""All there is of a version, by node."""


class Walk:
    """A mounted pond that random operations change. Every commit is a version."""

    def __init__(self, path: Path, seed: int) -> None:
        self.random = random.Random(seed)
        self.path = path
        if not DeltaStore.is_pond(path):
            DeltaStore.create(path)
        self.store = open_pond(path)
        self.vfs = Vfs(self.store, VfsOptions())
        self.handles: list[NodeId] = []

    def close(self) -> None:
        self.store.close()

    def do(self, call: Callable[..., Any], *args: Any) -> Any:
        async def main() -> Any:
            failure: Exception | None = None
            result: Any = None
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self.vfs.committer.run)
                try:
                    result = call(*args)
                    if isinstance(result, Awaitable):
                        result = await result
                except Exception as error:  # a nursery would put it into a group
                    failure = error
                nursery.cancel_scope.cancel()
            if failure is not None:
                raise failure
            return result

        return trio.run(main)

    async def run(self, steps: int, commits: float) -> None:
        """Do random things; after each, commit with a probability of *commits*."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.vfs.committer.run)
            for _ in range(steps):
                await self.step()
                if self.random.random() < 0.03:
                    await self.vfs.committer._stage()
                if self.random.random() < commits:
                    await self.vfs.committer.commit()
            await self.vfs.committer.commit()
            nursery.cancel_scope.cancel()

    async def step(self) -> None:
        rng, vfs = self.random, self.vfs
        directories, others = self.nodes()
        top, name = rng.choice(directories), rng.choice(NAMES)
        try:
            match rng.randrange(16):
                case 0:
                    self.forget(vfs.make(top, name, stat.S_IFDIR | 0o755, 0, ME))
                case 1 | 2 | 3:
                    self.forget(vfs.make(top, name, stat.S_IFREG | 0o644, 0, ME))
                case 4:
                    self.forget(vfs.symlink(top, name, b"to " + bytes([rng.randrange(256)]), ME))
                case 5:
                    self.forget(vfs.link(rng.choice(others), top, name))
                case 6:
                    vfs.unlink(top, name)
                case 7:
                    vfs.rmdir(top, name)
                case 8:
                    vfs.rename(top, name, rng.choice(directories), rng.choice(NAMES), 0)
                case 9:
                    vfs.setattr(rng.choice(others), Change(size=rng.randrange(4000)))
                case 10:
                    node = rng.choice(others)
                    vfs.setattr(node, Change(size=0))
                    await self.write(node, 0)
                case 11:
                    node = rng.choice([*directories, *others])
                    vfs.setxattr(node, b"user.x", bytes([rng.randrange(256)]))
                case 12:
                    vfs.setattr(rng.choice([*directories, *others]), Change(mode=rng.randrange(64)))
                case 13:
                    if len(self.handles) < 2:
                        node = rng.choice(others)
                        vfs.open(node, os.O_RDWR)
                        self.handles.append(node)
                    else:
                        vfs.release(self.handles.pop(0))
                case 14 if self.handles:
                    await self.write(rng.choice(self.handles), rng.randrange(4000))
                case _:
                    await self.write(rng.choice(others), rng.randrange(4000))
        except (FileError, IndexError):
            pass

    async def write(self, node_id: NodeId, offset: int) -> None:
        node = self.vfs.nodes.get(node_id)
        if stat.S_ISREG(node.mode):
            data = self.random.randbytes(1 + self.random.randrange(3000))
            if node_id % 3:
                # Most can be compressed, as in life.
                data = (data[:40] * len(data))[: len(data)]
            await self.vfs.write(node_id, offset, data)

    def forget(self, node: Node) -> None:
        self.vfs.forget([(node.id, 1)])

    def forget_all(self) -> None:
        """Let the kernel forget all it may: what did not change is in the image alone then."""
        for node in list(self.vfs.nodes.live.values()):
            self.vfs.drop_if_unused(node)

    def nodes(self) -> tuple[list[NodeId], list[NodeId]]:
        """Directories and others, in the order in which they are found."""
        directories: list[NodeId] = [ROOT]
        others: list[NodeId] = []
        for directory in directories:
            for node_id in self.vfs.nodes.children(self.vfs.nodes.get(directory)).values():
                is_dir = stat.S_ISDIR(self.vfs.nodes.get(node_id).mode)
                (directories if is_dir else others).append(node_id)
        return directories, others

    async def live(self) -> State:
        """What the mount shows now, nameless open files included."""
        directories, others = self.nodes()
        found: State = {}
        for node_id in directories:
            node = self.vfs.nodes.get(node_id)
            found[node_id] = (node.attr_row(), dict(self.vfs.nodes.children(node)))
        for node_id in {*others, *self.handles}:
            node = self.vfs.nodes.get(node_id)
            data = b""
            if stat.S_ISREG(node.mode):
                data = bytes(await self.vfs.read(node_id, 0, 1 << 20))
            found[node_id] = (node.attr_row(), node.target, node.metadata(), data)
        return found


def state(store: DeltaStore, version: Version) -> State:
    """All a version holds: every node with its attributes, entries and bytes."""
    image = store.load_image_at(version)
    found: State = {}
    for number in image.node_ids():
        node = image.find_node(NodeId(number))
        assert node is not None
        content: Any = image.load_entries(NodeId(number))
        if stat.S_ISREG(node.attr[0]):
            content = read_file(store, image, number)
        found[number] = (node, content)
    return found


def states(store: DeltaStore) -> dict[Version, State]:
    return {info.version: state(store, info.version) for info in store.list_versions()}
