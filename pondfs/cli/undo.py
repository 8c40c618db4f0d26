"""``pond undo``: take back what one version changed."""

import click

from pondfs.cli.output import print_json, progress
from pondfs.cli.reach import ask, find_place, pond_option
from pondfs.cli.restore import report


@click.command("undo")
@click.argument("version", required=False)
@click.option("-n", "--dry-run", is_flag=True, help="Only say what would be done.")
@click.option("--force", is_flag=True, help="Also where later versions changed the same paths.")
@click.option("--json", "as_json", is_flag=True, help="Print {undone, version, changes} as JSON.")
@pond_option
def command(version: str | None, dry_run: bool, force: bool, as_json: bool) -> None:
    """Take back what VERSION changed, by default the newest version, what is pending included.

    Only what that version changed is touched; what came later stays. Where a later version changed
    the same path, nothing is done and the paths are named, unless --force is given. The undo is a
    version itself: undo it to have it back.

    \b
    Example:
      pond undo
      pond undo 42 --dry-run
    """
    place = find_place()
    with progress("comparing" if dry_run else "taking back"):
        done = ask(place, "undo", at=version, dry_run=dry_run, force=force)
    if as_json:
        print_json({key: done[key] for key in ("undone", "version", "changes")})
    else:
        report(done, f"as it was before version {done['undone']}", dry_run=dry_run)
