"""Names: lookup, making and removing nodes, links, renames, listing.

The kernel serializes changes to one directory and checks permissions (``default_permissions``),
so what is left here are the rules about the tree itself.
"""

import errno
import stat
from collections.abc import Sequence

from pondfs.entry import LINK_MAX, SYMLINK_MAX, check_name
from pondfs.errors import FileError
from pondfs.node import ROOT, NodeId
from pondfs.vfs import acl
from pondfs.vfs.base import Caller, VfsBase, now_ns
from pondfs.vfs.nodes import Node
from pondfs.vfs.past import NAME, POND

RENAME_NOREPLACE = 1
RENAME_EXCHANGE = 2

MANY_NAMES = 1000
"""A listing of so many has looked at most of the image, which then counts as our memory."""


class Listing:
    """A directory being listed.

    The names are taken once, when listing starts (and again after rewinddir), so entries that
    come and go meanwhile neither repeat nor hide others, and a position stays good for seekdir.

    Attributes:
        node: the directory.
        names: entries in listing order, ``.`` and ``..`` first; None before the first call.
    """

    __slots__ = ("names", "node")

    def __init__(self, node: Node) -> None:
        self.node = node
        self.names: list[bytes] | None = None


class Namespace(VfsBase):
    """The operations on names."""

    def lookup(self, parent_id: NodeId, name: bytes) -> Node | None:
        """Return the node behind the entry and count a kernel reference; None if there is none.

        Raises: FileError ENOTDIR, ENAMETOOLONG.
        """
        nodes = self.nodes
        parent = nodes.live.get(parent_id) or nodes.get(parent_id)
        children = parent.children
        if children is None:
            children = nodes.children(parent)
        node_id = children.get(name)
        if node_id is None:
            check_name(name)
            if not self._is_pond_dir(parent_id, name):
                return None
            node_id = POND
        node = nodes.live.get(node_id) or nodes.get(node_id)
        node.lookups += 1
        return node

    def make(self, parent_id: NodeId, name: bytes, mode: int, rdev: int, caller: Caller) -> Node:
        """Make a node of any type but symlink, and count a kernel reference.

        In a setgid directory it gets the directory's group, and a directory the bit as well
        (inode_init_owner in the kernel's fs/inode.c). A default ACL of the directory is inherited.

        Raises: FileError EEXIST, ENOENT (the directory was removed), ENAMETOOLONG, ENOSPC, EROFS.
        """
        node = self._add(parent_id, name, mode, rdev, caller)
        node.lookups = 1
        return node

    def symlink(self, parent_id: NodeId, name: bytes, target: bytes, caller: Caller) -> Node:
        """Make a symlink. Raises: as `make`; ENAMETOOLONG for a target over SYMLINK_MAX."""
        if len(target) > SYMLINK_MAX:
            raise FileError(errno.ENAMETOOLONG)
        node = self._add(parent_id, name, stat.S_IFLNK | 0o777, 0, caller)
        node.target = target
        node.size = len(target)
        node.lookups = 1
        return node

    def link(self, node_id: NodeId, parent_id: NodeId, name: bytes) -> Node:
        """Give the node another name.

        Raises: FileError EPERM (a directory), EEXIST, ENOENT, EMLINK, ENAMETOOLONG, EROFS.
        """
        self.may_grow(node_id, parent_id)
        node = self.nodes.get(node_id)
        parent, children = self._new_name(parent_id, name)
        if stat.S_ISDIR(node.mode):
            raise FileError(errno.EPERM)
        if not node.nlink:
            raise FileError(errno.ENOENT)
        if node.nlink >= LINK_MAX:
            raise FileError(errno.EMLINK)
        now = now_ns()
        pending = self.pending
        pending.touch_entry(parent, name, None)
        children[name] = node.id
        node.nlink += 1
        node.ctime_ns = now
        pending.touch(node)
        parent.mtime_ns = parent.ctime_ns = now
        pending.touch(parent)
        node.lookups += 1
        return node

    def unlink(self, parent_id: NodeId, name: bytes) -> None:
        """Remove the name of anything but a directory. Raises: FileError ENOENT, EISDIR."""
        parent, children, node = self._existing(parent_id, name)
        if stat.S_ISDIR(node.mode):
            raise FileError(errno.EISDIR)
        now = now_ns()
        self.pending.touch_entry(parent, name, node)
        del children[name]
        parent.mtime_ns = parent.ctime_ns = now
        self.pending.touch(parent)
        self._drop_name(node, now)

    def rmdir(self, parent_id: NodeId, name: bytes) -> None:
        """Remove an empty directory. Raises: FileError ENOENT, ENOTDIR, ENOTEMPTY."""
        parent, children, node = self._existing(parent_id, name)
        if self.nodes.children(node):
            raise FileError(errno.ENOTEMPTY)
        now = now_ns()
        self.pending.touch_entry(parent, name, node)
        del children[name]
        parent.nlink -= 1
        parent.mtime_ns = parent.ctime_ns = now
        self.pending.touch(parent)
        self._drop_name(node, now)

    def rename(
        self, old_id: NodeId, old_name: bytes, new_id: NodeId, new_name: bytes, flags: int
    ) -> None:
        """Move an entry, over what has the new name unless *flags* forbid.

        Raises: FileError ENOENT, EEXIST (NOREPLACE), EISDIR, ENOTDIR, ENOTEMPTY, EINVAL (flags,
            or a directory into itself), ENAMETOOLONG, EROFS.
        Source: POSIX.1-2024 rename(); renameat2(2).
        """
        if flags & ~(RENAME_NOREPLACE | RENAME_EXCHANGE):
            raise FileError(errno.EINVAL)
        old_dir, old_children, node = self._existing(old_id, old_name)
        self.may_change(new_id)
        new_dir = self.directory(new_id)
        new_children = self.nodes.children(new_dir)
        check_name(new_name)
        if not new_dir.nlink:
            raise FileError(errno.ENOENT)
        if self._is_pond_dir(new_id, new_name):
            raise FileError(errno.EBUSY)
        other_id = new_children.get(new_name)
        if other_id is not None and flags & RENAME_NOREPLACE:
            raise FileError(errno.EEXIST)
        if flags & RENAME_EXCHANGE:
            if other_id is None:
                raise FileError(errno.ENOENT)
            self._exchange(old_dir, old_name, node, new_dir, new_name, self.nodes.get(other_id))
            return
        other = None if other_id is None else self.nodes.get(other_id)
        if other is node:
            return  # two names of one file: POSIX wants nothing done
        moving_dir = stat.S_ISDIR(node.mode)
        if moving_dir:
            self._refuse_cycle(node, new_dir)
        if other is not None:
            if stat.S_ISDIR(other.mode):
                if not moving_dir:
                    raise FileError(errno.EISDIR)
                if self.nodes.children(other):
                    raise FileError(errno.ENOTEMPTY)
            elif moving_dir:
                raise FileError(errno.ENOTDIR)
        now = now_ns()
        pending = self.pending
        pending.touch_entry(old_dir, old_name, node)
        pending.touch_entry(new_dir, new_name, other)
        pending.renamed.add((old_dir.id, old_name))
        pending.renamed.add((new_dir.id, new_name))
        del old_children[old_name]
        new_children[new_name] = node.id
        if moving_dir:
            old_dir.nlink -= 1
            new_dir.nlink += 1
        node.parent = new_dir.id
        node.ctime_ns = now
        pending.touch(node)
        for directory in (old_dir, new_dir):
            directory.mtime_ns = directory.ctime_ns = now
            pending.touch(directory)
        if other is not None:
            if stat.S_ISDIR(other.mode):
                new_dir.nlink -= 1
            self._drop_name(other, now)

    def open_directory(self, node_id: NodeId) -> Listing:
        """Begin to list a directory. Raises: FileError ENOTDIR."""
        node = self.directory(node_id)
        node.opens += 1
        return Listing(node)

    def list_names(self, listing: Listing, start: int) -> list[bytes]:
        """Return all names of the listing; from *start* 0 they are taken anew."""
        if start == 0 or listing.names is None:
            self.touch_atime(listing.node)
            listing.names = [b".", b"..", *self.nodes.children(listing.node)]
            if listing.node.id == ROOT and self.options.ponddir == "visible":
                listing.names.append(NAME)
        return listing.names

    def list_entry(self, listing: Listing, name: bytes) -> Node | None:
        """Return the node of a listed name; None when it went meanwhile. Counts no reference."""
        directory, nodes = listing.node, self.nodes
        node_id = (directory.children or nodes.children(directory)).get(name)
        if node_id is not None:
            return nodes.live.get(node_id) or nodes.get(node_id)
        if name == b".":
            return directory
        if name == b"..":
            return nodes.get(directory.parent)
        return nodes.get(POND) if self._is_pond_dir(directory.id, name) else None

    def close_directory(self, listing: Listing) -> None:
        """End a listing."""
        listing.node.opens -= 1
        if listing.names is not None and len(listing.names) >= MANY_NAMES:
            self.nodes.image.release()
        self.drop_if_unused(listing.node)

    def readlink(self, node_id: NodeId) -> bytes:
        """Return a symlink's target. Raises: FileError EINVAL."""
        node = self.nodes.get(node_id)
        if node.target is None:
            raise FileError(errno.EINVAL)
        self.touch_atime(node)
        return node.target

    def forget(self, forgotten: Sequence[tuple[int, int]]) -> None:
        """Take back kernel references: pairs of inode number and count."""
        for node_id, count in forgotten:
            node = self.nodes.live.get(NodeId(node_id))
            if node is not None:
                node.lookups -= count
                self.drop_if_unused(node)

    def _add(self, parent_id: NodeId, name: bytes, mode: int, rdev: int, caller: Caller) -> Node:
        self.may_grow(parent_id)
        parent, children = self._new_name(parent_id, name)
        now = now_ns()
        gid = caller.gid
        is_dir = stat.S_ISDIR(mode)
        if parent.mode & stat.S_ISGID:
            gid = parent.gid
            if is_dir:
                mode |= stat.S_ISGID
        pending = self.pending
        node = self.nodes.add(
            (mode, caller.uid, gid, 2 if is_dir else 1, rdev, 0, now, now, now), parent_id
        )
        if is_dir:
            node.children = {}
            parent.nlink += 1
        if parent.xattrs and self.options.acl:
            acl.inherit(parent, node)
        pending.touch_entry(parent, name, None)
        pending.created.add(node.id)
        children[name] = node.id
        pending.touch(node)
        parent.mtime_ns = parent.ctime_ns = now
        pending.touch(parent)
        return node

    def _new_name(self, parent_id: NodeId, name: bytes) -> tuple[Node, dict[bytes, NodeId]]:
        parent = self.directory(parent_id)
        check_name(name)
        if not parent.nlink:
            raise FileError(errno.ENOENT)
        children = self.nodes.children(parent)
        if name in children or self._is_pond_dir(parent_id, name):
            raise FileError(errno.EEXIST)
        return parent, children

    def _existing(self, parent_id: NodeId, name: bytes) -> tuple[Node, dict[bytes, NodeId], Node]:
        self.may_change(parent_id)
        parent = self.directory(parent_id)
        children = self.nodes.children(parent)
        node_id = children.get(name)
        if node_id is None:
            check_name(name)
            raise FileError(errno.EBUSY if self._is_pond_dir(parent_id, name) else errno.ENOENT)
        return parent, children, self.nodes.get(node_id)

    def _is_pond_dir(self, parent_id: NodeId, name: bytes) -> bool:
        """Whether the entry, which the tree itself does not have, is `.pond/`."""
        return parent_id == ROOT and name == NAME and self.options.ponddir != "off"

    def _drop_name(self, node: Node, now: int) -> None:
        node.ctime_ns = now
        if stat.S_ISDIR(node.mode):
            node.nlink = 0
        else:
            node.nlink -= 1
        if node.nlink:
            self.pending.touch(node)
        else:
            self.pending.unlink(node)

    def _exchange(
        self,
        a_dir: Node,
        a_name: bytes,
        a_node: Node,
        b_dir: Node,
        b_name: bytes,
        b_node: Node,
    ) -> None:
        if stat.S_ISDIR(a_node.mode):
            self._refuse_cycle(a_node, b_dir)
        if stat.S_ISDIR(b_node.mode):
            self._refuse_cycle(b_node, a_dir)
        now = now_ns()
        pending = self.pending
        for directory, name, before, after in (
            (a_dir, a_name, a_node, b_node),
            (b_dir, b_name, b_node, a_node),
        ):
            pending.touch_entry(directory, name, before)
            pending.renamed.add((directory.id, name))
            self.nodes.children(directory)[name] = after.id
            after.parent = directory.id
            after.ctime_ns = now
            pending.touch(after)
            directory.nlink += stat.S_ISDIR(after.mode) - stat.S_ISDIR(before.mode)
            directory.mtime_ns = directory.ctime_ns = now
            pending.touch(directory)

    def _refuse_cycle(self, node: Node, directory: Node) -> None:
        """Refuse to put a directory below itself (the kernel does too; the tree depends on it)."""
        while True:
            if directory is node:
                raise FileError(errno.EINVAL)
            if directory.parent == directory.id:
                return
            directory = self.nodes.get(directory.parent)
