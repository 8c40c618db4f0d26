"""``pond status``: what is mounted, what is pending, what the last commit cost."""

from datetime import UTC, datetime
from typing import Any

import click

from pondfs.cli.output import (
    format_count,
    format_duration,
    format_size,
    print_fields,
    print_json,
)
from pondfs.cli.reach import connect, find_place, load_status, pond_option

KEYS = (
    "store",
    "mounted",
    "mountpoint",
    "pid",
    "read_only",
    "version",
    "pending_nodes",
    "pending_entries",
    "pending_bytes",
    "pending_age_s",
    "last_commit",
    "last_error",
    "nodes",
    "rss_bytes",
    "options",
)
"""What ``--json`` always has, in this order; null where it does not apply."""


@click.command("status", short_help="Show what is pending and what the daemon does.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@pond_option
def command(as_json: bool) -> None:
    """Show whether the pond is mounted, its version, and what is not committed yet.

    \b
    Example:
      pond status
      pond --pond /srv/pond status --json | jq .pending_bytes
    """
    place = find_place()
    client = connect(place)
    if client is None:
        found = {**load_status(place.store), "store": str(place.store), "mounted": False}
    else:
        with client:
            found = {**client.call("status"), "mounted": True}
        if commit := found.get("last_commit"):
            # The daemon speaks in seconds since 1970.
            commit["timestamp"] = datetime.fromtimestamp(commit["timestamp"], UTC)
    status = {key: found.get(key) for key in KEYS}
    if as_json:
        print_json(status)
    else:
        print_fields(_lines(status))


def _lines(status: dict[str, Any]) -> list[tuple[str, str]]:
    lines = [("store", str(status["store"]))]
    if status["mounted"]:
        how = "read-only" if status["read_only"] else "read-write"
        lines.append(("mounted", f"{status['mountpoint']} ({how}, pid {status['pid']})"))
    else:
        lines.append(("mounted", "no"))
    lines.append(("version", _version(status)))
    if status["mounted"]:
        lines.append(("pending", _pending(status)))
    if status["nodes"] is not None:
        lines.append(("nodes", format_count(status["nodes"])))
    if status["rss_bytes"] is not None:
        lines.append(("memory", format_size(status["rss_bytes"])))
    if status["last_error"]:
        lines.append(("error", str(status["last_error"])))
    return lines


def _version(status: dict[str, Any]) -> str:
    text = str(status["version"])
    if commit := status["last_commit"]:
        age_s = (datetime.now(UTC) - commit["timestamp"]).total_seconds()
        text += f", {format_duration(max(age_s, 0))} ago"
        if commit.get("duration_ms") is not None:
            text += (
                f" ({format_count(commit['rows'])} rows, {format_size(commit['bytes'])} "
                f"in {format_duration(commit['duration_ms'] / 1000)})"
            )
    return text


def _pending(status: dict[str, Any]) -> str:
    if not status["pending_nodes"] and not status["pending_entries"]:
        return "nothing"
    return (
        f"{format_count(status['pending_nodes'] or 0)} nodes, "
        f"{format_count(status['pending_entries'] or 0)} entries, "
        f"{format_size(status['pending_bytes'] or 0)}, "
        f"for {format_duration(status['pending_age_s'] or 0)}"
    )
