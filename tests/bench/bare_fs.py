"""A bare in-memory pyfuse3 filesystem: what Python and FUSE cost before any storage does.

The benchmark divides pond's rates by this one's, so everything that is *not* storage is done here
as a serious filesystem would do it: the same mount options, writeback cache, long timeouts,
default permissions, real POSIX bookkeeping. Nothing outlives the mount.

What makes it quick:

* the kernel is told everything it may remember (an hour, absences too, page cache kept over
  opens, no flush, no xattrs), so most requests never arrive;
* one `EntryAttributes` and one `FileInfo` live with each node and are handed out as they are;
* content stays the `bytes` pyfuse3 made until somebody changes it, and reads are views of it;
* no handler awaits, so nothing needs a lock; the garbage collector rarely looks.

What then remains, counted on kernel 6.18: mkdir 3 requests (getattr of the parent for
`default_permissions`, lookup, mkdir), create + write + close 6 (getattr, lookup, create, write,
setattr of the times, release), rename 3, unlink 2 and a later setattr, open + read + close 2.

Usage: ``python tests/bench/bare_fs.py MOUNTPOINT [--spin-us N]``; prints ``ready`` once it
answers, ends on unmount, SIGTERM or SIGINT.
"""

from __future__ import annotations

import argparse
import errno
import gc
import os
import signal
import stat
import sys
from collections.abc import Sequence
from pathlib import Path

import pyfuse3
import trio
from pyfuse3 import (
    EntryAttributes,
    FileHandleT,
    FileInfo,
    FileNameT,
    FlagT,
    InodeT,
    ModeT,
    ReaddirToken,
    RequestContext,
    SetattrFields,
    StatvfsData,
    XAttrNameT,
)

if __name__ == "__main__":  # run by its path: Python has put this folder first, not the repository
    sys.path[0] = str(Path(__file__).resolve().parents[2])

from pondfs.fuse import loop
from tests.bench.bare_nodes import NAME_MAX, TIMEOUT_S, Node, Tree, fail

READ_AHEAD_KIB = 1024  # the kernel's default of 128 cuts sequential reads into eight times as many
GC_THRESHOLD = (100_000, 50, 1000)  # nodes live long: looking at them again finds nothing
OPTIONS = pyfuse3.default_options | {"fsname=bare", "subtype=bare"}


class Bare(pyfuse3.Operations):
    """The kernel's requests, carried to a `Tree`."""

    supports_dot_lookup = False
    enable_writeback_cache = True
    enable_acl = False

    def __init__(self) -> None:
        super().__init__()
        self.tree = Tree()
        self.nodes = self.tree.nodes
        self.listings: dict[int, tuple[int, list[tuple[bytes, Node]]]] = {}
        self.next_listing = 1
        # The answer for every missing name: inode 0 with a timeout lets the kernel remember
        # the absence, where ENOENT would be asked again each time.
        self.absent = EntryAttributes()
        self.absent.st_ino = InodeT(0)
        self.absent.entry_timeout = self.absent.attr_timeout = TIMEOUT_S

    # -- names ------------------------------------------------------------------------------

    async def lookup(
        self, parent_inode: InodeT, name: FileNameT, ctx: RequestContext
    ) -> EntryAttributes:
        node = self.tree.children_of(parent_inode).get(name)
        if node is None:
            if len(name) > NAME_MAX:
                fail(errno.ENAMETOOLONG)
            return self.absent
        node.lookups += 1
        return node.attr

    async def forget(self, inode_list: Sequence[tuple[InodeT, int]]) -> None:
        for ino, count in inode_list:
            self.tree.forget(ino, count)

    async def mkdir(
        self, parent_inode: InodeT, name: FileNameT, mode: ModeT, ctx: RequestContext
    ) -> EntryAttributes:
        return self.tree.add(parent_inode, name, mode, ctx.uid, ctx.gid).attr

    async def mknod(
        self, parent_inode: InodeT, name: FileNameT, mode: ModeT, rdev: int, ctx: RequestContext
    ) -> EntryAttributes:
        attr = self.tree.add(parent_inode, name, mode, ctx.uid, ctx.gid).attr
        attr.st_rdev = rdev
        return attr

    async def symlink(
        self, parent_inode: InodeT, name: FileNameT, target: FileNameT, ctx: RequestContext
    ) -> EntryAttributes:
        node = self.tree.add(parent_inode, name, stat.S_IFLNK | 0o777, ctx.uid, ctx.gid)
        node.write(0, target)
        return node.attr

    async def readlink(self, inode: InodeT, ctx: RequestContext) -> FileNameT:
        return FileNameT(bytes(self.nodes[inode].content))

    async def link(
        self, inode: InodeT, new_parent_inode: InodeT, new_name: FileNameT, ctx: RequestContext
    ) -> EntryAttributes:
        node = self.nodes[inode]
        self.tree.link(node, new_parent_inode, new_name)
        return node.attr

    async def unlink(self, parent_inode: InodeT, name: FileNameT, ctx: RequestContext) -> None:
        self.tree.remove(parent_inode, name, directory=False)

    async def rmdir(self, parent_inode: InodeT, name: FileNameT, ctx: RequestContext) -> None:
        self.tree.remove(parent_inode, name, directory=True)

    async def rename(
        self,
        parent_inode_old: InodeT,
        name_old: FileNameT,
        parent_inode_new: InodeT,
        name_new: FileNameT,
        flags: FlagT,
        ctx: RequestContext,
    ) -> None:
        self.tree.rename(parent_inode_old, name_old, parent_inode_new, name_new, flags)

    # -- attributes -------------------------------------------------------------------------

    async def getattr(self, inode: InodeT, ctx: RequestContext | None = None) -> EntryAttributes:
        return self.nodes[inode].attr

    async def setattr(
        self,
        inode: InodeT,
        attr: EntryAttributes,
        fields: SetattrFields,
        fh: FileHandleT | None,
        ctx: RequestContext,
    ) -> EntryAttributes:
        node = self.nodes[inode]
        mine = node.attr
        if fields.update_size:
            node.truncate(attr.st_size)
        if fields.update_mtime:
            mine.st_mtime_ns = attr.st_mtime_ns
        if fields.update_atime:
            mine.st_atime_ns = attr.st_atime_ns
        if fields.update_mode:
            mine.st_mode = ModeT(stat.S_IFMT(mine.st_mode) | stat.S_IMODE(attr.st_mode))
        if fields.update_uid:
            mine.st_uid = attr.st_uid
        if fields.update_gid:
            mine.st_gid = attr.st_gid
        # With the writeback cache the kernel keeps ctime and sends it together with mtime.
        mine.st_ctime_ns = attr.st_ctime_ns
        return mine

    async def getxattr(self, inode: InodeT, name: XAttrNameT, ctx: RequestContext) -> bytes:
        fail(errno.ENOSYS)  # once; otherwise security.capability is asked before every write

    async def statfs(self, ctx: RequestContext) -> StatvfsData:
        stats = StatvfsData()
        stats.f_bsize = stats.f_frsize = 4096
        stats.f_blocks = stats.f_bfree = stats.f_bavail = 1 << 24
        stats.f_files = stats.f_ffree = stats.f_favail = 1 << 24
        stats.f_namemax = NAME_MAX
        return stats

    # -- content ----------------------------------------------------------------------------

    async def open(self, inode: InodeT, flags: FlagT, ctx: RequestContext) -> FileInfo:
        node = self.nodes[inode]
        if flags & os.O_TRUNC:  # libfuse asks for atomic O_TRUNC, so no setattr comes
            node.truncate(0)
        return node.info

    async def create(
        self,
        parent_inode: InodeT,
        name: FileNameT,
        mode: ModeT,
        flags: FlagT,
        ctx: RequestContext,
    ) -> tuple[FileInfo, EntryAttributes]:
        node = self.tree.add(parent_inode, name, mode, ctx.uid, ctx.gid)
        return node.info, node.attr

    async def read(  # type: ignore[override]  # pyfuse3 takes any buffer; a view copies nothing
        self, fh: FileHandleT, off: int, size: int
    ) -> bytes | bytearray | memoryview:
        content = self.nodes[fh].content
        if off == 0 and size >= len(content):
            return content
        return memoryview(content)[off : off + size]

    async def write(self, fh: FileHandleT, off: int, buf: bytes) -> int:
        return self.nodes[fh].write(off, buf)

    async def flush(self, fh: FileHandleT) -> None:
        fail(errno.ENOSYS)  # once; saves a request for each close

    async def release(self, fh: FileHandleT) -> None:
        pass

    async def fsync(self, fh: FileHandleT, datasync: bool) -> None:
        pass

    # -- listings ---------------------------------------------------------------------------

    async def opendir(self, inode: InodeT, ctx: RequestContext) -> FileHandleT:
        fh = self.next_listing
        self.next_listing = fh + 1
        self.listings[fh] = (inode, [])
        return FileHandleT(fh)

    async def readdir(self, fh: FileHandleT, start_id: int, token: ReaddirToken) -> None:
        ino, listing = self.listings[fh]
        if start_id == 0:  # the start, or a rewinddir, which must see new entries
            listing = list(self.tree.children_of(ino).items())
            self.listings[fh] = (ino, listing)
        reply = pyfuse3.readdir_reply
        for position in range(start_id, len(listing)):
            name, node = listing[position]
            if not reply(token, FileNameT(name), node.attr, position + 1):
                break
            node.lookups += 1  # readdirplus holds a lookup for each entry it delivered

    async def releasedir(self, fh: FileHandleT) -> None:
        del self.listings[fh]

    async def fsyncdir(self, fh: FileHandleT, datasync: bool) -> None:
        pass


def raise_read_ahead(mountpoint: Path) -> None:
    """Let the kernel read 1 MiB ahead, where the caller may change that (root only)."""
    device = mountpoint.stat().st_dev
    knob = Path(f"/sys/class/bdi/{os.major(device)}:{os.minor(device)}/read_ahead_kb")
    try:
        knob.write_text(str(READ_AHEAD_KIB))
    except OSError as error:
        print(f"bare_fs: read-ahead stays at the default: {error}", file=sys.stderr)


async def serve(mountpoint: Path) -> None:
    """Answer requests until the kernel unmounts, or SIGTERM or SIGINT arrives."""

    async def announce() -> None:
        # In a thread: the stat inside is answered by this very process. After the loop started:
        # the kernel sets the read-ahead once more when it gets the answer to INIT.
        await trio.to_thread.run_sync(raise_read_ahead, mountpoint)
        print("ready", flush=True)

    async def stop_on_signal() -> None:
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
            async for _ in signals:
                pyfuse3.terminate()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(announce)
        nursery.start_soon(stop_on_signal)
        await pyfuse3.main()
        nursery.cancel_scope.cancel()


def main() -> None:
    """Mount on the first argument and serve."""
    parser = argparse.ArgumentParser(description="A bare in-memory pyfuse3 filesystem.")
    parser.add_argument("mountpoint", type=Path)
    parser.add_argument("--spin-us", type=float, help="look for requests this long before sleeping")
    arguments = parser.parse_args()
    if arguments.spin_us is not None:
        loop.install(arguments.spin_us / 1e6)
    pyfuse3.init(Bare(), str(arguments.mountpoint), set(OPTIONS))
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLD)
    try:
        trio.run(serve, arguments.mountpoint)
    finally:
        pyfuse3.close()


if __name__ == "__main__":
    main()
