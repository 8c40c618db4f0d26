"""What a repair would do: the rows of the coming version, and what is beside the table.

Which names stay is decided first, then what hangs in the air gets one, then all links are counted
anew: so one pass puts right whatever was wrong together.
"""

import stat
import time
from dataclasses import dataclass, field

import numpy as np

from pondfs.node import FILE_TYPES, ROOT, NodeId, new_node_id
from pondfs.oplog import AttrRow, Row
from pondfs.store.check.extents import ends_of
from pondfs.store.check.report import DAMAGED, Report
from pondfs.store.check.tree import Tree, bad_names, wrong_types
from pondfs.store.image import ATTRS, Ints
from pondfs.store.tree import shown

LOST_AND_FOUND = b"lost+found"

_LOST_MODE = stat.S_IFDIR | 0o700
_CACHES = {"saved-image": "image", "cached-rows": "rows"}
_CHECKPOINTS = ("log-checkpoint-readable", "log-last-checkpoint")
OPENING = {
    "log-head": "set the newest log entry aside",
    "log-append-only": "set delta.appendOnly again",
}
"""What opening the pond for writing does in any case."""


@dataclass(slots=True)
class Plan:
    """What is to be done.

    Attributes:
        actions: each in a line, for people.
        rows: of the coming version.
        created: how many nodes those make.
        tags: to be taken off.
        caches: files in ``_pond/`` to be dropped; the image is made anew at once, the cached rows
            when that is worth it.
        checkpoint: whether to write one.
    """

    actions: list[str] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)
    created: int = 0
    tags: list[str] = field(default_factory=list)
    caches: list[str] = field(default_factory=list)
    checkpoint: bool = False


def make_plan(report: Report, tree: Tree | None) -> Plan:
    """Return what is to be done about the findings; nothing if some are beyond repair."""
    plan = Plan()
    if report.verdict == DAMAGED or not report.findings:
        return plan
    found = dict.fromkeys(finding.invariant for finding in report.findings)
    plan.actions += [action for name, action in OPENING.items() if name in found]
    if tree is not None:
        _TreePlan(tree, plan).make()
    for tag in report.loose_tags:
        plan.actions.append(f"take tag '{tag}' off")
        plan.tags.append(tag)
    for name, cache in _CACHES.items():
        if name in found:
            plan.actions.append(f"drop _pond/{cache}, which is made anew")
            plan.caches.append(cache)
    if any(name in found for name in _CHECKPOINTS):
        plan.actions.append("write a checkpoint of the log")
        plan.checkpoint = True
    return plan


class _TreePlan:
    """Makes the rows that put a tree right."""

    def __init__(self, tree: Tree, plan: Plan) -> None:
        self._tree = tree
        self._plan = plan
        self._now_ns = time.time_ns()
        # Places of directories in which names come or go.
        self._changed: set[int] = set()
        # The directory for what is lost, and names taken in it: its place, -1 while it is new.
        self._lost_id = NodeId(0)
        self._lost_place = -1
        self._lost_name = LOST_AND_FOUND
        self._taken: set[bytes] = set()

    def make(self) -> None:
        """Add rows and actions to the plan."""
        tree = self._tree
        sound = tree.sound.copy()
        sound[bad_names(tree)] = False
        for entry in np.flatnonzero(~sound).tolist():
            self._remove(entry, "which can't be")
        for entry in _second_places(tree.having(sound)).tolist():
            sound[entry] = False
            self._remove(entry, "as the directory is somewhere else, too")
        settled = tree.having(sound)
        for first, *_ in settled.cycles():
            (entry,) = np.flatnonzero(sound & (tree.nodes == first)).tolist()
            sound[entry] = False
            self._remove(entry, "as the directory was inside itself")
        settled = tree.having(sound)
        tops = settled.tops().tolist()
        parents, links = settled.parents.copy(), settled.links()
        if tops:
            self._find_lost(settled)
        for place in tops:
            name = self._free_name(b"%016x" % int(tree.ids[place]))
            self._plan.actions.append(
                f"put {tree.call(place)[0]} into /{shown(self._lost_name)} as {name.decode()}"
            )
            if not tree.is_dir[place]:
                links[place] = 1
            elif self._lost_place >= 0:
                links[self._lost_place] += 1
            self._plan.rows.append(self._link(place, name))
        if tops and self._lost_place < 0:
            self._make_lost(tops)
            links[tree.root] += 1
        self._write_nodes(settled, set(tops), parents, links)

    def _remove(self, entry: int, why: str) -> None:
        tree = self._tree
        row = tree.entry_rows[entry]
        (name,) = tree.names(np.array([entry]))
        node, directory = int(tree.nodes[entry]), int(tree.dirs[entry])
        mode = int(tree.attrs["mode"][node]) if node >= 0 else stat.S_IFREG
        self._plan.actions.append(f"remove the name {tree.call_entry(entry)[0]}, {why}")
        self._plan.rows.append(
            Row(
                "unlink", self._now_ns, int(tree.rows.part[row]), int(tree.rows.node[row]), mode,
                name, removed=True,
            )
        )  # fmt: skip
        if directory >= 0 and tree.is_dir[directory]:
            self._changed.add(directory)

    # --- lost+found ---

    def _find_lost(self, settled: Tree) -> None:
        """Choose the directory for what is lost: one that is there, else a name that is free."""
        tree = self._tree
        entries = np.flatnonzero(settled.sound & (tree.dirs == tree.root))
        names = dict(zip(settled.names(entries), tree.nodes[entries].tolist(), strict=True))
        number = 1
        name = LOST_AND_FOUND
        while name in names and not tree.is_dir[names[name]]:
            number += 1
            name = b"%b-%d" % (LOST_AND_FOUND, number)
        self._lost_name = name
        if name not in names:
            self._lost_id = new_node_id()
            self._changed.add(tree.root)
            return
        self._lost_place = names[name]
        self._lost_id = NodeId(int(tree.ids[self._lost_place]))
        self._changed.add(self._lost_place)
        inside = np.flatnonzero(settled.sound & (tree.dirs == self._lost_place))
        self._taken.update(settled.names(inside))

    def _free_name(self, name: bytes) -> bytes:
        number, free = 1, name
        while free in self._taken:
            number += 1
            free = b"%b-%d" % (name, number)
        self._taken.add(free)
        return free

    def _make_lost(self, tops: list[int]) -> None:
        directories = sum(bool(self._tree.is_dir[place]) for place in tops)
        now_ns = self._now_ns
        self._plan.created += 1
        self._plan.rows[:0] = [
            Row("create", now_ns, ROOT, self._lost_id, _LOST_MODE, self._lost_name),
            Row(
                "create", now_ns, self._lost_id, self._lost_id, _LOST_MODE,
                attr=(_LOST_MODE, 0, 0, 2 + directories, 0, 0, now_ns, now_ns, now_ns),
            ),
        ]  # fmt: skip

    def _link(self, place: int, name: bytes) -> Row:
        tree = self._tree
        mode = int(tree.attrs["mode"][place])
        return Row("link", self._now_ns, self._lost_id, int(tree.ids[place]), mode, name)

    # --- nodes ---

    def _write_nodes(self, settled: Tree, tops: set[int], parents: Ints, links: Ints) -> None:
        """Add a row for each node whose attributes are not what they should be, or change."""
        tree, plan = self._tree, self._plan
        ends = ends_of(tree)
        beyond = ends > tree.attrs["size"]
        wrong_type = np.zeros(len(tree.ids), bool)
        wrong_type[wrong_types(tree)] = True
        wrong_links = links != tree.attrs["nlink"]
        changed = np.zeros(len(tree.ids), bool)
        changed[list(self._changed)] = True
        for place in np.flatnonzero(beyond | wrong_type | wrong_links | changed).tolist():
            called = settled.call(place)[0]
            if wrong_links[place] and place not in tops and not changed[place]:
                plan.actions.append(
                    f"write that {called} has nlink {links[place]}, not "
                    f"{tree.attrs['nlink'][place]}"
                )
            if beyond[place]:
                size = int(tree.attrs["size"][place])
                plan.actions.append(f"cut {called} off at its size, {size} bytes")
            if wrong_type[place]:
                kind = FILE_TYPES[int(tree.kind[place])]
                plan.actions.append(f"write that {called} is a {kind}, as its mode says")
            part = self._lost_id if place in tops else int(tree.ids[parents[place]])
            if tree.is_dir[place]:
                part = int(tree.ids[place])
            is_operation = place not in tops and not changed[place]
            row = tree.node_rows[place : place + 1]
            plan.rows.append(
                Row(
                    "update" if is_operation else "touch",
                    self._now_ns,
                    part,
                    int(tree.ids[place]),
                    int(tree.attrs["mode"][place]),
                    attr=self._attr(place, int(links[place]), bool(changed[place])),
                    valid_below=int(tree.attrs["size"][place]) if beyond[place] else None,
                    metadata=tree.rows.arrow("metadata", row)[0].as_py(),
                )
            )

    def _attr(self, place: int, nlink: int, changed: bool) -> AttrRow:
        values = {name: int(self._tree.attrs[name][place]) for name in ATTRS}
        values.update(nlink=nlink, ctime_ns=self._now_ns)
        if changed:
            values["mtime_ns"] = self._now_ns
        mode, uid, gid, links, rdev, size, atime_ns, mtime_ns, ctime_ns = values.values()
        return mode, uid, gid, links, rdev, size, atime_ns, mtime_ns, ctime_ns


def _second_places(tree: Tree) -> Ints:
    """Return the entries of directories that have a newer one."""
    entries = np.flatnonzero(tree.sound & np.append(tree.is_dir, False)[tree.nodes])
    nodes = tree.nodes[entries]
    # Oldest first, so the last of equal ones is the newest.
    newest = np.full(len(tree.ids), -1, np.int64)
    newest[nodes] = entries
    older: Ints = entries[newest[nodes] != entries]
    return older
