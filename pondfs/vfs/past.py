"""`.pond/`: every version of the whole tree, inside the mount, read-only.

``at/<when>`` and ``versions/<n>`` are whole trees, ``log`` and ``status`` are text. Past nodes are
ordinary overlay nodes with numbers of their own, so that everything that works on a live node
(names, attributes, bytes, listing) works on them. A tree appears on lookup: its image is folded in
a thread and kept with the few used last; a number says by itself where its node is (view and place
in the image), so that nothing has to be kept for what the kernel only remembers.

The same version under two names is two views: one directory can't be in two places.
"""

import errno
import json
import logging
import stat
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from pondfs.errors import FileError, NoSuchVersion
from pondfs.extent import Content, Extent, ExtentMap
from pondfs.interfaces import Image, Store
from pondfs.node import PAST, ROOT, NodeId, Version
from pondfs.oplog import VersionInfo
from pondfs.vfs import offload
from pondfs.vfs.nodes import Node, NodeTable
from pondfs.when import resolve

log = logging.getLogger("pondfs.past")

NAME = b".pond"

# A past number is PAST | view << 40 | place. View 0 is the fixed nodes below; a bit above all views
# marks the handles of opened texts.
_PLACE_BITS = 40
_PLACE_MASK = (1 << _PLACE_BITS) - 1
_HANDLE = PAST | 1 << 62

POND, AT, VERSIONS, LOG, STATUS = (NodeId(PAST | number) for number in range(1, 6))

IMAGES_KEPT = 4
"""Folded past versions kept: two trees to compare, and two more (100 MB for a million nodes)."""

_TREE = {b"at": AT, b"versions": VERSIONS, b"log": LOG, b"status": STATUS}


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

    def __init__(self, node_id: NodeId, view: View, image: Image, real_id: NodeId) -> None:
        stored = image.find_node(real_id)
        if stored is None:
            raise FileError(errno.ESTALE)
        base = _number(view, 0)
        is_root = real_id == ROOT
        parent = view.parent if is_root else NodeId(base + image.find_place(stored.parent))
        super().__init__(node_id, stored.attr, parent)
        self.take(stored)
        self.view = view
        self.image = image
        self.real_id = real_id

    def load_children(self, image: Image) -> dict[bytes, NodeId]:
        """Return the entries, with past numbers."""
        base = _number(self.view, 0)
        entries = self.image.load_entries(self.real_id)
        find = self.image.find_place
        return {name: NodeId(base + find(node_id)) for name, node_id in entries.items()}

    def load_extents(self, image: Image) -> list[Extent]:
        """Return the bytes the file had."""
        return self.image.load_extents(self.real_id)


class Past:
    """The nodes of `.pond/`."""

    def __init__(self, store: Store, nodes: NodeTable, describe: Callable[[], object]) -> None:
        self._store = store
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
        self._handles = 0
        nodes.find_past = self._find

    def committed(self, version: Version, time_ns: int) -> None:
        """Take note of a new version: it is there at once."""
        if self._versions is not None and (not self._versions or version > self._versions[-1]):
            self._versions.append(version)
            self._times_ns.append(time_ns)

    async def ready(self, node_id: int) -> None:
        """Have at hand what the other methods, and the Vfs, need for this past node.

        Yields: while a version is folded.
        """
        number = (node_id & ~_HANDLE) >> _PLACE_BITS
        if number and node_id < _HANDLE:
            view = self._views.get(number)
            if view is None:
                raise FileError(errno.ESTALE)
            await self._image(view.version)

    async def lookup(self, parent_id: int, name: bytes) -> Node | None:
        """Return the version *name* means in ``at/`` or ``versions/``, and count a reference.

        Raises: FileError ENOENT, with the reason in the log.
        """
        if parent_id not in (AT, VERSIONS):
            return None
        text = name.decode("utf-8", "replace")
        await self._load_versions()
        assert self._versions is not None
        try:
            if parent_id == VERSIONS and not text.isdecimal():
                raise NoSuchVersion(f"'{text}' is no version number")
            version = resolve(text, self._versions, self._times_ns, time.time_ns())
        except NoSuchVersion as error:
            log.info("%s: %s", "/.pond/at" if parent_id == AT else "/.pond/versions", error)
            raise FileError(errno.ENOENT) from None
        image = await self._image(version)
        view = self._view(NodeId(parent_id), name, version)
        node = self._nodes.get(_number(view, image.find_place(ROOT)))
        node.lookups += 1
        return node

    async def open_text(self, node_id: int) -> Node:
        """Return a new node that holds ``log`` or ``status`` as it is now, for one open handle."""
        if node_id == STATUS:
            text = json.dumps(self._describe(), indent=2) + "\n"
        else:
            text = _log_text(await offload.run(self._store.list_versions))
        data = text.encode()
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

    async def list_versions(self) -> list[tuple[bytes, NodeId]]:
        """Return the names in ``versions/`` with the numbers of their trees.

        Their attributes would take a fold each, so the kernel is told the numbers only and asks
        when it wants to know more.
        """
        await self._load_versions()
        assert self._versions is not None
        found = []
        for version in self._versions:
            name = b"%d" % version
            # The root has the smallest node id, so it is the first in every image.
            found.append((name, _number(self._view(VERSIONS, name, version), 0)))
        return found

    def _find(self, node_id: NodeId) -> Node | None:
        if node_id in (POND, AT, VERSIONS):
            node = Node(node_id, _attr(stat.S_IFDIR | 0o555), ROOT if node_id == POND else POND)
            node.children = dict(_TREE) if node_id == POND else {}
            node.nlink = 4 if node_id == POND else 2
            return node
        if node_id in (LOG, STATUS):
            return Node(node_id, _attr(stat.S_IFREG | 0o444), POND)
        number = (node_id & ~PAST) >> _PLACE_BITS
        view = None if node_id >= _HANDLE else self._views.get(number)
        image = None if view is None else self._images.get(view.version)
        if view is None or image is None:
            return None
        return PastNode(node_id, view, image, image.id_at(node_id & _PLACE_MASK))

    async def _image(self, version: Version) -> Image:
        image = self._images.get(version)
        if image is None:
            image = await offload.run(self._store.load_image_at, version)
            self._images[version] = image
            while len(self._images) > IMAGES_KEPT:
                self._images.popitem(last=False)
        else:
            self._images.move_to_end(version)
        return image

    async def _load_versions(self) -> None:
        if self._versions is None:
            infos = await offload.run(self._store.list_versions)
            if self._versions is None:
                infos.reverse()
                self._versions = [info.version for info in infos]
                self._times_ns = [info.time_ns for info in infos]

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
