"""Extended attributes with ``-o xattr``, ACLs with ``-o acl``, and neither without."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable

import pytest

from tests.mount.harness import require, run
from tests.mount.place import ALICE, BOB, Place, as_user, errno_of, opened, tick

with_xattr = pytest.mark.mount_options("allow_other", "xattr")
with_acl = pytest.mark.mount_options("allow_other", "acl")


@pytest.mark.pond_only("an ordinary directory always has them")
def test_without_the_option_there_are_none(place: Place) -> None:
    """EOPNOTSUPP makes cp -a, rsync and tar go on without; any other errno makes them fail."""
    file = place.file()
    assert errno_of(os.setxattr, file, "user.a", b"1") == "EOPNOTSUPP"
    assert errno_of(os.getxattr, file, "user.a") == "EOPNOTSUPP"
    assert errno_of(os.removexattr, file, "user.a") == "EOPNOTSUPP"
    outcome = errno_of(os.listxattr, file)
    assert outcome == "EOPNOTSUPP" or os.listxattr(file) == []
    assert run([require("setfacl"), "-m", "u:1:r", file], check=False).returncode != 0


@with_xattr
def test_set_get_list_remove(place: Place) -> None:
    """Values are bytes, NUL and empty included, on files and directories, over remounts."""
    values = {"user.a": b"1", "user.empty": b"", "user.binary": bytes(range(256)) * 8}
    place.path("dir").mkdir()
    paths = [place.file(), place.path("dir")]
    for path in paths:
        for name, value in values.items():
            os.setxattr(path, name, value)
    for _ in range(2):
        for path in paths:
            assert set(os.listxattr(path)) >= set(values)
            assert {name: os.getxattr(path, name) for name in values} == values
        place.remount()
    for path in paths:
        os.removexattr(path, "user.empty")
        assert errno_of(os.getxattr, path, "user.empty") == "ENODATA"
        assert "user.empty" not in os.listxattr(path)
    place.remount()
    assert errno_of(os.getxattr, paths[0], "user.empty") == "ENODATA"
    assert os.getxattr(paths[0], "user.a") == b"1"


@with_xattr
def test_create_and_replace(place: Place) -> None:
    """The two flags that make a set conditional."""
    file = place.file()
    assert errno_of(os.setxattr, file, "user.a", b"1", os.XATTR_REPLACE) == "ENODATA"
    os.setxattr(file, "user.a", b"1", os.XATTR_CREATE)
    assert errno_of(os.setxattr, file, "user.a", b"2", os.XATTR_CREATE) == "EEXIST"
    os.setxattr(file, "user.a", b"3", os.XATTR_REPLACE)
    assert os.getxattr(file, "user.a") == b"3"


@with_xattr
@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("user.", "EINVAL"),
        ("noprefix", "EOPNOTSUPP"),
        ("user." + "x" * 251, "ERANGE"),
        ("user." + "x" * 250, "OK"),
        ("user.ünïcode", "OK"),
        ("trusted.root", "OK"),
        ("security.pond", "OK"),
    ],
)
def test_names(place: Place, name: str, expected: str) -> None:
    """255 bytes with a namespace before the dot."""
    assert errno_of(os.setxattr, place.file(), name, b"value") == expected


@with_xattr
def test_missing_and_too_large(place: Place) -> None:
    """ENODATA for an attribute that is not there; a value beyond the limit changes nothing."""
    file = place.file()
    assert errno_of(os.getxattr, file, "user.missing") == "ENODATA"
    assert errno_of(os.removexattr, file, "user.missing") == "ENODATA"
    assert errno_of(os.setxattr, file, "user.huge", b"x" * 65_537) == "E2BIG"
    assert os.listxattr(file) == []


@with_xattr
def test_changes_move_ctime_alone(place: Place) -> None:
    """An attribute is metadata."""
    file = place.file()
    changes: list[Callable[[], None]] = [
        lambda: os.setxattr(file, "user.a", b"1"),
        lambda: os.removexattr(file, "user.a"),
    ]
    for change in changes:
        tick(file)
        before = file.stat()
        change()
        assert file.stat().st_ctime_ns > before.st_ctime_ns
        assert file.stat().st_mtime_ns == before.st_mtime_ns


@with_xattr
def test_they_belong_to_the_inode(place: Place) -> None:
    """Hard links share them, renames keep them, a new file under the name has none."""
    file = place.file("one")
    os.setxattr(file, "user.a", b"1")
    os.link(file, place.path("two"))
    os.rename(file, place.path("three"))
    assert os.getxattr(place.path("two"), "user.a") == b"1"
    assert os.getxattr(place.path("three"), "user.a") == b"1"
    assert os.listxattr(place.file("one")) == []
    with opened(place.path("two"), os.O_RDONLY) as fd:
        assert os.getxattr(fd, "user.a") == b"1"


@with_xattr
def test_permissions(place: Place) -> None:
    """user.* follows the mode; trusted.* is root's; symlinks have no user attributes."""
    file = place.file(mode=0o644)
    os.setxattr(file, "user.a", b"1")
    os.setxattr(file, "trusted.a", b"1")
    with as_user(ALICE, place.dir):
        assert os.getxattr("file", "user.a") == b"1"
        assert errno_of(os.setxattr, "file", "user.a", b"2") == "EACCES"
        assert errno_of(os.setxattr, "file", "trusted.a", b"2") == "EPERM"
        assert errno_of(os.getxattr, "file", "trusted.a") == "ENODATA"
    place.path("link").symlink_to("file")
    link = place.path("link")
    assert errno_of(os.setxattr, link, "user.a", b"1", follow_symlinks=False) == "EPERM"


@with_xattr
def test_the_programs_agree(place: Place) -> None:
    """setfattr, getfattr, cp --preserve=xattr and tar --xattrs."""
    file = place.file(content=b"content")
    run([require("setfattr"), "-n", "user.note", "-v", "a note", file])
    assert 'user.note="a note"' in run([require("getfattr"), "-d", file]).stdout
    run(["cp", "--preserve=all", file, place.path("copy")])
    assert os.getxattr(place.path("copy"), "user.note") == b"a note"


@with_acl
def test_acl_grants_and_denies(place: Place) -> None:
    """An entry for one user reaches past the mode; the mask caps it."""
    place.dir.chmod(0o755)
    file = place.file(content=b"secret", mode=0o600)
    setfacl = require("setfacl")
    with as_user(ALICE, place.dir):
        assert errno_of(open, "file") == "EACCES"
    run([setfacl, "-m", f"u:{ALICE}:rw", file])
    assert stat.S_IMODE(file.stat().st_mode) == 0o660, "the group bits show the mask"
    with as_user(ALICE, place.dir), opened("file", os.O_RDWR) as fd:
        assert os.read(fd, 10) == b"secret"
    with as_user(BOB, place.dir):
        assert errno_of(open, "file") == "EACCES"
    place.remount()
    listed = run([require("getfacl"), "-cnp", file]).stdout.split()
    assert listed == ["user::rw-", f"user:{ALICE}:rw-", "group::---", "mask::rw-", "other::---"]
    file.chmod(0o600)
    with as_user(ALICE, place.dir):
        assert errno_of(open, "file") == "EACCES"
    run([setfacl, "-b", file])
    assert run([require("getfacl"), "-cnp", file]).stdout.split() == [
        "user::rw-",
        "group::---",
        "other::---",
    ]


@with_acl
def test_default_acl_is_inherited(place: Place) -> None:
    """A directory's default ACL decides for what is made in it, and for directories below."""
    place.path("dir").mkdir()
    run([require("setfacl"), "-d", "-m", f"u:{ALICE}:rwx,g::r-x,o::---", place.path("dir")])
    place.remount()
    os.umask(0)
    os.close(os.open(place.path("dir/file"), os.O_CREAT | os.O_WRONLY, 0o666))
    place.path("dir/sub").mkdir()
    getfacl = require("getfacl")
    file = run([getfacl, "-cnp", place.path("dir/file")]).stdout
    assert f"user:{ALICE}:rwx" in file
    assert "mask::rw-" in file
    assert stat.S_IMODE(place.path("dir/file").stat().st_mode) == 0o660
    sub = run([getfacl, "-cnp", place.path("dir/sub")]).stdout
    assert f"default:user:{ALICE}:rwx" in sub
    assert f"user:{ALICE}:rwx" in sub
    place.remount()
    assert run([getfacl, "-cnp", place.path("dir/sub")]).stdout == sub


@with_acl
@pytest.mark.pond_only("a deviation: see docs/reference/semantics.md")
def test_the_umask_counts_beside_a_default_acl(place: Place) -> None:
    """The kernel takes the umask off before it asks a FUSE daemon: less is granted, never more."""
    place.path("dir").mkdir()
    run([require("setfacl"), "-d", "-m", f"u:{ALICE}:rwx,g::r-x,o::---", place.path("dir")])
    os.umask(0o022)
    os.close(os.open(place.path("dir/file"), os.O_CREAT | os.O_WRONLY, 0o666))
    assert "mask::r--" in run([require("getfacl"), "-cnp", place.path("dir/file")]).stdout


@with_acl
def test_acl_implies_xattr_and_survives_copies(place: Place) -> None:
    """`cp -a` keeps ACLs by the same calls."""
    file = place.file()
    os.setxattr(file, "user.a", b"1")
    run([require("setfacl"), "-m", f"u:{BOB}:r", file])
    run(["cp", "-a", file, place.path("copy")])
    getfacl = require("getfacl")
    assert run([getfacl, "-cnp", place.path("copy")]).stdout == run([getfacl, "-cnp", file]).stdout
    assert os.getxattr(place.path("copy"), "user.a") == b"1"
