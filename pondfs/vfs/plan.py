"""What it takes to make some paths be as they were: which entries go, which come, and from where.

`planner` makes plans from two images of the tree, `restore` carries them out.
"""

import errno
import stat
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field

from pondfs.errors import Conflict, FileError, NoSuchPath, UsageError
from pondfs.interfaces import Image, StoredNode, Tree
from pondfs.node import ROOT, NodeId, Version

Path = tuple[bytes, ...]

_MTIME, _CTIME = 7, 8


class Made:
    """A node to be made anew as *old* was; compared by identity. Names of one file share one."""

    __slots__ = ("old",)

    def __init__(self, old: NodeId) -> None:
        self.old = old


@dataclass(slots=True)
class Put:
    """An entry to be made.

    Attributes:
        directory: where: a node of now, or one to be made.
        name: its name.
        path: where that is, from the root.
        source: what it shall lead to: a node of now, or one to be made.
        origin: the entry of now from which *source* moves; None when it stays there, too.
        origin_path: where that is.
    """

    directory: NodeId | Made
    name: bytes
    path: Path
    source: NodeId | Made
    origin: tuple[NodeId, bytes] | None = None
    origin_path: Path | None = None


@dataclass(slots=True)
class Remove:
    """An entry of now to be removed, with all that is below it."""

    directory: NodeId
    name: bytes
    path: Path
    node: NodeId


@dataclass(slots=True)
class Plan:
    """Everything to be done, in no order: whoever does it removes first, then puts.

    Attributes:
        version: what shall be as it was.
        base: the version of now it was made for.
        attrs: nodes of now that take mode, owner and xattrs of an old one.
        times: directories of now whose mtime shall be an old one's: they get its very entries.
    """

    version: Version
    base: Version
    removes: list[Remove] = field(default_factory=list)
    puts: list[Put] = field(default_factory=list)
    attrs: list[tuple[NodeId, NodeId, Path]] = field(default_factory=list)
    times: list[tuple[NodeId, NodeId]] = field(default_factory=list)

    @property
    def empty(self) -> bool:
        """Whether there is nothing to do."""
        return not (self.removes or self.puts or self.attrs)

    def paths(self) -> set[Path]:
        """Return every path it changes; of what is removed or put whole, the topmost."""
        return {
            *(remove.path for remove in self.removes),
            *(put.path for put in self.puts),
            *(put.origin_path for put in self.puts if put.origin_path is not None),
            *(path for _, _, path in self.attrs),
        }

    def replaced(self) -> set[Path]:
        """Return every path whose entry goes, or comes to lead to something else."""
        return {
            *(remove.path for remove in self.removes),
            *(put.origin_path for put in self.puts if put.origin_path is not None),
        }

    def describe(self) -> list[tuple[str, Path, Path | None]]:
        """Return what it does, sorted by path: a letter, the path, and where a moved one was.

        ``A`` put back, ``D`` removed, ``M`` replaced, ``R`` moved back, ``m`` mode or owner.
        """
        gone = {(remove.directory, remove.name): remove.path for remove in self.removes}
        lines: list[tuple[str, Path, Path | None]] = []
        for put in self.puts:
            key = None if isinstance(put.directory, Made) else (put.directory, put.name)
            replaced = gone.pop(key, None) if key else None
            if put.origin is not None:
                lines.append(("R", put.path, put.origin_path))
            else:
                lines.append(("A" if replaced is None else "M", put.path, None))
        lines += [("D", path, None) for path in gone.values()]
        lines += [("m", path, None) for _, _, path in self.attrs]
        return sorted(lines, key=lambda line: line[1])


def plan_copies(old: Image, now: Image, paths: Collection[Path], into: Path) -> Plan:
    """Return a plan that puts copies of old paths into a directory, or under a name of their own.

    Raises: Conflict, NoSuchPath, UsageError.
    """
    plan = Plan(old.version, now.version)
    place = walk(now, into)
    if place is not None and not stat.S_ISDIR(find(now, place).attr[0]):
        raise Conflict(f"{show(into)} is there already: restore to another name")
    if place is not None and () in paths:
        raise UsageError(f"{show(into)} is there: name a directory to be made for the whole tree")
    if place is None and len(paths) > 1:
        raise UsageError(f"there is no directory {show(into)} to put several paths into")
    made: dict[NodeId, Made] = {}
    targets: set[Path] = set()
    for path in paths:
        target = into if place is None else (*into, path[-1])
        if target in targets:
            raise Conflict(f"two of the paths would be {show(target)}: restore them one by one")
        targets.add(target)
        directory = walk(now, target[:-1])
        if directory is None or not stat.S_ISDIR(find(now, directory).attr[0]):
            raise NoSuchPath(f"{show(target[:-1])} is no directory: make it first")
        if target[-1] in now.load_entries(directory):
            raise Conflict(f"{show(target)} is there already: restore to another name")
        source = walk(old, path)
        assert source is not None
        queue: list[tuple[NodeId | Made, Path, NodeId]] = [(directory, target, source)]
        for parent, where, node in queue:
            is_dir = stat.S_ISDIR(find(old, node).attr[0])
            copy = Made(node) if is_dir else made.setdefault(node, Made(node))
            plan.puts.append(Put(parent, where[-1], where, copy))
            if is_dir:
                children = sorted(old.load_entries(node).items())
                queue.extend((copy, (*where, name), child) for name, child in children)
    return plan


def refuse_cycles(plan: Plan, now: Image) -> None:
    """Refuse to put a directory below itself: a part of a tree can contradict the rest.

    Raises: Conflict.
    """
    places = {
        put.source: put.directory
        for put in plan.puts
        if isinstance(put.source, Made) or put.origin is not None
    }
    for source in places:
        seen = {source}
        at: NodeId | Made = source
        while at != ROOT:
            place = places.get(at)
            if place is None:
                stored = None if isinstance(at, Made) else now.find_node(at)
                if stored is None:
                    break
                place = stored.parent
            if place in seen:
                raise Conflict(
                    "it would put a directory below itself: directories have moved too much since"
                )
            seen.add(place)
            at = place


def conflicts(plan: Plan, then: Image, now: Image) -> Iterator[Path]:
    """Yield the paths of a plan, made for *then*, that changed again between *then* and *now*."""
    for remove in plan.removes:
        if now.load_entries(remove.directory).get(remove.name) != remove.node:
            yield remove.path
        else:
            yield from _changed_below(remove.path, remove.node, then, now)
    gone = {(remove.directory, remove.name) for remove in plan.removes}
    gone.update(put.origin for put in plan.puts if put.origin is not None)
    for put in plan.puts:
        if put.origin is not None and put.origin_path is not None:
            directory, name = put.origin
            is_there = now.load_entries(directory).get(name) == put.source
            if not is_there or _changed(put.source, then, now):
                yield put.origin_path
        elif not isinstance(put.source, Made) and now.find_node(put.source) is None:
            yield put.path
        if isinstance(put.directory, Made):
            continue
        is_free = (put.directory, put.name) in gone or put.name not in now.load_entries(
            put.directory
        )
        if now.find_node(put.directory) is None or not is_free:
            yield put.path
    for node, _, path in plan.attrs:
        stored = now.find_node(node)
        if stored is None or own(stored) != own(find(then, node)):
            yield path


def _changed_below(path: Path, node: NodeId, then: Image, now: Image) -> Iterator[Path]:
    stored = now.find_node(node)
    if stored is None or not stat.S_ISDIR(stored.attr[0]):
        if _changed(node, then, now):
            yield path
        return
    before, present = then.load_entries(node), now.load_entries(node)
    for name in sorted(before.keys() | present.keys()):
        if before.get(name) != present.get(name):
            yield (*path, name)
        else:
            yield from _changed_below((*path, name), present[name], then, now)


def _changed(node: NodeId | Made, then: Image, now: Image) -> bool:
    """Return whether a file is another than it was: any change but a moved atime sets its ctime."""
    assert not isinstance(node, Made)
    before, present = then.find_node(node), now.find_node(node)
    if before is None or present is None:
        return True
    return not stat.S_ISDIR(present.attr[0]) and before.attr[_CTIME] != present.attr[_CTIME]


def find(image: Tree, node: NodeId) -> StoredNode:
    """Return a node that has to be there."""
    stored = image.find_node(node)
    if stored is None:
        raise FileError(errno.ESTALE)
    return stored


def own(stored: StoredNode) -> tuple[object, ...]:
    """Return what a chmod, chown or setfattr changes."""
    return (*stored.attr[:3], stored.metadata)


def walk(image: Tree, path: Path) -> NodeId | None:
    """Return what *path* leads to; None when it leads to nothing."""
    node = ROOT
    for name in path:
        found = image.load_entries(node).get(name)
        if found is None:
            return None
        node = found
    return node


def show(path: Path) -> str:
    """Return *path* for a message."""
    return "/" + b"/".join(path).decode("utf-8", "backslashreplace")
