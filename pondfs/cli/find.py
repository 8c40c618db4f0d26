"""``pond find``: names by what they are like, now or then."""

import os
import stat
import string
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from operator import itemgetter
from typing import TYPE_CHECKING, Any

import click

from pondfs.cli.criteria import TYPES, Criteria, criteria
from pondfs.cli.globs import expand_all
from pondfs.cli.ls import describe
from pondfs.cli.output import format_path, format_size, format_utc, print_json, progress
from pondfs.cli.reach import Place, find_place, load_changes, path_in_pond, pond_option
from pondfs.cli.trees import Failures, Tree, at_option, open_tree, spell, walk
from pondfs.errors import UsageError
from pondfs.store.tree import NodeStat

if TYPE_CHECKING:
    from pondfs.node import Version


@dataclass(frozen=True, slots=True)
class Hit:
    """What was found.

    Attributes:
        tree: where it is.
        typed: where the search began, as it was called.
        root: the same, as a path in that tree.
        path: its path there.
        info: what it is.
        version: the last version that has it; None for what is there still.
        captures: what wildcards stand for: those of PATH, then those of ``--name``.
    """

    tree: Tree
    typed: str
    root: bytes
    path: bytes
    info: NodeStat
    version: "Version | None" = None
    captures: Sequence[str] = ()


@click.command("find")
@click.argument("path", default=".")
@click.option(
    "--name", metavar="GLOB", help="Names like this; with a slash, paths below PATH like this."
)
@click.option(
    "--type",
    "kinds",
    type=click.Choice(list(TYPES)),
    multiple=True,
    help="Files, directories, symlinks (links), pipes, sockets, block or char devices.",
)
@click.option("--larger", metavar="SIZE", help="Files of more than SIZE: 1000, 64K, 1M, …")
@click.option("--smaller", metavar="SIZE", help="Files of less than SIZE.")
@click.option("--newer", metavar="W", help="Modified after version W, or from time W on.")
@click.option("--older", metavar="W", help="Modified before that.")
@click.option(
    "--changed-since", metavar="W", help="What changed after version W, or from time W on."
)
@click.option("--created-between", metavar="A..B", help="What is in version B and not in A.")
@click.option("--changed-between", metavar="A..B", help="What is in both, but not the same.")
@click.option("--deleted-between", metavar="A..B", help="What is in version A and not in B.")
@at_option
@click.option("--json", "as_json", is_flag=True, help="Print a JSON array, one object a path.")
@click.option("-0", "nul", is_flag=True, help="Print paths as they are, each ended by a NUL.")
@click.option("--format", "template", metavar="TEXT", help="Print TEXT for each: see below.")
@pond_option
def command(
    path: str,
    created_between: str | None,
    changed_between: str | None,
    deleted_between: str | None,
    at: str | None,
    as_json: bool,
    nul: bool,
    template: str | None,
    **asked: Any,
) -> int:
    """Find what is below PATH (by default where you stand in the mount, else the root).

    Everything asked must hold. In GLOB * and ? stand for anything but a slash, [ab] for one of
    these, ** for any directories; quote it. A name that was only moved has not changed. Without
    --at it is the tree as it is now; of a pond that is not mounted, the newest version. What was
    deleted is found as it was in the last version that has it.

    In --format $path $name $size $type $mtime $version stand for these, $0 $1 … for what the
    wildcards of PATH and --name stood for, $$ for a dollar sign.

    \b
    Example:
      pond find --name '*.jpg' --larger 10M
      pond find notes --name 'drafts/**/*.txt' --at 2026-06-20
      pond find --changed-since 1h-ago --type f -0 | xargs -0 ls -l
      pond find --deleted-between yesterday..latest --larger 1M
      pond find --name '*-*.csv' --format '$1 $0 $path'
    """
    if as_json and (nul or template is not None):
        raise UsageError("--json is a way to print: leave -0 and --format out")
    between = {"added": created_between, "changed": changed_between, "removed": deleted_between}
    spans = [(what, span) for what, span in between.items() if span is not None]
    if len(spans) > 1 or (spans and at is not None):
        raise UsageError(
            "--at, --created-between, --changed-between and --deleted-between each say which "
            "tree to look at: choose one"
        )
    show = None if template is None else _formatter(template)
    place = find_place()
    failed = Failures()
    with progress("reading"):
        wanted = criteria(place, **asked)
    if spans:
        hits = _between(place, *spans[0], path, failed)
    else:
        hits = _at(place, at, path, failed)
    found = _choose(hits, wanted)
    if as_json:
        print_json([_record(hit) for hit in found])
        return failed.code
    for hit in found:
        shown = spell(hit.typed, hit.root, hit.path)
        if nul:
            text = shown if show is None else os.fsencode(show(hit, shown, os.fsdecode))
            sys.stdout.buffer.write(text + b"\0")
        elif show is not None:
            click.echo(show(hit, shown, format_path))
        elif hit.version is not None:
            size = f"{format_size(hit.info.size_bytes)}, " if stat.S_ISREG(hit.info.mode) else ""
            click.echo(f"{format_path(shown)} ({size}last in version {hit.version})")
        else:
            click.echo(format_path(shown))
    sys.stdout.buffer.flush()
    return failed.code


# --- where to look --------------------------------------------------------------------------------


def _at(place: Place, at: str | None, path: str, failed: Failures) -> Iterator[Hit]:
    """Yield what is below *path* in one tree; *path* itself if it is no directory."""
    with progress("reading"):
        tree = open_tree(place, at)
    try:
        roots = expand_all(tree, place, [path], failed, as_seen=at is None)
        seen = set[bytes]()
        for one in roots:
            where, info = one.follow(tree)
            captures = tuple(map(os.fsdecode, one.captures))
            found: Iterable[tuple[bytes, NodeStat]] = [(where, info)]
            if stat.S_ISDIR(info.mode):
                tree.entries(where)  # what was asked for must be readable; what is below may not be
                found = walk(tree, where, failed)
            for inner, facts in found:
                # What `**` stands for may be below something else it stands for.
                if len(roots) > 1:
                    if inner in seen:
                        continue
                    seen.add(inner)
                yield Hit(tree, one.typed, where, inner, facts, captures=captures)
    finally:
        tree.close()


def _between(place: Place, what: str, span: str, typed: str, failed: Failures) -> Iterator[Hit]:
    """Yield what came, changed or went at *typed* or below; what went by its last version."""
    from pondfs.cli.diff import resolve_span
    from pondfs.cli.reach import load_each_last

    names = path_in_pond(place, typed)
    kinds = ("changed", "mode") if what == "changed" else (what,)
    with progress("comparing"):
        old, new = resolve_span(place, span)
        changes = load_changes(place, old, new, names)
        paths = sorted({change.path for change in changes if change.change in kinds})
        # What went may have changed since the first of the two.
        trees = {new: paths}
        if what == "removed":
            split = [tuple(path.split(b"/")) for path in paths]
            lasts = load_each_last(place, split, new)
            groups = groupby(sorted(zip(lasts, paths, strict=True)), itemgetter(0))
            trees = {last: [path for _, path in group] for last, group in groups}
    for version, inside in trees.items():
        with progress("reading"):
            tree = open_tree(place, f"v{version}")
        try:
            for path in inside:
                try:
                    info = tree.lstat(path)
                except OSError as error:
                    failed(error)
                    continue
                last = version if what == "removed" else None
                yield Hit(tree, typed, b"/".join(names), path, info, last)
        finally:
            tree.close()


def _choose(hits: Iterator[Hit], wanted: Criteria) -> Iterator[Hit]:
    for hit in hits:
        below = hit.path[len(hit.root) :].lstrip(b"/")
        captures = wanted.match(below or os.path.basename(hit.path), hit.info)
        if captures is not None:
            yield replace(hit, captures=(*hit.captures, *captures))


# --- what to print --------------------------------------------------------------------------------


def _record(hit: Hit) -> dict[str, Any]:
    return {
        **describe(hit.tree, hit.path, hit.info),
        "version": hit.version,
        "captures": list(hit.captures),
    }


class _Template(string.Template):
    idpattern = r"(?a:[a-z]+|[0-9]+)"


_FIELDS = ("path", "name", "size", "type", "mtime", "version")


Show = Callable[[Hit, bytes, Callable[[bytes], str]], str]
"""Makes a text of a hit, of how its path is spelled, and of what makes text of names."""


def _formatter(text: str) -> Show:
    """Return what prints hits as *text* says. Raises: UsageError."""
    template = _Template(text)
    if not template.is_valid():
        raise UsageError(f"'{text}' has a $ that stands for nothing: write $$ for a dollar sign")
    for name in template.get_identifiers():
        if not name.isdecimal() and name not in _FIELDS:
            raise UsageError(
                f"there is no ${name}: use {' '.join(f'${field}' for field in _FIELDS)} or $0 $1 …"
            )

    def show(hit: Hit, path: bytes, decode: Callable[[bytes], str]) -> str:
        record = _record(hit)
        fields = {
            "path": decode(path),
            "name": decode(os.path.basename(hit.path)),
            "size": str(hit.info.size_bytes),
            "type": record["type"],
            "mtime": format_utc(record["mtime"]),
            "version": "" if hit.version is None else str(hit.version),
        }
        captures = [decode(os.fsencode(part)) for part in hit.captures]
        fields |= {str(number): part for number, part in enumerate(captures)}
        try:
            return template.substitute(fields)
        except KeyError as missing:
            raise UsageError(
                f"there is no ${missing.args[0]}: there are {len(captures)} wildcards, counted "
                "from $0"
            ) from None

    return show
