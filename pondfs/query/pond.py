"""A pond as one session sees it: the same data files, and the same pending rows, to its end."""

import os
import stat
from functools import cached_property
from threading import Lock

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pondfs.node import FILE_TYPES, ROOT, NodeId, Version, format_node_id
from pondfs.store.content import ContentReader, DataFile
from pondfs.store.files import data_files
from pondfs.store.fold import fold_rows
from pondfs.store.image import Ints, TableImage
from pondfs.store.images import Images
from pondfs.store.lock import ReaderLock
from pondfs.store.preview import PendingRows
from pondfs.store.rowcache import RowCache
from pondfs.store.scan import FOLD_COLUMNS, Scan
from pondfs.store.table import POND_DIR, open_table
from pondfs.store.tags import tags_of

_OPEN_FILES = 64


class Pond:
    """What there was when it was opened. From any thread; no data file is removed meanwhile.

    Attributes:
        store: the pond's directory.
        files: its data files.
        tags: its tags.
        newest: the newest committed version.
        pending: rows of the coming version, as they were given; None without any.
    """

    def __init__(self, store: str | os.PathLike[str], pending: PendingRows | None) -> None:
        """Open the pond in *store*.

        Args:
            store: its directory.
            pending: rows of the coming version; of no account if it has been committed since.
        Raises: NotAPond, StoreDamaged, OSError.
        """
        self.store = os.path.abspath(os.fspath(store))
        # Before the log is read: what it names then stays until we are done.
        self._lock = ReaderLock(os.path.join(self.store, POND_DIR))
        try:
            snapshot = open_table(self.store, writable=False).snapshot
        except BaseException:
            self._lock.release()
            raise
        self.newest = Version(snapshot.pond_version)
        self.files = data_files(self.store, snapshot)
        self.tags = tags_of(snapshot)
        self.reader = ContentReader(max_open=_OPEN_FILES)
        self.pending = None
        if pending is not None:
            versions = pending.table(["version"])["version"]
            if len(versions) and versions[0].as_py() > self.newest:
                self.pending = pending
        self._images = Images(self.store, self.reader, lambda: self.files, writable=False)
        self._folded: dict[Version | None, TableImage] = {}
        self._folding = Lock()

    def close(self) -> None:
        """Let go of it. Calling it twice is harmless."""
        self.reader.close()
        self._folded.clear()
        self._lock.release()

    @cached_property
    def cache(self) -> RowCache:
        """The rows of some of the files."""
        return RowCache(self.store)

    def image(self, version: Version | None) -> TableImage:
        """Return the tree at *version*; None: the newest, with what is pending.

        The bytes of pending extents are nowhere: their data file has no name.

        Raises: NoSuchVersion, StoreDamaged.
        """
        if version is None and self.pending is None:
            version = self.newest
        with self._folding:
            if version not in self._folded:
                self._folded[version] = self._fold(version)
            return self._folded[version]

    def _fold(self, version: Version | None) -> TableImage:
        if version is not None:
            # The newest is no other than all there is.
            return self._images.load(None if version == self.newest else version)
        pending = self.pending
        assert pending is not None
        base = self._images.load(None)
        bare = pending.table(_BARE)
        is_file = pc.equal(bare["file_type"], FILE_TYPES[stat.S_IFREG])
        # The fold would read symlinks' targets from a file.
        length = pc.if_else(is_file, bare["length"], pa.scalar(None, pa.int64()))
        rows = bare.set_column(_BARE.index("length"), "length", length)
        rows = with_commit(rows.select(list(FOLD_COLUMNS)))
        nowhere = DataFile("", "", 0, "", 0)
        image = fold_rows(scan_of(rows, 0), [nowhere], self.reader, None, base)
        # A symlink is never staged.
        for node, target in _targets(pending.rows).items():
            place = image.find_place(NodeId(node))
            if place >= 0:
                image.columns.targets[place] = target
        return image


_BARE = (*FOLD_COLUMNS, "file_type")


def scan_of(rows: pa.Table, file: int) -> Scan:
    """Return *rows* as if they had been read from file number *file*, where nothing is found."""
    count = rows.num_rows
    return Scan(
        rows,
        np.full(count, file, np.int32),
        np.arange(count, dtype=np.int64),
        np.full(count, -1, np.int64),
    )


def with_commit(pending: pa.Table) -> pa.Table:
    """Return pending rows, of `FOLD_COLUMNS`, with the ``commit`` row without which they count as
    no version.
    """
    row = {
        **dict.fromkeys(FOLD_COLUMNS),
        "version": pending["version"][0].as_py(),
        "seq": pc.max(pending["seq"]).as_py() + 1,
        "timestamp": pc.max(pending["timestamp"]).as_py(),
        "op": "commit",
        "part_id": format_node_id(ROOT),
        "node_id": format_node_id(ROOT),
        "removed": False,
    }
    arrays = [pa.array([row[field.name]], field.type) for field in pending.schema]
    return pa.concat_tables([pending, pa.Table.from_arrays(arrays, schema=pending.schema)])


def _targets(pending: pa.Table) -> dict[int, bytes]:
    is_symlink = pc.equal(pending["file_type"], FILE_TYPES[stat.S_IFLNK])
    some = pending.filter(pc.and_(is_symlink, pc.is_valid(pending["length"])))
    nodes = [int(digits, 16) for digits in some["node_id"].to_pylist()]
    return dict(zip(nodes, some["content"].to_pylist(), strict=True))


_DIGITS = np.frombuffer(b"0123456789abcdef", np.uint8)


def format_ids(ids: Ints) -> pa.Array:
    """Return node ids as the table has them: 16 hex digits each."""
    octets = np.ascontiguousarray(ids, ">i8").view(np.uint8)
    digits = np.empty((len(octets), 2), np.uint8)
    digits[:, 0] = _DIGITS[octets >> 4]
    digits[:, 1] = _DIGITS[octets & 15]
    ends = np.arange(0, 16 * len(ids) + 1, 16, dtype=np.int32)
    buffers = [None, pa.py_buffer(ends), pa.py_buffer(digits)]
    return pa.Array.from_buffers(pa.string(), len(ids), buffers)
