"""One line for a whole tree: equal for equal trees, on any machine.

What it is of, byte for byte, is in docs/reference/check.md, and tree_hash.py there makes the same
of any directory. It is made of what programs see and copies keep: not of node ids, versions, atime
and ctime, nor of how bytes lie in files (holes are zeros).
"""

import hashlib
import os
import stat
from collections.abc import Iterable, Iterator
from typing import Any

from pondfs.node import FILE_TYPES, ROOT, NodeId
from pondfs.store.check.data import Progress
from pondfs.store.content import ContentReader
from pondfs.store.image import TableImage
from pondfs.xattrs import decode_xattrs

HEAD = b"pond tree 1\n"
"""What is hashed first; another number comes when it is made of something else."""

_PIECE_BYTES = 1 << 20
_TELL_EVERY_BYTES = 64 << 20
_RECORD_BYTES = 64 << 10
"""What a path counts for in the progress, beside its bytes."""

MOST_HOLE_BYTES = 1 << 40
"""Of trees with more of nothing in their files there is no hash: it would take ten minutes and more
for each TiB.
"""
_ZEROS = bytes(_PIECE_BYTES)


def hash_tree(image: TableImage, reader: ContentReader, progress: Progress) -> str:
    """Return the hash of all that an image holds, in hex.

    Raises: StoreDamaged, OSError.
    """
    whole = hashlib.sha256(HEAD)
    for record in _Hasher(image, reader, progress).records():
        whole.update(record)
    return whole.hexdigest()


def hole_bytes(image: TableImage) -> int:
    """Return how many bytes of the files are in holes."""
    columns = image.columns
    sizes, allocated = (column[_is_file(image)] for column in (columns.size, columns.allocated))
    # Each by itself: their sum may not fit into 64 bits.
    return sum(map(int, sizes.tolist())) - sum(map(int, allocated.tolist()))


def _is_file(image: TableImage) -> Any:
    return (image.columns.mode & 0o170000) == stat.S_IFREG


def field(data: bytes) -> bytes:
    """Return *data* so that its end is known: a netstring."""
    return b"%d:%b," % (len(data), data)


def record_of(fields: Iterable[bytes]) -> bytes:
    """Return a record of fields: a netstring of netstrings."""
    return field(b"".join(map(field, fields)))


class _Hasher:
    def __init__(self, image: TableImage, reader: ContentReader, progress: Progress) -> None:
        self._progress = progress
        sizes = sum(image.columns.size[_is_file(image)].tolist())
        self._whole_bytes = sizes + image.node_count * _RECORD_BYTES
        self._done_bytes = self._told_bytes = 0
        self._image = image
        self._reader = reader
        self._buffer = memoryview(bytearray(_PIECE_BYTES))
        # Of nodes with several names: the first path.
        self._first: dict[int, bytes] = {}

    def records(self) -> Iterator[bytes]:
        """Yield a record for each path: a directory, then what is in it, by the order of names."""
        place = self._image.find_place(ROOT)
        todo: list[tuple[bytes, int]] = [(b"", place)]
        while todo:
            path, place = todo.pop()
            yield record_of(self._fields(path, place))
            self._tell(_RECORD_BYTES)
            if not stat.S_ISDIR(self._image.columns.mode.item(place)):
                continue
            children = self._image.entries_at(place)
            todo.extend(
                (os.path.join(path, name), children[name])
                for name in sorted(children, reverse=True)
            )

    def _fields(self, path: bytes, place: int) -> Iterator[bytes]:
        node_id, node, _ = self._image.node_at(place)
        mode, uid, gid, nlink, rdev, size, _, mtime_ns, _ = node.attr
        kind = stat.S_IFMT(mode)
        yield path
        if kind != stat.S_IFDIR and nlink > 1:
            first = self._first.setdefault(place, path)
            if first != path:
                yield b"link"
                yield first
                return
        yield FILE_TYPES[kind].encode()
        yield b"%o" % stat.S_IMODE(mode)
        yield b"%d" % uid
        yield b"%d" % gid
        yield b"%d" % mtime_ns
        if kind == stat.S_IFREG:
            yield b"%d" % size
            yield self._content(node_id, size).encode()
        elif kind == stat.S_IFLNK:
            yield node.target or b""
        elif kind in (stat.S_IFBLK, stat.S_IFCHR):
            yield b"%d:%d" % (os.major(rdev), os.minor(rdev))
        for name, value in sorted((decode_xattrs(node.metadata) or {}).items()):
            yield name
            yield value

    def _tell(self, count: int) -> None:
        """Say that so many bytes more are done, now and then."""
        self._done_bytes += count
        if self._done_bytes - self._told_bytes >= _TELL_EVERY_BYTES:
            self._told_bytes = self._done_bytes
            # A second name of a file counts for more than it was expected to.
            share = min(1.0, self._done_bytes / self._whole_bytes)
            self._progress("hashing the tree", share)

    def _content(self, node_id: NodeId, size: int) -> str:
        """Return the SHA-256 of a file's bytes."""
        found = hashlib.sha256()
        at = 0
        for extent in self._image.load_extents(node_id):
            self._update_zeros(found, extent.offset - at)
            for done in range(0, extent.length, _PIECE_BYTES):
                part = self._buffer[: min(_PIECE_BYTES, extent.length - done)]
                self._reader.read(extent.content, extent.skip + done, part)
                found.update(part)
                self._tell(len(part))
            at = extent.offset + extent.length
        self._update_zeros(found, size - at)
        return found.hexdigest()

    def _update_zeros(self, found: "hashlib._Hash", count: int) -> None:
        for done in range(0, count, _PIECE_BYTES):
            part = _ZEROS[: min(_PIECE_BYTES, count - done)]
            found.update(part)
            self._tell(len(part))
