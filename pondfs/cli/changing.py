"""Changing a pond: through its mount when it is mounted, else as its writer, in one version.

Through a mount, changes are pending like any program's. A pond that is not mounted is changed as a
whole or not at all: one version when the command ends well, none when it does not.
"""

import contextlib
import errno
import os
import shlex
import stat
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import click

from pondfs.cli.output import format_path, print_json, progress
from pondfs.cli.reach import Place, require_pond
from pondfs.cli.trees import Tree, follow, mounts_of, open_mounted, open_tree
from pondfs.control.reach import connect_mount
from pondfs.errors import NoSuchPath, NotPermitted, UsageError
from pondfs.store.mounted_tree import nonzero
from pondfs.store.tree import PIECE_BYTES, NodeStat, Piece, Xattrs

if TYPE_CHECKING:
    import io

    from pondfs.api.backend import Backend
    from pondfs.mountinfo import Mount
    from pondfs.node import Version

_F = TypeVar("_F", bound=Callable[..., Any])

_LONGEST_MESSAGE = 500
"""Characters of a command line that the log keeps."""


class ChangingCommand(click.Command):
    """A verb that remembers how it was called: what the log says if nobody says more."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse, and remember."""
        line = ctx.command_path + " " + format_path(os.fsencode(shlex.join(args)))
        if len(line) > _LONGEST_MESSAGE:
            line = line[: _LONGEST_MESSAGE - 1] + "…"
        ctx.meta[__name__] = line
        return super().parse_args(ctx, args)


def commit_options(function: _F) -> _F:
    """Give a click command ``-m`` and ``--no-commit``."""
    function = click.option(
        "--no-commit", is_flag=True, help="Leave it pending, as is done without -m; mounted only."
    )(function)
    return click.option(
        "-m",
        "--message",
        help="Commit at once, with this message. [default, unmounted: the command line]",
    )(function)


@dataclass(slots=True)
class Work:
    """A pond that is being changed.

    Attributes:
        tree: it, for looking; without symlinks being followed.
        version: what the changes became, at the end; None while they are pending.
        is_mounted: whether the changes go through a mount: what was done stays done.
    """

    tree: Tree
    is_mounted: bool
    version: "Version | None" = None
    _backend: "Backend | None" = None

    @property
    def backend(self) -> "Backend":
        """It, for changing; not there in a dry run."""
        assert self._backend is not None, "a dry run changes nothing"
        return self._backend


@contextlib.contextmanager
def changing(
    place: Place, message: str | None, no_commit: bool, *, dry_run: bool = False
) -> Iterator[Work]:
    """Yield a pond to change; commit as *message* and *no_commit* say when the body ends well.

    Args:
        place: the pond.
        message: of ``-m``.
        no_commit: of ``--no-commit``.
        dry_run: yield it for looking only.
    Raises: UsageError for options that don't go together; NotAPond; PondLocked; DaemonGone;
        CommitFailed; NoSuchPath for what went away meanwhile; OSError.
    """
    if no_commit and message is not None:
        raise UsageError("--no-commit leaves it pending, -m commits it: choose one")
    mount = next(iter(mounts_of(place)), None)
    if mount is None and no_commit:
        raise UsageError(
            "--no-commit: the pond is not mounted for writing, so nothing would be left: leave it "
            "out, or mount the pond first"
        )
    if dry_run:
        with progress("reading"):
            tree = open_tree(place, None)
        try:
            yield Work(tree, mount is not None)
        finally:
            tree.close()
        return
    backend: Backend
    with progress("opening"):
        if mount is not None:
            from pondfs.api.mounted import MountedBackend

            with _asking(mount):
                backend = MountedBackend(mount.mountpoint)
                tree = open_mounted(mount, None)
        else:
            require_pond(place.store)
            from pondfs.api.unmounted import UnmountedBackend

            backend = UnmountedBackend(place.store, fsync_commits=False)
            tree = BackendTree(backend)
    work = Work(tree, mount is not None, _backend=backend)
    try:
        with _asking(mount):
            yield work
        if mount is None and message is None:
            message = click.get_current_context().meta.get(__name__, "")
        if message is not None:
            with progress("committing"):
                work.version = backend.commit(message)
    except FileNotFoundError as error:
        raise NoSuchPath(f"{error.filename or backend.label}: gone meanwhile") from None
    finally:
        tree.close()
        backend.discard()


@contextlib.contextmanager
def _asking(mount: "Mount | None") -> Iterator[None]:
    """Have a mount whose daemon is gone say so, and what to do. Raises: DaemonGone."""
    try:
        yield
    except OSError as error:
        # What was under way when the daemon went has other errors than what comes after.
        if mount is not None and error.errno in (errno.ENOTCONN, errno.ECONNABORTED, errno.EIO):
            with contextlib.suppress(NotPermitted):
                connect_mount(mount).close()
        raise


class BackendTree:
    """What can be changed, for looking. Implements `trees.Tree`.

    Attributes:
        label: how messages call it.
        live_at: where it is mounted: nowhere.
    """

    live_at: bytes | None = None

    def __init__(self, backend: "Backend") -> None:
        self.label = "the pond"
        self._backend = backend

    def lstat(self, path: bytes) -> NodeStat:
        """Return what is at *path*."""
        with self._naming(path):
            return self._backend.lstat(path)

    def entries(self, path: bytes) -> list[tuple[bytes, NodeStat]]:
        """Return a directory's names and what they are, sorted."""
        with self._naming(path):
            names = self._backend.listdir(path)
        return [(name, self.lstat(os.path.join(path, name))) for name in names]

    def readlink(self, path: bytes) -> bytes:
        """Return a symlink's target."""
        with self._naming(path):
            return self._backend.readlink(path)

    def xattrs(self, path: bytes) -> Xattrs:
        """Return the extended attributes."""
        with self._naming(path):
            return self._backend.xattrs(path)

    def read(self, path: bytes) -> Iterator[Piece]:
        """Yield a regular file's bytes in order, each with its offset; holes are left out."""
        with self._naming(path):
            handle = self._backend.open(path, os.O_RDONLY | os.O_NOFOLLOW)
        try:
            info = handle.fstat()
            has_holes = info.allocated_bytes < info.size_bytes
            offset = 0
            while data := handle.pread(PIECE_BYTES, offset):
                yield from nonzero(offset, data) if has_holes else ((offset, data),)
                offset += len(data)
        finally:
            handle.close()

    def open(self, path: bytes) -> "io.RawIOBase":
        """Return a regular file for reading anywhere in it."""
        from pondfs.api.files import PondFile

        with self._naming(path):
            handle = self._backend.open(path, os.O_RDONLY | os.O_NOFOLLOW)
        return PondFile(handle, "/" + os.fsdecode(path), "rb", os.O_RDONLY, threading.RLock())

    def close(self) -> None:
        """Do nothing: the backend is closed by who opened it."""

    @contextlib.contextmanager
    def _naming(self, path: bytes) -> Iterator[None]:
        try:
            yield
        except (FileNotFoundError, NotADirectoryError):
            raise NoSuchPath(f"{self.label} has no '/{format_path(path)}'") from None


# --- names to be ----------------------------------------------------------------------------------


def locate_new(tree: Tree, names: tuple[bytes, ...], *, parents: bool = False) -> bytes:
    """Return the path of something to be made, symlinks on the way followed.

    Args:
        tree: where.
        names: from the root.
        parents: directories on the way may be missing.
    Raises: NoSuchPath for directories that are not there; UsageError for the root and ``.pond``.
    """
    refuse_special(b"/".join(names))
    known = last = len(names) - 1
    while True:
        try:
            above, info = follow(tree, names[:known], last=True)
            break
        except NoSuchPath:
            known -= 1
    if not stat.S_ISDIR(info.mode):
        raise NoSuchPath(f"'/{format_path(above)}' is no directory")
    path = os.path.join(above, *names[known:])
    refuse_special(path)
    if known < last:
        _refuse_dangling(tree, os.path.join(above, names[known]))
        if not parents:
            missing = "/" + format_path(b"/".join(names[:last]))
            raise NoSuchPath(
                f"{tree.label} has no directory '{missing}': pond mkdir -p {shlex.quote(missing)} "
                "makes it"
            )
    return path


def _refuse_dangling(tree: Tree, path: bytes) -> None:
    """Refuse to make directories where a symlink is that leads nowhere. Raises: NoSuchPath."""
    try:
        tree.lstat(path)
    except NoSuchPath:
        return
    raise NoSuchPath(f"'/{format_path(path)}' is a symlink that leads nowhere")


def refuse_special(path: bytes) -> None:
    """Refuse to change the root itself, and the past. Raises: UsageError."""
    if not path:
        raise UsageError("the pond's root can be neither made, moved nor removed")
    if path.split(b"/", 1)[0] == b".pond":
        raise UsageError(
            f"'/{format_path(path)}' is no part of the tree: what was can't be changed (tags: see "
            "pond tag)"
        )


def make_parents(backend: "Backend", path: bytes) -> list[bytes]:
    """Make the directories on the way to *path* that are missing; return them, topmost first."""
    missing = list[bytes]()
    above = os.path.dirname(path)
    while above:
        try:
            backend.lstat(above)
            break
        except FileNotFoundError:
            missing.append(above)
            above = os.path.dirname(above)
    for directory in reversed(missing):
        with contextlib.suppress(FileExistsError):  # somebody else was faster
            backend.mkdir(directory)
    return missing[::-1]


# --- what was done --------------------------------------------------------------------------------


def tell(
    version: "Version | None",
    done: list[dict[str, Any]],
    lines: list[str],
    *,
    as_json: bool,
    dry_run: bool = False,
    **more: Any,
) -> None:
    """Print what was done: for scripts, or as *lines* and the version it became."""
    if as_json:
        print_json({"version": version, "dry_run": dry_run, **more, "done": done})
        return
    for line in lines:
        click.echo(line)
    if version is not None:
        click.echo(f"version {version}")
