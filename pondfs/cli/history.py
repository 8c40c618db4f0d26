"""``pond history``: the distinct contents of one file."""

import os
from typing import TYPE_CHECKING

import click

from pondfs.cli.globs import expand_one, is_missing, parse
from pondfs.cli.output import (
    format_local,
    format_path,
    format_size,
    print_json,
    print_table,
    progress,
)
from pondfs.cli.reach import Place, find_place, load_history, load_versions, pond_option
from pondfs.cli.trees import open_tree
from pondfs.errors import PondError

if TYPE_CHECKING:
    from pondfs.change import Event


@click.command("history")
@click.argument("path")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON array, one object a version.")
@pond_option
def command(path: str, as_json: bool) -> None:
    """Show the distinct contents of one file: version, time, size, and what happened.

    The file is the one PATH leads to in the newest version, or in the last that had it. It is
    followed through renames, and to what it replaced. PATH counts from the pond's root, or from
    where you stand in the mount. It may have wildcards, which stand for one file there is now.

    \b
    Example:
      pond history notes/plan.txt
      pond history --json notes/plan.txt | jq '.[].version'
    """
    place = find_place()
    with progress("reading the history"):
        events = _load(place, path)
        times = {info.version: info.timestamp for info in load_versions(place, None)}
    if as_json:
        print_json(
            [
                {
                    "version": event.version,
                    "timestamp": times[event.version],
                    "path": os.fsdecode(event.path),
                    "size": event.size,
                    "what": event.what,
                    "from": None if event.source is None else os.fsdecode(event.source),
                }
                for event in events
            ]
        )
        return
    print_table(
        ("version", "time", "size", "what", "path"),
        [
            (
                str(event.version),
                format_local(times[event.version]),
                "" if event.size is None else format_size(event.size),
                ", ".join(event.what)
                + ("" if event.source is None else f" from {format_path(event.source)}"),
                format_path(event.path),
            )
            for event in events
        ],
        right="version size",
    )


def _load(place: Place, path: str) -> "list[Event]":
    pattern = parse(place, path)
    try:
        # What is gone may have had wildcard characters in its name, too.
        return load_history(place, pattern.names)
    except PondError as error:
        if not (pattern.is_glob and is_missing(error)):
            raise
    tree = open_tree(place, None)
    try:
        names = tuple(expand_one(tree, pattern).path.split(b"/"))
    finally:
        tree.close()
    return load_history(place, names)
