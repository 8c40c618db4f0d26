"""``pond mkdir``: make directories."""

import errno
import os
import stat

import click

from pondfs.cli.changing import (
    ChangingCommand,
    Work,
    changing,
    commit_options,
    locate_new,
    make_parents,
    tell,
)
from pondfs.cli.globs import expand_new
from pondfs.cli.output import format_path
from pondfs.cli.reach import find_place, pond_option
from pondfs.cli.trees import follow
from pondfs.errors import NoSuchPath, UsageError


@click.command("mkdir", cls=ChangingCommand)
@click.argument("paths", metavar="PATH...", nargs=-1, required=True)
@click.option("-p", "--parents", is_flag=True, help="Those on the way too; fine if it is there.")
@click.option("--mode", metavar="OCTAL", help="Permissions: 750, …  [default: 777 less the umask]")
@commit_options
@click.option("--json", "as_json", is_flag=True, help="Print {version, dry_run, done} as JSON.")
@pond_option
def command(
    paths: tuple[str, ...],
    parents: bool,
    mode: str | None,
    message: str | None,
    no_commit: bool,
    as_json: bool,
) -> None:
    """Make directory PATH, or several.

    Wildcards in PATH stand for what is there, so that one is made in each; in its last name they
    are characters like any other.

    \b
    Example:
      pond mkdir -p notes/2026/june
      pond mkdir --mode 700 'projects/*/private'
    """
    bits = None if mode is None else _parse_mode(mode)
    place = find_place()
    made = list[bytes]()
    with changing(place, message, no_commit) as work:
        for typed in paths:
            for names in expand_new(work.tree, place, typed, parents=parents):
                made += _make(work, names, parents, bits)
    done = [{"op": "mkdir", "path": os.fsdecode(path)} for path in made]
    tell(work.version, done, [], as_json=as_json)


def _make(work: Work, names: tuple[bytes, ...], parents: bool, bits: int | None) -> list[bytes]:
    """Make one directory; return what was made for it."""
    if parents:
        try:
            where, info = follow(work.tree, names, last=True)
        except NoSuchPath:
            pass
        else:
            if stat.S_ISDIR(info.mode):
                return []
            raise UsageError(f"'/{format_path(where)}' is there already, and no directory")
    path = locate_new(work.tree, names, parents=parents)
    made = make_parents(work.backend, path) if parents else []
    try:
        work.backend.mkdir(path)
    except OSError as error:
        if error.errno != errno.EEXIST:
            raise
        raise UsageError(f"'/{format_path(path)}' is there already") from None
    if bits is not None:
        work.backend.chmod(path, bits)
    return [*made, path]


def _parse_mode(text: str) -> int:
    try:
        bits = int(text, 8)
    except ValueError:
        bits = -1
    if not 0 <= bits <= 0o7777:
        raise UsageError(f"--mode: '{text}' is no octal number up to 7777, such as 750")
    return bits
