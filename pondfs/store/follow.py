"""Following symlinks by hand, within one tree: the kernel would leave it, or knows no such tree."""

import errno
import os
import stat
from collections.abc import Sequence
from typing import Protocol

from pondfs.errors import UsageError
from pondfs.store.tree import NodeStat, shown

MOST_LINKS = 40
"""Symlinks followed in one path, at most: as the kernel has it (path_resolution(7))."""


class Linked(Protocol):
    """What it takes to follow symlinks.

    Attributes:
        label: how messages call it.
        live_at: the mountpoint, if this is the tree of a mount as it is now.
    """

    label: str
    live_at: bytes | None

    def lstat(self, path: bytes) -> NodeStat:
        """Return what is at *path*; a symlink is not followed."""

    def readlink(self, path: bytes) -> bytes:
        """Return a symlink's target."""


def follow(tree: Linked, names: Sequence[bytes], *, last: bool) -> tuple[bytes, NodeStat]:
    """Return where *names* lead from the root, and what is there.

    Symlinks on the way are followed within the tree, so that an old one leads to what it led to
    then; one at the end only with *last*.

    Raises: NoSuchPath; UsageError for a symlink that leads out of the tree.
    """
    todo, done = list(names[::-1]), list[bytes]()
    links = 0
    found = tree.lstat(b"")
    while todo:
        name = todo.pop()
        if name == b"..":
            del done[-1:]
            found = tree.lstat(b"/".join(done))
            continue
        path = b"/".join([*done, name])
        found = tree.lstat(path)
        if stat.S_ISLNK(found.mode) and (todo or last):
            links += 1
            if links > MOST_LINKS:
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), shown(path))
            target = tree.readlink(path)
            if target.startswith(b"/"):
                target, done = _inside(tree, path, target), []
            todo.extend(part for part in target.split(b"/")[::-1] if part not in (b"", b"."))
            found = tree.lstat(b"/".join(done))
        else:
            done.append(name)
    return b"/".join(done), found


def _inside(tree: Linked, path: bytes, target: bytes) -> bytes:
    """Return an absolute link's target from the tree's root."""
    live_at = tree.live_at
    if live_at is not None and (target + b"/").startswith(live_at.rstrip(b"/") + b"/"):
        return target[len(live_at) :]
    raise UsageError(
        f"'/{shown(path)}' is a symlink that leads out of {tree.label}, to {shown(target)}"
    )
