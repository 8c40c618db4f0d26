"""One path through time: the distinct contents of a file, and the versions that touched a path.

A path means a node, and the node is followed under whatever names it had. Where it came to be in
the place of another file, as most editors save, that one's life is its earlier part; so it is where
the last file of that name was removed and this one came later.
"""

import os
import stat
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime

import numpy as np

from pondfs.change import Event
from pondfs.errors import UsageError
from pondfs.node import ROOT, NodeId, Version
from pondfs.store.content import DataFile
from pondfs.store.image import Ints
from pondfs.store.path_trace import PathTrace
from pondfs.store.replay import Replay
from pondfs.store.trace import Key, Trace, show

CREATED, REPLACED, WRITTEN, RENAMED, REMOVED = (
    "created", "replaced", "written", "renamed", "removed",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Step:
    """An event, and where the file was to be found then.

    Attributes:
        event: what happened.
        node: the file.
        attr_row: the row with its attributes then; -1 when removed.
        allocated_bytes: how much of the size is no hole.
    """

    event: Event
    node: NodeId
    attr_row: int
    allocated_bytes: int


def load_history(store: str | os.PathLike[str], path: Sequence[bytes]) -> list[Event]:
    """Return what happened to the file, newest first.

    Raises: NoSuchPath; UsageError for a directory; StoreDamaged.
    """
    return load_dated_history(store, path)[0]


def load_dated_history(
    store: str | os.PathLike[str],
    path: Sequence[bytes],
    up_to: Version | None = None,
    files: list[DataFile] | None = None,
) -> tuple[list[Event], dict[int, datetime]]:
    """As `load_history`, and when each version was committed.

    Args:
        store: the pond's directory.
        path: names from the root.
        up_to: the newest version that counts; None: all do.
        files: the data files to look at; None: those that the table has now.
    """
    trace = PathTrace(store, path, up_to, files)
    try:
        node, _ = trace.find_last(path)
        if not is_file(trace, node):
            raise UsageError(
                f"{show(path)} is a directory: pond log PATH and pond diff A..B PATH show "
                "what happened in one"
            )
        return [step.event for step in trace_file(trace, node, b"/".join(path))], trace.times()
    finally:
        trace.close()


def trace_file(
    trace: Trace, node: NodeId, asked: bytes | None = None, *, moves: bool = True
) -> Iterator[Step]:
    """Yield what happened to a file and to those it came in the place of, newest first.

    Args:
        trace: the rows.
        node: the file.
        asked: of several paths, the one to show.
        moves: also what a rename of a directory above it did, which looks at all of them.
    Raises: StoreDamaged.
    """
    for own, last, replaces in _lineage(trace, node):
        life = list(_life(trace, own, last, asked, moves))
        if replaces and life:
            first = life[0].event
            event = Event(first.version, first.path, first.size, (REPLACED,), None)
            life[0] = Step(event, own, life[0].attr_row, life[0].allocated_bytes)
        yield from reversed(life)


def find_last(store: str | os.PathLike[str], path: Sequence[bytes]) -> Version:
    """Return the newest version in which *path* is. Raises: NoSuchPath; StoreDamaged."""
    return find_each_last(store, [path])[0]


def find_each_last(
    store: str | os.PathLike[str],
    paths: Sequence[Sequence[bytes]],
    up_to: Version | None = None,
) -> list[Version]:
    """Return the newest version, not after *up_to*, in which each of *paths* is.

    Raises: NoSuchPath; StoreDamaged.
    """
    trace = Trace(store, up_to)
    try:
        versions = sorted(trace.versions)
        known: dict[Sequence[bytes], tuple[int, int]] = {(): (ROOT, trace.newest)}
        found = []
        for path in paths:
            for depth in range(1, len(path) + 1):
                part = tuple(path[:depth])
                if part not in known:
                    known[part] = _find_last(trace, part, *known[part[:-1]])
            # Between two versions that are there it was as in the earlier.
            last = known[tuple(path)][1]
            found.append(Version(versions[bisect_right(versions, last) - 1]))
        return found
    finally:
        trace.close()


def _find_last(trace: Trace, path: Sequence[bytes], above: int, until: int) -> tuple[int, int]:
    """Return what `Trace.find_last` does; quick if *path* was last in *above*.

    That is the directory that the path before the last name leads to, last at *until*.
    """
    versions, nodes = trace.holders(Key(above, path[-1]))
    at = bisect_right(versions, until) - 1
    if at >= 0 and nodes[at]:
        return nodes[at], until
    if at > 0 and trace.find_at(path, versions[at] - 1) == nodes[at - 1] != 0:
        return nodes[at - 1], versions[at] - 1
    return trace.find_last(path)


def load_touching(store: str | os.PathLike[str], path: Sequence[bytes]) -> set[Version] | None:
    """Return the versions that touched *path* or anything below it; None for all of them.

    Raises: NoSuchPath; StoreDamaged.
    """
    if not path:
        return None
    trace = Trace(store)
    try:
        found: set[int] = set()
        for node, last, _ in _lineage(trace, trace.find_last(path)[0]):
            if _is_directory(trace, node):
                found |= _touching_below(trace, node)
            else:
                versions = trace.version[trace.about(node)]
                found.update(np.unique(versions[versions <= last]).tolist())
        return {Version(version) for version in found}
    finally:
        trace.close()


def _lineage(trace: Trace, node: NodeId) -> Iterator[tuple[NodeId, int, bool]]:
    """Yield a node and those before it, newest first: the last version of each, and if it replaced.

    Not only a file that was replaced comes before: also one that was removed, and later there was
    a new one of its name.
    """
    last = int(trace.newest)
    while True:
        before, replaced, born = None, False, last
        if node != ROOT and not _is_directory(trace, node):
            born = int(trace.version[trace.about(node)[0]])
            for key in trace.keys_at(node, born):
                before, replaced = _holder_before(trace, key, node, born)
                if before is not None:
                    break
        yield node, last, replaced
        if before is None:
            return
        node, last = before, born - 1


def _holder_before(trace: Trace, key: Key, node: NodeId, born: int) -> tuple[NodeId | None, bool]:
    """Return the file that had the entry last before *node* was born there, and if it had it still.

    None when that one was moved away: it goes on elsewhere, and so does its history.
    """
    versions, nodes = trace.holders(key)
    newest = bisect_right(versions, born - 1) - 1
    for at in range(newest, -1, -1):
        other = NodeId(nodes[at])
        until = versions[at + 1] if at + 1 < len(versions) else born
        if other in (0, node) or until <= versions[at] or not is_file(trace, other):
            continue
        if at == newest:
            return other, True
        return (None if trace.paths_at(other, until) else other), False
    return None, False


def _is_directory(trace: Trace, node: int) -> bool:
    # A directory's own row stands in its own partition.
    return bool((trace.rows.part[trace.about(node)] == node).any())


def is_file(trace: Trace, node: int) -> bool:
    """Return whether the node is no directory and its attributes are known."""
    about = trace.about(node)
    about = about[trace.rows.has_attr[about]]
    if not len(about):
        return False
    return not stat.S_ISDIR(trace.rows.arrow("mode", about[-1:])[0].as_py())


# --- one file -------------------------------------------------------------------------------------


def _life(
    trace: Trace, node: NodeId, last: int, asked: bytes | None, moves: bool
) -> Iterator[Step]:
    """Yield what happened to a node, oldest first."""
    about = trace.about(node)
    about = about[trace.version[about] <= last]
    replay = Replay(trace, about)
    before: list[bytes] = []
    for version in _turning_points(trace, node, last, about, moves):
        paths = trace.paths_at(node, version)
        if not paths:
            if before:
                event = Event(Version(version), _pick(before, asked), None, (REMOVED,), None)
                yield Step(event, node, -1, 0)
            before = []
            continue
        is_written = replay.step(version)
        what = []
        source = None
        if not before:
            what.append(CREATED)
        else:
            if is_written:
                what.append(WRITTEN)
            lost = [path for path in before if path not in paths]
            if lost and any(path not in before for path in paths):
                what.append(RENAMED)
                source = _pick(lost, asked)
        if what:
            new = [path for path in paths if path not in before] if source else paths
            event = Event(Version(version), _pick(new, asked), replay.size, tuple(what), source)
            yield Step(event, node, replay.attr_row, replay.allocated_bytes)
        before = paths


def _pick(paths: list[bytes], asked: bytes | None) -> bytes:
    return asked if asked is not None and asked in paths else paths[0]


def _turning_points(trace: Trace, node: int, last: int, about: Ints, moves: bool) -> list[int]:
    """Return the versions in which the node, or if *moves* a name above it, may have changed."""
    rows = trace.rows
    versions = set(trace.version[about].tolist())
    seen: set[int] = {ROOT}
    wanted = {key.part for key in trace.keys(node)} if moves else set()
    while wanted := wanted - seen:
        seen |= wanted
        above: set[int] = set()
        for directory in wanted:
            some = trace.about(directory)
            some = some[rows.has_name[some]]
            versions.update(trace.version[some].tolist())
            above.update(rows.part[some].tolist())
        wanted = above
    return sorted(version for version in versions if version <= last)


# --- a directory ----------------------------------------------------------------------------------


def _touching_below(trace: Trace, top: NodeId) -> set[int]:
    """Return the versions with a row about *top* or about anything that was below it then."""
    rows = trace.rows
    directories = np.unique(rows.part)
    below = np.array([top], np.int64)
    while True:
        inside = rows.has_name & np.isin(rows.part, below)
        grown = np.union1d(below, np.intersect1d(rows.node[inside], directories))
        if len(grown) == len(below):
            break
        below = grown
    inside = np.isin(rows.part, below)
    about_top = rows.node == top
    found = set(np.unique(trace.version[about_top]).tolist())
    ever_inside = np.unique(rows.node[inside & rows.has_name])
    elsewhere = np.isin(rows.node, ever_inside) & ~inside & ~about_top
    moved = elsewhere & rows.has_name
    where: dict[tuple[int, int], bool] = {}
    if np.isin(rows.node[moved], directories).any():
        # Some directory was not always below, so each has to be looked at when it was changed.
        pairs = np.unique(np.stack([rows.part[inside], trace.version[inside]], axis=1), axis=0)
        found.update(v for part, v in pairs.tolist() if _is_below(trace, part, v, top, where))
    else:
        found.update(np.unique(trace.version[inside]).tolist())
    # Rows that stand in the partition of another name of theirs.
    pairs = np.unique(np.stack([rows.node[elsewhere], trace.version[elsewhere]], axis=1), axis=0)
    for node, version in pairs.tolist():
        if version not in found and any(
            _is_below(trace, key.part, version, top, where) for key in trace.keys_at(node, version)
        ):
            found.add(version)
    return found


def _is_below(
    trace: Trace, directory: int, version: int, top: int, known: dict[tuple[int, int], bool]
) -> bool:
    """Return whether a directory was *top* or below it in *version* (or just before it went)."""
    climbed = []
    result = False
    while (directory, version) not in known:
        if directory in (top, ROOT):
            result = directory == top
            break
        climbed.append((directory, version))
        keys = trace.keys_at(directory, version) or trace.keys_at(directory, version - 1)
        if not keys:
            break
        directory = keys[0].part
    else:
        result = known[directory, version]
    known.update(dict.fromkeys(climbed, result))
    return result
