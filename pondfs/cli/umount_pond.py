"""``umount.pond``, also as ``/sbin/umount.fuse.pond``, which umount(8) calls."""

import click

from pondfs import __version__
from pondfs.cli.output import progress
from pondfs.cli.run import as_mount_says, run
from pondfs.errors import UsageError
from pondfs.unmount import unmount


@click.command("umount.pond", context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="umount.pond")
@click.argument("mountpoint")
@click.option("-f", "--force", is_flag=True, help="Detach even if the last commit fails.")
@click.option("-l", "--lazy", is_flag=True, help="Detach now, let go when nobody uses it any more.")
@click.option("-v", "--verbose", is_flag=True, help="Say what was done.")
@click.option("-n", "--no-mtab", is_flag=True, help="For umount(8); nothing to leave out.")
@click.option("-r", "--read-only", is_flag=True, help="For umount(8); not done.")
@click.option("-t", "--types", metavar="TYPE", help="For umount(8); always fuse.pond.")
@click.option("-N", "--namespace", metavar="NS", help="For umount(8); refused.")
def command(
    mountpoint: str,
    force: bool,
    lazy: bool,
    verbose: bool,
    no_mtab: bool,
    read_only: bool,
    types: str | None,
    namespace: str | None,
) -> None:
    """Commit what is pending in the pond at MOUNTPOINT, detach it, and wait for its daemon to end.

    With this as /sbin/umount.fuse.pond, plain umount does the same.

    \b
    Example:
      umount.pond /mnt/pond
    """
    if namespace is not None:
        raise UsageError("-N is not supported: enter the mount namespace first, with nsenter(1)")
    with progress(f"committing and unmounting {mountpoint}"):
        unmount(mountpoint, force=force, lazy=lazy)
    if verbose:
        click.echo(f"{mountpoint} unmounted")


def main() -> int:
    """Run ``umount.pond``; return its exit code, as umount(8) has them."""
    return as_mount_says(run(command, "umount.pond"))
