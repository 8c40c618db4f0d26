"""A mounted pond as a tree that can be changed: plain system calls, so that permissions count."""

import errno
import os
import stat
from pathlib import Path
from typing import Self

from pondfs.api.paths import Spot, check_regular, fail, find, naming
from pondfs.control.client import Client, MountClient
from pondfs.control.reach import connect_mount
from pondfs.errors import CommitFailed, DaemonRefused, NotAPond, NotPermitted
from pondfs.mountinfo import Mount, find_pond_at
from pondfs.node import PAST, Version
from pondfs.store.tree import NodeStat
from pondfs.unmount import flush_kernel

_HOLD = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
# Without O_NONBLOCK, a pipe that took a file's place would hold us up.
_OPEN = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC

_ST_BLOCK_BYTES = 512
"""What st_blocks counts (stat(2))."""

_RENAME_NOREPLACE = 1


class MountedBackend:
    """The tree below a mountpoint. Implements `backend.Backend`.

    The root directory is held open, and every path is walked from there name by name, so that no
    symlink leads out, nor into what is mounted further in. What is done is done: `discard` takes
    nothing back.

    Attributes:
        label: how messages call it.
        mount: the mount.
    """

    def __init__(self, mountpoint: Path) -> None:
        """Hold the root of the pond that is mounted on *mountpoint*.

        Raises: NotAPond when none is; OSError as the mount says.
        """
        mount = find_pond_at(mountpoint)
        if mount is None:
            raise NotAPond(f"no pond is mounted at {mountpoint}: mount.pond {mountpoint} mounts it")
        self.mount: Mount = mount
        self.label = f"the pond at {mount.mountpoint}"
        self._live_at = os.fsencode(mount.mountpoint)
        self._device = os.makedev(*mount.device)
        self._root = os.open(mount.mountpoint, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        if os.fstat(self._root).st_dev != self._device:
            self.close()
            raise NotAPond(f"something else is mounted over the pond at {mountpoint}")

    # --- looking ---

    def lstat(self, path: bytes) -> NodeStat:
        """Return what is at *path*."""
        with naming(path), self._walk() as walk:
            return _stat(os.fstat(walk.find(path).existing()))

    def listdir(self, path: bytes) -> list[bytes]:
        """Return a directory's names, sorted, without ``.`` and ``..`` and ``.pond``."""
        with naming(path), self._walk() as walk:
            spot = walk.find(path)
            here = spot.existing()
            if not stat.S_ISDIR(walk.mode(here)):
                raise fail(errno.ENOTDIR)
            fd = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=here)
            try:
                names = sorted(os.fsencode(name) for name in os.listdir(fd))
            finally:
                os.close(fd)
            # Listed only where the mount makes it visible; a file of this name can be no other.
            if b".pond" in names and walk.find(path + b"/.pond").reserved:
                names.remove(b".pond")
            return names

    def readlink(self, path: bytes) -> bytes:
        """Return a symlink's target."""
        with naming(path), self._walk() as walk:
            node = walk.find(path).existing()
            if not stat.S_ISLNK(walk.mode(node)):
                raise fail(errno.EINVAL)
            return walk.target(node)

    def xattrs(self, path: bytes) -> dict[bytes, bytes]:
        """Return the extended attributes; none where the mount has none."""
        found: dict[bytes, bytes] = {}
        with naming(path), self._walk() as walk:
            whole = _through_proc(walk.find(path))
            try:
                names = os.listxattr(whole, follow_symlinks=False)
            except OSError as error:
                if error.errno == errno.EOPNOTSUPP:
                    return found
                raise
            for name in names:
                try:
                    found[os.fsencode(name)] = os.getxattr(whole, name, follow_symlinks=False)
                except OSError as error:
                    if error.errno != errno.ENODATA:  # removed since it was listed
                        raise
        return found

    # --- files ---

    def open(self, path: bytes, flags: int, mode: int = 0o666) -> "MountedHandle":
        """Open a regular file. See `backend.Backend.open`."""
        makes_new = flags & os.O_CREAT and flags & os.O_EXCL
        with naming(path), self._walk() as walk:
            spot = walk.find(path, last=not (makes_new or flags & os.O_NOFOLLOW))
            if makes_new:
                spot.new_name()
            if spot.reserved:
                raise fail(errno.EISDIR)
            if spot.node is not None:
                check_regular(walk.mode(spot.node))
            fd = os.open(spot.name, flags | _OPEN, mode, dir_fd=spot.directory)
            try:
                check_regular(os.fstat(fd).st_mode)
            except OSError:
                os.close(fd)
                raise
            return MountedHandle(fd, path)

    # --- names ---

    def mkdir(self, path: bytes, mode: int = 0o777) -> None:
        """Make a directory; the umask applies to *mode*."""
        with naming(path), self._walk() as walk:
            spot = walk.find(path)
            os.mkdir(spot.new_name(), mode, dir_fd=spot.directory)

    def mknod(self, path: bytes, mode: int, rdev: int = 0) -> None:
        """Make a FIFO, socket or device (or an empty file). See `backend.Backend.mknod`."""
        with naming(path), self._walk() as walk:
            spot = walk.find(path)
            os.mknod(spot.new_name(), mode, rdev, dir_fd=spot.directory)

    def symlink(self, target: bytes, path: bytes) -> None:
        """Make a symlink at *path*."""
        with naming(path), self._walk() as walk:
            spot = walk.find(path)
            os.symlink(target, spot.new_name(), dir_fd=spot.directory)

    def link(self, old: bytes, new: bytes) -> None:
        """Give a file another name."""
        with naming(old, new), self._walk() as walk:
            was, spot = walk.find(old), walk.find(new)
            if stat.S_ISDIR(walk.mode(was.existing())):
                raise fail(errno.EPERM)
            os.link(
                was.name, spot.new_name(),
                src_dir_fd=was.directory, dst_dir_fd=spot.directory, follow_symlinks=False,
            )  # fmt: skip

    def unlink(self, path: bytes) -> None:
        """Remove the name of anything but a directory."""
        with naming(path), self._walk() as walk:
            spot = walk.find(path)
            os.unlink(spot.removable_name(), dir_fd=spot.directory)

    def rmdir(self, path: bytes) -> None:
        """Remove an empty directory."""
        with naming(path), self._walk() as walk:
            spot = walk.find(path)
            os.rmdir(spot.removable_name(), dir_fd=spot.directory)

    def rename(self, old: bytes, new: bytes, *, replace: bool = True) -> None:
        """Move, over what is at *new* unless *replace* is false (EEXIST)."""
        with naming(old, new), self._walk() as walk:
            was, spot = walk.find(old), walk.find(new)
            name = was.removable_name()
            if not spot.name or spot.reserved:
                raise fail(errno.EBUSY if replace else errno.EEXIST)
            if replace:
                os.rename(name, spot.name, src_dir_fd=was.directory, dst_dir_fd=spot.directory)
            else:
                _rename_free(was.directory, name, spot.directory, spot.name)

    # --- attributes ---

    def chmod(self, path: bytes, mode: int) -> None:
        """Set the permission bits; of a symlink it is refused (EOPNOTSUPP)."""
        with naming(path), self._walk() as walk:
            node = walk.find(path).existing()
            if stat.S_ISLNK(walk.mode(node)):
                raise fail(errno.EOPNOTSUPP)
            os.chmod(f"/proc/self/fd/{node}", mode)

    def chown(self, path: bytes, uid: int, gid: int) -> None:
        """Set the owner, of a symlink its own; -1 leaves one alone."""
        with naming(path), self._walk() as walk:
            spot = walk.find(path)
            spot.existing()
            name = spot.name or b"."
            os.chown(name, uid, gid, dir_fd=spot.directory, follow_symlinks=False)

    def utime(self, path: bytes, atime_ns: int, mtime_ns: int) -> None:
        """Set the times, of a symlink its own."""
        with naming(path), self._walk() as walk:
            spot = walk.find(path)
            spot.existing()
            times = atime_ns, mtime_ns
            name = spot.name or b"."
            os.utime(name, ns=times, dir_fd=spot.directory, follow_symlinks=False)

    def setxattr(self, path: bytes, name: bytes, value: bytes) -> None:
        """Set one."""
        with naming(path), self._walk() as walk:
            os.setxattr(_through_proc(walk.find(path)), name, value, follow_symlinks=False)

    def removexattr(self, path: bytes, name: bytes) -> None:
        """Remove one."""
        with naming(path), self._walk() as walk:
            os.removexattr(_through_proc(walk.find(path)), name, follow_symlinks=False)

    # --- the whole ---

    def commit(self, message: str = "") -> Version | None:
        """Make everything pending one version, whoever wrote it. See `backend.Backend.commit`."""
        try:
            flush_kernel(self.mount.mountpoint)
        except OSError as error:
            why = f"commit failed: {error.strerror}"
            raise CommitFailed(why, error.errno or errno.EIO) from None
        client: Client | MountClient
        try:
            client = connect_mount(self.mount)
        except NotPermitted:
            client = MountClient(self.mount.mountpoint)
        with client:
            try:
                version = client.call("commit", timeout_s=None, message=message)["version"]
            except DaemonRefused as error:
                if error.exit_code != CommitFailed.exit_code:
                    raise
                raise CommitFailed(str(error), error.errno) from None
        return None if version is None else Version(version)

    def close(self) -> None:
        """Let go of the mount. Calling it twice is harmless."""
        if self._root >= 0:
            os.close(self._root)
            self._root = -1

    def discard(self) -> None:
        """As `close`: what was written is the mount's, which commits it when it is time."""
        self.close()

    def _walk(self) -> "_Walk":
        if self._root < 0:
            raise OSError(errno.EBADF, "the pond is closed")
        return _Walk(self._root, self._device, self._live_at)


class MountedHandle:
    """An open file of a mount. Implements `backend.Handle`."""

    def __init__(self, fd: int, path: bytes) -> None:
        """Take over *fd*; *path* is for messages."""
        self._fd = fd
        self._path = path

    def pread(self, length: int, offset: int) -> bytes:
        """Return up to *length* bytes; fewer only at the end of the file."""
        with naming(self._path):
            data = os.pread(self._fd, length, offset)
            if len(data) in (0, length):
                return data
            pieces = [data]
            done = len(data)
            while done < length and (data := os.pread(self._fd, length - done, offset + done)):
                pieces.append(data)
                done += len(data)
            return b"".join(pieces)

    def pwrite(self, data: bytes | bytearray | memoryview, offset: int) -> int:
        """Write all of *data*; return its length."""
        with naming(self._path):
            rest = memoryview(data).cast("B")
            length = len(rest)
            while rest:
                done = os.pwrite(self._fd, rest, offset)
                rest, offset = rest[done:], offset + done
            return length

    def truncate(self, size: int) -> None:
        """Set the size; growing leaves a hole."""
        with naming(self._path):
            os.ftruncate(self._fd, size)

    def fstat(self) -> NodeStat:
        """Return what is open."""
        with naming(self._path):
            return _stat(os.fstat(self._fd))

    def fsync(self) -> None:
        """Make the whole pond durable."""
        with naming(self._path):
            os.fsync(self._fd)

    def close(self) -> None:
        """Close it. Raises: OSError when what was written could not be kept."""
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            with naming(self._path):
                os.close(fd)


class _Walk:
    """Held descriptors along a path, closed at the end. Implements `paths.Steps`."""

    def __init__(self, root: int, device: int, live_at: bytes) -> None:
        self._root = root
        self._device = device
        self._live_at = live_at
        self._held: dict[int, os.stat_result] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for fd in self._held:
            os.close(fd)

    def find(self, path: bytes, *, last: bool = False) -> Spot[int]:
        """Return where *path* leads. See `paths.find`."""
        return find(self, path, last=last, live_at=self._live_at)

    def root(self) -> int:
        """Return the root."""
        return self._root

    def child(self, directory: int, name: bytes) -> int | None:
        """Return what has *name* in a directory; None for nothing."""
        try:
            fd = os.open(name, _HOLD, dir_fd=directory)
        except FileNotFoundError:
            return None
        self._held[fd] = info = os.fstat(fd)
        if info.st_dev != self._device:
            raise OSError(errno.EXDEV, "another filesystem is mounted there")
        return fd

    def mode(self, node: int) -> int:
        """Return the type and permissions."""
        return self._held[node].st_mode if node in self._held else os.fstat(node).st_mode

    def target(self, node: int) -> bytes:
        """Return a symlink's target."""
        return os.readlink(b"", dir_fd=node)

    def is_reserved(self, node: int) -> bool:
        """Return whether it is ``.pond``."""
        return self._held[node].st_ino >= PAST


def _through_proc(spot: Spot[int]) -> bytes:
    """Return a path to what is there, for calls that take no directory's descriptor."""
    spot.existing()
    return b"/proc/self/fd/%d/%s" % (spot.directory, spot.name)


def _rename_free(old_dir: int, old: bytes, new_dir: int, new: bytes) -> None:
    """Rename unless something has the new name. Raises: OSError EEXIST, as rename(2)."""
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    if libc.renameat2(old_dir, old, new_dir, new, _RENAME_NOREPLACE) != 0:
        raise fail(ctypes.get_errno())


def _stat(info: os.stat_result) -> NodeStat:
    return NodeStat(
        info.st_ino, info.st_mode, info.st_uid, info.st_gid, info.st_nlink, info.st_rdev,
        info.st_size, info.st_blocks * _ST_BLOCK_BYTES,
        info.st_atime_ns, info.st_mtime_ns, info.st_ctime_ns,
    )  # fmt: skip
