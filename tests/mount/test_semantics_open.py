"""open(2): what each flag promises."""

from __future__ import annotations

import mmap
import os
from pathlib import Path

import pytest

from tests.mount.place import ALICE, Place, as_user, errno_of, opened, tick


def open_and_close(path: str | Path, flags: int) -> None:
    """Open for the outcome alone."""
    os.close(os.open(path, flags, 0o644))


def test_create_excl_makes_a_file_once(place: Place) -> None:
    """O_EXCL is how lock files work: only one caller may win."""
    lock = place.path("lock")
    with opened(lock, os.O_CREAT | os.O_EXCL | os.O_WRONLY):
        assert errno_of(open_and_close, lock, os.O_CREAT | os.O_EXCL) == "EEXIST"


def test_create_excl_does_not_follow_a_dangling_symlink(place: Place) -> None:
    """POSIX: with O_EXCL a symlink is an existing name, wherever it leads."""
    place.path("link").symlink_to("nowhere")
    assert errno_of(open_and_close, place.path("link"), os.O_CREAT | os.O_EXCL) == "EEXIST"
    assert not place.path("nowhere").exists()


def test_create_follows_a_dangling_symlink(place: Place) -> None:
    """Without O_EXCL the file the link names is made."""
    place.path("link").symlink_to("target")
    place.path("link").write_bytes(b"through")
    assert place.path("target").read_bytes() == b"through"


def test_create_applies_the_umask(place: Place) -> None:
    """The mode asked for, less the caller's umask."""
    os.umask(0o027)
    os.close(os.open(place.path("file"), os.O_CREAT | os.O_WRONLY, 0o666))
    os.mkdir(place.path("dir"), 0o777)
    assert place.path("file").stat().st_mode & 0o7777 == 0o640
    assert place.path("dir").stat().st_mode & 0o7777 == 0o750


def test_create_without_write_permission_still_gives_a_writable_descriptor(place: Place) -> None:
    """Git makes its objects 0444 and writes through the descriptor create gave it."""
    with as_user(0, place.dir), opened("object", os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o444) as fd:
        assert os.write(fd, b"content") == 7
    assert place.path("object").stat().st_mode & 0o777 == 0o444
    place.dir.chmod(0o777)
    with as_user(ALICE, place.dir):
        with opened("theirs", os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o400) as fd:
            os.write(fd, b"x")
        assert errno_of(open_and_close, "theirs", os.O_WRONLY) == "EACCES"


def test_trunc_empties_the_file_and_moves_its_times(place: Place) -> None:
    """`> file` must show in mtime, even for a file that was empty already on ext4."""
    file = place.file(content=b"something")
    tick(file)
    before = file.stat()
    os.close(os.open(file, os.O_WRONLY | os.O_TRUNC))
    after = file.stat()
    assert after.st_size == 0
    assert after.st_mtime_ns > before.st_mtime_ns
    assert after.st_ctime_ns > before.st_ctime_ns
    assert file.read_bytes() == b""


def test_trunc_then_write_leaves_nothing_of_the_old_content(place: Place) -> None:
    """The old bytes must not come back in the hole; they would if truncation only set a size."""
    file = place.file(content=b"old" * 1000)
    with opened(file, os.O_WRONLY | os.O_TRUNC) as fd:
        os.pwrite(fd, b"new", 50)
    place.remount()
    assert file.read_bytes() == bytes(50) + b"new"


def test_append_writes_at_the_end_whoever_moved_it(place: Place) -> None:
    """Two appenders to one log file never overwrite each other."""
    file = place.file(content=b"0")
    flags = os.O_WRONLY | os.O_APPEND
    with opened(file, flags) as one, opened(file, flags) as two:
        os.write(one, b"1")
        os.write(two, b"2")
        os.lseek(one, 0, os.SEEK_SET)
        os.write(one, b"3")
        assert os.lseek(one, 0, os.SEEK_CUR) == 4
    assert file.read_bytes() == b"0123"


def test_append_with_pwrite_appends_as_linux_does(place: Place) -> None:
    """pwrite(2), BUGS: on Linux, O_APPEND wins over the offset."""
    file = place.file(content=b"abc")
    with opened(file, os.O_WRONLY | os.O_APPEND) as fd:
        os.pwrite(fd, b"d", 0)
    assert file.read_bytes() == b"abcd"


def test_append_after_truncate_starts_at_the_new_end(place: Place) -> None:
    """A log rotated by copy-and-truncate goes on at its start."""
    file = place.file(content=b"x" * 100)
    with opened(file, os.O_WRONLY | os.O_APPEND) as fd:
        os.truncate(file, 0)
        os.write(fd, b"fresh")
    assert file.read_bytes() == b"fresh"


@pytest.mark.parametrize(
    ("flags", "read", "write"),
    [(os.O_RDONLY, "OK", "EBADF"), (os.O_WRONLY, "EBADF", "OK"), (os.O_RDWR, "OK", "OK")],
)
def test_access_mode_limits_the_descriptor(place: Place, flags: int, read: str, write: str) -> None:
    """A descriptor does only what it was opened for, whatever the file's mode allows."""
    with opened(place.file(content=b"content"), flags) as fd:
        assert errno_of(os.read, fd, 1) == read
        assert errno_of(os.write, fd, b"x") == write


@pytest.mark.parametrize(
    ("name", "flags", "expected"),
    [
        ("dir", os.O_RDONLY, "OK"),
        ("dir", os.O_WRONLY, "EISDIR"),
        ("dir", os.O_RDWR, "EISDIR"),
        ("dir", os.O_RDONLY | os.O_CREAT, "EISDIR"),
        ("dir", os.O_RDONLY | os.O_TRUNC, "EISDIR"),
        ("file", os.O_RDONLY | os.O_DIRECTORY, "ENOTDIR"),
        ("file/", os.O_RDONLY, "ENOTDIR"),
        ("file/child", os.O_RDONLY, "ENOTDIR"),
        ("file/child", os.O_RDONLY | os.O_CREAT, "ENOTDIR"),
        ("new/", os.O_WRONLY | os.O_CREAT, "EISDIR"),
        ("missing", os.O_RDONLY, "ENOENT"),
        ("missing/child", os.O_WRONLY | os.O_CREAT, "ENOENT"),
        ("link", os.O_RDONLY | os.O_NOFOLLOW, "ELOOP"),
        ("link", os.O_RDONLY, "OK"),
        ("loop", os.O_RDONLY, "ELOOP"),
        ("dangling", os.O_RDONLY, "ENOENT"),
        ("link", os.O_PATH | os.O_NOFOLLOW, "OK"),
        ("", os.O_RDONLY, "OK"),
    ],
)
def test_open_refuses_as_the_kernel_does(
    place: Place, name: str, flags: int, expected: str
) -> None:
    """Programs decide by errno: a wrong one turns a retry into a failure."""
    place.file("file", b"content")
    place.path("dir").mkdir()
    place.path("link").symlink_to("file")
    place.path("loop").symlink_to("loop")
    place.path("dangling").symlink_to("nowhere")
    outcome = errno_of(open_and_close, f"{place.dir}/{name}", flags)
    assert outcome == expected


def test_open_checks_the_mode_for_other_users(place: Place) -> None:
    """Permissions are real: what root keeps to itself, others can't read."""
    place.dir.chmod(0o755)
    place.file("private", b"secret", mode=0o600)
    place.file("readable", b"public", mode=0o644)
    closed = place.path("closed")
    closed.mkdir(0o700)
    (closed / "inner").write_bytes(b"")
    listable = place.path("listable")
    listable.mkdir()
    listable.chmod(0o744)
    (listable / "inner").write_bytes(b"")
    with as_user(ALICE, place.dir):
        assert errno_of(open_and_close, "private", os.O_RDONLY) == "EACCES"
        assert errno_of(open_and_close, "readable", os.O_RDONLY) == "OK"
        assert errno_of(open_and_close, "readable", os.O_WRONLY) == "EACCES"
        assert errno_of(open_and_close, "readable", os.O_RDONLY | os.O_TRUNC) == "EACCES"
        assert errno_of(os.stat, "closed/inner") == "EACCES"
        assert errno_of(os.listdir, "closed") == "EACCES"
        assert os.listdir("listable") == ["inner"]
        assert errno_of(os.stat, "listable/inner") == "EACCES"
        assert errno_of(open_and_close, "new", os.O_CREAT | os.O_WRONLY) == "EACCES"
        assert not os.access("private", os.R_OK, effective_ids=True)
        assert os.access("readable", os.R_OK, effective_ids=True)
    assert place.path("readable").read_bytes() == b"public"


@pytest.mark.parametrize("flag", [os.O_SYNC, os.O_DSYNC])
def test_sync_writes_are_readable_at_once(place: Place, flag: int) -> None:
    """What O_SYNC promises after a crash is tested by the crash tests; here, that it works."""
    file = place.path("file")
    with opened(file, os.O_CREAT | os.O_WRONLY | flag) as fd:
        for number in range(3):
            os.write(fd, bytes([number]) * 1000)
            assert file.stat().st_size == (number + 1) * 1000
    assert file.read_bytes() == b"".join(bytes([number]) * 1000 for number in range(3))


def test_direct_reads_and_writes_agree_with_cached_ones(place: Place) -> None:
    """Databases open with O_DIRECT, with buffers aligned as they like; both views are one file."""
    file = place.path("file")
    block = mmap.mmap(-1, 8192)
    block.write(b"D" * 8192)
    with opened(file, os.O_CREAT | os.O_RDWR | os.O_DIRECT) as fd:
        assert os.pwrite(fd, block, 0) == 8192
        with opened(file, os.O_RDWR) as cached:
            assert os.pread(cached, 8192, 0) == b"D" * 8192
            os.pwrite(cached, b"cached", 4096)
        assert os.preadv(fd, [block], 0) == 8192
        assert block[4096:4102] == b"cached"
    place.remount()
    assert file.read_bytes() == b"D" * 4096 + b"cached" + b"D" * 4090


def test_tmpfile_works_or_is_refused_cleanly(place: Place) -> None:
    """O_TMPFILE needs a FUSE handler; programs fall back on EOPNOTSUPP and nothing else."""
    outcome = errno_of(open_and_close, place.dir, os.O_TMPFILE | os.O_RDWR)
    assert outcome in ("OK", "EOPNOTSUPP", "ENOTSUP")
    assert os.listdir(place.dir) == []


def test_many_descriptors_of_one_file_see_one_content(place: Place) -> None:
    """Handles are views, not copies."""
    file = place.file(content=b"start")
    fds = [os.open(file, os.O_RDWR) for _ in range(100)]
    try:
        os.pwrite(fds[0], b"Written", 0)
        assert {os.pread(fd, 100, 0) for fd in fds} == {b"Written"}
        os.ftruncate(fds[50], 3)
        assert {os.fstat(fd).st_size for fd in fds} == {3}
    finally:
        for fd in fds:
            os.close(fd)


def test_descriptor_outlives_the_name_of_its_directory(place: Place) -> None:
    """A working directory that is renamed stays where the process is."""
    place.path("old").mkdir()
    with opened(place.path("old"), os.O_RDONLY | os.O_DIRECTORY) as at:
        os.rename(place.path("old"), place.path("new"))
        os.close(os.open("file", os.O_CREAT | os.O_WRONLY, dir_fd=at))
    assert [path.name for path in Path(place.path("new")).iterdir()] == ["file"]
