"""Every error pondfs raises on purpose.

One class per cause. ``errno`` is what a program sees through the mount, ``exit_code`` is what a
shell sees from a command; the message says what is wrong and what to do. Only ``fuse/errors.py``
turns these into the kernel's errors. Exit codes follow mount(8) where it has one (1 usage or
permission, 2 system, 32 mount failure) and are never reused.
"""

import errno as _errno
import os
from typing import ClassVar


class PondError(Exception):
    """Base of all expected errors; ``str(error)`` is one line fit for a terminal."""

    errno: int = _errno.EIO
    exit_code: ClassVar[int] = 2


class UsageError(PondError):
    """The command line or a mount option is wrong."""

    errno = _errno.EINVAL
    exit_code = 1


class NotPermitted(PondError):
    """The caller may not do this."""

    errno = _errno.EPERM
    exit_code = 1


class SystemFailure(PondError):
    """The operating system refused something we need (no /dev/fuse, no fusermount3 ...)."""

    exit_code = 2


class NotAPond(PondError):
    """The store is no pond, or does not exist."""

    errno = _errno.ENOENT
    exit_code = 3


class PondExists(PondError):
    """``pond init`` on a directory that already holds a pond, or anything else."""

    errno = _errno.EEXIST
    exit_code = 4


class PondLocked(PondError):
    """Another process writes to this store."""

    errno = _errno.EBUSY
    exit_code = 5

    mountpoint: str = ""  # where the holder says it is mounted; "" when it does not say


class StoreDamaged(PondError):
    """The table holds something that no pondfs wrote whole; guessing would lose data."""

    errno = _errno.EIO
    exit_code = 6


class ForeignCommit(StoreDamaged):
    """Another writer changed the table in a way that conflicts with ours."""


class DaemonGone(PondError):
    """The mount's daemon does not answer."""

    errno = _errno.ENOTCONN
    exit_code = 7


class CommitFailed(PondError):
    """A commit could not be made durable; everything pending is kept and retried."""

    exit_code = 8

    def __init__(self, message: str, errno: int) -> None:
        super().__init__(message)
        self.errno = errno


class NeedsRepair(PondError):
    """``pond check`` found something wrong, and ``pond repair`` can mend all of it."""

    exit_code = 13


class BeyondRepair(PondError):
    """``pond check`` found something that nobody can mend without inventing data."""

    exit_code = 14


class NeedsCare(PondError):
    """``pond doctor`` found something that will hurt one day: a warning."""

    exit_code = 15


class NeedsMending(PondError):
    """``pond doctor`` found something that does not work, or that breaks a promise: an error."""

    exit_code = 16


class MountFailed(PondError):
    """The mount itself failed."""

    exit_code = 32


class FileError(PondError):
    """A file operation refused with the errno POSIX gives for it."""

    exit_code = 1

    def __init__(self, errno: int) -> None:
        super().__init__(os.strerror(errno))
        self.errno = errno


class DaemonRefused(PondError):
    """The mount's daemon answered a command with an error; the errno and the words are its own."""

    exit_code = 9

    def __init__(self, message: str, errno: int, exit_code: int | None = None) -> None:
        super().__init__(message)
        self.errno = errno or _errno.EIO
        if exit_code is not None:
            # Of the error behind it, so that a script sees the same with and without a mount.
            self.exit_code = exit_code  # type: ignore[misc]


class NoSuchVersion(PondError):
    """What was given as a version or time names none that the pond has."""

    errno = _errno.ENOENT
    exit_code = 10


class NoSuchPath(PondError):
    """No version that was asked has anything under this path."""

    errno = _errno.ENOENT
    exit_code = 11


class Conflict(PondError):
    """Taking a version back would take back what later versions did to the same paths."""

    errno = _errno.EBUSY
    exit_code = 12
