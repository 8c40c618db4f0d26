"""One method per kernel request, each a call to the Vfs.

Nothing is decided here. Requests the kernel can be told not to send (flush, getxattr without
``-o xattr``, access) are answered ENOSYS: once, and it never asks again.
"""

import errno
import os
import stat
from collections.abc import Sequence
from typing import Any

import pyfuse3
from pyfuse3 import EntryAttributes, FileInfo, FUSEError, RequestContext

from pondfs.fuse.convert import converter
from pondfs.fuse.errors import answers
from pondfs.fuse.talk import Answer, Talks, refuse_all
from pondfs.node import PAST, NodeId
from pondfs.options import MountOptions
from pondfs.vfs.attr import Change
from pondfs.vfs.base import Caller
from pondfs.vfs.namespace import Listing
from pondfs.vfs.nodes import Node
from pondfs.vfs.past import AS_THE_ROOT, CONTROL, TAGS, TEXTS, VERSIONS
from pondfs.vfs.past_history import HISTORY, is_history
from pondfs.vfs.vfs import Vfs

HISTORY_BATCH = 64
"""Names of `.pond/history` looked up at once: what fits into a reply to readdir, about."""

HISTORY_TIMEOUT_S = 1.0
"""How long the kernel may believe who may enter a directory there."""


class Operations(pyfuse3.Operations):
    """The kernel's requests."""

    supports_dot_lookup = False

    def __init__(self, vfs: Vfs, options: MountOptions, answer: Answer = refuse_all) -> None:
        super().__init__()
        self._vfs = vfs
        # Their handles are beyond every node's number.
        self.talks = Talks(answer, first_handle=7 << 61)
        self._entry = converter(options)
        self._xattr = options.xattr
        self.enable_acl = options.acl
        # With it the kernel believes its own sizes; on a read-only mount others may change them.
        self.enable_writeback_cache = not options.ro
        self._listings: dict[int, Listing] = {}
        self._next_listing = 1
        self._nothing = EntryAttributes()
        self._nothing.st_ino = 0
        self._nothing.entry_timeout = options.negative_timeout_s

    # --- names ---

    @answers
    async def lookup(self, parent_inode: int, name: bytes, ctx: RequestContext) -> EntryAttributes:
        if parent_inode >= PAST:
            return await self._lookup_past(parent_inode, name)
        node = self._vfs.lookup(NodeId(parent_inode), name)
        return self._nothing if node is None else self._entry(node)

    async def _lookup_past(self, parent_inode: int, name: bytes) -> EntryAttributes:
        past = self._vfs.past
        if is_history(parent_inode):
            return self._history_entry(await past.history.lookup(NodeId(parent_inode), name))
        await past.ready(parent_inode)
        node = self._vfs.lookup(NodeId(parent_inode), name)
        if node is not None:
            return self._past_entry(node)
        node = await past.lookup(parent_inode, name)
        if node is None:
            return self._nothing
        entry = self._entry(node)
        if not past.is_fixed(parent_inode, name):
            entry.entry_timeout = 0
        return entry

    def _past_entry(self, node: Node) -> EntryAttributes:
        entry = self._entry(node)
        if node.id == HISTORY or node.id in AS_THE_ROOT:
            entry.attr_timeout = 0  # it shows whom the live root lets in
        return entry

    def _history_entry(self, node: Node) -> EntryAttributes:
        entry = self._entry(node)
        if stat.S_ISDIR(node.mode):
            # Whom it lets in: what the live root says, or the directory's newest version.
            limit = 0 if node.id == HISTORY else HISTORY_TIMEOUT_S
            entry.attr_timeout = min(entry.attr_timeout, limit)
        return entry

    async def forget(self, inode_list: Sequence[tuple[int, int]]) -> None:
        self._vfs.forget(inode_list)

    @answers
    async def mknod(
        self, parent_inode: int, name: bytes, mode: int, rdev: int, ctx: RequestContext
    ) -> EntryAttributes:
        return self._entry(self._vfs.make(NodeId(parent_inode), name, mode, rdev, _caller(ctx)))

    @answers
    async def mkdir(
        self, parent_inode: int, name: bytes, mode: int, ctx: RequestContext
    ) -> EntryAttributes:
        if parent_inode == TAGS:
            entry = self._entry(await self._vfs.add_tag(name))
            entry.entry_timeout = 0
            return entry
        return self._entry(self._vfs.make(NodeId(parent_inode), name, mode, 0, _caller(ctx)))

    @answers
    async def symlink(
        self, parent_inode: int, name: bytes, target: bytes, ctx: RequestContext
    ) -> EntryAttributes:
        return self._entry(self._vfs.symlink(NodeId(parent_inode), name, target, _caller(ctx)))

    @answers
    async def link(
        self, inode: int, new_parent_inode: int, new_name: bytes, ctx: RequestContext
    ) -> EntryAttributes:
        return self._entry(self._vfs.link(NodeId(inode), NodeId(new_parent_inode), new_name))

    @answers
    async def unlink(self, parent_inode: int, name: bytes, ctx: RequestContext) -> None:
        self._vfs.unlink(NodeId(parent_inode), name)

    @answers
    async def rmdir(self, parent_inode: int, name: bytes, ctx: RequestContext) -> None:
        if parent_inode == TAGS:
            await self._vfs.remove_tag(name)
        else:
            self._vfs.rmdir(NodeId(parent_inode), name)

    @answers
    async def rename(
        self,
        parent_inode_old: int,
        name_old: bytes,
        parent_inode_new: int,
        name_new: bytes,
        flags: int,
        ctx: RequestContext,
    ) -> None:
        self._vfs.rename(
            NodeId(parent_inode_old), name_old, NodeId(parent_inode_new), name_new, flags
        )

    @answers
    async def readlink(self, inode: int, ctx: RequestContext) -> bytes:
        if inode >= PAST:
            await self._vfs.past.ready(inode)
        return self._vfs.readlink(NodeId(inode))

    # --- listing ---

    @answers
    async def opendir(self, inode: int, ctx: RequestContext) -> int:
        if inode >= PAST:
            await self._vfs.past.ready(inode)
        handle = self._next_listing
        self._next_listing += 1
        self._listings[handle] = self._vfs.open_directory(NodeId(inode))
        return handle

    @answers
    async def readdir(self, fh: int, start_id: int, token: pyfuse3.ReaddirToken) -> None:
        vfs, listing = self._vfs, self._listings[fh]
        entry_of = self._entry if listing.node.id < PAST else self._past_entry
        if is_history(listing.node.id):
            await self._list_history(listing, start_id, token)
            return
        if listing.node.id >= PAST:
            await vfs.past.ready(listing.node.id)
            if listing.node.id in (VERSIONS, TAGS):
                await self._list_trees(listing.node.id, start_id, token)
                return
        names = vfs.list_names(listing, start_id)
        reply = pyfuse3.readdir_reply
        for at in range(start_id, len(names)):
            name = names[at]
            node = vfs.list_entry(listing, name)
            if node is None:
                continue
            if not reply(token, name, entry_of(node), at + 1):
                return
            if at >= 2:  # the kernel takes no reference for `.` and `..`
                node.lookups += 1

    async def _list_history(
        self, listing: Listing, start_id: int, token: pyfuse3.ReaddirToken
    ) -> None:
        vfs, directory = self._vfs, listing.node
        history = vfs.past.history
        if start_id == 0 or listing.names is None:
            listing.names = [b".", b"..", *await history.list_names(directory.id)]
        names = listing.names
        for at in range(start_id, min(2, len(names))):
            node = directory if at == 0 else vfs.nodes.get(directory.parent)
            if not pyfuse3.readdir_reply(token, names[at], self._entry(node), at + 1):
                return
        for start in range(max(2, start_id), len(names), HISTORY_BATCH):
            some = names[start : start + HISTORY_BATCH]
            found = await history.find(directory.id, some)
            for at, (name, told) in enumerate(zip(some, found, strict=True), start):
                if told is None:
                    continue
                node = history.node(directory, name, told)
                if not pyfuse3.readdir_reply(token, name, self._history_entry(node), at + 1):
                    vfs.drop_if_unused(node)
                    return
                node.lookups += 1

    async def _list_trees(
        self, directory: NodeId, start_id: int, token: pyfuse3.ReaddirToken
    ) -> None:
        # Only the numbers: what a tree's root looks like is asked when somebody wants to know.
        entry = EntryAttributes()
        entry.st_mode = stat.S_IFDIR | 0o755
        entry.attr_timeout = 0
        entry.entry_timeout = 0
        found = await self._vfs.past.list_trees(directory)
        for at in range(start_id, len(found)):
            name, entry.st_ino = found[at]
            if not pyfuse3.readdir_reply(token, name, entry, at + 1):
                return

    @answers
    async def releasedir(self, fh: int) -> None:
        self._vfs.close_directory(self._listings.pop(fh))

    @answers
    async def fsyncdir(self, fh: int, datasync: bool) -> None:
        await self._vfs.fsync(self._listings[fh].node.id)

    # --- attributes ---

    @answers
    async def getattr(self, inode: int, ctx: RequestContext) -> EntryAttributes:
        if inode >= PAST:
            await self._vfs.past.ready(inode)
        node = self._vfs.getattr(NodeId(inode))
        return self._history_entry(node) if is_history(inode) else self._past_entry(node)

    @answers
    async def setattr(
        self,
        inode: int,
        attr: EntryAttributes,
        fields: pyfuse3.SetattrFields,
        fh: int | None,
        ctx: RequestContext,
    ) -> EntryAttributes:
        change = Change()
        if fields.update_mtime:
            change.mtime_ns = attr.st_mtime_ns
        if fields.update_ctime:
            change.ctime_ns = attr.st_ctime_ns
        if fields.update_atime:
            change.atime_ns = attr.st_atime_ns
        if fields.update_size:
            change.size = attr.st_size
        if fields.update_mode:
            change.mode = attr.st_mode
        if fields.update_uid:
            change.uid = attr.st_uid
        if fields.update_gid:
            change.gid = attr.st_gid
        return self._entry(self._vfs.setattr(NodeId(inode), change))

    @answers
    async def statfs(self, ctx: RequestContext) -> pyfuse3.StatvfsData:
        disk = self._vfs.statfs()
        data = pyfuse3.StatvfsData()
        data.f_bsize = disk.f_bsize
        data.f_frsize = disk.f_frsize
        data.f_blocks = disk.f_blocks
        data.f_bfree = disk.f_bfree
        data.f_bavail = disk.f_bavail
        data.f_files = self._vfs.nodes.count() + disk.f_favail
        data.f_ffree = data.f_favail = disk.f_favail
        data.f_namemax = 255
        return data

    # --- contents ---

    @answers
    async def open(self, inode: int, flags: int, ctx: RequestContext) -> FileInfo:
        if inode >= PAST:
            await self._vfs.past.ready(inode)
            if inode == CONTROL:
                handle = self.talks.open(ctx)
                return FileInfo(fh=handle, direct_io=True, keep_cache=False, nonseekable=True)
            if inode in TEXTS:
                if flags & os.O_ACCMODE:
                    self._vfs.may_change(inode)
                text = await self._vfs.past.open_text(inode)
                # Its size is known only now: the kernel shall believe what is read.
                return FileInfo(fh=text.id, direct_io=True, keep_cache=False)
            await self._vfs.past.history.load(NodeId(inode))
        self._vfs.open(NodeId(inode), flags)
        return FileInfo(fh=inode, keep_cache=True)

    @answers
    async def create(
        self, parent_inode: int, name: bytes, mode: int, flags: int, ctx: RequestContext
    ) -> tuple[FileInfo, EntryAttributes]:
        node = self._vfs.make(NodeId(parent_inode), name, mode, 0, _caller(ctx))
        node.opens += 1
        return FileInfo(fh=node.id, keep_cache=True), self._entry(node)

    @answers
    async def read(self, fh: int, off: int, size: int) -> Any:
        if fh in self.talks:
            return await self.talks.read(fh, size)
        return await self._vfs.read(NodeId(fh), off, size)

    @answers
    async def write(self, fh: int, off: int, buf: bytes) -> int:
        if fh in self.talks:
            return self.talks.write(fh, buf)
        return await self._vfs.write(NodeId(fh), off, buf)

    @answers
    async def fsync(self, fh: int, datasync: bool) -> None:
        await self._vfs.fsync(NodeId(fh))

    @answers
    async def release(self, fh: int) -> None:
        if fh in self.talks:
            self.talks.close(fh)
        else:
            self._vfs.release(NodeId(fh))

    async def flush(self, fh: int) -> None:
        # The kernel writes a closing file's pages back by itself and reports their errors; there
        # is nothing left for us to do.
        raise FUSEError(errno.ENOSYS)

    # --- extended attributes ---

    @answers
    async def getxattr(self, inode: int, name: bytes, ctx: RequestContext) -> bytes:
        if not self._xattr:
            raise FUSEError(errno.ENOSYS)
        if inode >= PAST:
            await self._vfs.past.ready(inode)
        return self._vfs.getxattr(NodeId(inode), name)

    @answers
    async def listxattr(self, inode: int, ctx: RequestContext) -> list[bytes]:
        if not self._xattr:
            raise FUSEError(errno.ENOSYS)
        if inode >= PAST:
            await self._vfs.past.ready(inode)
        return self._vfs.listxattr(NodeId(inode))

    @answers
    async def setxattr(self, inode: int, name: bytes, value: bytes, ctx: RequestContext) -> None:
        if not self._xattr:
            raise FUSEError(errno.ENOSYS)
        self._vfs.setxattr(NodeId(inode), name, value)

    @answers
    async def removexattr(self, inode: int, name: bytes, ctx: RequestContext) -> None:
        if not self._xattr:
            raise FUSEError(errno.ENOSYS)
        self._vfs.removexattr(NodeId(inode), name)


def _caller(ctx: RequestContext) -> Caller:
    return Caller(ctx.uid, ctx.gid, ctx.umask)
