"""What each version added, and how much of it the newest version still has."""

import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pondfs.node import Version
from pondfs.store.history import places_of
from pondfs.store.image import Ints
from pondfs.store.trace import Trace


@dataclass(frozen=True, slots=True)
class Usage:
    """The content of one version's rows.

    Attributes:
        version: the version.
        stored_bytes: what they hold; of versions that were pruned what is left counts for the
            next one.
        reachable_bytes: how much of that is in the newest version.
    """

    version: Version
    stored_bytes: int
    reachable_bytes: int


def load_usage(store: str | os.PathLike[str], path: Sequence[bytes] = ()) -> list[Usage]:
    """Return what each version's rows hold, oldest first; versions without any are there, too.

    With *path* it is what was written to what is there, or was below it then. A directory that was
    below it for a time counts as if always.

    Raises: NoSuchPath when no version has it; StoreDamaged.
    """
    trace = Trace(store)
    try:
        rows = trace.rows
        chosen = np.flatnonzero(rows.has_content)
        if path:
            chosen = chosen[_below(trace, trace.find_last(path)[0])[chosen]]
        stored = rows.take("length", chosen)
        versions = np.array(sorted(trace.versions))
        at = versions.searchsorted(trace.version[chosen])
        counts = [
            np.bincount(at, weights, len(versions)).astype(np.int64).tolist()
            for weights in (stored, _reachable(trace, chosen, stored))
        ]
        return [
            Usage(Version(version), *pair)
            for version, *pair in zip(versions.tolist(), *counts, strict=True)
        ]
    finally:
        trace.close()


def _below(trace: Trace, top: int) -> NDArray[np.bool_]:
    """Return which rows are about *top*, or about something in or below it."""
    rows = trace.rows
    directories = np.unique(rows.part)
    below = np.array([top], np.int64)
    while True:
        inside = rows.has_name & (places_of(below, rows.part) >= 0)
        grown = np.union1d(below, np.intersect1d(rows.node[inside], directories))
        if len(grown) == len(below):
            found: NDArray[np.bool_] = (rows.node == top) | (places_of(below, rows.part) >= 0)
            return found
        below = grown


def _reachable(trace: Trace, chosen: Ints, stored: Ints) -> Ints:
    """Return how many bytes of each of the rows *chosen* the newest version has."""
    rows = trace.rows
    image = trace.image_at(trace.newest, np.arange(rows.count)).columns
    # A symlink's target is in the image by itself.
    is_link = (image.mode.astype(np.int64) & 0o170000) == stat.S_IFLNK
    found = np.where(places_of(image.ids[is_link], rows.node[chosen]) >= 0, stored, 0)
    place = _place(rows.file[chosen], rows.row[chosen])
    order = np.argsort(place, kind="stable")
    at = places_of(place[order], _place(image.extent_file, image.extent_row))
    here = np.flatnonzero(at >= 0)
    np.add.at(found, order[at[here]], image.extent_length[here].astype(np.int64))
    return found


def _place(file: Ints, row: Ints) -> Ints:
    """Return a number for each row: its file, and where in it."""
    both: Ints = (file.astype(np.int64) << 32) | row.astype(np.int64)
    return both
