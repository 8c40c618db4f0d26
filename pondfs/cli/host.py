"""The host's own filesystem: what is copied from there, and where copies go."""

import contextlib
import os
import resource
import stat
from collections.abc import Iterator
from dataclasses import dataclass

from pondfs.cli.globs import Found, Pattern, expand, has_magic
from pondfs.cli.output import format_path
from pondfs.cli.trees import Tree
from pondfs.errors import NoSuchPath, UsageError
from pondfs.store.mounted_tree import MountedTree
from pondfs.store.tree import NodeStat

HOLD = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
"""How a directory is held open: it need not be readable."""


# --- from there -----------------------------------------------------------------------------------


def open_sources(typed: str) -> tuple[MountedTree, list[Found]]:
    """Return what *typed* stands for on the host, and the directory it is all below, held open.

    A path that is there is itself, even with wildcard characters in it. Links on the way to the
    first wildcard are followed; those that wildcards meet, if they are relative.

    Raises: NoSuchPath; OSError.
    """
    if not typed:
        raise UsageError("SRC is empty: name a file or a directory")
    root = "/" if typed.startswith("/") else ""
    # Not normalized: what `..` leads to is for the kernel to say.
    parts = [part for part in typed.split("/") if part not in ("", ".")]
    whole = root + "/".join(parts)
    is_there = os.path.lexists(whole or ".")
    magic = next((at for at, part in enumerate(parts) if has_magic(part)), None)
    if is_there or magic is None:
        # What has no name of its own is copied as a root is: what is in it.
        at = len(parts) if not parts or parts[-1] == ".." else len(parts) - 1
    elif ".." in parts[magic:]:
        raise UsageError(f"'{typed}' has '..' behind a wildcard: name the directory it leads to")
    else:
        at = magic
    top, names = root + "/".join(parts[:at]), parts[at:]
    if not is_there and magic is None:
        raise NoSuchPath(f"'{format_path(os.fsencode(typed))}' is not there")
    try:
        fd = os.open(top or ".", HOLD)
    except (FileNotFoundError, NotADirectoryError):
        raise NoSuchPath(f"there is no directory '{format_path(os.fsencode(top))}'") from None
    tree = MountedTree(fd, f"'{format_path(os.fsencode(top or '.'))}'")
    try:
        start = len(names) if is_there else 0
        if names and typed.endswith("/"):
            whole += "/"
        return tree, expand(tree, Pattern(whole, tuple(map(os.fsencode, names)), start))
    except BaseException:
        tree.close()
        raise


# --- to there -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Target:
    """Where the copy goes.

    Attributes:
        fd: the directory it is made in, held open (O_PATH).
        above: what a person calls that; empty for the working directory.
        name: the copy's own in it; empty when what is copied is the directory itself.
    """

    fd: int
    above: bytes
    name: bytes

    def call(self, path: bytes) -> bytes:
        """Return what a person calls *path*, which counts from the directory held open."""
        return os.path.join(self.above, path) if path else self.above

    def reach(self, path: bytes) -> bytes:
        """Return where *path* (as of `CopyOut.run`) is copied to, from the directory held open."""
        return os.path.join(self.name, path) if path else self.name


@contextlib.contextmanager
def open_target(dest: bytes, path: bytes, info: NodeStat) -> Iterator[Target]:
    """Find the copy's name as cp(1) does, and hold the directory open.

    The root has no name of its own: what is in it goes into DEST.
    """
    name = path.rpartition(b"/")[2]
    above = dest
    try:
        fd = os.open(dest, HOLD)
    except OSError:
        if dest.endswith(b"/") and not stat.S_ISDIR(info.mode):
            shown = format_path(dest)
            raise UsageError(
                f"'{shown}' is no directory: make it, or leave the slash out"
            ) from None
        above, name = os.path.split(dest.rstrip(b"/"))
        if not name:
            raise UsageError("DEST is empty: name a file or a directory") from None
        try:
            fd = os.open(above or b".", HOLD)
        except OSError:
            shown = format_path(above or b".")
            raise UsageError(f"there is no directory '{shown}': make it first") from None
    try:
        yield Target(fd, above, name)
    finally:
        os.close(fd)


def refuse_itself(tree: Tree, path: bytes, info: NodeStat, target: Target) -> None:
    """Refuse to copy a live directory into itself, which would never end."""
    if tree.live_at is None or not stat.S_ISDIR(info.mode):
        return
    source = os.stat(os.path.join(tree.live_at, path))
    shown = target.call(target.name)
    above = os.path.realpath(shown)
    while True:
        with contextlib.suppress(OSError):
            if os.path.samestat(os.stat(above), source):
                raise UsageError(
                    f"'{format_path(shown)}' is inside what is to be copied: copy a version of "
                    "it (--at latest)"
                )
        if above == b"/":
            return
        above = os.path.dirname(above)


def open_inside(top: int, path: bytes) -> int:
    """Hold open what is at *path* below *top*; no symlink is followed, neither on the way."""
    *above, name = path.split(b"/")
    held = os.dup(top)
    try:
        for part in above:
            inner = os.open(part, HOLD | os.O_NOFOLLOW, dir_fd=held)
            os.close(held)
            held = inner
        return os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=held)
    finally:
        os.close(held)


def identity(fd: int) -> tuple[int, int]:
    """Return by what to know again what is open."""
    info = os.fstat(fd)
    return info.st_dev, info.st_ino


def allow_depth() -> None:
    """Let a directory be open for each level of the tree; 1,024 is what systems begin with."""
    with contextlib.suppress(OSError, ValueError):
        most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
