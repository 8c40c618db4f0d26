"""The tree as it is, or was: behind one interface, from a mount or straight from the store.

A mount is asked by plain system calls, so the kernel says who may read what, and a user who can't
read the store can read the past. Where there is no mount, or it does not show what is asked, the
store is read: what its owner and root may do.

Paths are bytes from the pond's root, without a leading slash; the root is empty.
"""

import errno
import io
import os
import stat
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import click

from pondfs.cli.output import format_path
from pondfs.cli.reach import Place, load_tags, load_versions, require_pond
from pondfs.errors import (
    NoSuchPath,
    NoSuchVersion,
    NotAPond,
    NotPermitted,
    SystemFailure,
)
from pondfs.mountinfo import Mount, find_ponds_of
from pondfs.store.follow import follow as follow
from pondfs.store.mounted_tree import MountedTree
from pondfs.store.tree import NodeStat, Piece, Xattrs
from pondfs.when import NO_TAGS, Moment, begin, parse, resolve

if TYPE_CHECKING:
    from pondfs.node import Version

_F = TypeVar("_F", bound=Callable[..., Any])


class Tree(Protocol):
    """One state of the pond. Errors are NoSuchPath, StoreDamaged, OSError.

    Attributes:
        label: how messages call it.
        live_at: the mountpoint, if this is the tree of a mount as it is now.
    """

    label: str
    live_at: bytes | None

    def lstat(self, path: bytes) -> NodeStat:
        """Return what is at *path*; a symlink is not followed."""

    def entries(self, path: bytes) -> list[tuple[bytes, NodeStat]]:
        """Return a directory's names and what they are, sorted."""

    def readlink(self, path: bytes) -> bytes:
        """Return a symlink's target."""

    def xattrs(self, path: bytes) -> Xattrs:
        """Return the extended attributes, as far as we may see them."""

    def read(self, path: bytes) -> Iterator[Piece]:
        """Yield a regular file's bytes in order, each with its offset; holes are left out."""

    def open(self, path: bytes) -> io.RawIOBase:
        """Return a regular file for reading anywhere in it; UsageError for anything else."""

    def close(self) -> None:
        """Let go of it."""


# --- which tree -----------------------------------------------------------------------------------


def at_option(function: _F) -> _F:
    """Give a click command ``--at W``."""
    return click.option(
        "--at", "at", metavar="W", help="As of version or time W: 42, 2026-06-20, 10m-ago, …"
    )(function)


def open_tree(place: Place, at: str | None) -> Tree:
    """Return the tree as *at* names it; None: as it is now, what is pending included.

    Raises: NoSuchVersion; NotAPond; NotPermitted; StoreDamaged; OSError as the mount says.
    """
    why: OSError | None = None
    for mount in mounts_of(place):
        try:
            return open_mounted(mount, at)
        except OSError as error:
            why = error
    try:
        require_pond(place.store)
        tree = _open_stored(place, at)
    except (NotAPond, NotPermitted):
        if why is not None:
            raise why from None
        raise
    if at is None and why is not None:
        # Better an older state than none, but not in silence.
        click.echo(
            f"the mount can't be read ({why.strerror}): this is {tree.label}, the newest", err=True
        )
    return tree


def mounts_of(place: Place) -> list[Mount]:
    """Return the mounts to ask: the one that was meant, else the writer's.

    What is mounted read-only may be an old version, so it is asked only where it was named.
    """
    if place.mount is not None:
        return [place.mount]
    return [mount for mount in find_ponds_of(place.store) if "ro" not in mount.options]


NOBODY = -1
"""No user at all."""


def voucher_of(place: Place) -> int:
    """Return the user who can have made up what is in the pond; `NOBODY` if several, or unknown.

    For root, whose copies have the owners and modes that are told; others' are their own. Root's
    word is believed only if nobody else can have the store, or could when it was mounted: who may
    rename it can put anything in its place since.
    """
    if os.geteuid():
        return os.geteuid()
    mounts = mounts_of(place)
    uids = {mount.owner_uid for mount in mounts}
    # What root mounts is nosuid where the store was not root's alone. Others' mounts always are.
    if any(mount.owner_uid == 0 and "nosuid" in mount.options for mount in mounts):
        uids.add(NOBODY)
    try:
        found = os.stat(place.store)
    except OSError:
        uids.add(NOBODY)  # moved away below its mount
    else:
        uids.add(NOBODY if found.st_mode & 0o022 else found.st_uid)
    others = uids - {0}
    if not others:
        return 0
    return others.pop() if len(others) == 1 else NOBODY


def open_mounted(mount: Mount, at: str | None) -> MountedTree:
    """Return a tree of a mount.

    Raises: NoSuchVersion; OSError when it can't be read there.
    """
    flags = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
    top = os.open(mount.mountpoint, flags)
    try:
        if os.fstat(top).st_dev != os.makedev(*mount.device):
            raise OSError(errno.ENOENT, "something else is mounted over it", str(mount.mountpoint))
        if at is None:
            return MountedTree(os.dup(top), "the pond", os.fsencode(mount.mountpoint))
        past = os.open(".pond/at", flags, dir_fd=top)
    finally:
        os.close(top)
    try:
        if "/" in at or at in ("", ".", ".."):
            raise FileNotFoundError
        return MountedTree(os.open(at, flags, dir_fd=past), f"the pond at {at}")
    except FileNotFoundError:
        parse(at, time.time_ns())  # says what would be understood
        raise NoSuchVersion(f"there is no version '{at}', or none so early: see pond log") from None
    finally:
        os.close(past)


def _open_stored(place: Place, at: str | None) -> Tree:
    version = None if at is None else resolve_versions(place, at)[0]
    from pondfs.store import open_reader
    from pondfs.store.tree import StoredTree
    from pondfs.xattrs import decode_xattrs

    store = open_reader(place.store)
    try:
        return StoredTree(store, store.load_image_at(version), decode_xattrs)
    except BaseException:
        store.close()
        raise


# --- when -----------------------------------------------------------------------------------------


def resolve_versions(place: Place, *texts: str) -> "list[Version]":
    """Return the versions that *texts* mean, all as of the same moment.

    Raises: NoSuchVersion.
    """
    now_ns = time.time_ns()
    tags = _tags_for(place, texts, now_ns)
    when = [parse(text, now_ns, tags) for text in texts]
    if not any(isinstance(one, Moment) for one in when):
        # No need to know when each version was: that takes reading the whole log. That one was
        # forgotten shows when it is looked at.
        newest = load_versions(place, 1)[0].version
        found = [one if isinstance(one, int) else newest for one in when]
        for version in found:
            if not 0 < version <= newest:
                raise NoSuchVersion(
                    f"there is no version {version} (never made, or pruned): see pond log"
                )
        return found
    infos = load_versions(place, None)[::-1]
    versions = [info.version for info in infos]
    times_ns = [info.time_ns for info in infos]
    return [resolve(text, versions, times_ns, now_ns, tags) for text in texts]


def _tags_for(place: Place, texts: Sequence[str], now_ns: int) -> "Mapping[str, Version]":
    """Return the tags if one of *texts* may be one: no tag looks like anything else."""
    try:
        for text in texts:
            parse(text, now_ns)
    except NoSuchVersion:
        return load_tags(place)
    return NO_TAGS


def resolve_since(place: Place, text: str) -> int:
    """Return the nanosecond from which on something is newer than *text*.

    A coarse time counts whole, as for ``pond log --since``; a version until it was made.

    Raises: NoSuchVersion.
    """
    now_ns = time.time_ns()
    when = parse(text, now_ns, _tags_for(place, [text], now_ns))
    if isinstance(when, Moment):
        return begin(text, when, now_ns)
    (version,) = resolve_versions(place, text)
    return next(i.time_ns for i in load_versions(place, None) if i.version == version) + 1


# --- paths ----------------------------------------------------------------------------------------


def spell(typed: str, root: bytes, path: bytes) -> bytes:
    """Return *path*, at or below *root*, in the words of a person who called *root* *typed*.

    So what is printed can be given back from where one stands.
    """
    if path == root:
        return os.fsencode(typed)
    rest = path[len(root) :].lstrip(b"/")
    if typed == ".":
        return rest
    return os.fsencode(typed.removesuffix("/")) + b"/" + rest


def walk(
    tree: Tree, path: bytes, failed: Callable[[OSError], None]
) -> Iterator[tuple[bytes, NodeStat]]:
    """Yield everything below directory *path*: sorted, what is in a directory right after it.

    Args:
        tree: what to walk.
        path: where to begin; not yielded itself.
        failed: told of directories that could not be read.
    """

    def entries(directory: bytes) -> Iterator[tuple[bytes, NodeStat]]:
        try:
            for name, info in tree.entries(directory):
                yield os.path.join(directory, name), info
        except NoSuchPath:
            pass  # gone since its own directory was listed
        except OSError as error:
            failed(error)

    # Not by recursion: a path may be deeper than Python's stack.
    todo = [entries(path)]
    while todo:
        for inner, info in todo[-1]:
            yield inner, info
            if stat.S_ISDIR(info.mode):
                todo.append(entries(inner))
                break
        else:
            todo.pop()


class Failures:
    """What could not be read on a walk: told at once, and the command fails in the end.

    Attributes:
        code: the command's exit code.
    """

    def __init__(self) -> None:
        self.code = 0

    def __call__(self, error: OSError) -> None:
        """Tell of *error*, one line."""
        shown = format_path(os.fsencode(error.filename or ""))
        click.echo(f"pond: {shown}: {error.strerror}", err=True)
        self.code = SystemFailure.exit_code
