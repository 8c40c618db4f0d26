"""What is beside the table: the saved image, the cached rows, the journal, and what lies about."""

import os
from collections.abc import Iterator, Sequence

import numpy as np

from pondfs.errors import PondError, StoreDamaged
from pondfs.node import Version
from pondfs.store import imagefile, journal, table
from pondfs.store.check.point import read_whole
from pondfs.store.check.report import Wrong, invariant
from pondfs.store.check.tree import Tree
from pondfs.store.content import ContentReader, DataFile
from pondfs.store.deltalog import LOG_DIR, Snapshot
from pondfs.store.fold import fold_rows
from pondfs.store.image import ATTRS, Columns, Ints, TableImage
from pondfs.store.rowcache import CACHED_SCHEMA, RowCache
from pondfs.store.scan import Scan, read_rows

_LOOKS = 20
_TYPE_BITS = 0o170000  # S_IFMT
_DIR = 0o040000


@invariant("saved-image", mend="drops it and makes it anew")
def saved_image_agrees(
    store: str, files: Sequence[DataFile], tree: Tree, image: TableImage, reader: ContentReader
) -> Iterator[Wrong]:
    """The saved image, with the rows that came after it, is what a fold of all rows makes; one that
    is not whole, or outdated, is not used by anybody, and is no finding.
    """
    found = imagefile.load(store, files, image.version)
    if found is None:
        return
    saved, later = found
    if later:
        saved = fold_rows(read_rows(later), later, reader, image.version, saved)
    what, places = _difference(saved, image)
    if what:
        paths = tuple(path for place in places for path in tree.call(place)[1])
        yield Wrong(
            f"the saved image {imagefile.path_of(store)} has other {what} than the table, so the "
            "newest tree is shown wrong: 'pond repair' makes it anew",
            paths,
        )


def _difference(saved: TableImage, image: TableImage) -> tuple[str, list[int]]:
    """Return what of the saved image differs, "" for nothing; and some places where."""
    a, b = saved.columns, image.columns
    if not np.array_equal(a.ids, b.ids):
        return "nodes", []
    for name in (*ATTRS, "allocated"):
        differs = getattr(a, name) != getattr(b, name)
        if differs.any():
            return f"values of {name}", _some(np.flatnonzero(differs))
    if not _same_entries(a, b):
        return "names", []
    # Of directories: `..` leads there. Files have as many as they have names.
    moved = ((b.mode & _TYPE_BITS) == _DIR) & (a.parents != b.parents)
    moved &= np.isin(np.arange(len(b.ids)), b.entry_nodes)
    if moved.any():
        return "parents", _some(np.flatnonzero(moved))
    if a.targets != b.targets or a.metadata != b.metadata:
        return "symlinks' targets or extended attributes", []
    return _differing_extents(saved, image)


def _some(places: Ints) -> list[int]:
    chosen: list[int] = places[:10].tolist()
    return chosen


def _same_entries(a: Columns, b: Columns) -> bool:
    # Both in the order of directories, and inside of age.
    return (
        np.array_equal(a.entry_dirs, b.entry_dirs)
        and np.array_equal(a.entry_nodes, b.entry_nodes)
        and bool(a.name_array().equals(b.name_array()))
    )


def _differing_extents(saved: TableImage, image: TableImage) -> tuple[str, list[int]]:
    a, b = saved.columns, image.columns
    if not np.array_equal(a.extent_nodes, b.extent_nodes):
        return "extents", []
    differs = np.zeros(len(a.extent_nodes), bool)
    for name in ("offset", "length", "skip", "row", "content_length"):
        differs |= getattr(a, f"extent_{name}") != getattr(b, f"extent_{name}")
    number = {file.name: at for at, file in enumerate(image.places[0])}
    named = np.array([number.get(file.name, -1) for file in saved.places[0]], np.int64)
    if len(named):
        differs |= named[a.extent_file] != b.extent_file
    at, known = a.extent_position.astype(np.int64), b.extent_position.astype(np.int64)
    differs |= (at != known) & (at != -1) & (known != -1)
    return ("extents", _some(np.unique(b.extent_nodes[differs]))) if differs.any() else ("", [])


@invariant("cached-rows", mend="drops the cache, which is made anew when it is worth it")
def cached_rows_agree(store: str, files: Sequence[DataFile], scan: Scan) -> Iterator[Wrong]:
    """The cache of rows has the rows of data files as these have them."""
    cache = RowCache(store)
    columns = [name for name in CACHED_SCHEMA.names if name != "position"]
    rows = scan.table.select(columns)
    starts = np.append(0, np.cumsum(np.bincount(scan.file, minlength=len(files)))).tolist()
    for number, file in enumerate(files):
        place = cache.find(file)
        if place is None:
            continue
        first, stop = starts[number], starts[number + 1]
        cached = place.record.slice(place.first, place.rows)
        position = scan.position[first:stop]
        if (
            place.rows != stop - first
            or not cached.select(columns).equals(rows.slice(first, stop - first))
            or _moved(cached["position"].to_numpy(), position)
        ):
            yield Wrong(
                f"{os.path.join(store, table.POND_DIR, 'rows')} has other rows of data file "
                f"{file.name} than that has: 'pond repair' drops it"
            )


def _moved(cached: Ints, position: Ints) -> bool:
    return bool(((cached != position) & (cached != -1) & (position != -1)).any())


@invariant("journal")
def journal_is_whole(store: str, notes: list[str]) -> Iterator[Wrong]:
    """Every version in the journal that the table does not have can be read, up to a torn record at
    the end, which nobody was told of.
    """
    log_dir = os.path.join(store, LOG_DIR)
    told = ""
    for _ in range(_LOOKS):
        # Records are written over after a commit alone: what was read between two looks that find
        # no commit is what was there.
        before = _look(log_dir)
        if before is None:
            return
        newest = Version(before.pond_version)
        trouble = ""
        try:
            found = journal.load(store, str(before.metadata["id"]), newest)
            trouble, versions = found.trouble, found.versions
        except PondError as error:
            trouble, versions = str(error), ""
        after = _look(log_dir)
        if after is None or after.pond_version != newest:
            continue
        if trouble and trouble != told:
            # One read of a file that grows meanwhile may find some of what was written later
            # without what was written before it: what is damaged is so a second time.
            told = trouble
            continue
        if trouble:
            yield Wrong(
                f"{journal.journal_path(store)} is damaged ({trouble}): versions that programs "
                "were told to be durable are lost: restore the pond from a backup, or mount it to "
                "go on without them"
            )
        elif versions:
            notes.append(
                f"{versions}, only in the journal as yet, will be in the table when the pond is "
                "mounted, or after 'pond recover'"
            )
        return


def _look(log_dir: str) -> Snapshot | None:
    try:
        return read_whole(log_dir)
    except StoreDamaged:
        return None


def note_leftovers(store: str, snapshot: Snapshot, notes: list[str]) -> None:
    """Say what lies about and is no finding."""
    strays = table.find_strays(store, snapshot)
    strays = [name for name in strays if table.old_enough(store, name, 60.0)]
    if strays:
        notes.append(
            f"{len(strays)} data files are in no version (a crash left them, or another program); "
            "ours are removed by themselves"
        )
    if table.has_set_aside(store):
        aside = os.path.join(store, table.POND_DIR, table.SET_ASIDE_DIR)
        notes.append(f"{aside} has what was once not whole: look at it, then remove it")
