"""``pond maintain``: what an instance's file wants done now and then; for a timer."""

import os
import sys

import click

from pondfs.instance import Maintenance, find_instance, load_instance


@click.command("maintain")
@click.argument("name", metavar="NAME|FILE")
@click.option("-n", "--dry-run", is_flag=True, help="Say what would be done; change nothing.")
def command(name: str, dry_run: bool) -> int:
    """Do for a pond what [maintain] in /etc/pondfs/NAME.toml asks for: prune, compact, check.

    This is what pond-maintain@NAME.timer runs every night. Each step is the command of that name,
    and works while the pond is mounted. Without any keep_… nothing is ever pruned.

    The exit code is 0, or that of the first step that failed: the others are done all the same.

    \b
    [maintain]
    keep_last = 1000       # also keep_hourly, keep_weekly, keep_monthly, keep_yearly
    keep_daily = 60
    keep_within = "1m"
    compact = true
    check = "quick"        # "data" reads every byte; "off"

    \b
    Example:
      pond maintain field --dry-run
      systemctl enable --now pond-maintain@field.timer
    """
    from pondfs.cli import pond
    from pondfs.cli.run import run

    instance = load_instance(find_instance(name, os.environ))
    worst = 0
    for step in steps(instance.maintain, dry_run=dry_run):
        click.echo(f"==> pond {' '.join(step)}")
        sys.stdout.flush()
        code = run(pond, "pond", ["--pond", os.fspath(instance.mount.store), *step])
        worst = worst or code
    return worst


def steps(wanted: Maintenance, *, dry_run: bool) -> list[list[str]]:
    """Return the commands, in order, each as its arguments."""
    trial = ["--dry-run"] if dry_run else []
    found = []
    if not wanted.policy.is_empty:
        found.append(["prune", *_keep(wanted), *trial])
    if wanted.compact:
        found.append(["compact", *trial])
    if wanted.check != "off":
        found.append(["check", *(["--data"] if wanted.check == "data" else [])])
    return found


def _keep(wanted: Maintenance) -> list[str]:
    given = []
    for key in ("last", "within", "hourly", "daily", "weekly", "monthly", "yearly"):
        if value := getattr(wanted, f"keep_{key}"):
            given += [f"--keep-{key}", "unlimited" if value == -1 else str(value)]
    return given
