"""Planning from two images of the tree: how it was, and how it is now.

The two trees are walked side by side, but only where rows between the two versions say that
something changed. What is the same stays: an entry that leads to the same node, and a file that
another one of the same content and times took the place of. Nodes that only moved are moved back;
all else is made anew, as the kernel would not believe a change under a file it knows.
"""

import stat
from collections import deque
from collections.abc import Collection
from dataclasses import dataclass

from pondfs.errors import Conflict
from pondfs.interfaces import Image, Store, Tree
from pondfs.node import ROOT, NodeId
from pondfs.vfs.plan import Made, Path, Plan, Put, Remove, find, own, refuse_cycles, show

_MTIME = 7


class Scope:
    """Which paths are meant: some with all below them, some by themselves."""

    def __init__(self, whole: Collection[Path] = (), alone: Collection[Path] = ()) -> None:
        self._whole = frozenset(whole)
        self._alone = frozenset(alone)
        self._above = {path[:end] for path in [*whole, *alone] for end in range(len(path))}

    def covers(self, path: Path) -> bool:
        """Return whether *path* itself is meant."""
        return path in self._alone or self.all_below(path)

    def all_below(self, path: Path) -> bool:
        """Return whether *path* and everything below it is meant."""
        return any(path[:end] in self._whole for end in range(len(path) + 1))

    def leads_on(self, path: Path) -> bool:
        """Return whether something below *path* is meant."""
        return path in self._above or self.all_below(path)


@dataclass(slots=True)
class _Want:
    directory: NodeId | Made
    name: bytes
    path: Path
    old: NodeId
    # Only the way to something that is meant: a directory without what else was in it.
    bare: bool = False


class Planner:
    """Makes one plan. Blocks; safe from any thread, as images never change."""

    def __init__(
        self,
        store: Store,
        old: Tree,
        now: Image,
        scope: Scope,
        touched: Collection[NodeId] | None = None,
    ) -> None:
        """Plan to make *now* be as *old*, in *scope*.

        Args:
            store: where their bytes are.
            old: how it shall be.
            now: how it is.
            scope: what is meant.
            touched: what differs, if *old* is no version: as of `Store.find_touched`.
        """
        self._store = store
        self._old = old
        self._now = now
        self._scope = scope
        if touched is None:
            low, high = sorted((old.version, now.version))
            touched = store.find_touched(low, high)
        self._touched = touched
        self._dirty = self._with_ancestors(self._touched)
        self._plan = Plan(old.version, now.version)
        self._wants: deque[_Want] = deque()
        self._made: dict[NodeId, Made] = {}
        self._moved: set[NodeId] = set()
        # Removed entries by node, and the directories that will have just their old entries.
        self._removed: dict[NodeId, Remove] = {}
        self._complete: dict[NodeId, tuple[NodeId, bool]] = {}

    def run(self) -> Plan:
        """Return the plan.

        Raises: Conflict where something else stands in the place of a directory that
            leads to what is meant; StoreDamaged, OSError.
        """
        if self._scope.covers(()):
            self._takeown((), ROOT, ROOT)
        self._merge((), ROOT, ROOT)
        files: list[_Want] = []
        while self._wants:
            want = self._wants.popleft()
            if stat.S_ISDIR(find(self._old, want.old).attr[0]):
                self._fulfil(want)
            else:
                files.append(want)
        # Only now it is known which directories move, and take names along that stay in them.
        for want in files:
            self._fulfil(want)
        plan = self._plan
        moved = {put.origin for put in plan.puts if put.origin is not None}
        changed = {
            *(put.directory for put in plan.puts if not isinstance(put.directory, Made)),
            *(remove.directory for remove in plan.removes),
        }
        plan.removes = [r for r in plan.removes if (r.directory, r.name) not in moved]
        plan.times = [
            (now, old)
            for now, (old, is_meant) in self._complete.items()
            if now in changed or (is_meant and self._mtime_differs(old, now))
        ]
        refuse_cycles(plan, self._now)
        return plan

    # --- walking ---

    def _merge(self, path: Path, old: NodeId, now: NodeId | Made) -> None:
        """Compare two directories entry by entry."""
        if old == now and old not in self._dirty:
            return
        before = self._old.load_entries(old)
        present = {} if isinstance(now, Made) else self._now.load_entries(now)
        complete = True
        for name in sorted(before.keys() | present.keys()):
            here = (*path, name)
            if self._scope.covers(here):
                self._entry(here, now, name, before.get(name), present.get(name))
            elif self._scope.leads_on(here):
                self._lead_on(here, now, name, before.get(name), present.get(name))
            elif before.get(name) != present.get(name):
                complete = False
        if complete and not isinstance(now, Made):
            self._complete[now] = old, self._scope.covers(path)

    def _lead_on(
        self,
        path: Path,
        directory: NodeId | Made,
        name: bytes,
        old: NodeId | None,
        now: NodeId | None,
    ) -> None:
        if old is None:
            return
        was = find(self._old, old)
        if not stat.S_ISDIR(was.attr[0]):
            return
        if now is None:
            self._wants.append(_Want(directory, name, path, old, bare=True))
        elif stat.S_ISDIR(find(self._now, now).attr[0]):
            self._merge(path, old, now)
        else:
            raise Conflict(f"{show(path)} is no directory any more: move away what is there first")

    def _entry(
        self,
        path: Path,
        directory: NodeId | Made,
        name: bytes,
        old: NodeId | None,
        now: NodeId | None,
    ) -> None:
        if old is not None and old == now and old not in self._dirty:
            return
        if old is not None and now is not None and self._may_stay(old, now):
            self._takeown(path, old, now)
            if stat.S_ISDIR(find(self._now, now).attr[0]):
                self._merge(path, old, now)
            return
        if now is not None:
            assert not isinstance(directory, Made)
            remove = Remove(directory, name, path, now)
            self._plan.removes.append(remove)
            self._removed.setdefault(now, remove)
        if old is not None:
            self._wants.append(_Want(directory, name, path, old))

    def _takeown(self, path: Path, old: NodeId, now: NodeId) -> None:
        if own(find(self._old, old)) != own(find(self._now, now)):
            self._plan.attrs.append((now, old, path))

    def _fulfil(self, want: _Want) -> None:
        """Find where the node comes from: moved from where it is now, linked, or made anew."""
        was = find(self._old, want.old)
        is_dir = stat.S_ISDIR(was.attr[0])
        put = Put(want.directory, want.name, want.path, want.old)
        if want.bare or not self._is_reusable(want.old, is_dir=is_dir, put=put):
            put.source = self._make(want.old, shared=not is_dir)
        else:
            self._takeown(want.path, want.old, want.old)
        self._plan.puts.append(put)
        source = put.source
        if not is_dir:
            return
        if isinstance(source, Made) and not want.bare:
            for name, node in sorted(self._old.load_entries(want.old).items()):
                self._wants.append(_Want(source, name, (*want.path, name), node))
        else:
            self._merge(want.path, want.old, source)

    def _is_reusable(self, old: NodeId, *, is_dir: bool, put: Put) -> bool:
        """Return whether the present node can have the entry; say in *put* if it moves there."""
        if old in self._moved:
            return not is_dir
        if self._now.find_node(old) is None or not self._may_stay(old, old):
            return False
        found = self._removed_entry(old)
        if found is not None:
            self._moved.add(old)
            put.origin, put.origin_path = (found.directory, found.name), found.path
            return True
        # It stays where it is. Another name for it is right only if it was one of several.
        return not is_dir and find(self._old, old).attr[3] > 1 and old not in self._made

    def _make(self, old: NodeId, *, shared: bool) -> Made:
        made = self._made.get(old) if shared else None
        if made is None:
            made = Made(old)
            if shared:
                self._made[old] = made
        return made

    # --- what is the same ---

    def _may_stay(self, old: NodeId, now: NodeId) -> bool:
        """Whether the present node can stand for the old one once its mode and owner are right."""
        if old == now and old not in self._touched:
            return True
        if old != now and (self._old.find_node(now) or self._now.find_node(old)):
            return False  # one of them has its place elsewhere
        was, present = find(self._old, old), find(self._now, now)
        kind = stat.S_IFMT(was.attr[0])
        if kind != stat.S_IFMT(present.attr[0]):
            return False
        if kind == stat.S_IFDIR:
            return True
        if old != now and was.attr[3] + present.attr[3] > 2:
            return False  # names of one file must be names of one file again
        if (was.attr[5], was.attr[_MTIME]) != (present.attr[5], present.attr[_MTIME]):
            return False
        if kind != stat.S_IFREG:
            return was.target == present.target and was.attr[4] == present.attr[4]
        return self._store.same_bytes(
            self._old.load_extents(old), self._now.load_extents(now), was.attr[5]
        )

    def _mtime_differs(self, old: NodeId, now: NodeId) -> bool:
        return find(self._old, old).attr[_MTIME] != find(self._now, now).attr[_MTIME]

    # --- where things are ---

    def _removed_entry(self, node: NodeId) -> Remove | None:
        """Return an entry of the present node that will go; None when it keeps all it has."""
        remove = self._removed.get(node)
        if remove is not None:
            return remove
        above: list[NodeId] = [node]
        while (at := find(self._now, above[-1]).parent) != ROOT:
            if at in self._moved:
                return None
            remove = self._removed.get(at)
            above.append(at)
            if remove is not None:
                break
        if remove is None:
            return None
        names: list[bytes] = []
        for parent, child in zip(above[:0:-1], above[-2::-1], strict=True):
            entries = self._now.load_entries(parent)
            names += [name for name, found in entries.items() if found == child][:1]
        if len(names) < len(above) - 1:
            return None  # of several names, the one it is known by is another
        return Remove(above[1], names[-1], (*remove.path, *names), node)

    def _with_ancestors(self, touched: Collection[NodeId]) -> set[NodeId]:
        dirty = set(touched)
        for image in (self._old, self._now):
            for node in touched:
                stored = image.find_node(node)
                if stored is None:
                    continue
                parents = [stored.parent]
                if not stat.S_ISDIR(stored.attr[0]) and stored.attr[3] > 1:
                    parents = image.find_parents(node)
                for parent in parents:
                    at = parent
                    while at not in dirty:
                        dirty.add(at)
                        above = image.find_node(at)
                        if above is None:
                            break
                        at = above.parent
        # A chain may have met nodes that were touched but whose own ancestors come later: all
        # touched nodes are in the loop, so theirs are there in the end.
        dirty.add(ROOT)
        return dirty
