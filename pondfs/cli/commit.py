"""``pond commit``: make what is pending a version, now, with a message."""

import click

from pondfs.cli.output import format_count, format_duration, format_size, print_json, progress
from pondfs.cli.reach import connect_anyhow, find_place, pond_option, require_pond
from pondfs.unmount import flush_kernel


@click.command("commit")
@click.option("-m", "--message", default="", help="What the log shall say.")
@click.option("--json", "as_json", is_flag=True, help="Print {version, operations, …} as JSON.")
@pond_option
def command(message: str, as_json: bool) -> None:
    """Make everything pending one version, durable on return.

    What programs wrote and the kernel still holds back is included. With nothing pending no version
    is made, and --json says {"version": null}.

    \b
    Example:
      pond commit -m 'after the harvest'
    """
    place = find_place()
    client = connect_anyhow(place)
    if client is None:
        # Nothing outlives a mount uncommitted, so an unmounted pond has nothing pending.
        require_pond(place.store)
        reply = {}
    else:
        with client, progress("committing"):
            flush_kernel(client.mountpoint)
            reply = client.call("commit", timeout_s=None, message=message)
    keys = ("version", "operations", "bytes", "duration_ms")
    result = {key: reply.get(key) for key in keys}
    if as_json:
        print_json(result)
        return
    operations = result["operations"] or 0
    if result["version"] is None:
        click.echo("nothing pending" + ("" if client else ": the pond is not mounted"))
    else:
        click.echo(
            f"version {result['version']}: {format_count(operations)} "
            f"operation{'' if operations == 1 else 's'}, "
            f"{format_size(result['bytes'] or 0)} "
            f"in {format_duration((result['duration_ms'] or 0) / 1000)}"
        )
