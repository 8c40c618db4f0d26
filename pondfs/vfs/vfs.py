"""The live tree: all operation families over one node table."""

from pondfs.interfaces import Store
from pondfs.node import ROOT, Version
from pondfs.oplog import Preview
from pondfs.vfs.base import VfsOptions
from pondfs.vfs.file import Files
from pondfs.vfs.namespace import Namespace
from pondfs.vfs.nodes import Node
from pondfs.vfs.past import Past
from pondfs.vfs.restore import Restorer
from pondfs.vfs.storage import Storage
from pondfs.vfs.xattr import Xattrs


class Vfs(Namespace, Files, Xattrs):
    """A mounted pond, without the kernel: what ``fuse`` adapts and tests drive directly."""

    def __init__(self, store: Store, options: VfsOptions) -> None:
        super().__init__(store, options)
        self.storage = Storage(store)
        self.past = Past(store, self.nodes, self.committer, self.describe)
        self.committer.on_commit = self.past.committed
        self.restorer = Restorer(self)

    async def add_tag(self, name: bytes) -> Node:
        """Pin what is now as *name* (``mkdir .pond/tags/NAME``). See `Past.add_tag`."""
        self.may_change(ROOT)
        return await self.past.add_tag(name)

    async def remove_tag(self, name: bytes) -> None:
        """Unpin (``rmdir .pond/tags/NAME``). See `Past.remove_tag`."""
        self.may_change(ROOT)
        await self.past.remove_tag(name)

    def preview(self, *, contents: bool) -> Preview | None:
        """Return what the coming version would say if it were cut now; None when nothing pends.

        While versions are held back: what is under way is neither pending nor stored yet. Without
        *contents* the rows have none; with them the preview keeps their memory.
        """
        if self.pending.empty:
            return None
        return self.pending.preview(Version(self.committer.version + 1), contents=contents)

    def describe(self) -> dict[str, object]:
        """Return the live part of ``pond status``."""
        committer = self.committer
        last = committer.last
        return {
            "version": committer.durable,
            **self.pending.describe(),
            "journaled_versions": committer.durable - committer.published,
            "journaled_bytes": self.pending.journaled_bytes,
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
            # Of those, the ones that the image does not have as they are.
            "nodes_changed": self.nodes.changed,
            "image_version": self.nodes.image.version,
        }
