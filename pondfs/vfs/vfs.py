"""The live tree: all operation families over one node table."""

from pondfs.interfaces import Store
from pondfs.vfs.base import VfsOptions
from pondfs.vfs.file import Files
from pondfs.vfs.namespace import Namespace
from pondfs.vfs.past import Past
from pondfs.vfs.xattr import Xattrs


class Vfs(Namespace, Files, Xattrs):
    """A mounted pond, without the kernel: what ``fuse`` adapts and tests drive directly."""

    def __init__(self, store: Store, options: VfsOptions) -> None:
        super().__init__(store, options)
        self.past = Past(store, self.nodes, self.describe)
        self.committer.on_commit = self.past.committed

    def describe(self) -> dict[str, object]:
        """Return the live part of ``pond status``."""
        committer = self.committer
        last = committer.last
        return {
            "version": committer.version,
            **self.pending.describe(),
            "last_commit": None
            if last is None
            else {
                "version": last.version,
                "timestamp": last.timestamp,
                "duration_ms": round(last.duration_ms, 3),
                "bytes": last.bytes,
                "rows": last.rows,
            },
            "last_error": None if committer.failure is None else str(committer.failure),
            "nodes": self.nodes.count(),
            "nodes_in_memory": len(self.nodes.live),
        }
