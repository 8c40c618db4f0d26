"""Checks of "As on any local filesystem" in docs/reference/semantics.md."""

from __future__ import annotations

import fcntl
import mmap
import os
import socket
import stat
import struct
import time
from pathlib import Path

from tests.mount.harness import mounts, require, run
from tests.mount.place import ALICE, BOB, as_user, errno_of, opened
from tests.mount.semantics_page import Ground, row
from tests.mount.syscalls import (
    RENAME_EXCHANGE,
    RENAME_NOREPLACE,
    UTIME_NOW,
    UTIME_OMIT,
    DirStream,
    renameat2,
    utimensat,
)

MIB = 1 << 20


def made(ground: Ground, name: str, content: bytes = b"") -> Path:
    path = ground.dir / name
    path.write_bytes(content)
    return path


@row("types")
def _types(ground: Ground) -> None:
    at = ground.dir
    file = made(ground, "file")
    os.link(file, at / "hard")
    (at / "symlink").symlink_to("file")
    (at / "dir").mkdir()
    os.mkfifo(at / "fifo")
    with socket.socket(socket.AF_UNIX) as listener, as_user(0, at):
        listener.bind("socket")  # by a short name: a socket's has 107 bytes at most
    os.mknod(at / "block", stat.S_IFBLK | 0o600, os.makedev(7, 200))
    os.mknod(at / "char", stat.S_IFCHR | 0o600, os.makedev(1, 3))
    kinds = {path.name: stat.S_IFMT(path.lstat().st_mode) for path in at.iterdir()}
    assert kinds == {
        "file": stat.S_IFREG, "hard": stat.S_IFREG, "symlink": stat.S_IFLNK, "dir": stat.S_IFDIR,
        "fifo": stat.S_IFIFO, "socket": stat.S_IFSOCK, "block": stat.S_IFBLK, "char": stat.S_IFCHR,
    }  # fmt: skip
    assert (at / "hard").samefile(file)
    assert (at / "block").stat().st_rdev == os.makedev(7, 200)


@row("open")
def _open(ground: Ground) -> None:
    path, link = ground.dir / "file", ground.dir / "link"
    link.symlink_to("file")
    assert errno_of(os.open, path, os.O_WRONLY) == "ENOENT"
    with opened(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL) as fd:
        os.write(fd, b"abc")
    assert errno_of(os.open, path, os.O_CREAT | os.O_EXCL) == "EEXIST"
    with opened(path, os.O_WRONLY | os.O_APPEND) as fd:
        os.lseek(fd, 0, os.SEEK_SET)
        os.write(fd, b"d")
    assert path.read_bytes() == b"abcd"
    assert errno_of(os.open, link, os.O_RDONLY | os.O_NOFOLLOW) == "ELOOP"
    assert errno_of(os.open, path, os.O_RDONLY | os.O_DIRECTORY) == "ENOTDIR"
    with opened(path, os.O_RDONLY | os.O_NOATIME) as fd:
        assert os.read(fd, 9) == b"abcd"
    for flag in (os.O_SYNC, os.O_DSYNC):
        before = ground.pond.status()["version"]
        with opened(path, os.O_WRONLY | flag) as fd:
            os.write(fd, b"sync")
        assert ground.pond.status()["version"] > before
    with opened(path, os.O_RDWR | os.O_DIRECT) as fd, mmap.mmap(-1, 4096) as page:
        page[:] = b"p" * 4096
        os.pwrite(fd, page, 0)
        assert os.preadv(fd, [page], 0) == 4096
    with opened(path, os.O_WRONLY | os.O_TRUNC):
        assert path.stat().st_size == 0


@row("read, write")
def _read_write(ground: Ground) -> None:
    path = made(ground, "file")
    with opened(path, os.O_RDWR) as fd:
        os.pwrite(fd, b"end", 5 * MIB + 1)
        os.pwrite(fd, b"start", 3)
        assert os.pread(fd, 10, 0) == b"\0\0\0start\0\0"
        assert os.pread(fd, 10, 5 * MIB) == b"\0end"
        os.fsync(fd)
        assert os.fstat(fd).st_blocks * 512 < MIB
        largest = (1 << 63) - 1
        os.ftruncate(fd, largest)
        assert os.fstat(fd).st_size == largest
        assert os.pread(fd, 5, largest - 5) == bytes(5)
        assert errno_of(os.pwrite, fd, b"x", largest) == "EINVAL"
        assert errno_of(os.pwrite, fd, b"12345", largest - 2) == "EINVAL"
        assert os.pwrite(fd, b"12345", largest - 5) == 5


@row("truncate")
def _truncate(ground: Ground) -> None:
    path = made(ground, "file", b"secret")
    os.truncate(path, 2)
    assert path.read_bytes() == b"se"
    os.truncate(path, 8)
    assert path.read_bytes() == b"se" + bytes(6)
    os.truncate(path, 0)
    with opened(path, os.O_WRONLY) as fd:
        os.pwrite(fd, b"x", 5)
    ground.pond.commit()
    assert path.read_bytes() == bytes(5) + b"x"


@row("mmap")
def _mmap(ground: Ground) -> None:
    path = made(ground, "file", bytes(8192))
    with opened(path, os.O_RDWR) as fd:
        with mmap.mmap(fd, 8192) as shared, mmap.mmap(fd, 8192) as other:
            shared[0:5] = b"first"
            assert os.pread(fd, 5, 0) == b"first" == other[0:5]
            os.pwrite(fd, b"second", 4096)
            assert shared[4096:4102] == b"second"
        with mmap.mmap(fd, 8192, flags=mmap.MAP_PRIVATE) as private:
            private[0:5] = b"mine!"
            assert os.pread(fd, 5, 0) == b"first"


@row("rename")
def _rename(ground: Ground) -> None:
    a, b, c = made(ground, "a", b"a"), made(ground, "b", b"b"), ground.dir / "c"
    assert errno_of(renameat2, a, b, RENAME_NOREPLACE) == "EEXIST"
    renameat2(a, b, RENAME_EXCHANGE)
    assert (a.read_bytes(), b.read_bytes()) == (b"b", b"a")
    a.rename(b)
    assert (a.exists(), b.read_bytes()) == (False, b"b")
    renameat2(b, c, RENAME_NOREPLACE)
    assert c.read_bytes() == b"b"
    full, empty = ground.dir / "full", ground.dir / "empty"
    (full / "in").mkdir(parents=True)
    empty.mkdir()
    assert errno_of(os.rename, empty, full) == "ENOTEMPTY"
    assert errno_of(os.rename, full, full / "in" / "me") == "EINVAL"
    full.rename(empty)
    assert (empty / "in").is_dir()


@row("unlink, rename over")
def _open_and_gone(ground: Ground) -> None:
    removed, covered = made(ground, "removed", b"old"), made(ground, "covered", b"old")
    for path, go in (
        (removed, removed.unlink),
        (covered, lambda: made(ground, "new", b"new").rename(covered)),
    ):
        with opened(path, os.O_RDWR) as fd:
            go()
            assert os.fstat(fd).st_nlink == 0
            os.pwrite(fd, b"still", 3)
            ground.pond.commit()
            assert os.pread(fd, 99, 0) == b"oldstill"
    assert covered.read_bytes() == b"new"


@row("nlink")
def _nlink(ground: Ground) -> None:
    file = made(ground, "file")
    os.link(file, ground.dir / "again")
    assert file.stat().st_nlink == 2
    assert ground.dir.stat().st_nlink == 2
    (ground.dir / "sub").mkdir()
    assert ground.dir.stat().st_nlink == 3
    with opened(ground.dir / "sub", os.O_RDONLY) as fd:
        (ground.dir / "sub").rmdir()
        assert os.fstat(fd).st_nlink == 0


@row("names")
def _names(ground: Ground) -> None:
    at = os.fsencode(ground.dir)
    names = [b"x" * 255, b"\xff\xfe", b"new\nline", b" ", b"*", b"a:b", "ü".encode()]
    for name in names:
        os.close(os.open(at + b"/" + name, os.O_CREAT | os.O_WRONLY))
    assert sorted(os.listdir(at)) == sorted(names)
    assert errno_of(os.mkdir, at + b"/" + b"x" * 256) == "ENAMETOOLONG"
    os.symlink(b"t" * 4095, at + b"/link")
    assert os.readlink(at + b"/link") == b"t" * 4095
    assert errno_of(os.symlink, b"t" * 4096, at + b"/longer") == "ENAMETOOLONG"


@row("readdir")
def _readdir(ground: Ground) -> None:
    stays = {b"stays%d" % number for number in range(300)}
    for name in stays:
        made(ground, os.fsdecode(name))
    goes = [made(ground, f"goes{number}") for number in range(300)]
    with DirStream(ground.dir) as stream:
        assert (stream.read_any(), stream.read_any()) == (b".", b"..")
        some = [stream.read() for _ in range(20)]
        here = stream.tell()
        rest = stream.rest()
        stream.seek(here)
        assert stream.rest() == rest
        stream.rewind()
        seen = [stream.read() for _ in range(100)]
        for path in goes:
            path.unlink()
        made(ground, "comes")
        seen += stream.rest()
        assert sorted(name for name in seen if name in stays) == sorted(stays)
        assert set(some) <= set(seen)
        stream.rewind()
        assert set(stream.rest()) == stays | {b"comes"}


@row("permissions")
def _permissions(ground: Ground) -> None:
    file = made(ground, "file", b"x")
    file.chmod(0o600)
    (ground.dir / "sticky").mkdir()
    (ground.dir / "sticky").chmod(0o1777)
    (ground.dir / "team").mkdir()
    os.chown(ground.dir / "team", ALICE, BOB)
    (ground.dir / "team").chmod(0o2775)
    with as_user(ALICE, ground.dir):
        assert errno_of(os.open, "file", os.O_RDONLY) == "EACCES"
        assert errno_of(os.mkdir, "mine") == "EACCES"
        Path("sticky/alices").touch()
        Path("team/file").touch()
    with as_user(BOB, ground.dir):
        assert errno_of(os.unlink, "sticky/alices") == "EPERM"
    assert (ground.dir / "team" / "file").stat().st_gid == BOB


@row("setuid, setgid bits")
def _set_id_bits(ground: Ground) -> None:
    for name, change in (("written", lambda fd: os.write(fd, b"x")),
                         ("chowned", lambda fd: os.fchown(fd, -1, ALICE))):  # fmt: skip
        path = made(ground, name)
        os.chown(path, ALICE, ALICE)
        path.chmod(0o6777)
        with as_user(ALICE, ground.dir), opened(name, os.O_WRONLY) as fd:
            change(fd)
        assert path.stat().st_mode & 0o7777 == 0o777


@row("times")
def _times(ground: Ground) -> None:
    file = made(ground, "file")
    utimensat(file, (-1, 123_456_789), (10**9, 987_654_321))
    found = file.stat()
    assert found.st_atime_ns == -(10**9) + 123_456_789
    assert found.st_mtime_ns == 10**18 + 987_654_321
    before = time.time_ns()
    utimensat(file, (0, UTIME_OMIT), (0, UTIME_NOW))
    assert file.stat().st_atime_ns == found.st_atime_ns
    assert file.stat().st_mtime_ns >= before - 10**9


@row("inode numbers")
def _inode_numbers(ground: Ground) -> None:
    pond = ground.make("inodes").mount()
    numbers = {}
    for name in ("a", "b"):
        (pond.mnt / name).touch()
        numbers[name] = (pond.mnt / name).stat().st_ino
    (pond.mnt / "gone").touch()
    gone = (pond.mnt / "gone").stat().st_ino
    (pond.mnt / "gone").unlink()
    pond.remount()
    assert {name: (pond.mnt / name).stat().st_ino for name in numbers} == numbers
    (pond.mnt / "later").touch()
    assert (pond.mnt / "later").stat().st_ino not in {gone, *numbers.values()}
    assert pond.mnt.stat().st_ino == 1


@row("locks")
def _locks(ground: Ground) -> None:
    path = made(ground, "file", b"x")
    with opened(path, os.O_RDWR) as one, opened(path, os.O_RDWR) as two:
        fcntl.flock(one, fcntl.LOCK_EX)
        assert errno_of(fcntl.flock, two, fcntl.LOCK_EX | fcntl.LOCK_NB) == "EAGAIN"
        fcntl.flock(one, fcntl.LOCK_UN)
        fcntl.flock(two, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # Of the open file, not of the process: <linux/fcntl.h>, F_OFD_SETLK.
        lock = struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, 0, 10, 0)
        fcntl.fcntl(one, 37, lock)
        assert errno_of(fcntl.fcntl, two, 37, lock) == "EAGAIN"
        # The daemon knows nothing of it: another mount of the pond has locks of its own.
        ground.pond.commit()
        reader = ground.make("reader", store=ground.pond.store).mount("ro")
        with opened(reader.mnt / path.relative_to(ground.pond.mnt), os.O_RDONLY) as third:
            fcntl.flock(third, fcntl.LOCK_SH | fcntl.LOCK_NB)
        reader.umount()


@row("statfs")
def _statfs(ground: Ground) -> None:
    here, disk = os.statvfs(ground.pond.mnt), os.statvfs(ground.pond.store)
    assert here.f_blocks * here.f_frsize == disk.f_blocks * disk.f_frsize
    assert here.f_namemax == 255


@row("device, suid")
def _device_suid(ground: Ground) -> None:
    os.mknod(ground.dir / "zero", stat.S_IFCHR | 0o666, os.makedev(1, 5))
    with opened(ground.dir / "zero", os.O_RDONLY) as fd:
        assert os.read(fd, 4) == bytes(4)
    pond = ground.make("nodev").mount("nodev,nosuid")
    os.mknod(pond.mnt / "zero", stat.S_IFCHR | 0o666, os.makedev(1, 5))
    assert errno_of(os.open, pond.mnt / "zero", os.O_RDONLY) == "EACCES"
    options = {entry.mnt: entry.options for entry in mounts()}
    assert {"nodev", "nosuid"} <= set(options[pond.mnt])
    assert not {"nodev", "nosuid"} & set(options[ground.pond.mnt])
    pond.umount()


@row("xattr")
def _xattr(ground: Ground) -> None:
    path = ground.acl_dir / "file"
    path.touch()
    for name in ("user.a", "trusted.b", "security.c", "user." + "n" * 250):
        os.setxattr(path, name, b"value")
        assert os.getxattr(path, name) == b"value"
    assert set(os.listxattr(path)) >= {"user.a", "trusted.b", "security.c"}
    assert errno_of(os.setxattr, path, "user." + "n" * 251, b"") == "ERANGE"
    os.setxattr(path, "user.a", b"v" * 65536)
    assert errno_of(os.setxattr, path, "user.a", b"v" * 65537) == "E2BIG"
    os.removexattr(path, "user.a")
    assert errno_of(os.getxattr, path, "user.a") == "ENODATA"
    assert errno_of(os.setxattr, path, "other.a", b"") == "EOPNOTSUPP"


@row("ACL")
def _acl(ground: Ground) -> None:
    path, directory = ground.acl_dir / "file", ground.acl_dir / "dir"
    path.write_text("x")
    path.chmod(0o600)
    directory.mkdir()
    run([require("setfacl"), "-m", f"u:{ALICE}:r", path])
    with as_user(ALICE, ground.acl_dir):
        assert Path("file").read_text() == "x"
        assert errno_of(os.open, "file", os.O_WRONLY) == "EACCES"
    path.chmod(0o600)  # the group's bits are the mask: now it is none
    with as_user(ALICE, ground.acl_dir):
        assert errno_of(os.open, "file", os.O_RDONLY) == "EACCES"
    run([require("setfacl"), "-d", "-m", f"u:{ALICE}:rwx", directory])
    (directory / "sub").mkdir()
    said = run([require("getfacl"), "-n", "-c", directory / "sub"]).stdout
    assert f"\nuser:{ALICE}:rwx" in said
    assert f"default:user:{ALICE}:rwx" in said
