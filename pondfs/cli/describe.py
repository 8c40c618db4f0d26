"""``pond describe``: all there is to say of a path, and of the table in it."""

import base64
import os
import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from pondfs.cli import ls
from pondfs.cli.globs import Found, expand_all
from pondfs.cli.output import (
    format_count,
    format_local,
    format_path,
    format_size,
    print_fields,
    print_json,
    print_table,
    progress,
)
from pondfs.cli.reach import Place, find_place, load_touching, load_versions, pond_option
from pondfs.cli.trees import Tree, at_option, open_tree, resolve_versions
from pondfs.errors import NoSuchPath, PondError, UsageError
from pondfs.node import FILE_TYPES
from pondfs.store.tree import Xattrs

if TYPE_CHECKING:
    from pondfs.node import Version
    from pondfs.query.describe import TableFacts


@dataclass(frozen=True, slots=True)
class Facts:
    """What is said of a path.

    Attributes:
        found: what is there.
        target: where it leads, if it is a symlink.
        xattrs: its extended attributes.
        versions: those that touched it, ascending; none for what is not committed yet.
        table: what is in it; None if its name does not say that it is a table.
        trouble: why there is no *table* although the name says so; "" if there is one.
    """

    found: Found
    target: bytes | None
    xattrs: Xattrs
    versions: "list[Version]"
    table: "TableFacts | None"
    trouble: str


@click.command("describe")
@click.argument("paths", metavar="PATH...", nargs=-1, required=True)
@at_option
@click.option("--json", "as_json", is_flag=True, help="Print a JSON array, one object a path.")
@pond_option
def command(paths: tuple[str, ...], at: str | None, as_json: bool) -> int:
    """Say what PATH is, which versions touched it, and what columns and rows it has.

    A CSV, TSV, Parquet, Arrow or JSON lines file, compressed or not, is known by its name. The rows
    of a Parquet or Arrow file stand in it; to count others they are read. A symlink is described as
    what it is. PATH may have wildcards.

    \b
    Example:
      pond describe sensors/a.csv
      pond describe 'sensors/*.parquet' --at yesterday --json | jq '.[].table.rows'
    """
    place = find_place()
    with progress("reading"):
        tree = open_tree(place, at)
    try:
        with progress("counting"):
            last = None if at is None else resolve_versions(place, at)[0]
            found = expand_all(tree, place, paths, as_seen=at is None)
            facts = [_facts(place, tree, one, last) for one in found]
            if as_json:
                print_json([_to_json(tree, one) for one in facts])
                return _code(facts)
    finally:
        tree.close()
    for number, one in enumerate(facts):
        if number:
            click.echo()
        _print(one)
    return _code(facts)


def _code(facts: list[Facts]) -> int:
    return UsageError.exit_code if any(one.trouble for one in facts) else 0


def _facts(place: Place, tree: Tree, found: Found, last: "Version | None") -> Facts:
    table, trouble = None, ""
    if stat.S_ISREG(found.info.mode):
        from pondfs.query.describe import describe_table

        try:
            table = describe_table(tree, b"/".join(found.names), found.path)
        except PondError as error:
            # The rest is worth to be told all the same.
            trouble = str(error)
            if not isinstance(error, UsageError):
                raise
    is_link = stat.S_ISLNK(found.info.mode)
    return Facts(
        found,
        tree.readlink(found.path) if is_link else None,
        tree.xattrs(found.path),
        _touching(place, found, last),
        table,
        trouble,
    )


def _touching(place: Place, found: Found, last: "Version | None") -> "list[Version]":
    try:
        names = tuple(found.path.split(b"/")) if found.path else ()
        versions = load_touching(place, names)
    except NoSuchPath:
        return []  # pending, or in `.pond`
    if versions is None:
        versions = {info.version for info in load_versions(place, None)}
    return sorted(version for version in versions if last is None or version <= last)


def _to_json(tree: Tree, facts: Facts) -> dict[str, Any]:
    info = facts.found.info
    versions = facts.versions
    table = facts.table
    return {
        **ls.describe(tree, facts.found.path, info),
        "path": os.fsdecode(b"/".join(facts.found.names)),
        "allocated": info.allocated_bytes,
        "atime": ls.moment(info.atime_ns),
        "inode": info.ino,
        "xattrs": {
            os.fsdecode(name): base64.b64encode(value).decode()
            for name, value in sorted(facts.xattrs.items())
        },
        "versions": {
            "count": len(versions),
            "first": versions[0] if versions else None,
            "last": versions[-1] if versions else None,
        },
        "table": None
        if table is None
        else {
            "format": table.format,
            "compression": table.codec,
            "rows": table.rows,
            "columns": [{"name": name, "type": kind} for name, kind in table.columns],
        },
        "trouble": facts.trouble or None,
    }


def _print(facts: Facts) -> None:
    info, versions, table = facts.found.info, facts.versions, facts.table
    path = "/" + format_path(b"/".join(facts.found.names))
    if facts.target is not None:
        path += f" -> {format_path(facts.target)}"
    fields = [
        ("path", path),
        ("type", FILE_TYPES[stat.S_IFMT(info.mode)]),
        ("mode", f"{stat.filemode(info.mode)} ({stat.S_IMODE(info.mode):04o})"),
        ("owner", f"{ls.user_name(info.uid)}:{ls.group_name(info.gid)}"),
        ("size", _size(info.size_bytes)),
        ("allocated", _size(info.allocated_bytes)),
        ("links", format_count(info.nlink)),
        ("modified", format_local(ls.moment(info.mtime_ns))),
        ("changed", format_local(ls.moment(info.ctime_ns))),
        ("accessed", format_local(ls.moment(info.atime_ns))),
        ("versions", _said(versions)),
    ]
    if (device := ls.device(info)) is not None:
        fields.insert(2, ("device", device))
    fields += [
        ("xattr", f"{format_path(name)} = {format_path(value)}")
        for name, value in sorted(facts.xattrs.items())
    ]
    if table is not None:
        called = table.format + (f", {table.codec}" if table.codec else "")
        fields += [("format", called), ("rows", format_count(table.rows))]
    if facts.trouble:
        fields.append(("trouble", facts.trouble))
    print_fields(fields)
    if table is not None:
        click.echo()
        print_table(
            ("column", "type"),
            [(format_path(os.fsencode(name)), kind) for name, kind in table.columns],
        )


def _size(size_bytes: int) -> str:
    short = format_size(size_bytes)
    return short if size_bytes < 1000 else f"{short} ({format_count(size_bytes)} bytes)"


def _said(versions: "list[Version]") -> str:
    if not versions:
        return "none: not committed yet"
    if len(versions) == 1:
        return f"1, version {versions[0]}"
    return f"{format_count(len(versions))}, from {versions[0]} to {versions[-1]}"
