"""``pond mv``: give files and trees other names, many at once by wildcards."""

import errno
import os
import stat
from dataclasses import dataclass

import click

from pondfs.cli.changing import (
    ChangingCommand,
    Work,
    changing,
    commit_options,
    make_parents,
    refuse_special,
    tell,
)
from pondfs.cli.globs import Found, expand, parse
from pondfs.cli.output import format_path
from pondfs.cli.reach import Place, find_place, pond_option
from pondfs.cli.targets import (
    directories_above,
    fill,
    find_in_pond,
    find_nested,
    has_captures,
    refuse_same,
    require_directory,
)
from pondfs.cli.trees import Tree
from pondfs.errors import NoSuchPath, UsageError
from pondfs.store.tree import NodeStat


@dataclass(frozen=True, slots=True)
class _Move:
    """One thing to move, and where to."""

    found: Found
    target: bytes


@click.command("mv", cls=ChangingCommand)
@click.argument("sources", metavar="SRC...", nargs=-1, required=True)
@click.argument("dest", metavar="DEST")
@click.option("--force", "-f", is_flag=True, help="Replace files that are there already.")
@click.option("--parents", "-p", is_flag=True, help="Make the directories that DEST lacks.")
@click.option("--dry-run", "-n", is_flag=True, help="Only say what would become what.")
@commit_options
@click.option("--json", "as_json", is_flag=True, help="Print {version, dry_run, done} as JSON.")
@pond_option
def command(
    sources: tuple[str, ...],
    dest: str,
    force: bool,
    parents: bool,
    dry_run: bool,
    message: str | None,
    no_commit: bool,
    as_json: bool,
) -> None:
    """Move SRC to DEST, which is its new name, or a directory to move it into.

    If SRC has wildcards, $0, $1, … in DEST are what they stood for, in their order (** the
    directories, without the slash behind); $$ is a dollar sign then. All is looked up first: if two
    would get one name, or something is there already and --force is not given, nothing is moved.

    \b
    Example:
      pond mv notes/draft.txt notes/plan.txt
      pond mv 'raw/*/2026-*.csv' 'done/$0-$1.csv'
      pond mv -n '**/*.jpeg' '$0/$1.jpg'
    """
    place = find_place()
    with changing(place, message, no_commit, dry_run=dry_run) as work:
        moves = _plan(work.tree, place, sources, dest, parents)
        for move in moves:
            _check(work.tree, move, force)
        if not dry_run:
            for move in moves:
                _move(work, move, force=force, parents=parents)
    done = [
        {"op": "move", "from": os.fsdecode(one.found.path), "path": os.fsdecode(one.target)}
        for one in moves
    ]
    lines = [f"{format_path(one.found.path)} -> {format_path(one.target)}" for one in moves]
    tell(work.version, done, lines if dry_run else [], as_json=as_json, dry_run=dry_run)


def _plan(
    tree: Tree, place: Place, sources: tuple[str, ...], dest: str, parents: bool
) -> list[_Move]:
    """Return what moves where. Raises: NoSuchPath, UsageError."""
    patterns = [parse(place, typed, as_seen=True) for typed in sources]
    found: dict[bytes, Found] = {}
    for pattern in patterns:
        for one in expand(tree, pattern):
            refuse_special(one.path)
            found.setdefault(one.path, one)
    is_pattern = any(pattern.is_glob for pattern in patterns)
    into = len(found) > 1 and not (is_pattern and has_captures(dest))
    if into:
        dest = require_directory(tree, place, dest, parents=parents)
    if nested := find_nested(found):
        outer, inner = map(format_path, nested)
        raise UsageError(f"'{inner}' is in '{outer}', which is to be moved too: name one of them")
    moves = []
    for one in found.values():
        target = find_in_pond(
            tree,
            place,
            fill(dest, one.captures) if is_pattern else dest,
            os.path.basename(one.path),
            parents=parents,
            is_directory=stat.S_ISDIR(one.info.mode) and not into,
        )
        moves.append(_Move(one, target))
    refuse_same((move.found.typed, move.target) for move in moves)
    for move in moves:
        if move.target == move.found.path:
            raise UsageError(f"'{move.found.typed}' would become itself: name another DEST")
        if move.target in found:
            raise UsageError(
                f"'{move.found.typed}' would become '{format_path(move.target)}', which is to be "
                "moved itself: move that first"
            )
        if inside := next((up for up in directories_above(move.target) if up in found), None):
            raise UsageError(
                f"'{format_path(move.target)}' is inside '{format_path(inside)}', which is to be "
                "moved"
            )
    return moves


def _check(tree: Tree, move: _Move, force: bool) -> None:
    """Refuse to replace what is at the target. Raises: UsageError."""
    there: NodeStat
    try:
        there = tree.lstat(move.target)
    except NoSuchPath:
        return
    shown = format_path(move.target)
    if stat.S_ISDIR(there.mode):
        raise UsageError(f"'{shown}' is there already, a directory: move it away first")
    if stat.S_ISDIR(move.found.info.mode):
        raise UsageError(f"'{shown}' is there already, and no directory: move it away first")
    if not force:
        raise UsageError(f"'{shown}' is there already: --force replaces it")


def _move(work: Work, move: _Move, *, force: bool, parents: bool) -> None:
    if parents:
        make_parents(work.backend, move.target)
    try:
        work.backend.rename(move.found.path, move.target, replace=force)
    except OSError as error:
        if error.errno != errno.EEXIST:
            raise
        raise UsageError(f"'{format_path(move.target)}' is there already, just now") from None
