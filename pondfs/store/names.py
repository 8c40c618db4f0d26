"""Every path that ever was, and what was there: the tree of names through all versions.

A path is what it led to, and when: pairs of a node and the versions in which the names led there.
So a directory that was moved shows under each of its paths what it held while it had that path,
and a path leads somewhere exactly if some version had it; the tree is finite, as each version's is.
"""

import os
import stat
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from pondfs.errors import NoSuchVersion
from pondfs.extent import Extent
from pondfs.interfaces import PastContent, PastName
from pondfs.node import ROOT, NodeId, Version
from pondfs.store.indexed import Holders, IndexedTrace
from pondfs.store.lives import CREATED, REPLACED, WRITTEN, Step, trace_file
from pondfs.store.replay import Replay

CONTENTS_KEPT = 100_000
"""Contents of files looked at last that stay listed: about 50 MB."""

_PLACES_KEPT = 20_000
_EVER = 1 << 62

Span = tuple[int, int]
Place = list[tuple[NodeId, list[Span]]]
"""What a path led to, by first time, and in which versions: half-open spans, ascending."""


class TableLives:
    """Implements `interfaces.Lives`. One call at a time."""

    def __init__(self, store: str | os.PathLike[str]) -> None:
        self._trace = IndexedTrace(store)
        self.newest: Version = self._trace.newest
        self._places: dict[tuple[bytes, ...], Place] = {(): [(ROOT, [(0, _EVER)])]}
        self._contents: OrderedDict[NodeId, list[PastContent]] = OrderedDict()
        self._kept = 0
        # By directory: the versions it changed in, and if everybody could search it from then on.
        self._searchable: dict[int, tuple[list[int], list[bool]]] = {}

    def close(self) -> None:
        """Let go of everything. Calling it twice is harmless."""
        self._trace.close()
        self._places.clear()
        self._contents.clear()
        pa.default_memory_pool().release_unused()

    # --- names ---

    def list_names(self, path: Sequence[bytes]) -> list[bytes]:
        """Return the names that were in the directory, oldest first. See `interfaces.Lives`."""
        names: dict[bytes, None] = {}
        for part, spans in self._place(tuple(path)):
            for name, holders in self._trace.directory(part).items():
                if _overlaps(holders, spans):
                    names[name] = None
        return list(names)

    def find_names(self, path: Sequence[bytes], names: Sequence[bytes]) -> list[PastName | None]:
        """Return what these names in the directory were. See `interfaces.Lives`."""
        above = self._place(tuple(path))
        rows = [self._shown(self._below(above, name)) for name in names]
        told = iter(self._told([row for row in rows if row >= 0]))
        return [next(told) if row >= 0 else None for row in rows]

    def _place(self, path: tuple[bytes, ...]) -> Place:
        place = self._places.get(path)
        if place is None:
            place = self._below(self._place(path[:-1]), path[-1])
            if len(self._places) > _PLACES_KEPT:
                root = self._places[()]
                self._places = {(): root}
            self._places[path] = place
        return place

    def _below(self, above: Place, name: bytes) -> Place:
        found: dict[NodeId, list[Span]] = {}
        for part, spans in above:
            held = self._trace.directory(part).get(name)
            if held is None:
                continue
            versions, nodes = held
            for at, node in enumerate(nodes):
                if not node:
                    continue
                start, stop = versions[at], versions[at + 1] if at + 1 < len(nodes) else _EVER
                common = [(max(start, a), min(stop, b)) for a, b in spans if a < stop and start < b]
                common = [(a, b) for a, b in common if a < b]
                if common:
                    found.setdefault(NodeId(node), []).extend(common)
        for spans in found.values():
            spans.sort()
        return sorted(found.items(), key=lambda item: item[1])

    def _shown(self, place: Place) -> int:
        """Return the row with the newest state of what was last there; a directory goes first."""
        trace = self._trace
        shown = -1
        for node, _ in sorted(place, key=lambda item: item[1][-1][1], reverse=True):
            row = trace.last_attr(node)
            if row >= 0 and stat.S_ISDIR(int(trace.mode[row])):
                return row
            shown = row if shown < 0 else shown
        return shown

    # --- attributes ---

    def _told(self, rows: Sequence[int]) -> list[PastName]:
        """Return what stands in *rows*, all of which have attributes."""
        if not rows:
            return []
        # In one go: each call to Arrow costs more than a few rows do.
        table = self._trace.rows.table.select(_TOLD)
        found = table.take(pa.array(self._trace.rows.order[np.array(rows, np.int64)]))
        *attrs, metadata = (column.to_pylist() for column in found.columns)
        return list(map(PastName, zip(*attrs, strict=True), metadata))

    # --- contents ---

    def list_contents(self, path: Sequence[bytes]) -> list[PastContent]:
        """Return what the file held, oldest first. See `interfaces.Lives`."""
        trace = self._trace
        files = [
            (spans[-1][1], node)
            for node, spans in self._place(tuple(path))
            if (row := trace.last_attr(node)) >= 0 and not stat.S_ISDIR(int(trace.mode[row]))
        ]
        if not files:
            return []
        node = max(files)[1]
        found = self._contents.get(node)
        if found is None:
            found = self._contents[node] = self._load_contents(node)
            self._kept += len(found)
            while self._kept > CONTENTS_KEPT and len(self._contents) > 1:
                self._kept -= len(self._contents.popitem(last=False)[1])
        else:
            self._contents.move_to_end(node)
        return found

    def _load_contents(self, node: NodeId) -> list[PastContent]:
        steps = [
            step
            for step in trace_file(self._trace, node, moves=False)
            if not {CREATED, REPLACED, WRITTEN}.isdisjoint(step.event.what) and step.attr_row >= 0
        ]
        steps.reverse()
        told = self._told([step.attr_row for step in steps])
        return list(map(self._content, steps, told))

    def _content(self, step: Step, told: PastName) -> PastContent:
        version = step.event.version
        return PastContent(
            version=version,
            time_ns=self._trace.times_us[version] * 1000,
            node=step.node,
            attr=told.attr,
            metadata=told.metadata,
            target=self._load_target(step.node) if stat.S_ISLNK(told.attr[0]) else None,
            allocated_bytes=step.allocated_bytes,
            was_private=not any(
                self._is_open(key.part, version) for key in self._trace.keys_at(step.node, version)
            ),
        )

    def _load_target(self, node: NodeId) -> bytes:
        extents = self._replay(node, self.newest).extents()
        return b"".join(self._trace.read(extent) for extent in extents)

    def load_extents(self, content: PastContent) -> list[Extent]:
        """Return a content's bytes. See `interfaces.Lives`."""
        if content.version not in self._trace.versions:
            raise NoSuchVersion(f"version {content.version} was pruned")
        return self._replay(content.node, content.version).extents()

    def _replay(self, node: NodeId, version: int) -> Replay:
        trace = self._trace
        about = trace.about(node)
        about = about[: np.searchsorted(trace.version[about], version, "right")]
        # Nothing from before the last row that cuts all off is left.
        below = trace.rows.arrow("valid_below", about).fill_null(-1).to_numpy(zero_copy_only=False)
        whole = np.flatnonzero((below == 0) & trace.rows.has_attr[about])
        replay = Replay(trace, about[whole[-1] :] if len(whole) else about)
        replay.take(version)
        return replay

    # --- who could get there ---

    def _is_open(self, directory: int, version: int) -> bool:
        """Return whether everybody could search a directory at *version*, and all above it."""
        while True:
            versions, answers = self._searchable_since(directory)
            at = bisect_right(versions, version) - 1
            if at < 0 or not answers[at]:
                return False
            if directory == ROOT:
                return True
            keys = self._trace.keys_at(directory, version)
            if not keys:
                return False
            directory = keys[0].part

    def _searchable_since(self, directory: int) -> tuple[list[int], list[bool]]:
        found = self._searchable.get(directory)
        if found is None:
            trace = self._trace
            if len(self._searchable) > _PLACES_KEPT:
                self._searchable.clear()
            about = trace.about(directory)
            about = about[trace.rows.has_attr[about]]
            answers = (trace.mode[about] & stat.S_IXOTH) != 0
            found = trace.version[about].tolist(), answers.tolist()
            self._searchable[directory] = found
        return found


_TOLD = [
    "mode", "uid", "gid", "nlink", "rdev", "size", "atime_ns", "mtime_ns", "ctime_ns", "metadata",
]  # fmt: skip


def _overlaps(holders: Holders, spans: Sequence[Span]) -> bool:
    versions, nodes = holders
    for at, node in enumerate(nodes):
        if node:
            start, stop = versions[at], versions[at + 1] if at + 1 < len(nodes) else _EVER
            if start < stop and any(a < stop and start < b for a, b in spans):
                return True
    return False
