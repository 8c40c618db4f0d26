"""``pond find``: names by what they are like, now or then."""

import os
import stat
import sys
from collections.abc import Callable, Iterator, Sequence
from fnmatch import fnmatchcase

import click

from pondfs.cli.ls import describe
from pondfs.cli.output import format_path, print_json, progress
from pondfs.cli.reach import find_place, path_in_pond, pond_option
from pondfs.cli.trees import (
    Failures,
    Tree,
    at_option,
    follow,
    open_tree,
    resolve_since,
    spell,
    walk,
)
from pondfs.errors import UsageError
from pondfs.options import parse_size
from pondfs.store.tree import NodeStat

# As find(1) has them.
_TYPES = {
    "f": stat.S_IFREG,
    "d": stat.S_IFDIR,
    "l": stat.S_IFLNK,
    "p": stat.S_IFIFO,
    "s": stat.S_IFSOCK,
    "b": stat.S_IFBLK,
    "c": stat.S_IFCHR,
}

Entry = tuple[bytes, NodeStat]
Test = Callable[[bytes, NodeStat], bool]


@click.command("find", short_help="Find files by name, type, size or change.")
@click.argument("path", default=".")
@click.option(
    "--name", metavar="GLOB", help="Names like this; with a slash, paths below PATH like this."
)
@click.option(
    "--type",
    "kinds",
    type=click.Choice(list(_TYPES)),
    multiple=True,
    help="Files, directories, symlinks (links), pipes, sockets, block or char devices.",
)
@click.option("--larger", metavar="SIZE", help="Files of more than SIZE: 1000, 64K, 1M, …")
@click.option("--smaller", metavar="SIZE", help="Files of less than SIZE.")
@click.option(
    "--changed-since", metavar="W", help="What changed after version W, or from time W on."
)
@at_option
@click.option("--json", "as_json", is_flag=True, help="Print a JSON array, one object a path.")
@click.option("-0", "nul", is_flag=True, help="Print paths as they are, each ended by a NUL.")
@pond_option
def command(
    path: str,
    name: str | None,
    kinds: Sequence[str],
    larger: str | None,
    smaller: str | None,
    changed_since: str | None,
    at: str | None,
    as_json: bool,
    nul: bool,
) -> int:
    """Find what is below PATH (by default where you stand in the mount, else the root).

    Everything asked must hold. In GLOB * and ? stand for anything but a slash, [ab] for one of
    these, ** for any directories; quote it. A name that was only moved has not changed. Without
    --at it is the tree as it is now; of a pond that is not mounted, the newest version.

    \b
    Example:
      pond find --name '*.jpg' --larger 10M
      pond find notes --name 'drafts/**/*.txt' --at 2026-06-20
      pond find --changed-since 1h-ago --type f -0 | xargs -0 ls -l
    """
    if as_json and nul:
        raise UsageError("--json and -0 are two ways to print: choose one")
    place = find_place()
    sizes = _sizes(larger, smaller)
    failed = Failures()
    with progress("reading"):
        since_ns = None if changed_since is None else resolve_since(place, changed_since)
        tree = open_tree(place, at)
    try:
        where, info = follow(tree, path_in_pond(place, path, as_seen=at is None), last=True)
        tests = list(_tests(name, where, kinds, sizes, since_ns))
        found = (
            (inner, facts)
            for inner, facts in _below(tree, where, info, failed)
            if all(test(inner, facts) for test in tests)
        )
        if as_json:
            print_json([describe(tree, *entry) for entry in found])
            return failed.code
        for inner, _ in found:
            shown = spell(path, where, inner)
            if nul:
                sys.stdout.buffer.write(shown + b"\0")
            else:
                click.echo(format_path(shown))
    finally:
        tree.close()
    sys.stdout.buffer.flush()
    return failed.code


def _below(tree: Tree, path: bytes, info: NodeStat, failed: Failures) -> Iterator[Entry]:
    if not stat.S_ISDIR(info.mode):
        yield path, info
        return
    tree.entries(path)  # what was asked for must be readable; what is below may not be
    yield from walk(tree, path, failed)


def _tests(
    name: str | None,
    root: bytes,
    kinds: Sequence[str],
    sizes: tuple[int | None, int | None],
    since_ns: int | None,
) -> Iterator[Test]:
    if name is not None:
        # As text, so that ? is a character; what is not UTF-8 is a character a byte.
        if "/" in name:
            globs = name.removeprefix("/").split("/")
            start = len(root) + 1 if root else 0
            yield lambda path, _: match_path(globs, os.fsdecode(path[start:]).split("/"))
        else:
            yield lambda path, _: fnmatchcase(os.fsdecode(path.rpartition(b"/")[2]), name)
    if kinds:
        wanted = {_TYPES[kind] for kind in kinds}
        yield lambda _, info: stat.S_IFMT(info.mode) in wanted
    larger, smaller = sizes
    if larger is not None:
        yield lambda _, info: stat.S_ISREG(info.mode) and info.size_bytes > larger
    if smaller is not None:
        yield lambda _, info: stat.S_ISREG(info.mode) and info.size_bytes < smaller
    if since_ns is not None:
        # The change time, which no program can set, and which a new mode or owner moves as well.
        yield lambda _, info: info.ctime_ns >= since_ns


def match_path(globs: Sequence[str], names: Sequence[str]) -> bool:
    """Return whether a path is like a glob, both split at slashes; ``**`` is any directories.

    As `glob.translate` has it from Python 3.13 on, but hidden names are names like any other.
    """
    at = _beyond_stars(globs, {0})
    for name in names:
        steps = set()
        for number in at:
            if number < len(globs) and globs[number] == "**":
                steps.add(number)
            elif number < len(globs) and fnmatchcase(name, globs[number]):
                steps.add(number + 1)
        at = _beyond_stars(globs, steps)
    return len(globs) in at


def _beyond_stars(globs: Sequence[str], at: set[int]) -> set[int]:
    """Add the places one gets to because ``**`` may stand for nothing."""
    reached = set(at)
    for number in at:
        while number < len(globs) and globs[number] == "**":
            number += 1
            reached.add(number)
    return reached


def _sizes(larger: str | None, smaller: str | None) -> tuple[int | None, int | None]:
    try:
        return (
            None if larger is None else parse_size(larger),
            None if smaller is None else parse_size(smaller),
        )
    except ValueError as error:
        raise UsageError(str(error)) from None
