"""Changes and events as JSON has them: for people's scripts, and from the daemon to a command.

Paths are text as `os.fsdecode` makes it, so bytes that are not UTF-8 survive.
"""

import os
from dataclasses import asdict
from typing import Any

from pondfs.node import Version
from pondfs.store.changes import Change, State
from pondfs.store.lives import Event


def change_record(change: Change) -> dict[str, Any]:
    """Return a change as JSON has it."""
    return {
        "change": change.change,
        "path": os.fsdecode(change.path),
        "from": None if change.source is None else os.fsdecode(change.source),
        "type": change.type,
        "before": None if change.before is None else asdict(change.before),
        "after": None if change.after is None else asdict(change.after),
    }


def change_of(record: dict[str, Any]) -> Change:
    """Return the change a record tells of."""
    before, after = record["before"], record["after"]
    return Change(
        record["change"],
        os.fsencode(record["path"]),
        None if record["from"] is None else os.fsencode(record["from"]),
        record["type"],
        None if before is None else State(**before),
        None if after is None else State(**after),
    )


def event_record(event: Event) -> dict[str, Any]:
    """Return an event as JSON has it."""
    return {
        "version": event.version,
        "path": os.fsdecode(event.path),
        "size": event.size,
        "what": list(event.what),
        "from": None if event.source is None else os.fsdecode(event.source),
    }


def event_of(record: dict[str, Any]) -> Event:
    """Return the event a record tells of."""
    return Event(
        Version(record["version"]),
        os.fsencode(record["path"]),
        record["size"],
        tuple(record["what"]),
        None if record["from"] is None else os.fsencode(record["from"]),
    )
