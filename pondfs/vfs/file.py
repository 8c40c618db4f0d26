"""File contents: open, read, write, fsync, release."""

import errno
import os
import stat

from pondfs.errors import FileError
from pondfs.extent import Content, Extent
from pondfs.node import MAX_FILE_SIZE, NodeId
from pondfs.vfs import offload
from pondfs.vfs.attr import Attributes
from pondfs.vfs.base import now_ns
from pondfs.vfs.nodes import Node

ROOM_STEP_BYTES = 16 << 20
"""How much is written between two looks at the store's free space."""


class Files(Attributes):
    """The operations on bytes. A file handle is the node's id: handles need no state of their own,
    as the kernel keeps offsets and flags.
    """

    _room_bytes = 0

    def open(self, node_id: NodeId, flags: int) -> Node:
        """Open a file. The kernel has checked permissions; O_TRUNC comes in *flags*.

        Raises: FileError EROFS, ENOSPC.
        """
        node = self.nodes.get(node_id)
        if flags & os.O_TRUNC and node.size:
            self.may_change()
            self.truncate(node, 0)
            node.mtime_ns = node.ctime_ns = now_ns()
            self.pending.touch(node)
        if flags & os.O_ACCMODE != os.O_WRONLY and not flags & os.O_NOATIME:
            self.touch_atime(node)
        node.opens += 1
        return node

    def release(self, node_id: NodeId) -> None:
        """Close a handle; the last one of a nameless node frees its bytes."""
        node = self.nodes.live.get(node_id)
        if node is None:
            return
        node.opens -= 1
        if not node.opens:
            if not node.nlink:
                self.pending.discard(node)
            self.nodes.drop_if_unused(node)

    async def read(self, node_id: NodeId, offset: int, length: int) -> bytes | memoryview:
        """Return up to *length* bytes; fewer only at the end of the file.

        Yields: while the disk is read; a truncate meanwhile may make the answer old, as with any
            read that overlaps a write.
        Raises: OSError, StoreDamaged.
        """
        node = self.nodes.live.get(node_id) or self.nodes.get(node_id)
        length = min(length, node.size - offset)
        if length <= 0:
            return b""
        extents = (node.extents or self.nodes.extents(node)).find(offset, length)
        if len(extents) == 1:
            extent = extents[0]
            skip = offset - extent.offset
            if skip >= 0 and extent.length - skip >= length:
                return await self._read_content(extent.content, extent.skip + skip, length)
        buffer = bytearray(length)
        for extent in extents:
            start = max(extent.offset, offset)
            stop = min(extent.offset + extent.length, offset + length)
            buffer[start - offset : stop - offset] = await self._read_content(
                extent.content, extent.skip + start - extent.offset, stop - start
            )
        return memoryview(buffer)

    async def _read_content(self, content: Content, skip: int, length: int) -> bytes | memoryview:
        data = content.data
        if data is not None:
            return memoryview(data)[skip : skip + length]
        found = self.store.read_nowait(content, skip, length)
        if found is not None:
            return found
        return await offload.run(self.store.read, content, skip, length)

    async def write(self, node_id: NodeId, offset: int, data: bytes) -> int:
        """Put *data* at *offset*; it is in memory on return, durable after a commit.

        Yields: while pending content is at its limit.
        Raises: FileError EFBIG, ENOSPC, EROFS, or the errno of a failing commit.
        """
        length = len(data)
        if offset + length > MAX_FILE_SIZE:
            raise FileError(errno.EFBIG)
        self.may_grow()
        pending = self.pending
        if pending.bytes + pending.inflight >= self.options.max_pending_bytes:
            await self.committer.wait_for_room()
        self._room_bytes -= length
        if self._room_bytes < 0:
            self._check_room(length)
        # no await between here and the end: extents, size and accounting change together
        node = self.nodes.live.get(node_id) or self.nodes.get(node_id)
        content = Content(data, length, offset)
        extents = node.extents
        if extents is None:
            extents = self.nodes.extents(node)
        freed = extents.write(Extent(offset, length, content))
        node.fresh.append(content)
        pending.bytes += length - freed
        if offset + length > node.size:
            node.size = offset + length
        node.mtime_ns = node.ctime_ns = now_ns()
        pending.touch(node)
        if pending.bytes >= self.committer.stage_at_bytes:
            self.committer.wake()
        return length

    async def fsync(self, node_id: NodeId) -> None:
        """Make everything applied so far durable: one commit, shared by all who wait.

        A nameless file has nothing that could survive, so its fsync is done at once.

        Durability: on return the version is on disk (Delta commit, fsynced).
        Raises: CommitFailed with the disk's errno.
        """
        node = self.nodes.live.get(node_id)
        if node is not None and not node.nlink and not stat.S_ISDIR(node.mode):
            return
        await self.committer.commit()

    def _check_room(self, length: int) -> None:
        """Refuse content that the store's disk has no room for, before it is accepted.

        What is accepted is thereby nearly certain to fit, so a full disk is an ENOSPC at write
        (or close), not bytes that are stuck in memory.
        """
        disk = self.store.statvfs()
        free = disk.f_bavail * disk.f_frsize
        # Rows and their log entry cost beside the bytes: 2 % and a floor, measured generously.
        room = free - self.pending.memory_bytes * 102 // 100 - (1 << 20)
        if room < length:
            raise FileError(errno.ENOSPC)
        self._room_bytes = min(room, ROOM_STEP_BYTES) - length
