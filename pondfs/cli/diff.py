"""``pond diff``: what changed between two versions."""

import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from pondfs.cli.output import format_path, format_size, print_json, progress
from pondfs.cli.reach import (
    Place,
    connect,
    find_place,
    load_changes,
    load_versions,
    path_in_pond,
    pond_option,
)
from pondfs.errors import NoSuchVersion, PondError, UsageError
from pondfs.when import Moment, parse, resolve

if TYPE_CHECKING:
    from pondfs.node import Version
    from pondfs.store.changes import Change, State

_LETTERS = {"added": "A", "removed": "D", "changed": "M", "renamed": "R", "mode": "m"}


@click.command("diff", short_help="Show what changed between two versions.")
@click.argument("span", metavar="A[..B]")
@click.argument("path", required=False)
@click.option("--stat", "with_sizes", is_flag=True, help="Show sizes, and a summary at the end.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON array, one object a change.")
@pond_option
def command(span: str, path: str | None, with_sizes: bool, as_json: bool) -> None:
    """Show what is different in version B, by default the newest, from version A.

    A and B are versions (42), UTC times (2026-06-20, 10m-ago) or latest. A line for each path:
    A added, D removed, M changed, R renamed, m mode or owner changed. What changed and changed back
    is not shown, nor are times. With PATH only what is there or below it.

    \b
    Example:
      pond diff 41..42
      pond diff yesterday notes --stat
      pond diff 2026-06-20..2026-06-21 --json | jq -r '.[].path'
    """
    place = find_place()
    old, new = _versions(place, span)
    with progress("comparing"):
        changes = load_changes(place.store, old, new, path_in_pond(place, path or "/"))
    if ".." not in span:
        _warn_of_pending(place)
    if as_json:
        print_json([_as_json(change) for change in changes])
        return
    for change in changes:
        click.echo(_line(change) + (_sizes(change) if with_sizes else ""))
    if with_sizes:
        click.echo(_summary(changes))


def _versions(place: Place, span: str) -> "tuple[Version, Version]":
    first, dots, second = span.partition("..")
    if not first or (dots and not second):
        raise UsageError(f"'{span}' is not A or A..B: see pond diff --help")
    now_ns = time.time_ns()
    when = [parse(text, now_ns) for text in (first, second or "latest")]
    newest = load_versions(place.store, 1)[0].version
    if not any(isinstance(one, Moment) for one in when):
        # No need to know when each version was: that takes reading the whole log.
        old, new = (one if isinstance(one, int) else newest for one in when)
        for version in (old, new):
            if version > newest:
                raise NoSuchVersion(f"there is no version {version}: the newest is {newest}")
        return old, new
    infos = load_versions(place.store, None)[::-1]
    versions = [info.version for info in infos]
    times_ns = [info.time_ns for info in infos]
    old = resolve(first, versions, times_ns, now_ns)
    return old, resolve(second or "latest", versions, times_ns, now_ns)


def _warn_of_pending(place: Place) -> None:
    try:
        client = connect(place)
    except PondError:
        return  # the diff stands all the same
    if client is None:
        return
    with client:
        if client.hello.get("pending_nodes") or client.hello.get("pending_entries"):
            click.echo("pending changes are not in this: pond commit first", err=True)


def _line(change: "Change") -> str:
    letter, path = _LETTERS[change.change], format_path(change.path)
    if change.source is not None:
        return f"{letter} {format_path(change.source)} -> {path}"
    if change.change == "mode" and change.before is not None and change.after is not None:
        return f"{letter} {path} ({', '.join(_modes(change.before, change.after))})"
    return f"{letter} {path}"


def _modes(before: "State", after: "State") -> Sequence[str]:
    changes = []
    if before.mode != after.mode:
        changes.append(f"{before.mode:04o} -> {after.mode:04o}")
    if before.uid != after.uid:
        changes.append(f"uid {before.uid} -> {after.uid}")
    if before.gid != after.gid:
        changes.append(f"gid {before.gid} -> {after.gid}")
    return changes or ["extended attributes"]


def _sizes(change: "Change") -> str:
    if change.type == "directory" or change.change in ("renamed", "mode"):
        return ""
    sizes = [format_size(state.size) for state in (change.before, change.after) if state]
    return f" ({' -> '.join(sizes)})"


def _summary(changes: "Sequence[Change]") -> str:
    counts = dict.fromkeys(_LETTERS, 0)
    for change in changes:
        counts[change.change] += 1
    parts = [f"{number} {name}" for name, number in counts.items() if number]
    grown = sum(_growth(changes))
    return f"{', '.join(parts) or 'nothing'}: {'-' if grown < 0 else '+'}{format_size(abs(grown))}"


def _growth(changes: "Sequence[Change]") -> Iterator[int]:
    for change in changes:
        if change.type != "directory" and change.change in ("added", "removed", "changed"):
            before = 0 if change.before is None else change.before.size
            yield (0 if change.after is None else change.after.size) - before


def _as_json(change: "Change") -> dict[str, Any]:
    return {
        "change": change.change,
        "path": os.fsdecode(change.path),
        "from": None if change.source is None else os.fsdecode(change.source),
        "type": change.type,
        "before": None if change.before is None else asdict(change.before),
        "after": None if change.after is None else asdict(change.after),
    }
