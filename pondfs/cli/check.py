"""``pond check``: whether everything is as it should be. Changes nothing."""

import click

from pondfs.cli.findings import find_store, hush, raise_verdict, tell_report, telling
from pondfs.cli.output import print_json, progress
from pondfs.cli.reach import pond_option, require_pond
from pondfs.cli.trees import resolve_versions


@click.command("check")
@click.argument("store", required=False)
@click.option("--data", is_flag=True, help="Read every byte, compare checksums, and hash the tree.")
@click.option("--at", metavar="W", help="Check the tree as it was at W: a version, tag or time.")
@click.option("--json", "as_json", is_flag=True, help="Print {verdict, findings, …} as JSON.")
@pond_option
def command(store: str | None, data: bool, at: str | None, as_json: bool) -> None:
    """Check the log, the rows, the tree and the files of a pond; with --data every byte.

    Works beside a mount, and changes nothing. What is wrong is told in a line each: what, where,
    and what to do. The exit code is 0 if all is well, 13 if `pond repair` can mend all that is
    wrong, 14 if it can't.

    With --data the last line has a hash of the whole tree. It is the same for equal trees, in any
    pond on any machine: names, kinds, contents, modes, owners, mtimes, extended attributes, hard
    links.

    \b
    Example:
      pond check
      pond check --data /backup/pond
      pond check --data --at v42
    """
    place = find_store(store)
    require_pond(place.store)
    hush()
    from pondfs.store.check import check_store

    version = None if at is None else resolve_versions(place, at)[0]
    with progress("looking at the log") as tell:
        report = check_store(place.store, data=data, at=version, progress=telling(tell))
    if as_json:
        print_json(report.record())
    else:
        tell_report(report)
        if not data:
            click.echo("contents were not read: --data reads them, and hashes the tree", err=True)
    raise_verdict(report, place.store)
