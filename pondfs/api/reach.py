"""Which pond a program means, and what can be asked of it as a whole.

What the commands ask as well is in `control.reach`.
"""

import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from pondfs.control.reach import Place, connect_mount, through_mount
from pondfs.errors import NotAPond, NotPermitted
from pondfs.mountinfo import Mount, find_ponds_of
from pondfs.node import Version
from pondfs.unmount import flush_kernel

if TYPE_CHECKING:
    import pyarrow as pa

When = int | str | datetime
"""A version's number, a time, or text as `pondfs.when` has it: ``10m-ago``, a tag, …"""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def find_mount(place: Place) -> Mount | None:
    """Return the mount to work in, as of now: the one that was named, else the writer's.

    What is mounted read-only may be an old version, so it counts only where it was named.
    """
    if place.mount is not None:
        return place.mount
    writers = (m for m in find_ponds_of(place.store) if "ro" not in m.options)
    return next(writers, None)


def may_read_store(place: Place) -> bool:
    """Return whether we may read the store; if not, the pond is mounted where we may ask.

    Raises: NotAPond; NotPermitted.
    """
    try:
        with through_mount(place) as daemon:
            return daemon is None
    except NotAPond:
        raise NotAPond(
            f"there is no pond at {place.store}: pondfs.init makes one, or name another"
        ) from None


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
    with through_mount(place) as daemon:
        if daemon is not None:
            return Version(daemon.call("resolve", at=text)["version"])
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
