"""``pond show``: the oplog's rows, readable."""

import os
import stat
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import click

from pondfs.cli.output import (
    format_count,
    format_local,
    format_path,
    format_size,
    format_text,
    print_json,
    print_table,
    progress,
)
from pondfs.cli.query_run import Pending, with_pending
from pondfs.cli.reach import (
    Place,
    find_place,
    load_versions,
    path_in_pond,
    pond_option,
    require_pond,
)
from pondfs.cli.trees import at_option, resolve_versions
from pondfs.errors import UsageError

if TYPE_CHECKING:
    from pondfs.oplog import VersionInfo

VERSIONS = 10
"""Shown without -n."""

KEYS = (
    "version", "seq", "timestamp", "op", "pending", "path", "file_type", "part_id", "node_id",
    "name", "removed", "mode", "uid", "gid", "nlink", "rdev", "size", "atime_ns", "mtime_ns",
    "ctime_ns", "valid_below", "metadata", "offset", "length",
)  # fmt: skip
"""What each row has in ``--json``: the table's columns but for the bytes, its path, its state."""

Shown = tuple[int, list[dict[str, Any]]]


@click.command("show")
@click.argument("path", required=False)
@click.option(
    "-m",
    "--mode",
    type=click.Choice(("brief", "concise", "detailed")),
    default="concise",
    help="A line for each version, for each row (the default), or all that a row says.",
)
@click.option(
    "-n", "limit", type=click.IntRange(0), metavar="N", help=f"Versions; {VERSIONS}, 0 for all."
)
@click.option(
    "--version", "between", metavar="A[..B]", help="Only version A, or those from A to B."
)
@at_option
@click.option("--pending", is_flag=True, help="What is not committed yet, too.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON array, one object a row.")
@pond_option
def command(
    path: str | None,
    mode: str,
    limit: int | None,
    between: str | None,
    at: str | None,
    pending: bool,
    as_json: bool,
) -> None:
    """Show the rows of the newest versions, newest version first; with PATH only those about it.

    A row is one change, as the table has it: see docs/explanation/oplog.md. Rows that only follow
    from others (a directory's times, further bytes of a file) are there as well.

    \b
    Example:
      pond show
      pond show -m detailed -n 1
      pond show --version 40..42 notes/plan.txt
      pond show --pending --json | jq '.[] | select(.op == "unlink")'
    """
    if at is not None and between is not None:
        raise UsageError("--at is the end of what is shown, --version all of it: give one of them")
    if pending and (at is not None or between is not None):
        raise UsageError("--pending is about what is now: it does not go with --at and --version")
    place = find_place()
    require_pond(place.store)
    first, last = _range(place, between, at)
    if limit is None:
        limit = 0 if between is not None else VERSIONS
    with progress("reading the rows"):
        names = None if path is None else path_in_pond(place, path)

        def load(coming: Pending | None) -> tuple[Pending | None, list[Shown]]:
            return coming, list(_load(place, names, coming, first, last, limit))

        coming, shown = with_pending(place, load, lambda _: None) if pending else load(None)
    if as_json:
        rows = [_record(row, coming) for _, rows in shown for row in rows]
        print_json(rows)
        return
    infos = {int(info.version): info for info in load_versions(place, None)}
    if mode == "brief":
        _print_brief(shown, infos)
        return
    for number, (version, rows) in enumerate(shown):
        click.echo(("\n" if number else "") + click.style(_heading(version, infos), bold=True))
        if mode == "concise":
            _print_concise(rows)
        else:
            for row in rows:
                _print_detailed(row)


def _range(place: Place, between: str | None, at: str | None) -> tuple[int, int | None]:
    """Return the first and the last version to show; None is the newest, pending included."""
    if at is not None:
        return 0, resolve_versions(place, at)[0]
    if between is None:
        return 0, None
    begin, dots, end = between.partition("..")
    if not begin or (dots and not end):
        raise UsageError(f"'{between}': give a version, or two as in 40..42")
    first, last = resolve_versions(place, begin, end or begin)
    if first > last:
        raise UsageError(f"'{between}': the earlier version comes first")
    return first, last


def _load(
    place: Place,
    path: tuple[bytes, ...] | None,
    coming: Pending | None,
    first: int,
    last: int | None,
    limit: int,
) -> Iterator[Shown]:
    from itertools import islice

    from pondfs.node import Version
    from pondfs.store.listing import list_rows
    from pondfs.store.preview import WITHOUT_CONTENT

    def choose(versions: Sequence[int]) -> Iterable[int]:
        return (v for v in reversed(versions) if first <= v and (last is None or v <= last))

    pending = None
    if coming is not None:
        pending = Version(coming.version), coming.rows.table(WITHOUT_CONTENT)
    found = list_rows(place.store, choose, pending, path)
    return islice(found, limit) if limit else found


def _record(row: dict[str, Any], coming: Pending | None) -> dict[str, Any]:
    path = row["path"]
    said = {
        **row,
        "pending": coming is not None and row["version"] == coming.version,
        "path": None if path is None else os.fsdecode(path),
    }
    return {key: said[key] for key in KEYS}


def _heading(version: int, infos: "dict[int, VersionInfo]") -> str:
    info = infos.get(version)
    if info is None:
        newest = max(infos, default=0)
        return f"version {version}, " + ("pending" if version > newest else "pruned")
    text = f"version {version}, {format_local(info.timestamp)}, {info.user}@{info.host}"
    return format_text(f"{text}: {info.message}" if info.message else text)


def _print_brief(shown: list[Shown], infos: "dict[int, VersionInfo]") -> None:
    lines = []
    for version, rows in shown:
        info = infos.get(version)
        counts = Counter(row["op"] for row in rows)
        lines.append(
            (
                str(version),
                _heading(version, infos).partition(", ")[2]
                if info is None
                else format_local(info.timestamp),
                format_count(len(rows)),
                format_size(sum(row["length"] or 0 for row in rows)),
                ", ".join(f"{count} {op}" for op, count in counts.most_common()),
                "" if info is None else info.message,
            )
        )
    print_table(
        ("version", "time", "rows", "bytes", "operations", "message"), lines,
        right="version rows bytes",
    )  # fmt: skip


def _print_concise(rows: list[dict[str, Any]]) -> None:
    for row in rows:
        what = row["op"]
        if row["removed"] and row["name"] is None:
            what = "gone"
        elif row["removed"] and what == "rename":
            what = "from"
        size = format_size(row["length"]) if row["length"] is not None else ""
        click.echo(f"  {what:<7} {row['file_type'] or '?':<9} {size:>9}  {_path(row)}")


def _print_detailed(row: dict[str, Any]) -> None:
    """Print all that a row says, what is null left out."""
    click.echo(f"  {row['seq']:>4}  {row['op']} {row['file_type'] or '?'} {_path(row)}")
    says = [f"node {row['node_id']} in {row['part_id']}", format_local(row["timestamp"])]
    if row["name_bytes"] is not None:
        says.append(f"name bytes {row['name_bytes'].hex()}")
    if row["removed"]:
        says.append("the node is gone" if row["name"] is None else "the name is gone")
    if row["mode"] is not None:
        says.append(
            f"{stat.filemode(row['mode'])} {row['uid']}:{row['gid']}, {row['nlink']} links, "
            f"{format_count(row['size'])} bytes"
            + (f", device {os.major(row['rdev'])}:{os.minor(row['rdev'])}" if row["rdev"] else "")
        )
        times = (f"{key[:-3]} {_seconds(row[key])}" for key in ("atime_ns", "mtime_ns", "ctime_ns"))
        says.append(", ".join(times))
    if row["valid_below"] is not None:
        says.append(f"earlier bytes count below {format_count(row['valid_below'])}")
    if row["length"] is not None:
        says.append(f"{format_count(row['length'])} bytes at {format_count(row['offset'])}")
    if row["metadata"] is not None:
        says.append(row["metadata"])
    for line in says:
        click.echo(f"        {line}")


def _seconds(time_ns: int) -> str:
    return f"{time_ns // 10**9}.{time_ns % 10**9:09}"


def _path(row: dict[str, Any]) -> str:
    return "?" if row["path"] is None else "/" + format_path(row["path"])
