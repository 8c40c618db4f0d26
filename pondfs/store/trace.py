"""Following names and nodes through all rows: who had a name when, where a node was when.

One look at all rows up to a version (their content stays where it is). What is asked for is then
found by whole columns, so that the tree around it is never folded.
"""

import os
from bisect import bisect_right
from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pondfs.entry import encode_name
from pondfs.errors import NoSuchPath
from pondfs.extent import Extent
from pondfs.node import ROOT, NodeId, Version
from pondfs.oplog import Preview
from pondfs.store.content import ContentReader, DataFile
from pondfs.store.equality import same_bytes
from pondfs.store.files import data_files
from pondfs.store.fold import fold_rows
from pondfs.store.history import History, places_of
from pondfs.store.image import Ints, TableImage
from pondfs.store.lock import ReaderLock
from pondfs.store.preview import with_preview
from pondfs.store.rowcache import RowCache
from pondfs.store.scan import Scan, in_order, read_rows
from pondfs.store.table import POND_DIR, open_table

_OPEN_FILES = 64
# Two odd numbers that mix directory and name into one: equal pairs stay equal, and the few others
# that meet only mean rows read in vain.
_MIX_PART, _MIX_NAME = np.int64(-7046029254386353131), np.int64(6364136223846793005)


class Key(NamedTuple):
    """An entry's place: its directory and its name."""

    part: int
    name: bytes


class Trace:
    """All rows of a pond, or those up to *up_to*, ordered by time.

    Attributes:
        rows: the rows.
        version: the version of each, parallel to the columns of *rows*; where that was pruned, the
            next one that was not, which is the first to show what the row says.
        newest: the newest version among them.
        versions: all of them.
        rewritten: nodes whose bytes a coming version (the *preview*) changes, and which are in no
            file yet.
    """

    def __init__(
        self,
        store: str | os.PathLike[str],
        up_to: Version | None = None,
        preview: Preview | None = None,
        files: list[DataFile] | None = None,
    ) -> None:
        """Read the rows.

        Args:
            store: the pond's directory.
            up_to: the newest version that counts; None: all do.
            preview: a coming version that shall be there, too.
            files: the data files to look at; None: those that the table has now.
        Raises: NotAPond, StoreDamaged.
        """
        path = os.path.abspath(os.fspath(store))
        # Before the log is read: what it names then stays until we are done.
        self._lock = ReaderLock(os.path.join(path, POND_DIR))
        if files is None:
            files = data_files(path, open_table(path, writable=False).snapshot)
        self._files = in_order(files, up_to)
        self._reader = ContentReader(max_open=_OPEN_FILES)
        self._scan = self._choose(read_rows(self._files, cache=RowCache(path)))
        self.rewritten = preview.rewritten if preview is not None else frozenset()
        if preview is not None:
            self._scan = with_preview(self._scan, preview)
        self.rows = History(self._scan, up_to)
        self.newest = self.rows.newest
        table = self._scan.table
        self._commits = np.flatnonzero(pc.equal(table["op"], "commit").to_numpy())
        there = np.unique(table["version"].to_numpy()[self._commits])
        self.versions = frozenset(there.tolist())
        version = self.rows.take("version", np.arange(self.rows.count))
        self.version: Ints = there[np.searchsorted(there, version)]
        self._holders: dict[Key, tuple[list[int], list[int]]] = {}
        self._keys: dict[int, list[Key]] = {}
        self._codes: Ints | None = None

    def _choose(self, scan: Scan) -> Scan:
        """Return the rows that are looked at; the ``commit`` rows are among them."""
        return scan

    def times(self) -> dict[int, datetime]:
        """Return when each version was committed."""
        rows = self._scan.table.select(["version", "timestamp"]).take(pa.array(self._commits))
        return dict(zip(rows["version"].to_pylist(), rows["timestamp"].to_pylist(), strict=True))

    def release(self) -> None:
        """Let data files be removed from here on: what is read later may then be StoreDamaged."""
        self._lock.release()

    def close(self) -> None:
        """Let go of open files."""
        self._reader.close()
        self._lock.release()

    def about(self, node: int) -> Ints:
        """Return the rows about a node, oldest first."""
        found: Ints = np.flatnonzero(self.rows.node == node)
        return found

    # --- names ---

    def names(self, rows: Ints) -> list[bytes]:
        """Return the names that stand in *rows*, all of which have one."""
        names = self.rows.arrow("name", rows).cast(pa.binary())
        found: list[bytes] = pc.coalesce(self.rows.arrow("name_bytes", rows), names).to_pylist()
        return found

    def holder(self, key: Key, version: int) -> NodeId | None:
        """Return the node that had this entry at *version*."""
        versions, nodes = self.holders(key)
        at = bisect_right(versions, version) - 1
        return NodeId(nodes[at]) if at >= 0 and nodes[at] else None

    def holders(self, key: Key) -> tuple[list[int], list[int]]:
        """Return the versions in which the entry changed, ascending, and whose it was from then on.

        Shape: parallel; 0 is nobody. Of several that are equal the last counts.
        """
        found = self._holders.get(key)
        if found is None:
            found = self._holders[key] = self._find_holders(key)
        return found

    def _find_holders(self, key: Key) -> tuple[list[int], list[int]]:
        rows = self.rows
        some = np.flatnonzero((rows.part == key.part) & rows.has_name)
        if len(some) > 1:
            same = pc.equal(rows.arrow("name", some), encode_name(key.name)[0])
            some = some[same.to_numpy(zero_copy_only=False)]
        some = some[[name == key.name for name in self.names(some)]] if len(some) else some
        nodes = np.where(rows.removed[some], 0, rows.node[some])
        return self.version[some].tolist(), nodes.tolist()

    def find_at(self, path: Sequence[bytes], version: int) -> NodeId | None:
        """Return what *path* led to at *version*."""
        node = ROOT
        for name in path:
            found = self.holder(Key(node, name), version)
            if found is None:
                return None
            node = found
        return node

    def find_last(self, path: Sequence[bytes]) -> tuple[NodeId, int]:
        """Return what *path* leads to at the newest version that has it, and a version it is at.

        Raises: NoSuchPath.
        """
        node = self.find_at(path, self.newest)
        if node is not None:
            return node, self.newest
        rows = self.rows
        wanted = pa.array([encode_name(name)[0] for name in path])
        named = np.flatnonzero(rows.has_name)
        like = pc.is_in(rows.arrow("name", named), wanted).to_numpy(zero_copy_only=False)
        # It went when one of its entries changed, so it was there in the version before that.
        for version in np.unique(self.version[named[like]])[::-1].tolist():
            node = self.find_at(path, version - 1)
            if node is not None:
                return node, version - 1
        raise NoSuchPath(f"no version has {show(path)}: paths count from the pond's root")

    def keys(self, node: int) -> list[Key]:
        """Return every entry the node ever had, oldest first."""
        found = self._keys.get(node)
        if found is None:
            some = self.about(node)
            some = some[self.rows.has_name[some]]
            pairs = zip(self.rows.part[some].tolist(), self.names(some), strict=True)
            found = self._keys[node] = list(dict.fromkeys(Key(*pair) for pair in pairs))
        return found

    def keys_at(self, node: int, version: int) -> list[Key]:
        """Return the entries the node had at *version*."""
        return [key for key in self.keys(node) if self.holder(key, version) == node]

    def paths_at(self, node: int, version: int) -> list[bytes]:
        """Return the node's paths at *version*, sorted; none when it was not in the tree."""
        paths = []
        for key in self.keys_at(node, version):
            names = [key.name]
            part = key.part
            while part != ROOT:
                above = self.keys_at(part, version)
                if not above:
                    break
                names.append(above[0].name)
                part = above[0].part
            else:
                paths.append(b"/".join(reversed(names)))
        return sorted(paths)

    # --- parts of the tree ---

    def around(self, nodes: Ints) -> Ints:
        """Return the rows that tell all about *nodes*: theirs, their directories', their rivals'.

        A rival is a node that once had the same entry: its row may be the one that decides.
        """
        rows = self.rows
        code = self._entry_codes()
        wanted = np.unique(np.append(nodes, ROOT))
        chosen = np.zeros(rows.count, bool)
        frontier = wanted
        while len(frontier):
            about = _among(rows.node, frontier)
            named = about & rows.has_name
            shared = rows.has_name & _among(code, np.unique(code[named]))
            chosen |= about | shared
            found = np.unique(np.concatenate([rows.part[named], rows.node[shared]]))
            frontier = found[~_among(found, wanted)]
            wanted = np.union1d(wanted, frontier)
        return np.flatnonzero(chosen)

    def rivals(self, chosen: Ints) -> Ints:
        """Return the nodes that ever had one of the entries in the rows *chosen*."""
        code = self._entry_codes()
        codes = np.unique(code[chosen[self.rows.has_name[chosen]]])
        found: Ints = np.unique(self.rows.node[self.rows.has_name & _among(code, codes)])
        return found

    def _entry_codes(self) -> Ints:
        if self._codes is not None:
            return self._codes
        rows = self.rows
        code = np.zeros(rows.count, np.int64)
        named = np.flatnonzero(rows.has_name)
        if len(named):
            name = rows.arrow("name", named).dictionary_encode().indices.to_numpy()
            code[named] = (rows.part[named] * _MIX_PART) ^ ((name + np.int64(1)) * _MIX_NAME)
        self._codes = code
        return code

    def image_at(self, version: Version, chosen: Ints) -> TableImage:
        """Return the image that the rows *chosen* make at *version*.

        Raises: StoreDamaged.
        """
        scan = self._scan
        some = np.sort(np.concatenate([self.rows.order[chosen], self._commits]))
        part = Scan(
            scan.table.take(pa.array(some)), scan.file[some], scan.row[some], scan.position[some]
        )
        return fold_rows(part, self._files, self._reader, version)

    # --- bytes ---

    def file_of(self, row: int) -> object:
        """Return the data file a row is in."""
        return self._files[int(self.rows.file[row])]

    def read(self, extent: Extent) -> bytes:
        """Return all bytes an extent shows. Raises: StoreDamaged, OSError."""
        data = bytearray(extent.length)
        self._reader.read(extent.content, extent.skip, memoryview(data))
        return bytes(data)

    def same_bytes(self, some: Sequence[Extent], other: Sequence[Extent], size: int) -> bool:
        """Return whether two files of *size* hold the same; reads only what is not one content."""
        return same_bytes(self._reader, some, other, size)


def show(path: Sequence[bytes]) -> str:
    """Return *path* for a message."""
    return "'/" + b"/".join(path).decode("utf-8", "backslashreplace") + "'"


def _among(values: Ints, wanted: Ints) -> Ints:
    """Return which of *values* are in the sorted *wanted*, which are few."""
    found: Ints = places_of(wanted, values) >= 0
    return found
