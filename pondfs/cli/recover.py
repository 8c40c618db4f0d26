"""``pond recover``: what a crash left in the journal becomes part of the table, without a mount."""

from pathlib import Path
from typing import Any

import click

from pondfs.cli.output import print_json, progress
from pondfs.cli.reach import connect, find_place, pond_option
from pondfs.cli.rewriting import open_store
from pondfs.node import Version


@click.command("recover")
@click.option("-n", "--dry-run", is_flag=True, help="Say what would be done; change nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print {recovered, version, …} as JSON.")
@pond_option
def command(dry_run: bool, as_json: bool) -> None:
    """Open the pond as a mount would after a crash, and close it again.

    Versions that programs synced shortly before are in the journal (see -o fsync= of mount.pond).
    They become part of the table, where every reader sees them; a record that was torn, which
    nobody was told of, is dropped. Mounting does the same, so this is for ponds that are not to be
    mounted: before they are copied, say, or read by other programs. Of a mounted pond the daemon
    brings into the table what is in its journal.

    \b
    Example:
      pond --pond /mnt/old-disk/pond recover
    """
    place = find_place()
    client = connect(place)
    if client is not None:
        # It took over what there was when it was mounted, and knows what came since.
        with client:
            report = _report([], client.call("publish")["version"], [], dry_run=dry_run)
    else:
        report = (_look if dry_run else _recover)(place.store)
    if as_json:
        print_json(report)
        return
    for note in report["notes"]:
        click.echo(note, err=True)
    verb = "would come" if dry_run else "came"
    if report["recovered"]:
        first, last = report["first_version"], report["last_version"]
        which = f"version {first}" if first == last else f"versions {first} to {last}"
        click.echo(f"{which} {verb} from the journal")
    else:
        click.echo(f"nothing to recover; version {report['version']} is the newest")
    if dry_run:
        click.echo("dry run: nothing was done")


def _recover(path: Path) -> dict[str, Any]:
    with progress("opening"), open_store(path) as store:
        return _report(store.recovered, store.version, store.notes, dry_run=False)


def _look(path: Path) -> dict[str, Any]:
    from pondfs.store import journal, table

    store = str(path)
    opened = table.open_table(store, writable=False)
    snapshot, notes = opened.snapshot, list(opened.notes)
    newest = Version(snapshot.pond_version)
    found = journal.load(store, snapshot.metadata["id"], newest)
    if found.trouble:
        notes.append(f"the journal is not whole: {found.trouble}")
    return _report([cut.version for cut in found.cuts], newest, notes, dry_run=True)


def _report(versions: list[Any], newest: int, notes: list[str], *, dry_run: bool) -> dict[str, Any]:
    return {
        "recovered": len(versions),
        "first_version": versions[0] if versions else None,
        "last_version": versions[-1] if versions else None,
        "version": versions[-1] if versions else newest,
        "notes": notes,
        "dry_run": dry_run,
    }
