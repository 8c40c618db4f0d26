"""A small ext4 in a file, so that a test can fill a disk that nobody else needs."""

from __future__ import annotations

import errno
import fcntl
import os
import sys
from pathlib import Path

from tests.mount.harness import detach, is_mounted, require, run, wait_until

CHUNK_BYTES = 1 << 20

_EXT4_IOC_SHUTDOWN = 0x8004587D  # _IOR('X', 125, __u32)
_NO_LOG_FLUSH = 2


class SmallDisk:
    """An ext4 of *size_bytes* on a loop device, mounted at ``root``.

    No blocks are kept for root, else the tests, which may run as root, would never see it full.
    ``close`` detaches it whatever uses it; the loop device goes with the last user.
    """

    def __init__(self, place: Path, size_bytes: int) -> None:
        self.image = place / "disk.img"
        self.root = place / "disk"
        self._ballast = self.root / "ballast"
        self.root.mkdir()
        with self.image.open("wb") as image:
            os.posix_fallocate(image.fileno(), 0, size_bytes)
        run([require("mkfs.ext4"), "-q", "-m", "0", "-F", self.image])
        run([require("mount"), "-o", "loop", self.image, self.root])

    def free_bytes(self) -> int:
        """Return what is free."""
        status = os.statvfs(self.root)
        return status.f_bavail * status.f_frsize

    def fill(self, most_bytes: int = 1 << 40) -> None:
        """Take every free block, or *most_bytes*, with a file beside the pond."""
        fd = os.open(self._ballast, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        piece_bytes = CHUNK_BYTES
        try:
            while piece_bytes and os.fstat(fd).st_size < most_bytes:
                try:
                    os.write(fd, bytes(piece_bytes))
                    os.fsync(fd)  # else delayed allocation only finds out later
                except OSError as full:
                    if full.errno != errno.ENOSPC:
                        raise
                    piece_bytes //= 2
        finally:
            os.close(fd)

    def free(self, size_bytes: int | None = None) -> None:
        """Give back what :meth:`fill` took, or *size_bytes* of it."""
        if size_bytes is None:
            self._ballast.unlink(missing_ok=True)
        else:
            os.truncate(self._ballast, self._ballast.stat().st_size - size_bytes)

    def turn(self, mode: str) -> None:
        """Make the whole filesystem ``ro`` or ``rw``, as the kernel does on an I/O error."""
        run([require("mount"), "-o", f"remount,{mode}", self.root])

    def cut_power(self) -> None:
        """Let nothing more reach the disk: what was not synced by now is lost.

        Source: fs/ext4/ioctl.c, EXT4_IOC_SHUTDOWN with EXT4_GOING_FLAGS_NOLOGFLUSH.
        """
        fd = os.open(self.root, os.O_RDONLY)
        try:
            fcntl.ioctl(fd, _EXT4_IOC_SHUTDOWN, _NO_LOG_FLUSH.to_bytes(4, sys.byteorder))
        finally:
            os.close(fd)

    def restore_power(self) -> None:
        """Mount the disk again, as after a reboot; nobody may have it open any more.

        Whoever still has (a copy of the mount in another namespace) would keep the old filesystem
        alive, and its buffers: the loop device is gone when nobody does.
        """
        self._unmount()
        wait_until(lambda: not run([require("losetup"), "-j", self.image]).stdout,
                   "nobody has the disk any more")  # fmt: skip
        run([require("mount"), "-o", "loop", self.image, self.root])

    def check(self) -> None:
        """Have ext4 itself checked: what is proved shall be about the pond."""
        self._unmount()
        run([require("e2fsck"), "-f", "-n", self.image])
        run([require("mount"), "-o", "loop", self.image, self.root])

    def _unmount(self) -> None:
        # pyarrow's threads may still be closing what a test has just read.
        wait_until(lambda: run([require("umount"), self.root], check=False).returncode == 0,
                   "the disk is unmounted")  # fmt: skip

    def close(self) -> None:
        """Detach the disk; everything mounted below it first."""
        if is_mounted(self.root):
            run([require("umount"), "--recursive", "--lazy", self.root])
        if is_mounted(self.root):
            detach(self.root)
        self.image.unlink()
