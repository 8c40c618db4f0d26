"""Which pond a program means, and what can be asked of it as a whole.

Who may not read the store of a mounted pond asks its daemon through the mount instead, and gets as
far as the permissions in the tree let that user.
"""

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pondfs.change import change_of, event_of
from pondfs.control.client import MountClient
from pondfs.control.reach import connect_mount
from pondfs.errors import NotAPond, NotPermitted
from pondfs.mountinfo import Mount, find_pond_around, find_pond_at, find_ponds_of
from pondfs.node import Version
from pondfs.oplog import info_of
from pondfs.options import default_store, parse_store
from pondfs.unmount import flush_kernel

if TYPE_CHECKING:
    import pyarrow as pa

    from pondfs.change import Change, Event
    from pondfs.oplog import VersionInfo

When = int | str | datetime
"""A version's number, a time, or text as `pondfs.when` has it: ``10m-ago``, a tag, …"""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Place:
    """A pond as found.

    Attributes:
        store: its directory.
        named: the mount by which it was named; None when it was named by its store.
    """

    store: Path
    named: Mount | None = None

    def mount(self) -> Mount | None:
        """Return the mount to work in, as of now: the one that was named, else the writer's.

        What is mounted read-only may be an old version, so it counts only where it was named.
        """
        if self.named is not None:
            return self.named
        writers = (m for m in find_ponds_of(self.store) if "ro" not in m.options)
        return next(writers, None)


def locate(where: str | os.PathLike[str] | None, environ: Mapping[str, str]) -> Place:
    """Return the pond that *where* names: its store, or a place where it is mounted.

    None: ``$POND``, else the mount we stand in, else the default store.
    """
    named = environ.get("POND") or None if where is None else os.fspath(where)
    if named is not None:
        path = parse_store(named)
        mount = find_pond_at(path)
        return Place(path) if mount is None else Place(Path(mount.source), mount)
    try:
        here = os.getcwd()
    except OSError:  # removed, or a mount whose daemon is gone
        here = None
    if here is not None and (mount := find_pond_around(here)):
        return Place(Path(mount.source), mount)
    return Place(default_store(environ))


def may_read_store(place: Place) -> bool:
    """Return whether we may read the store; if not, the pond is mounted where we may ask.

    Raises: NotAPond; NotPermitted.
    """
    try:
        os.stat(place.store / "_delta_log")
    except PermissionError:
        if place.mount() is None:
            raise NotPermitted(
                f"{place.store} is not readable: ask as its owner or as root"
            ) from None
        return False
    except OSError:
        raise NotAPond(
            f"there is no pond at {place.store}: pondfs.init makes one, or name another"
        ) from None
    return True


def _ask(place: Place, op: str, **fields: Any) -> dict[str, Any]:
    mount = place.mount()
    assert mount is not None
    with MountClient(mount.mountpoint) as client:
        return client.call(op, **fields)


def load_versions(place: Place, limit: int | None) -> "list[VersionInfo]":
    """Return the newest *limit* versions (all when None), newest first."""
    if not may_read_store(place):
        return [info_of(record) for record in _ask(place, "log", limit=limit)["versions"]]
    from pondfs.store.log import read_versions

    return read_versions(place.store, limit)


def load_tags(place: Place) -> dict[str, Version]:
    """Return the tags, sorted by name."""
    if not may_read_store(place):
        found: dict[str, Version] = _ask(place, "tags")["tags"]
        return found
    from pondfs.store.tags import read_tags

    return read_tags(place.store)


def load_changes(place: Place, old: Version, new: Version, path: bytes) -> "list[Change]":
    """Return what is different in *new*, sorted by path. Raises: NoSuchPath, StoreDamaged."""
    if not may_read_store(place):
        asked = _ask(place, "changes", old=old, new=new, path=os.fsdecode(path))
        return [change_of(record) for record in asked["changes"]]
    from pondfs.store.changes import load_changes

    return load_changes(place.store, old, new, _names(path))


def load_history(place: Place, path: bytes) -> "list[Event]":
    """Return what happened to a file, newest first. Raises: NoSuchPath, UsageError."""
    if not may_read_store(place):
        asked = _ask(place, "history", path=os.fsdecode(path))
        return [event_of(record) for record in asked["events"]]
    from pondfs.store.lives import load_history

    return load_history(place.store, _names(path))


def resolve_version(place: Place, when: When) -> Version:
    """Return the version *when* means.

    Raises: NoSuchVersion; ValueError for a datetime without a time zone.
    """
    if isinstance(when, datetime):
        if when.tzinfo is None:
            raise ValueError("a time needs a time zone: datetime(…, tzinfo=UTC)")
        micros = (when - _EPOCH) // timedelta(microseconds=1)
        text = f"@{micros // 10**6}.{micros % 10**6:06}"
    else:
        # 2026 as a number is no year.
        text = f"v{when}" if isinstance(when, int) else when
    if not may_read_store(place):
        return Version(_ask(place, "resolve", at=text)["version"])
    from pondfs.store.resolve import resolve_version

    return resolve_version(place.store, text, time.time_ns())


def load_pending(place: Place, mount: Mount) -> "pa.Table":
    """Return the rows of a mounted pond that are not committed yet.

    Raises: DaemonGone; NotPermitted for who is neither its owner nor root.
    """
    from pondfs.store.preview import read_pending

    flush_kernel(mount.mountpoint)
    with connect_mount(mount) as client:
        while True:
            reply, rows = client.call_table("pending")
            try:
                return read_pending(place.store, reply["staged"], rows)
            except FileNotFoundError:
                continue  # committed meanwhile


def query(
    place: Place,
    text: str,
    version: Version | None = None,
    pending: "pa.Table | None" = None,
    live: Path | None = None,
) -> "pa.Table":
    """Return what a query answers. See `query.session.Session`.

    Raises: NotPermitted for who may not read the store; UsageError; StoreDamaged.
    """
    if not may_read_store(place):
        raise NotPermitted(f"{place.store} is not readable: SQL is for its owner and root")
    from pondfs.query.session import Session

    at = None if version is None else f"v{version}"
    with Session(place.store, at=at, pending=pending, live=live) as session:
        return session.sql(text).table()


def _names(path: bytes) -> tuple[bytes, ...]:
    return tuple(path.split(b"/")) if path else ()
