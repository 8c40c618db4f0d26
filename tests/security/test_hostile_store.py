"""A store that somebody made up, opened by somebody else: refused, and nothing outside is touched.

A table is data, and may come from anywhere: an archive, another user's disk. What it says about
files is followed by whoever opens it, with their rights.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import stat
from pathlib import Path
from typing import Any

import pytest

from pondfs.cli import pond as pond_command
from pondfs.cli.run import run as run_verb
from pondfs.errors import StoreDamaged
from pondfs.extent import Content
from pondfs.node import ROOT
from pondfs.oplog import Row
from pondfs.store.checkpoint import write_checkpoint
from pondfs.store.delta import DeltaStore
from pondfs.store.deltalog import read_snapshot
from pondfs.store.preview import read_pending
from tests.unit.store.support import (
    DIRECTORY,
    FILE,
    SYMLINK,
    adopt,
    attr,
    directory_rows,
    file_row,
    log_entry,
    make_cut,
    new_pond,
    open_pond,
)


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """Return a pond with one file in it, at Delta version 2."""
    pond = new_pond(tmp_path / "pond")
    adopt(pond.commit(make_cut(2, [file_row(11, b"inside", b"f")])))
    pond.close()
    return tmp_path / "pond"


def newest_file(store: Path) -> str:
    """Return the data file that the newest log entry added."""
    actions = map(json.loads, log_entry(store, 2).read_text().splitlines())
    (name,) = [str(action["add"]["path"]) for action in actions if "add" in action]
    return name


def rewrite_path(store: Path, kind: str, path: object) -> None:
    """Have the newest log entry name another file."""
    entry = log_entry(store, 2)
    actions: list[dict[str, Any]] = [json.loads(line) for line in entry.read_text().splitlines()]
    (add,) = [action["add"] for action in actions if "add" in action]
    if kind == "add":
        add["path"] = path
    else:
        actions.append({"remove": {"path": path, "dataChange": True, "deletionTimestamp": 1}})
        actions[0]["commitInfo"]["pondfs"]["lines"] += 1
    entry.write_text("".join(json.dumps(action) + "\n" for action in actions))


def pond(store: Path, *args: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    code = run_verb(pond_command, "pond", ("--pond", str(store), *args))
    return code, capsys.readouterr().err


OUTSIDE = [
    "{outside}/data.parquet",
    "file://{outside}/data.parquet",
    "../outside/data.parquet",
    "..%2Foutside%2Fdata.parquet",
    "%2e%2e/outside/data.parquet",
    "sub/../../outside/data.parquet",
    "sub/data.parquet",
    "s3://bucket/data.parquet",
    "http://127.0.0.1:1/data.parquet",
    "data.parquet%00",
    "..",
    ".",
    "",
]


@pytest.mark.parametrize("kind", ["add", "remove"])
@pytest.mark.parametrize("path", OUTSIDE)
def test_the_log_names_no_file_elsewhere(
    store: Path, capsys: pytest.CaptureFixture[str], kind: str, path: str
) -> None:
    """What is elsewhere was read as data (and by prune, removed) if it had the right size."""
    outside = store.parent / "outside"
    outside.mkdir()
    (store / "sub").mkdir()
    newest = newest_file(store)
    shutil.copy(store / newest, outside / "data.parquet")
    shutil.copy(store / newest, store / "sub" / "data.parquet")
    rewrite_path(store, kind, path.format(outside=outside))
    with pytest.raises(StoreDamaged, match=r"data file|own directory"):
        DeltaStore.open_reader(store)
    with pytest.raises(StoreDamaged):
        open_pond(store)
    for args in (["ls"], ["query", "SELECT * FROM oplog"], ["prune", "--keep-last", "1"]):
        code, said = pond(store, *args, capsys=capsys)
        assert code == StoreDamaged.exit_code, said
        assert said.count("\n") == 1, said
    assert (outside / "data.parquet").exists()


@pytest.mark.parametrize("kind", ["add", "remove"])
@pytest.mark.parametrize("path", [7, None])
def test_what_is_no_path_is_no_entry(store: Path, kind: str, path: object) -> None:
    """As one that a crash tore: the version before it is what there is."""
    rewrite_path(store, kind, path)
    with contextlib.closing(DeltaStore.open_reader(store)) as reader:
        assert reader.version == 1
        assert log_entry(store, 2).name in "".join(reader.notes)


def test_nor_does_a_checkpoint(store: Path) -> None:
    snapshot = read_snapshot(str(store / "_delta_log"))
    (name, add), *_ = snapshot.adds.items()
    os.rename(store / name, store.parent / "moved.parquet")
    snapshot.adds[name] = {**add, "path": "../moved.parquet"}
    with pytest.raises(StoreDamaged, match="own directory"):
        # Read back before it gets its name; so it takes a writer without that to make one.
        write_checkpoint(str(store / "_delta_log"), snapshot)


def test_a_symlink_is_no_data_file(store: Path) -> None:
    """Root would read through it what the maker of the store can't."""
    newest = newest_file(store)
    opened = open_pond(store)
    adopt(opened.commit(make_cut(3, [file_row(12, b"", b"g")])))
    opened.close()
    private = store.parent / "private.parquet"
    os.rename(store / newest, private)
    (store / newest).symlink_to(private)
    with pytest.raises(StoreDamaged, match="no regular file"):
        DeltaStore.open_reader(store)


def test_nor_one_that_takes_its_place_while_it_is_read(store: Path) -> None:
    reader = DeltaStore.open_reader(store)
    try:
        image = reader.load_image_at(None)
        newest = newest_file(store)
        private = store.parent / "private.parquet"
        os.rename(store / newest, private)
        (store / newest).symlink_to(private)
        (extent,) = image.load_extents(next(iter(image.load_entries(ROOT).values())))
        with pytest.raises(OSError, match="symbolic links"):
            reader.read(extent.content, 0, memoryview(bytearray(6)))
    finally:
        reader.close()


@pytest.mark.parametrize(
    "name", ["../outside.parquet", "/etc/shadow", "sub/x.parquet", "x.parquet"]
)
def test_a_daemon_names_no_file_elsewhere(store: Path, name: str) -> None:
    """What is pending is told by the daemon of whoever mounted; root may be who asks."""
    shutil.copy(store / newest_file(store), store.parent / "outside.parquet")
    with pytest.raises(StoreDamaged, match="no name of one"):
        read_pending(store, [name], b"")


NAMES = [b"..", b".", b"a/b", b"../escaped", b"/etc", b"a\0b", b"x" * 256]


@pytest.mark.parametrize("name", NAMES, ids=lambda name: repr(name[:12]))
@pytest.mark.parametrize("is_directory", [False, True])
def test_a_name_leads_no_copy_elsewhere(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: bytes, is_directory: bool
) -> None:
    """`..` is a directory to go into for whoever copies a tree."""
    pond_dir = tmp_path / "pond"
    made = new_pond(pond_dir)
    rows = [*directory_rows(20, b"d")]
    if is_directory:
        rows += [*directory_rows(21, name, part=20), file_row(22, b"escaped", b"f", part=21)]
    else:
        rows.append(file_row(22, b"escaped", name, part=20))
    adopt(made.commit(make_cut(2, rows)))
    made.close()
    target = tmp_path / "target" / "here"
    target.mkdir(parents=True)
    for args in (
        ["cp", "pond:/", f"host:{target}"],
        ["cp", "--at", "2", "pond:/d", f"host:{target}"],
        ["ls", "-R"],
        ["query", "SELECT * FROM nodes"],
    ):
        code, said = pond(pond_dir, *args, capsys=capsys)
        assert code == StoreDamaged.exit_code, said
        assert "name" in said
        assert said.count("\n") == 1, said
    assert list(tmp_path.rglob("f")) == []
    assert list(target.iterdir()) == []


def test_a_saved_image_has_no_such_name_either(store: Path, tmp_path: Path) -> None:
    """It is only a cache, but believed."""
    from pondfs.store import imagefile
    from pondfs.store.files import data_files

    opened = open_pond(store)
    files = data_files(str(store), read_snapshot(str(store / "_delta_log")))
    image = opened.load_image()
    opened.close()
    image.columns.names = b"/"  # as long as `f`
    imagefile.save(str(store), image)
    assert imagefile.load(str(store), files, None) is None


def test_a_symlink_with_a_nul_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = new_pond(tmp_path / "pond")
    link = Row(
        "create", 5, ROOT, 20, SYMLINK, b"l",
        attr=attr(SYMLINK, 3), offset=0, content=Content(b"a\0b", 3),
    )  # fmt: skip
    adopt(made.commit(make_cut(2, [link])))
    made.close()
    (tmp_path / "target").mkdir()
    code, said = pond(
        tmp_path / "pond", "cp", "pond:/", f"host:{tmp_path / 'target'}", capsys=capsys
    )
    assert code == StoreDamaged.exit_code
    assert "NUL" in said


def test_absolute_and_upward_symlinks_are_copied_and_never_followed(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A tree whose symlink stands where the next copy's directory goes."""
    outside = tmp_path / "outside"
    outside.mkdir()
    opened = open_pond(store)
    target = os.fsencode(outside)
    link = Row(
        "create", 5, ROOT, 20, SYMLINK, b"a",
        attr=attr(SYMLINK, len(target)), offset=0, content=Content(target, len(target)),
    )  # fmt: skip
    adopt(opened.commit(make_cut(3, [link])))
    gone = Row("unlink", 5, ROOT, 20, SYMLINK, b"a", removed=True)
    rows = [gone, *directory_rows(21, b"a"), file_row(22, b"escaped", b"inner", part=21)]
    adopt(opened.commit(make_cut(4, rows)))
    opened.close()
    place = tmp_path / "copies"
    place.mkdir()
    assert pond(store, "cp", "--at", "3", "pond:/", f"host:{place}", capsys=capsys)[0] == 0
    assert os.readlink(place / "a") == str(outside)
    for args in (["--force"], []):
        code, said = pond(store, "cp", *args, "pond:/", f"host:{place}", capsys=capsys)
        assert code, said
    assert list(outside.iterdir()) == []


FORGED = stat.S_IFREG | 0o4755


def forged(tmp_path: Path, uid: int) -> Path:
    """Return a pond of user *uid* with set-id files and a device that root owns."""
    path = tmp_path / "pond"
    made = new_pond(path)

    def node(number: int, name: bytes, mode: int, owner: int, rdev: int = 0) -> Row:
        facts = (mode, owner, owner, 1, rdev, 0, 1, 2, 3)
        return Row("create", 5, ROOT, number, mode, name, attr=facts)

    adopt(
        made.commit(
            make_cut(
                2,
                [
                    node(20, b"roots", FORGED, 0),
                    node(21, b"theirs", FORGED, uid),
                    node(22, b"group", FILE | stat.S_ISGID, 0),
                    node(23, b"disk", stat.S_IFBLK | 0o666, 0, os.makedev(8, 0)),
                    node(24, b"dir", DIRECTORY | stat.S_ISGID, 0),
                ],
            )
        )
    )
    made.close()
    for place in (path, *path.rglob("*")):
        os.chown(place, uid, uid)
    return path


@pytest.mark.parametrize("uid", [0, 60_001])
def test_root_takes_no_rights_from_another_users_pond(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], uid: int
) -> None:
    path = forged(tmp_path, uid)
    place = tmp_path / "copies"
    place.mkdir()
    code, said = pond(path, "cp", "pond:/", f"host:{place}", capsys=capsys)
    modes = {one.name: one.lstat().st_mode & 0o6000 for one in place.iterdir()}
    if uid:
        assert code, "the device is missing"
        assert "may make no device" in said
        assert "set-id bits" in said
        assert modes == {"roots": 0, "theirs": stat.S_ISUID, "group": 0, "dir": stat.S_ISGID}
    else:
        assert code == 0, said
        assert modes.pop("disk") == 0
        assert modes == {
            "roots": stat.S_ISUID, "theirs": stat.S_ISUID,
            "group": stat.S_ISGID, "dir": stat.S_ISGID,
        }  # fmt: skip
