"""rename(2) and renameat2(2): the operation every atomic save rests on."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.mount import syscalls
from tests.mount.place import ALICE, BOB, Place, as_user, errno_of, opened, tick


def test_rename_moves_the_name_and_keeps_the_inode(place: Place) -> None:
    """Same inode, same content, only the name is another."""
    file = place.file("old", b"content")
    number = file.stat().st_ino
    os.rename(file, place.path("new"))
    assert os.listdir(place.dir) == ["new"]
    assert place.path("new").stat().st_ino == number
    place.remount()
    assert place.path("new").stat().st_ino == number
    assert place.path("new").read_bytes() == b"content"
    assert errno_of(os.stat, file) == "ENOENT"


def test_rename_over_a_file_replaces_it(place: Place) -> None:
    """The target is never missing and never half: it is the old inode, then the new one."""
    new, target = place.file("new", b"new"), place.file("target", b"old")
    os.rename(new, target)
    assert target.read_bytes() == b"new"
    assert os.listdir(place.dir) == ["target"]


def test_rename_over_an_open_file_leaves_its_readers_the_old_one(place: Place) -> None:
    """A running program keeps the library it mapped when the package is upgraded."""
    new, target = place.file("new", b"new"), place.file("target", b"old")
    with opened(target, os.O_RDWR) as fd:
        os.rename(new, target)
        assert os.pread(fd, 10, 0) == b"old"
        assert os.fstat(fd).st_nlink == 0
        os.pwrite(fd, b"still writable", 0)
        assert os.pread(fd, 20, 0) == b"still writable"
        assert target.read_bytes() == b"new"


def test_rename_over_one_of_two_links_lowers_the_count(place: Place) -> None:
    """The replaced inode lives on under its other name."""
    target = place.file("target", b"old")
    os.link(target, place.path("other"))
    os.rename(place.file("new", b"new"), target)
    assert place.path("other").stat().st_nlink == 1
    assert place.path("other").read_bytes() == b"old"


def test_rename_between_two_links_of_one_inode_does_nothing(place: Place) -> None:
    """POSIX: if both names are the same file, nothing is done, and both names stay."""
    one = place.file("one", b"content")
    os.link(one, place.path("two"))
    os.rename(one, place.path("two"))
    assert sorted(os.listdir(place.dir)) == ["one", "two"]
    assert one.stat().st_nlink == 2


def test_rename_to_itself_does_nothing(place: Place) -> None:
    """Neither an error nor a change."""
    file = place.file("file", b"content")
    os.rename(file, file)
    assert file.read_bytes() == b"content"


def test_rename_of_a_directory_moves_its_tree_and_link_counts(place: Place) -> None:
    """A directory's parent counts it; moving it moves that link."""
    source, target = place.path("source"), place.path("target")
    (source / "dir" / "sub").mkdir(parents=True)
    (source / "dir" / "sub" / "file").write_bytes(b"deep")
    target.mkdir()
    assert (source.stat().st_nlink, target.stat().st_nlink) == (3, 2)
    os.rename(source / "dir", target / "moved")
    assert (source.stat().st_nlink, target.stat().st_nlink) == (2, 3)
    assert (target / "moved").stat().st_nlink == 3
    assert (target / "moved" / "sub" / "file").read_bytes() == b"deep"
    assert os.stat(target / "moved" / "..").st_ino == target.stat().st_ino
    place.remount()
    assert (source.stat().st_nlink, target.stat().st_nlink) == (2, 3)
    assert os.stat(target / "moved" / "..").st_ino == target.stat().st_ino
    assert (target / "moved" / "sub" / "file").read_bytes() == b"deep"


def test_rename_over_an_empty_directory_replaces_it(place: Place) -> None:
    """The one case in which a directory may be replaced."""
    source, target = place.path("source"), place.path("target")
    source.mkdir()
    (source / "file").write_bytes(b"content")
    target.mkdir()
    links = place.dir.stat().st_nlink
    with opened(target, os.O_RDONLY | os.O_DIRECTORY) as gone:
        os.rename(source, target)
        assert os.listdir(gone) == []
        assert errno_of(os.open, "new", os.O_CREAT | os.O_WRONLY, dir_fd=gone) == "ENOENT"
    assert os.listdir(place.dir) == ["target"]
    assert (target / "file").read_bytes() == b"content"
    assert place.dir.stat().st_nlink == links - 1


def test_rename_moves_times_of_both_directories_and_the_ctime_of_the_inode(place: Place) -> None:
    """Backup programs find moved files by ctime."""
    source, target = place.path("source"), place.path("target")
    source.mkdir()
    target.mkdir()
    file = source / "file"
    file.write_bytes(b"content")
    before = [path.stat() for path in (source, target, file)]
    tick(source, target, file)
    os.rename(file, target / "file")
    after = [path.stat() for path in (source, target, target / "file")]
    assert after[0].st_mtime_ns > before[0].st_mtime_ns
    assert after[1].st_mtime_ns > before[1].st_mtime_ns
    assert after[2].st_ctime_ns > before[2].st_ctime_ns
    assert after[2].st_mtime_ns == before[2].st_mtime_ns


@pytest.mark.parametrize(
    ("source", "target", "expected"),
    [
        ("missing", "new", "ENOENT"),
        ("file", "missing/new", "ENOENT"),
        ("file", "dir", "EISDIR"),
        ("dir", "file", "ENOTDIR"),
        ("dir", "full", "ENOTEMPTY"),
        ("dir", "dir/child", "EINVAL"),
        ("full", "full/sub/child", "EINVAL"),
        ("full/sub", "full", "ENOTEMPTY"),
        ("file/child", "new", "ENOTDIR"),
        ("file", "file/child", "ENOTDIR"),
        ("file/", "new", "ENOTDIR"),
        ("file", "new/", "ENOTDIR"),
        ("dir", "new/", "OK"),
        ("dir/.", "new", "EBUSY"),
        ("dir/..", "new", "EBUSY"),
        ("dir", "full/..", "EBUSY"),
        ("file", "x" * 256, "ENAMETOOLONG"),
        ("x" * 256, "new", "ENAMETOOLONG"),
        ("link", "dir", "EISDIR"),
        ("dir", "link", "ENOTDIR"),
        ("link", "file", "OK"),
        ("file", "dir/file", "OK"),
    ],
)
def test_rename_refuses_as_the_kernel_does(
    place: Place, source: str, target: str, expected: str
) -> None:
    """Every refusal has its own errno, and changes nothing."""
    place.file("file", b"content")
    place.path("dir").mkdir()
    place.path("full/sub").mkdir(parents=True)
    place.path("link").symlink_to("file")
    names = sorted(os.listdir(place.dir))
    outcome = errno_of(os.rename, f"{place.dir}/{source}", f"{place.dir}/{target}")
    assert outcome == expected
    if expected != "OK":
        assert sorted(os.listdir(place.dir)) == names


def test_noreplace_refuses_an_existing_target(place: Place) -> None:
    """The race-free way not to overwrite, as `mv -n` wants it."""
    one, two = place.file("one", b"1"), place.file("two", b"2")
    refused = errno_of(syscalls.renameat2, one, two, syscalls.RENAME_NOREPLACE)
    assert (refused, two.read_bytes()) == ("EEXIST", b"2")
    syscalls.renameat2(one, place.path("three"), syscalls.RENAME_NOREPLACE)
    assert sorted(os.listdir(place.dir)) == ["three", "two"]


def test_noreplace_refuses_itself(place: Place) -> None:
    """Its own name exists, too."""
    one = place.file("one", b"1")
    assert errno_of(syscalls.renameat2, one, one, syscalls.RENAME_NOREPLACE) == "EEXIST"


def test_exchange_swaps_two_files(place: Place) -> None:
    """Neither name is missing at any time."""
    one, two = place.file("one", b"1"), place.file("two", b"2")
    numbers = one.stat().st_ino, two.stat().st_ino
    syscalls.renameat2(one, two, syscalls.RENAME_EXCHANGE)
    assert (one.read_bytes(), two.read_bytes()) == (b"2", b"1")
    assert (two.stat().st_ino, one.stat().st_ino) == numbers
    place.remount()
    assert (one.read_bytes(), two.read_bytes()) == (b"2", b"1")


def test_exchange_of_a_directory_and_a_file_moves_link_counts(place: Place) -> None:
    """Kinds may differ, as they may not in a plain rename; the parents' counts follow."""
    left, right = place.path("left"), place.path("right")
    (left / "x" / "sub").mkdir(parents=True)
    right.mkdir()
    (right / "x").write_bytes(b"a file")
    syscalls.renameat2(left / "x", right / "x", syscalls.RENAME_EXCHANGE)
    assert (left / "x").read_bytes() == b"a file"
    assert os.listdir(right / "x") == ["sub"]
    assert (left.stat().st_nlink, right.stat().st_nlink) == (2, 3)
    assert os.stat(right / "x" / "..").st_ino == right.stat().st_ino


@pytest.mark.parametrize(
    ("source", "target", "flags", "expected"),
    [
        ("file", "missing", syscalls.RENAME_EXCHANGE, "ENOENT"),
        ("missing", "file", syscalls.RENAME_EXCHANGE, "ENOENT"),
        ("full", "full/sub", syscalls.RENAME_EXCHANGE, "EINVAL"),
        ("full/sub", "full", syscalls.RENAME_EXCHANGE, "EINVAL"),
        ("file", "file", syscalls.RENAME_EXCHANGE, "OK"),
        ("file", "new", syscalls.RENAME_EXCHANGE | syscalls.RENAME_NOREPLACE, "EINVAL"),
        ("file", "new", 1 << 20, "EINVAL"),
        ("full", "full/sub/new", syscalls.RENAME_NOREPLACE, "EINVAL"),
        ("missing", "new", syscalls.RENAME_NOREPLACE, "ENOENT"),
    ],
)
def test_renameat2_refuses_as_the_kernel_does(
    place: Place, source: str, target: str, flags: int, expected: str
) -> None:
    """A swap that would tie the tree into a loop, and flags that exclude each other."""
    place.file("file", b"content")
    place.path("full/sub").mkdir(parents=True)
    call = errno_of(syscalls.renameat2, place.path(source), place.path(target), flags)
    assert call == expected
    assert sorted(os.listdir(place.dir)) == ["file", "full"]


def test_sticky_directory_protects_the_files_of_others(place: Place) -> None:
    """As in /tmp: only the owner of the file (or of the directory) may rename or remove it."""
    shared = place.path("shared")
    shared.mkdir()
    shared.chmod(0o1777)
    with as_user(ALICE, shared):
        Path("hers").write_bytes(b"hers")
        Path("dir").mkdir()
    with as_user(BOB, shared):
        assert errno_of(os.unlink, "hers") == "EPERM"
        assert errno_of(os.rename, "hers", "taken") == "EPERM"
        assert errno_of(os.rmdir, "dir") == "EPERM"
        Path("his").write_bytes(b"his")
        assert errno_of(os.rename, "his", "hers") == "EPERM"
        os.rename("his", "still his")
        os.unlink("still his")
    with as_user(ALICE, shared):
        os.rename("hers", "renamed")
        os.unlink("renamed")
        os.rmdir("dir")


def test_moving_a_directory_needs_write_permission_on_it(place: Place) -> None:
    """Its `..` changes, so a user who may not write it may not move it to another parent."""
    place.dir.chmod(0o777)
    for name in ("a", "b"):
        place.path(name).mkdir()
        place.path(name).chmod(0o777)
    place.path("a/dir").mkdir()
    place.path("a/dir").chmod(0o555)
    os.chown(place.path("a/dir"), BOB, BOB)
    with as_user(ALICE, place.dir):
        assert errno_of(os.rename, "a/dir", "b/dir") == "EACCES"
        assert errno_of(os.rename, "a/dir", "a/other") == "OK"
