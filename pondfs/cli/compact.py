"""``pond compact``: the same rows in few data files, what is read together side by side."""

import contextlib
from typing import TYPE_CHECKING, Any

import click

from pondfs.cli.output import format_count, format_size, print_json, progress
from pondfs.cli.reach import connect, find_place, pond_option, require_pond
from pondfs.cli.rewriting import alone, open_store, reading, swap
from pondfs.control.client import Client

if TYPE_CHECKING:
    from pathlib import Path

    from pondfs.store import DeltaStore
    from pondfs.store.compact import Plan


@click.command("compact")
@click.option("-n", "--dry-run", is_flag=True, help="Say what would be done; change nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print {files_before, files_after, …}.")
@pond_option
def command(dry_run: bool, as_json: bool) -> None:
    """Write small data files, and those that do not lie well, as a few large ones.

    Every version stays, and reads exactly as before. Afterwards a directory's rows lie side by
    side, and so do the pieces of a file: what reads them touches few places. What lies well
    already is left alone.

    A mounted pond puts small files together by itself (-o compact=off turns that off). This
    command does more, and works while the pond is mounted, too.

    \b
    Example:
      pond compact --dry-run
      pond compact
    """
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
        report = _compact(place.store, store, client, dry_run)
    if as_json:
        print_json(report)
    else:
        _tell(report)


def _compact(
    path: "Path", store: "DeltaStore | None", client: Client | None, dry_run: bool
) -> dict[str, Any]:
    from pondfs.store.compact import make_plan
    from pondfs.store.compact_files import write_files

    with reading(path, store), progress("looking at the data files"):
        plan = make_plan(path)
        report = _report(plan, dry_run)
        if dry_run or not plan.files:
            return report
    with reading(path, store), progress("writing them anew"):
        rewritten = write_files(plan)
    with progress("putting them in place"):
        removed = swap(path, rewritten, store, client)
    return {
        **report,
        "files_after": plan.untouched + len(rewritten.files),
        "written_bytes": rewritten.added_bytes,
        "removed_bytes": removed,
    }


def _report(plan: "Plan", dry_run: bool) -> dict[str, Any]:
    return {
        "files_before": plan.untouched + len(plan.files),
        "files_after": plan.untouched + plan.new_files,
        "rewritten_files": len(plan.files),
        "rewritten_bytes": plan.bytes,
        "written_bytes": 0,
        "removed_bytes": 0,
        "dry_run": dry_run,
    }


def _tell(report: dict[str, Any]) -> None:
    before, after = report["files_before"], report["files_after"]
    if not report["rewritten_files"]:
        click.echo(f"nothing to compact: {_files(before)}")
        return
    size = format_size(report["rewritten_bytes"])
    what = f"{_files(report['rewritten_files'])} of {format_count(before)}, {size}"
    if report["dry_run"]:
        click.echo(f"would write {what} anew: about {_files(after)} would be left")
        click.echo("dry run: nothing was done")
        return
    new = format_size(report["written_bytes"])
    click.echo(f"wrote {what} anew as {new}: {_files(after)} {'is' if after == 1 else 'are'} left")
    if not report["removed_bytes"]:
        click.echo(
            "the old ones go when nobody reads the pond any more (a read-only mount, a command)"
        )


def _files(count: int) -> str:
    return f"{format_count(count)} data file{'' if count == 1 else 's'}"
