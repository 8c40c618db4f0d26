"""``pond ls``: what is in a directory, now or then."""

import functools
import grp
import os
import pwd
import shutil
import stat
import sys
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

import click

from pondfs.cli.output import (
    format_count,
    format_local,
    format_path,
    format_size,
    print_json,
    progress,
)
from pondfs.cli.reach import find_place, path_in_pond, pond_option
from pondfs.cli.trees import Failures, Tree, at_option, follow, open_tree, spell
from pondfs.errors import NoSuchPath
from pondfs.node import FILE_TYPES
from pondfs.store.tree import NodeStat

Entry = tuple[bytes, NodeStat]
"""A path from the pond's root, and what is there."""

_COLOURS = {stat.S_IFDIR: "blue", stat.S_IFLNK: "cyan", stat.S_IFREG: None}


@click.command("ls", short_help="List a directory, now or as it was.")
@click.argument("path", default=".")
@click.option("-l", "in_full", is_flag=True, help="Mode, links, owner, size and time of each.")
@click.option("-a", "all_names", is_flag=True, help="Names that begin with a dot, too.")
@click.option("-R", "recursive", is_flag=True, help="What is in the directories below, too.")
@at_option
@click.option("--json", "as_json", is_flag=True, help="Print a JSON array, one object a name.")
@pond_option
def command(
    path: str, in_full: bool, all_names: bool, recursive: bool, at: str | None, as_json: bool
) -> int:
    """List what is in directory PATH, by default where you stand in the mount, else the root.

    Without --at it is what is there now; of a pond that is not mounted, the newest version.

    \b
    Example:
      pond ls -l notes
      pond ls -l notes --at yesterday
      pond ls -R --at 42 --json | jq -r '.[].path'
    """
    place = find_place()
    failed = Failures()
    with progress("reading"):
        tree = open_tree(place, at)
    try:
        # As ls(1): a link to a directory is listed, unless it is itself what -l is about.
        where, info = follow(tree, path_in_pond(place, path, as_seen=at is None), last=not in_full)
        groups: Iterator[tuple[bytes | None, list[Entry]]]
        if not stat.S_ISDIR(info.mode):
            groups = iter(((None, [(where, info)]),))
        else:
            groups = _groups(tree, where, all_names, recursive, failed)
        if as_json:
            found = [entry for _, entries in groups for entry in entries]
            print_json([describe(tree, *entry) for entry in found])
            return failed.code
        for number, (directory, entries) in enumerate(groups):
            if recursive and directory is not None:
                heading = format_path(spell(path, where, directory))
                click.echo(("\n" if number else "") + heading + ":")
            if directory is None:
                names = [format_path(os.fsencode(path))]
            else:
                names = [format_path(inner.rpartition(b"/")[2]) for inner, _ in entries]
            if in_full:
                _print_in_full(tree, names, entries)
            else:
                _print_names(names, entries)
    finally:
        tree.close()
    return failed.code


def _groups(
    tree: Tree, path: bytes, all_names: bool, recursive: bool, failed: Failures
) -> Iterator[tuple[bytes | None, list[Entry]]]:
    """Yield directories with what is in them, as ``ls -R`` has them."""
    todo = [path]
    while todo:
        directory = todo.pop()
        try:
            entries = [
                (os.path.join(directory, name), info)
                for name, info in tree.entries(directory)
                if all_names or not name.startswith(b".")
            ]
        except (OSError, NoSuchPath) as error:
            # What was asked for must be there; what is below may go, or not be for us.
            if directory == path:
                raise
            if isinstance(error, OSError):
                failed(error)
            continue
        yield directory, entries
        if recursive:
            todo.extend(inner for inner, info in reversed(entries) if stat.S_ISDIR(info.mode))


def _print_names(names: Sequence[str], entries: Sequence[Entry]) -> None:
    if not sys.stdout.isatty():
        for name in names:
            click.echo(name)
        return
    from rich.columns import Columns
    from rich.console import Console
    from rich.text import Text

    texts = [
        Text(name, style=_colour(info) or "", no_wrap=True)
        for name, (_, info) in zip(names, entries, strict=True)
    ]
    if texts:
        Console(width=shutil.get_terminal_size().columns).print(
            Columns(texts, padding=(0, 2), column_first=True)
        )


def _print_in_full(tree: Tree, names: Sequence[str], entries: Sequence[Entry]) -> None:
    """Print the lines people know from ``ls -l``."""
    rows = []
    for name, (path, info) in zip(names, entries, strict=True):
        last = click.style(name, fg=_colour(info))
        if stat.S_ISLNK(info.mode):
            last += f" -> {format_path(tree.readlink(path))}"
        if stat.S_ISBLK(info.mode) or stat.S_ISCHR(info.mode):
            size = device(info) or ""
        else:
            has_size = stat.S_ISREG(info.mode) or stat.S_ISLNK(info.mode)
            size = format_size(info.size_bytes) if has_size else ""
        rows.append(
            (
                stat.filemode(info.mode),
                format_count(info.nlink),
                _user(info.uid),
                _group(info.gid),
                size,
                format_local(moment(info.mtime_ns)),
                last,
            )
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for mode, nlink, user, group, size, when, last in rows:
        click.echo(
            f"{mode}  {nlink:>{widths[1]}}  {user:<{widths[2]}}  {group:<{widths[3]}}  "
            f"{size:>{widths[4]}}  {when}  {last}"
        )


def describe(tree: Tree, path: bytes, info: NodeStat) -> dict[str, Any]:
    """Return what ``--json`` says of a node."""
    return {
        "path": os.fsdecode(path),
        "type": FILE_TYPES[stat.S_IFMT(info.mode)],
        "mode": stat.S_IMODE(info.mode),
        "uid": info.uid,
        "gid": info.gid,
        "nlink": info.nlink,
        "size": info.size_bytes,
        "mtime": moment(info.mtime_ns),
        "ctime": moment(info.ctime_ns),
        "target": os.fsdecode(tree.readlink(path)) if stat.S_ISLNK(info.mode) else None,
        "device": device(info),
    }


def moment(time_ns: int) -> datetime:
    """Return a file's time, to the microsecond; what Python's years don't reach is their edge."""
    try:
        whole = datetime.fromtimestamp(time_ns // 10**9, UTC)
        whole.astimezone()
    except (ValueError, OverflowError):
        return datetime(9998 if time_ns > 0 else 2, 1, 1, tzinfo=UTC)
    return whole.replace(microsecond=time_ns % 10**9 // 1000)


def device(info: NodeStat) -> str | None:
    """Return ``8:1`` for a device, else None."""
    if not (stat.S_ISBLK(info.mode) or stat.S_ISCHR(info.mode)):
        return None
    return f"{os.major(info.rdev)}:{os.minor(info.rdev)}"


def _colour(info: NodeStat) -> str | None:
    return _COLOURS.get(stat.S_IFMT(info.mode), "yellow")


@functools.cache
def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


@functools.cache
def _group(gid: int) -> str:
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)
