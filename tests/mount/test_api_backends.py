"""The two trees the Python API can write to do the same: a mount, and a store without one."""

import errno
import os
import re
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pondfs.api.backend import Backend
from pondfs.api.mounted import MountedBackend
from pondfs.api.unmounted import UnmountedBackend
from pondfs.errors import NotAPond
from pondfs.store import create
from tests.conftest import MakePond
from tests.mount.harness import PondMount

RW = os.O_RDWR | os.O_CREAT
ODD = b"n\xff\xfem\n \t'\"\\*"


@pytest.fixture(params=["mounted", "unmounted"])
def backend(request: pytest.FixtureRequest, make_pond: MakePond) -> Iterator[Backend]:
    """Return a tree of a new pond."""
    pond = make_pond()
    made: Backend
    if request.param == "mounted":
        pond.mount("xattr,acl")
        made = MountedBackend(pond.mnt)
    else:
        create(pond.store)
        made = UnmountedBackend(pond.store)
    try:
        yield made
    finally:
        made.close()


@pytest.fixture
def umask() -> Iterator[Callable[[int], object]]:
    """Return what sets the umask; it is put back."""
    before = os.umask(0o022)
    yield os.umask
    os.umask(before)


def put(backend: Backend, path: bytes, data: bytes = b"") -> None:
    """Make a file."""
    handle = backend.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    handle.pwrite(data, 0)
    handle.close()


def get(backend: Backend, path: bytes) -> bytes:
    """Return a file's bytes."""
    handle = backend.open(path, os.O_RDONLY)
    try:
        return handle.pread(1 << 30, 0)
    finally:
        handle.close()


def refuses(number: int, path: str, call: Callable[[], object]) -> OSError:
    """Check that *call* fails as it should, and names the path."""
    with pytest.raises(OSError, match=re.escape(repr(path))) as caught:
        call()
    assert (caught.value.errno, caught.value.filename) == (number, path), caught.value
    return caught.value


def test_bytes_of_a_file(backend: Backend) -> None:
    """Reads, writes, holes, truncation and the figures that go with them."""
    handle = backend.open(b"file", RW)
    assert handle.pwrite(b"hello", 0) == 5
    assert handle.pwrite(bytearray(b"world"), 10) == 5
    assert handle.pwrite(memoryview(b"xx!x")[2:3], 15) == 1
    assert handle.pread(100, 0) == b"hello" + bytes(5) + b"world!"
    assert handle.pread(4, 12) == b"rld!"
    assert handle.pread(4, 16) == b"" == handle.pread(4, 1000)
    assert handle.fstat().size_bytes == 16 == backend.lstat(b"file").size_bytes
    handle.truncate(3)
    handle.truncate(6)
    assert handle.pread(100, 0) == b"hel" + bytes(3)
    handle.close()
    handle.close()
    assert get(backend, b"file") == b"hel" + bytes(3)


def test_a_large_write_is_whole(backend: Backend) -> None:
    """Many times what one request carries, at an odd offset."""
    data = os.urandom(1 << 20) * 5 + b"end"
    handle = backend.open(b"large", RW)
    assert handle.pwrite(data, 7) == len(data)
    assert handle.pread(len(data) + 100, 0) == bytes(7) + data
    handle.close()


def test_times_move_with_what_is_done(backend: Backend) -> None:
    """A write and a truncate set mtime and ctime; a chmod ctime alone."""
    put(backend, b"f", b"1")
    changes: list[Callable[[], object]] = [
        lambda: put(backend, b"f", b"2"),
        lambda: backend.open(b"f", os.O_WRONLY | os.O_TRUNC).close(),
    ]
    for change in changes:
        backend.utime(b"f", 1, 2)
        before = backend.lstat(b"f")
        assert (before.atime_ns, before.mtime_ns) == (1, 2)
        time.sleep(0.01)
        change()
        after = backend.lstat(b"f")
        assert after.mtime_ns > before.mtime_ns
        assert after.ctime_ns > before.ctime_ns
    time.sleep(0.01)
    backend.chmod(b"f", 0o600)
    assert backend.lstat(b"f").mtime_ns == after.mtime_ns
    assert backend.lstat(b"f").ctime_ns > after.ctime_ns


def test_flags_of_open(backend: Backend) -> None:
    """O_EXCL, O_TRUNC, O_APPEND, O_NOFOLLOW and the access mode count."""
    put(backend, b"f", b"12345")
    refuses(errno.EEXIST, "/f", lambda: backend.open(b"f", RW | os.O_EXCL))
    refuses(errno.ENOENT, "/none", lambda: backend.open(b"none", os.O_RDWR))
    handle = backend.open(b"f", os.O_WRONLY | os.O_APPEND)
    handle.pwrite(b"67", 0)
    refuses(errno.EBADF, "/f", lambda: handle.pread(1, 0))
    handle.close()
    assert get(backend, b"f") == b"1234567"
    handle = backend.open(b"f", os.O_RDONLY)
    refuses(errno.EBADF, "/f", lambda: handle.pwrite(b"x", 0))
    refuses(errno.EINVAL, "/f", lambda: handle.truncate(0))
    handle.close()
    backend.open(b"f", os.O_WRONLY | os.O_TRUNC).close()
    assert get(backend, b"f") == b""
    backend.symlink(b"f", b"link")
    refuses(errno.ELOOP, "/link", lambda: backend.open(b"link", os.O_RDONLY | os.O_NOFOLLOW))
    refuses(errno.EEXIST, "/link", lambda: backend.open(b"link", RW | os.O_EXCL))
    backend.mkdir(b"d")
    refuses(errno.EISDIR, "/d", lambda: backend.open(b"d", os.O_RDONLY))
    refuses(errno.EISDIR, "/", lambda: backend.open(b"", os.O_RDONLY))
    backend.mknod(b"pipe", stat.S_IFIFO | 0o600)
    refuses(errno.EINVAL, "/pipe", lambda: backend.open(b"pipe", os.O_RDONLY))
    refuses(errno.ENOTDIR, "/f", lambda: backend.open(b"f", os.O_RDONLY | os.O_DIRECTORY))


def test_an_open_file_outlives_its_name(backend: Backend) -> None:
    """Bytes stay readable and writable until the last handle is closed."""
    put(backend, b"f", b"abc")
    handle = backend.open(b"f", os.O_RDWR)
    backend.unlink(b"f")
    handle.pwrite(b"d", 3)
    assert handle.pread(10, 0) == b"abcd"
    assert handle.fstat().nlink == 0
    handle.close()
    assert backend.listdir(b"") == []


def test_modes_and_the_umask(backend: Backend, umask: Callable[[int], object]) -> None:
    """As the system makes new nodes: less the umask, owned by us, with the directory's group."""
    umask(0o027)
    backend.open(b"f", RW, 0o7777).close()
    backend.mkdir(b"d", 0o7777)
    backend.mknod(b"p", stat.S_IFIFO | 0o666)
    backend.mknod(b"empty", 0o644)
    found = {name: backend.lstat(name) for name in backend.listdir(b"")}
    assert stat.S_IMODE(found[b"f"].mode) == 0o7750
    assert stat.S_IMODE(found[b"d"].mode) == 0o1750
    assert found[b"p"].mode == stat.S_IFIFO | 0o640
    assert found[b"empty"].mode == stat.S_IFREG | 0o640
    assert {(s.uid, s.gid) for s in found.values()} == {(os.geteuid(), os.getegid())}
    backend.chown(b"d", -1, 1234)
    backend.chmod(b"d", 0o2777)
    backend.mkdir(b"d/below")
    put(backend, b"d/file")
    assert backend.lstat(b"d/below").gid == backend.lstat(b"d/file").gid == 1234
    assert backend.lstat(b"d/below").mode == stat.S_IFDIR | 0o2750


def test_chown_and_chmod(backend: Backend) -> None:
    """-1 leaves one alone; what is no directory loses its suid bits; symlinks have an owner."""
    put(backend, b"f")
    backend.chmod(b"f", 0o6755)
    backend.chown(b"f", 5, -1)
    info = backend.lstat(b"f")
    assert (info.uid, info.gid, stat.S_IMODE(info.mode)) == (5, os.getegid(), 0o755)
    backend.chown(b"f", -1, 6)
    assert (backend.lstat(b"f").uid, backend.lstat(b"f").gid) == (5, 6)
    backend.symlink(b"f", b"l")
    backend.chown(b"l", 7, 8)
    backend.utime(b"l", 10, -20)
    info = backend.lstat(b"l")
    assert (info.uid, info.gid, info.atime_ns, info.mtime_ns) == (7, 8, 10, -20)
    assert backend.lstat(b"f").uid == 5
    refuses(errno.EOPNOTSUPP, "/l", lambda: backend.chmod(b"l", 0o600))
    backend.chmod(b"", 0o700)
    backend.chown(b"", 3, 4)
    backend.utime(b"", 5, 6)
    info = backend.lstat(b"")
    assert (stat.S_IMODE(info.mode), info.uid, info.gid, info.mtime_ns) == (0o700, 3, 4, 6)


def test_special_files(backend: Backend) -> None:
    """Devices keep their number, sockets their type."""
    backend.mknod(b"null", stat.S_IFCHR | 0o600, os.makedev(1, 3))
    backend.mknod(b"disk", stat.S_IFBLK | 0o600, os.makedev(259, 70000))
    backend.mknod(b"sock", stat.S_IFSOCK | 0o600)
    assert backend.lstat(b"null").rdev == os.makedev(1, 3)
    assert backend.lstat(b"disk").rdev == os.makedev(259, 70000)
    assert stat.S_ISSOCK(backend.lstat(b"sock").mode)
    refuses(errno.EPERM, "/dir", lambda: backend.mknod(b"dir", stat.S_IFDIR | 0o700))
    refuses(errno.EEXIST, "/null", lambda: backend.mknod(b"null", stat.S_IFIFO))


def test_names(backend: Backend) -> None:
    """Making, listing, linking, removing, moving."""
    backend.mkdir(b"a")
    put(backend, b"a/" + ODD, b"odd")
    put(backend, b"a/b")
    assert backend.listdir(b"a") == sorted([ODD, b"b"])
    assert get(backend, b"a/" + ODD) == b"odd"
    backend.link(b"a/" + ODD, b"again")
    assert backend.lstat(b"again").ino == backend.lstat(b"a/" + ODD).ino
    assert backend.lstat(b"again").nlink == 2
    backend.symlink(b"nowhere", b"l")
    backend.link(b"l", b"l2")
    assert backend.readlink(b"l2") == b"nowhere" == backend.readlink(b"l")
    ino = backend.lstat(b"a").ino
    backend.rename(b"a", b"moved")
    assert backend.lstat(b"moved").ino == ino
    backend.unlink(b"moved/" + ODD)
    assert backend.lstat(b"again").nlink == 1
    backend.unlink(b"moved/b")
    backend.rmdir(b"moved")
    assert backend.listdir(b"") == [b"again", b"l", b"l2"]
    assert (backend.lstat(b"").nlink, backend.lstat(b"/./").ino) == (2, 1)


def test_renames(backend: Backend) -> None:
    """Over what is there, unless that is not wanted."""
    put(backend, b"a", b"a")
    put(backend, b"b", b"b")
    error = refuses(errno.EEXIST, "/a", lambda: backend.rename(b"a", b"b", replace=False))
    assert error.filename2 == "/b"
    backend.rename(b"a", b"c", replace=False)
    backend.rename(b"c", b"b")
    assert backend.listdir(b"") == [b"b"]
    assert get(backend, b"b") == b"a"
    backend.mkdir(b"d")
    backend.mkdir(b"d/e")
    refuses(errno.EINVAL, "/d", lambda: backend.rename(b"d", b"d/e/f"))
    refuses(errno.ENOTEMPTY, "/d/e", lambda: backend.rename(b"d/e", b"d"))
    refuses(errno.EISDIR, "/b", lambda: backend.rename(b"b", b"d"))
    refuses(errno.ENOTDIR, "/d", lambda: backend.rename(b"d", b"b"))
    refuses(errno.ENOENT, "/none", lambda: backend.rename(b"none", b"b"))
    refuses(errno.EBUSY, "/", lambda: backend.rename(b"", b"x"))
    refuses(errno.EBUSY, "/b", lambda: backend.rename(b"b", b"d/.."))


ERRORS: list[tuple[int, str, Callable[[Backend], object]]] = [
        (errno.ENOENT, "/x", lambda b: b.lstat(b"x")),
        (errno.ENOENT, "/x/y", lambda b: b.lstat(b"x/y")),
        (errno.ENOTDIR, "/f/y", lambda b: b.lstat(b"f/y")),
        (errno.ENOTDIR, "/f/..", lambda b: b.lstat(b"f/..")),
        (errno.ENOTDIR, "/f", lambda b: b.listdir(b"f")),
        (errno.ENOTDIR, "/l", lambda b: b.listdir(b"l")),
        (errno.EINVAL, "/f", lambda b: b.readlink(b"f")),
        (errno.EEXIST, "/f", lambda b: b.mkdir(b"f")),
        (errno.EEXIST, "/l", lambda b: b.mkdir(b"l")),
        (errno.EEXIST, "/", lambda b: b.mkdir(b"")),
        (errno.EEXIST, "/d/..", lambda b: b.mkdir(b"d/..")),
        (errno.ENOENT, "/x/y", lambda b: b.mkdir(b"x/y")),
        (errno.EISDIR, "/d", lambda b: b.unlink(b"d")),
        (errno.EBUSY, "/", lambda b: b.rmdir(b"")),
        (errno.EBUSY, "/d/..", lambda b: b.rmdir(b"d/..")),
        (errno.ENOTDIR, "/f", lambda b: b.rmdir(b"f")),
        (errno.ENOTDIR, "/l", lambda b: b.rmdir(b"l")),
        (errno.ENOTEMPTY, "/d", lambda b: b.rmdir(b"d")),
        (errno.ENOENT, "/x", lambda b: b.unlink(b"x")),
        (errno.EEXIST, "/f", lambda b: b.symlink(b"a", b"f")),
        (errno.ENOENT, "/s", lambda b: b.symlink(b"", b"s")),
        (errno.EPERM, "/d", lambda b: b.link(b"d", b"d2")),
        (errno.EEXIST, "/f", lambda b: b.link(b"f", b"l")),
        (errno.ENAMETOOLONG, "/" + "n" * 256, lambda b: b.mkdir(b"n" * 256)),
        (errno.ENAMETOOLONG, "/" + "n" * 256, lambda b: b.lstat(b"n" * 256)),
        (errno.EINVAL, "/a\0b", lambda b: b.mkdir(b"a\0b")),
        (errno.ELOOP, "/loop/x", lambda b: b.lstat(b"loop/x")),
        (errno.ELOOP, "/loop", lambda b: b.open(b"loop", os.O_RDONLY)),
        (errno.ENODATA, "/f", lambda b: b.removexattr(b"f", b"user.none")),
        (errno.EOPNOTSUPP, "/f", lambda b: b.setxattr(b"f", b"bad.name", b"")),
        (errno.EPERM, "/l", lambda b: b.setxattr(b"l", b"user.a", b"")),
        (errno.EEXIST, "/.pond", lambda b: b.mkdir(b".pond")),
        (errno.ENOENT, "/.pond", lambda b: b.lstat(b".pond")),
        (errno.ENOENT, "/.pond", lambda b: b.listdir(b".pond")),
        (errno.ENOENT, "/.pond/tags/t", lambda b: b.mkdir(b".pond/tags/t")),
        (errno.EBUSY, "/.pond", lambda b: b.rmdir(b".pond")),
        (errno.EBUSY, "/f", lambda b: b.rename(b"f", b".pond")),
        (errno.EBUSY, "/.pond", lambda b: b.rename(b".pond", b"g")),
        (errno.EISDIR, "/.pond", lambda b: b.open(b".pond", RW)),
        (errno.ENOENT, "/.pond/new", lambda b: b.open(b".pond/new", RW)),
    ]  # fmt: skip


def test_errors(backend: Backend) -> None:
    """Each with its errno, and the path as it was given."""
    put(backend, b"f")
    backend.mkdir(b"d")
    backend.mkdir(b"d/below")
    backend.symlink(b"d", b"l")
    backend.symlink(b"loop", b"loop")
    wrong: list[tuple[str, str, OSError | None]] = []
    for number, path, call in ERRORS:
        try:
            call(backend)
            wrong.append((errno.errorcode[number], path, None))
        except OSError as error:
            if (error.errno, error.filename) != (number, path):
                wrong.append((errno.errorcode[number], path, error))
    assert wrong == []
    assert backend.listdir(b"") == [b"d", b"f", b"l", b"loop"]


def test_symlinks_stay_inside(backend: Backend, tmp_path: Path) -> None:
    """They lead through the pond; ``..`` of the root is the root; what leads out is refused."""
    (tmp_path / "outside").write_text("secret")
    backend.mkdir(b"a")
    backend.mkdir(b"a/b")
    put(backend, b"a/f", b"inside")
    backend.symlink(b"../../../../a", b"a/b/up")
    backend.symlink(b"b/up/f", b"a/two")
    assert get(backend, b"a/b/up/b/up/f") == b"inside" == get(backend, b"a/two")
    assert get(backend, b"../../a/b/../f") == b"inside"
    assert stat.S_ISLNK(backend.lstat(b"a/two").mode)
    backend.symlink(b"new", b"a/dangling")
    put(backend, b"a/dangling", b"made")
    assert get(backend, b"a/new") == b"made"
    assert stat.S_ISLNK(backend.lstat(b"a/dangling").mode)
    for target in (bytes(tmp_path), b"/", b"/etc"):
        backend.symlink(target, b"out")
        assert backend.readlink(b"out") == target
        error = refuses(errno.EXDEV, "/out/outside", lambda: backend.lstat(b"out/outside"))
        assert os.fsdecode(target) in str(error)
        refuses(errno.EXDEV, "/out/new", lambda: put(backend, b"out/new"))
        refuses(errno.EXDEV, "/out", lambda: put(backend, b"out"))
        backend.unlink(b"out")
    assert (tmp_path / "outside").read_text() == "secret"
    assert not (tmp_path / "new").exists()


def test_extended_attributes(backend: Backend) -> None:
    """Set, listed, removed; on symlinks as the system has it."""
    put(backend, b"f")
    assert backend.xattrs(b"f") == {}
    backend.setxattr(b"f", b"user.a", b"\0\xff")
    backend.setxattr(b"f", b"user.b", b"")
    backend.setxattr(b"", b"user.root", b"r")
    assert backend.xattrs(b"f") == {b"user.a": b"\0\xff", b"user.b": b""}
    assert backend.xattrs(b"") == {b"user.root": b"r"}
    backend.removexattr(b"f", b"user.a")
    assert backend.xattrs(b"f") == {b"user.b": b""}
    backend.symlink(b"f", b"l")
    backend.setxattr(b"l", b"trusted.t", b"1")
    assert backend.xattrs(b"l") == {b"trusted.t": b"1"}
    assert backend.xattrs(b"f") == {b"user.b": b""}


def test_many_directories(backend: Backend) -> None:
    """More than are kept at hand, each still right when it comes back."""
    for number in range(600):
        backend.mkdir(b"d%d" % number)
        put(backend, b"d%d/f" % number, b"%d" % number)
    for number in range(0, 600, 7):
        backend.unlink(b"d%d/f" % number)
        backend.rmdir(b"d%d" % number)
    assert len(backend.listdir(b"")) == 600 - len(range(0, 600, 7))
    assert get(backend, b"d599/f") == b"599"


def test_commit_and_fsync_make_versions(backend: Backend) -> None:
    """One version each; None when there is nothing."""
    assert backend.commit() is None
    put(backend, b"f", b"1")
    assert backend.commit("first") == 2
    assert backend.commit() is None
    handle = backend.open(b"f", os.O_RDWR)
    handle.pwrite(b"22", 0)
    handle.fsync()
    handle.close()
    put(backend, b"g")
    assert backend.commit() in (4, 5)


def test_both_see_the_same(make_pond: MakePond) -> None:
    """What one wrote the other reads, bit by bit; close commits with its message."""
    pond = make_pond()
    create(pond.store)
    first = UnmountedBackend(pond.store, message="by close")
    first.mkdir(b"d")
    put(first, b"d/" + ODD, b"data")
    first.setxattr(b"d/" + ODD, b"user.x", b"y")
    first.utime(b"d/" + ODD, 1, 2)
    expected = first.lstat(b"d/" + ODD)
    first.close()
    first.close()
    pond.mount("xattr")
    assert pond.log()[0]["message"] == "by close"
    second = MountedBackend(pond.mnt)
    found = second.lstat(b"d/" + ODD)
    assert found.ino == expected.ino
    assert found.mtime_ns == 2
    assert found.size_bytes == 4
    assert second.xattrs(b"d/" + ODD) == {b"user.x": b"y"}
    assert get(second, b"d/" + ODD) == b"data"
    second.close()


def test_a_mount_is_not_left(pond: PondMount, tmp_path: Path) -> None:
    """Absolute symlinks into the mount are followed; what is mounted further in is another pond."""
    backend = MountedBackend(pond.mnt)
    backend.mkdir(b"d")
    put(backend, b"d/f", b"here")
    os.symlink(pond.mnt / "d", pond.mnt / "abs")
    assert get(backend, b"abs/f") == b"here"
    backend.close()
    with pytest.raises(OSError, match="the pond is closed"):
        backend.lstat(b"")
    with pytest.raises(NotAPond, match="no pond is mounted"):
        MountedBackend(tmp_path)
