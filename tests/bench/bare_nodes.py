"""The nodes of the bare filesystem and the POSIX bookkeeping between them.

Plain synchronous code; `bare_fs` carries the kernel's requests to it. Refusals are `FUSEError`s
straight away: this is a yardstick, with nothing between the kernel and the tree.
"""

from __future__ import annotations

import errno
import os
import stat
from time import time_ns
from typing import NoReturn

import pyfuse3
from pyfuse3 import EntryAttributes, FileHandleT, FileInfo, FUSEError, InodeT, ModeT

TIMEOUT_S = 3600.0
NAME_MAX = 255


def fail(code: int) -> NoReturn:
    """Raise *code* as the answer to the current request."""
    raise FUSEError(code)


class Node:
    """One inode: its attributes as pyfuse3 wants them, and whichever content its type has.

    The attributes object is made once and answered as it is, every time. So is *info*: with
    the inode number as file handle, one `FileInfo` serves every open of the node.
    """

    __slots__ = ("attr", "children", "content", "info", "lookups", "parent")

    def __init__(self, ino: int, mode: int, uid: int, gid: int) -> None:
        attr = EntryAttributes()
        attr.st_ino = InodeT(ino)
        attr.st_mode = ModeT(mode)
        attr.st_uid = uid
        attr.st_gid = gid
        attr.entry_timeout = attr.attr_timeout = TIMEOUT_S
        attr.st_atime_ns = attr.st_mtime_ns = attr.st_ctime_ns = time_ns()
        self.attr = attr
        self.info = FileInfo(fh=FileHandleT(ino), keep_cache=True)
        self.lookups = 0
        self.content: bytes | bytearray = b""
        self.children: dict[bytes, Node] | None = None
        self.parent: Node | None = None

    def write(self, offset: int, data: bytes) -> int:
        """Put *data* at *offset*.

        A file written in one piece keeps the very object pyfuse3 made: no copy. Later writes go
        into a bytearray, which grows geometrically.
        """
        content = self.content
        before = len(content)
        if offset == 0 and before <= len(data):
            content = self.content = data
        else:
            if not isinstance(content, bytearray):
                content = self.content = bytearray(content)
            if offset > before:
                content.extend(bytes(offset - before))
            content[offset : offset + len(data)] = data
        if len(content) != before:
            self._set_size(len(content))
        return len(data)

    def truncate(self, size_bytes: int) -> None:
        """Cut the content at *size_bytes*, or fill it with zeros up to there."""
        content = self.content
        if size_bytes == 0:
            self.content = b""
        elif size_bytes != len(content):
            if not isinstance(content, bytearray):
                content = self.content = bytearray(content)
            if size_bytes < len(content):
                del content[size_bytes:]
            else:
                content.extend(bytes(size_bytes - len(content)))
        self._set_size(size_bytes)
        self.attr.st_mtime_ns = self.attr.st_ctime_ns = time_ns()

    def _set_size(self, size_bytes: int) -> None:
        self.attr.st_size = size_bytes
        self.attr.st_blocks = -(-size_bytes // 512)


class Tree:
    """Every node by inode number, and the operations that change names."""

    def __init__(self) -> None:
        root = Node(pyfuse3.ROOT_INODE, stat.S_IFDIR | 0o755, os.getuid(), os.getgid())
        root.children, root.parent, root.lookups = {}, root, 1
        root.attr.st_nlink = 2
        self.nodes: dict[int, Node] = {pyfuse3.ROOT_INODE: root}
        self._next_ino = pyfuse3.ROOT_INODE + 1

    def children_of(self, ino: int) -> dict[bytes, Node]:
        """Return the entries of directory *ino*."""
        children = self.nodes[ino].children
        if children is None:
            fail(errno.ENOTDIR)
        return children

    def child(self, parent: int, name: bytes) -> Node:
        """Return the node *name* leads to, or answer ENOENT."""
        try:
            return self.children_of(parent)[name]
        except KeyError:
            fail(errno.ENOENT)

    def add(self, parent: int, name: bytes, mode: int, uid: int, gid: int) -> Node:
        """Make a node and its entry, counting the lookup the kernel is about to hold."""
        above = self.nodes[parent]
        children = self.children_of(parent)
        if len(name) > NAME_MAX:
            fail(errno.ENAMETOOLONG)
        if name in children:
            fail(errno.EEXIST)
        is_directory = stat.S_ISDIR(mode)
        if above.attr.st_mode & stat.S_ISGID:
            gid = above.attr.st_gid
            if is_directory:
                mode |= stat.S_ISGID
        ino = self._next_ino
        self._next_ino = ino + 1
        node = Node(ino, mode, uid, gid)
        node.lookups = 1
        if is_directory:
            node.children, node.parent = {}, above
            node.attr.st_nlink = 2
            above.attr.st_nlink += 1
        self.nodes[ino] = node
        children[name] = node
        above.attr.st_mtime_ns = above.attr.st_ctime_ns = time_ns()
        return node

    def link(self, node: Node, parent: int, name: bytes) -> None:
        """Give *node* another name."""
        children = self.children_of(parent)
        if name in children:
            fail(errno.EEXIST)
        children[name] = node
        node.lookups += 1
        node.attr.st_nlink += 1
        node.attr.st_ctime_ns = self._touch(parent)

    def remove(self, parent: int, name: bytes, *, directory: bool) -> None:
        """Take the entry *name* away: unlink, or rmdir with *directory*."""
        node = self.child(parent, name)
        if directory:
            if node.children is None:
                fail(errno.ENOTDIR)
            if node.children:
                fail(errno.ENOTEMPTY)
        elif node.children is not None:
            fail(errno.EISDIR)
        del self.children_of(parent)[name]
        self._drop(node, self._touch(parent))

    def rename(self, old: int, old_name: bytes, new: int, new_name: bytes, flags: int) -> None:
        """Move an entry; the kernel has already refused loops and mismatched types."""
        node = self.child(old, old_name)
        source, target = self.children_of(old), self.children_of(new)
        victim = target.get(new_name)
        if flags == pyfuse3.RENAME_EXCHANGE:
            if victim is None:
                fail(errno.ENOENT)
            source[old_name] = victim
            self._reparent(victim, old)
            victim.attr.st_ctime_ns = time_ns()
        elif flags in (0, pyfuse3.RENAME_NOREPLACE):
            if victim is not None:
                if flags:
                    fail(errno.EEXIST)
                if victim.children:
                    fail(errno.ENOTEMPTY)
            del source[old_name]
        else:
            fail(errno.EINVAL)
        target[new_name] = node
        self._reparent(node, new)
        now_ns = node.attr.st_ctime_ns = self._touch(old)
        if new != old:
            self._touch(new)
        if victim is not None and not flags:
            self._drop(victim, now_ns)

    def forget(self, ino: int, count: int) -> None:
        """Give back *count* lookups; a node without names goes with the last one."""
        node = self.nodes[ino]
        node.lookups -= count
        if node.lookups <= 0 and node.attr.st_nlink == 0:
            del self.nodes[ino]

    def _drop(self, node: Node, now_ns: int) -> None:
        attr = node.attr
        if node.children is None:
            attr.st_nlink -= 1
        else:
            attr.st_nlink = 0
            if node.parent is not None:
                node.parent.attr.st_nlink -= 1
        attr.st_ctime_ns = now_ns
        if attr.st_nlink == 0 and node.lookups <= 0:
            del self.nodes[attr.st_ino]

    def _touch(self, ino: int) -> int:
        now_ns = time_ns()
        attr = self.nodes[ino].attr
        attr.st_mtime_ns = attr.st_ctime_ns = now_ns
        return now_ns

    def _reparent(self, node: Node, parent: int) -> None:
        above = self.nodes[parent]
        if node.children is not None and node.parent is not None and node.parent is not above:
            node.parent.attr.st_nlink -= 1
            above.attr.st_nlink += 1
            node.parent = above
