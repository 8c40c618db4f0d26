"""Making paths be as they were, on the live tree: restore and undo.

What is pending becomes a version first, so that nothing is lost and the restore can be taken back
exactly. Then a plan is made beside the running tree (`plan`), the new nodes get their bytes while
nobody sees them, and everything is put in its place between two requests of the kernel. No version
is made in between, so one version has all of it.
"""

import stat
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import trio

from pondfs.errors import (
    CommitFailed,
    Conflict,
    FileError,
    NoSuchPath,
    NoSuchVersion,
    NotPermitted,
    UsageError,
)
from pondfs.extent import Content, Extent
from pondfs.interfaces import Image, Tree
from pondfs.node import ROOT, NodeId, Version
from pondfs.vfs import offload
from pondfs.vfs.base import Caller, Stale, now_ns
from pondfs.vfs.nodes import Node, decode_xattrs
from pondfs.vfs.past import NAME
from pondfs.vfs.plan import (
    Made,
    Path,
    Plan,
    Put,
    conflicts,
    plan_copies,
    refuse_cycles,
    show,
    walk,
)
from pondfs.vfs.planner import Planner, Scope
from pondfs.vfs.rights import Rights, check_rights

if TYPE_CHECKING:
    from pondfs.vfs.vfs import Vfs

PIECE_BYTES = 1 << 20
"""How much of an old file is read at once."""

ATTEMPTS = 5
"""How often a plan is made anew because somebody changed what it is about."""


@dataclass(slots=True)
class Outcome:
    """What a restore did, or would do.

    Attributes:
        version: the version it made; None when nothing had to be done, or in a dry run.
        changes: as of `Plan.describe`.
    """

    version: Version | None
    changes: list[tuple[str, Path, Path | None]]


class _StaleError(Exception):
    """Something the plan is about changed meanwhile."""


@dataclass(slots=True)
class _Work:
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


class Restorer:
    """Carries out restores on one tree, one after the other.

    Attributes:
        lock: held meanwhile, so that no data file is exchanged under it.
    """

    def __init__(self, vfs: "Vfs") -> None:
        self._vfs = vfs
        self.lock = trio.Lock()

    async def restore(
        self,
        version: Version,
        paths: Collection[Path],
        caller: Caller,
        *,
        into: Path | None = None,
        dry_run: bool = False,
    ) -> Outcome:
        """Make *paths*, each with all below it, be as they were at *version*.

        Args:
            version: an existing version.
            paths: from the root; the empty path is the whole tree.
            caller: on whose behalf; 0 may everything.
            into: instead put copies there: in this directory, or under this name if nothing has it.
            dry_run: only say what would be done.
        Durability: all of it is one version, on disk on return.
        Raises: NoSuchVersion; NoSuchPath; NotPermitted; Conflict when something is in the way or
            keeps changing; UsageError; FileError EROFS, ENOSPC; CommitFailed; StoreDamaged.
        """

        async def make(now: Image) -> _Work:
            old = await self._image(version)
            seen = Rights(caller, old, use_acl=self._vfs.options.acl)
            for path in paths:
                if caller.uid and not seen.may_see_parent(path):
                    raise NotPermitted(f"{show(path)}: you may not look into its directory")
                if walk(old, path) is None:
                    raise NoSuchPath(f"version {version} has no {show(path)}")
            if into is not None:
                return _Work(plan_copies(old, now, paths, into), old)
            return _Work(await self._plan(old, now, Scope(whole=paths)), old)

        # No path in it: who may read the log need not be able to see them.
        message = f"restore from version {version}"
        return await self._carry_out(make, caller, message, dry_run=dry_run)

    async def undo(
        self, version: Version, caller: Caller, *, force: bool = False, dry_run: bool = False
    ) -> Outcome:
        """Take back what *version* changed.

        Args:
            version: an existing version; not the first.
            caller: on whose behalf.
            force: also where later versions changed the same paths.
            dry_run: only say what would be done.
        Raises: Conflict naming the paths that changed again; as `restore`.
        """

        async def make(now: Image) -> _Work:
            before = await self._before(version)
            if before != version - 1 and not force:
                raise Conflict(
                    f"version {version - 1} was pruned, so undoing {version} would take back all "
                    f"that came after version {before}; --force does it"
                )
            old = await self._image(before)
            then = await self._image(version)
            plan = await self._plan(old, then, Scope(whole=[()]))
            changed = await offload.run(lambda: sorted(set(conflicts(plan, then, now))))
            if not changed:
                await offload.run(_carry_over, plan, then, now)
                return _Work(plan, old)
            if not force:
                raise Conflict(
                    f"later versions changed what version {version} did: "
                    f"{self._name(changed, caller, then, now)}; --force takes it back all the same"
                )
            return _Work(await self._plan(old, now, Scope(alone=plan.paths())), old)

        return await self._carry_out(make, caller, f"undo of version {version}", dry_run=dry_run)

    async def apply(
        self, wanted: Tree, then: Image, touched: Collection[NodeId], message: str
    ) -> Outcome:
        """Change what is different in *wanted* from *then*, for who may everything.

        Args:
            wanted: how it shall be.
            then: an existing version; what came after it stays.
            touched: what differs, as of `Store.find_touched`.
            message: of the version.
        Raises: Conflict naming the paths that others changed since; as `restore`.
        """
        caller = Caller(0, 0)

        async def make(now: Image) -> _Work:
            scope = Scope(whole=[()])
            plan = await offload.run(
                lambda: Planner(self._vfs.store, wanted, then, scope, touched).run()
            )
            changed = await offload.run(lambda: sorted(set(conflicts(plan, then, now))))
            if changed:
                raise Conflict(
                    "others changed what the transaction did, and nothing of it was done: "
                    f"{self._name(changed, caller, then, now)}: begin again"
                )
            await offload.run(_carry_over, plan, then, now)
            return _Work(plan, wanted, exact=True)

        return await self._carry_out(make, caller, message, before="")

    def _name(self, paths: list[Path], caller: Caller, *images: Image) -> str:
        """Return some of *paths* for a message, as far as the caller may see them."""
        rights = [Rights(caller, image, use_acl=self._vfs.options.acl) for image in images]
        shown = [
            show(path)
            for path in paths
            if not caller.uid or any(right.may_see(path) for right in rights)
        ][:5]
        more = len(paths) - len(shown)
        return ", ".join(
            [*shown, *([f"{more} more" if shown else f"{more} paths"] if more else [])]
        )

    # --- the steps ---

    async def _plan(self, old: Image, now: Image, scope: Scope) -> Plan:
        return await offload.run(lambda: Planner(self._vfs.store, old, now, scope).run())

    async def _carry_out(
        self,
        make: Callable[[Image], Awaitable[_Work]],
        caller: Caller,
        message: str,
        *,
        before: str | None = None,
        dry_run: bool = False,
    ) -> Outcome:
        """Make a plan and carry it out as one version with *message*.

        *before* is the message of the version that what is pending becomes first.
        """
        before = f"before {message}" if before is None else before
        vfs = self._vfs
        vfs.may_grow(ROOT)
        async with self.lock:
            for _ in range(ATTEMPTS):
                await vfs.committer.commit(before)
                now = await self._image(vfs.committer.published)
                work = await make(now)
                self._refuse_places(work.plan)
                check_rights(work.plan, work.old, now, caller, use_acl=vfs.options.acl)
                changes = work.plan.describe()
                if dry_run or work.empty:
                    return Outcome(None, changes)
                try:
                    async with vfs.committer.hold():
                        stale = await self._apply(work)
                except _StaleError:
                    continue
                # No await since: the commit that is asked for here is the one that has it all.
                failure: CommitFailed | None = None
                version = None
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(vfs.invalidate, stale)
                    try:
                        version = await vfs.committer.commit(message)
                    except CommitFailed as error:
                        failure = error  # a nursery would wrap it in a group
                if failure is not None:
                    raise failure
                return Outcome(version, changes)
        raise Conflict("what is to be changed keeps changing: try again")

    def _refuse_places(self, plan: Plan) -> None:
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

    async def _apply(self, work: _Work) -> Stale:
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

    def _verify(self, work: _Work, touched: Collection[NodeId] = ()) -> None:
        """Refuse a plan that time has passed by.

        Raises: _StaleError when something of it was *touched*, or is pending.
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
                    raise _StaleError
            queue = [remove.node for remove in plan.removes]
            for node_id in queue:
                node = nodes.get(node_id)
                involved.add(node_id)
                if stat.S_ISDIR(node.mode):
                    children = nodes.children(node).items()
                    queue.extend(child for name, child in children if (node_id, name) not in moving)
        except FileError:
            raise _StaleError from None
        for changed in (touched, pending.nodes, pending.removed):
            if not involved.isdisjoint(changed):
                raise _StaleError
        # A directory that changes all the while keeps its own time.
        plan.times = [
            (node, old)
            for node, old in plan.times
            if node not in touched and node not in pending.nodes
        ]

    async def _make_nodes(self, work: _Work) -> None:
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

    def _discard(self, work: _Work) -> None:
        """Let go of nodes that were made in vain."""
        nodes, pending = self._vfs.nodes, self._vfs.pending
        for node in work.made.values():
            node.nlink = 0
            pending.discard(node)
            nodes.live.pop(node.id, None)
            nodes.born -= 1

    def _put_in_place(self, work: _Work) -> Stale:
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

    async def _image(self, version: Version) -> Image:
        return await self._vfs.past.image(version)

    async def _before(self, version: Version) -> Version:
        versions = await self._vfs.past.list_versions()
        if version not in versions:
            raise NoSuchVersion(f"there is no version {version}: see pond log")
        at = versions.index(version)
        if not at:
            raise UsageError(f"version {version} is the oldest there is: nothing comes before it")
        return versions[at - 1]


def _carry_over(plan: Plan, then: Image, now: Image) -> None:
    """Make a plan that was made for *then*, and that nothing speaks against, one for *now*.

    Raises: FileError EINVAL when directories have moved so that it would close a circle.
    """
    refuse_cycles(plan, now)
    plan.base = now.version
    # Where more has changed since, the old time of a directory would be wrong.
    plan.times = [
        (node, old)
        for node, old in plan.times
        if now.load_entries(node).keys() == then.load_entries(node).keys()
    ]
