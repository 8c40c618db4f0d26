"""The rows of what is pending, in the order in which a cut writes them. Looks, and takes nothing.

A cut and a preview of it are made of the same rows here; they differ in where the contents come
from: one takes them, the other copies references.
"""

import stat
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING

from pondfs.extent import Content, Extent, ExtentMap
from pondfs.node import NodeId
from pondfs.oplog import Row, Summary
from pondfs.vfs.nodes import Node, NodeTable

if TYPE_CHECKING:
    from pondfs.vfs.pending import Pending


class Draft:
    """Makes the rows of one coming version.

    Attributes:
        rows: what was made so far.
        summary: counts what the rows do.
    """

    def __init__(
        self,
        pending: "Pending",
        table: NodeTable,
        summary: Summary,
        contents_of: Callable[[Node], list[Content]],
    ) -> None:
        self.rows: list[Row] = []
        self.summary = summary
        self._pending = pending
        self._table = table
        self._contents_of = contents_of
        # Nodes whose own row is made.
        self._written: set[NodeId] = set()

    def make(self, without: Iterable[NodeId] = ()) -> list[Row]:
        """Return the rows; nodes that are gone and in *without* have none."""
        pending, summary = self._pending, self.summary
        for (_, name), (directory, before) in pending.entries.items():
            self._entry(directory, name, before)
        busy = {directory.id for directory, _ in pending.entries.values()}
        for node in pending.nodes.values():
            if node.id not in self._written:
                is_new = node.id in pending.created
                # What happened is told by the entries; the directory's times only follow.
                is_operation = not is_new and node.id not in busy
                self._node(node, "create" if is_new else "update" if is_operation else "touch")
                summary.operations += is_operation
                summary.nodes_changed += is_operation
        for node in pending.accessed.values():
            if node.id not in pending.nodes:
                self._node(node, "touch")
        gone = [node for node in pending.removed.values() if node.id not in without]
        for node in gone:
            part = node.id if stat.S_ISDIR(node.mode) else node.parent
            self.rows.append(Row("unlink", node.ctime_ns, part, node.id, node.mode, removed=True))
        summary.nodes_created = len(pending.created)
        summary.nodes_removed = len(gone)
        return self.rows

    def _entry(self, directory: Node, name: bytes, before: Node | None) -> None:
        pending, summary = self._pending, self.summary
        after_id = (directory.children or {}).get(name) if directory.nlink else None
        renamed = (directory.id, name) in pending.renamed
        if after_id is None:
            if before is not None:
                op = "rename" if renamed else "unlink"
                self.rows.append(
                    Row(
                        op, directory.mtime_ns, directory.id, before.id, before.mode, name,
                        removed=True,
                    )
                )  # fmt: skip
                summary.operations += 1
            return
        if before is not None and before.id == after_id:
            return
        node = self._table.get(after_id)
        summary.operations += 1
        is_new = after_id in pending.created
        op = "create" if is_new else "rename" if renamed else "link"
        if (
            node.id in pending.nodes
            and node.id not in self._written
            and not stat.S_ISDIR(node.mode)
        ):
            self._written.add(node.id)
            summary.nodes_changed += not is_new
            self._node(node, op, directory.id, name)
        else:
            self.rows.append(Row(op, node.ctime_ns, directory.id, node.id, node.mode, name))

    def _node(
        self, node: Node, op: str, part: NodeId | None = None, name: bytes | None = None
    ) -> None:
        """Append the node's own row, its first content on it, and a row for each other content."""
        if part is None:
            part = node.id if stat.S_ISDIR(node.mode) else node.parent
        contents = self._contents_of(node) if node.fresh else []
        if node.target is not None and node.id in self._pending.created:
            contents = [Content(node.target, len(node.target))]
        first = contents[0] if contents else None
        self.rows.append(attr_row(op, node, part, name, first))
        self.rows.extend(extent_row(node, content) for content in contents[1:])


def attr_row(
    op: str, node: Node, part: NodeId, name: bytes | None = None, content: Content | None = None
) -> Row:
    """Return the row that has the node's attributes."""
    return Row(
        op, node.ctime_ns, part, node.id, node.mode, name, False, node.attr_row(),
        node.valid_below, node.metadata(), None if content is None else content.offset, content,
    )  # fmt: skip


def extent_row(node: Node, content: Content) -> Row:
    """Return a row for bytes of the node that are not on its own row."""
    return Row(
        "extent", node.mtime_ns, node.parent, node.id, node.mode,
        offset=content.offset, content=content,
    )  # fmt: skip


def whole_contents(node: Node, extents: ExtentMap) -> Iterator[tuple[Content, Extent | None]]:
    """Yield the node's fresh contents as rows can have them, in the order they were written.

    A content of which only parts are still shown becomes a new one for each part; with it comes
    the extent that shows the part.
    """
    for content in node.fresh:
        if content.live == content.length:
            yield content, None
        elif content.live:
            for piece in extents.pieces_of(content):
                data = content.data
                assert data is not None
                shown = bytes(data[piece.skip : piece.skip + piece.length])
                part = Content(shown, piece.length, piece.offset)
                part.fresh = False
                yield part, piece


def copy_contents(node: Node, extents: ExtentMap) -> list[Content]:
    """Return the node's fresh contents without taking them: their bytes are shared."""
    return [_copy(content) for content, _ in whole_contents(node, extents)]


def copy_row(row: Row, content: bool) -> Row:
    """Return the row with a content of its own, which nothing settles; or with none."""
    if row.content is None:
        return row
    return row._replace(content=_copy(row.content) if content else None)


def _copy(content: Content) -> Content:
    copy = Content(content.data, content.length, content.offset)
    copy.fresh = False
    return copy
