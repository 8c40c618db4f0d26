"""Keeping memory to what is used: the live tree turns to newer images, and lets go of the rest.

A node that changed is kept until an image has it, however often the kernel forgets it. So when
there are many, the store saves an image of the newest version it has, in a thread, and the node
table turns to it. From then on every node whose last change was carried by a version up to
that of the image is as good as never touched: it leaves when the kernel does not hold it, and
holds nothing but its attributes when the kernel does.

What is pending, or in a version that the image does not have (a commit under way, or one made
while the image was folded), is newer by its `Node.changed` and stays as it is.
"""

import logging
import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import trio

from pondfs.interfaces import Tree
from pondfs.node import PAST
from pondfs.vfs import offload
from pondfs.vfs.nodes import Node, need_bytes

if TYPE_CHECKING:
    from pondfs.vfs.vfs import Vfs

log = logging.getLogger("pondfs.rebase")

LOOK_S = 1.0
"""How often it is looked whether there is something to do: a few comparisons."""

MANY_ROWS = 200_000
"""Rows after the saved image at which the next is saved: so that a crash costs the next opening
half a second, and a file's extents that pile up are let go of."""

FEW_CHANGED, MANY_CHANGED = 2_000, 50_000
"""Changed nodes in memory (1 KB each) at which an image is saved: between the two, a twentieth of
the tree, as an image costs what there is."""

PAUSE_S, PAUSE_TIMES = 3.0, 20
"""Between two images: so long, and so many times what one took. So at most 5 % of a processor goes
into them."""

RETRY_S = 300.0
"""After an image that could not be saved (a full disk)."""

MANY_FORGOTTEN = 20_000
"""Nodes that left since memory was last given back: 20 MB. It takes a thread 10 ms."""

SLICE = 2_000
"""Nodes looked at without letting others run: 1 ms."""


class Rebaser:
    """Turns one live tree to newer images, and gives memory back."""

    def __init__(self, vfs: "Vfs") -> None:
        self._vfs = vfs
        self._nodes = vfs.nodes
        # The most nodes in memory since memory was given back.
        self._most = 0
        self._not_before = -math.inf

    async def run(self) -> None:
        """Look now and then, until cancelled."""
        while True:
            await trio.sleep(LOOK_S)
            try:
                await self.look()
            except Exception:
                # Whatever it is: ending the mount would lose what is pending.
                log.exception("no newer image is used, which harms nothing; please report it")
                self._not_before = trio.current_time() + RETRY_S

    async def look(self) -> None:
        """Do what is due."""
        nodes = self._nodes
        nodes.image.release()
        if self.is_due():
            await self.renew()
        self._most = max(self._most, len(nodes.live))
        if self._most - len(nodes.live) >= max(MANY_FORGOTTEN, self._most // 2):
            await self._give_back()

    def is_due(self) -> bool:
        """Return whether an image is worth it now."""
        vfs, nodes = self._vfs, self._nodes
        if vfs.read_only or trio.current_time() < self._not_before:
            return False
        if not nodes.image.is_mapped and nodes.image.node_count >= MANY_CHANGED:
            return True  # what was folded at opening is in memory, what is saved need not be
        if vfs.committer.published == nodes.image.version:
            return False
        many = min(max(FEW_CHANGED, nodes.count() // 20), MANY_CHANGED)
        # What is pending no image can have.
        changed = nodes.changed - len(vfs.pending.nodes)
        return changed >= many or vfs.store.rows_since_image >= MANY_ROWS

    async def renew(self) -> None:
        """Save the image of the newest version, and turn to it."""
        # Not while files are exchanged: the image would lead to the old ones.
        async with self._vfs.images_lock:
            started = trio.current_time()
            image = await offload.run(self._vfs.store.save_image)
            if image is None:
                self._not_before = trio.current_time() + RETRY_S
                return
            taken = trio.current_time() - started
            before = len(self._nodes.live)
            await self.turn_to(image)
        await self._give_back()
        self._not_before = trio.current_time() + max(PAUSE_S, PAUSE_TIMES * taken)
        log.debug(
            "version %d is the image now, saved in %.2f s; %d nodes of %d stay in memory",
            image.version, taken, len(self._nodes.live), before,
        )  # fmt: skip

    async def turn_to(self, image: Tree) -> None:
        """Have *image*, of a version that was committed, take the place of the table's.

        While the files that it leads to are those in use.
        """
        # Nameless open files first: the image may not have them any more. Who becomes nameless
        # from here on does so in a version it does not have.
        await self._each(lambda node: need_bytes(self._nodes, node))
        self._nodes.turn_to(image)
        await self._each(lambda node: self._tidy(node, image))

    async def _each(self, function: Callable[[Node], None]) -> None:
        """Call *function* for every node there is now, a few at a time.

        Yields: in between; nodes that come meanwhile are newer than any image there is.
        """
        waiting = list(self._nodes.live.values())
        while waiting:
            for node in waiting[-SLICE:]:
                function(node)
            del waiting[-SLICE:]
            await trio.lowlevel.checkpoint()

    def _tidy(self, node: Node, image: Tree) -> None:
        """Let the node go, or what it holds, as far as nothing needs it.

        Nodes that a restore is making have no version, so they stay.
        """
        nodes = self._nodes
        if node.changed > image.version or nodes.live.get(node.id) is not node:
            return
        if node.id >= PAST:
            self._vfs.past.let_go(node)
            return
        nodes.clean(node)
        if node.opens:
            return
        if node.nlink:
            nodes.let_go(node)
            if node.id in self._vfs.pending.accessed:
                return  # its atime rides along with the next version
        self._vfs.drop_if_unused(node)

    async def _give_back(self) -> None:
        """Give the system the memory of nodes that left: a dictionary does not shrink by itself."""
        self._nodes.live = dict(self._nodes.live)
        self._most = len(self._nodes.live)
        await offload.run(self._vfs.store.release_memory)
