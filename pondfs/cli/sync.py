"""``pond sync``: what sync(1) is for a disk: everything durable, and no word about it later."""

from typing import Any

import click

from pondfs.cli.output import format_count, format_duration, format_size, print_json, progress
from pondfs.cli.reach import connect_anyhow, find_place, load_versions, pond_option, require_pond
from pondfs.unmount import flush_kernel


@click.command("sync")
@click.option("--json", "as_json", is_flag=True, help="Print {version, operations, …} as JSON.")
@pond_option
def command(as_json: bool) -> None:
    """Make everything durable: what is pending becomes a version, if anything is.

    The kernel writes back the pages it holds; the daemon commits; the store is flushed to its
    disk. A pond that is not mounted has nothing pending: only its store is flushed.

    \b
    Example:
      pond sync && echo 'safe to pull the plug'
    """
    place = find_place()
    client = connect_anyhow(place)
    reply: dict[str, Any] = {}
    with progress("writing"):
        if client is not None:
            with client:
                flush_kernel(client.mountpoint)
                reply = client.call("commit", timeout_s=None)
        else:
            require_pond(place.store)
            # A commit is on the disk when it returns; but a store may have been copied here since.
            flush_kernel(place.store)
    version = reply.get("version")
    result = {
        "mounted": client is not None,
        "committed": version is not None,
        "version": version or load_versions(place, 1)[0].version,
        **{key: reply.get(key) for key in ("operations", "bytes", "duration_ms")},
    }
    if as_json:
        print_json(result)
    elif version is not None:
        count = result["operations"] or 0
        click.echo(
            f"version {version}: {format_count(count)} operation{'' if count == 1 else 's'}, "
            f"{format_size(result['bytes'] or 0)} in "
            f"{format_duration((result['duration_ms'] or 0) / 1000)}; everything is on the disk"
        )
    elif client is not None:
        click.echo(f"nothing was pending; version {result['version']} is on the disk")
    else:
        click.echo(f"not mounted; version {result['version']} is flushed to the disk")
