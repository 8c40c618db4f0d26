"""Folding the oplog into an image: whole columns at a time.

Later rows win, in the order of (version, seq):

- an entry is what the last row with its (directory, name) says;
- a node is what its last row with attributes says, unless a later row says it is gone;
- a file's bytes are its extents in order, each over the ones before; a row with ``valid_below``
  first clips all earlier extents of its node to below that offset (its own content counts after);
  at the end everything is clipped to the node's size;
- nodes without a name and with nlink 0 (open and unlinked when their bytes were staged) are not
  part of the tree, the root aside.

Rows are laid over an image of what was before them, which at first is empty.
"""

import logging
import stat
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from pondfs.errors import StoreDamaged
from pondfs.extent import Content
from pondfs.node import ROOT, Version
from pondfs.store.content import ContentReader, DataFile
from pondfs.store.fold_entries import find_gone, last_entries, lay_entries
from pondfs.store.fold_extents import fold_extents
from pondfs.store.history import History, Places, last_of, places_of
from pondfs.store.image import ATTRS, EMPTY, Columns, Ints, TableImage
from pondfs.store.scan import Scan, read_rows

log = logging.getLogger("pondfs.store")

_TYPE_BITS = 0o170000  # S_IFMT


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
    scan: Scan,
    files: list[DataFile],
    reader: ContentReader,
    up_to: Version | None = None,
    base: TableImage | None = None,
) -> TableImage:
    """Return the image the rows of *scan* make: of a part of the tree when they are a part.

    Args:
        scan: rows.
        files: the files they are in.
        reader: reads symlinks' targets.
        up_to: leave later versions out.
        base: the image of the version before the first of *scan*; None: there is none.
    Raises: as `load_image`.
    """
    rows = History(scan, up_to)
    below, under = (EMPTY, []) if base is None else (base.columns, base.places[0])
    rows.file = rows.file + np.int32(len(under))
    together = [*under, *files]
    return TableImage(rows.newest, fold_history(rows, below, together, reader), together)


def fold_history(
    rows: History, base: Columns, files: list[DataFile], reader: ContentReader
) -> Columns:
    """Return the columns of an image: *rows* laid over *base*, their bytes in *files*.

    Raises: as `load_image`.
    """
    last = last_entries(rows)
    gone = find_gone(rows, base, last)
    entry_rows = np.sort(last[~rows.removed[last]])
    node_rows, removed = fold_nodes(rows, base, entry_rows, gone)
    if len(base.ids):
        ids = np.union1d(base.ids[~np.isin(base.ids, removed)], rows.node[node_rows])
    else:
        ids = rows.node[node_rows]
    if places_of(ids, np.array([ROOT]))[0] < 0:
        raise StoreDamaged("the table has no root directory")
    # The dearest step (a search per row), so it is done once.
    place = Places(places_of(ids, rows.node), places_of(ids, base.ids))

    stayed = np.flatnonzero(place.of_base >= 0)
    attrs: dict[str, Any] = {}
    for name in ATTRS:
        column = np.empty(len(ids), np.int64)
        column[place.of_base[stayed]] = getattr(base, name)[stayed]
        column[place.of_row[node_rows]] = rows.take(name, node_rows)
        attrs[name] = column

    extents: dict[str, Any] = fold_extents(rows, base, place, attrs)
    allocated = np.zeros(len(ids), np.int64)
    np.add.at(allocated, extents["extent_nodes"], extents["extent_length"])
    targets = _moved(base.targets, place.of_base)
    targets.update(_load_targets(rows, place.of_row, attrs["mode"], files, reader))
    return Columns(
        ids=ids,
        **attrs,
        allocated=allocated,
        **lay_entries(rows, base, ids, place, entry_rows, gone, node_rows),
        **extents,
        targets=targets,
        metadata=_lay_metadata(rows, base, place, node_rows),
    ).narrow()


def fold_nodes(rows: History, base: Columns, entry_rows: Ints, gone: Ints) -> tuple[Ints, Ints]:
    """Return the rows that say live nodes' attributes, by node id; and the ids that are no more."""
    about = np.flatnonzero(rows.has_attr | (rows.removed & ~rows.has_name))
    last = about[last_of(rows.node[about])]
    live = ~rows.removed[last]
    nameless = live & (rows.take("nlink", last) <= 0)
    if nameless.any():
        named = [rows.node[entry_rows]]
        if len(base.ids):
            named.append(base.ids[np.delete(base.entry_nodes, gone)])
        # The root has no name, whatever its count of links says.
        named.append(np.array([ROOT]))
        live &= ~nameless | np.isin(rows.node[last], np.concatenate(named))
    return last[live], rows.node[last[~live]]


def _lay_metadata(rows: History, base: Columns, place: Places, node_rows: Ints) -> dict[int, str]:
    found = _moved(base.metadata, place.of_base)
    values = rows.arrow("metadata", node_rows)
    at = place.of_row[node_rows]
    if found:
        for known in at[values.is_null().to_numpy(zero_copy_only=False)].tolist():
            found.pop(known, None)
    there = np.flatnonzero(values.is_valid().to_numpy(zero_copy_only=False))
    found.update(zip(at[there].tolist(), values.take(pa.array(there)).to_pylist(), strict=True))
    return found


def _moved(by_place: dict[int, Any], place_of_base: Ints) -> dict[int, Any]:
    """Return what is known by place in the base by place in the result."""
    if not by_place:
        return {}
    now = place_of_base[list(by_place)].tolist()
    return {at: value for at, value in zip(now, by_place.values(), strict=True) if at >= 0}


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
