"""The bytes: which row holds which of a file, and that they are inside it."""

from collections.abc import Iterator

import numpy as np

from pondfs.store.check.report import Wrong, invariant
from pondfs.store.check.tree import Tree
from pondfs.store.fold_extents import clip
from pondfs.store.history import places_of
from pondfs.store.image import Columns, Ints

_TYPE_BITS = 0o170000  # S_IFMT
_REG, _LNK = 0o100000, 0o120000


def ends_of(tree: Tree) -> Ints:
    """Return where the bytes of each file end, cut off as its rows say; 0 for what has none."""
    rows = tree.rows
    place = places_of(tree.ids, rows.node)
    some = np.flatnonzero(rows.has_content & (place >= 0))
    some = some[tree.kind[place[some]] == _REG]
    offset, length = rows.take("offset", some), rows.take("length", some)
    columns = {
        "extent_nodes": place[some], "extent_offset": offset, "extent_length": length,
    }  # fmt: skip
    length = clip(rows, place, some, columns)
    ends = np.zeros(len(tree.ids), np.int64)
    there = length > 0
    np.maximum.at(ends, place[some[there]], (offset + length)[there])
    return ends


@invariant("extents-inside", mend="cuts them off where the file ends")
def extents_are_inside(tree: Tree) -> Iterator[Wrong]:
    """No bytes of a file lie beyond its size, after what rows with `valid_below` cut off."""
    ends = ends_of(tree)
    size = tree.attrs["size"]
    for place in np.flatnonzero((ends > size) & (size >= 0)).tolist():
        called, paths = tree.call(place)
        yield Wrong(
            f"{called} has bytes up to {ends[place]} but a size of {size[place]}: "
            "'pond repair' cuts them off, earlier versions keep them",
            paths,
        )


@invariant("node-size")
def sizes_can_be(tree: Tree) -> Iterator[Wrong]:
    """No size is below 0."""
    for place in np.flatnonzero(tree.attrs["size"] < 0).tolist():
        called, paths = tree.call(place)
        yield Wrong(
            f"{called} has a size of {tree.attrs['size'][place]}: restore it from an earlier "
            "version (pond cp --at) or a backup",
            paths,
        )


@invariant("symlink-target")
def symlinks_have_targets(tree: Tree, columns: Columns) -> Iterator[Wrong]:
    """Every symlink has a target, as long as its size says."""
    for place in np.flatnonzero(tree.kind == _LNK).tolist():
        target = columns.targets.get(place)
        if target is None or len(target) != tree.attrs["size"][place]:
            called, paths = tree.call(place)
            what = "no target" if target is None else f"a target of {len(target)} bytes"
            yield Wrong(
                f"{called} is a symlink of size {tree.attrs['size'][place]} with {what}: restore "
                "it from an earlier version (pond cp --at) or a backup",
                paths,
            )


@invariant("extents-disjoint")
def extents_are_disjoint(tree: Tree, columns: Columns) -> Iterator[Wrong]:
    """In the fold a file's extents are in order, do not overlap, end where it ends or before, and
    show nothing that their rows do not hold.
    """
    c = columns
    node = c.extent_nodes.astype(np.int64)
    offset, length = c.extent_offset.astype(np.int64), c.extent_length.astype(np.int64)
    skip, whole = c.extent_skip.astype(np.int64), c.extent_content_length.astype(np.int64)
    end = offset + length
    bad = (length <= 0) | (offset < 0) | (end > c.size[node]) | (skip < 0) | (skip + length > whole)
    bad[1:] |= (node[1:] == node[:-1]) & (offset[1:] < end[:-1])
    for place in np.unique(node[bad]).tolist():
        called, paths = tree.call(place)
        yield Wrong(
            f"the extents of {called} overlap, or lead out of the file or out of their rows: this "
            "is a bug in pondfs, please report it",
            paths,
        )
