"""Locks: at most one process writes to a store; nobody removes files under a reader.

flock(2) on files in ``_pond/``: the kernel lets go of it however the process ends, so nothing
stale can be left. What ``_pond/lock`` says is for people only.

And on whose behalf: what root makes in somebody else's store belongs to that somebody.
"""

import ctypes
import errno
import fcntl
import json
import os
import socket as _socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager

from pondfs.errors import NotPermitted, PondLocked
from pondfs.store.existence import NO_FILE, open_plain

LOCK_FILE = "lock"
READERS_FILE = "readers"
REWRITE_FILE = "rewrite"

Owner = tuple[int, int]
"""A user and a group, as numbers."""

ONESELF: Owner = (os.geteuid(), os.getegid())


class WriterLock:
    """The held lock. Not inherited by programs we start; a fork shares it until all close."""

    def __init__(self, pond_dir: str, *, mountpoint: str, socket: str) -> None:
        """Take the lock in *pond_dir*, which exists.

        Raises: PondLocked (EBUSY) naming the holder.
        """
        self._fd = _open_lock(pond_dir, LOCK_FILE)
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = find_holder(pond_dir)
            os.close(self._fd)
            locked = PondLocked(_describe(pond_dir, holder))
            locked.mountpoint = str((holder or {}).get("mountpoint", ""))
            raise locked from None
        except BaseException:
            os.close(self._fd)
            raise
        holder = {
            "pid": os.getpid(),
            "mountpoint": mountpoint,
            "host": _socket.gethostname(),
            "socket": socket,
        }
        # Not fsynced: after a power cut nobody holds the lock, whatever the file says.
        data = json.dumps(holder).encode()
        os.pwrite(self._fd, data, 0)
        os.ftruncate(self._fd, len(data))

    def release(self) -> None:
        """Let go. The file stays: removing it would let two processes lock two inodes."""
        if self._fd >= 0:
            os.ftruncate(self._fd, 0)
            # Closing is not enough where a process was forked meanwhile that has it open, too.
            fcntl.flock(self._fd, fcntl.LOCK_UN)
            os.close(self._fd)
            self._fd = -1


class ReaderLock:
    """Says that somebody reads data files: as long as anybody does, none is removed.

    A shared flock(2) on ``_pond/readers``, which writers make. Where it is missing or may not be
    opened there is nothing to hold, and readers go on without: they may then have to begin anew.
    """

    def __init__(self, pond_dir: str) -> None:
        self._fd = -1
        try:
            self._fd = open_plain(os.path.join(pond_dir, READERS_FILE), os.O_RDONLY)
        except OSError:
            return
        # Waits while a writer removes files, which is short.
        fcntl.flock(self._fd, fcntl.LOCK_SH)

    def release(self) -> None:
        """Let go. Calling it twice is harmless."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __del__(self) -> None:
        self.release()


@contextmanager
def no_readers(pond_dir: str) -> Iterator[bool]:
    """Keep readers out while inside; yields whether there are none.

    Raises: OSError.
    """
    fd = _open_lock(pond_dir, READERS_FILE)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True
    finally:
        os.close(fd)


@contextmanager
def rewriting(pond_dir: str, *, wait: bool) -> Iterator[bool]:
    """Be the only one who prepares a prune or a compaction, or puts it in place.

    Else the second of two would find in the end that it was all in vain. Yields whether we are
    the one, as always if we *wait*.

    Raises: OSError.
    """
    fd = _open_lock(pond_dir, REWRITE_FILE)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            yield False
        else:
            yield True
    finally:
        os.close(fd)


def _open_lock(pond_dir: str, name: str) -> int:
    return open_own(os.path.join(pond_dir, name), os.O_RDWR | os.O_CREAT)


def open_own(path: str, flags: int) -> int:
    """Open a file in a pond's ``_pond/``, as the owner of the store could; made, it is theirs.

    Root works in stores of users whom it need not trust: a symlink that one of them puts in the
    place of a lock must not have root write to what it leads to. So it is opened with their
    rights, and what is no regular file is refused. What root made where they can't write is root's.

    Raises: OSError as the system says, ELOOP for what is no regular file; NotPermitted as
        `find_owner`.
    """
    flags |= os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    owner = find_owner(os.path.dirname(os.path.dirname(os.path.abspath(path))))
    try:
        with acting_as(owner):
            fd = os.open(path, flags, 0o600)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENXIO, errno.EISDIR):
            raise _no_file(path) from None
        if owner is None or error.errno != errno.EACCES:
            raise
        return _open_of_root(path, flags)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise _no_file(path)
    return fd


def _open_of_root(path: str, flags: int) -> int:
    """Open what root made before, where the store's owner may write by now."""
    fd = os.open(path, flags & ~(os.O_CREAT | os.O_TRUNC))
    found = os.fstat(fd)
    # With a second name, or where everybody makes files, it may be one of the system.
    is_ours = found.st_uid == os.geteuid() and found.st_nlink == 1
    is_open = os.stat(os.path.dirname(path)).st_mode & 0o022
    if not stat.S_ISREG(found.st_mode) or not is_ours or is_open:
        os.close(fd)
        raise _no_file(path)
    if flags & os.O_TRUNC:
        os.ftruncate(fd, 0)
    return fd


def _no_file(path: str) -> OSError:
    return OSError(errno.ELOOP, NO_FILE, path)


def find_owner(store: str) -> Owner | None:
    """Return on whose behalf root has to make files in *store*; None when on its own.

    Other users make theirs, and so does root where the owner could not write either.

    Raises: NotPermitted where that is so because the owner made a link to somebody else's
        directory.
    """
    if os.geteuid():
        return None
    found = os.stat(store)
    owner = (found.st_uid, found.st_gid)
    if not found.st_uid:
        return None
    closed = ""
    with acting_as(owner):
        for name in ("", "_delta_log", "_pond"):
            path = os.path.join(store, name)
            # What is not there can be made if the first may be written.
            if os.path.exists(path) and not os.access(path, os.W_OK | os.X_OK, effective_ids=True):
                closed = path
                break
    if not closed:
        return owner
    link = os.lstat(closed)
    if stat.S_ISLNK(link.st_mode) and link.st_uid:
        raise NotPermitted(
            f"{closed} is a symlink of user {link.st_uid} to a directory where user {owner[0]} "
            "may not write: root follows only its own"
        )
    return None


@contextmanager
def acting_as(owner: Owner | None) -> Iterator[None]:
    """Have new files belong to *owner* from the start: not even a crash leaves them to root.

    By the filesystem user of the calling thread (setfsuid(2)); no other thread notices. Nothing
    may be imported inside: the owner may not be able to read where Python is. What might goes into
    an `acting_as` of `ONESELF`.

    Raises: PermissionError where root may not act as others (without CAP_SETUID, or as a user whom
        its namespace does not know): as itself it would do what that user could not.
    """
    if owner is None:
        yield
        return
    user, group = owner
    old_group = _libc.setfsgid(group)
    old_user = _libc.setfsuid(user)
    try:
        # It never fails by what it returns: no user there is shows what came of it.
        if _libc.setfsuid(_NO_USER) != user:
            raise PermissionError(
                errno.EPERM, f"user {user} has this store, and to act as that user takes CAP_SETUID"
            )
        yield
    finally:
        _libc.setfsuid(old_user)
        _libc.setfsgid(old_group)


_NO_USER = 2**32 - 1
_libc = ctypes.CDLL(None)
for _call in (_libc.setfsuid, _libc.setfsgid):
    _call.argtypes, _call.restype = (ctypes.c_uint,), ctypes.c_uint


def find_holder(pond_dir: str) -> dict[str, object] | None:
    """Return what the lock file says of its holder; None when it says nothing."""
    try:
        with open(os.path.join(pond_dir, LOCK_FILE), "rb", opener=open_plain) as file:
            holder = json.loads(file.read())
    except (OSError, ValueError):
        return None
    return holder if isinstance(holder, dict) else None


def _describe(pond_dir: str, holder: dict[str, object] | None) -> str:
    store = os.path.dirname(os.path.abspath(pond_dir))
    if holder is None:
        return f"pond {store} is in use by another process: unmount it first"
    where = holder.get("mountpoint")
    what = f"mounted at {where}" if where else "in use"
    return f"pond {store} is already {what} by process {holder.get('pid')}: unmount it first"
