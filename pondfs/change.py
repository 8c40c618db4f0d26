"""What changed: between two versions, and in the life of one file; and how JSON has it.

Records are for people's scripts, and what a daemon tells a command. Paths in them are text as
`os.fsdecode` makes it, so bytes that are not UTF-8 survive.
"""

import os
from dataclasses import asdict, dataclass
from typing import Any

from pondfs.node import Version


@dataclass(frozen=True, slots=True)
class State:
    """A node's attributes at one version, as far as changes are about them."""

    mode: int
    uid: int
    gid: int
    size: int


@dataclass(frozen=True, slots=True)
class Change:
    """One path that is not as it was.

    Attributes:
        change: ``added`` ``removed`` ``changed`` ``renamed`` ``mode`` (mode, owner or xattrs).
        path: where it is, or was when it is gone; from the pond's root, without a leading slash.
        source: where it was, if ``renamed``.
        type: ``file`` ``directory`` ``symlink`` …
        before: its state at the first version; None if ``added``.
        after: its state at the second version; None if ``removed``.
    """

    change: str
    path: bytes
    source: bytes | None
    type: str
    before: State | None
    after: State | None


@dataclass(frozen=True, slots=True)
class Event:
    """What one version did to a file.

    Attributes:
        version: the version.
        path: where the file was then; where it last was, if it was removed.
        size: bytes; None when removed.
        what: of ``created`` ``replaced`` (a new file in the place of the old one) ``written``
            ``renamed`` ``removed``; it may be written and renamed at once.
        source: its path before, if ``renamed``.
    """

    version: Version
    path: bytes
    size: int | None
    what: tuple[str, ...]
    source: bytes | None


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
