"""The node table: an immutable image under a thin overlay.

A node becomes a Python object when the kernel asks for it or something changes it, and stops
being one when the kernel forgets it and the image (still) has the truth. So memory follows what
is used, not what is stored.
"""

import errno
import stat
from collections.abc import Callable
from typing import Any

from pondfs.errors import FileError
from pondfs.extent import Content, Extent, ExtentMap
from pondfs.interfaces import StoredNode, Tree
from pondfs.node import PAST, ROOT, NodeId, new_node_id
from pondfs.oplog import AttrRow
from pondfs.xattrs import decode_xattrs, encode_xattrs

CLEAN, COMING = 0, 1 << 62
"""What `Node.changed` is when it is no version: as in the image; changed since the last cut."""


class Node:
    """One live file, directory, symlink ...: the overlay's object.

    Attributes:
        id mode uid gid nlink rdev size atime_ns mtime_ns ctime_ns: as `node.Attr`.
        parent: a directory that has an entry for it; rows about it go to that partition.
        children: a directory's entries; None while not loaded.
        extents: a regular file's bytes; None while not loaded.
        allocated_bytes: how much of the size is no hole, while *extents* is not loaded.
        target: a symlink's target.
        xattrs: extended attributes, or None when it has none.
        fresh: contents written since the last cut or stage, in order.
        valid_below: smallest size since the last row, if it shrank: older bytes count only below.
        lookups: references the kernel holds (it gives them back by forget).
        opens: open handles.
        stored: some row of a version (perhaps a coming one) knows this node.
        shown: what the kernel was last told of its attributes, in the kernel layer's form; None
            when they changed since (`pending.Pending.touch` sees to that).
        changed: the version that carried its last change, or `COMING` before one has: an image
            older than that does not know it, so forget must keep the node. `CLEAN` when the table's
            image has it as it is.
    """

    __slots__ = (
        "allocated_bytes",
        "atime_ns",
        "changed",
        "children",
        "ctime_ns",
        "extents",
        "fresh",
        "gid",
        "id",
        "lookups",
        "mode",
        "mtime_ns",
        "nlink",
        "opens",
        "parent",
        "rdev",
        "shown",
        "size",
        "stored",
        "target",
        "uid",
        "valid_below",
        "xattrs",
    )

    def __init__(self, node_id: NodeId, attr: AttrRow, parent: NodeId) -> None:
        self.id = node_id
        (
            self.mode,
            self.uid,
            self.gid,
            self.nlink,
            self.rdev,
            self.size,
            self.atime_ns,
            self.mtime_ns,
            self.ctime_ns,
        ) = attr
        self.parent = parent
        self.children: dict[bytes, NodeId] | None = None
        self.extents: ExtentMap | None = None
        self.allocated_bytes = 0
        self.target: bytes | None = None
        self.xattrs: dict[bytes, bytes] | None = None
        self.fresh: list[Content] = []
        self.valid_below: int | None = None
        self.lookups = 0
        self.opens = 0
        self.stored = False
        self.changed = CLEAN
        self.shown: Any = None

    def attr_row(self) -> AttrRow:
        """Return the attributes in the order a row has them."""
        return (
            self.mode,
            self.uid,
            self.gid,
            self.nlink,
            self.rdev,
            self.size,
            self.atime_ns,
            self.mtime_ns,
            self.ctime_ns,
        )

    def metadata(self) -> str | None:
        """Return the JSON for a row's ``metadata`` column; None when there is nothing to say."""
        return encode_xattrs(self.xattrs) if self.xattrs else None

    def take(self, stored: StoredNode) -> None:
        """Take over what an image holds beside attributes and parent."""
        self.target = stored.target
        self.xattrs = decode_xattrs(stored.metadata)
        self.allocated_bytes = stored.allocated_bytes

    def load_children(self, image: Tree) -> dict[bytes, NodeId]:
        """Return the directory's entries as they are stored."""
        return image.load_entries(self.id)

    def load_extents(self, image: Tree) -> list[Extent]:
        """Return the file's bytes as they are stored."""
        return image.load_extents(self.id)


def need_bytes(table: "NodeTable", node: Node) -> None:
    """Know where the bytes of a nameless file are before the image that says it goes."""
    if node.extents is None and not node.nlink and stat.S_ISREG(node.mode):
        table.extents(node)


class NodeTable:
    """All nodes of the live tree, by id."""

    def __init__(self, image: Tree) -> None:
        self.image = image
        self.live: dict[NodeId, Node] = {}
        # Makes the nodes of `.pond/`, whose numbers begin at PAST; set by `past`.
        self.find_past: Callable[[NodeId], Node | None] = lambda node_id: None
        # Nodes made since the image less nodes of the image that are gone: statfs's f_files.
        self.born = 0
        # Nodes here that differ from the image.
        self.changed = 0

    def count(self) -> int:
        """Return the number of nodes in the tree (open orphans excluded)."""
        return self.image.node_count + self.born

    def get(self, node_id: NodeId) -> Node:
        """Return the node; loads it from the image if need be.

        Raises: FileError ESTALE for a node that is gone (the kernel asks only for nodes it got
            from us, so this is a daemon's restart under a live kernel reference, or a bug).
        """
        node = self.live.get(node_id)
        if node is not None:
            return node
        if node_id >= PAST:
            node = self.find_past(node_id)
            if node is None:
                raise FileError(errno.ESTALE)
        else:
            stored = self.image.find_node(node_id)
            if stored is None:
                raise FileError(errno.ESTALE)
            node = Node(node_id, stored.attr, stored.parent)
            node.take(stored)
            node.stored = True
        self.live[node_id] = node
        return node

    def children(self, node: Node) -> dict[bytes, NodeId]:
        """Return the directory's entries, loading them on first use.

        Raises: FileError ENOTDIR.
        """
        children = node.children
        if children is None:
            if not stat.S_ISDIR(node.mode):
                raise FileError(errno.ENOTDIR)
            children = node.children = node.load_children(self.image)
        return children

    def extents(self, node: Node) -> ExtentMap:
        """Return the file's extents, loading them on first use."""
        extents = node.extents
        if extents is None:
            extents = node.extents = ExtentMap(node.load_extents(self.image))
        return extents

    def find_path(self, node: Node) -> bytes | None:
        """Return a path of a node of the live tree, for messages; None when it has none.

        Costs a look at every name in the directories on the way.
        """
        names: list[bytes] = []
        while node.id != ROOT:
            if node.id >= PAST or not node.nlink:
                return None
            parent = self.get(node.parent)
            ids = self.children(parent).items()
            name = next((name for name, node_id in ids if node_id == node.id), None)
            if name is None:
                return None
            names.append(name)
            node = parent
        return b"/" + b"/".join(reversed(names))

    def add(self, attr: AttrRow, parent: NodeId) -> Node:
        """Return a new node with a fresh id.

        The image is not asked whether it has the id already: among a million nodes that happens
        once in 10^13 creates, and the question would cost every create 5 microseconds.
        """
        node_id = new_node_id()
        while node_id in self.live:
            node_id = new_node_id()
        node = Node(node_id, attr, parent)
        node.changed = COMING
        self.live[node_id] = node
        self.born += 1
        self.changed += 1
        return node

    def drop_if_unused(self, node: Node) -> bool:
        """Take the node out of the overlay if nothing needs it there; say whether it went.

        The kernel may send a file's last forget before its release, so both come here.
        """
        if node.lookups > 0 or node.opens or (node.nlink and node.changed) or node.id == ROOT:
            return False
        self.live.pop(node.id, None)
        return True

    def clean(self, node: Node) -> None:
        """Note that the image has the node as it is, or that it is not to be kept for a change."""
        if node.changed:
            node.changed = CLEAN
            self.changed -= 1

    def turn_to(self, image: Tree) -> None:
        """Have *image*, a newer one of this tree, say what no node here says."""
        count = self.count()
        self.image = image
        self.born = count - image.node_count

    def let_go(self, node: Node) -> None:
        """Let go of what the image can give again of a clean node."""
        node.children = None
        if node.extents is not None:
            node.allocated_bytes = node.extents.allocated_bytes
            node.extents = None
