"""Carrying out a plan on the live tree, in one step as everybody else sees it.

The new nodes get their bytes while nobody sees them; then names and attributes change without an
await in between. A plan that time has passed by is refused, and nothing has happened.
"""

import stat
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pondfs.errors import Conflict, FileError
from pondfs.extent import Content, Extent
from pondfs.interfaces import Tree
from pondfs.node import NodeId, Version
from pondfs.vfs import offload
from pondfs.vfs.base import Stale, now_ns
from pondfs.vfs.nodes import Node
from pondfs.vfs.past import NAME
from pondfs.vfs.plan import Made, Plan, Put, show
from pondfs.xattrs import decode_xattrs

if TYPE_CHECKING:
    from pondfs.vfs.vfs import Vfs

PIECE_BYTES = 1 << 20
"""How much of an old file is read at once."""


class StalePlanError(Exception):
    """Something the plan is about changed meanwhile."""


@dataclass(slots=True)
class Work:
    """A plan being carried out.

    Attributes:
        plan: what is done.
        old: the image that says how things were.
        made: the new nodes.
        exact: a directory's time alone is worth a version.
    """

    plan: Plan
    old: Tree
    made: dict[Made, Node] = field(default_factory=dict)
    exact: bool = False

    @property
    def empty(self) -> bool:
        """Whether there is nothing to do."""
        return self.plan.empty and not (self.exact and self.plan.times)


class Executor:
    """Carries out plans on one tree."""

    def __init__(self, vfs: "Vfs") -> None:
        self._vfs = vfs

    def refuse_places(self, plan: Plan) -> None:
        """Refuse what no request of the kernel could ask for. Raises: Conflict."""
        for put in plan.puts:
            if put.path == (NAME,):
                raise Conflict(
                    f"/{NAME.decode()} is what shows the past: no file can have that name"
                )
        busy = self._vfs.mounted_below()
        if busy:
            for path in plan.replaced():
                for place in busy:
                    if place[: len(path)] == path:
                        raise Conflict(f"something is mounted on {show(place)}: unmount it first")

    async def execute(self, work: Work) -> Stale:
        """Change the live tree as the plan says, in one step as others see it."""
        self._verify(work, await self._touched_since(work.plan.base))
        try:
            await self._make_nodes(work)
            self._verify(work)
        except BaseException:
            self._discard(work)
            raise
        return self._put_in_place(work)

    async def _touched_since(self, base: Version) -> set[NodeId]:
        """Return what versions after the one a plan was made for are about; mostly there is none.

        While versions are held back, so that none comes after those.
        """
        newest = self._vfs.committer.published
        if newest == base:
            return set()
        return await offload.run(self._vfs.store.find_touched, base, newest)

    def _verify(self, work: Work, touched: Collection[NodeId] = ()) -> None:
        """Refuse a plan that time has passed by.

        Raises: StalePlanError when something of it was *touched*, or is pending.
        """
        nodes, pending, plan = self._vfs.nodes, self._vfs.pending, work.plan
        # Of directories only the entries count that are to be changed: others may come and go.
        expected: dict[tuple[NodeId, bytes], NodeId | None] = {
            (put.directory, put.name): None
            for put in plan.puts
            if not isinstance(put.directory, Made)
        }
        involved: set[NodeId] = set()
        for put in plan.puts:
            if put.origin is not None and not isinstance(put.source, Made):
                expected[put.origin] = put.source
                involved.add(put.source)
        for remove in plan.removes:
            expected[remove.directory, remove.name] = remove.node
            involved.add(remove.node)
        involved.update(node for node, _, _ in plan.attrs)
        moving = {put.origin for put in plan.puts}
        try:
            for (directory_id, name), node_id in expected.items():
                directory = nodes.get(directory_id)
                if not directory.nlink or nodes.children(directory).get(name) != node_id:
                    raise StalePlanError
            queue = [remove.node for remove in plan.removes]
            for node_id in queue:
                node = nodes.get(node_id)
                involved.add(node_id)
                if stat.S_ISDIR(node.mode):
                    children = nodes.children(node).items()
                    queue.extend(child for name, child in children if (node_id, name) not in moving)
        except FileError:
            raise StalePlanError from None
        for changed in (touched, pending.nodes, pending.removed):
            if not involved.isdisjoint(changed):
                raise StalePlanError
        # A directory that changes all the while keeps its own time.
        plan.times = [
            (node, old)
            for node, old in plan.times
            if node not in touched and node not in pending.nodes
        ]

    async def _make_nodes(self, work: Work) -> None:
        """Make the new nodes, nameless, with their bytes."""
        nodes, pending = self._vfs.nodes, self._vfs.pending
        for put in work.plan.puts:
            source = put.source
            if not isinstance(source, Made) or source in work.made:
                continue
            directory = put.directory
            parent = work.made[directory].id if isinstance(directory, Made) else directory
            stored = work.old.find_node(source.old)
            assert stored is not None
            mode, uid, gid, _, rdev, size, atime, mtime, _ = stored.attr
            node = nodes.add((mode, uid, gid, 0, rdev, 0, atime, mtime, now_ns()), parent)
            node.xattrs = decode_xattrs(stored.metadata)
            node.target = stored.target
            work.made[source] = node
            if stat.S_ISDIR(mode):
                node.children = {}
                node.nlink = 2
                continue
            node.size = size
            if stat.S_ISREG(mode) and size:
                pending.orphans[node.id] = node
                for extent in work.old.load_extents(source.old):
                    await self._copy(node, extent)

    async def _copy(self, node: Node, extent: Extent) -> None:
        """Give *node* the bytes of one stored extent."""
        vfs = self._vfs
        pending, committer = vfs.pending, vfs.committer
        for at in range(0, extent.length, PIECE_BYTES):
            length = min(PIECE_BYTES, extent.length - at)
            data = bytearray(length)
            await offload.run(vfs.store.read, extent.content, extent.skip + at, memoryview(data))
            if not committer.has_room:
                await committer.wait_for_room()
            vfs.take_room(length)
            offset = extent.offset + at
            content = Content(bytes(data), length, offset)
            vfs.nodes.extents(node).write(Extent(offset, length, content))
            node.fresh.append(content)
            pending.bytes += length
            # Staging let go of it when all it had then was taken.
            pending.orphans[node.id] = node
            if committer.wants_content:
                committer.wake()

    def _discard(self, work: Work) -> None:
        """Let go of nodes that were made in vain."""
        nodes, pending = self._vfs.nodes, self._vfs.pending
        for node in work.made.values():
            node.nlink = 0
            pending.discard(node)
            nodes.live.pop(node.id, None)
            nodes.clean(node)
            nodes.born -= 1

    def _put_in_place(self, work: Work) -> Stale:
        """Change all names and attributes. No await in here."""
        nodes, pending, plan = self._vfs.nodes, self._vfs.pending, work.plan
        now = now_ns()
        stale = Stale()
        changed: dict[NodeId, Node] = {}

        def directory_of(place: NodeId | Made) -> Node:
            directory = work.made[place] if isinstance(place, Made) else nodes.get(place)
            if not isinstance(place, Made):
                changed[directory.id] = directory
            return directory

        # What keeps a name is held first, so that no removal takes its last one.
        for put in plan.puts:
            if not isinstance(put.source, Made):
                node = nodes.get(put.source)
                node.nlink += not stat.S_ISDIR(node.mode)
        for put in plan.puts:
            if put.origin is not None and not isinstance(put.source, Made):
                directory = directory_of(put.origin[0])
                self._take_name(directory, put.origin[1], nodes.get(put.source), stale)
                pending.renamed.add((directory.id, put.origin[1]))
        for remove in plan.removes:
            self._remove(directory_of(remove.directory), remove.name, now, stale)
        for put in plan.puts:
            directory = directory_of(put.directory)
            node = work.made[put.source] if isinstance(put.source, Made) else nodes.get(put.source)
            self._give_name(directory, put, node, now, stale)
        for node_id, old_id, _ in plan.attrs:
            self._take_attributes(nodes.get(node_id), work.old, old_id, now)
            stale.attributes.append(node_id)
        for directory in changed.values():
            directory.mtime_ns = directory.ctime_ns = now
        for node_id, old_id in plan.times:
            stored = work.old.find_node(old_id)
            assert stored is not None
            directory = changed.setdefault(node_id, nodes.get(node_id))
            directory.mtime_ns = stored.attr[7]
        for directory in changed.values():
            pending.touch(directory)
        stale.attributes.extend(changed)
        return stale

    def _take_name(self, directory: Node, name: bytes, node: Node, stale: Stale) -> None:
        pending = self._vfs.pending
        pending.touch_entry(directory, name, node)
        del self._vfs.nodes.children(directory)[name]
        if stat.S_ISDIR(node.mode):
            directory.nlink -= 1
        else:
            node.nlink -= 1
        stale.entries.append((directory.id, name))

    def _remove(self, directory: Node, name: bytes, now: int, stale: Stale) -> None:
        """Remove an entry and everything below it."""
        nodes, pending = self._vfs.nodes, self._vfs.pending
        node = nodes.get(nodes.children(directory)[name])
        if stat.S_ISDIR(node.mode):
            for child in list(nodes.children(node)):
                self._remove(node, child, now, stale)
        self._take_name(directory, name, node, stale)
        node.ctime_ns = now
        stale.attributes.append(node.id)
        if stat.S_ISDIR(node.mode):
            node.nlink = 0
        if node.nlink:
            pending.touch(node)
        else:
            pending.unlink(node)

    def _give_name(self, directory: Node, put: Put, node: Node, now: int, stale: Stale) -> None:
        pending = self._vfs.pending
        children = self._vfs.nodes.children(directory)
        pending.touch_entry(directory, put.name, None)
        children[put.name] = node.id
        stale.entries.append((directory.id, put.name))
        is_dir = stat.S_ISDIR(node.mode)
        if is_dir:
            directory.nlink += 1
        if isinstance(put.source, Made):
            if not is_dir:
                node.nlink += 1
            pending.created.add(node.id)
            pending.removed.pop(node.id, None)
            pending.orphans.pop(node.id, None)
        else:
            # Its count went up before anything was removed.
            node.ctime_ns = now
            stale.attributes.append(node.id)
        if put.origin is not None:
            node.parent = directory.id
            pending.renamed.add((directory.id, put.name))
        pending.touch(node)

    def _take_attributes(self, node: Node, old: Tree, old_id: NodeId, now: int) -> None:
        stored = old.find_node(old_id)
        assert stored is not None
        node.mode, node.uid, node.gid = stored.attr[:3]
        node.xattrs = decode_xattrs(stored.metadata)
        node.ctime_ns = now
        self._vfs.pending.touch(node)

    # --- versions ---
