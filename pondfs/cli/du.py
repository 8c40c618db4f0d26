"""``pond du``: what takes how much, now or then; and what each version added."""

import os
import stat
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import click

from pondfs.cli.globs import expand_all
from pondfs.cli.output import (
    format_count,
    format_local,
    format_path,
    format_size,
    print_json,
    print_table,
    progress,
)
from pondfs.cli.reach import (
    Place,
    find_place,
    load_usage,
    load_versions,
    path_in_pond,
    pond_option,
    store_bytes,
)
from pondfs.cli.trees import Failures, Tree, at_option, open_tree, spell, walk
from pondfs.errors import NotPermitted, UsageError
from pondfs.store.tree import NodeStat


@dataclass(slots=True)
class Sum:
    """What is at a path and below it; a file with several names counts once.

    Attributes:
        path: from the pond's root.
        bytes: the files' sizes, holes included.
        allocated_bytes: what of that is no hole.
        files: all that are no directories.
        directories: the one at *path* among them.
    """

    path: str
    bytes: int = 0
    allocated_bytes: int = 0
    files: int = 0
    directories: int = 0

    def count(self, info: NodeStat) -> None:
        """Count one more node."""
        if stat.S_ISDIR(info.mode):
            self.directories += 1
            return
        self.files += 1
        if stat.S_ISREG(info.mode):
            self.bytes += info.size_bytes
            self.allocated_bytes += info.allocated_bytes

    def add(self, other: "Sum") -> None:
        """Count what is in a directory below."""
        self.bytes += other.bytes
        self.allocated_bytes += other.allocated_bytes
        self.files += other.files
        self.directories += other.directories


@click.command("du")
@click.argument("paths", metavar="[PATH]...", nargs=-1)
@click.option("-s", "only_totals", is_flag=True, help="One line for each PATH only.")
@click.option(
    "-d", "depth", type=click.IntRange(0), metavar="DEPTH", help="Directories so far below only."
)
@click.option("--by-version", is_flag=True, help="What each version added.")
@at_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@pond_option
def command(
    paths: tuple[str, ...],
    only_totals: bool,
    depth: int | None,
    by_version: bool,
    at: str | None,
    as_json: bool,
) -> int:
    """Show the space that each directory takes with all below it, and each PATH.

    SIZE counts holes, ALLOCATED does not. A file with several names counts once, where it is met
    first. PATH may have wildcards. Without PATH it is the whole pond, and how much its store takes
    on the disk, with all versions.

    --by-version shows what each version added (with PATH: at or below it), and how much of that
    the newest version still has: the rest is what the past costs, and what pond prune could free.

    \b
    Example:
      pond du -d 1
      pond du -s notes photos --at yesterday
      pond du --by-version photos
    """
    if only_totals and depth:
        raise UsageError("-s is -d 0: leave one of them out")
    place = find_place()
    if by_version:
        if at is not None or only_totals or depth is not None:
            raise UsageError("--by-version is about all versions: leave -s, -d and --at out")
        if len(paths) > 1:
            raise UsageError("--by-version takes one PATH")
        return _show_versions(place, paths, as_json)
    failed = Failures()
    with progress("counting"):
        sums = _sums(place, paths, at, 0 if only_totals else depth, failed)
        stored = None if paths else store_bytes(place)
    if as_json:
        print_json({"paths": [asdict(one) for _, one in sums], "store_bytes": stored})
        return failed.code
    print_table(
        ("size", "allocated", "files", "path"),
        [
            (
                format_size(one.bytes),
                format_size(one.allocated_bytes),
                format_count(one.files),
                shown,
            )
            for shown, one in sums
        ],
        right="size allocated files",
    )
    if stored is not None:
        click.echo(f"all versions: {format_size(stored)} in {place.store}")
    return failed.code


def _sums(
    place: Place, paths: Sequence[str], at: str | None, depth: int | None, failed: Failures
) -> list[tuple[str, Sum]]:
    """Return what to show: how its path is spelled, and what is there."""
    found = []
    seen: set[int] = set()
    tree = open_tree(place, at)
    try:
        for one in expand_all(tree, place, paths or ("/",), failed, as_seen=at is None):
            for counted in _count(tree, one.path, one.info, depth, seen, failed):
                shown = spell(one.typed, one.path, os.fsencode(counted.path))
                found.append((format_path(shown), counted))
    finally:
        tree.close()
    return found


def _count(
    tree: Tree,
    top: bytes,
    info: NodeStat,
    depth: int | None,
    seen: set[int],
    failed: Failures,
) -> Iterator[Sum]:
    """Yield the directories at and below *top*, each after those in it; or the file it is.

    Args:
        tree: where to look.
        top: where to begin.
        info: what is there.
        depth: how far below to tell of directories one by one; None: all of them.
        seen: files with several names that were counted already.
        failed: told of directories that could not be read.
    """
    above = [(top, Sum(os.fsdecode(top)))]
    if info.ino not in seen:
        above[0][1].count(info)
    below: Iterable[tuple[bytes, NodeStat]] = ()
    if stat.S_ISDIR(info.mode):
        tree.entries(top)  # what was asked for must be readable; what is below may not be
        below = walk(tree, top, failed)
    elif info.nlink > 1:
        seen.add(info.ino)

    def leave() -> Iterator[Sum]:
        _, done = above.pop()
        if above:
            above[-1][1].add(done)
        if depth is None or len(above) <= depth:
            yield done

    for path, node in below:
        directory = path.rpartition(b"/")[0]
        while above[-1][0] != directory and len(above) > 1:
            yield from leave()
        if stat.S_ISDIR(node.mode):
            above.append((path, Sum(os.fsdecode(path))))
        elif node.nlink > 1:
            if node.ino in seen:
                continue
            seen.add(node.ino)
        above[-1][1].count(node)
    while above:
        yield from leave()


# --- by version -----------------------------------------------------------------------------------


def _show_versions(place: Place, paths: Sequence[str], as_json: bool) -> int:
    path = path_in_pond(place, paths[0]) if paths else ()
    with progress("counting"):
        versions = load_versions(place, None)
        try:
            usage = {one.version: one for one in load_usage(place, path)}
        except NotPermitted:
            if path:
                raise
            usage = {}  # the log may be asked all the same
    records: list[dict[str, Any]] = []
    for info in versions:
        used = usage.get(info.version)
        records.append(
            {
                "version": info.version,
                "timestamp": info.timestamp,
                "message": info.message,
                "bytes_added": used.stored_bytes if path and used else info.bytes_added,
                "stored_bytes": None if used is None else used.stored_bytes,
                "reachable_bytes": None if used is None else used.reachable_bytes,
            }
        )
    if as_json:
        print_json({"versions": records, "store_bytes": store_bytes(place)})
        return 0
    print_table(
        ("version", "time", "added", "stored", "reachable", "message"),
        [
            (
                str(record["version"]),
                format_local(record["timestamp"]),
                *(_size(record[key]) for key in ("bytes_added", "stored_bytes", "reachable_bytes")),
                format_path(os.fsencode(record["message"])),
            )
            for record in records
        ],
        right="version added stored reachable",
    )
    return 0


def _size(size: int | None) -> str:
    return "?" if size is None else format_size(size)
