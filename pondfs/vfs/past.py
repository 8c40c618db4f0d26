"""`.pond/`: every version of the whole tree, inside the mount, read-only.

``at/<when>``, ``versions/<n>``, ``tags/<name>`` are whole trees, ``history/<path>`` is one file's
(see `past_history`), ``log``, ``status`` and ``metrics`` are text, ``control`` is where whoever may
read the mount asks the daemon (see ``fuse.talk``). Past nodes are ordinary overlay nodes with
numbers of their own, so that everything that works on a live node (names, attributes, bytes,
listing) works on them. A tree appears on lookup: its image is folded in a thread and kept with the
few used last; a number says by itself where its node is (view and place in the image), so that
nothing has to be kept for what the kernel only remembers.

The same version under two names is two views: one directory can't be in two places.
"""

import errno
import json
import logging
import stat
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import trio

from pondfs.errors import FileError, NoSuchVersion, UsageError
from pondfs.extent import Content, Extent, ExtentMap
from pondfs.interfaces import Image, Store, Tree
from pondfs.node import PAST, ROOT, NodeId, Version
from pondfs.oplog import VersionInfo
from pondfs.vfs import acl, offload
from pondfs.vfs.committer import Committer
from pondfs.vfs.nodes import Node, NodeTable
from pondfs.vfs.past_history import HISTORY, PastHistory, is_history
from pondfs.when import check_tag_name, parse, resolve

log = logging.getLogger("pondfs.past")

NAME = b".pond"

# A past number is PAST | view << 40 | place. View 0 is the fixed nodes below; two bits above all
# views mark what is in `past_history` and the handles of opened texts.
_PLACE_BITS = 40
_PLACE_MASK = (1 << _PLACE_BITS) - 1
_HANDLE = PAST | 1 << 62

POND, AT, VERSIONS, LOG, STATUS, TAGS, CONTROL = (NodeId(PAST | number) for number in range(1, 8))
METRICS = NodeId(PAST | 9)  # 8 is `past_history.HISTORY`
TEXTS = (LOG, STATUS, METRICS)

AS_THE_ROOT = (TAGS, *TEXTS, CONTROL)
"""Who may do something with these is who may do the like with the live root: may change at once."""

IMAGES_KEPT = 4
"""Folded past versions kept: two trees to compare, and two more (100 MB for a million nodes)."""

_TREE = {
    b"at": AT,
    b"versions": VERSIONS,
    b"tags": TAGS,
    b"history": HISTORY,
    b"log": LOG,
    b"status": STATUS,
    b"metrics": METRICS,
    b"control": CONTROL,
}
_DIRECTORIES = (POND, AT, VERSIONS, TAGS)


@dataclass(frozen=True, slots=True)
class View:
    """One version under one name.

    Attributes:
        number: what stands for it in inode numbers, from 1.
        parent: the directory it was looked up in.
        version: what it shows.
    """

    number: int
    parent: NodeId
    version: Version


class PastNode(Node):
    """A node as it was."""

    __slots__ = ("image", "real_id", "view")

    def __init__(self, view: View, image: Image, place: int) -> None:
        self.real_id, stored, above = image.node_at(place)
        base = _number(view, 0)
        parent = view.parent if self.real_id == ROOT else NodeId(base + above)
        super().__init__(NodeId(base + place), stored.attr, parent)
        self.take(stored)
        self.view = view
        # None after `Past.let_go`; `Past.ready` comes before whatever needs it.
        self.image: Image | None = image

    def load_children(self, image: Tree) -> dict[bytes, NodeId]:
        """Return the entries, with past numbers."""
        base = _number(self.view, 0)
        assert self.image is not None
        entries = self.image.entries_at(self.id & _PLACE_MASK)
        return {name: NodeId(base + place) for name, place in entries.items()}

    def load_extents(self, image: Tree) -> list[Extent]:
        """Return the bytes the file had."""
        assert self.image is not None
        return self.image.load_extents(self.real_id)


class Past:
    """The nodes of `.pond/`."""

    def __init__(
        self,
        store: Store,
        nodes: NodeTable,
        committer: Committer,
        describe: Callable[[], object],
    ) -> None:
        self._store = store
        self._committer = committer
        self._nodes = nodes
        self._describe = describe
        self._views: dict[int, View] = {}
        self._names: dict[tuple[NodeId, bytes, Version], View] = {}
        # By name, what it meant last; and what such names meant before, while the kernel may
        # still hold nodes of it. Without this a `10m-ago` that is looked at for years would fill
        # the memory with views.
        self._latest: dict[tuple[NodeId, bytes], View] = {}
        self._superseded: list[tuple[bytes, View]] = []
        self._free_numbers: list[int] = []
        self._images: OrderedDict[Version, Image] = OrderedDict()
        # Oldest first; None until somebody asks.
        self._versions: list[Version] | None = None
        self._times_ns: list[int] = []
        self._loading = trio.Lock()
        # Versions that came while the others are being listed; None while they are not.
        self._came: list[tuple[Version, int]] | None = None
        self._handles = 0
        self._exchanges = 0
        self.history = PastHistory(store, nodes, POND)
        # What the texts hold, each time they are opened; the mount, which knows more, sets some.
        self.texts: dict[NodeId, Callable[[], Awaitable[str]]] = {
            LOG: self._log_text,
            STATUS: self._status_text,
        }
        nodes.find_past = self._find

    def committed(self, version: Version, time_ns: int) -> None:
        """Take note of a new version: it is there at once."""
        self.history.committed(version)
        if self._came is not None:
            self._came.append((version, time_ns))
        elif self._versions is not None:
            self._add(version, time_ns)

    def _add(self, version: Version, time_ns: int) -> None:
        assert self._versions is not None
        if not self._versions or version > self._versions[-1]:
            self._versions.append(version)
            self._times_ns.append(time_ns)

    def entries(self) -> list[tuple[NodeId, bytes]]:
        """Return all names of trees that the kernel may know."""
        return list(self._latest)

    def exchanged(self) -> None:
        """Take note that data files were exchanged: what is folded reads from the old ones.

        Versions may be gone, too: the kernel has to be told to ask for `entries` again.
        """
        self._versions = None
        self._images.clear()
        self._exchanges += 1
        self.history.exchanged()

    def let_go(self, node: Node) -> None:
        """Let go of an image only held by nodes that the kernel remembers and nobody has open."""
        if isinstance(node, PastNode) and not node.opens:
            if node.image is not self._images.get(node.view.version):
                self._nodes.let_go(node)
                node.image = None
            self._nodes.drop_if_unused(node)

    async def ready(self, node_id: int) -> None:
        """Have at hand what the other methods, and the Vfs, need for this past node.

        Yields: while a version is folded.
        """
        number = (node_id & ~_HANDLE) >> _PLACE_BITS
        if is_history(node_id):
            await self._committer.publish()
            await self.history.ready(NodeId(node_id))
        elif node_id in AS_THE_ROOT:
            self._take_permissions(self._nodes.get(NodeId(node_id)))
        elif number and node_id < _HANDLE:
            view = self._views.get(number)
            if view is None:
                raise FileError(errno.ESTALE)
            node = self._nodes.live.get(NodeId(node_id))
            try:
                image = await self.image(view.version)
            except NoSuchVersion:
                # Forgotten, but whoever has it open goes on with it: its bytes are held.
                if node is not None and node.opens:
                    return
                log.info("/.pond: version %d was pruned", view.version)
                raise FileError(errno.ESTALE) from None
            if isinstance(node, PastNode) and node.image is not image:
                node.image, node.extents = image, None

    async def lookup(self, parent_id: int, name: bytes) -> Node | None:
        """Return the version *name* means in ``at/``, ``versions/``, ``tags/``; count a reference.

        Raises: FileError ENOENT, with the reason in the log.
        """
        if parent_id not in (AT, VERSIONS, TAGS):
            return None
        try:
            version = await self._resolve(parent_id, name.decode("utf-8", "replace"))
        except NoSuchVersion as error:
            log.info("/.pond/%s: %s", _NAMES[NodeId(parent_id)], error)
            raise FileError(errno.ENOENT) from None
        return await self._root(NodeId(parent_id), name, version)

    def is_fixed(self, parent_id: int, name: bytes) -> bool:
        """Return whether a name always means the same: a number does, `10m-ago` and 2026 do not."""
        if parent_id == VERSIONS:
            return True
        if parent_id != AT:
            return False
        try:
            return isinstance(parse(name.decode("utf-8", "replace"), 0), int)
        except NoSuchVersion:
            return False

    async def _resolve(self, parent_id: int, text: str) -> Version:
        """Return the version *text* means in that directory. Raises: NoSuchVersion."""
        if parent_id == VERSIONS:
            if not text.isdecimal():
                raise NoSuchVersion(f"'{text}' is no version number")
            text = f"v{text}"  # four digits alone would be a year
        await self._load_versions()
        assert self._versions is not None
        if parent_id != TAGS:
            try:
                return resolve(text, self._versions, self._times_ns, time.time_ns())
            except NoSuchVersion:
                if parent_id == VERSIONS:
                    raise
        tags = await offload.run(self._store.list_tags)
        if parent_id == TAGS and text not in tags:
            raise NoSuchVersion(f"there is no tag '{text}'")
        return resolve(text, self._versions, self._times_ns, time.time_ns(), tags)

    async def _root(self, parent_id: NodeId, name: bytes, version: Version) -> Node:
        """Return the root of a version under one name, and count a reference."""
        image = await self.image(version)
        view = self._view(parent_id, name, version)
        node = self._nodes.get(_number(view, image.find_place(ROOT)))
        node.lookups += 1
        return node

    async def add_tag(self, name: bytes) -> Node:
        """Commit what is pending and pin that version as *name*; count a reference to its tree.

        Durability: the version and the tag are durable on return.
        Raises: FileError EEXIST, EINVAL for what can be no tag; CommitFailed.
        """
        text = name.decode("utf-8", "replace")
        try:
            check_tag_name(text)
        except UsageError as error:
            log.info("/.pond/tags: %s", error)
            raise FileError(errno.EINVAL) from None
        return await self._root(TAGS, name, await self.pin(text, None))

    async def pin(self, name: str, version: Version | None) -> Version:
        """Put a new tag on *version*; None commits what is pending and pins that.

        Returns: the pinned version.
        Durability: all of it is durable on return.
        Raises: FileError EEXIST; CommitFailed.
        """
        if name in await offload.run(self._store.list_tags):
            raise FileError(errno.EEXIST)
        if version is None:
            version = await self._committer.commit(f"tag {name}") or self._committer.published
        await self._committer.between(self._store.put_tag, name, version)
        return version

    async def remove_tag(self, name: bytes) -> None:
        """Take a tag off; its version can be pruned then. Raises: FileError ENOENT."""
        text = name.decode("utf-8", "replace")
        if text not in await offload.run(self._store.list_tags):
            raise FileError(errno.ENOENT)
        await self._committer.between(self._store.put_tag, text, None)

    async def open_text(self, node_id: int) -> Node:
        """Return a new node that holds one of the `TEXTS` as it is now, for one open handle.

        Raises: FileError EOPNOTSUPP for ``metrics`` of what is not mounted.
        """
        read = self.texts.get(NodeId(node_id))
        if read is None:
            raise FileError(errno.EOPNOTSUPP)
        data = (await read()).encode()
        self._handles += 1
        node = Node(NodeId(_HANDLE | self._handles), _attr(stat.S_IFREG | 0o444), POND)
        node.size = len(data)
        node.nlink = 0
        node.opens = 1
        content = Content(data, len(data))
        content.fresh = False
        node.extents = ExtentMap([Extent(0, len(data), content)] if data else [])
        self._nodes.live[node.id] = node
        return node

    async def _status_text(self) -> str:
        return json.dumps(self._describe(), indent=2) + "\n"

    async def _log_text(self) -> str:
        await self._committer.publish()
        return _log_text(await offload.run(self._store.list_versions))

    async def list_versions(self) -> list[Version]:
        """Return all versions, oldest first."""
        await self._load_versions()
        return list(self._versions or ())

    async def resolve(self, text: str) -> Version:
        """Return the version *text* means. Raises: NoSuchVersion."""
        return await self._resolve(AT, text)

    async def list_trees(self, directory: NodeId) -> list[tuple[bytes, NodeId]]:
        """Return the names in ``versions/`` or ``tags/`` with the numbers of their trees.

        Their attributes would take a fold each, so the kernel is told the numbers only and asks
        when it wants to know more.
        """
        if directory == TAGS:
            tags = await offload.run(self._store.list_tags)
            named = [(name.encode(), version) for name, version in tags.items()]
        else:
            await self._load_versions()
            named = [(b"%d" % version, version) for version in self._versions or ()]
        # The root has the smallest node id, so it is the first in every image.
        return [(name, _number(self._view(directory, name, v), 0)) for name, v in named]

    def _find(self, node_id: NodeId) -> Node | None:
        if node_id == HISTORY:
            return self.history.root()
        if node_id in _DIRECTORIES:
            node = Node(node_id, _attr(stat.S_IFDIR | 0o555), ROOT if node_id == POND else POND)
            node.children = dict(_TREE) if node_id == POND else {}
            node.nlink = 2 + len(_DIRECTORIES) if node_id == POND else 2
            if node_id == TAGS:
                self._take_permissions(node)
            return node
        if node_id in (*TEXTS, CONTROL):
            node = Node(node_id, _attr(stat.S_IFREG), POND)
            self._take_permissions(node)
            return node
        number = (node_id & ~PAST) >> _PLACE_BITS
        view = None if node_id >= _HANDLE else self._views.get(number)
        image = None if view is None else self._images.get(view.version)
        if view is None or image is None:
            return None
        try:
            return PastNode(view, image, node_id & _PLACE_MASK)
        except IndexError:
            return None

    def _take_permissions(self, node: Node) -> None:
        """Let those make tags who may make names in the tree's root, and read who may read it.

        The texts name paths and messages of everybody: no more than a listing of the root is.
        """
        root = self._nodes.get(ROOT)
        node.uid, node.gid, node.shown = root.uid, root.gid, None
        if node.id == TAGS:
            node.mode, node.xattrs = root.mode, root.xattrs  # the ACL among them
            return
        value = (root.xattrs or {}).get(acl.ACCESS)
        node.mode, node.xattrs = stat.S_IFREG | root.mode & 0o444, None
        is_asked = node.id == CONTROL  # who may read it must write, to ask
        if is_asked:
            node.mode |= (node.mode & 0o444) >> 1
        if value is not None:
            entries = []
            for tag, bits, who in acl.parse(value):
                may = bits & 4
                entries.append((tag, may | may >> 1 if is_asked else may, who))
            node.xattrs = {acl.ACCESS: acl.build(entries)}

    async def image(self, version: Version) -> Image:
        """Return the folded tree of a version; the last few are kept.

        Raises: StoreDamaged, OSError.
        """
        image = self._images.get(version)
        if image is None:
            exchanges = None
            while image is None or exchanges != self._exchanges:
                # Again, if it was folded from files that are no more.
                exchanges = self._exchanges
                image = await offload.run(self._store.load_image_at, version)
            self._images[version] = image
            while len(self._images) > IMAGES_KEPT:
                self._images.popitem(last=False)
        else:
            self._images.move_to_end(version)
        return image

    async def _load_versions(self) -> None:
        # What is journaled is in no table yet, and is a version all the same.
        await self._committer.publish()
        while self._versions is None:
            async with self._loading:
                if self._versions is None:
                    await self._list_versions()

    async def _list_versions(self) -> None:
        exchanges, self._came = self._exchanges, []
        try:
            infos = await offload.run(self._store.list_versions)
            if exchanges == self._exchanges:
                infos.reverse()
                self._versions = [info.version for info in infos]
                self._times_ns = [info.time_ns for info in infos]
                for version, time_ns in self._came:
                    self._add(version, time_ns)
        finally:
            self._came = None

    def _view(self, parent: NodeId, name: bytes, version: Version) -> View:
        key = (parent, name, version)
        view = self._names.get(key)
        if view is None:
            self._drop_superseded()
            number = self._free_numbers.pop() if self._free_numbers else len(self._views) + 1
            view = self._names[key] = self._views[number] = View(number, parent, version)
        last = self._latest.get((parent, name))
        if last is not view:
            if last is not None:
                self._superseded.append((name, last))
            self._latest[parent, name] = view
        return view

    def _drop_superseded(self) -> None:
        """Forget views that no name means any more and the kernel has let go of.

        Whatever it holds in a tree, it holds the tree's root as well.
        """
        kept = []
        for name, view in self._superseded:
            if self._latest.get((view.parent, name)) is view:
                continue
            if _number(view, 0) in self._nodes.live:
                kept.append((name, view))
            elif self._names.pop((view.parent, name, view.version), None) is not None:
                del self._views[view.number]
                self._free_numbers.append(view.number)
        self._superseded = kept


_NAMES = {number: name.decode() for name, number in _TREE.items()}


def _number(view: View, place: int) -> NodeId:
    return NodeId(PAST | view.number << _PLACE_BITS | place)


def _attr(mode: int) -> tuple[int, int, int, int, int, int, int, int, int]:
    now = time.time_ns()
    return (mode, 0, 0, 1, 0, 0, now, now, now)


def _log_text(infos: list[VersionInfo]) -> str:
    """Return the commit log, newest first: version, time, who, what, message, tab-separated."""
    return "".join(
        f"{info.version}\t{info.timestamp:%Y-%m-%dT%H%M%SZ}\t{info.user}@{info.host}\t"
        f"+{info.nodes_created} ~{info.nodes_changed} -{info.nodes_removed}\t"
        f"{info.bytes_added}\t{' '.join(info.message.split())}\n"
        for info in infos
    )
