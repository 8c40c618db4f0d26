"""``pond repair``: what a check found is mended, as a new version."""

from typing import TYPE_CHECKING, Any

import click

from pondfs.cli.findings import find_store, hush, raise_verdict, tell_report, telling
from pondfs.cli.output import format_path, print_json, progress
from pondfs.cli.reach import pond_option, require_pond

if TYPE_CHECKING:
    from pondfs.store.repair import Outcome

_MOST_TOLD = 100
"""Actions told one by one; --json has all."""


@click.command("repair")
@click.argument("store", required=False)
@click.option("-n", "--dry-run", is_flag=True, help="Say what would be done; change nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print {actions, version, …} as JSON.")
@pond_option
def command(store: str | None, dry_run: bool, as_json: bool) -> None:
    """Mend what `pond check` found, as far as that takes no guessing.

    The pond must not be mounted. What is done is one version, with a message that says so; earlier
    ones stay as they are. Nothing is deleted: what nothing leads to gets a name in /lost+found. If
    something can't be mended (data files that are gone, say) nothing is done, and the exit code is
    14.

    \b
    Example:
      pond umount /mnt/pond
      pond repair --dry-run
      pond repair
      pond log --stat -n 1
    """
    place = find_store(store)
    require_pond(place.store)
    hush()
    from pondfs.store.repair import repair_store

    with progress("looking at the log") as tell:
        outcome = repair_store(place.store, dry_run=dry_run, progress=telling(tell))
    if as_json:
        print_json(_record(outcome, dry_run))
    else:
        _tell(outcome, dry_run)
    after = outcome.after
    if after is not None:
        raise_verdict(after, place.store)
    elif outcome.before.verdict == "damaged":
        raise_verdict(outcome.before, place.store)


def _record(outcome: "Outcome", dry_run: bool) -> dict[str, Any]:
    before = outcome.before.record()
    return {
        "store": before["store"],
        "verdict": before["verdict"],
        "findings": before["findings"],
        "actions": outcome.actions,
        "version": outcome.version,
        "verdict_after": None if outcome.after is None else outcome.after.verdict,
        "dry_run": dry_run,
    }


def _tell(outcome: "Outcome", dry_run: bool) -> None:
    if outcome.before.verdict == "damaged":
        tell_report(outcome.before)
        click.echo("nothing was done")
        return
    for action in outcome.actions[:_MOST_TOLD]:
        click.echo(f"{'would ' if dry_run else ''}{format_path(action.encode())}")
    if len(outcome.actions) > _MOST_TOLD:
        click.echo(f"… and {len(outcome.actions) - _MOST_TOLD:,} more")
    if not outcome.actions:
        click.echo("clean: there is nothing to mend")
    elif dry_run:
        click.echo("dry run: nothing was done")
    elif outcome.version is not None:
        click.echo(f"mended, as version {outcome.version}")
    if outcome.after is not None:
        tell_report(outcome.after)
