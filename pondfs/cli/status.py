"""``pond status``: what is mounted, what is pending, what the last commit cost."""

import os
import time
from datetime import UTC, datetime
from typing import Any

import click

from pondfs.cli.output import (
    format_count,
    format_duration,
    format_path,
    format_size,
    print_fields,
    print_json,
    print_table,
)
from pondfs.cli.reach import connect_anyhow, find_place, load_operations, load_status, pond_option

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
    "operations",
)
"""What ``--json`` always has, in this order; null where it does not apply."""


@click.command("status")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option("--pending", is_flag=True, help="List what is pending: operation, path, bytes, age.")
@pond_option
def command(as_json: bool, pending: bool) -> None:
    """Show whether the pond is mounted, its version, and what is not committed yet.

    \b
    Example:
      pond status
      pond status --pending
      pond --pond /srv/pond status --json | jq .pending_bytes
    """
    place = find_place()
    client = connect_anyhow(place)
    if client is None:
        found = {**load_status(place.store), "store": str(place.store), "mounted": False}
    else:
        with client:
            # First what is pending: the kernel gives up what it holds back for it.
            operations = load_operations(client) if pending else None
            found = {**client.call("status"), "mounted": True, "operations": operations}
        if commit := found.get("last_commit"):
            # The daemon speaks in seconds since 1970.
            commit["timestamp"] = datetime.fromtimestamp(commit["timestamp"], UTC)
    status = {key: found.get(key) for key in KEYS}
    if as_json:
        print_json(status)
    else:
        print_fields(_lines(status))
        _print_operations(status["operations"] or [])


def _print_operations(operations: list[dict[str, Any]]) -> None:
    """Print what was done, to what, how many bytes it brought, and how long ago."""
    if not operations:
        return
    click.echo()
    now_ns = time.time_ns()
    rows = []
    for operation in operations:
        source = operation["from"]
        path = _shown(operation["path"])
        rows.append(
            (
                operation["op"],
                format_size(operation["bytes"]) if operation["bytes"] else "",
                format_duration(max(now_ns - operation["time_ns"], 0) / 1e9),
                path if source is None else f"{_shown(source)} -> {path}",
            )
        )
    print_table(("operation", "bytes", "age", "path"), rows, right="bytes age")


def _shown(path: str) -> str:
    return format_path(os.fsencode(path)) or "."


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
    nodes, entries = status["pending_nodes"] or 0, status["pending_entries"] or 0
    return (
        f"{format_count(nodes)} node{'' if nodes == 1 else 's'}, "
        f"{format_count(entries)} entr{'y' if entries == 1 else 'ies'}, "
        f"{format_size(status['pending_bytes'] or 0)}, "
        f"for {format_duration(status['pending_age_s'] or 0)}"
    )
