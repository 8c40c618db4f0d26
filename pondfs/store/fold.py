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
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pondfs.errors import StoreDamaged
from pondfs.extent import Content, Extent, ExtentMap
from pondfs.node import ROOT, Version
from pondfs.store.content import ContentReader, DataFile
from pondfs.store.image import Columns, Ints, TableImage
from pondfs.store.scan import Scan, read_rows

log = logging.getLogger("pondfs.store")

_ATTRS = ("mode", "uid", "gid", "nlink", "rdev", "size", "atime_ns", "mtime_ns", "ctime_ns")
_HEX_DIGITS = 16


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
    rows = _Rows(read_rows(files), up_to)
    return TableImage(rows.newest, _fold(rows, files, reader), files)


class _Rows:
    """The rows as numpy columns, in the order of (version, seq).

    Only columns every row needs are taken out here; the rest by `take`, for the rows that count.
    """

    def __init__(self, scan: Scan, up_to: Version | None) -> None:
        table = scan.table
        version = _ints(table, "version")
        is_commit = pc.equal(table["op"], "commit").to_numpy()
        commits = version[is_commit]
        if up_to is not None:
            commits = commits[commits <= up_to]
        if not len(commits):
            raise StoreDamaged("the table holds no commit of this pond")
        self.newest = Version(int(commits.max()))
        seq = _ints(table, "seq")
        order = np.flatnonzero((version <= self.newest) & ~is_commit)
        version, seq = version[order], seq[order]
        later = (version[1:] > version[:-1]) | (
            (version[1:] == version[:-1]) & (seq[1:] >= seq[:-1])
        )
        if not later.all():
            order = order[np.lexsort((seq, version))]
        elif len(order) == table.num_rows:
            order = np.arange(table.num_rows)
        self.table = table
        self.order = order
        self.count = len(order)
        self.file = scan.file[order]
        self.row = scan.row[order]
        self.position = scan.position[order]
        self.part = _node_ids(table, "part_id")[order]
        self.node = _node_ids(table, "node_id")[order]
        self.removed = table["removed"].to_numpy()[order]
        self.has_name = pc.is_valid(table["name"]).to_numpy()[order]
        self.has_attr = pc.is_valid(table["mode"]).to_numpy()[order]
        self.has_content = pc.is_valid(table["length"]).to_numpy()[order]

    def take(self, name: str, rows: Ints) -> Ints:
        """Return an integer column's values for *rows*, 0 where null."""
        return _ints(self.table, name)[self.order[rows]]

    def arrow(self, name: str, rows: Ints) -> pa.Array:
        """Return a column's values for *rows*."""
        return self.table[name].take(pa.array(self.order[rows])).combine_chunks()


def _ints(table: pa.Table, name: str) -> Ints:
    column = table[name]
    if column.null_count:
        column = column.fill_null(0)
    values: Ints = column.to_numpy()
    return values


def _node_ids(table: pa.Table, name: str) -> Ints:
    """Turn 16 hex digits each into numbers, without a Python string per row."""
    column = table[name].combine_chunks()
    count = len(column)
    if not count:
        return np.empty(0, np.int64)
    ends = np.frombuffer(column.buffers()[1], np.int32)[column.offset : column.offset + count + 1]
    start, stop = int(ends[0]), int(ends[-1])
    if stop - start != count * _HEX_DIGITS or (np.diff(ends) != _HEX_DIGITS).any():
        raise StoreDamaged(f"column {name} holds something that is no node id")
    digits = memoryview(column.buffers()[2])[start:stop]
    try:
        raw = bytes.fromhex(str(digits, "ascii"))
    except ValueError:
        raw = b""
    # fromhex passes over spaces, so it may also come out short.
    if len(raw) != count * 8:
        raise StoreDamaged(f"column {name} holds something that is no node id")
    return np.frombuffer(raw, ">i8").astype(np.int64)


def _last_of(*keys: Ints) -> Ints:
    """Return, sorted by *keys* (the first counts most), the place of each group's last row."""
    order = np.lexsort(keys[::-1])
    if not len(order):
        return order
    differs = np.zeros(len(order), bool)
    differs[-1] = True
    for key in keys:
        ordered = key[order]
        differs[:-1] |= ordered[1:] != ordered[:-1]
    return order[differs]


def _places(ids: Ints, wanted: Ints) -> Ints:
    """Return the place of each wanted id in the sorted *ids*; -1 where it is not."""
    if not len(ids):
        return np.full(len(wanted), -1, np.int64)
    places = np.minimum(ids.searchsorted(wanted), len(ids) - 1)
    found: Ints = np.where(ids[places] == wanted, places, -1)
    return found


def _fold(rows: _Rows, files: list[DataFile], reader: ContentReader) -> Columns:
    entry_rows = _fold_entries(rows)
    node_rows = _fold_nodes(rows, entry_rows)
    ids = rows.node[node_rows]
    attrs = {name: rows.take(name, node_rows) for name in _ATTRS}
    root = int(_places(ids, np.array([ROOT]))[0])
    if root < 0:
        raise StoreDamaged("the table has no root directory")
    # The dearest step (a search per row), so it is done once.
    place_of_row = _places(ids, rows.node)

    entry_dirs = _places(ids, rows.part[entry_rows])
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
    parents[nameless] = _places(ids, rows.part[node_rows[nameless]])
    parents[parents < 0] = root

    metadata = rows.arrow("metadata", node_rows)
    places = np.flatnonzero(metadata.is_valid().to_numpy(zero_copy_only=False))
    return Columns(
        ids=ids,
        **attrs,
        parents=parents,
        entry_dirs=entry_dirs,
        entry_nodes=entry_nodes,
        names=names,
        name_ends=name_ends,
        **_fold_extents(rows, place_of_row, attrs),
        targets=_load_targets(rows, place_of_row, attrs["mode"], files, reader),
        metadata=dict(
            zip(places.tolist(), metadata.take(pa.array(places)).to_pylist(), strict=True)
        ),
    ).narrow()


def _fold_entries(rows: _Rows) -> Ints:
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
    last = named[_last_of(rows.part[named], code)]
    return np.sort(last[~rows.removed[last]])


def _fold_nodes(rows: _Rows, entry_rows: Ints) -> Ints:
    """Return the row that says each live node's attributes, sorted by node id."""
    about = np.flatnonzero(rows.has_attr | (rows.removed & ~rows.has_name))
    last = about[_last_of(rows.node[about])]
    last = last[~rows.removed[last]]
    live = rows.take("nlink", last) > 0
    if not live.all():
        live |= np.isin(rows.node[last], rows.node[entry_rows])
    found: Ints = last[live]
    return found


def _names(rows: _Rows, entry_rows: Ints) -> tuple[bytes, Ints]:
    names = rows.arrow("name", entry_rows).cast(pa.binary())
    raw = rows.arrow("name_bytes", entry_rows)
    if raw.null_count < len(raw):
        names = pc.coalesce(raw, names)
    ends = np.frombuffer(names.buffers()[1], np.int32)[names.offset : names.offset + len(names) + 1]
    blob = names.buffers()[2]
    data = bytes(memoryview(blob)[int(ends[0]) : int(ends[-1])]) if blob is not None else b""
    return data, ends - ends[0]


def _fold_extents(rows: _Rows, place_of_row: Ints, attrs: dict[str, Ints]) -> dict[str, Ints]:
    is_file = (attrs["mode"] & 0o170000) == 0o100000
    with_content = np.flatnonzero(rows.has_content & (place_of_row >= 0))
    with_content = with_content[is_file[place_of_row[with_content]]]
    node = place_of_row[with_content]
    offset = rows.take("offset", with_content)
    whole = rows.take("length", with_content)
    length = _clip(rows, place_of_row, with_content, offset, whole)
    length = np.minimum(length, attrs["size"][node] - offset)

    kept = np.flatnonzero(length > 0)
    # Stable: equal offsets stay in the order of time.
    kept = kept[np.lexsort((offset[kept], node[kept]))]
    columns = {
        "extent_nodes": node[kept],
        "extent_offset": offset[kept],
        "extent_length": length[kept],
        "extent_skip": np.zeros(len(kept), np.int64),
        "extent_file": rows.file[with_content[kept]],
        "extent_row": rows.row[with_content[kept]],
        "extent_position": rows.position[with_content[kept]],
        "extent_content_length": whole[kept],
    }
    return _lay_over(columns, with_content[kept])


def _clip(rows: _Rows, place_of_row: Ints, with_content: Ints, offset: Ints, whole: Ints) -> Ints:
    """Return the lengths after every later ``valid_below`` of the same node."""
    valid = pc.is_valid(rows.table["valid_below"]).to_numpy()[rows.order]
    clippers = np.flatnonzero(valid & rows.has_attr & (place_of_row >= 0))
    if not len(clippers):
        return whole
    limit = rows.take("valid_below", clippers)
    # For each extent the least limit among its node's later rows: a running minimum from the end
    # of each node's rows. numpy's running minimum knows no groups, so limits become ranks, and
    # each node's ranks get a range of their own, falling towards the later nodes.
    values, rank = np.unique(limit, return_inverse=True)
    none = len(values)
    node = np.concatenate([place_of_row[with_content], place_of_row[clippers]])
    row = np.concatenate([with_content, clippers])
    ranks = np.concatenate([np.full(len(with_content), none), rank])
    # A row's own content counts after its clip, so in time the clip comes before the content.
    after = np.concatenate([np.ones(len(with_content), np.int8), np.zeros(len(clippers), np.int8)])
    order = np.lexsort((after, row, node))[::-1]
    group = node[order] * (none + 1)
    least = np.empty(len(order), np.int64)
    least[order] = np.minimum.accumulate(ranks[order] + group) - group
    least = least[: len(with_content)]
    limits = np.append(values, np.iinfo(np.int64).max)[least]
    clipped: Ints = np.minimum(whole, limits - offset)
    return clipped


def _lay_over(columns: dict[str, Ints], time: Ints) -> dict[str, Ints]:
    """Resolve overlaps: a later extent covers earlier ones. *time* orders them."""
    node, offset, length = (
        columns["extent_nodes"], columns["extent_offset"], columns["extent_length"],
    )  # fmt: skip
    overlap = (node[1:] == node[:-1]) & (offset[1:] < offset[:-1] + length[:-1])
    if not overlap.any():
        return columns
    # Sorted by offset, a file without overlapping neighbours has no overlap at all. The others,
    # which are few, are laid one extent over the other.
    busy = np.isin(node, np.unique(node[1:][overlap]))
    at = np.flatnonzero(busy)
    at = at[np.lexsort((time[at], node[at]))]
    pieces: list[tuple[int, int, int, int]] = []
    for group in np.split(at, np.flatnonzero(np.diff(node[at])) + 1):
        extents = ExtentMap()
        for place, start, size in zip(
            group.tolist(), offset[group].tolist(), length[group].tolist(), strict=True
        ):
            extents.write(Extent(start, size, Content.stored(None, place, size)))
        pieces.extend((e.content.row, e.offset, e.length, e.skip) for e in extents)
    calm = np.flatnonzero(~busy)
    piece = np.array(pieces, np.int64).reshape(-1, 4)
    source = np.concatenate([calm, piece[:, 0]])
    merged: dict[str, Any] = {name: column[source] for name, column in columns.items()}
    merged["extent_offset"][len(calm) :] = piece[:, 1]
    merged["extent_length"][len(calm) :] = piece[:, 2]
    merged["extent_skip"][len(calm) :] = piece[:, 3]
    order = np.lexsort((merged["extent_offset"], merged["extent_nodes"]))
    return {name: column[order] for name, column in merged.items()}


def _load_targets(
    rows: _Rows, place_of_row: Ints, mode: Ints, files: list[DataFile], reader: ContentReader
) -> dict[int, bytes]:
    """Read the symlinks' targets: few and short, and wanted without waiting for the disk."""
    is_symlink = (mode & 0o170000) == 0o120000
    if not is_symlink.any():
        return {}
    with_content = np.flatnonzero(rows.has_content & (place_of_row >= 0))
    with_content = with_content[is_symlink[place_of_row[with_content]]]
    place = place_of_row[with_content]
    last = _last_of(place)
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
