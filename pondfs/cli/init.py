"""``pond init``: make an empty pond."""

import shlex

import click

from pondfs.cli.output import print_json
from pondfs.cli.reach import create_pond, find_place, pond_option
from pondfs.options import parse_store


@click.command("init")
@click.argument("store", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print {store} as JSON.")
@pond_option
def command(store: str | None, as_json: bool) -> None:
    """Make an empty pond at STORE, a directory that is empty or does not exist yet.

    Without STORE: at --pond, $POND or the default place. Never needed before mounting, which makes
    a pond where there is none.

    \b
    Example:
      pond init /srv/pond
      mount.pond /srv/pond /mnt/pond
    """
    place = parse_store(store) if store is not None else find_place().store
    create_pond(place)
    if as_json:
        print_json({"store": place})
    else:
        click.echo(f"made a pond at {place}")
        click.echo(f"mount it: mount.pond {shlex.quote(str(place))} MOUNTPOINT", err=True)
