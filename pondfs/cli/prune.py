"""``pond prune``: forget versions, and free the space that only they used.

Planning and writing happen here, beside the daemon; of a mounted pond the daemon is then asked to
put the new files in the place of the old ones, which is one entry in its log.
"""

import contextlib
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pondfs.cli.output import (
    format_count,
    format_local,
    format_size,
    format_utc,
    print_fields,
    print_json,
    print_table,
    progress,
)
from pondfs.cli.reach import connect, find_place, load_versions, pond_option, require_pond
from pondfs.cli.rewriting import alone, open_store, reading, swap
from pondfs.control.client import Client
from pondfs.node import Version
from pondfs.retention import Policy, choose, parse_count, parse_duration

if TYPE_CHECKING:
    from pondfs.oplog import VersionInfo
    from pondfs.store import DeltaStore
    from pondfs.store.prune import Plan
    from pondfs.store.request import Rewritten

_PERIODS = ("hourly", "daily", "weekly", "monthly", "yearly")


@click.command("prune")
@click.option("--keep-last", metavar="N", default="0", help="Keep the newest N versions.")
@click.option(
    "--keep-within", metavar="D", help="Keep all that are D older than the newest at most."
)
@click.option("--keep-hourly", metavar="N", default="0", help="Keep the last of each of N hours.")
@click.option("--keep-daily", metavar="N", default="0", help="Keep the last of each of N days.")
@click.option("--keep-weekly", metavar="N", default="0", help="Keep the last of each of N weeks.")
@click.option("--keep-monthly", metavar="N", default="0", help="Keep the last of each of N months.")
@click.option("--keep-yearly", metavar="N", default="0", help="Keep the last of each of N years.")
@click.option("-n", "--dry-run", is_flag=True, help="Say what would go; change nothing.")
@click.option("-v", "--verbose", is_flag=True, help="List the versions that stay, and why.")
@click.option("--json", "as_json", is_flag=True, help="Print {kept, forgotten, freed_bytes, …}.")
@pond_option
def command(
    keep_last: str,
    keep_within: str | None,
    dry_run: bool,
    verbose: bool,
    as_json: bool,
    **counts: str,
) -> None:
    """Forget all versions but those that a --keep option, or a tag, keeps; and the newest.

    What stays reads exactly as before. The words are restic's: N is a number or 'unlimited', and
    counts hours, days, … that have a version; D is as 2y5m7d3h. Times are UTC. What each option
    keeps is kept, and so is what is committed meanwhile. While a count is not used up, the oldest
    version stays, too. The space that comes back is that of the bytes no kept version shows.

    Works while the pond is mounted. Forgotten versions are gone for good.

    \b
    Example:
      pond prune --keep-last 100 --keep-daily 30 --keep-monthly 24 --dry-run
      pond prune --keep-within 1y
    """
    policy = Policy(
        last=parse_count(keep_last),
        within=None if keep_within is None else parse_duration(keep_within),
        **{name: parse_count(counts[f"keep_{name}"]) for name in _PERIODS},
    )
    place = find_place()
    with contextlib.ExitStack() as stack:
        client = connect(place)
        if client is not None:
            stack.enter_context(client)
            if client.hello.get("read_only"):
                client = None  # it can't; and if another one writes, its lock will tell
        require_pond(place.store)
        store = None
        if client is None and not dry_run:
            store = stack.enter_context(open_store(place.store))
        if not dry_run:
            stack.enter_context(alone(place.store))
        versions = load_versions(place, None)[::-1]
        reasons = choose(
            [info.version for info in versions],
            [info.time_ns for info in versions],
            policy,
            _load_pinned(place.store),
            time.time_ns(),
        )
        report: dict[str, Any] = {
            "kept": [],
            "forgotten": [],
            "estimated_bytes": 0,
            "freed_bytes": 0,
            "dry_run": dry_run,
        }
        _prune(place.store, store, client, versions, reasons, report, verbose, as_json)
    if as_json:
        print_json(report)


def _prune(
    path: Path,
    store: "DeltaStore | None",
    client: Client | None,
    versions: "list[VersionInfo]",
    reasons: dict[Version, list[str]],
    report: dict[str, Any],
    verbose: bool,
    quiet: bool,
) -> None:
    """Say what goes, do it, say what came of it; *report* takes the figures."""
    dry_run = report["dry_run"]
    plan = None
    if len(reasons) < len(versions):
        # What is read must not be removed meanwhile; ours is the writer's lock, or the readers'.
        with reading(path, store), progress("finding out what only forgotten versions use"):
            plan = _make_plan(path, sorted(reasons), versions[-1].version)
        # With what was committed since the rules were asked.
        versions = plan.kept
        report["forgotten"] = plan.forgotten
        report["estimated_bytes"] = plan.freed_bytes
    reasons = {info.version: reasons.get(info.version, ["new"]) for info in versions}
    report["kept"] = [
        {
            "version": info.version,
            "timestamp": format_utc(info.timestamp),
            "reasons": reasons[info.version],
        }
        for info in versions
    ]
    if not quiet:
        if verbose or dry_run:
            _print_kept(versions, reasons)
        _print_plan(plan, len(versions))
    if dry_run:
        if not quiet:
            click.echo("dry run: nothing was done")
        return
    if plan is None:
        report["freed_bytes"] = _remove_left_over(store, client)
        if not quiet and report["freed_bytes"]:
            click.echo(f"freed {format_size(report['freed_bytes'])} that a reader had kept")
        return
    with reading(path, store), progress("writing what stays"):
        rewritten = _write(plan)
    with progress("putting it in place"):
        removed = swap(path, rewritten, store, client)
    report["freed_bytes"] = max(0, removed - rewritten.added_bytes) if removed else 0
    if quiet:
        return
    if removed:
        click.echo(f"freed {format_size(report['freed_bytes'])}")
    else:
        click.echo(
            f"forgotten; {format_size(max(0, rewritten.freed_bytes))} come back when nobody reads "
            "the pond any more (a read-only mount, a command)"
        )


def _remove_left_over(store: "DeltaStore | None", client: Client | None) -> int:
    """Remove what earlier prunes had to leave; returns the bytes that came back."""
    if store is not None:
        store.remove_pruned()
        return store.removed_bytes
    assert client is not None
    return int(client.call("prune", timeout_s=None)["removed_bytes"])


def _print_plan(plan: "Plan | None", kept: int) -> None:
    if plan is None:
        click.echo(f"nothing to forget: all {_versions(kept)} are kept")
        return
    before = sum(file.size for file in plan.files)
    print_fields(
        [
            ("kept", _versions(kept)),
            ("forgotten", _versions(len(plan.forgotten))),
            ("frees", f"about {format_size(plan.freed_bytes)} of {format_size(before)}"),
        ]
    )


def _print_kept(kept: "list[VersionInfo]", reasons: dict[Version, list[str]]) -> None:
    print_table(
        ("version", "time", "kept for", "message"),
        [
            (
                str(info.version),
                format_local(info.timestamp),
                ", ".join(reasons[info.version]),
                info.message,
            )
            for info in reversed(kept)
        ],
        right="version",
    )


def _versions(count: int) -> str:
    return f"{format_count(count)} version{'' if count == 1 else 's'}"


# --- the store ------------------------------------------------------------------------------------


def _load_pinned(path: Path) -> dict[Version, list[str]]:
    from pondfs.store.tags import read_tags

    pinned: dict[Version, list[str]] = {}
    for tag, version in read_tags(path).items():
        pinned.setdefault(version, []).append(tag)
    return pinned


def _make_plan(path: Path, keep: list[Version], seen: Version) -> "Plan":
    from pondfs.store.prune import make_plan

    return make_plan(path, keep, seen=seen)


def _write(plan: "Plan") -> "Rewritten":
    from pondfs.store.prune_files import write_files

    return write_files(plan)
