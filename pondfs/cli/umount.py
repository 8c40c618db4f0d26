"""``pond umount``: commit, detach, and return when everything is down."""

import click

from pondfs.cli.output import progress
from pondfs.unmount import unmount


@click.command("umount")
@click.argument("mountpoint")
@click.option("-f", "--force", is_flag=True, help="Detach even if the last commit fails.")
@click.option("-l", "--lazy", is_flag=True, help="Detach now, let go when nobody uses it any more.")
def command(mountpoint: str, force: bool, lazy: bool) -> None:
    """Commit what is pending in the pond at MOUNTPOINT, detach it, and wait for its daemon to end.

    If that commit fails (disk full), the pond stays mounted and nothing is lost.

    \b
    Example:
      pond umount /mnt/pond
    """
    with progress(f"committing and unmounting {mountpoint}"):
        unmount(mountpoint, force=force, lazy=lazy)
