"""Which pond a command means, and how it gets at it.

A mounted pond is asked through its daemon's socket, an unmounted one is read from its store. The
calls into `pondfs.store` stand here and nowhere else in ``cli``, inside functions, because
importing the store takes longer than most commands.
"""

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from pondfs.control.client import Client, MountClient
from pondfs.control.reach import connect_mount
from pondfs.errors import DaemonGone, DaemonRefused, NotAPond, NotPermitted, UsageError
from pondfs.mountinfo import Mount, find_pond_around, find_pond_at, find_ponds_of
from pondfs.options import default_store, parse_store
from pondfs.unmount import flush_kernel

if TYPE_CHECKING:
    from pondfs.change import Change, Event
    from pondfs.node import Version
    from pondfs.oplog import VersionInfo
    from pondfs.store.usage import Usage

_F = TypeVar("_F", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True)
class Place:
    """A pond as found.

    Attributes:
        store: its directory.
        mount: the mount through which it was found; None when it was found by its store.
    """

    store: Path
    mount: Mount | None = None


def pond_option(function: _F) -> _F:
    """Give a click command ``--pond STORE``; a verb's own wins over the one before the verb."""

    def remember(ctx: click.Context, _: click.Parameter, value: str | None) -> None:
        if value is not None:
            ctx.find_root().meta[__name__] = value

    return click.option(
        "--pond",
        metavar="STORE",
        expose_value=False,
        is_eager=True,
        callback=remember,
        help="The pond: its store, or a place where it is mounted.",
    )(function)


def find_place() -> Place:
    """Return the pond the running command means.

    ``--pond``, else ``$POND``, else the mount we stand in, else the default store.
    """
    named = click.get_current_context().find_root().meta.get(__name__)
    return locate(named, os.environ)


def locate(named: str | None, environ: Mapping[str, str]) -> Place:
    """As `find_place`, with everything it depends on as arguments but the working directory."""
    if named is not None or (named := environ.get("POND")):
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


def require_pond(store: Path) -> None:
    """Refuse a place that holds no pond, before anything heavy is imported.

    Raises: NotAPond, NotPermitted.
    """
    try:
        os.stat(store / "_delta_log")
    except PermissionError:
        raise NotPermitted(f"{store} is not readable: ask as its owner or as root") from None
    except OSError:
        if store == default_store(os.environ):
            _require_directory()
        raise NotAPond(
            f"there is no pond at {store}: 'pond init {store}' makes one, --pond names another"
        ) from None


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


def _lock_socket(store: Path) -> Path | None:
    """Return the writer's socket as its lock file names it, whoever that was."""
    from pondfs.store.lock import find_holder

    named = (find_holder(os.fspath(store / "_pond")) or {}).get("socket")
    return Path(named) if isinstance(named, str) and named else None


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


def connect_anyhow(place: Place) -> Client | MountClient | None:
    """As `connect`, or through the mount for who may read that but is not its owner."""
    try:
        return connect(place)
    except NotPermitted:
        client = open_control(place)
        if client is None:
            raise
        return client


def ask(place: Place, op: str, **fields: Any) -> dict[str, Any]:
    """Have *op*, which changes something, done: by the daemon, or here when nothing is mounted.

    What programs wrote and the kernel holds back is in the tree before it.

    Args: as of `control.client.Client.call`.
    Raises: what the operation raises; PondLocked when another process has the store.
    """
    client = connect_anyhow(place)
    if client is None:
        require_pond(place.store)
        from pondfs.requests import answer_unmounted

        return answer_unmounted(place.store, op, fields)
    with client:
        flush_kernel(client.mountpoint)
        return client.call(op, timeout_s=None, **fields)


def _text(path: tuple[bytes, ...]) -> str:
    return os.fsdecode(b"/".join(path))


# --- the store ------------------------------------------------------------------------------------


def create_pond(store: Path) -> None:
    """Make an empty pond.

    Raises: PondExists, OSError.
    """
    from pondfs.store import create

    create(store)


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


def path_in_pond(place: Place, text: str, *, as_seen: bool = False) -> tuple[bytes, ...]:
    """Return the names that lead from the pond's root to what a person calls *text*.

    A path into a mount of the pond is one into the pond, absolute or from where we stand;
    any other counts from the pond's root. What is seen below ``.pond/at/W`` is called as it is in
    the pond, unless *as_seen*.

    Raises: UsageError when ``..`` leads out of it.
    """
    mounts = find_ponds_of(place.store) if place.mount is None else [place.mount]
    tops = [mount.mountpoint for mount in mounts]
    try:
        here = os.getcwd()
    except OSError:
        here = "/"
    inside: str | None = None
    if os.path.isabs(text) or any(Path(here).is_relative_to(top) for top in tops):
        whole = os.path.join(here, text)
        inside = _below(tops, whole) or _below(tops, _without_links(whole))
        if inside is None and not os.path.isabs(text):
            raise UsageError(f"'{text}' leads out of the pond: name a path from its root")
    path = os.path.normpath(inside or text).lstrip("/")
    names = tuple(name for name in os.fsencode(path).split(b"/") if name not in (b"", b"."))
    if b".." in names:
        raise UsageError(f"'{text}' leads out of the pond: name a path from its root")
    if inside and not as_seen and len(names) >= 3 and b"/".join(names[:2]) in _PASTS:
        return names[3:]
    return names


_PASTS = (b".pond/at", b".pond/versions", b".pond/tags")
"""Where the mount shows whole trees as they were, each below a name of its own."""

MOST_LINKS = 40
"""Symlinks followed in one path, at most: as the kernel has it (path_resolution(7))."""


def _below(tops: Sequence[Path], path: str) -> str | None:
    """Return *path* from the first of *tops* that it is below."""
    path = os.path.normpath(path)
    top = next((top for top in tops if Path(path).is_relative_to(top)), None)
    return None if top is None else os.path.relpath(path, top)


def _without_links(path: str) -> str:
    """Return an absolute path with symlinks resolved, but for those in a pond.

    Nothing in a pond's mount is looked at: its daemon may hang.
    """
    todo, here, links = path.split("/")[::-1], "/", 0
    while todo:
        name = todo.pop()
        if name in ("", ".", ".."):
            here = os.path.dirname(here) if name == ".." else here
            continue
        there = os.path.join(here, name)
        if find_pond_around(there) is not None:
            return os.path.join(there, *todo[::-1])
        try:
            target = os.readlink(there)
        except OSError:  # no link, or nothing there
            here = there
            continue
        links += 1
        if links > MOST_LINKS:
            break
        here = "/" if target.startswith("/") else here
        todo.extend(target.split("/")[::-1])
    return here


def load_changes(
    place: Place, old: "Version", new: "Version", path: tuple[bytes, ...]
) -> "list[Change]":
    """Return what is different in version *new*. Raises: NoSuchPath, StoreDamaged."""
    with through_mount(place) as daemon:
        if daemon is not None:
            return _changes(daemon, old, new, path) or []
    with contextlib.suppress(DaemonGone, NotPermitted, DaemonRefused):
        client = connect(place)
        if client is not None:
            with client:
                found = _changes(client, old, new, path, light=True)
                if found is not None:
                    return found
    from pondfs.store.changes import load_changes

    return load_changes(place.store, old, new, path)


def load_operations(client: Client | MountClient, path: bytes = b"") -> list[dict[str, Any]]:
    """Return what is pending at or below *path*, pages the kernel holds back included.

    Each is an object with the keys of the op ``operations``; see ``docs/reference/control.md``.
    """
    with contextlib.suppress(OSError):  # a full disk: then above all somebody wants to look
        flush_kernel(client.mountpoint)
    found: list[dict[str, Any]] = client.call("operations", path=os.fsdecode(path))["operations"]
    return found


def load_pending_changes(
    place: Place, old: "Version", path: tuple[bytes, ...]
) -> "list[Change] | None":
    """Return what is different now, what is pending included; None when nothing is pending.

    Raises: as `load_changes`; DaemonGone.
    """
    client = connect_anyhow(place)
    if client is None:
        return None
    with client:
        flush_kernel(client.mountpoint)
        if isinstance(client, Client):
            found = client.call("status")
            if not (found["pending_nodes"] or found["pending_entries"]):
                return None
        return _changes(client, old, None, path)


def _changes(
    daemon: Client | MountClient,
    old: "Version",
    new: "Version | None",
    path: tuple[bytes, ...],
    *,
    light: bool = False,
) -> "list[Change] | None":
    from pondfs.change import change_of

    reply = daemon.call("changes", timeout_s=None, old=old, new=new, path=_text(path), light=light)
    found = reply["changes"]
    return None if found is None else [change_of(record) for record in found]


def load_history(place: Place, path: tuple[bytes, ...]) -> "list[Event]":
    """Return what happened to a file, newest first. Raises: NoSuchPath, UsageError."""
    with through_mount(place) as daemon:
        if daemon is not None:
            from pondfs.change import event_of

            reply = daemon.call("history", path=_text(path))
            return [event_of(record) for record in reply["events"]]
    from pondfs.store.lives import load_history

    return load_history(place.store, path)


def load_touching(place: Place, path: tuple[bytes, ...]) -> "set[Version] | None":
    """Return the versions that touched *path*; None for all. Raises: NoSuchPath."""
    with through_mount(place) as daemon:
        if daemon is not None:
            versions = daemon.call("touching", path=_text(path))["versions"]
            return None if versions is None else set(versions)
    from pondfs.store.lives import load_touching

    return load_touching(place.store, path)


def load_each_last(
    place: Place, paths: "Sequence[tuple[bytes, ...]]", up_to: "Version"
) -> "list[Version]":
    """Return the newest version, not after *up_to*, in which each of *paths* is.

    Raises: NoSuchPath, NotPermitted, StoreDamaged.
    """
    require_pond(place.store)
    from pondfs.store.lives import find_each_last

    return find_each_last(place.store, paths, up_to)


def load_usage(place: Place, path: "tuple[bytes, ...]") -> "list[Usage]":
    """Return what each version's rows hold, at *path* or below.

    Raises: NoSuchPath, NotPermitted, StoreDamaged.
    """
    require_pond(place.store)
    from pondfs.store.usage import load_usage

    return load_usage(place.store, path)


def store_bytes(place: Place) -> int | None:
    """Return what the store takes on its disk, all of it; None if that is not for us to see."""
    total = 0
    todo = [os.fspath(place.store)]
    try:
        while todo:
            for entry in os.scandir(todo.pop()):
                with contextlib.suppress(FileNotFoundError):  # gone meanwhile
                    total += entry.stat(follow_symlinks=False).st_blocks * 512  # stat(2)
                    if entry.is_dir(follow_symlinks=False):
                        todo.append(entry.path)
    except PermissionError:
        return None
    return total


def load_status(store: Path) -> dict[str, Any]:
    """Return what ``pond status`` can say about a pond that is not mounted.

    The newest version is all that costs little: counting nodes would take reading everything.
    """
    (newest,) = load_versions(Place(store), 1)
    return {
        "version": newest.version,
        "last_commit": {
            "version": newest.version,
            "timestamp": newest.timestamp,
            "duration_ms": None,
            "bytes": newest.bytes_added,
            "rows": newest.operations,
        },
    }
