"""Folding entries: which name in which directory leads to which node, whole columns at a time."""

import logging
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pondfs.errors import StoreDamaged
from pondfs.node import ROOT
from pondfs.store.history import History, Places, last_of, places_of
from pondfs.store.image import Columns, Ints, are_names, split_names

log = logging.getLogger("pondfs.store")


def last_entries(rows: History) -> Ints:
    """Return the last row about each entry, sorted by directory."""
    named = np.flatnonzero(rows.has_name)
    if not len(named):
        return named
    # Equal names get equal numbers. A name that is not UTF-8 is known by its bytes alone.
    code = rows.arrow("name", named).dictionary_encode().indices.to_numpy()
    raw = rows.arrow("name_bytes", named)
    if raw.null_count < len(raw):
        raw_code = raw.dictionary_encode().indices.fill_null(-1).to_numpy()
        code = np.where(raw_code >= 0, -1 - raw_code, code)
    return named[last_of(rows.part[named], code)]


def find_gone(rows: History, base: Columns, last: Ints) -> Ints:
    """Return the base's entries that *last*, as of `last_entries`, removes or replaces."""
    places = places_of(base.ids, rows.part[last])
    last, places = last[places >= 0], places[places >= 0]
    if not len(last):
        return last
    names = names_of(rows, last).to_pylist()
    found: list[int] = []
    starts = np.flatnonzero(np.diff(places, prepend=-1)).tolist()
    for start, stop in zip(starts, [*starts[1:], len(places)], strict=True):
        wanted = set(names[start:stop])
        first, end = base.entry_span(int(places[start]))
        ends = base.name_ends[first : end + 1].tolist()
        found.extend(
            first + at for at in range(end - first) if base.names[ends[at] : ends[at + 1]] in wanted
        )
    return np.array(found, np.int64)


def lay_entries(
    rows: History,
    base: Columns,
    ids: Ints,
    place: Places,
    entry_rows: Ints,
    gone: Ints,
    node_rows: Ints,
) -> dict[str, Any]:
    """Return the ``entry_*`` columns, the names and the parents of an image.

    Args:
        rows: what is laid over.
        base: what they are laid over.
        ids: all live nodes.
        place: where the nodes of rows and base are among those.
        entry_rows: the last rows about entries that are there, oldest first.
        gone: the base's entries that are no more, as of `find_gone`.
        node_rows: the last rows with the attributes of live nodes.
    Raises: StoreDamaged for what can be no name.
    """
    stayed = np.delete(np.arange(len(base.entry_dirs)), gone)
    dirs = np.concatenate(
        [place.of_base[base.entry_dirs[stayed]], places_of(ids, rows.part[entry_rows])]
    )
    nodes = np.concatenate([place.of_base[base.entry_nodes[stayed]], place.of_row[entry_rows]])
    lost = (nodes < 0) & (dirs >= 0)
    if lost.any():
        log.warning("%d entries lead to nodes the table does not have; left out", lost.sum())
    keep = np.flatnonzero((dirs >= 0) & (nodes >= 0))

    parents = np.full(len(ids), -1, np.int64)
    # A node is where its entry is; one with several names, where the newest is: of equal places
    # the last one counts.
    parents[nodes[keep]] = dirs[keep]
    if len(base.ids):
        _keep_parents(parents, base, place, gone, place.of_row[entry_rows])
    nameless = place.of_row[node_rows]
    nameless = np.flatnonzero(parents[nameless] < 0)
    of_row = node_rows[nameless]
    parents[place.of_row[of_row]] = places_of(ids, rows.part[of_row])
    parents[parents < 0] = places_of(ids, np.array([ROOT]))[0]

    # By directory, and inside by age: a listing keeps its order from one mount to the next.
    keep = keep[np.argsort(dirs[keep], kind="stable")]
    names = names_of(rows, entry_rows)
    if len(stayed):
        names = pa.concat_arrays([base.name_array().take(pa.array(stayed)), names])
    split = split_names(names.take(pa.array(keep)))
    if not are_names(split["names"], split["name_ends"]):
        raise StoreDamaged(
            "the table has a name that no file can have (with a slash or a NUL in it, '.', '..', "
            "empty or too long): who wrote it was no pondfs; 'pond repair' takes it out"
        )
    return {
        "entry_dirs": dirs[keep],
        "entry_nodes": nodes[keep],
        **split,
        "parents": parents,
    }


def _keep_parents(parents: Ints, base: Columns, place: Places, gone: Ints, renamed: Ints) -> None:
    """Leave nodes where they were, but those that have a new name or lost the one they had there.

    The base does not know which of several names is the newest.
    """
    moved = np.zeros(len(parents) + 1, bool)  # the last place is that of what is not live: -1
    moved[renamed] = True
    lost = base.entry_nodes[gone]
    lost = lost[base.entry_dirs[gone] == base.parents[lost]]
    moved[place.of_base[lost]] = True
    still = np.flatnonzero((place.of_base >= 0) & ~moved[place.of_base])
    parents[place.of_base[still]] = place.of_base[base.parents[still]]


def names_of(rows: History, entry_rows: Ints) -> pa.Array:
    """Return the names that rows are about, as bytes."""
    names = rows.arrow("name", entry_rows).cast(pa.binary())
    raw = rows.arrow("name_bytes", entry_rows)
    if raw.null_count < len(raw):
        names = pc.coalesce(raw, names)
    return names
