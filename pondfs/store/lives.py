"""One path through time: the distinct contents of a file, and the versions that touched a path.

A path means a node, and the node is followed under whatever names it had. Where it came to be in
the place of another file, as most editors save, that one's life is its earlier part.
"""

import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from pondfs.errors import UsageError
from pondfs.extent import Content, Extent, ExtentMap
from pondfs.node import ROOT, NodeId, Version
from pondfs.store.image import Ints
from pondfs.store.trace import Trace, show

CREATED, REPLACED, WRITTEN, RENAMED, REMOVED = (
    "created", "replaced", "written", "renamed", "removed",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Event:
    """What one version did to a file.

    Attributes:
        version: the version.
        path: where the file was then; where it last was, if it was removed.
        size: bytes; None when removed.
        what: of ``created`` ``replaced`` (a new file in the place of the old one) ``written``
            ``renamed`` ``removed``; it may be written and renamed at once.
        source: its path before, if ``renamed``.
    """

    version: Version
    path: bytes
    size: int | None
    what: tuple[str, ...]
    source: bytes | None


def load_history(store: str | os.PathLike[str], path: Sequence[bytes]) -> list[Event]:
    """Return what happened to the file, newest first.

    Raises: NoSuchPath; UsageError for a directory; StoreDamaged.
    """
    trace = Trace(store)
    try:
        events: list[Event] = []
        for node, last, replaces in _lineage(trace, path):
            if not _is_file(trace, node):
                raise UsageError(
                    f"{show(path)} is a directory: pond log PATH and pond diff A..B PATH show "
                    "what happened in one"
                )
            life = list(_life(trace, node, last, b"/".join(path)))
            if replaces and life:
                first = life[0]
                life[0] = Event(first.version, first.path, first.size, (REPLACED,), None)
            events.extend(reversed(life))
        return events
    finally:
        trace.close()


def load_touching(store: str | os.PathLike[str], path: Sequence[bytes]) -> set[Version] | None:
    """Return the versions that touched *path* or anything below it; None for all of them.

    Raises: NoSuchPath; StoreDamaged.
    """
    if not path:
        return None
    trace = Trace(store)
    try:
        found: set[int] = set()
        for node, last, _ in _lineage(trace, path):
            if _is_directory(trace, node):
                found |= _touching_below(trace, node)
            else:
                own = (trace.rows.node == node) & (trace.version <= last)
                found.update(np.unique(trace.version[own]).tolist())
        return {Version(version) for version in found}
    finally:
        trace.close()


def _lineage(trace: Trace, path: Sequence[bytes]) -> Iterator[tuple[NodeId, int, bool]]:
    """Yield the nodes a path led to, newest first: the last version of each, and if it replaced."""
    node, _ = trace.find_last(path)
    last = int(trace.newest)
    while True:
        before: NodeId | None = None
        born = last
        if node != ROOT and not _is_directory(trace, node):
            some = np.flatnonzero(trace.rows.node == node)
            born = int(trace.version[some[0]])
            for key in trace.keys_at(node, born):
                other = trace.holder(key, born - 1)
                if other is not None and other != node and _is_file(trace, other):
                    before = other
        yield node, last, before is not None
        if before is None:
            return
        node, last = before, born - 1


def _is_directory(trace: Trace, node: int) -> bool:
    # A directory's own row stands in its own partition.
    rows = trace.rows
    return bool(((rows.node == node) & (rows.part == node)).any())


def _is_file(trace: Trace, node: int) -> bool:
    """Return whether the node is no directory and its attributes are known."""
    about = np.flatnonzero((trace.rows.node == node) & trace.rows.has_attr)
    if not len(about):
        return False
    return not stat.S_ISDIR(int(trace.rows.take("mode", about[-1:])[0]))


# --- one file -------------------------------------------------------------------------------------


def _life(trace: Trace, node: NodeId, last: int, asked: bytes) -> Iterator[Event]:
    """Yield what happened to a node, oldest first."""
    rows = trace.rows
    about = np.flatnonzero((rows.node == node) & (trace.version <= last))
    state = _Bytes(trace, about)
    before: list[bytes] = []
    shown: tuple[int, list[Extent]] = (0, [])
    for version in _turning_points(trace, node, last, about):
        paths = trace.paths_at(node, version)
        if not paths:
            if before:
                yield Event(Version(version), _pick(before, asked), None, (REMOVED,), None)
            before = []
            continue
        now = state.at(version)
        what = []
        source = None
        if not before:
            what.append(CREATED)
        else:
            if now[0] != shown[0] or not trace.same_bytes(now[1], shown[1], now[0]):
                what.append(WRITTEN)
            lost = [path for path in before if path not in paths]
            if lost and any(path not in before for path in paths):
                what.append(RENAMED)
                source = _pick(lost, asked)
        if what:
            new = [path for path in paths if path not in before] if source else paths
            yield Event(Version(version), _pick(new, asked), now[0], tuple(what), source)
        before, shown = paths, now


def _pick(paths: list[bytes], asked: bytes) -> bytes:
    return asked if asked in paths else paths[0]


def _turning_points(trace: Trace, node: int, last: int, about: Ints) -> list[int]:
    """Return the versions in which the node, or a name above it, may have changed."""
    rows = trace.rows
    versions = set(trace.version[about].tolist())
    seen: set[int] = {ROOT}
    wanted = {key.part for key in trace.keys(node)}
    while wanted := wanted - seen:
        seen |= wanted
        above: set[int] = set()
        for directory in wanted:
            some = np.flatnonzero((rows.node == directory) & rows.has_name)
            versions.update(trace.version[some].tolist())
            above.update(rows.part[some].tolist())
        wanted = above
    return sorted(version for version in versions if version <= last)


class _Bytes:
    """A file's size and extents, version by version."""

    def __init__(self, trace: Trace, about: Ints) -> None:
        rows = trace.rows
        about = about[rows.has_attr[about] | rows.has_content[about]]
        valid = rows.arrow("valid_below", about).to_pylist()
        self._rows = list(
            zip(
                trace.version[about].tolist(),
                rows.has_attr[about].tolist(),
                rows.take("size", about).tolist(),
                valid,
                rows.has_content[about].tolist(),
                rows.take("offset", about).tolist(),
                rows.take("length", about).tolist(),
                about.tolist(),
                strict=True,
            )
        )
        self._trace = trace
        self._at = 0
        self._size = 0
        self._map = ExtentMap()

    def at(self, version: int) -> tuple[int, list[Extent]]:
        """Return size and extents at *version*; never ask for an earlier one afterwards."""
        trace, rows = self._trace, self._rows
        while self._at < len(rows) and rows[self._at][0] <= version:
            _, has_attr, size, below, has_content, offset, length, row = rows[self._at]
            self._at += 1
            if has_attr:
                self._size = size
                if below is not None:
                    self._map.truncate(below)
            if has_content and length:
                content = Content.stored(trace.file_of(row), int(trace.rows.row[row]), length)
                content.position = int(trace.rows.position[row])
                self._map.write(Extent(offset, length, content))
        return self._size, [extent for extent in self._map if extent.offset < self._size]


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
