import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pondfs.cli.reach import Place, connect, locate, path_in_pond, require_pond
from pondfs.errors import DaemonGone, NotAPond, UsageError
from tests.unit.fake_daemon import StartDaemon

MountTable = Callable[..., Path]


async def status(_: dict[str, Any]) -> dict[str, Any]:
    return {}


@pytest.fixture
def store(tmp_path: Path) -> Path:
    (tmp_path / "store" / "_pond").mkdir(parents=True)
    return tmp_path / "store"


@pytest.fixture
def mnt(tmp_path: Path) -> Path:
    (tmp_path / "mnt" / "sub").mkdir(parents=True)
    return tmp_path / "mnt"


def test_the_order_in_which_a_pond_is_looked_for(
    store: Path, mnt: Path, mount_table: MountTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    mount_table(store, mnt)
    monkeypatch.chdir(mnt / "sub")
    environ = {"POND": "/from/env", "HOME": "/home/ann"}
    assert locate("/named", environ) == Place(Path("/named"))
    assert locate(None, environ) == Place(Path("/from/env"))
    found = locate(None, {"HOME": "/home/ann"})
    assert found.store == store
    assert found.mount is not None
    monkeypatch.chdir("/")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert locate(None, {}) == Place(Path("/var/lib/pond"))


def test_a_mountpoint_names_its_pond_too(store: Path, mnt: Path, mount_table: MountTable) -> None:
    mount_table(store, mnt)
    for place in (locate(str(mnt), {}), locate(None, {"POND": str(mnt)})):
        assert place.store == store
        assert place.mount is not None


def test_standing_in_a_removed_directory_is_no_error(
    tmp_path: Path, mount_table: MountTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    try:
        assert locate(None, {}) == Place(Path("/var/lib/pond"))
    finally:
        os.chdir("/")


def test_an_unmounted_pond_has_no_daemon(store: Path, mount_table: MountTable) -> None:
    assert connect(Place(store)) is None


def test_the_writer_is_found_by_its_lock(
    store: Path, mount_table: MountTable, start_daemon: StartDaemon
) -> None:
    daemon = start_daemon(hello={"store": str(store)}, status=status)
    (store / "_pond" / "lock").write_text(json.dumps({"pid": 1, "socket": str(daemon.path)}))
    client = connect(Place(store))
    assert client is not None
    client.close()


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"socket":1}', '{"socket":"/none"}'])
def test_what_a_killed_daemon_left_in_the_lock_is_not_believed(
    store: Path, mount_table: MountTable, text: str
) -> None:
    (store / "_pond" / "lock").write_text(text)
    assert connect(Place(store)) is None


def test_a_lock_that_names_another_ponds_daemon_is_not_believed(
    store: Path, mount_table: MountTable, start_daemon: StartDaemon
) -> None:
    """The mountpoint was taken by another pond since."""
    daemon = start_daemon(hello={"store": "/srv/other"}, status=status)
    (store / "_pond" / "lock").write_text(json.dumps({"socket": str(daemon.path)}))
    assert connect(Place(store)) is None


def test_the_writer_comes_before_a_reader(
    store: Path, tmp_path: Path, mount_table: MountTable, start_daemon: StartDaemon
) -> None:
    writer = mount_table(store, tmp_path / "writer")
    reader = mount_table(store, tmp_path / "reader", "ro")
    start_daemon(path=writer, hello={"mountpoint": "writer"})
    start_daemon(path=reader, hello={"mountpoint": "reader"})
    client = connect(Place(store))
    assert client is not None
    with client:
        assert client.mountpoint == Path("writer")


def test_the_mount_one_stands_in_comes_before_the_writer(
    store: Path, tmp_path: Path, mount_table: MountTable, start_daemon: StartDaemon
) -> None:
    start_daemon(path=mount_table(store, tmp_path / "writer"))
    start_daemon(path=mount_table(store, tmp_path / "reader", "ro"), hello={"mountpoint": "reader"})
    client = connect(locate(str(tmp_path / "reader"), {}))
    assert client is not None
    with client:
        assert client.mountpoint == Path("reader")


def test_a_mount_without_daemon_is_told(store: Path, mnt: Path, mount_table: MountTable) -> None:
    mount_table(store, mnt)
    with pytest.raises(DaemonGone, match=f"does not answer .*: pond umount {mnt}, then mount"):
        connect(Place(store))


def test_no_pond_there(tmp_path: Path) -> None:
    with pytest.raises(NotAPond, match="'pond init"):
        require_pond(tmp_path / "none")
    (tmp_path / "_delta_log").mkdir()
    require_pond(tmp_path)


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("{mnt}/sub/x", "sub/x"),
        ("{mnt}", ""),
        ("{tmp}/link/sub/x", "sub/x"),
        ("{tmp}/link", ""),
        ("{tmp}/other/../up/link/sub/../y", "y"),
        ("{mnt}/inner/x", "inner/x"),
        ("{mnt}/.pond/at/2/sub/x", "sub/x"),
        ("{tmp}/link/.pond/versions/2", ""),
        ("{mnt}/.pond/at", ".pond/at"),
        ("/sub/x", "sub/x"),
        ("/.pond/at/2/x", ".pond/at/2/x"),
        ("{tmp}/round/x", "{tmp}/round/x"),
        ("sub/x", "sub/x"),
    ],
)
def test_a_path_into_a_mount_is_one_into_its_pond(
    store: Path, mnt: Path, mount_table: MountTable, text: str, names: str
) -> None:
    """Whatever symlinks lead to the mount: once, only its own name was understood."""
    tmp = mnt.parent
    mount_table(store, mnt)
    (tmp / "link").symlink_to("mnt")
    (tmp / "up").symlink_to(tmp)
    (tmp / "round").symlink_to("round")
    # In the mount none is followed.
    (mnt / "inner").symlink_to("/etc")
    found = path_in_pond(Place(store), text.format(mnt=mnt, tmp=tmp))
    assert os.fsdecode(b"/".join(found)) == names.format(tmp=tmp).lstrip("/")


def test_nothing_in_a_pond_is_looked_at_for_a_path(
    store: Path, mnt: Path, mount_table: MountTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its daemon, or that of another pond, may hang."""
    other = mnt.parent / "other"
    mount_table(store, mnt)
    mount_table(mnt.parent / "store2", other)
    (mnt.parent / "link").symlink_to("mnt")
    asked = []
    readlink = os.readlink

    def look(path: str) -> str:
        asked.append(path)
        return readlink(path)

    monkeypatch.setattr(os, "readlink", look)
    for path in (mnt / "sub/x", mnt.parent / "link/sub/x", other / "x/y", mnt / ".." / "other/x"):
        path_in_pond(Place(store), str(path))
    assert f"{mnt.parent}/link" in asked
    assert not [path for path in asked if path.startswith((f"{mnt}", f"{other}"))]


@pytest.mark.parametrize("past", [".pond/at/2", ".pond/versions/2", ".pond/tags/good"])
def test_standing_in_the_past(
    store: Path, mnt: Path, mount_table: MountTable, monkeypatch: pytest.MonkeyPatch, past: str
) -> None:
    """Paths mean the same in the pond; once, they were looked for as ``.pond/at/...`` there."""
    (mnt / past / "sub").mkdir(parents=True)
    mount_table(store, mnt)
    monkeypatch.chdir(mnt / past / "sub")
    place = locate(None, {})
    assert path_in_pond(place, "x") == (b"sub", b"x")
    assert path_in_pond(place, "..") == ()
    assert path_in_pond(place, "../../../../y") == (b"y",)
    assert path_in_pond(place, "/y") == (b"y",)
    assert path_in_pond(place, "x", as_seen=True) == (*past.encode().split(b"/"), b"sub", b"x")
    with pytest.raises(UsageError, match="leads out of the pond"):
        path_in_pond(place, "../../../../../y")
