"""Attributes: stat, chmod, chown, truncate, utimens, statfs."""

import errno
import os
import stat
from dataclasses import dataclass

from pondfs.errors import FileError
from pondfs.node import MAX_FILE_SIZE, NodeId
from pondfs.vfs import acl
from pondfs.vfs.base import VfsBase, now_ns
from pondfs.vfs.nodes import Node


@dataclass(slots=True)
class Change:
    """What a setattr asks for; None leaves a field alone. Units: bytes, nanoseconds."""

    size: int | None = None
    mode: int | None = None
    uid: int | None = None
    gid: int | None = None
    atime_ns: int | None = None
    mtime_ns: int | None = None
    ctime_ns: int | None = None


def _clamped(time_ns: int) -> int:
    """Return the time, or the nearest that the table can hold (1677 to 2262), as kernels do.

    Source: utimensat(2), timestamp_truncate() in the kernel's fs/inode.c.
    """
    return min(max(time_ns, -(1 << 63)), (1 << 63) - 1)


class Attributes(VfsBase):
    """The operations on attributes."""

    def getattr(self, node_id: NodeId) -> Node:
        """Return the node. Raises: FileError ESTALE."""
        return self.nodes.live.get(node_id) or self.nodes.get(node_id)

    def setattr(self, node_id: NodeId, change: Change) -> Node:
        """Change attributes. Permissions, and suid bits lost by chown, are the kernel's business.

        Raises: FileError EROFS, EFBIG, EISDIR, EINVAL (truncate of what is no file), ENOSPC.
        """
        self.may_change(node_id)
        node = self.nodes.get(node_id)
        now = now_ns() if change.ctime_ns is None else change.ctime_ns
        if change.size is not None:
            self.truncate(node, change.size)
            node.mtime_ns = _clamped(now)
        if change.mode is not None:
            node.mode = stat.S_IFMT(node.mode) | (change.mode & 0o7777)
            if node.xattrs and self.options.acl:
                acl.follow_chmod(node)
        if change.uid is not None:
            node.uid = change.uid
        if change.gid is not None:
            node.gid = change.gid
        if change.atime_ns is not None:
            node.atime_ns = _clamped(change.atime_ns)
        if change.mtime_ns is not None:
            node.mtime_ns = _clamped(change.mtime_ns)
        node.ctime_ns = _clamped(now)
        self.pending.touch(node)
        return node

    def truncate(self, node: Node, size: int) -> None:
        """Set a file's size; growing leaves a hole. Raises: as `setattr`."""
        if not stat.S_ISREG(node.mode):
            raise FileError(errno.EISDIR if stat.S_ISDIR(node.mode) else errno.EINVAL)
        if size > MAX_FILE_SIZE:
            raise FileError(errno.EFBIG)
        if size < node.size:
            self.pending.freed(self.nodes.extents(node).truncate(size))
            if node.valid_below is None or size < node.valid_below:
                node.valid_below = size
        elif size > node.size:
            self.may_grow(node.id)
        node.size = size

    def statfs(self) -> os.statvfs_result:
        """Return the store's disk: what is free there is what is free here."""
        return self.store.statvfs()
