"""What every operation family of the live tree works on."""

import errno
import stat
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import trio

from pondfs.errors import FileError
from pondfs.interfaces import Store
from pondfs.node import PAST, NodeId, Version
from pondfs.vfs.committer import Committer
from pondfs.vfs.nodes import Node, NodeTable
from pondfs.vfs.pending import Pending

# Linux's CLOCK_REALTIME_COARSE, which `time` has no name for. The kernel stamps cached writes
# with it; a finer clock here would let a file's mtime go back by up to 4 ms when the kernel's
# own stamp follows ours.
CLOCK_REALTIME_COARSE = 5

RELATIME_NS = 24 * 3600 * 10**9
"""An atime older than this moves on any read (Linux relatime)."""


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks: ids and umask of the process; its groups where the kernel does not check for us."""

    uid: int
    gid: int
    umask: int = 0
    groups: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class VfsOptions:
    """How a tree is served.

    Attributes:
        read_only: refuse every change with EROFS.
        commit_s: seconds from the first pending change to its commit; ``inf``: only what somebody
            asks for is committed, whatever the memory.
        max_pending_bytes: pending changes beyond this are committed; None leaves that to time
            (memory is bounded all the same, as content is staged).
        atime: keep access times (as relatime does).
        acl: POSIX ACLs decide with the mode.
        ponddir: how `.pond/` is shown: ``hidden`` (reachable, not listed), ``visible`` or ``off``.
        version: show this version instead of the newest; only read-only.
        journal: what an fsync asks for is made durable in the journal, until the next commit.
    """

    read_only: bool = False
    commit_s: float = 5.0
    max_pending_bytes: int | None = None
    atime: bool = True
    acl: bool = False
    ponddir: str = "hidden"
    version: Version | None = None
    journal: bool = False


@dataclass(slots=True)
class Stale:
    """What the kernel may remember and is no longer so: changes it did not ask for.

    Attributes:
        entries: names in directories, there or not there.
        attributes: nodes whose attributes changed (of a regular file that can be written it
            believes its own size and times all the same).
        contents: nodes whose bytes changed as well.
    """

    entries: list[tuple[NodeId, bytes]] = field(default_factory=list)
    attributes: list[NodeId] = field(default_factory=list)
    contents: list[NodeId] = field(default_factory=list)


async def _no_kernel(stale: Stale) -> None:
    """Nothing is mounted, so nobody remembers anything."""


def now_ns() -> int:
    """Return the time as the kernel stamps files."""
    return time.clock_gettime_ns(CLOCK_REALTIME_COARSE)


class VfsBase:
    """State shared by the operation families, and what all of them need."""

    def __init__(self, store: Store, options: VfsOptions) -> None:
        self.store = store
        self.options = options
        self.read_only = options.read_only
        self.nodes = NodeTable(
            store.load_image() if options.version is None else store.load_image_at(options.version)
        )
        self.pending = Pending(self.nodes)
        self.committer = Committer(
            store, self.pending, self.nodes.image.version, options.commit_s,
            options.max_pending_bytes, journal=options.journal,
        )  # fmt: skip
        # Held while the tree's image is exchanged for another.
        self.images_lock = trio.Lock()
        # Paths on which other filesystems are mounted inside this one; set by the mount.
        self.mounted_below: Callable[[], list[tuple[bytes, ...]]] = list
        # Returns when the kernel has forgotten it; set by the mount.
        self.invalidate: Callable[[Stale], Awaitable[None]] = _no_kernel
        # Looks whether another process exchanged the data files of a node; set by `follow`.
        self.look_again: Callable[[NodeId], Awaitable[None]] | None = None

    def may_change(self, node_id: int, other_id: int = 0) -> None:
        """Refuse changes to read-only trees: a whole mount's, or the past's.

        Raises: FileError EROFS.
        """
        if self.read_only or node_id >= PAST or other_id >= PAST:
            raise FileError(errno.EROFS)

    def may_grow(self, node_id: int, other_id: int = 0) -> None:
        """As `may_change`, and refuse what needs room in the store when it has none.

        Deleting must stay possible then, so it does not ask.

        Raises: FileError EROFS, or the errno of the failing commit (ENOSPC, EDQUOT).
        """
        self.may_change(node_id, other_id)
        if self.committer.refuses_growth:
            raise FileError(self.committer.failure_errno)

    def touch_atime(self, node: Node) -> None:
        """Move the atime as relatime does: not past one that is newer than the last change."""
        if self.read_only or not self.options.atime or node.id >= PAST:
            return
        # A finer clock than the rest has: an access in the tick of a change must come after it.
        now = time.time_ns()
        atime = node.atime_ns
        if atime > node.mtime_ns and atime > node.ctime_ns and now - atime < RELATIME_NS:
            return
        node.atime_ns = now
        self.pending.touch_atime(node)

    def drop_if_unused(self, node: Node) -> None:
        """Let go of a node that neither the kernel nor what is pending needs."""
        if self.nodes.drop_if_unused(node):
            self.pending.forgotten(node)

    def directory(self, node_id: NodeId) -> Node:
        """Return a directory's node. Raises: FileError ESTALE, ENOTDIR."""
        node = self.nodes.get(node_id)
        if not stat.S_ISDIR(node.mode):
            raise FileError(errno.ENOTDIR)
        return node
