"""``pond diff``: what changed between two versions."""

import os
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import click

from pondfs.cli.globs import Pattern, is_missing, match, parse
from pondfs.cli.output import format_path, format_size, print_json, progress
from pondfs.cli.reach import (
    Place,
    find_place,
    load_changes,
    load_pending_changes,
    pond_option,
)
from pondfs.cli.trees import Failures, open_tree, resolve_versions
from pondfs.errors import PondError, UsageError

if TYPE_CHECKING:
    from pondfs.change import Change, State
    from pondfs.node import Version

_PATCH_COLOURS = {b"+": "green", b"-": "red", b"@": "cyan"}

_LETTERS = {"added": "A", "removed": "D", "changed": "M", "renamed": "R", "mode": "m"}


@click.command("diff")
@click.argument("span", metavar="A[..B]")
@click.argument("path", required=False)
@click.option("--stat", "with_sizes", is_flag=True, help="Show sizes, and a summary at the end.")
@click.option("--patch", "-p", "as_patch", is_flag=True, help="Show what changed in texts.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON array, one object a change.")
@pond_option
def command(
    span: str, path: str | None, with_sizes: bool, as_patch: bool, as_json: bool
) -> int | None:
    """Show what is different in version B, by default the newest, from version A.

    A and B are versions (42), UTC times (2026-06-20, 10m-ago) or latest. A line for each path:
    A added, D removed, M changed, R renamed, m mode or owner changed. What changed and changed back
    is not shown, nor are times. With PATH only what is there or below it; with
    wildcards, what is like it in A or B.

    --patch prints a patch instead, which patch -p1 applies to a copy of A; what is no text, or over
    4 MiB, is only named.

    \b
    Example:
      pond diff 41..42
      pond diff yesterday notes --stat
      pond diff 41..42 --patch > 42.patch
      pond diff 2026-06-20..2026-06-21 --json | jq -r '.[].path'
    """
    if as_json and as_patch:
        raise UsageError("--json and --patch are two ways to print: choose one")
    place = find_place()
    old, new = resolve_span(place, span)
    with progress("comparing"):
        pattern = parse(place, path or "/")
        try:
            pending, changes = _load(place, span, old, new, pattern.names)
        except PondError as error:
            if not (pattern.is_glob and is_missing(error)):
                raise
            pending, changes = _load(place, span, old, new, pattern.names[: pattern.start])
            changes = [change for change in changes if _is_like(change, pattern)]
    if as_json:
        from pondfs.change import change_record

        print_json([change_record(change) for change in changes])
        return None
    if with_sizes or not as_patch:
        for change in changes:
            click.echo(format_change(change, with_sizes))
    if with_sizes:
        click.echo(summarize(changes))
    if not as_patch:
        return None
    return _print_patch(place, f"v{old}", None if pending else f"v{new}", changes)


def _load(
    place: Place, span: str, old: "Version", new: "Version", names: tuple[bytes, ...]
) -> "tuple[bool, list[Change]]":
    """Return whether it is what is pending that is compared, and what is different."""
    pending = None if ".." in span else load_pending_changes(place, old, names)
    if pending is not None:
        return True, pending
    return False, load_changes(place, old, new, names)


def _is_like(change: "Change", pattern: Pattern) -> bool:
    """Return whether a path of *change*, or a directory it is in, is like *pattern*."""
    for path in (change.path, change.source):
        below = [] if path is None else os.fsdecode(path).split("/")[pattern.start :]
        if any(match(pattern.globs, below[:end]) is not None for end in range(1, len(below) + 1)):
            return True
    return False


def _print_patch(place: Place, old: str, new: str | None, changes: "Sequence[Change]") -> int:
    """Print the patch from *old* to *new* (None: now); return the exit code."""
    from pondfs.cli.patch import write_patch

    failed = Failures()
    with progress("reading"):
        before = open_tree(place, old)
    try:
        with progress("reading"):
            after = open_tree(place, new)
        try:
            for line in write_patch(changes, before, after, failed):
                _print_line(line)
        finally:
            after.close()
    finally:
        before.close()
    sys.stdout.buffer.flush()
    return failed.code


def _print_line(line: bytes) -> None:
    """Print a patch's line: as it is, but for a terminal."""
    if not sys.stdout.isatty():
        sys.stdout.buffer.write(line)
        return
    is_header = line.startswith((b"--- ", b"+++ "))
    for part in line.split(b"\n")[: line.count(b"\n")]:
        colour = None if is_header else _PATCH_COLOURS.get(part[:1])
        # Tabs are for the terminal to set; other controls are not for it to obey.
        shown = b"\t".decode().join(format_path(text) for text in part.split(b"\t"))
        click.secho(shown, fg=colour, bold=line.startswith(b"diff "))


def resolve_span(place: Place, span: str) -> "list[Version]":
    """Return the versions that ``A..B`` means, or ``A`` and the newest.

    Raises: UsageError; NoSuchVersion.
    """
    first, dots, second = span.partition("..")
    if not first or (dots and not second):
        raise UsageError(f"'{span}' is not A or A..B: see pond diff --help")
    return resolve_versions(place, first, second or "latest")


def format_change(change: "Change", with_sizes: bool) -> str:
    """Return the line about *change*."""
    return _line(change) + (_sizes(change) if with_sizes else "")


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


def summarize(changes: "Sequence[Change]") -> str:
    """Return how many of each kind, and how much larger it all became."""
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
