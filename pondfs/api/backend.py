"""What the Python API and the commands that change a pond need of a tree they can write to.

Two things have it: a mount (`mounted`), and a pond that is not mounted (`unmounted`), whose tree
runs in this process. Paths are bytes from the pond's root, without a leading slash; the root is
empty. Symlinks on the way are followed within the pond, one at the end is not, but by `open`; one
that leads out of the pond is an error (EXDEV). ``.pond`` is not there, but its name is taken.
Errors are OSError with errno and, as *filename*, the path as text with a leading slash.
"""

from typing import Protocol

from pondfs.node import Version
from pondfs.store.tree import NodeStat


class Handle(Protocol):
    """An open regular file. Offsets and lengths in bytes."""

    def pread(self, length: int, offset: int) -> bytes:
        """Return up to *length* bytes; fewer only at the end of the file."""

    def pwrite(self, data: bytes | bytearray | memoryview, offset: int) -> int:
        """Write all of *data*; return its length."""

    def truncate(self, size: int) -> None:
        """Set the size; growing leaves a hole."""

    def fstat(self) -> NodeStat:
        """Return what is open."""

    def fsync(self) -> None:
        """Make the whole pond durable. Raises: OSError as the disk says."""

    def close(self) -> None:
        """Close it. Calling it twice is harmless."""


class Backend(Protocol):
    """A tree that can be changed. Blocking; one call at a time.

    Attributes:
        label: how messages call it.
    """

    label: str

    def lstat(self, path: bytes) -> NodeStat:
        """Return what is at *path*."""

    def listdir(self, path: bytes) -> list[bytes]:
        """Return a directory's names, sorted, without ``.`` and ``..`` and ``.pond``."""

    def readlink(self, path: bytes) -> bytes:
        """Return a symlink's target."""

    def open(self, path: bytes, flags: int, mode: int = 0o666) -> Handle:
        """Return a regular file, opened as the system does it; the umask applies to *mode*.

        Raises: OSError as open(2); EISDIR for a directory, EINVAL for what else is no file.
        """

    def mkdir(self, path: bytes, mode: int = 0o777) -> None:
        """Make a directory; the umask applies to *mode*."""

    def mknod(self, path: bytes, mode: int, rdev: int = 0) -> None:
        """Make a FIFO, socket or device (or an empty file): type and permissions are in *mode*.

        The umask applies to the permissions.
        """

    def unlink(self, path: bytes) -> None:
        """Remove the name of anything but a directory."""

    def rmdir(self, path: bytes) -> None:
        """Remove an empty directory."""

    def rename(self, old: bytes, new: bytes, *, replace: bool = True) -> None:
        """Move, over what is at *new* unless *replace* is false (EEXIST)."""

    def symlink(self, target: bytes, path: bytes) -> None:
        """Make a symlink at *path*."""

    def link(self, old: bytes, new: bytes) -> None:
        """Give a file another name."""

    def chmod(self, path: bytes, mode: int) -> None:
        """Set the permission bits; of a symlink it is refused (EOPNOTSUPP)."""

    def chown(self, path: bytes, uid: int, gid: int) -> None:
        """Set the owner, of a symlink its own; -1 leaves one alone."""

    def utime(self, path: bytes, atime_ns: int, mtime_ns: int) -> None:
        """Set the times, of a symlink its own."""

    def xattrs(self, path: bytes) -> dict[bytes, bytes]:
        """Return the extended attributes; none where the mount has none."""

    def setxattr(self, path: bytes, name: bytes, value: bytes) -> None:
        """Set one."""

    def removexattr(self, path: bytes, name: bytes) -> None:
        """Remove one."""

    def commit(self, message: str = "") -> Version | None:
        """Make everything pending one version, durable on return; None when nothing was pending.

        Raises: CommitFailed, DaemonGone.
        """

    def close(self) -> None:
        """Let go of it. An unmounted pond commits what is pending first; see `discard`."""

    def discard(self) -> None:
        """Let go of it without a commit: an unmounted pond is as it was at the last one.

        What a mount was given it keeps, and commits in its time.
        """
