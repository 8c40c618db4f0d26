"""What changed since the last cut, and how a cut is made of it.

Only the latest state counts: a file written a thousand times between two cuts becomes one row
with its attributes and the bytes that survived; a file made and removed between two cuts becomes
nothing. So this module remembers *which* nodes and entries changed, not how, and reads their
state off the node table at the cut.
"""

from collections.abc import Callable, Iterable
from typing import Any

import trio

from pondfs.extent import Content
from pondfs.node import NodeId, Version
from pondfs.oplog import Cut, Preview, Row, Settled, Summary
from pondfs.vfs.draft import Draft, attr_row, copy_contents, copy_row, extent_row, whole_contents
from pondfs.vfs.nodes import COMING, Node, NodeTable

COST_PER_CHANGE_BYTES = 1024
"""What one changed node or entry is held to cost in memory, measured as RSS per new small file
(2026-11): Node, map, entry and, at a commit, its row. Counts against MEMORY_BYTES."""

DEAD_BYTES = 8 << 20
"""Overwritten bytes that may wait in memory for a sweep."""

EntryKey = tuple[NodeId, bytes]


class Pending:
    """Changes that are applied and visible, but in no version yet.

    Attributes:
        nodes: changed nodes that have a name.
        entries: changed entries, each with its directory and the node it led to at the last cut.
        created: nodes no version has yet.
        renamed: entries that came about by rename (only a label in the oplog).
        removed: nodes some row knows that have no name any more.
        orphans: nameless open nodes with bytes in memory.
        accessed: nodes whose atime alone moved; they ride along with the next cut.
        bytes: content in memory that no cut or stage has taken.
        inflight: content that one has taken and that is in no data file yet.
        journaled_bytes: what of that is on disk all the same, in the journal.
        since: trio time of the oldest change; None when there is nothing to commit.
        staged: data files written early for the coming version, and the nodes they are about.
        unstaged: rows of a stage that failed; the next cut has them first.
        dead_files: staged data files that no version needs any more, for the committer to remove.
        staged_bytes: content in those.
        next_seq: first row number left in the coming version.
    """

    def __init__(self, table: NodeTable) -> None:
        self._table = table
        self.on_first_change: Callable[[], None] = lambda: None
        self.bytes = 0
        self.inflight = 0
        self.journaled_bytes = 0
        self._dead_bytes = 0
        self.since: float | None = None
        self.nodes: dict[NodeId, Node] = {}
        self.entries: dict[EntryKey, tuple[Node, Node | None]] = {}
        self.created: set[NodeId] = set()
        self.renamed: set[EntryKey] = set()
        self.removed: dict[NodeId, Node] = {}
        self.orphans: dict[NodeId, Node] = {}
        self.accessed: dict[NodeId, Node] = {}
        self.staged: list[tuple[Settled, list[Node]]] = []
        # What is being staged right now: rows, and the nodes they are about.
        self._staging: tuple[list[Row], list[Node]] = ([], [])
        self.staged_bytes = 0
        self.dead_files: list[Any] = []
        # Nodes that only staged rows know.
        self._staged_only: set[NodeId] = set()
        self.next_seq = 0
        # Rows of a stage that failed: they go in front of the next cut's.
        self.unstaged: list[Row] = []
        self._unstaged_only: set[NodeId] = set()

    # --- noting changes (hot: every operation) ---

    def touch(self, node: Node) -> None:
        """Note that the node's attributes or bytes changed. Comes after the change itself."""
        node.shown = None
        if node.id not in self.nodes:
            if not node.nlink:
                if node.fresh:
                    self.orphans[node.id] = node
                return
            if not node.changed:
                self._table.changed += 1
            node.changed = COMING
            self.nodes[node.id] = node
            if self.since is None:
                self._begin()

    def touch_entry(self, directory: Node, name: bytes, before: Node | None) -> None:
        """Note that the entry changed; *before* is where it led until now."""
        key = (directory.id, name)
        if key not in self.entries:
            self.entries[key] = (directory, before)

    def touch_atime(self, node: Node) -> None:
        """Note a moved atime. It begins no commit: a pond that is only read makes no versions."""
        node.shown = None
        if node.nlink:
            self.accessed[node.id] = node

    def unlink(self, node: Node) -> None:
        """Note that *node* lost its last name."""
        node.shown = None
        self.nodes.pop(node.id, None)
        self.accessed.pop(node.id, None)
        self.created.discard(node.id)
        self._table.born -= 1
        self._table.clean(node)
        if node.stored:
            self.removed[node.id] = node
        if node.opens or node.lookups:
            # Still reachable, by a handle or by /proc/PID/fd.
            if node.fresh:
                self.orphans[node.id] = node
        else:
            self.discard(node)

    def discard(self, node: Node) -> None:
        """Let go of the bytes of a node that nobody can reach any more."""
        self.orphans.pop(node.id, None)
        self.bytes -= sum(content.length for content in node.fresh if content.live)
        node.fresh = []
        node.extents = None

    def forgotten(self, node: Node) -> None:
        """The node left the overlay: what only it knew is no longer wanted."""
        self.accessed.pop(node.id, None)
        if not node.nlink:
            self.discard(node)

    def freed(self, count: int) -> None:
        """Note that fresh bytes were overwritten or cut off.

        Their contents stay in the nodes' lists until there are many, as finding them takes a walk.
        """
        self.bytes -= count
        self._dead_bytes += count
        if self._dead_bytes > DEAD_BYTES:
            self._dead_bytes = 0
            for node in [*self.nodes.values(), *self.orphans.values()]:
                if node.fresh:
                    node.fresh = [content for content in node.fresh if content.live]

    def _begin(self) -> None:
        self.since = trio.current_time()
        self.on_first_change()

    # --- how much there is ---

    @property
    def memory_bytes(self) -> int:
        """Memory that pending changes hold, about."""
        return self.new_bytes + self.inflight

    @property
    def new_bytes(self) -> int:
        """That of changes which no cut has taken."""
        changes = len(self.nodes) + len(self.entries) + len(self.removed)
        return self.bytes + COST_PER_CHANGE_BYTES * changes

    @property
    def empty(self) -> bool:
        """Whether a cut would have nothing to say (a moved atime aside)."""
        return not (self.nodes or self.entries or self.removed or self.staged or self.unstaged)

    # --- taking ---

    def take_stage(self, most_bytes: int) -> tuple[list[Row], list[Node]]:
        """Take content to be written early, oldest first, up to about *most_bytes*.

        The rows belong to the coming version, before all rows its cut will have. A file that
        shrank since its last row says so first (``valid_below``), as older bytes of this very
        version may already be staged.

        Returns: the rows, and the nodes they are about.
        """
        rows: list[Row] = []
        about: list[Node] = []
        taken = 0
        for node in [*self.nodes.values(), *self.orphans.values()]:
            if not node.fresh or taken >= most_bytes:
                continue
            if node.valid_below is not None:
                # The operation itself is told by the cut.
                rows.append(attr_row("touch", node, node.parent))
                node.valid_below = None
            for content in self._take_contents(node):
                rows.append(extent_row(node, content))
                taken += content.length
            about.append(node)
            if not node.stored:
                node.stored = True
                self._staged_only.add(node.id)
            if not node.nlink:
                # Rows of it will exist, so the cut must say that it is gone.
                self.removed[node.id] = node
        self.orphans = {k: v for k, v in self.orphans.items() if v.fresh}
        self.inflight += taken
        self._staging = rows, about
        return rows, about

    def stage_done(self, settled: Settled, rows: int, about: list[Node]) -> None:
        """Note that a stage is on disk."""
        self._staging = [], []
        self.staged.append((settled, about))
        self.staged_bytes += sum(content.length for content in settled.contents)
        self.next_seq += rows
        self.settle(settled)
        if self.since is None:
            self._begin()

    def stage_failed(self, rows: list[Row], about: list[Node]) -> None:
        """Put back what a stage could not write: the next cut carries it."""
        self._staging = [], []
        self.unstaged.extend(rows)
        self._unstaged_only.update(node.id for node in about)
        if self.since is None:
            self._begin()

    def settle(self, settled: Settled) -> None:
        """Point contents at the data file that now holds them."""
        file = settled.file
        for content, row, position in zip(
            settled.contents, settled.row_numbers, settled.positions, strict=True
        ):
            content.settle(file, row, position)
        self.inflight -= sum(content.length for content in settled.contents)

    def cut(self, version: Version, time_ns: int, summary: Summary) -> Cut | None:
        """Take everything pending as *version*; None when there is nothing.

        No await in here: what came before is in, what comes after is out.
        """
        self._drop_dead_stages()
        if self.empty:
            accessed = self.accessed
            self._reset()
            self.accessed = accessed
            return None
        rows = self.unstaged
        rows += Draft(self, self._table, summary, self._take_contents).make()
        for node in (*self.nodes.values(), *self.accessed.values()):
            if not node.changed:
                self._table.changed += 1  # only its atime moved
            node.changed = version
            node.stored = True
            node.valid_below = None
        taken = sum(row.content.length for row in rows if row.content is not None)
        summary.bytes_added = taken + self.staged_bytes
        cut = Cut(version, time_ns, rows, summary, self.next_seq, [s.file for s, _ in self.staged])
        self._reset()
        # `_unstaged` rows were in flight already; counting all of this cut's afresh is exact.
        self.inflight = self.journaled_bytes + taken
        self.bytes = sum(c.length for node in self.orphans.values() for c in node.fresh if c.live)
        return cut

    def preview(self, version: Version, *, contents: bool) -> Preview:
        """Return what `cut` would make of everything pending now, and take nothing.

        Without *contents* the rows have none.

        What a stage has under way counts as rows that are in no file yet: whether it succeeds or
        not, the cut has the same rows with the same numbers.
        """
        self._drop_dead_stages()
        rows, about = self._staging
        first_seq, without = self.next_seq, set[NodeId]()
        if not _is_wanted(about):
            # The cut will not have them, but their numbers are given away.
            kept = self._staged_nodes() | self._unstaged_only
            without = self._staged_only.intersection(node.id for node in about) - kept
            first_seq, rows, about = first_seq + len(rows), [], []
        rewritten = self._staged_nodes()
        rewritten.update(node.id for node in about)
        rewritten.update(NodeId(row.node) for row in self.unstaged)
        rewritten.update(
            node.id for node in self.nodes.values() if node.fresh or node.valid_below is not None
        )
        draft = Draft(self, self._table, Summary(), self._copy_contents if contents else _nothing)
        return Preview(
            version,
            first_seq,
            [*(copy_row(row, contents) for row in (*rows, *self.unstaged)), *draft.make(without)],
            [settled.file for settled, _ in self.staged],
            frozenset(rewritten),
        )

    def operations(self) -> list[Row]:
        """Return the rows that a cut would count as operations, without content."""
        rows = Draft(self, self._table, Summary(), _nothing).make()
        return [row for row in rows if row.is_operation]

    def _copy_contents(self, node: Node) -> list[Content]:
        return copy_contents(node, self._table.extents(node))

    def _staged_nodes(self) -> set[NodeId]:
        return {node.id for _, about in self.staged for node in about}

    def _drop_dead_stages(self) -> None:
        """Take back stages that are only about files which came and went since the last cut.

        So a large temporary file leaves nothing, as a small one does.
        """
        kept = []
        needed = set(self._unstaged_only)
        needed.update(node.id for node in self._staging[1])
        for settled, about in self.staged:
            if _is_wanted(about):
                kept.append((settled, about))
                needed.update(node.id for node in about)
            else:
                self.dead_files.append(settled.file)
                self.staged_bytes -= sum(content.length for content in settled.contents)
        self.staged = kept
        for node_id in self._staged_only - needed:
            self.removed.pop(node_id, None)

    def _reset(self) -> None:
        self.since = None
        self.nodes = {}
        self.entries = {}
        self.created = set()
        self.renamed = set()
        self.removed = {}
        self.accessed = {}
        self.staged = []
        self.staged_bytes = 0
        self._staged_only = set()
        self._unstaged_only = set()
        self.next_seq = 0
        self.unstaged = []

    def _take_contents(self, node: Node) -> list[Content]:
        """Return the node's fresh contents, each whole: what was cut up becomes new contents."""
        extents = self._table.extents(node)
        taken: list[Content] = []
        for content, piece in whole_contents(node, extents):
            if piece is not None:
                extents.replace(piece, content)
            taken.append(content)
        for content in node.fresh:
            if content.live:
                self.bytes -= content.length
            content.fresh = False
        node.fresh = []
        return taken

    def describe(self) -> dict[str, object]:
        """Return what ``pond status`` shows of this."""
        return {
            "pending_nodes": len(self.nodes) + len(self.removed),
            "pending_entries": len(self.entries),
            "pending_bytes": self.bytes + self.inflight - self.journaled_bytes,
            "pending_age_s": None if self.since is None else trio.current_time() - self.since,
        }


def _is_wanted(nodes: Iterable[Node]) -> bool:
    """Return whether anybody can still reach one of *nodes*."""
    return any(node.nlink or node.opens or node.lookups for node in nodes)


def _nothing(node: Node) -> list[Content]:
    return []
