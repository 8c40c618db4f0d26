"""File contents: open, read, write, fsync, release."""

import errno
import os
import stat
import time

import trio

from pondfs.errors import FileError, StoreDamaged
from pondfs.extent import Content, Extent
from pondfs.interfaces import Store
from pondfs.node import MAX_FILE_SIZE, NodeId
from pondfs.vfs import offload
from pondfs.vfs.attr import Attributes
from pondfs.vfs.base import VfsOptions, now_ns
from pondfs.vfs.nodes import Node

ROOM_STEP_BYTES = 16 << 20
"""How much is written between two looks at the store's free space."""

BUFFER_BYTES = 1 << 20
SPARE_BUFFERS = 8
"""Read buffers kept for the next read: FUSE's largest request, and as many as a few sequential
readers have under way. A fresh megabyte costs more in page faults than the read itself."""

DAMAGED_AT_MOST = 1000
"""Paths of files with damaged bytes that are remembered."""

AHEAD_FROM_BYTES = 128 << 10
"""Only requests of this size look like a sequential reader (the kernel's least read-ahead)."""

AHEAD_BYTES = 32 << 20
"""How far the disk is sent ahead of a sequential reader."""


class Files(Attributes):
    """The operations on bytes. A file handle is the node's id: handles need no state of their own,
    as the kernel keeps offsets and flags.
    """

    def __init__(self, store: Store, options: VfsOptions) -> None:
        super().__init__(store, options)
        self._room_bytes = 0
        self._buffers: list[bytearray] = []
        # What was said of files that could not be read; a look for their names takes its time.
        self._damaged: dict[NodeId, str] = {}
        # Of each file read in large pieces: where its reader is, and how far the disk was sent.
        self._readers: dict[NodeId, tuple[int, int]] = {}

    def open(self, node_id: NodeId, flags: int) -> Node:
        """Open a file. The kernel has checked permissions; O_TRUNC comes in *flags*.

        Raises: FileError EROFS, ENOSPC.
        """
        node = self.nodes.get(node_id)
        if flags & (os.O_ACCMODE | os.O_TRUNC) != os.O_RDONLY:
            self.may_change(node_id)
        if flags & os.O_TRUNC and node.size:
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
            self._readers.pop(node_id, None)
            self.drop_if_unused(node)

    async def read(
        self, node_id: NodeId, offset: int, length: int, again: bool = True
    ) -> bytes | memoryview:
        """Return up to *length* bytes; fewer only at the end of the file.

        The answer is good until the caller's next await: its memory is used again.

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
            data = extent.content.data
            if data is not None and skip >= 0 and extent.length - skip >= length:
                return memoryview(data)[extent.skip + skip : extent.skip + skip + length]
        if length >= AHEAD_FROM_BYTES:
            self._read_ahead(node, offset, length)
        missing: list[tuple[Content, int, memoryview]] = []
        read_nowait = self.store.read_nowait
        buffer = self._buffers.pop() if self._buffers else bytearray(BUFFER_BYTES)
        if length > len(buffer):
            buffer = bytearray(length)
        whole = memoryview(buffer)[:length]
        at = 0
        for extent in extents:
            start = max(extent.offset - offset, 0)
            stop = min(extent.offset + extent.length - offset, length)
            if at < start:
                whole[at:start] = bytes(start - at)  # a hole
            at = stop
            target = whole[start:stop]
            skip = extent.skip + offset + start - extent.offset
            content = extent.content
            data = content.data
            if data is not None:
                target[:] = data[skip : skip + stop - start]
            elif missing or not read_nowait(content, skip, target):
                # Once something has to be waited for, so can the rest be, all at once.
                missing.append((content, skip, target))
        if at < length:
            whole[at:] = bytes(length - at)
        if missing:
            try:
                await offload.run(self._read_missing, missing)
            except StoreDamaged as error:
                if self.look_again is None or not again:
                    raise StoreDamaged(f"{error}{self._needed_for(node)}") from None
                await self.look_again(node_id)
                return await self.read(node_id, offset, length, again=False)
            except OSError as error:
                said = f"{error.strerror}{self._needed_for(node)}"
                raise OSError(error.errno, said, error.filename) from None
        if len(self._buffers) < SPARE_BUFFERS:
            self._buffers.append(buffer)
        return whole

    def _needed_for(self, node: Node) -> str:
        """Return what to say of which file a damaged data file was read for."""
        path = self._damaged.get(node.id)
        if path is None:
            if len(self._damaged) >= DAMAGED_AT_MOST:
                self._damaged.clear()
            found = self.nodes.find_path(node)
            path = "" if found is None else f" (needed for {os.fsdecode(found)!a})"
            self._damaged[node.id] = path
        return path

    def _read_missing(self, missing: list[tuple[Content, int, memoryview]]) -> None:
        if len(missing) == 1:
            self.store.read(*missing[0])
        else:
            self.store.read_many(missing)

    def _read_ahead(self, node: Node, offset: int, length: int) -> None:
        """Have the disk read on where a sequential reader will be next.

        The kernel reads ahead only as far as it trusts one file; we know more, as what lies behind
        is one data file or many. Nobody waits for it, and a failure will show when it is read.
        """
        end = offset + length
        expected, ahead = self._readers.get(node.id, (0, 0))
        # Requests of one reader overtake each other: near the expected place is sequential enough.
        if not expected - AHEAD_BYTES <= offset <= expected + AHEAD_BYTES:
            self._readers[node.id] = (end, end)
            return
        if end + AHEAD_BYTES // 2 <= ahead or end >= node.size:
            self._readers[node.id] = (end, ahead)
            return
        start, stop = max(end, ahead), min(end + AHEAD_BYTES, node.size)
        self._readers[node.id] = (end, stop)
        wanted = [
            (extent.content, extent.skip, extent.length)
            for extent in self.nodes.extents(node).find(start, stop - start)
            if extent.content.data is None
        ]
        if wanted:
            trio.lowlevel.start_thread_soon(lambda: self.store.prefetch(wanted), lambda _: None)

    async def write(self, node_id: NodeId, offset: int, data: bytes) -> int:
        """Put *data* at *offset*; it is in memory on return, durable after a commit.

        Yields: while pending content is at its limit.
        Raises: FileError EFBIG, ENOSPC, EROFS, or the errno of a failing commit.
        """
        length = len(data)
        if offset + length > MAX_FILE_SIZE:
            raise FileError(errno.EFBIG)
        self.may_grow(node_id)
        pending = self.pending
        if not self.committer.has_room:
            await self.committer.wait_for_room()
        self.take_room(length)
        # no await between here and the end: extents, size and accounting change together
        node = self.nodes.live.get(node_id) or self.nodes.get(node_id)
        content = Content(data, length, offset)
        extents = node.extents
        if extents is None:
            extents = self.nodes.extents(node)
        freed = extents.write(Extent(offset, length, content))
        node.fresh.append(content)
        pending.bytes += length
        if freed:
            pending.freed(freed)
        if offset + length > node.size:
            node.size = offset + length
        # No time is set: with the writeback cache the kernel stamps the write(2) itself and tells
        # by setattr, unless nothing changed. A stamp from here, later than its own, would be news
        # to it only after a remount.
        pending.touch(node)
        if self.committer.wants_content:
            self.committer.wake()
        return length

    async def fsync(self, node_id: NodeId) -> None:
        """Make everything applied so far durable: one version, shared by all who wait.

        A nameless file has nothing that could survive, so its fsync is done at once.

        Durability: on return the version is on disk: in the journal, or in a Delta commit.
        Raises: CommitFailed with the disk's errno.
        """
        node = self.nodes.live.get(node_id)
        if node is not None and not node.nlink and not stat.S_ISDIR(node.mode):
            return
        await self.committer.commit(publish=False)
        self.committer.totals.last_fsync = time.time()

    def take_room(self, length: int) -> None:
        """Count *length* bytes that are about to be accepted. Raises: FileError ENOSPC."""
        self._room_bytes -= length
        if self._room_bytes < 0:
            self._check_room(length)

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
