"""``pond ln``: symlinks, and other names for a file."""

import errno
import os
import stat

import click

from pondfs.cli.changing import (
    ChangingCommand,
    changing,
    commit_options,
    locate_new,
    refuse_special,
    tell,
)
from pondfs.cli.globs import expand_one, parse
from pondfs.cli.output import format_path
from pondfs.cli.reach import find_place, path_in_pond, pond_option
from pondfs.cli.trees import follow
from pondfs.errors import NoSuchPath, UsageError


@click.command("ln", cls=ChangingCommand)
@click.argument("target")
@click.argument("path")
@click.option("-s", "--symbolic", is_flag=True, help="A symlink; TARGET is kept as it is written.")
@commit_options
@click.option("--json", "as_json", is_flag=True, help="Print {version, dry_run, done} as JSON.")
@pond_option
def command(
    target: str, path: str, symbolic: bool, message: str | None, no_commit: bool, as_json: bool
) -> None:
    """Give the file TARGET another name, PATH; with -s make a symlink at PATH that leads to TARGET.

    If PATH is a directory, the new name is in it, and is TARGET's last. A symlink leads from where
    it is: TARGET counts from PATH's directory. Wildcards stand for one name.

    \b
    Example:
      pond ln raw/2026-06-20.csv latest.csv
      pond ln -s ../raw/2026-06-20.csv reports/data.csv
    """
    place = find_place()
    with changing(place, message, no_commit) as work:
        if symbolic:
            source = os.fsencode(target)
            if not source:
                raise UsageError("TARGET is empty: a symlink leads somewhere")
        else:
            found = expand_one(work.tree, parse(place, target, as_seen=True))
            refuse_special(found.path)
            if stat.S_ISDIR(found.info.mode):
                raise UsageError(f"'{found.typed}' is a directory, which has one name: see -s")
            source = found.path
        names = path_in_pond(place, path, as_seen=True)
        try:
            where, info = follow(work.tree, names, last=True)
        except NoSuchPath:
            is_directory = False
        else:
            is_directory = stat.S_ISDIR(info.mode)
            if is_directory:
                last = source.rstrip(b"/").rpartition(b"/")[2]
                if last in (b"", b".", b".."):
                    raise UsageError(f"'{path}' is a directory: say which name shall be in it")
                names = (*(name for name in where.split(b"/") if name), last)
        if path.endswith("/") and not is_directory:
            raise UsageError(f"'{path}' is no directory: make it, or leave the slash out")
        new = locate_new(work.tree, names)
        try:
            if symbolic:
                work.backend.symlink(source, new)
            else:
                work.backend.link(source, new)
        except OSError as error:
            if error.errno != errno.EEXIST:
                raise
            raise UsageError(f"'/{format_path(new)}' is there already") from None
    done = {
        "op": "symlink" if symbolic else "link",
        "path": os.fsdecode(new),
        "target": os.fsdecode(source),
    }
    tell(work.version, [done], [], as_json=as_json)
