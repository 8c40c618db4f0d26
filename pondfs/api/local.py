"""Operations by path on a tree that runs in this process, as the kernel would do them.

What the kernel does for a mounted pond before it asks the daemon is done here: walking paths,
checking flags, stamping times. Permissions are not checked: who has the store has all of it.
"""

import errno
import os
import stat
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from pondfs.api.paths import Spot, check_regular, fail, find
from pondfs.errors import CommitFailed
from pondfs.node import PAST, ROOT, NodeId
from pondfs.store.tree import NodeStat
from pondfs.vfs.attr import Change
from pondfs.vfs.base import Caller, now_ns
from pondfs.vfs.file import BUFFER_BYTES
from pondfs.vfs.namespace import RENAME_NOREPLACE
from pondfs.vfs.nodes import Node
from pondfs.vfs.vfs import Vfs

DIRECTORIES_KEPT = 256
"""Directories whose entries stay at hand, as paths lead through the same ones again and again."""

_NEW_FILE_BITS = 0o7777
_NEW_DIRECTORY_BITS = 0o1777
_NEW_TYPES = (stat.S_IFREG, stat.S_IFIFO, stat.S_IFSOCK, stat.S_IFCHR, stat.S_IFBLK)

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Opened:
    """An open file: whose, and how. *append*: every write goes to the end."""

    node: NodeId
    readable: bool
    writable: bool
    append: bool


class LocalTree:
    """A `Vfs` by paths. Every method belongs on the trio thread. Implements `paths.Steps`.

    Methods raise OSError and FileError without a path; `CommitFailed` when pending content can't
    be staged.
    """

    def __init__(self, vfs: Vfs, live_at: bytes | None) -> None:
        """Work on *vfs*; see `paths.find` for *live_at*."""
        self.vfs = vfs
        self._live_at = live_at
        # Nodes the operation has looked at, and directories held as the kernel would hold them.
        self._seen: list[Node] = []
        self._kept: OrderedDict[NodeId, Node] = OrderedDict()

    def run(self, function: Callable[[], T]) -> T:
        """Call *function*, one operation, and let go of the nodes it looked at."""
        try:
            return function()
        finally:
            seen, self._seen = self._seen, []
            for node in seen:
                self.vfs.drop_if_unused(node)

    # --- walking ---

    def find(self, path: bytes, *, last: bool = False) -> Spot[Node]:
        """Return where *path* leads. See `paths.find`."""
        return find(self, path, last=last, live_at=self._live_at)

    def root(self) -> Node:
        """Return the root."""
        return self.vfs.nodes.get(ROOT)

    def child(self, directory: Node, name: bytes) -> Node | None:
        """Return what has *name* in a directory; None for nothing."""
        self._keep(directory)
        node = self.vfs.lookup(directory.id, name)
        if node is not None:
            node.lookups -= 1
            self._seen.append(node)
        return node

    def mode(self, node: Node) -> int:
        """Return the type and permissions."""
        return node.mode

    def target(self, node: Node) -> bytes:
        """Return a symlink's target."""
        return self.vfs.readlink(node.id)

    def is_reserved(self, node: Node) -> bool:
        """Return whether it is ``.pond``."""
        return node.id >= PAST

    def _keep(self, directory: Node) -> None:
        """Hold a directory until others were used since."""
        kept = self._kept
        if directory.id not in kept:
            kept[directory.id] = directory
            directory.lookups += 1
            if len(kept) > DIRECTORIES_KEPT:
                oldest, _ = kept.popitem(last=False)
                self.vfs.forget([(oldest, 1)])
        else:
            kept.move_to_end(directory.id)

    # --- looking ---

    def lstat(self, path: bytes) -> NodeStat:
        """Return what is at *path*."""
        return stat_of(self.find(path).existing())

    def listdir(self, path: bytes) -> list[bytes]:
        """Return a directory's names, sorted."""
        node = self.find(path).existing()
        names = sorted(self.vfs.nodes.children(node))
        self.vfs.touch_atime(node)
        return names

    def readlink(self, path: bytes) -> bytes:
        """Return a symlink's target."""
        return self.target(self.find(path).existing())

    def xattrs(self, path: bytes) -> dict[bytes, bytes]:
        """Return the extended attributes."""
        return dict(self.find(path).existing().xattrs or {})

    # --- names ---

    def mkdir(self, path: bytes, mode: int, caller: Caller) -> None:
        """Make a directory."""
        self._make(self.find(path), stat.S_IFDIR | mode & _NEW_DIRECTORY_BITS, 0, caller)

    def mknod(self, path: bytes, mode: int, rdev: int, caller: Caller) -> None:
        """Make what *mode* says; an empty file when it names no type."""
        kind = stat.S_IFMT(mode) or stat.S_IFREG
        if kind not in _NEW_TYPES:
            raise fail(errno.EPERM if kind == stat.S_IFDIR else errno.EINVAL)
        rdev = rdev if kind in (stat.S_IFCHR, stat.S_IFBLK) else 0
        self._make(self.find(path), kind | mode & _NEW_FILE_BITS, rdev, caller)

    def _make(self, spot: Spot[Node], mode: int, rdev: int, caller: Caller) -> Node:
        mode &= ~caller.umask
        node = self.vfs.make(spot.directory.id, spot.new_name(), mode, rdev, caller)
        return self._let_go(node)

    def symlink(self, target: bytes, path: bytes, caller: Caller) -> None:
        """Make a symlink."""
        if not target:
            raise fail(errno.ENOENT)
        if b"\0" in target:
            raise OSError(errno.EINVAL, "a symlink's target has no NUL byte")
        spot = self.find(path)
        self._let_go(self.vfs.symlink(spot.directory.id, spot.new_name(), target, caller))

    def link(self, old: bytes, new: bytes) -> None:
        """Give a file another name."""
        node, spot = self.find(old).existing(), self.find(new)
        self._let_go(self.vfs.link(node.id, spot.directory.id, spot.new_name()))

    def _let_go(self, node: Node) -> Node:
        """Give back the reference that was counted for the kernel."""
        node.lookups -= 1
        self._seen.append(node)
        return node

    def unlink(self, path: bytes) -> None:
        """Remove the name of anything but a directory."""
        spot = self.find(path)
        self.vfs.unlink(spot.directory.id, spot.removable_name())

    def rmdir(self, path: bytes) -> None:
        """Remove an empty directory."""
        spot = self.find(path)
        self.vfs.rmdir(spot.directory.id, spot.removable_name())

    def rename(self, old: bytes, new: bytes, flags: int) -> None:
        """Move, as renameat2(2) with *flags*."""
        was, spot = self.find(old), self.find(new)
        name = was.removable_name()
        if not spot.name or spot.reserved:
            raise fail(errno.EEXIST if flags & RENAME_NOREPLACE else errno.EBUSY)
        self.vfs.rename(was.directory.id, name, spot.directory.id, spot.name, flags)

    # --- attributes ---

    def chmod(self, path: bytes, mode: int) -> None:
        """Set the permission bits."""
        node = self.find(path).existing()
        if stat.S_ISLNK(node.mode):
            raise fail(errno.EOPNOTSUPP)
        self.vfs.setattr(node.id, Change(mode=mode))

    def chown(self, path: bytes, uid: int, gid: int) -> None:
        """Set the owner; what is no directory loses its suid bits, as the kernel has it."""
        node = self.find(path).existing()
        if not (-1 <= uid < 1 << 32 and -1 <= gid < 1 << 32):
            raise fail(errno.EINVAL)
        change = Change(uid=None if uid == -1 else uid, gid=None if gid == -1 else gid)
        if not stat.S_ISDIR(node.mode) and (mode := _without_suid(node.mode)) != node.mode:
            change.mode = mode
        self.vfs.setattr(node.id, change)

    def utime(self, path: bytes, atime_ns: int, mtime_ns: int) -> None:
        """Set the times."""
        node = self.find(path).existing()
        self.vfs.setattr(node.id, Change(atime_ns=atime_ns, mtime_ns=mtime_ns))

    def setxattr(self, path: bytes, name: bytes, value: bytes) -> None:
        """Set an extended attribute."""
        if b"\0" in name:
            raise OSError(errno.EINVAL, "an attribute's name has no NUL byte")
        self.vfs.setxattr(self._with_xattr(path, name).id, name, value)

    def removexattr(self, path: bytes, name: bytes) -> None:
        """Remove an extended attribute."""
        self.vfs.removexattr(self._with_xattr(path, name).id, name)

    def _with_xattr(self, path: bytes, name: bytes) -> Node:
        """Return the node. Only files and directories have ``user.`` attributes (xattr(7))."""
        node = self.find(path).existing()
        has_user = stat.S_ISREG(node.mode) or stat.S_ISDIR(node.mode)
        if name.startswith(b"user.") and not has_user:
            raise fail(errno.EPERM)
        return node

    # --- files ---

    def open(self, path: bytes, flags: int, mode: int, caller: Caller) -> Opened:
        """Open a regular file. See `backend.Backend.open`."""
        makes_new = flags & os.O_CREAT and flags & os.O_EXCL
        spot = self.find(path, last=not (makes_new or flags & os.O_NOFOLLOW))
        node = spot.node
        if makes_new:
            spot.new_name()
        if node is None:
            if not flags & os.O_CREAT:
                raise fail(errno.ENOENT)
            new_mode = stat.S_IFREG | mode & _NEW_FILE_BITS
            node = self._make(spot, new_mode, 0, caller)
        elif spot.reserved:
            raise fail(errno.EISDIR)
        check_regular(node.mode)
        if flags & os.O_DIRECTORY:
            raise fail(errno.ENOTDIR)
        if flags & os.O_TRUNC and node.size:
            self._strip_suid(node, caller)
        self.vfs.open(node.id, flags)
        access = flags & os.O_ACCMODE
        return Opened(
            node.id, access != os.O_WRONLY, access != os.O_RDONLY, bool(flags & os.O_APPEND)
        )

    async def pread(self, opened: Opened, length: int, offset: int) -> bytes:
        """Return up to *length* bytes; fewer only at the end of the file."""
        if not opened.readable:
            raise fail(errno.EBADF)
        if length < 0 or offset < 0:
            raise fail(errno.EINVAL)
        pieces: list[bytes] = []
        while length > 0:
            # A copy at once: the answer's memory is used again.
            data = bytes(await self.vfs.read(opened.node, offset, min(length, BUFFER_BYTES)))
            if not data:
                break
            pieces.append(data)
            offset += len(data)
            length -= len(data)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    async def pwrite(self, opened: Opened, data: memoryview, offset: int, caller: Caller) -> int:
        """Write all of *data*, in pieces as the kernel's; return its length."""
        if not opened.writable:
            raise fail(errno.EBADF)
        if offset < 0:
            raise fail(errno.EINVAL)
        node = self.vfs.nodes.get(opened.node)
        for at in range(0, len(data), BUFFER_BYTES):
            piece = bytes(data[at : at + BUFFER_BYTES])
            try:
                await self.vfs.write(node.id, node.size if opened.append else offset + at, piece)
            except CommitFailed as error:
                raise OSError(error.errno, str(error)) from None
            self._strip_suid(node, caller)
            node.mtime_ns = node.ctime_ns = now_ns()
            self.vfs.pending.touch(node)
        return len(data)

    def truncate(self, opened: Opened, size: int, caller: Caller) -> None:
        """Set the size."""
        if not opened.writable or size < 0:
            raise fail(errno.EINVAL)
        self._strip_suid(self.vfs.nodes.get(opened.node), caller)
        self.vfs.setattr(opened.node, Change(size=size))

    def fstat(self, opened: Opened) -> NodeStat:
        """Return what is open."""
        return stat_of(self.vfs.nodes.get(opened.node))

    def release(self, opened: Opened) -> None:
        """Close an open file."""
        self.vfs.release(opened.node)

    def _strip_suid(self, node: Node, caller: Caller) -> None:
        """Take the suid bits off what anybody but root writes to (file_remove_privs in fs/inode.c).

        The node is touched by whoever called.
        """
        if caller.uid:
            node.mode = _without_suid(node.mode)


def _without_suid(mode: int) -> int:
    mode &= ~stat.S_ISUID
    return mode & ~stat.S_ISGID if mode & stat.S_IXGRP else mode


def stat_of(node: Node) -> NodeStat:
    """Return what ``lstat`` says of a live node."""
    extents = node.extents
    return NodeStat(
        node.id, node.mode, node.uid, node.gid, node.nlink, node.rdev, node.size,
        node.allocated_bytes if extents is None else extents.allocated_bytes,
        node.atime_ns, node.mtime_ns, node.ctime_ns,
    )  # fmt: skip
