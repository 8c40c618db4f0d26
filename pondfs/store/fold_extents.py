"""Folding extents: which bytes of a file come from which row, whole columns at a time."""

import stat
from typing import Any

import numpy as np
import pyarrow.compute as pc

from pondfs.extent import Content, Extent, ExtentMap
from pondfs.store.history import History, Places
from pondfs.store.image import Columns, Ints

_TYPE_BITS = 0o170000  # S_IFMT


_COLUMNS = (
    "extent_nodes", "extent_offset", "extent_length", "extent_skip", "extent_file", "extent_row",
    "extent_position", "extent_content_length",
)  # fmt: skip


def fold_extents(
    rows: History, base: Columns, place: Places, attrs: dict[str, Ints]
) -> dict[str, Ints]:
    """Return the ``extent_*`` columns of an image.

    Shape: *attrs* are the live nodes' attributes. The result is sorted by (node, offset), without
    overlap.
    """
    is_file = (attrs["mode"] & _TYPE_BITS) == stat.S_IFREG
    with_content = np.flatnonzero(rows.has_content & (place.of_row >= 0))
    with_content = with_content[is_file[place.of_row[with_content]]]
    length = rows.take("length", with_content)
    columns = {
        "extent_nodes": place.of_row[with_content],
        "extent_offset": rows.take("offset", with_content),
        "extent_length": length,
        "extent_skip": np.zeros(len(length), np.int64),
        "extent_file": rows.file[with_content],
        "extent_row": rows.row[with_content],
        "extent_position": rows.position[with_content],
        "extent_content_length": length,
    }
    calm: dict[str, Ints] = {}
    time = with_content
    if len(base.extent_nodes):
        # What rows say nothing of stays as it is; the rest is older than any row.
        busy = np.zeros(len(attrs["mode"]) + 1, bool)  # the last is that of what is gone: -1
        busy[place.of_row] = True
        busy[-1] = False
        nodes = place.of_base[base.extent_nodes]
        calm = _take(base, nodes, np.flatnonzero((nodes >= 0) & ~busy[nodes]))
        older = _take(base, nodes, np.flatnonzero(busy[nodes]))
        columns = _joined(older, columns)
        time = np.concatenate([np.full(len(older["extent_nodes"]), -1, np.int64), time])
    columns["extent_length"] = clip(rows, place.of_row, time, columns)
    end = attrs["size"][columns["extent_nodes"]] - columns["extent_offset"]
    length = columns["extent_length"] = np.minimum(columns["extent_length"], end)

    kept = np.flatnonzero(length > 0)
    # Stable: equal offsets stay in the order of time.
    kept = kept[np.lexsort((columns["extent_offset"][kept], columns["extent_nodes"][kept]))]
    columns = _lay_over({name: column[kept] for name, column in columns.items()}, time[kept])
    if not calm:
        return columns
    columns = _joined(calm, columns)
    order = np.argsort(columns["extent_nodes"], kind="stable")
    return {name: column[order] for name, column in columns.items()}


def _take(base: Columns, nodes: Ints, chosen: Ints) -> dict[str, Ints]:
    taken = {name: getattr(base, name)[chosen].astype(np.int64) for name in _COLUMNS[1:]}
    return {"extent_nodes": nodes[chosen], **taken}


def _joined(some: dict[str, Ints], others: dict[str, Ints]) -> dict[str, Ints]:
    return {name: np.concatenate([some[name], others[name]]) for name in _COLUMNS}


def clip(rows: History, place_of_row: Ints, time: Ints, columns: dict[str, Ints]) -> Ints:
    """Return the lengths after every later ``valid_below`` of the same node.

    Shape: *time* is parallel to *columns*: the row each extent came with, -1 for earlier ones.
    """
    offset, whole = columns["extent_offset"], columns["extent_length"]
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
    node = np.concatenate([columns["extent_nodes"], place_of_row[clippers]])
    row = np.concatenate([time, clippers])
    ranks = np.concatenate([np.full(len(time), none), rank])
    # A row's own content counts after its clip, so in time the clip comes before the content.
    after = np.concatenate([np.ones(len(time), np.int8), np.zeros(len(clippers), np.int8)])
    order = np.lexsort((after, row, node))[::-1]
    group = node[order] * (none + 1)
    least = np.empty(len(order), np.int64)
    least[order] = np.minimum.accumulate(ranks[order] + group) - group
    least = least[: len(time)]
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
    merged["extent_skip"][len(calm) :] += piece[:, 3]
    order = np.lexsort((merged["extent_offset"], merged["extent_nodes"]))
    return {name: column[order] for name, column in merged.items()}
