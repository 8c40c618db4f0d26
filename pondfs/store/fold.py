"""Folding the oplog into an image: whole columns at a time.

Later rows win, in the order of (version, seq):

- an entry is what the last row with its (directory, name) says;
- a node is what its last row with attributes says, unless a later row says it is gone;
- a file's bytes are its extents in order, each over the ones before; a row with ``valid_below``
  first clips all earlier extents of its node to below that offset (its own content counts after);
  at the end everything is clipped to the node's size;
- nodes without a name and with nlink 0 (open and unlinked when their bytes were staged) are not
  part of the tree.
"""

import logging
import stat
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pondfs.errors import StoreDamaged
from pondfs.extent import Content
from pondfs.node import ROOT, Version
from pondfs.store.content import ContentReader, DataFile
from pondfs.store.fold_extents import fold_extents
from pondfs.store.history import History, last_of, places_of
from pondfs.store.image import Columns, Ints, TableImage
from pondfs.store.scan import Scan, read_rows

log = logging.getLogger("pondfs.store")

_TYPE_BITS = 0o170000  # S_IFMT
_ATTRS = ("mode", "uid", "gid", "nlink", "rdev", "size", "atime_ns", "mtime_ns", "ctime_ns")


def load_image(
    files: Sequence[DataFile], reader: ContentReader, up_to: Version | None = None
) -> TableImage:
    """Return the image of the newest version in *files*, or of *up_to*.

    Raises: StoreDamaged when a file is gone or the rows make no tree.
    """
    if up_to is not None:
        files = [file for file in files if file.min_version <= up_to]
    # In the order of versions the rows are nearly always sorted already.
    files = sorted(files, key=lambda file: (file.max_version, file.min_version, file.name))
    return fold_rows(read_rows(files), files, reader, up_to)


def fold_rows(
    scan: Scan, files: list[DataFile], reader: ContentReader, up_to: Version | None = None
) -> TableImage:
    """Return the image the rows of *scan* make: of a part of the tree when they are a part.

    Raises: as `load_image`.
    """
    rows = History(scan, up_to)
    return TableImage(rows.newest, _fold(rows, files, reader), files)


def _fold(rows: History, files: list[DataFile], reader: ContentReader) -> Columns:
    entry_rows = _fold_entries(rows)
    node_rows = _fold_nodes(rows, entry_rows)
    ids = rows.node[node_rows]
    attrs = {name: rows.take(name, node_rows) for name in _ATTRS}
    root = int(places_of(ids, np.array([ROOT]))[0])
    if root < 0:
        raise StoreDamaged("the table has no root directory")
    # The dearest step (a search per row), so it is done once.
    place_of_row = places_of(ids, rows.node)

    entry_dirs = places_of(ids, rows.part[entry_rows])
    entry_nodes = place_of_row[entry_rows]
    lost = (entry_nodes < 0) & (entry_dirs >= 0)
    if lost.any():
        log.warning("%d entries lead to nodes the table does not have; left out", lost.sum())
    keep = np.flatnonzero((entry_dirs >= 0) & (entry_nodes >= 0))
    # By directory, and inside by age: a listing keeps its order from one mount to the next.
    keep = keep[np.lexsort((entry_rows[keep], entry_dirs[keep]))]
    entry_dirs, entry_nodes, entry_rows = entry_dirs[keep], entry_nodes[keep], entry_rows[keep]
    names, name_ends = _names(rows, entry_rows)

    # A node is where its entry is; one with several names, where the newest is.
    parents = np.full(len(ids), -1, np.int64)
    by_age = np.argsort(entry_rows, kind="stable")
    parents[entry_nodes[by_age]] = entry_dirs[by_age]
    nameless = np.flatnonzero(parents < 0)
    parents[nameless] = places_of(ids, rows.part[node_rows[nameless]])
    parents[parents < 0] = root

    metadata = rows.arrow("metadata", node_rows)
    places = np.flatnonzero(metadata.is_valid().to_numpy(zero_copy_only=False))
    extents = fold_extents(rows, place_of_row, attrs)
    allocated = np.zeros(len(ids), np.int64)
    np.add.at(allocated, extents["extent_nodes"], extents["extent_length"])
    return Columns(
        ids=ids,
        **attrs,
        allocated=allocated,
        parents=parents,
        entry_dirs=entry_dirs,
        entry_nodes=entry_nodes,
        names=names,
        name_ends=name_ends,
        **extents,
        targets=_load_targets(rows, place_of_row, attrs["mode"], files, reader),
        metadata=dict(
            zip(places.tolist(), metadata.take(pa.array(places)).to_pylist(), strict=True)
        ),
    ).narrow()


def _fold_entries(rows: History) -> Ints:
    """Return the rows of the live entries, oldest first."""
    named = np.flatnonzero(rows.has_name)
    if not len(named):
        return named
    # Equal names get equal numbers. A name that is not UTF-8 is known by its bytes alone.
    code = rows.arrow("name", named).dictionary_encode().indices.to_numpy()
    raw = rows.arrow("name_bytes", named)
    if raw.null_count < len(raw):
        raw_code = raw.dictionary_encode().indices.fill_null(-1).to_numpy()
        code = np.where(raw_code >= 0, -1 - raw_code, code)
    last = named[last_of(rows.part[named], code)]
    return np.sort(last[~rows.removed[last]])


def _fold_nodes(rows: History, entry_rows: Ints) -> Ints:
    """Return the row that says each live node's attributes, sorted by node id."""
    about = np.flatnonzero(rows.has_attr | (rows.removed & ~rows.has_name))
    last = about[last_of(rows.node[about])]
    last = last[~rows.removed[last]]
    live = rows.take("nlink", last) > 0
    if not live.all():
        live |= np.isin(rows.node[last], rows.node[entry_rows])
    found: Ints = last[live]
    return found


def _names(rows: History, entry_rows: Ints) -> tuple[bytes, Ints]:
    names = rows.arrow("name", entry_rows).cast(pa.binary())
    raw = rows.arrow("name_bytes", entry_rows)
    if raw.null_count < len(raw):
        names = pc.coalesce(raw, names)
    ends = np.frombuffer(names.buffers()[1], np.int32)[names.offset : names.offset + len(names) + 1]
    blob = names.buffers()[2]
    data = bytes(memoryview(blob)[int(ends[0]) : int(ends[-1])]) if blob is not None else b""
    return data, ends - ends[0]


def _load_targets(
    rows: History, place_of_row: Ints, mode: Ints, files: list[DataFile], reader: ContentReader
) -> dict[int, bytes]:
    """Read the symlinks' targets: few and short, and wanted without waiting for the disk."""
    is_symlink = (mode & _TYPE_BITS) == stat.S_IFLNK
    if not is_symlink.any():
        return {}
    with_content = np.flatnonzero(rows.has_content & (place_of_row >= 0))
    with_content = with_content[is_symlink[place_of_row[with_content]]]
    place = place_of_row[with_content]
    last = last_of(place)
    chosen = with_content[last]
    targets: dict[int, bytes] = {}
    for at, file, row, length in zip(
        place[last].tolist(),
        rows.file[chosen].tolist(),
        rows.row[chosen].tolist(),
        rows.take("length", chosen).tolist(),
        strict=True,
    ):
        target = bytearray(length)
        reader.read(Content.stored(files[file], row, length), 0, memoryview(target))
        targets[at] = bytes(target)
    return targets
