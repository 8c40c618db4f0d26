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

from pondfs.cli.globs import Found, expand_all
from pondfs.cli.ls_pending import Marks, describe_gone, load_marks
from pondfs.cli.output import (
    format_count,
    format_local,
    format_path,
    format_size,
    print_json,
    progress,
)
from pondfs.cli.reach import find_place, pond_option
from pondfs.cli.trees import Failures, Tree, at_option, open_tree, spell
from pondfs.errors import NoSuchPath, UsageError
from pondfs.node import FILE_TYPES
from pondfs.store.tree import NodeStat

Entry = tuple[bytes, NodeStat]
"""A path from the pond's root, and what is there."""

Group = tuple[str | None, bytes | None, list[str], list[Entry]]
"""What is listed together: of a directory a heading and its path, the names, what they are."""

KEYS = (
    "path", "type", "mode", "uid", "gid", "nlink", "size", "mtime", "ctime", "target", "device",
)  # fmt: skip
"""What ``--json`` says of each name; with ``--pending`` that as well."""

_COLOURS = {stat.S_IFDIR: "blue", stat.S_IFLNK: "cyan", stat.S_IFREG: None}


@click.command("ls")
@click.argument("paths", metavar="[PATH...]", nargs=-1)
@click.option("-l", "in_full", is_flag=True, help="Mode, links, owner, size and time of each.")
@click.option("-a", "all_names", is_flag=True, help="Names that begin with a dot, too.")
@click.option("-R", "recursive", is_flag=True, help="What is in the directories below, too.")
@at_option
@click.option("--pending", is_flag=True, help="Mark what is not committed, show what is gone.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON array, one object a name.")
@pond_option
def command(
    paths: tuple[str, ...],
    in_full: bool,
    all_names: bool,
    recursive: bool,
    at: str | None,
    pending: bool,
    as_json: bool,
) -> int:
    """List what is in directory PATH, by default where you stand in the mount, else the root.

    PATH may have wildcards: * ? [ab] in names, ** for any directories; quote it. Without --at it is
    what is there now; of a pond that is not mounted, the newest version. --pending puts a letter
    before each name: A new, M changed, R moved, D removed.

    \b
    Example:
      pond ls -l notes
      pond ls -l notes --at yesterday
      pond ls 'raw/**/*.csv'
      pond ls -R --at 42 --json | jq -r '.[].path'
    """
    if pending and at is not None:
        raise UsageError("--pending is about what is now, --at about what was: give one of them")
    place = find_place()
    failed = Failures()
    with progress("reading"):
        marks = load_marks(place) if pending else None
        tree = open_tree(place, at)
    try:
        found = expand_all(tree, place, paths or (".",), failed, as_seen=at is None)
        # As ls(1): a link to a directory is listed, unless it is itself what -l is about.
        asked = [(one.typed, *_end(tree, one, last=not in_full)) for one in found]
        groups = _all_groups(tree, asked, all_names, recursive, failed)
        if as_json:
            print_json(_described(tree, groups, all_names, marks))
            return failed.code
        for number, (heading, directory, names, entries) in enumerate(groups):
            if heading is not None and (recursive or len(asked) > 1):
                click.echo(("\n" if number else "") + heading + ":")
            if marks is not None:
                pairs = zip(names, entries, strict=True)
                names = [marks.label(path, name) for name, (path, _) in pairs]
            if in_full:
                _print_in_full(tree, names, entries)
            elif marks is not None:
                click.echo("".join(f"{name}\n" for name in names), nl=False)
            else:
                _print_names(names, entries)
            if marks is not None and directory is not None:
                for name, _ in _gone(marks, directory, entries, all_names):
                    click.echo(f"D {format_path(name)}")
    finally:
        tree.close()
    return failed.code


def _end(tree: Tree, found: Found, *, last: bool) -> Entry:
    """Return what is listed for what was asked: of a symlink, with *last*, what it leads to."""
    if not last:
        return found.path, found.info
    try:
        return found.follow(tree)
    except (NoSuchPath, UsageError):
        # One that leads nowhere is a name as well, if nobody asked for what it leads to.
        if not found.captures:
            raise
        return found.path, found.info


def _all_groups(
    tree: Tree,
    asked: Sequence[tuple[str, bytes, NodeStat]],
    all_names: bool,
    recursive: bool,
    failed: Failures,
) -> Iterator[Group]:
    """Yield what is listed together.

    As ls(1): what is no directory comes first, without a heading.
    """
    files = [(typed, where, info) for typed, where, info in asked if not stat.S_ISDIR(info.mode)]
    if files:
        names = [format_path(os.fsencode(typed)) for typed, _, _ in files]
        yield None, None, names, [(where, info) for _, where, info in files]
    for typed, where, info in asked:
        if stat.S_ISDIR(info.mode):
            for directory, entries in _groups(tree, where, all_names, recursive, failed):
                names = [format_path(inner.rpartition(b"/")[2]) for inner, _ in entries]
                heading = format_path(spell(typed, where, directory))
                yield heading, directory, names, entries


def _described(
    tree: Tree, groups: Iterator[Group], all_names: bool, marks: Marks | None
) -> list[dict[str, Any]]:
    """Return what ``--json`` prints."""
    found = []
    for _, directory, _, entries in groups:
        for path, info in entries:
            said = describe(tree, path, info)
            found.append(said if marks is None else {**said, "pending": marks.of(path)})
        if marks is not None and directory is not None:
            for name, kind in _gone(marks, directory, entries, all_names):
                found.append(describe_gone(os.path.join(directory, name), kind, KEYS))
    return found


def _gone(
    marks: Marks, directory: bytes, entries: Sequence[Entry], all_names: bool
) -> list[tuple[bytes, str]]:
    there = [path.rpartition(b"/")[2] for path, _ in entries]
    gone = marks.gone_from(directory, there)
    return [one for one in gone if all_names or not one[0].startswith(b".")]


def _groups(
    tree: Tree, path: bytes, all_names: bool, recursive: bool, failed: Failures
) -> Iterator[tuple[bytes, list[Entry]]]:
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
                user_name(info.uid),
                group_name(info.gid),
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
def user_name(uid: int) -> str:
    """Return the name of a user, or the number."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


@functools.cache
def group_name(gid: int) -> str:
    """Return the name of a group, or the number."""
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)
