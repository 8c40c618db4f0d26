"""What is not a plain file: fifos, sockets, device nodes, locks, and the filesystem itself."""

from __future__ import annotations

import fcntl
import os
import socket
import stat
import struct
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tests.mount.place import ALICE, Place, as_user, errno_of, opened, tree

HOLD_A_LOCK = """
import fcntl, os, sys
fd = os.open(sys.argv[1], os.O_RDWR)
getattr(fcntl, sys.argv[2])(fd, fcntl.LOCK_EX)
print("held", flush=True)
sys.stdin.read()
"""


def test_fifo_carries_bytes_between_processes(place: Place) -> None:
    """The pipe is the kernel's; the filesystem keeps its name and mode."""
    fifo = place.path("fifo")
    os.mkfifo(fifo, 0o640)
    received: list[bytes] = []
    reader = threading.Thread(target=lambda: received.append(fifo.read_bytes()))
    reader.start()
    fifo.write_bytes(b"through the pipe")
    reader.join(timeout=60)
    assert received == [b"through the pipe"]
    place.remount()
    info = fifo.lstat()
    assert stat.S_ISFIFO(info.st_mode)
    assert stat.S_IMODE(info.st_mode) == 0o640


def test_unix_socket_in_the_mount(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bind makes the node; connecting works as long as someone listens."""
    monkeypatch.chdir(place.dir)  # a socket's address holds 107 bytes
    with (
        socket.socket(socket.AF_UNIX) as server,
        socket.socket(socket.AF_UNIX) as client,
        socket.socket(socket.AF_UNIX) as third,
    ):
        server.bind("socket")
        server.listen()
        client.connect("socket")
        connection, _ = server.accept()
        with connection:
            client.sendall(b"hello")
            assert connection.recv(10) == b"hello"
        assert errno_of(third.bind, "socket") == "EADDRINUSE"
    monkeypatch.undo()
    place.remount()
    assert stat.S_ISSOCK(place.path("socket").lstat().st_mode)
    os.unlink(place.path("socket"))


@pytest.mark.parametrize(
    ("kind", "major", "minor"),
    [(stat.S_IFCHR, 1, 3), (stat.S_IFBLK, 7, 0), (stat.S_IFCHR, 4095, 1_048_575)],
)
def test_device_nodes_keep_their_numbers(place: Place, kind: int, major: int, minor: int) -> None:
    """A root filesystem can be unpacked into a pond; 12-bit majors and 20-bit minors included."""
    device = os.makedev(major, minor)
    os.mknod(place.path("node"), kind | 0o600, device)
    assert place.path("node").lstat().st_rdev == device
    place.remount()
    info = place.path("node").lstat()
    assert (stat.S_IFMT(info.st_mode), info.st_rdev) == (kind, device)
    os.rename(place.path("node"), place.path("renamed"))
    os.unlink(place.path("renamed"))


def test_mknod_makes_plain_files(place: Place) -> None:
    """S_IFREG, and 0, which means the same."""
    os.mknod(place.path("regular"), stat.S_IFREG | 0o640)
    os.mknod(place.path("zero"), 0o600)
    assert stat.S_ISREG(place.path("regular").stat().st_mode)
    assert stat.S_ISREG(place.path("zero").stat().st_mode)
    assert stat.S_IMODE(place.path("regular").stat().st_mode) == 0o640


def test_devices_are_roots_business(place: Place) -> None:
    """EPERM for users, who may make fifos all the same; directories are not made by mknod."""
    place.dir.chmod(0o777)
    with as_user(ALICE, place.dir):
        assert errno_of(os.mknod, "null", stat.S_IFCHR | 0o600, os.makedev(1, 3)) == "EPERM"
        assert errno_of(os.mkfifo, "fifo") == "OK"
    assert errno_of(os.mknod, place.path("dir"), stat.S_IFDIR | 0o700) == "EPERM"


def hold(path: Path, how: str) -> subprocess.Popen[str]:
    """Return another process that has locked *path*."""
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD_A_LOCK, path, how],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    return holder


@pytest.mark.parametrize("how", ["flock", "lockf"])
def test_locks_exclude_other_processes(place: Place, how: str) -> None:
    """flock(2) and fcntl(2) locks; sqlite, apt, and mail programs rest on them."""
    file = place.file(content=b"content")
    lock = getattr(fcntl, how)
    holder = hold(file, how)
    try:
        with opened(file, os.O_RDWR) as fd:
            assert errno_of(lock, fd, fcntl.LOCK_EX | fcntl.LOCK_NB) in ("EAGAIN", "EACCES")
            holder.communicate(timeout=60)
            assert errno_of(lock, fd, fcntl.LOCK_EX | fcntl.LOCK_NB) == "OK"
            lock(fd, fcntl.LOCK_UN)
    finally:
        holder.communicate(timeout=60)


def test_flock_belongs_to_the_open_file(place: Place) -> None:
    """Two opens in one process exclude each other; shared locks do not."""
    file = place.file()
    with opened(file, os.O_RDWR) as one, opened(file, os.O_RDWR) as two:
        fcntl.flock(one, fcntl.LOCK_SH)
        fcntl.flock(two, fcntl.LOCK_SH | fcntl.LOCK_NB)
        assert errno_of(fcntl.flock, two, fcntl.LOCK_EX | fcntl.LOCK_NB) == "EAGAIN"
        fcntl.flock(one, fcntl.LOCK_UN)
        fcntl.flock(two, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_record_locks_cover_ranges(place: Place) -> None:
    """F_OFD_SETLK on disjoint and overlapping ranges, as sqlite takes them on its lock bytes."""
    file = place.file(content=bytes(100))

    def lock(fd: int, start: int, length: int) -> None:
        request = struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, start, length, 0)
        fcntl.fcntl(fd, fcntl.F_OFD_SETLK, request)

    with opened(file, os.O_RDWR) as one, opened(file, os.O_RDWR) as two:
        lock(one, 0, 10)
        lock(two, 10, 10)
        assert errno_of(lock, two, 5, 10) in ("EAGAIN", "EACCES")


@pytest.mark.pond_only("about the disk under the store")
def test_statfs_tells_the_store_disks_truth(place: Place) -> None:
    """df must warn before the store's disk is full: sizes and free space are that disk's."""
    assert place.pond is not None
    pond, disk = os.statvfs(place.pond.mnt), os.statvfs(place.pond.store)
    assert pond.f_blocks * pond.f_frsize == disk.f_blocks * disk.f_frsize
    slack = 1 << 30  # other programs write while we look
    assert abs(pond.f_bavail * pond.f_frsize - disk.f_bavail * disk.f_frsize) < slack
    assert abs(pond.f_bfree * pond.f_frsize - disk.f_bfree * disk.f_frsize) < slack
    assert pond.f_namemax == 255
    assert pond.f_ffree > 0


@pytest.mark.pond_only("about the mountpoint")
def test_the_mountpoint_itself(place: Place) -> None:
    """The root is inode 1, can be changed like any directory, and can't be removed."""
    assert place.pond is not None
    root = place.pond.mnt
    assert root.stat().st_ino == 1
    assert errno_of(os.rmdir, root) == "EBUSY"
    assert errno_of(os.rename, root, root.with_name("elsewhere")) == "EBUSY"
    assert errno_of(os.rename, place.dir, root.with_name("outside")) == "EXDEV"
    mode, times = stat.S_IMODE(root.stat().st_mode), (111, 222)
    root.chmod(0o711)
    os.chown(root, 12, 34)
    os.utime(root, ns=times)
    place.remount()
    info = root.stat()
    assert (stat.S_IMODE(info.st_mode), info.st_uid, info.st_gid) == (0o711, 12, 34)
    assert info.st_mtime_ns == 222
    root.chmod(mode)
    os.chown(root, 0, 0)


def test_everything_at_once_survives_two_remounts(place: Place) -> None:
    """A zoo of nodes, compared whole: types, modes, owners, times, numbers, content."""
    zoo = place.path("zoo")
    (zoo / "a" / "b" / "c").mkdir(parents=True)
    (zoo / "empty").touch()
    (zoo / "small").write_bytes(b"small")
    (zoo / "a" / "big").write_bytes(os.urandom(3 << 20))
    os.link(zoo / "small", zoo / "a" / "b" / "hard")
    (zoo / "a" / "soft").symlink_to("../small")
    os.mkfifo(zoo / "a" / "b" / "fifo", 0o600)
    os.mknod(zoo / "a" / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    os.truncate(zoo / "empty", 5000)
    os.chown(zoo / "a" / "big", 5, 6)
    (zoo / "a" / "b" / "c").chmod(0o1700)
    os.utime(zoo / "a" / "b", ns=(-5, -6))
    before = tree(zoo, times=True, inodes=True)
    place.remount()
    assert tree(zoo, times=True, inodes=True) == before
    (zoo / "a" / "b" / "c" / "added").write_bytes(b"later")
    os.unlink(zoo / "small")
    before = tree(zoo, times=True, inodes=True)
    place.remount()
    assert tree(zoo, times=True, inodes=True) == before


@pytest.mark.pond_only("commits are the pond's")
def test_removing_everything_leaves_nothing_after_a_remount(place: Place) -> None:
    """Tombstones count as much as rows: what was removed stays removed."""
    assert place.pond is not None
    for number in range(200):
        place.path(f"{number}").write_bytes(b"x" * 100)
    place.pond.commit()
    for number in range(200):
        os.unlink(place.path(f"{number}"))
    place.remount()
    assert os.listdir(place.dir) == []
