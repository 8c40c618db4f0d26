"""Which pond is meant, the way to its daemon, and what can be asked of a pond as a whole.

For the commands and the Python API. A mounted pond is asked through its daemon's socket, an
unmounted one is read from its store; who may not read the store asks the daemon through the mount,
and gets as far as the permissions in the tree let that user. The store is imported inside
functions, because that takes longer than most commands.
"""

import contextlib
import errno
import logging
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pondfs.control.client import Client, MountClient
from pondfs.control.protocol import find_sockets
from pondfs.errors import DaemonGone, DaemonRefused, NotAPond, NotPermitted
from pondfs.mountinfo import Mount, find_pond_around, find_pond_at, find_ponds_of, is_believable
from pondfs.options import default_store, parse_store
from pondfs.store.existence import is_there

if TYPE_CHECKING:
    from pondfs.change import Change, Event
    from pondfs.node import Version
    from pondfs.oplog import VersionInfo


log = logging.getLogger("pondfs")


@dataclass(frozen=True, slots=True)
class Place:
    """A pond as found.

    Attributes:
        store: its directory.
        mount: the mount through which it was found; None when it was found by its store.
    """

    store: Path
    mount: Mount | None = None


def locate(named: str | None, environ: Mapping[str, str]) -> Place:
    """Return the pond that is *named*: its store, or a place where it is mounted.

    None: ``$POND``, else the mount we stand in, else the default store.

    Raises: UsageError; NotPermitted for a mount that says it is of somebody else's store.
    """
    if named is not None or (named := environ.get("POND")):
        path = parse_store(named)
        mount = find_pond_at(path)
        return Place(path) if mount is None else _place_of(mount)
    try:
        here = os.getcwd()
    except OSError:  # removed, or a mount whose daemon is gone
        here = None
    if here is not None and (mount := find_pond_around(here)):
        return _place_of(mount)
    return Place(default_store(environ))


def _place_of(mount: Mount) -> Place:
    if not is_believable(mount):
        # What is done to a pond may be done in its store: it must be the one that is looked at.
        raise NotPermitted(
            f"user {mount.owner_uid} mounted {mount.mountpoint} and calls it {mount.source}, which "
            "is another user's: name the pond by its store"
        )
    return Place(Path(mount.source), mount)


def connect_mount(mount: Mount) -> Client:
    """Return a connection to the daemon of *mount*.

    Raises: DaemonGone, NotPermitted.
    """
    why = "it has no control socket"
    for path in find_sockets(mount.mountpoint, mount.owner_uid):
        try:
            return Client(path)
        except DaemonGone as error:
            why = str(error)
    raise DaemonGone(
        f"{mount.mountpoint} is mounted but its daemon does not answer ({why}): "
        f"pond umount {mount.mountpoint}, then mount again"
    )


def connect(place: Place) -> Client | None:
    """Return a connection to the pond's daemon; None when the pond is not mounted.

    Of several daemons (a writer, and read-only ones beside it) it is the one of the mount that was
    named or stood in, else the writer.

    Raises: DaemonGone if there is a mount but its daemon does not answer; NotPermitted if it is
        somebody else's.
    """
    if place.mount is not None:
        return connect_mount(place.mount)
    if (path := _lock_socket(place.store)) is not None:
        try:
            client = Client(path)
        except DaemonGone:
            pass  # the lock's text outlives its daemon; the mount table has the last word
        else:
            if os.path.realpath(client.hello["store"]) == os.path.realpath(place.store):
                return client
            client.close()
    mounts = find_ponds_of(place.store)
    writer_first = min(mounts, key=lambda mount: "ro" in mount.options, default=None)
    return None if writer_first is None else connect_mount(writer_first)


def _lock_socket(store: Path) -> Path | None:
    """Return the writer's socket as its lock file names it, whoever that was."""
    from pondfs.store.lock import find_holder

    named = (find_holder(os.fspath(store / "_pond")) or {}).get("socket")
    return Path(named) if isinstance(named, str) and named else None


def require_pond(store: Path) -> None:
    """Refuse a place that holds no pond, before anything heavy is imported.

    Whoever reads the store after this finds every version in the table that was acknowledged until
    now: a daemon that has some in its journal only is asked to commit them.

    Raises: NotAPond, NotPermitted.
    """
    try:
        os.stat(store / "_delta_log")
    except PermissionError:
        raise NotPermitted(f"{store} is not readable: ask as its owner or as root") from None
    except OSError as error:
        if error.errno == errno.EIO:
            raise  # a disk that fails is not one without a pond
        if store == default_store(os.environ):
            _require_directory()
        raise NotAPond(
            f"there is no pond at {store}: 'pond init {store}' makes one, --pond names another"
        ) from None
    if missing := publish_journal(store):
        log.warning("%s", missing)


def publish_journal(store: Path) -> str:
    """Have versions that are in the journal committed: who reads the table then sees them.

    Returns: what is to be said of versions that could not be, as nobody is there to do it; or "".
    """
    try:
        if not is_there(store / "_pond" / "journal"):
            return ""
    except OSError as error:
        return f"the newest versions may be missing: {error}"
    socket = _lock_socket(store)
    if socket is not None:
        try:
            with Client(socket) as client:
                if os.path.realpath(client.hello["store"]) == os.path.realpath(store):
                    client.call("publish", timeout_s=None)
                    return ""
        except (NotPermitted, DaemonRefused) as error:
            return f"the newest versions may be missing: {error}"
        except DaemonGone:
            pass  # it died, and left the journal
    from pondfs.store.journal import find_waiting

    return find_waiting(os.fspath(store))


def _require_directory() -> None:
    """Refuse to look for a pond by where we stand when that is nowhere.

    Raises: NotAPond.
    """
    try:
        os.getcwd()
    except OSError:
        raise NotAPond(
            "the working directory is gone, so it names no pond: stand in one that is there, or "
            "name the pond with --pond"
        ) from None


@contextlib.contextmanager
def through_mount(place: Place) -> "Iterator[MountClient | None]":
    """Yield the way to the daemon for who may not read the store; None for who may.

    Raises: NotAPond; NotPermitted when there is no such way either.
    """
    try:
        require_pond(place.store)
    except NotPermitted:
        client = open_control(place)
        if client is None:
            raise
    else:
        yield None
        return
    with client:
        yield client


def open_control(place: Place) -> MountClient | None:
    """Return the way through a mount that we may read; None when there is none."""
    mounts = find_ponds_of(place.store) if place.mount is None else [place.mount]
    for mount in mounts:
        with contextlib.suppress(OSError):
            return MountClient(mount.mountpoint)
    return None


# --- what can be asked of it ---


def load_versions(place: Place, limit: int | None) -> "list[VersionInfo]":
    """Return the newest *limit* versions (all when None), newest first."""
    with through_mount(place) as daemon:
        if daemon is not None:
            from pondfs.oplog import info_of

            return [info_of(record) for record in daemon.call("log", limit=limit)["versions"]]
    from pondfs.store.log import read_versions

    return read_versions(place.store, limit)


def load_tags(place: Place) -> "dict[str, Version]":
    """Return the tags, sorted by name."""
    with through_mount(place) as daemon:
        if daemon is not None:
            found: dict[str, Version] = daemon.call("tags")["tags"]
            return found
    from pondfs.store.tags import read_tags

    return read_tags(place.store)


def load_changes(
    place: Place, old: "Version", new: "Version", path: tuple[bytes, ...]
) -> "list[Change]":
    """Return what is different in version *new*. Raises: NoSuchPath, StoreDamaged."""
    with through_mount(place) as daemon:
        if daemon is not None:
            return ask_changes(daemon, old, new, path) or []
    with contextlib.suppress(DaemonGone, NotPermitted, DaemonRefused):
        client = connect(place)
        if client is not None:
            with client:
                found = ask_changes(client, old, new, path, light=True)
                if found is not None:
                    return found
    from pondfs.store.changes import load_changes

    return load_changes(place.store, old, new, path)


def ask_changes(
    daemon: Client | MountClient,
    old: "Version",
    new: "Version | None",
    path: tuple[bytes, ...],
    *,
    light: bool = False,
) -> "list[Change] | None":
    """Have the daemon compare; *new* None is now. None: with *light*, it left that to us."""
    from pondfs.change import change_of

    reply = daemon.call(
        "changes", timeout_s=None, old=old, new=new, path=text_of(path), light=light
    )
    found = reply["changes"]
    return None if found is None else [change_of(record) for record in found]


def load_history(place: Place, path: tuple[bytes, ...]) -> "list[Event]":
    """Return what happened to a file, newest first. Raises: NoSuchPath, UsageError."""
    with through_mount(place) as daemon:
        if daemon is not None:
            from pondfs.change import event_of

            reply = daemon.call("history", path=text_of(path))
            return [event_of(record) for record in reply["events"]]
    from pondfs.store.lives import load_history

    return load_history(place.store, path)


def load_touching(place: Place, path: tuple[bytes, ...]) -> "set[Version] | None":
    """Return the versions that touched *path*; None for all. Raises: NoSuchPath."""
    with through_mount(place) as daemon:
        if daemon is not None:
            versions = daemon.call("touching", path=text_of(path))["versions"]
            return None if versions is None else set(versions)
    from pondfs.store.lives import load_touching

    return load_touching(place.store, path)


def text_of(path: tuple[bytes, ...]) -> str:
    """Return a path as the daemon takes it."""
    return os.fsdecode(b"/".join(path))
