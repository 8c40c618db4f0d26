"""Nodes as pyfuse3 wants them."""

import stat
from collections.abc import Callable

from pyfuse3 import EntryAttributes

from pondfs.options import MountOptions
from pondfs.vfs.nodes import Node

BLOCK_BYTES = 512
"""What st_blocks counts (stat(2))."""

Convert = Callable[[Node], EntryAttributes]


def converter(options: MountOptions) -> Convert:
    """Return the function from node to attributes for a mount with these options.

    ``uid=``, ``gid=`` and ``umask=`` change what is shown, never what is stored, as in libfuse.
    """
    attr_timeout_s, entry_timeout_s = options.attr_timeout_s, options.entry_timeout_s

    def plain(node: Node) -> EntryAttributes:
        entry: EntryAttributes | None = node.shown
        if entry is not None:
            return entry
        entry = node.shown = EntryAttributes()
        entry.st_ino = node.id
        entry.entry_timeout = entry_timeout_s
        entry.attr_timeout = attr_timeout_s
        entry.st_mode = node.mode
        entry.st_nlink = node.nlink
        entry.st_uid = node.uid
        entry.st_gid = node.gid
        size = node.size
        if size:
            entry.st_size = size
            extents = node.extents
            stored = node.allocated_bytes if extents is None else extents.allocated_bytes
            entry.st_blocks = (stored + BLOCK_BYTES - 1) // BLOCK_BYTES
        if node.rdev:
            entry.st_rdev = node.rdev
        entry.st_atime_ns = node.atime_ns
        entry.st_mtime_ns = node.mtime_ns
        entry.st_ctime_ns = node.ctime_ns
        return entry

    uid, gid, umask = options.uid, options.gid, options.umask
    if uid is None and gid is None and umask is None:
        return plain

    def changed(node: Node) -> EntryAttributes:
        entry = plain(node)
        if uid is not None:
            entry.st_uid = uid
        if gid is not None:
            entry.st_gid = gid
        if umask is not None and not stat.S_ISLNK(node.mode):
            # As libfuse: the option alone decides the bits.
            entry.st_mode = stat.S_IFMT(node.mode) | (0o777 & ~umask)
        return entry

    return changed
