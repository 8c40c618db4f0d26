"""What is pending as people see it: an operation, the path it was done to, the bytes it brought."""

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pondfs.errors import FileError
from pondfs.node import FILE_TYPES, ROOT, NodeId
from pondfs.oplog import Row
from pondfs.vfs.nodes import Node

if TYPE_CHECKING:
    from pondfs.vfs.vfs import Vfs


@dataclass(frozen=True, slots=True)
class Operation:
    """Something that was done since the newest version.

    Attributes:
        op: ``create`` ``update`` ``link`` ``unlink`` ``rename``.
        path: where, from the root, without a leading slash.
        source: where it was before a rename; else None.
        file_type: ``file``, ``directory``, ``symlink`` …
        size: bytes it has now; None when it is gone.
        bytes: new content that is in no version yet.
        time_ns: when, nanoseconds since 1970 UTC.
    """

    op: str
    path: bytes
    source: bytes | None
    file_type: str
    size: int | None
    bytes: int
    time_ns: int


def list_operations(vfs: "Vfs") -> Iterator[Operation]:
    """Yield what is pending, oldest entries first; a rename is one operation.

    What a commit has under way comes first, as far as what it is about can still be found.
    """
    paths = _Paths(vfs)
    rows = [row for row in vfs.committer.under_way if row.is_operation]
    rows += vfs.pending.operations()
    moved_from: dict[int, list[Row]] = {}
    for row in rows:
        if row.op == "rename" and row.removed:
            moved_from.setdefault(row.node, []).append(row)
    moved_to = {row.node for row in rows if row.op == "rename" and not row.removed}
    told: set[NodeId] = set()
    for row in rows:
        source = None
        op = row.op
        if op == "rename":
            if row.removed and row.node in moved_to:
                continue  # told with where it went
            if row.removed:
                op = "unlink"
            elif befores := moved_from.get(row.node):
                before = befores.pop(0)
                source = paths.of_entry(NodeId(before.part), before.name or b"")
        node_id = NodeId(row.node)
        node = paths.find(node_id)
        if row.name is None:
            path = None if node is None else paths.of_node(node)
        else:
            path = paths.of_entry(NodeId(row.part), row.name)
        if path is None:
            continue
        is_there = not row.removed and node is not None
        new_bytes = 0
        if is_there and node is not None and node_id not in told:
            # Of several names the first has the bytes.
            told.add(node_id)
            new_bytes = paths.new_bytes(node)
        yield Operation(
            op,
            path,
            source,
            FILE_TYPES[stat.S_IFMT(row.mode)],
            node.size if is_there and node is not None else None,
            new_bytes,
            row.time_ns,
        )


class _Paths:
    """Where the nodes are that pending rows are about; good for one moment."""

    def __init__(self, vfs: "Vfs") -> None:
        self._nodes = vfs.nodes
        self._removed = vfs.pending.removed
        self._staged = {settled.file for settled, _ in vfs.pending.staged}
        self._directories: dict[NodeId, Node] = {}
        # Where nodes were that have no name any more.
        self._last: dict[NodeId, tuple[NodeId, bytes]] = {}
        self._names: dict[NodeId, dict[NodeId, bytes]] = {}
        self._found: dict[NodeId, bytes | None] = {ROOT: b""}
        for (directory_id, name), (directory, before) in vfs.pending.entries.items():
            self._directories[directory_id] = directory
            if before is not None and not before.nlink:
                self._last[before.id] = directory_id, name

    def find(self, node_id: NodeId) -> Node | None:
        """Return the node, be it gone from the tree."""
        found = self._removed.get(node_id) or self._directories.get(node_id)
        if found is not None:
            return found
        try:
            return self._nodes.get(node_id)
        except FileError:
            return None

    def of_entry(self, directory_id: NodeId, name: bytes) -> bytes | None:
        """Return the path of an entry; None when its directory can't be found any more."""
        if directory_id not in self._found:
            # Up, and down again: a path may be deeper than Python's stack.
            chain = [directory_id]
            while chain[-1] not in self._found:
                place = self._place(chain[-1])
                if place is None:
                    self._found[chain[-1]] = None
                    break
                chain.append(place[0])
            for inner in reversed(chain[:-1]):
                place = self._place(inner)
                above = None if place is None else self._found[place[0]]
                self._found[inner] = (
                    None if place is None or above is None else os.path.join(above, place[1])
                )
        directory = self._found[directory_id]
        return None if directory is None else os.path.join(directory, name)

    def of_node(self, node: Node) -> bytes | None:
        """Return a path of the node."""
        if node.id == ROOT:
            return b""
        place = self._place(node.id)
        return None if place is None else self.of_entry(*place)

    def _place(self, node_id: NodeId) -> tuple[NodeId, bytes] | None:
        """Return a directory the node is, or was last, in, and its name there."""
        if node_id in self._last:
            return self._last[node_id]
        node = self.find(node_id)
        directory = None if node is None else self.find(node.parent)
        if node is None or directory is None:
            return None
        names = self._names.get(directory.id)
        if names is None:
            children = self._nodes.children(directory)
            names = self._names[directory.id] = {child: name for name, child in children.items()}
        name = names.get(node_id)
        return None if name is None else (directory.id, name)

    def new_bytes(self, node: Node) -> int:
        """Return how many of the file's bytes are in no version."""
        if node.extents is None:
            return 0
        return sum(
            extent.length
            for extent in node.extents
            if extent.content.data is not None or extent.content.file in self._staged
        )
