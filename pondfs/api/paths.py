"""Where a path leads in a tree that can be changed: symlinks are followed, but never out of it."""

import contextlib
import errno
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from pondfs.errors import FileError

MOST_LINKS = 40
"""Symlinks followed in one path, at most: as the kernel has it (path_resolution(7))."""

T = TypeVar("T")


class Steps(Protocol[T]):
    """One step at a time through a tree of nodes *T*. Errors are OSError, FileError."""

    def root(self) -> T:
        """Return the root."""

    def child(self, directory: T, name: bytes) -> T | None:
        """Return what has *name* in a directory; None for nothing."""

    def mode(self, node: T) -> int:
        """Return the type and permissions."""

    def target(self, node: T) -> bytes:
        """Return a symlink's target."""

    def is_reserved(self, node: T) -> bool:
        """Return whether it is ``.pond``, which shows the past and is no part of the tree."""


@dataclass(frozen=True, slots=True)
class Spot(Generic[T]):
    """Where a path ends.

    Attributes:
        directory: the directory its last name is in.
        name: that name; empty for the root, and for what ``..`` leads to.
        node: what is there; None for nothing.
        reserved: it is ``.pond``.
    """

    directory: T
    name: bytes
    node: T | None
    reserved: bool = False

    def existing(self) -> T:
        """Return what is there. Raises: OSError ENOENT."""
        if self.node is None or self.reserved:
            raise fail(errno.ENOENT)
        return self.node

    def new_name(self) -> bytes:
        """Return the name for something that is made there. Raises: OSError EEXIST."""
        if self.node is not None:
            raise fail(errno.EEXIST)
        return self.name

    def removable_name(self) -> bytes:
        """Return the name that may be taken away. Raises: OSError EBUSY, ENOENT."""
        if self.reserved or not self.name:
            raise fail(errno.EBUSY)
        self.existing()
        return self.name


def find(steps: Steps[T], path: bytes, *, last: bool = False, live_at: bytes | None) -> Spot[T]:
    """Return where *path* leads from the root. ``..`` in the root leads to the root.

    Args:
        steps: the tree.
        path: bytes; a symlink at its end is followed only with *last*.
        last: see there.
        live_at: the mountpoint: what absolute symlinks begin with that lead into the tree.
    Raises: OSError ENOENT, ENOTDIR, ELOOP; EXDEV for a symlink that leads out of the tree; EINVAL
        for a NUL byte.
    """
    if b"\0" in path:
        raise OSError(errno.EINVAL, "a path has no NUL byte")
    todo = _names(path)
    above = [steps.root()]
    links = 0
    while todo:
        name = todo.pop()
        directory = above[-1]
        if name == b"..":
            del above[max(1, len(above) - 1) :]
            continue
        node = steps.child(directory, name)
        if node is None:
            if todo:
                raise fail(errno.ENOENT)
            return Spot(directory, name, None)
        if steps.is_reserved(node):
            if todo:
                raise fail(errno.ENOENT)
            return Spot(directory, name, node, reserved=True)
        kind = stat.S_IFMT(steps.mode(node))
        if kind == stat.S_IFLNK and (todo or last):
            links += 1
            if links > MOST_LINKS:
                raise fail(errno.ELOOP)
            target = steps.target(node)
            if target.startswith(b"/"):
                target = _inside(target, live_at)
                del above[1:]
            todo += _names(target)
            continue
        if not todo:
            return Spot(directory, name, node)
        if kind != stat.S_IFDIR:
            raise fail(errno.ENOTDIR)
        above.append(node)
    return Spot(above[-1], b"", above[-1])


def _names(path: bytes) -> list[bytes]:
    """Return the names in a path, last one first."""
    return [name for name in path.split(b"/")[::-1] if name not in (b"", b".")]


def _inside(target: bytes, live_at: bytes | None) -> bytes:
    if live_at is not None and (target + b"/").startswith(live_at.rstrip(b"/") + b"/"):
        return target[len(live_at) :]
    raise OSError(errno.EXDEV, f"a symlink leads out of the pond, to {os.fsdecode(target)}")


def check_regular(mode: int) -> None:
    """Refuse to open what holds no bytes. Raises: OSError EISDIR, ELOOP (a symlink), EINVAL."""
    if stat.S_ISDIR(mode):
        raise fail(errno.EISDIR)
    if stat.S_ISLNK(mode):
        raise fail(errno.ELOOP)
    if not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, "not a regular file")


def fail(number: int) -> OSError:
    """Return the error the system has for *number*."""
    return OSError(number, os.strerror(number))


@contextlib.contextmanager
def naming(path: bytes, other: bytes | None = None) -> Iterator[None]:
    """Have errors name the paths they are about."""
    try:
        yield
    except FileError as error:
        raise OSError(error.errno, os.strerror(error.errno), *_shown(path, other)) from None
    except OSError as error:
        if error.errno is None:
            raise
        raise OSError(error.errno, error.strerror, *_shown(path, other)) from None


def _shown(path: bytes, other: bytes | None) -> tuple[str] | tuple[str, None, str]:
    first = "/" + os.fsdecode(path)
    return (first,) if other is None else (first, None, "/" + os.fsdecode(other))
