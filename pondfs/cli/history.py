"""``pond history``: the distinct contents of one file."""

import os

import click

from pondfs.cli.output import (
    format_local,
    format_path,
    format_size,
    print_json,
    print_table,
    progress,
)
from pondfs.cli.reach import find_place, load_history, load_versions, path_in_pond, pond_option


@click.command("history", short_help="Show what happened to one file, newest first.")
@click.argument("path")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON array, one object a version.")
@pond_option
def command(path: str, as_json: bool) -> None:
    """Show the distinct contents of one file: version, time, size, and what happened.

    The file is the one PATH leads to in the newest version, or in the last that had it. It is
    followed through renames, and to what it replaced. PATH counts from the pond's root, or from
    where you stand in the mount.

    \b
    Example:
      pond history notes/plan.txt
      pond history --json notes/plan.txt | jq '.[].version'
    """
    place = find_place()
    with progress("reading the history"):
        events = load_history(place, path_in_pond(place, path))
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
