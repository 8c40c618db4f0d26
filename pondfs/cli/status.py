"""``pond status``: what is mounted, what is pending, what the pond takes and what that cost."""

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
    progress,
)
from pondfs.cli.reach import connect_anyhow, find_place, load_operations, load_status, pond_option
from pondfs.control.client import DEFAULT_TIMEOUT_S

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
    "journaled_versions",
    "journaled_bytes",
    "last_commit",
    "last_error",
    "nodes",
    "rss_bytes",
    "options",
    "storage",
    "storage_error",
    "log",
    "image",
    "last_compaction",
    "operations",
)
"""What ``--json`` always has, in this order; null where it does not apply."""


@click.command("status")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option("--pending", is_flag=True, help="List what is pending: operation, path, bytes, age.")
@click.option("--full", is_flag=True, help="Count all that the pond takes, even if that is long.")
@pond_option
def command(as_json: bool, pending: bool, full: bool) -> None:
    """Show whether the pond is mounted, its version, what is not committed yet, and what it takes.

    Content is live when the newest version shows it, history when only older ones do. Of a large
    pond it is told as of the last version for which that takes a moment only; --full counts it as
    of the newest.

    \b
    Example:
      pond status
      pond status --pending
      pond --pond /srv/pond status --json | jq .pending_bytes
    """
    place = find_place()
    client = connect_anyhow(place)
    if client is None:
        with progress("counting"):
            found = load_status(place.store, full=full)
        found |= {"store": str(place.store), "mounted": False}
    else:
        with client:
            # First what is pending: the kernel gives up what it holds back for it.
            operations = load_operations(client) if pending else None
            with progress("counting"):
                limit_s = None if full else DEFAULT_TIMEOUT_S
                told = client.call("status", timeout_s=limit_s, whole=full)
            found = {**told, "mounted": True, "operations": operations}
    for key in ("last_commit", "image", "last_compaction"):
        if (about := found.get(key)) and not isinstance(about["timestamp"], datetime):
            # The daemon speaks in seconds since 1970.
            about["timestamp"] = datetime.fromtimestamp(about["timestamp"], UTC)
    status = {key: found.get(key) for key in KEYS}
    if as_json:
        print_json(status)
        return
    print_fields(_lines(status))
    if lines := _storage_lines(status):
        click.echo()
        print_fields(lines)
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
        text += f", {_ago(commit['timestamp'])}"
        if commit.get("duration_ms") is not None:
            text += (
                f" ({format_count(commit['rows'])} rows, {format_size(commit['bytes'])} "
                f"in {format_duration(commit['duration_ms'] / 1000)})"
            )
    return text


def _pending(status: dict[str, Any]) -> str:
    if not status["pending_nodes"] and not status["pending_entries"]:
        return "nothing" + _journaled(status)
    nodes, entries = status["pending_nodes"] or 0, status["pending_entries"] or 0
    return (
        f"{format_count(nodes)} node{'' if nodes == 1 else 's'}, "
        f"{format_count(entries)} entr{'y' if entries == 1 else 'ies'}, "
        f"{format_size(status['pending_bytes'] or 0)}, "
        f"for {format_duration(status['pending_age_s'] or 0)}{_journaled(status)}"
    )


def _journaled(status: dict[str, Any]) -> str:
    if not (count := status["journaled_versions"]):
        return ""
    return (
        f"; in the journal until the next commit: {format_count(count)} "
        f"version{'' if count == 1 else 's'}, {format_size(status['journaled_bytes'])}"
    )


def _ago(moment: datetime) -> str:
    age_s = (datetime.now(UTC) - moment).total_seconds()
    return f"{format_duration(max(age_s, 0))} ago"


# --- what the pond takes --------------------------------------------------------------------------


def _storage_lines(status: dict[str, Any]) -> list[tuple[str, str]]:
    storage = status["storage"]
    if storage is None:
        error = status["storage_error"]
        return [("storage", f"could not be counted: {error}")] if error else []
    return [
        ("data files", _files(storage["data_files"], storage["data_bytes"])),
        *_content(storage, status["version"]),
        ("reclaimable", _reclaimable(storage)),
        ("disk", _disk(storage["disk_free_bytes"], storage["disk_bytes"])),
        ("log", _log(status["log"]["entries_since_checkpoint"])),
        ("image", _image(status["image"], status["version"])),
        ("compaction", _compaction(status["last_compaction"])),
    ]


def _content(storage: dict[str, Any], newest: int) -> list[tuple[str, str]]:
    """Return what is live and what is history: of which version, unless it is the newest."""
    counted, live, history = (storage[key] for key in ("version", "live_bytes", "history_bytes"))
    if live is None:
        return [("live", "not counted, as that would take long: pond status --full")]
    when = "" if counted == newest else f" as of version {counted}"
    lines = [("live", f"{format_size(live)}{when}")]
    if history is None:
        lines.append(("history", "not counted, as that would take long: pond status --full"))
    else:
        held = (
            f"{format_size(history)}{when}, in older versions only" if history else f"nothing{when}"
        )
        lines.append(("history", held))
    newer = storage["newer_bytes"]
    if newer != 0:  # nothing came, or what did came after the daemon had counted: a moment ago
        text = "some content came" if newer is None else f"{format_size(newer)} came"
        lines.append(("since then", f"{text}: pond status --full tells what of it is live"))
    return lines


def _reclaimable(storage: dict[str, Any]) -> str:
    if not storage["reclaimable_files"]:
        return "nothing"
    files = _files(storage["reclaimable_files"], storage["reclaimable_bytes"])
    return f"{files}, which no version needs"


def _disk(free_bytes: int, size_bytes: int) -> str:
    return f"{format_size(free_bytes)} free of {format_size(size_bytes)}"


def _log(entries: int) -> str:
    return f"{_counted(entries, 'entry', 'entries')} since the last checkpoint"


def _image(image: dict[str, Any] | None, newest: int) -> str:
    if image is None:
        return "none: it is saved once there is much to read"
    which = "the newest version" if image["version"] == newest else f"version {image['version']}"
    return f"of {which}, saved {_ago(image['timestamp'])}, {format_size(image['bytes'])}"


def _compaction(last: dict[str, Any] | None) -> str:
    if last is None:
        return "none yet"
    before = _files(last["files_before"], last["bytes_before"])
    after = _files(last["files_after"], last["bytes_after"])
    took = format_duration(last["duration_s"])
    return f"{_ago(last['timestamp'])}: {before}, became {after}, in {took}"


def _files(count: int, size_bytes: int) -> str:
    return f"{_counted(count, 'file', 'files')}, {format_size(size_bytes)}"


def _counted(count: int, one: str, many: str) -> str:
    return f"{format_count(count)} {one if count == 1 else many}"
