"""One version's tree read by paths, straight from the store: what a mount would show of it.

Paths are bytes from the pond's root, without a leading slash; the root is empty. Symlinks are
never followed here. Nothing is checked against permissions: whoever reads the store reads all.
"""

import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from pondfs.errors import NoSuchPath, StoreDamaged, UsageError
from pondfs.node import FILE_TYPES, ROOT, NodeId
from pondfs.store.stored_file import StoredFile

if TYPE_CHECKING:
    from pondfs.interfaces import Image, Store, StoredNode

PIECE_BYTES = 1 << 20
"""The most one read brings into memory."""

_DIRECTORIES_KEPT = 64
"""Directories whose names stay at hand: a walk asks for files of one after the other."""

Xattrs = dict[bytes, bytes]
Piece = tuple[int, bytes]
"""Where bytes lie in a file, and the bytes."""


@dataclass(frozen=True, slots=True)
class NodeStat:
    """What ``lstat`` says of a node.

    Attributes:
        ino: the same for two names exactly if they are hard links.
        allocated_bytes: less than the size if there are holes.
    """

    ino: int
    mode: int
    uid: int
    gid: int
    nlink: int
    rdev: int
    size_bytes: int
    allocated_bytes: int
    atime_ns: int
    mtime_ns: int
    ctime_ns: int


def not_a_file(path: bytes, mode: int) -> str:
    """Return what is wrong with reading *path*, which is something else."""
    kind = FILE_TYPES.get(stat.S_IFMT(mode), "special file")
    return f"'/{shown(path)}' is a {kind}, not a file"


def shown(path: bytes) -> str:
    """Return *path* for a message: one line, and what is no text escaped."""
    text = path.decode("utf-8", "backslashreplace")
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode() for char in text
    )


class StoredTree:
    """The tree an image holds.

    Attributes:
        label: how messages call it, such as ``version 42``.
        live_at: where it is mounted: nowhere.
    """

    live_at: bytes | None = None

    def __init__(
        self, store: "Store", image: "Image", decode_xattrs: Callable[[str | None], Xattrs | None]
    ) -> None:
        self.label = f"version {image.version}"
        self._store = store
        self._image = image
        self._decode_xattrs = decode_xattrs
        self._children = lru_cache(_DIRECTORIES_KEPT)(image.load_entries)

    def lstat(self, path: bytes) -> NodeStat:
        """Return what is at *path*. Raises: NoSuchPath."""
        node_id = self._find(path)
        return _stat(node_id, self._node(node_id))

    def entries(self, path: bytes) -> list[tuple[bytes, NodeStat]]:
        """Return a directory's names and what they are, sorted; none for anything else.

        Raises: NoSuchPath.
        """
        children = self._children(self._find(path))
        return [
            (name, _stat(node_id, self._node(node_id)))
            for name, node_id in sorted(children.items())
        ]

    def readlink(self, path: bytes) -> bytes:
        """Return a symlink's target. Raises: NoSuchPath; StoreDamaged for what can be none."""
        target = self._node(self._find(path)).target or b""
        if b"\0" in target:
            raise StoreDamaged(f"'/{shown(path)}' is a symlink with a NUL in it, which none has")
        return target

    def xattrs(self, path: bytes) -> Xattrs:
        """Return the extended attributes. Raises: NoSuchPath."""
        return self._decode_xattrs(self._node(self._find(path)).metadata) or {}

    def read(self, path: bytes) -> Iterator[Piece]:
        """Yield a regular file's bytes in order, each with its offset; what is left out is a hole.

        Raises: NoSuchPath, StoreDamaged, OSError.
        """
        for extent in self._image.load_extents(self._find(path)):
            for done in range(0, extent.length, PIECE_BYTES):
                data = bytearray(min(PIECE_BYTES, extent.length - done))
                self._store.read(extent.content, extent.skip + done, memoryview(data))
                yield extent.offset + done, bytes(data)

    def open(self, path: bytes) -> StoredFile:
        """Return a regular file for reading anywhere in it, while this tree is open.

        Raises: NoSuchPath; UsageError for anything but a regular file.
        """
        node_id = self._find(path)
        stat_mode, *_, size, _, _, _ = self._node(node_id).attr
        if not stat.S_ISREG(stat_mode):
            raise UsageError(not_a_file(path, stat_mode))
        return StoredFile(self._store, self._image.load_extents(node_id), size)

    def close(self) -> None:
        """Let go of the store."""
        self._store.close()

    def _find(self, path: bytes) -> NodeId:
        node_id: NodeId | None = ROOT
        for name in path.split(b"/") if path else ():
            node_id = self._children(node_id).get(name) if node_id is not None else None
        if node_id is None:
            raise NoSuchPath(f"{self.label} has no '/{shown(path)}'")
        return node_id

    def _node(self, node_id: NodeId) -> "StoredNode":
        node = self._image.find_node(node_id)
        if node is None:
            raise StoreDamaged(
                f"{self.label} has a name for node {node_id:016x} but not the node: "
                "restore the pond from a backup"
            )
        return node


def _stat(node_id: NodeId, node: "StoredNode") -> NodeStat:
    mode, uid, gid, nlink, rdev, size, atime_ns, mtime_ns, ctime_ns = node.attr
    return NodeStat(
        node_id, mode, uid, gid, nlink, rdev, size, node.allocated_bytes,
        atime_ns, mtime_ns, ctime_ns,
    )  # fmt: skip
