"""``pond touch``: make empty files, or make files look new."""

import os
import time
from collections.abc import Iterator

import click

from pondfs.cli.changing import (
    ChangingCommand,
    changing,
    commit_options,
    locate_new,
    refuse_special,
    tell,
)
from pondfs.cli.globs import expand, parse
from pondfs.cli.reach import Place, find_place, load_versions, pond_option
from pondfs.cli.trees import Tree, resolve_versions
from pondfs.errors import NoSuchPath, NoSuchVersion, UsageError
from pondfs.when import Moment, begin
from pondfs.when import parse as parse_when


@click.command("touch", cls=ChangingCommand)
@click.argument("paths", metavar="PATH...", nargs=-1, required=True)
@click.option("-c", "--no-create", is_flag=True, help="Make no files.")
@click.option("-t", "--time", "when", metavar="W", help="This time instead of now: 2026-06-20, …")
@commit_options
@click.option("--json", "as_json", is_flag=True, help="Print {version, dry_run, done} as JSON.")
@pond_option
def command(
    paths: tuple[str, ...],
    no_create: bool,
    when: str | None,
    message: str | None,
    no_commit: bool,
    as_json: bool,
) -> None:
    """Set the times of PATH to now; make an empty file if nothing is there.

    Symlinks are followed. W is a time or a version, which means when that was made; of a whole day
    or the like, its beginning.

    \b
    Example:
      pond touch notes/plan.txt
      pond touch -c -t 2026-06-20T1200 'photos/**/*.jpg'
    """
    place = find_place()
    time_ns = None if when is None else _time(place, when)
    done = []
    with changing(place, message, no_commit) as work:
        # All is looked up before anything is done.
        for path, is_new in list(_find(work.tree, place, paths, no_create)):
            if is_new:
                work.backend.open(path, os.O_WRONLY | os.O_CREAT).close()
            if not is_new or time_ns is not None:
                moment = time.time_ns() if time_ns is None else time_ns
                work.backend.utime(path, moment, moment)
            done.append({"op": "create" if is_new else "touch", "path": os.fsdecode(path)})
    tell(work.version, done, [], as_json=as_json)


def _find(
    tree: Tree, place: Place, paths: tuple[str, ...], no_create: bool
) -> Iterator[tuple[bytes, bool]]:
    """Yield where *paths* lead, and whether something is to be made there.

    Raises: NoSuchPath, also for a symlink that leads nowhere; UsageError.
    """
    for typed in paths:
        pattern = parse(place, typed, as_seen=True)
        try:
            found = expand(tree, pattern)
        except NoSuchPath:
            if no_create:
                continue
            if pattern.is_glob:
                raise
            if typed.endswith("/"):
                raise UsageError(
                    f"'{typed}' is no directory: pond mkdir makes one; a file has no slash behind"
                ) from None
            yield locate_new(tree, pattern.names), True
            continue
        for one in found:
            path, _ = one.follow(tree)
            if path:
                refuse_special(path)
            yield path, False


def _time(place: Place, text: str) -> int:
    """Return the nanosecond that *text* names. Raises: NoSuchVersion."""
    now_ns = time.time_ns()
    try:
        when = parse_when(text, now_ns)
    except NoSuchVersion:
        when = None  # a tag, perhaps
    if isinstance(when, Moment):
        return begin(text, when, now_ns)
    (version,) = resolve_versions(place, text)
    return next(info.time_ns for info in load_versions(place, None) if info.version == version)
