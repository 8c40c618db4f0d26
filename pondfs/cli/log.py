"""``pond log``: the versions, newest first."""

from dataclasses import asdict

import click

from pondfs.cli.output import format_count, format_local, format_size, print_json, print_table
from pondfs.cli.reach import find_place, load_versions, pond_option


@click.command("log", short_help="Show the versions, newest first.")
@click.option("-n", "limit", type=click.IntRange(min=1), help="Show the newest N only.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON array, one object a version.")
@pond_option
def command(limit: int | None, as_json: bool) -> None:
    """Show the pond's versions, newest first: when, who, how much, and the message.

    What is pending is no version yet: see pond status.

    \b
    Example:
      pond log -n 20
      pond log --json | jq '.[0].version'
    """
    versions = load_versions(find_place().store, limit)
    if as_json:
        print_json([asdict(version) for version in versions])
        return
    print_table(
        ("version", "time", "who", "created", "changed", "removed", "added", "message"),
        [
            (
                str(info.version),
                format_local(info.timestamp),
                f"{info.user}@{info.host}" if info.host else info.user,
                format_count(info.nodes_created),
                format_count(info.nodes_changed),
                format_count(info.nodes_removed),
                format_size(info.bytes_added),
                info.message,
            )
            for info in versions
        ],
        right="version created changed removed added",
    )
