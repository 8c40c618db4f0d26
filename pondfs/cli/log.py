"""``pond log``: the versions, newest first."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from itertools import pairwise
from typing import TYPE_CHECKING

import click

from pondfs.cli.diff import format_change, summarize
from pondfs.cli.globs import expand, is_missing, parse
from pondfs.cli.output import (
    format_count,
    format_local,
    format_size,
    format_text,
    print_json,
    print_table,
    progress,
)
from pondfs.cli.reach import (
    Place,
    find_place,
    load_changes,
    load_tags,
    load_touching,
    load_versions,
    pond_option,
)
from pondfs.cli.trees import open_tree
from pondfs.errors import PondError
from pondfs.node import Version
from pondfs.when import span

if TYPE_CHECKING:
    from pondfs.oplog import VersionInfo


@click.command("log")
@click.argument("path", required=False)
@click.option("-n", "limit", type=click.IntRange(min=1), help="Show the newest N only.")
@click.option("--since", metavar="W", help="Only from version or time W on.")
@click.option("--until", metavar="W", help="Only up to version or time W, itself included.")
@click.option("--stat", "with_changes", is_flag=True, help="Show the paths each changed, too.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON array, one object a version.")
@pond_option
def command(
    path: str | None,
    limit: int | None,
    since: str | None,
    until: str | None,
    with_changes: bool,
    as_json: bool,
) -> None:
    """Show the pond's versions, newest first: when, who, how much, and the message.

    With PATH only those that touched it, or anything in it if it is a directory, also under the
    names it had before. With wildcards in PATH, those that touched anything like it there is now.
    What is pending is no version yet: see pond status.

    \b
    Example:
      pond log -n 20
      pond log --since 2026-06-20 --until 10m-ago
      pond log notes/plan.txt
      pond log --stat -n 3
      pond log --json | jq '.[0].version'
    """
    place = find_place()
    if path is None and since is None and until is None:
        versions = load_versions(place, limit)
    else:
        versions = _choose(place, path, since, until)[:limit]
    if with_changes:
        _show_changes(place, versions, as_json)
        return
    if as_json:
        print_json([asdict(version) for version in versions])
        return
    print_table(
        ("version", "time", "who", "created", "changed", "removed", "added", "message"),
        [
            (
                str(info.version),
                format_local(info.timestamp),
                f"{info.user}@{info.host}" if info.host else info.user,
                format_count(info.nodes_created),
                format_count(info.nodes_changed),
                format_count(info.nodes_removed),
                format_size(info.bytes_added),
                info.message,
            )
            for info in versions
        ],
        right="version created changed removed added",
    )


def _choose(
    place: Place, path: str | None, since: str | None, until: str | None
) -> "list[VersionInfo]":
    """Return the versions that are meant, newest first."""
    versions = load_versions(place, None)[::-1]
    first, last = span(
        since,
        until,
        [info.version for info in versions],
        [info.time_ns for info in versions],
        time.time_ns(),
        load_tags(place),
    )
    versions = versions[first:last]
    if path is not None:
        touching = _load_touching(place, path)
        if touching is not None:
            versions = [info for info in versions if info.version in touching]
    return versions[::-1]


def _load_touching(place: Place, path: str) -> "set[Version] | None":
    """Return the versions that touched what *path* stands for; None for all."""
    pattern = parse(place, path)
    try:
        # What is gone may have had wildcard characters in its name, too.
        return load_touching(place, pattern.names)
    except PondError as error:
        if not (pattern.is_glob and is_missing(error)):
            raise
    tree = open_tree(place, None)
    try:
        found = expand(tree, pattern)
    finally:
        tree.close()
    touching = set[Version]()
    for one in found:
        try:
            touching |= load_touching(place, tuple(one.path.split(b"/"))) or set()
        except PondError as error:
            if not is_missing(error):
                raise  # else it is in no version yet
    return touching


def _show_changes(place: Place, versions: "Sequence[VersionInfo]", as_json: bool) -> None:
    """Print *versions*, each with all the paths it changed."""
    from pondfs.change import change_record

    before = dict(_predecessors(place, versions))
    records = []
    for number, info in enumerate(versions):
        previous = before.get(info.version)
        with progress(f"comparing version {info.version}"):
            # What the oldest one made, there is nothing to compare with.
            changes = [] if previous is None else load_changes(place, previous, info.version, ())
        if as_json:
            records.append({**asdict(info), "changes": [change_record(c) for c in changes]})
            continue
        who = f"{info.user}@{info.host}" if info.host else info.user
        title = click.style(f"version {info.version}", bold=True)
        line = f"{title}  {format_local(info.timestamp)}  " + format_text(f"{who}  {info.message}")
        click.echo(("\n" if number else "") + line.rstrip())
        for change in changes:
            click.echo(f"  {format_change(change, with_sizes=True)}")
        click.echo(f"  {summarize(changes) if previous else 'nothing before it to compare with'}")
    if as_json:
        print_json(records)


def _predecessors(
    place: Place, versions: "Sequence[VersionInfo]"
) -> "Iterator[tuple[Version, Version]]":
    """Yield each of *versions*, newest first, with the one before it that there is."""
    if not versions:
        return
    # Those asked for are mostly the newest ones; then one more says it all.
    some = load_versions(place, len(versions) + 1)
    if not some or some[-1].version >= versions[-1].version:
        some = load_versions(place, None)
    for newer, older in pairwise(some):
        yield newer.version, older.version
