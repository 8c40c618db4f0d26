"""Nodes: files, directories, symlinks and the rest, and the rules for their attributes.

A node is known by a random 63-bit number that is also its inode number and is never reused, so
nothing in the system needs the kernel's (inode, generation) pairs. The root is 1.
"""

import stat
from dataclasses import dataclass
from random import SystemRandom
from typing import NewType

NodeId = NewType("NodeId", int)
Version = NewType("Version", int)

ROOT = NodeId(1)

PAST = NodeId(1 << 63)
"""Inode numbers from here on are in `.pond/`; live nodes have 63 bits."""

# What the `file_type` column says, by the S_IFMT bits of the mode.
FILE_TYPES: dict[int, str] = {
    stat.S_IFREG: "file",
    stat.S_IFDIR: "directory",
    stat.S_IFLNK: "symlink",
    stat.S_IFIFO: "fifo",
    stat.S_IFSOCK: "socket",
    stat.S_IFBLK: "block",
    stat.S_IFCHR: "char",
}

# The largest offset a file can have: what ext4 with 4 KiB blocks allows is less (16 TiB), the
# kernel's loff_t is this. A write or truncate beyond is EFBIG.
MAX_FILE_SIZE = (1 << 63) - 1

_random = SystemRandom()


def new_node_id() -> NodeId:
    """Return a fresh random id: 63 bits, never 0 (no node) or 1 (the root).

    Two of a million nodes share an id with a probability of 5e-8 (the birthday bound).
    """
    while True:
        number = _random.getrandbits(63)
        if number > ROOT:
            return NodeId(number)


def format_node_id(node_id: int) -> str:
    """Return the 16 hex digits that stand in the table's ``node_id`` and ``part_id``."""
    return f"{node_id:016x}"


@dataclass(frozen=True, slots=True)
class Attr:
    """A node's attributes as stored: what ``stat`` shows, less what is derived.

    Units: sizes in bytes, times in nanoseconds since 1970 (negative before).
    """

    mode: int
    uid: int
    gid: int
    nlink: int
    rdev: int
    size: int
    atime_ns: int
    mtime_ns: int
    ctime_ns: int
