"""Turning to the files a prune or a compaction made of others, while the pond is in use.

Reads go on all the while, some of them in threads that hold a content of an old file. So contents
are not changed but replaced, and old files that anybody may still read are held open: they are
gone from the disk when the last one who knows them is.
"""

import logging
import stat
from typing import TYPE_CHECKING

from pondfs.errors import StoreDamaged
from pondfs.extent import Content, Extent, ExtentMap
from pondfs.interfaces import Store, Swap, Tree
from pondfs.node import PAST
from pondfs.vfs import offload
from pondfs.vfs.base import Stale
from pondfs.vfs.nodes import Node, NodeTable, need_bytes

if TYPE_CHECKING:
    from pondfs.vfs.vfs import Vfs

log = logging.getLogger("pondfs.prune")


async def swap_files(vfs: "Vfs", request: str, *, now: bool = True) -> int:
    """Do what a prepared prune or compaction asks for, in the store and in the mounted tree.

    Returns: how many bytes the disk got back by now; 0 while others read the old files.
    Durability: it is durable on return.
    Raises: UsageError when the pond is not what it was prepared for; CommitFailed; ForeignCommit;
        OSError: nothing has happened then.
    """
    # Not while a restore copies from what may be old files, or an image of them is saved.
    async with vfs.restorer.lock, vfs.images_lock:
        # Whoever asked may go away meanwhile: the tree turns to the new files all the same, as the
        # old ones go with the next prune. No checkpoint until it has.
        swap, image = await vfs.committer.between(_swap, vfs.store, vfs.nodes.image, request)
        if swap.compaction is not None:
            vfs.committer.totals.compactions += 1
        held = adopt(vfs.nodes, vfs.store, swap, image)
        vfs.past.exchanged()
        await vfs.invalidate(Stale(entries=vfs.past.entries()))
        if not held:
            return 0
        return await offload.run(_remove, vfs.store, now)


async def remove_pruned(vfs: "Vfs") -> int:
    """Remove what earlier prunes left because somebody read it; costs nothing if there is nothing.

    Returns: how many bytes the disk got back.
    Raises: CommitFailed while commits fail.
    """
    return await vfs.committer.between(_remove, vfs.store, True)


def _swap(store: Store, image: Tree, request: str) -> tuple[Swap, Tree]:
    swap = store.swap_files(request)
    return swap, swap.move_image(image)


def _remove(store: Store, now: bool) -> int:
    try:
        return store.remove_pruned(now=now)
    except (OSError, StoreDamaged) as error:
        # It is done all the same; the next opening removes them.
        log.warning("old data files stay: %s", error)
        return 0


def adopt(nodes: NodeTable, store: Store, swap: Swap, image: Tree) -> bool:
    """Turn all live nodes to the new files. On the trio thread, without an await.

    Args:
        nodes: the live tree.
        store: where its bytes are.
        swap: what the store did.
        image: the tree's image, moved already.
    Returns: whether the old files may be removed: all that may still be read are held.
    """
    safe = True
    for node in list(nodes.live.values()):
        # Of one without a name the bytes may be in no kept version, so the new image has none.
        need_bytes(nodes, node)
        if node.id >= PAST and node.opens and stat.S_ISREG(node.mode):
            # What is open in the past keeps its image, which leads to the old files.
            nodes.extents(node)
        if node.extents is not None:
            safe &= _move(node, node.extents, store, swap)
    nodes.image = image
    return safe


def _move(node: Node, extents: ExtentMap, store: Store, swap: Swap) -> bool:
    """Turn one node; returns whether all it had in old files stays readable."""
    places: dict[Content, Content] = {}
    safe = True
    for extent in extents:
        content = extent.content
        if content in places:
            continue
        found = swap.find(content)
        if found is not content:
            try:
                store.hold(content)
            except (OSError, StoreDamaged) as error:
                log.warning("old data files stay until the pond is unmounted: %s", error)
                safe = False
        places[content] = content if found is None else found
    if node.id < PAST and any(old is not new for old, new in places.items()):
        node.extents = ExtentMap(
            Extent(e.offset, e.length, places[e.content], e.skip) for e in extents
        )
    return safe
