"""Which pond a command means, and how it gets at it.

What the Python API asks as well is in `control.reach`. The calls into `pondfs.store` are there and
here and nowhere else in ``cli``, inside functions, because importing the store takes longer than
most commands.
"""

import contextlib
import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from pondfs.control.client import Client, MountClient
from pondfs.control.reach import (
    Place,
    ask_changes,
    connect,
    load_changes,
    load_history,
    load_tags,
    load_touching,
    load_versions,
    locate,
    open_control,
    require_pond,
)
from pondfs.errors import NotPermitted, StoreDamaged, UsageError
from pondfs.mountinfo import find_pond_around, find_ponds_of
from pondfs.unmount import flush_kernel

if TYPE_CHECKING:
    from pondfs.change import Change
    from pondfs.node import Version
    from pondfs.store.usage import Usage

__all__ = [
    "Place",
    "ask",
    "connect",
    "connect_anyhow",
    "create_pond",
    "find_named",
    "find_place",
    "load_changes",
    "load_each_last",
    "load_history",
    "load_operations",
    "load_pending_changes",
    "load_status",
    "load_tags",
    "load_touching",
    "load_usage",
    "load_versions",
    "locate",
    "path_in_pond",
    "pond_option",
    "require_pond",
    "store_bytes",
]

_F = TypeVar("_F", bound=Callable[..., Any])


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
    return locate(find_named(), os.environ)


def find_named() -> str | None:
    """Return what ``--pond`` says; None without it."""
    named: str | None = click.get_current_context().find_root().meta.get(__name__)
    return named


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


# --- the store ------------------------------------------------------------------------------------


def create_pond(store: Path) -> None:
    """Make an empty pond.

    Raises: PondExists, OSError.
    """
    from pondfs.store import create

    create(store)


def path_in_pond(place: Place, text: str, *, as_seen: bool = False) -> tuple[bytes, ...]:
    """Return the names that lead from the pond's root to what a person calls *text*.

    A path into a mount of the pond is one into the pond, absolute or from where we stand;
    any other counts from the pond's root. What is seen below ``.pond/at/W`` is called as it is in
    the pond, unless *as_seen*.

    Raises: UsageError when ``..`` leads out of it, or there is nothing in *text*: that is a mistake
        in a script, and must not mean the whole pond.
    """
    if not text:
        raise UsageError("a path is empty: name a file or a directory; / is the pond's root")
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
        return ask_changes(client, old, None, path)


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


STATUS_S = 0.1
"""What ``pond status`` may spend on counting what an unmounted pond takes: a third of what it takes
altogether, most of which is importing pyarrow."""


def load_status(store: Path, *, full: bool) -> dict[str, Any]:
    """Return what ``pond status`` can say about a pond that is not mounted.

    Args:
        store: where the pond is.
        full: count all that it takes; else what takes a moment only.
    Raises: NotAPond, NotPermitted, StoreDamaged when its log can't be read.
    """
    (newest,) = load_versions(Place(store), 1)
    figures, error = None, ""
    from pondfs.figures import record_of
    from pondfs.store.measure import Measurer

    try:
        figures = Measurer(store).measure(math.inf if full else STATUS_S)
    except (StoreDamaged, OSError) as trouble:
        error = str(trouble)  # which is worth knowing, and so is the rest
    return {
        "version": newest.version,
        "last_commit": {
            "version": newest.version,
            "timestamp": newest.timestamp,
            "duration_ms": None,
            "bytes": newest.bytes_added,
            "rows": newest.operations,
        },
        **record_of(figures, error, 0.0),
    }
