"""Trees on an ordinary directory, where a mount would be, and the ways through them."""

import errno
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pondfs.cli.reach import Place, locate
from pondfs.cli.trees import (
    follow,
    open_tree,
    resolve_since,
    resolve_versions,
    spell,
    walk,
)
from pondfs.errors import NoSuchPath, NoSuchVersion, NotAPond, UsageError
from pondfs.node import Version
from pondfs.store.mounted_tree import BLOCK_BYTES, MountedTree
from tests.unit.store.test_changes import Life

MountTable = Callable[..., Path]


@pytest.fixture
def tree(tmp_path: Path) -> Iterator[MountedTree]:
    top = tmp_path / "top"
    (top / "d/e").mkdir(parents=True)
    (top / "d/file").write_text("text")
    (top / "d/e/up").symlink_to("../../soft")
    (top / "soft").symlink_to("./d//file")
    (top / "here").symlink_to(top / "d/e")
    (top / "out").symlink_to("/etc")
    (top / "above").symlink_to("../../d")
    (top / "round").symlink_to("round")
    (top / "z").touch()
    found = MountedTree(os.open(top, os.O_PATH), "the tree", os.fsencode(top))
    yield found
    found.close()


@pytest.mark.parametrize(
    ("path", "last", "leads_to"),
    [
        (b"", True, b""),
        (b"d/file", False, b"d/file"),
        (b"soft", True, b"d/file"),
        (b"soft", False, b"soft"),
        (b"d/e/up", True, b"d/file"),
        (b"here/up", True, b"d/file"),
        (b"above/file", True, b"d/file"),
    ],
)
def test_follow(tree: MountedTree, path: bytes, last: bool, leads_to: bytes) -> None:
    where, info = follow(tree, path.split(b"/") if path else [], last=last)
    assert where == leads_to
    assert info == tree.lstat(leads_to)


def test_what_became_something_else(tree: MountedTree) -> None:
    """Between being listed and being read: no link is followed, no pipe taken for an empty file."""
    top = os.fsdecode(tree.live_at or b"")
    os.mkfifo(f"{top}/pipe")
    for path in (b"soft", b"pipe", b"d"):
        with pytest.raises(OSError, match="something else meanwhile") as told:
            list(tree.read(path))
        assert told.value.filename == path.decode()
    with pytest.raises(OSError, match="something else meanwhile"):
        tree.readlink(b"z")


def test_links_that_lead_nowhere(tree: MountedTree) -> None:
    with pytest.raises(UsageError, match="leads out of the tree, to /etc"):
        follow(tree, [b"out", b"passwd"], last=True)
    with pytest.raises(OSError, match="symbolic links") as told:
        follow(tree, [b"round"], last=True)
    assert told.value.errno == errno.ELOOP
    with pytest.raises(NoSuchPath, match="the tree has no '/d/file/x'"):
        follow(tree, [b"soft", b"x"], last=True)
    old = MountedTree(os.open(tree.live_at or b"", os.O_PATH), "the pond at 3")
    with pytest.raises(UsageError, match="leads out of the pond at 3"):
        follow(old, [b"here"], last=True)
    old.close()


def test_walk_is_in_order_and_goes_on(tree: MountedTree) -> None:
    told: list[OSError] = []
    found = [path for path, _ in walk(tree, b"", told.append)]
    assert found == [
        b"above", b"d", b"d/e", b"d/e/up", b"d/file", b"here", b"out", b"round", b"soft", b"z",
    ]  # fmt: skip
    assert told == []


@pytest.mark.parametrize(
    ("typed", "root", "path", "says"),
    [
        (".", b"d", b"d/x", b"x"),
        (".", b"", b"d/x", b"d/x"),
        ("/", b"", b"d/x", b"/d/x"),
        ("../d/", b"d", b"d/x", b"../d/x"),
        ("soft", b"d", b"d", b"soft"),
    ],
)
def test_spell(typed: str, root: bytes, path: bytes, says: bytes) -> None:
    assert spell(typed, root, path) == says


def test_holes_are_left_out(tree: MountedTree, tmp_path: Path) -> None:
    block = b"x" * BLOCK_BYTES
    with open(tmp_path / "top/sparse", "wb") as file:
        file.write(block + bytes(BLOCK_BYTES) + block + block)
        file.truncate(5 << 20)
    pieces = list(tree.read(b"sparse"))
    assert pieces == [(0, block), (2 * BLOCK_BYTES, block + block)]
    with pytest.raises(OSError, match="soft"):
        list(tree.read(b"soft"))


@pytest.fixture
def store(tmp_path: Path) -> Path:
    life = Life(tmp_path / "store")
    for number in range(3):
        life.tree.make(b"file%d" % number, data=b"x")
        life.commit()
    life.store.close()
    return life.path


def test_which_tree(store: Path, tmp_path: Path, mount_table: MountTable) -> None:
    """Without a mount, and with one that something else covers, it is the store."""
    place = Place(store)
    now = open_tree(place, None)
    assert [name for name, _ in now.entries(b"")] == [b"file0", b"file1", b"file2"]
    now.close()
    mnt = tmp_path / "mnt"
    mnt.mkdir()
    mount_table(store, mnt)
    then = open_tree(place, "3")
    assert then.label == "version 3"
    assert [name for name, _ in then.entries(b"")] == [b"file0", b"file1"]
    assert stat.S_ISREG(then.lstat(b"file1").mode)
    then.close()
    with pytest.raises(NoSuchVersion):
        open_tree(place, "9")
    with pytest.raises(NotAPond):
        open_tree(Place(tmp_path / "none"), None)


def test_an_older_state_is_not_shown_in_silence(
    store: Path, tmp_path: Path, mount_table: MountTable, capsys: pytest.CaptureFixture[str]
) -> None:
    mount_table(store, tmp_path / "mnt")
    open_tree(Place(store), None).close()
    assert capsys.readouterr().err == (
        "the mount can't be read (No such file or directory): this is version 4, the newest\n"
    )


def test_versions_by_any_name(store: Path) -> None:
    place = Place(store)
    assert resolve_versions(place, "2", "v3", "latest") == [Version(2), Version(3), Version(4)]
    assert resolve_versions(place, "0s-ago", "2") == [Version(4), Version(2)]
    for text in ("0", "5"):
        with pytest.raises(NoSuchVersion, match=rf"no version {text} \(never made, or pruned\)"):
            resolve_versions(place, text)
    with pytest.raises(NoSuchVersion):
        resolve_versions(place, "soon")
    assert resolve_since(place, "2026-06-20") == 1781913600 * 10**9
    assert resolve_since(place, "3") < resolve_since(place, "latest")


def test_standing_nowhere(
    tmp_path: Path, mount_table: MountTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A directory that was removed names no pond; once, the default one was said to be missing."""
    del mount_table
    home = {"HOME": str(tmp_path)}
    monkeypatch.setattr(os, "environ", home)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    with pytest.raises(NotAPond, match="there is no pond at"):
        open_tree(locate(None, home), None)
    (tmp_path / "gone").rmdir()
    try:
        with pytest.raises(NotAPond, match=r"working directory is gone.* --pond"):
            open_tree(locate(None, home), None)
        with pytest.raises(NotAPond, match="there is no pond at"):
            open_tree(locate(str(tmp_path / "none"), home), None)
    finally:
        os.chdir("/")
