"""Names and inodes: hard links, symlinks, unlink, and files without a name."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from tests.mount.place import Place, errno_of, opened, tick


def test_hard_links_share_one_inode(place: Place) -> None:
    """Content, mode and times belong to the inode; the names only lead there."""
    one = place.file("one", b"content")
    place.path("dir").mkdir()
    two = place.path("dir/two")
    os.link(one, two)
    assert one.stat().st_nlink == two.stat().st_nlink == 2
    assert one.stat().st_ino == two.stat().st_ino
    two.write_bytes(b"written through the other")
    two.chmod(0o600)
    assert one.read_bytes() == b"written through the other"
    assert one.stat().st_mode == two.stat().st_mode
    place.remount()
    assert one.stat().st_ino == two.stat().st_ino
    assert one.stat().st_nlink == 2
    assert one.read_bytes() == b"written through the other"


def test_unlink_of_one_link_keeps_the_other(place: Place) -> None:
    """The first name may go; the inode does not belong to it."""
    one = place.file("one", b"content")
    os.link(one, place.path("two"))
    tick(one)
    before = one.stat().st_ctime_ns
    os.unlink(one)
    after = place.path("two").stat()
    assert (after.st_nlink, place.path("two").read_bytes()) == (1, b"content")
    assert after.st_ctime_ns > before
    place.remount()
    assert place.path("two").stat().st_nlink == 1
    assert place.path("two").read_bytes() == b"content"


def test_link_moves_ctime_and_the_directory_times(place: Place) -> None:
    """A new name is a change of the inode and of the directory it appears in."""
    file = place.file("file")
    place.path("dir").mkdir()
    tick(file, place.path("dir"))
    before, dir_before = file.stat(), place.path("dir").stat()
    os.link(file, place.path("dir/link"))
    assert file.stat().st_ctime_ns > before.st_ctime_ns
    assert file.stat().st_mtime_ns == before.st_mtime_ns
    assert place.path("dir").stat().st_mtime_ns > dir_before.st_mtime_ns


def test_link_to_a_symlink_links_the_symlink(place: Place) -> None:
    """link(2) on Linux does not follow: two names for the link itself."""
    place.path("soft").symlink_to("anywhere")
    os.link(place.path("soft"), place.path("hard"), follow_symlinks=False)
    assert os.readlink(place.path("hard")) == "anywhere"
    assert place.path("hard").lstat().st_nlink == 2


def test_many_links(place: Place) -> None:
    """Backup trees made by `cp -l` link a file hundreds of times."""
    file = place.file("file", b"content")
    for number in range(500):
        os.link(file, place.path(f"link{number}"))
    assert file.stat().st_nlink == 501
    place.remount()
    assert file.stat().st_nlink == 501
    for number in range(500):
        os.unlink(place.path(f"link{number}"))
    assert file.stat().st_nlink == 1


def test_directory_link_counts(place: Place) -> None:
    """2 and one for each subdirectory: find(1) and others skip stats by it."""
    top = place.path("top")
    top.mkdir()
    for name in ("a", "b", "c"):
        (top / name).mkdir()
    (top / "file").write_bytes(b"")
    assert top.stat().st_nlink == 5
    (top / "b").rmdir()
    assert top.stat().st_nlink == 4
    place.remount()
    assert top.stat().st_nlink == 4
    assert (top / "a").stat().st_nlink == 2


def test_an_unlinked_open_file_lives_until_it_is_closed(place: Place) -> None:
    """Every temporary file works this way."""
    file = place.file("file", b"before")
    with opened(file, os.O_RDWR) as fd:
        os.unlink(file)
        assert os.listdir(place.dir) == []
        assert os.fstat(fd).st_nlink == 0
        os.pwrite(fd, b"after the name", 0)
        os.fsync(fd)
        assert os.pread(fd, 100, 0) == b"after the name"
        os.ftruncate(fd, 5)
        os.fchmod(fd, 0o600)
        assert os.fstat(fd).st_size == 5
        assert stat.S_IMODE(os.fstat(fd).st_mode) == 0o600
        place.file("file", b"another")
        assert os.pread(fd, 100, 0) == b"after"
    assert place.path("file").read_bytes() == b"another"


def test_a_committed_file_unlinked_while_open_can_still_be_read(place: Place) -> None:
    """Its content is in the store, and the commit of its removal must not take it away."""
    content = os.urandom(300_000)
    file = place.file("file", content)
    place.remount()
    with opened(file, os.O_RDWR) as fd:
        os.unlink(file)
        with opened(place.dir, os.O_RDONLY) as directory:
            os.fsync(directory)
        assert os.pread(fd, len(content), 0) == content
        os.pwrite(fd, b"X", 150_000)
        os.fsync(fd)
        assert (
            os.pread(fd, 3, 149_999) == content[149_999:150_000] + b"X" + content[150_001:150_002]
        )
    place.remount()
    assert os.listdir(place.dir) == []


def test_a_removed_working_directory_is_empty_and_stays_so(place: Place) -> None:
    """Nothing can be made in a directory that has no name."""
    place.path("gone").mkdir()
    with opened(place.path("gone"), os.O_RDONLY | os.O_DIRECTORY) as gone:
        place.path("gone").rmdir()
        assert os.listdir(gone) == []
        assert errno_of(os.mkdir, "sub", dir_fd=gone) == "ENOENT"
        assert errno_of(os.symlink, "x", "link", dir_fd=gone) == "ENOENT"
        assert errno_of(os.link, place.file(), "link", dst_dir_fd=gone) == "ENOENT"
        assert os.fstat(gone).st_nlink == 0


@pytest.mark.parametrize("length", [1, 255, 256, 4000, 4095])
def test_symlink_targets_up_to_a_path_long(place: Place, length: int) -> None:
    """Targets are bytes of any kind; st_size is their length."""
    target = (b"/\xff\xc3" * 1400)[:length]
    os.symlink(target, os.fsencode(place.path("link")))
    info = place.path("link").lstat()
    assert (stat.S_ISLNK(info.st_mode), stat.S_IMODE(info.st_mode)) == (True, 0o777)
    assert info.st_size == length
    assert os.readlink(os.fsencode(place.path("link"))) == target
    place.remount()
    assert os.readlink(os.fsencode(place.path("link"))) == target
    assert place.path("link").lstat().st_size == length


def test_symlinks_are_followed_through_directories(place: Place) -> None:
    """Relative to where the link is, not to who asks."""
    place.path("real/deep").mkdir(parents=True)
    place.path("real/deep/file").write_bytes(b"content")
    place.path("real/deep/up").symlink_to("../sibling")
    place.path("real/sibling").write_bytes(b"sibling")
    place.path("short").symlink_to("real/deep")
    assert place.path("short/file").read_bytes() == b"content"
    assert place.path("short/up").read_bytes() == b"sibling"
    os.unlink(place.path("short"))
    assert place.path("real/deep/file").exists()


def test_a_symlink_has_an_owner_and_times_of_its_own(place: Place) -> None:
    """cp -a and tar restore them with lchown and utimensat."""
    link = place.path("link")
    link.symlink_to("nowhere")
    os.lchown(link, 12, 34)
    os.utime(link, ns=(1_000_000_001, 2_000_000_002), follow_symlinks=False)
    place.remount()
    info = link.lstat()
    assert (info.st_uid, info.st_gid, info.st_mtime_ns) == (12, 34, 2_000_000_002)


REFUSALS = {
    "link-missing": (lambda at: os.link(at / "missing", at / "new"), "ENOENT"),
    "link-over-file": (lambda at: os.link(at / "file", at / "other"), "EEXIST"),
    "link-over-itself": (lambda at: os.link(at / "file", at / "file"), "EEXIST"),
    "link-over-dir": (lambda at: os.link(at / "file", at / "dir"), "EEXIST"),
    "link-a-dir": (lambda at: os.link(at / "dir", at / "new"), "EPERM"),
    "link-long-name": (lambda at: os.link(at / "file", at / ("x" * 256)), "ENAMETOOLONG"),
    "link-other-device": (lambda at: os.link("/proc/version", at / "new"), "EXDEV"),
    "rename-other-device": (lambda at: os.rename("/proc/version", at / "new"), "EXDEV"),
    "symlink-existing": (lambda at: os.symlink("x", at / "file"), "EEXIST"),
    "symlink-empty": (lambda at: os.symlink("", at / "new"), "ENOENT"),
    "symlink-too-long": (lambda at: os.symlink("x" * 4096, at / "new"), "ENAMETOOLONG"),
    "symlink-long-name": (lambda at: os.symlink("x", at / ("x" * 256)), "ENAMETOOLONG"),
    "readlink-file": (lambda at: os.readlink(at / "file"), "EINVAL"),
    "readlink-dir": (lambda at: os.readlink(at / "dir"), "EINVAL"),
    "readlink-missing": (lambda at: os.readlink(at / "missing"), "ENOENT"),
    "unlink-missing": (lambda at: os.unlink(at / "missing"), "ENOENT"),
    "unlink-dir": (lambda at: os.unlink(at / "dir"), "EISDIR"),
    "unlink-below-file": (lambda at: os.unlink(at / "file/child"), "ENOTDIR"),
    "unlink-file-slash": (lambda at: os.unlink(f"{at}/file/"), "ENOTDIR"),
    "rmdir-file": (lambda at: os.rmdir(at / "file"), "ENOTDIR"),
    "rmdir-missing": (lambda at: os.rmdir(at / "missing"), "ENOENT"),
    "rmdir-full": (lambda at: os.rmdir(at / "full"), "ENOTEMPTY"),
    "rmdir-symlink": (lambda at: os.rmdir(at / "dirlink"), "ENOTDIR"),
    "rmdir-dot": (lambda at: os.rmdir(f"{at}/dir/."), "EINVAL"),
    "rmdir-dotdot": (lambda at: os.rmdir(f"{at}/full/sub/.."), "ENOTEMPTY"),
    "mkdir-existing": (lambda at: os.mkdir(at / "dir"), "EEXIST"),
    "mkdir-over-file": (lambda at: os.mkdir(at / "file"), "EEXIST"),
    "mkdir-over-dangling": (lambda at: os.mkdir(at / "dangling"), "EEXIST"),
    "mkdir-below-missing": (lambda at: os.mkdir(at / "missing/new"), "ENOENT"),
    "mkdir-below-file": (lambda at: os.mkdir(at / "file/new"), "ENOTDIR"),
    "mkdir-dot": (lambda at: os.mkdir(f"{at}/dir/."), "EEXIST"),
    "mkdir-long-name": (lambda at: os.mkdir(at / ("x" * 256)), "ENAMETOOLONG"),
    "mknod-existing": (lambda at: os.mkfifo(at / "file"), "EEXIST"),
    "listdir-file": (lambda at: os.listdir(at / "file"), "ENOTDIR"),
    "stat-long-name": (lambda at: os.stat(at / ("x" * 256)), "ENAMETOOLONG"),
    "stat-long-utf8": (lambda at: os.stat(at / ("é" * 128)), "ENAMETOOLONG"),
    "stat-file-slash": (lambda at: os.stat(f"{at}/file/"), "ENOTDIR"),
    "truncate-dir": (lambda at: os.truncate(at / "dir", 0), "EISDIR"),
    "truncate-missing": (lambda at: os.truncate(at / "missing", 0), "ENOENT"),
    "chmod-missing": (lambda at: os.chmod(at / "missing", 0), "ENOENT"),
    "chmod-dangling": (lambda at: os.chmod(at / "dangling", 0), "ENOENT"),
    "utime-missing": (lambda at: os.utime(at / "missing"), "ENOENT"),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_refusals_have_the_errno_of_the_kernels_own_filesystems(place: Place, name: str) -> None:
    """Each call is wrong in one way, and fails in the one way POSIX names for it."""
    call, expected = REFUSALS[name]
    place.file("file", b"content")
    place.file("other")
    place.path("dir").mkdir()
    place.path("full/sub").mkdir(parents=True)
    place.path("dangling").symlink_to("nowhere")
    place.path("dirlink").symlink_to("dir")
    names = sorted(os.listdir(place.dir))
    assert errno_of(call, place.dir) == expected
    assert sorted(os.listdir(place.dir)) == names
    assert Path(place.path("file")).read_bytes() == b"content"
