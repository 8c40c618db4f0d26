"""The check: one family of invariants after the other, as far as what was found allows.

What builds on something is looked at if that something holds: without rows there is no tree.
"""

import os
from collections.abc import Sequence

from pondfs.errors import NoSuchVersion, StoreDamaged
from pondfs.node import Version
from pondfs.store.check import caches, data, extents, files, log, point, tree, versions
from pondfs.store.check.affected import lost_paths
from pondfs.store.check.data import Progress
from pondfs.store.check.hash import MOST_HOLE_BYTES, hash_tree, hole_bytes
from pondfs.store.check.point import Point
from pondfs.store.check.report import DAMAGED, INVARIANTS, Report
from pondfs.store.check.tree import Tree
from pondfs.store.check.versions import Versions
from pondfs.store.content import ContentReader, DataFile
from pondfs.store.fold import fold_history
from pondfs.store.history import History
from pondfs.store.image import EMPTY, TableImage
from pondfs.store.lock import ReaderLock
from pondfs.store.memory import release_memory
from pondfs.store.prune_swap import has_mark, pruned_up_to
from pondfs.store.scan import Scan
from pondfs.store.table import POND_DIR
from pondfs.store.tags import tags_of

_OPEN_FILES = 256


def check_store(
    store: str | os.PathLike[str],
    *,
    data: bool = False,
    at: Version | None = None,
    progress: Progress = lambda what, share: None,
) -> Report:
    """Check the pond in *store* as it is when this begins. Beside a writer or without one.

    Args:
        store: its directory.
        data: read every byte of every data file, and make the tree's hash.
        at: the version whose tree is checked; None: the newest. All else is the same.
        progress: is told what is being done, and how much of it is done, from 0 to 1.
    Raises: NotAPond; NoSuchVersion; OSError.
    """
    path = os.path.abspath(os.fspath(store))
    # Before the log is read: what it names then stays until we are done.
    lock = ReaderLock(os.path.join(path, POND_DIR))
    try:
        return examine(path, data=data, at=at, progress=progress)[0]
    finally:
        lock.release()


def examine(
    path: str, *, data: bool, at: Version | None, progress: Progress
) -> tuple[Report, Tree | None]:
    """Do what `check_store` does; whoever asks sees to it that no data file goes meanwhile.

    Returns: also the tree that was checked; None when it did not get that far.
    """
    report = Report(path)
    progress("looking at the log", 0.0)
    where = point.take_point(path, report)
    if where is None:
        return report, None
    walk = log.walk_log(where.log_dir)
    report.version = Version(where.snapshot.pond_version)
    report.data_files = len(where.files)
    report.data_bytes = sum(file.size for file in where.files)
    report.add(
        log.checkpoints_agree(walk),
        log.checkpoints_are_readable(walk),
        log.nobody_took_rows(walk),
        log.last_checkpoint_is_there(where.log_dir),
        log.only_appends(where.log_dir, where.snapshot),
        caches.journal_is_whole(path, report.notes),
    )
    log.note_covered(walk, where.snapshot, report.notes)
    caches.note_leftovers(path, where.snapshot, report.notes)
    progress("reading the rows", 0.0)
    scan, good, lost = files.read_all_rows(where.files)
    paths = lost_paths(path, where.files, [file.name for file in lost]) if lost else {}
    report.add(
        files.files_are_there(where.files, paths),
        files.files_are_readable(lost, paths),
        files.statistics_hold(good, scan),
        caches.cached_rows_agree(path, good, scan),
    )
    where.readable = good
    release_memory()
    found = _check_rows(where, walk, scan, report, at, list(lost))
    reader = ContentReader(_OPEN_FILES)
    try:
        image = None if found is None else _check_tree(where, scan, found, report, reader, at)
        if data:
            _check_data(where, found, image, report, reader, progress)
    finally:
        reader.close()
    if report.findings and where.is_outdated():
        return examine(path, data=data, at=at, progress=progress)
    return report, found


def _check_rows(
    where: Point,
    walk: log.LogWalk,
    scan: Scan,
    report: Report,
    at: Version | None,
    lost: Sequence[DataFile],
) -> Tree | None:
    rows = Versions(scan)
    report.versions = len(rows.there)
    if not report.add(versions.rows_have_ids(rows)):
        return None
    pruned = max(walk.pruned, pruned_up_to(where.snapshot))
    if not (pruned or has_mark(where.snapshot) or walk.tells_all):
        pruned = versions.note_gaps(rows, report.version, lost, report.notes)
    report.add(
        versions.rows_have_an_order(rows),
        versions.rows_have_a_shape(rows),
        versions.versions_end_with_a_commit_row(rows),
        versions.no_version_is_missing(rows, walk, pruned, report.version, lost),
        versions.tags_name_versions(rows, tags_of(where.snapshot)),
    )
    report.loose_tags = versions.loose_tags(rows, tags_of(where.snapshot))
    if at is not None:
        if at not in rows.there:
            raise NoSuchVersion(f"there is no version {at} (never made, or pruned): see pond log")
        report.version = at
    if lost or not len(rows.there):
        report.notes.append("the tree was not checked, as rows are missing")
        return None
    return Tree(History(scan, at))


def _check_tree(
    where: Point, scan: Scan, found: Tree, report: Report, reader: ContentReader, at: Version | None
) -> TableImage | None:
    report.nodes = len(found.ids)
    if not report.add(tree.there_is_a_root(found)):
        return None
    report.add(
        tree.entries_lead_to_nodes(found),
        tree.entries_are_in_directories(found),
        tree.names_are_names(found),
        tree.odd_names_stand_twice(found),
        tree.directories_have_one_parent(found),
        tree.nodes_are_reachable(found),
        tree.directories_make_no_cycle(found),
        tree.links_are_counted(found),
        tree.modes_have_types(found),
        tree.types_agree(found),
        tree.devices_have_numbers(found),
        tree.extended_attributes_can_be_read(found),
        extents.sizes_can_be(found),
        extents.extents_are_inside(found),
    )
    if len(tree.bad_names(found)):
        # A fold refuses them all: whoever reads on would be led out of the tree.
        report.notes.append(
            "contents were not looked at, as some names can't be: repair them first"
        )
        return None
    try:
        columns = fold_history(found.rows, EMPTY, where.readable, reader)
    except (StoreDamaged, OSError) as error:
        report.add(tree.rows_make_a_tree(error))
        return None
    image = TableImage(found.rows.newest, columns, where.readable)
    report.add(
        extents.symlinks_have_targets(found, columns),
        extents.extents_are_disjoint(found, columns),
    )
    if at is None and where.head is None:
        report.add(caches.saved_image_agrees(where.store, where.readable, found, image, reader))
    return image


def _check_data(
    where: Point,
    found: Tree | None,
    image: TableImage | None,
    report: Report,
    reader: ContentReader,
    progress: Progress,
) -> None:
    report.read_bytes, bad = data.read_bytes(where.readable, progress)
    report.add(data.bytes_are_whole(where.readable, bad, found, image))
    is_tree = all(INVARIANTS[each.invariant].family != "tree" for each in report.findings)
    if image is None or report.verdict == DAMAGED or not is_tree:
        return  # a directory inside itself has no end
    if hole_bytes(image) > MOST_HOLE_BYTES:
        report.notes.append(
            f"no hash was made, as the files have {hole_bytes(image) >> 40:,} TiB of holes"
        )
        return
    report.tree_hash = hash_tree(image, reader, progress)
