"""``pond restore``: put files and trees back as they were."""

import os
from collections.abc import Iterator
from typing import Any

import click

from pondfs.cli.globs import expand, parse
from pondfs.cli.output import format_count, format_path, print_json, progress
from pondfs.cli.reach import Place, ask, find_place, path_in_pond, pond_option
from pondfs.cli.trees import Tree, open_tree


@click.command("restore")
@click.argument("paths", metavar="PATH...", nargs=-1, required=True)
@click.option(
    "--at",
    "at",
    metavar="W",
    help="As of version, time or tag W: 42, yesterday, …  [default: before PATH's last change]",
)
@click.option("--to", "to", metavar="DEST", help="Put copies there; leave what is at PATH alone.")
@click.option("-n", "--dry-run", is_flag=True, help="Only say what would be done.")
@click.option("--json", "as_json", is_flag=True, help="Print {at, version, changes} as JSON.")
@pond_option
def command(
    paths: tuple[str, ...], at: str | None, to: str | None, dry_run: bool, as_json: bool
) -> None:
    """Make each PATH, with everything below it, be as it was at W.

    The restore is one version, so pond undo takes it back. What did not change is not touched. A
    changed file is replaced by a new one, as most editors save: a program that has it open keeps
    what it had. What is there now and was not then is removed: its history stays. What is pending
    becomes a version of its own first.

    Without --at, PATH is put back as it was before its last change: what was overwritten or deleted
    last comes back.

    Wildcards in PATH (* ? [ab] in names, ** for any directories) stand for what there was at W, or
    without --at for what there is.

    With --to, copies are made in directory DEST, or as DEST if there is nothing yet.

    \b
    Example:
      pond restore notes/plan.txt
      pond restore --at yesterday notes/plan.txt
      pond restore --at 41 projects --dry-run
      pond restore --at yesterday 'notes/**/*.txt'
      pond restore --at before-upgrade etc --to etc.old
    """
    place = find_place()
    wanted = list(_expand(place, paths, at))
    target = None if to is None else os.fsdecode(b"/".join(path_in_pond(place, to)))
    with progress("comparing" if dry_run else "restoring"):
        done = ask(place, "restore", at=at, paths=wanted, to=target, dry_run=dry_run)
    if as_json:
        print_json({key: done[key] for key in ("at", "version", "changes")})
    else:
        report(done, f"as it was at version {done['at']}", dry_run=dry_run)


def _expand(place: Place, paths: tuple[str, ...], at: str | None) -> Iterator[str]:
    """Yield the paths from the root that are meant: wildcards stand for what there was."""
    patterns = [parse(place, path) for path in paths]
    tree: Tree | None = None
    try:
        for pattern in patterns:
            if not pattern.is_glob:
                yield os.fsdecode(b"/".join(pattern.names))
                continue
            if tree is None:
                tree = open_tree(place, at)
            for found in expand(tree, pattern):
                yield os.fsdecode(found.path if found.captures else b"/".join(found.names))
    finally:
        if tree is not None:
            tree.close()


def report(done: dict[str, Any], nothing: str, *, dry_run: bool) -> None:
    """Show what a restore or an undo did: a line for each change, and the version it made."""
    for change in done["changes"]:
        path = format_path(os.fsencode(change["path"])) or "/"
        if change["from"] is not None:
            path = f"{format_path(os.fsencode(change['from']))} -> {path}"
        click.echo(f"{change['change']} {path}")
    count = len(done["changes"])
    changes = f"{format_count(count)} change{'' if count == 1 else 's'}"
    if not count:
        click.echo(f"nothing to do: it is {nothing}")
    elif dry_run:
        click.echo(f"would make {changes}; nothing was done")
    else:
        click.echo(f"version {done['version']}: {changes}")
