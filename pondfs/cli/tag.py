"""``pond tag``: names for versions that pruning keeps."""

import click

from pondfs.cli.output import format_local, print_json, print_table
from pondfs.cli.reach import ask, find_place, load_tags, load_versions, pond_option
from pondfs.errors import UsageError


@click.command("tag")
@click.argument("name", required=False)
@click.argument("when", metavar="[W]", required=False)
@click.option("-d", "--delete", metavar="NAME", help="Take tag NAME off; its version stays.")
@click.option("--json", "as_json", is_flag=True, help="Print the tags, or the one made, as JSON.")
@pond_option
def command(name: str | None, when: str | None, delete: str | None, as_json: bool) -> None:
    """Give version W a NAME: it can be used wherever a version is named, and pond prune keeps it.

    Without W what is pending becomes a version, and that one gets the name. Without NAME the tags
    are listed. mkdir and rmdir in .pond/tags do the same.

    \b
    Example:
      pond tag before-upgrade
      pond tag harvest-2026 2026-09-30
      pond diff before-upgrade
      pond tag -d before-upgrade
    """
    place = find_place()
    if delete is not None:
        if name is not None:
            raise UsageError("give either a NAME to set or -d NAME to take off")
        done = ask(place, "tag", name=delete, delete=True)
    elif name is not None:
        done = ask(place, "tag", name=name, at=when)
    else:
        tags = load_tags(place)
        times = {info.version: info.timestamp for info in load_versions(place, None)}
        if as_json:
            print_json(
                [
                    {"name": tag, "version": version, "timestamp": times.get(version)}
                    for tag, version in tags.items()
                ]
            )
        else:
            print_table(
                ("tag", "version", "time"),
                [
                    (tag, str(version), format_local(times[version]) if version in times else "")
                    for tag, version in tags.items()
                ],
                right="version",
            )
        return
    if as_json:
        print_json({"name": done["name"], "version": done["version"]})
    elif done["version"] is None:
        click.echo(f"tag {done['name']} is off")
    else:
        click.echo(f"tag {done['name']} is on version {done['version']}")
