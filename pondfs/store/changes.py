"""What changed between two versions: states are compared, not the operations in between.

The rows in between say which nodes to look at; their states at both versions come from a fold of
the rows about them alone. A directory that moved is one change, whatever is in it.
"""

import os
import stat
from collections.abc import Iterator, Sequence

import numpy as np

from pondfs.change import Change, State
from pondfs.errors import NoSuchPath, NoSuchVersion
from pondfs.interfaces import StoredNode
from pondfs.node import FILE_TYPES, ROOT, NodeId, Version
from pondfs.oplog import Preview
from pondfs.store.content import DataFile
from pondfs.store.image import TableImage
from pondfs.store.trace import Trace, show

ADDED, REMOVED, CHANGED, RENAMED, MODE = "added", "removed", "changed", "renamed", "mode"
_ORDER = (REMOVED, ADDED, RENAMED, CHANGED, MODE)


def load_changes(
    store: str | os.PathLike[str],
    old: Version,
    new: Version,
    path: Sequence[bytes] = (),
    preview: Preview | None = None,
    files: list[DataFile] | None = None,
) -> list[Change]:
    """Return what is different in *new*, at *path* or below, sorted by path.

    Args:
        store: the pond.
        old: a version.
        new: a version, or that of *preview*.
        path: names from the root.
        preview: a coming version that shall be there, too.
        files: the data files to look at; None: those that the table has now.
    Raises: NoSuchVersion; NoSuchPath when neither version has *path*; StoreDamaged.
    """
    trace = Trace(store, max(old, new), preview, files)
    try:
        for version in (old, new):
            if version not in trace.versions:
                raise NoSuchVersion(f"there is no version {version}: see pond log")
        if trace.find_at(path, old) is None and trace.find_at(path, new) is None:
            raise NoSuchPath(f"neither version {old} nor version {new} has {show(path)}")
        found = _Comparison(trace, old, new, b"/".join(path)).run()
    finally:
        trace.close()
    return sorted(found, key=lambda change: (change.path, _ORDER.index(change.change)))


class _Tree:
    """The entries of an image, by node."""

    def __init__(self, image: TableImage) -> None:
        self.image = image
        self.places: dict[int, list[tuple[int, bytes]]] = {}
        for directory in image.node_ids():
            for name, node in image.load_entries(NodeId(directory)).items():
                self.places.setdefault(node, []).append((directory, name))
        self._paths: dict[int, bytes] = {ROOT: b""}

    def has(self, node: int) -> bool:
        return node == ROOT or node in self.places

    def find(self, node: int) -> StoredNode | None:
        return self.image.find_node(NodeId(node)) if self.has(node) else None

    def path(self, directory: int) -> bytes:
        """Return where a directory is, with a slash behind it; nothing for the root."""
        above: list[tuple[int, bytes]] = []
        at = directory
        while at not in self._paths:
            parent, name = self.places[at][0]
            above.append((at, name))
            at = parent
        path = self._paths[at]
        for node, name in reversed(above):
            path = self._paths[node] = path + name + b"/"
        return path

    def paths(self, node: int) -> list[bytes]:
        return [self.path(part) + name for part, name in self.places.get(node, [])]


class _Comparison:
    """Two trees, and what is different in the second."""

    def __init__(self, trace: Trace, old: Version, new: Version, below: bytes) -> None:
        self._trace = trace
        low, high = min(old, new), max(old, new)
        touched = np.flatnonzero((trace.version > low) & (trace.version <= high))
        # Whoever had one of the entries, too: it may have lost it without a row of its own.
        self._nodes = np.union1d(trace.rows.node[touched], trace.rivals(touched))
        chosen = trace.around(self._nodes)
        self._old = _Tree(trace.image_at(old, chosen))
        self._new = _Tree(trace.image_at(new, chosen))
        self._below = below
        self._carried: dict[int, bytes] = {}

    def run(self) -> Iterator[Change]:
        gone: dict[bytes, tuple[bytes, int]] = {}
        come: dict[bytes, int] = {}
        for node in self._nodes.tolist():
            before = {
                self._carry(part) + name: self._old.path(part) + name
                for part, name in self._old.places.get(node, [])
            }
            after = set(self._new.paths(node))
            stayed = before.keys() & after
            if node == ROOT:
                stayed = {b""}
            left, new = sorted(before.keys() - after), sorted(after - before.keys())
            moved = list(zip(left, new, strict=False))
            for source, target in moved:
                yield from self._change(RENAMED, target, node, node, before[source])
            gone.update({where: (before[where], node) for where in left[len(moved) :]})
            come.update(dict.fromkeys(new[len(moved) :], node))
            for where in [*stayed, *(target for _, target in moved)]:
                yield from self._compare(where, node, node)
        for where, (path, node) in gone.items():
            other = come.get(where)
            if other is not None and self._same_type(node, other):
                # Replaced by a new node, as most editors save.
                del come[where]
                yield from self._compare(where, node, other)
            else:
                yield from self._change(REMOVED, path, node, None)
        for where, node in come.items():
            yield from self._change(ADDED, where, None, node)

    def _carry(self, directory: int) -> bytes:
        """Return where a directory of the old tree would be now, had nobody touched it itself."""
        names = []
        at = directory
        while not self._new.has(at):
            if at in self._carried:
                break
            at, name = self._old.places[at][0]
            names.append(name)
        path = self._carried[at] if at in self._carried else self._new.path(at)
        path += b"".join(name + b"/" for name in reversed(names))
        self._carried[directory] = path
        return path

    def _same_type(self, node: int, other: int) -> bool:
        old, new = self._old.find(node), self._new.find(other)
        return (
            old is not None
            and new is not None
            and stat.S_IFMT(old.attr[0]) == stat.S_IFMT(new.attr[0])
        )

    def _compare(self, path: bytes, node: int, other: int) -> Iterator[Change]:
        old, new = self._old.find(node), self._new.find(other)
        if old is None or new is None or not self._wanted(path):
            return
        if not self._same_content(node, old, other, new):
            yield from self._change(CHANGED, path, node, other)
        if old.attr[:3] != new.attr[:3] or old.metadata != new.metadata:
            yield from self._change(MODE, path, node, other)

    def _same_content(self, node: int, old: StoredNode, other: int, new: StoredNode) -> bool:
        kind = stat.S_IFMT(old.attr[0])
        if kind == stat.S_IFDIR:
            return True
        if other in self._trace.rewritten:
            return False
        if kind != stat.S_IFREG:
            return old.target == new.target and old.attr[4] == new.attr[4]
        return old.attr[5] == new.attr[5] and self._trace.same_bytes(
            self._old.image.load_extents(NodeId(node)),
            self._new.image.load_extents(NodeId(other)),
            new.attr[5],
        )

    def _wanted(self, *paths: bytes | None) -> bool:
        below = self._below
        return not below or any(
            path is not None and (path == below or path.startswith(below + b"/")) for path in paths
        )

    def _change(
        self,
        change: str,
        path: bytes,
        old: int | None,
        new: int | None,
        source: bytes | None = None,
    ) -> Iterator[Change]:
        if not self._wanted(path, source):
            return
        before = None if old is None else self._old.find(old)
        after = None if new is None else self._new.find(new)
        shown = after or before
        assert shown is not None
        kind = FILE_TYPES[stat.S_IFMT(shown.attr[0])]
        yield Change(change, path, source, kind, _state(before), _state(after))


def _state(node: StoredNode | None) -> State | None:
    if node is None:
        return None
    mode, uid, gid, _, _, size, *_ = node.attr
    return State(stat.S_IMODE(mode), uid, gid, size)
