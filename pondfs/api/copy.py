"""Copying within a pond."""

import errno
import os
import stat
from typing import TYPE_CHECKING

from pondfs.api.files import BUFFER_BYTES
from pondfs.api.names import join, to_text

if TYPE_CHECKING:
    from pondfs.api.backend import Backend
    from pondfs.store.tree import NodeStat


def copy_tree(backend: "Backend", source: bytes, target: bytes, *, preserve: bool) -> None:
    """Copy what is at *source*, with everything below it, to *target*.

    A file there is written over; a directory must not be there. Symlinks are copied as they are,
    holes stay holes, permissions come along; several names of one file become several files.

    Args:
        backend: the tree.
        source: what to copy; this and *target* without symlinks on the way, and ``..``.
        target: where it shall be.
        preserve: owner, times and extended attributes, too.
    Raises: OSError.
    """
    if target != source and (not source or target.startswith(source + b"/")):
        why = "can't copy into itself"
        raise OSError(errno.EINVAL, why, to_text(source), None, to_text(target))
    made: list[tuple[bytes, bytes, NodeStat]] = []
    todo = [(source, target)]
    while todo:
        old, new = todo.pop()
        info = backend.lstat(old)
        _copy_one(backend, old, new, info)
        if stat.S_ISDIR(info.mode):
            todo.extend((join(old, n), join(new, n)) for n in backend.listdir(old)[::-1])
        made.append((old, new, info))
    # From the inside out: a directory that may not be written, and the times of all.
    for old, new, info in reversed(made):
        _copy_attributes(backend, old, new, info, preserve=preserve)


def _copy_one(backend: "Backend", old: bytes, new: bytes, info: "NodeStat") -> None:
    if stat.S_ISDIR(info.mode):
        backend.mkdir(new, 0o700)
    elif stat.S_ISLNK(info.mode):
        backend.symlink(backend.readlink(old), new)
    elif stat.S_ISREG(info.mode):
        _copy_bytes(backend, old, new, info)
    else:
        backend.mknod(new, info.mode, info.rdev)


def _copy_bytes(backend: "Backend", old: bytes, new: bytes, info: "NodeStat") -> None:
    source = backend.open(old, os.O_RDONLY)
    try:
        # Not truncated yet: it may be the source under another name.
        target = backend.open(new, os.O_WRONLY | os.O_CREAT, 0o600)
        try:
            if target.fstat().ino == info.ino:
                what = "source and target are the same file"
                raise OSError(errno.EINVAL, what, to_text(old), None, to_text(new))
            target.truncate(0)
            done = 0
            while data := source.pread(BUFFER_BYTES, done):
                if data.count(0) != len(data):
                    target.pwrite(data, done)
                done += len(data)
            target.truncate(done)
        finally:
            target.close()
    finally:
        source.close()


def _copy_attributes(
    backend: "Backend", old: bytes, new: bytes, info: "NodeStat", *, preserve: bool
) -> None:
    if preserve:
        backend.chown(new, info.uid, info.gid)
        for name, value in backend.xattrs(old).items():
            backend.setxattr(new, name, value)
    if not stat.S_ISLNK(info.mode):
        backend.chmod(new, stat.S_IMODE(info.mode) & (0o7777 if preserve else 0o777))
    if preserve:
        backend.utime(new, info.atime_ns, info.mtime_ns)
