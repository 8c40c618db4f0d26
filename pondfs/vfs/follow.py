"""A tree that another process writes: `-o ro,follow` keeps up with its commits.

A task looks a few times a second whether the log goes on. The rows of a new version are laid over
the image (`Layer`), and the overlay's nodes and the kernel are told what they knew and is no longer
so. That costs what changed, not what there is; now and then the image is folded anew, in a thread,
so that the layer does not grow for ever.

A version is laid over between two awaits, so no program sees a part of it. Between a commit and
the moment the kernel has forgotten what it changed (LOOK_S and what the change costs), programs
see the version before, as on any network filesystem.
"""

import logging
import stat
from dataclasses import dataclass, field, replace

import trio

from pondfs.errors import PondError
from pondfs.extent import Extent, ExtentMap
from pondfs.interfaces import Image, NewVersion, StoredNode, Tree
from pondfs.node import PAST, ROOT, NodeId
from pondfs.oplog import Row
from pondfs.vfs import offload
from pondfs.vfs.base import Stale
from pondfs.vfs.nodes import Node
from pondfs.vfs.vfs import Vfs
from pondfs.xattrs import decode_xattrs

log = logging.getLogger("pondfs.follow")

LOOK_S = 0.1
"""Between two looks at the log: two stats, 5 us."""

TROUBLE_S = 1.0
"""Between two tries to read what can't be read yet."""

LAYER_ROWS = 20_000
"""Rows in the layer before it is folded into a new image: about 20 MB. Where the tree is larger
than ten times that, a tenth of its nodes: folding costs what there is."""

_NLINK, _SIZE = 3, 5  # places in an AttrRow


@dataclass(slots=True)
class Changed:
    """What a version changed.

    Attributes:
        entries: names in directories.
        nodes: nodes with other attributes or another place, or new, or gone.
        contents: those of them whose bytes changed.
        gone: nodes that are gone, and their last extents if those are known.
    """

    entries: set[tuple[NodeId, bytes]] = field(default_factory=set)
    nodes: set[NodeId] = field(default_factory=set)
    contents: set[NodeId] = field(default_factory=set)
    gone: dict[NodeId, ExtentMap | None] = field(default_factory=dict)


class Layer:
    """An image with later versions laid over it. Implements `interfaces.Tree`.

    Attributes:
        rows: how many rows were laid over the image.
    """

    def __init__(self, base: Tree) -> None:
        self._base = base
        self.version = base.version
        self.node_count = base.node_count
        self.is_mapped = False
        self.rows = 0
        # What differs from the image; None for what is no more.
        self._entries: dict[NodeId, dict[bytes, NodeId | None]] = {}
        self._nodes: dict[NodeId, StoredNode | None] = {}
        self._extents: dict[NodeId, ExtentMap] = {}

    def find_node(self, node_id: NodeId) -> StoredNode | None:
        """Return the node, or None when there is none."""
        if node_id in self._nodes:
            return self._nodes[node_id]
        return self._base.find_node(node_id)

    def load_entries(self, directory: NodeId) -> dict[bytes, NodeId]:
        """Return the directory's entries."""
        entries = self._base.load_entries(directory)
        for name, node_id in self._entries.get(directory, {}).items():
            if node_id is None:
                entries.pop(name, None)
            else:
                entries[name] = node_id
        return entries

    def load_extents(self, node_id: NodeId) -> list[Extent]:
        """Return the file's extents, sorted, not overlapping, within its size."""
        extents = self._extents.get(node_id)
        return self._base.load_extents(node_id) if extents is None else list(extents)

    def find_parents(self, node_id: NodeId) -> list[NodeId]:
        """Return every directory with an entry for the node. Looks at all entries."""
        found = set(self._base.find_parents(node_id))
        found.update(part for part, names in self._entries.items() if node_id in names.values())
        return [part for part in found if node_id in self.load_entries(part).values()]

    def release(self) -> None:
        """Count no memory that is only mapped from a file."""
        self._base.release()

    def new_entry(self, directory: NodeId, name: bytes) -> NodeId | None:
        """Return where an entry leads that a version changed; None for nowhere."""
        return self._entries[directory][name]

    def new_extents(self, node_id: NodeId) -> ExtentMap | None:
        """Return the extents of a file whose bytes changed since the image, as they are kept."""
        return self._extents.get(node_id)

    def apply(self, new: NewVersion) -> Changed:
        """Lay the next version over. Its rows are in order; see the fold for what they mean."""
        changed = Changed()
        attrs: dict[NodeId, Row | None] = {}
        parents: dict[NodeId, NodeId] = {}
        for row in new.rows:
            node_id = NodeId(row.node)
            if row.name is not None:
                part = NodeId(row.part)
                self._entries.setdefault(part, {})[row.name] = None if row.removed else node_id
                changed.entries.add((part, row.name))
                if not row.removed:
                    parents[node_id] = part
            elif row.removed:
                attrs[node_id] = None
            if row.attr is not None:
                attrs[node_id] = row
            if row.valid_below is not None:
                self._map(node_id).truncate(row.valid_below)
                changed.contents.add(node_id)
            content = row.content
            if content is not None and row.offset is not None and not stat.S_ISLNK(row.mode):
                self._map(node_id).write(Extent(row.offset, content.length, content))
                changed.contents.add(node_id)
        for node_id in {**attrs, **parents, **dict.fromkeys(changed.contents)}:
            self._change_node(node_id, attrs, parents, changed)
        for directory, name in changed.entries:
            entries = self._entries[directory]
            entry = entries[name]
            if entry is not None and self.find_node(entry) is None:
                entries[name] = None  # as in the fold: a node the table does not have
        self.version = new.version
        self.rows += len(new.rows)
        return changed

    def _change_node(
        self,
        node_id: NodeId,
        attrs: dict[NodeId, Row | None],
        parents: dict[NodeId, NodeId],
        changed: Changed,
    ) -> None:
        before = self.find_node(node_id)
        row = attrs.get(node_id)
        if node_id in attrs and (row is None or row.attr is None or not row.attr[_NLINK]):
            changed.gone[node_id] = self._extents.pop(node_id, None)
            self._nodes[node_id] = None
            self.node_count -= before is not None
        elif row is None or row.attr is None:
            if before is None:
                self._extents.pop(node_id, None)
                return
            parent = parents.get(node_id, before.parent)
            allocated = self._allocated(node_id, before)
            self._nodes[node_id] = replace(before, parent=parent, allocated_bytes=allocated)
        else:
            size = row.attr[_SIZE]
            if stat.S_ISREG(row.mode) and before is not None and size != before.attr[_SIZE]:
                changed.contents.add(node_id)
                self._map(node_id).truncate(size)
            parent = parents.get(node_id, NodeId(row.part) if before is None else before.parent)
            target = None if before is None else before.target
            if stat.S_ISLNK(row.mode) and row.content is not None:
                target = bytes(row.content.data or b"")
            allocated = self._allocated(node_id, before)
            self._nodes[node_id] = StoredNode(row.attr, parent, target, row.metadata, allocated)
            self.node_count += before is None
        changed.nodes.add(node_id)

    def _map(self, node_id: NodeId) -> ExtentMap:
        extents = self._extents.get(node_id)
        if extents is None:
            extents = self._extents[node_id] = ExtentMap(self._base.load_extents(node_id))
        return extents

    def _allocated(self, node_id: NodeId, before: StoredNode | None) -> int:
        extents = self._extents.get(node_id)
        if extents is not None:
            return extents.allocated_bytes
        return 0 if before is None else before.allocated_bytes


class Follower:
    """Keeps a read-only Vfs up with what another process commits."""

    def __init__(self, vfs: Vfs, layer_rows: int = LAYER_ROWS) -> None:
        self._vfs = vfs
        self._nodes = vfs.nodes
        self._feed = vfs.store.follow()
        self._layer_rows = layer_rows
        self._lock = trio.Lock()
        self._wake = trio.Event()
        self._trouble = ""
        self._reloads = 0
        self._reload_due = False
        # Versions laid over while a new image is being folded; None while none is.
        self._meanwhile: list[NewVersion] | None = None
        self._stale = Stale()
        self._use(vfs.nodes.image)
        vfs.look_again = self.look_again

    def _use(self, image: Tree) -> None:
        self._layer = self._nodes.image = Layer(image)
        self._fold_at = max(self._layer_rows, image.node_count // 10)

    async def run(self) -> None:
        """Keep up for ever."""
        async with trio.open_nursery() as nursery:
            while True:
                self._wake = trio.Event()
                await self.keep_up()
                if self._layer.rows > self._fold_at and self._meanwhile is None:
                    self._meanwhile = []
                    nursery.start_soon(self.fold)
                with trio.move_on_after(TROUBLE_S if self._trouble else LOOK_S):
                    await self._wake.wait()

    async def keep_up(self) -> None:
        """Show what was committed since, then have the kernel forget what was before.

        The lock is not held meanwhile: the kernel may wait for a read that waits for the lock.
        """
        await self._catch_up()
        stale, self._stale = self._stale, Stale()
        if stale.entries or stale.attributes or stale.contents:
            await self._vfs.invalidate(stale)

    async def look_again(self, node_id: NodeId) -> None:
        """Have at hand where a node's bytes are now: its data file is gone."""
        await self._catch_up()
        self._wake.set()
        if node_id >= PAST:
            await self._vfs.past.ready(node_id)

    async def fold(self) -> None:
        """Fold what was laid over into a new image, while following goes on."""
        self._meanwhile = []
        version, reloads = self._layer.version, self._reloads
        self._fold_at = self._layer.rows + self._layer_rows  # should it fail
        try:
            image = await offload.run(self._feed.fold, version)
        except (OSError, PondError) as error:
            log.debug("no new image of version %d: %s", version, error)
        else:
            if reloads == self._reloads:
                self._use(image)
                for new in self._meanwhile:
                    self._layer.apply(new)
                log.debug("version %d is the image now", version)
        finally:
            self._meanwhile = None

    async def _catch_up(self) -> None:
        """Show what was committed since the last look. Nothing else ends it but the log's end."""
        async with self._lock:
            trouble = ""
            try:
                while not trouble and (self._reload_due or self._feed.has_news()):
                    if not self._reload_due:
                        news = await offload.run(self._feed.read)
                        trouble = news.trouble
                        self._reload_due = news.reload
                        for new in news.versions:
                            self._show(new)
                            await trio.lowlevel.checkpoint()
                    if self._reload_due:
                        self._show_anew(await offload.run(self._feed.reload))
                        self._reload_due = False
            except (OSError, PondError) as error:
                trouble = str(error)
            if trouble and trouble != self._trouble:
                log.warning("showing version %d until it can be read: %s", self._layer.version,
                            trouble)  # fmt: skip
            elif self._trouble and not trouble:
                log.info("the log can be read again; showing version %d", self._layer.version)
            self._trouble = trouble

    def _show(self, new: NewVersion) -> None:
        """Lay a version over, and over what is in memory."""
        vfs, layer, live = self._vfs, self._layer, self._nodes.live
        for row in new.rows:
            if row.removed and row.name is None:
                self._keep_bytes(live.get(NodeId(row.node)))
        changed = layer.apply(new)
        if self._meanwhile is not None:
            self._meanwhile.append(new)
        for directory_id, name in changed.entries:
            directory = live.get(directory_id)
            if directory is not None and directory.children is not None:
                self._renew_entry(directory, name, layer.new_entry(directory_id, name))
        for node_id in changed.nodes:
            node = live.get(node_id)
            if node is None:
                continue
            if node_id in changed.gone:
                if (extents := changed.gone[node_id]) is not None:
                    node.extents = extents
                self._end(node)
                continue
            stored = layer.find_node(node_id)
            assert stored is not None
            _renew_attributes(node, stored)
            if node_id in changed.contents:
                node.extents = layer.new_extents(node_id)
            self._note(node, node_id in changed.contents)
        vfs.committer.follow(new.version)
        vfs.past.committed(new.version, new.time_ns)

    def _show_anew(self, image: Image) -> None:
        """Show a new image: the files it is from, and perhaps versions, were exchanged."""
        vfs, before = self._vfs, self._layer.version
        for node in list(self._nodes.live.values()):
            if node.id >= PAST or not node.nlink:
                continue
            stored = image.find_node(node.id)
            if stored is None:
                self._keep_bytes(node)
                self._end(node)
                continue
            if node.children is not None:
                children = image.load_entries(node.id)
                for name in {**node.children, **children}:
                    self._renew_entry(node, name, children.get(name))
            is_file = stat.S_ISREG(node.mode)
            # Which bytes changed nobody knows: all of them may have if there is a new version.
            bytes_changed = is_file and image.version != before
            if _renew_attributes(node, stored) or bytes_changed:
                self._note(node, bytes_changed)
            if is_file:
                node.extents = None
        self._use(image)
        self._reloads += 1
        vfs.committer.follow(image.version)
        vfs.past.exchanged()
        self._stale.entries.extend(vfs.past.entries())

    def _renew_entry(self, directory: Node, name: bytes, node_id: NodeId | None) -> None:
        """Make an entry of a loaded directory lead to *node_id*; None takes it away."""
        children = directory.children
        assert children is not None
        if children.get(name) == node_id:
            return
        if node_id is None:
            del children[name]
        else:
            children[name] = node_id
        if _is_known(directory):
            self._stale.entries.append((directory.id, name))

    def _note(self, node: Node, bytes_changed: bool) -> None:
        """Have the kernel forget the node's attributes, and its bytes."""
        if _is_known(node):
            (self._stale.contents if bytes_changed else self._stale.attributes).append(node.id)

    def _keep_bytes(self, node: Node | None) -> None:
        """Know where the bytes of an open file are before the tree forgets it."""
        if node is not None and node.nlink and stat.S_ISREG(node.mode):
            self._nodes.extents(node)

    def _end(self, node: Node) -> None:
        """Take note that the node has no name any more."""
        node.nlink = 0
        node.shown = None
        if node.children is not None:
            node.children = {}
        self._note(node, False)
        self._vfs.drop_if_unused(node)


def _is_known(node: Node) -> bool:
    """Whether the kernel may remember something of the node. It knows the root from the start."""
    return node.lookups > 0 or node.id == ROOT


def _renew_attributes(node: Node, stored: StoredNode) -> bool:
    """Make the node what is stored; say whether it was anything else."""
    xattrs = decode_xattrs(stored.metadata)
    node.parent = stored.parent
    same = (
        node.attr_row() == stored.attr
        and node.xattrs == xattrs
        and node.allocated_bytes == stored.allocated_bytes
    )
    node.xattrs = xattrs
    node.allocated_bytes = stored.allocated_bytes
    (
        node.mode, node.uid, node.gid, node.nlink, node.rdev, node.size,
        node.atime_ns, node.mtime_ns, node.ctime_ns,
    ) = stored.attr  # fmt: skip
    node.shown = None
    return not same
