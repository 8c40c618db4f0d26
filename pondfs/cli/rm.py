"""``pond rm``: remove files and trees; their history stays."""

import errno
import os
import stat
from collections.abc import Iterator

import click

from pondfs.cli.changing import (
    BackendTree,
    ChangingCommand,
    Work,
    changing,
    commit_options,
    refuse_special,
    tell,
)
from pondfs.cli.globs import Found, expand, parse
from pondfs.cli.output import format_path
from pondfs.cli.reach import Place, find_place, pond_option
from pondfs.cli.targets import directories_above
from pondfs.cli.trees import Tree
from pondfs.errors import NoSuchPath, UsageError
from pondfs.node import FILE_TYPES
from pondfs.store.tree import NodeStat


@click.command("rm", cls=ChangingCommand)
@click.argument("paths", metavar="PATH...", nargs=-1, required=True)
@click.option("-r", "-R", "--recursive", is_flag=True, help="Directories too, with all in them.")
@click.option("-f", "--force", is_flag=True, help="What is not there is fine.")
@click.option("-n", "--dry-run", is_flag=True, help="Only say what would be removed.")
@commit_options
@click.option("--json", "as_json", is_flag=True, help="Print {version, dry_run, done} as JSON.")
@pond_option
def command(
    paths: tuple[str, ...],
    recursive: bool,
    force: bool,
    dry_run: bool,
    message: str | None,
    no_commit: bool,
    as_json: bool,
) -> None:
    """Remove PATH, or several. History stays: pond restore brings it back.

    All is looked up before anything is removed, so a PATH that is missing, or a directory without
    -r, leaves everything as it is. Symlinks are removed, not followed.

    \b
    Example:
      pond rm 'raw/2026-*.csv'
      pond rm -r -n 'projects/*/build'
    """
    place = find_place()
    with changing(place, message, no_commit, dry_run=dry_run) as work:
        found = _choose(work.tree, place, paths, recursive, force)
        if not dry_run:
            for one in found:
                for path, is_directory in _last_first(work, one):
                    if is_directory:
                        work.backend.rmdir(path)
                    else:
                        work.backend.unlink(path)
    done = [
        {
            "op": "remove",
            "path": os.fsdecode(one.path),
            "type": FILE_TYPES[stat.S_IFMT(one.info.mode)],
        }
        for one in found
    ]
    lines = [f"would remove {format_path(os.fsencode(one.typed))}" for one in found]
    tell(work.version, done, lines if dry_run else [], as_json=as_json, dry_run=dry_run)


def _choose(
    tree: Tree, place: Place, paths: tuple[str, ...], recursive: bool, force: bool
) -> list[Found]:
    """Return what is to be removed, nothing twice. Raises: NoSuchPath, UsageError."""
    chosen: dict[bytes, Found] = {}
    for typed in paths:
        pattern = parse(place, typed, as_seen=True)
        refuse_special(b"/".join(pattern.names))
        try:
            found = expand(tree, pattern)
        except NoSuchPath:
            if force:
                continue
            raise
        for one in found:
            refuse_special(one.path)
            if stat.S_ISDIR(one.info.mode) and not recursive:
                raise UsageError(
                    f"'{one.typed}' is a directory: -r removes it with all that is in it"
                )
            chosen.setdefault(one.path, one)
    # What is in a directory that goes, goes with it.
    return [
        one
        for path, one in chosen.items()
        if not any(above in chosen for above in directories_above(path))
    ]


def _last_first(work: Work, top: Found) -> Iterator[tuple[bytes, bool]]:
    """Yield everything at and below *top*, a directory after what is in it, and whether it is one.

    What is yielded may be removed at once.
    """
    if not stat.S_ISDIR(top.info.mode):
        yield top.path, False
        return
    # Not by recursion: a path may be deeper than Python's stack.
    todo = [(top.path, iter(_entries(work, top.path)))]
    while todo:
        directory, entries = todo[-1]
        for name, info in entries:
            path = os.path.join(directory, name)
            if stat.S_ISDIR(info.mode):
                todo.append((path, iter(_entries(work, path))))
                break
            yield path, False
        else:
            todo.pop()
            yield directory, True


def _entries(work: Work, directory: bytes) -> list[tuple[bytes, NodeStat]]:
    try:
        return work.tree.entries(directory)
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            raise
        # Deeper than a path may be long: the backend goes name by name, which takes longer.
        return BackendTree(work.backend).entries(directory)
