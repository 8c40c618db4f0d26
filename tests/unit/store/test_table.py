import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest
from deltalake import DeltaTable

from pondfs.errors import NotAPond, PondExists, PondLocked, StoreDamaged
from pondfs.node import ROOT, Version
from pondfs.store import DeltaStore, create, is_pond, open_reader, open_writer, table
from pondfs.store.lock import WriterLock
from pondfs.store.repair import repair_store
from tests.unit.store.support import (
    data_file_names,
    file_row,
    log_entry,
    make_cut,
    new_pond,
    open_pond,
)


@pytest.fixture
def pond(tmp_path: Path) -> Path:
    """A pond of versions 1 to 3."""
    path = tmp_path / "pond"
    store = new_pond(path)
    for version in (2, 3):
        store.commit(make_cut(version, [file_row(version, b"x" * 100, b"f%d" % version)]))
    store.close()
    return path


def names(store: DeltaStore) -> set[bytes]:
    return set(store.load_image().load_entries(ROOT))


# --- creating ---


def test_a_new_pond_has_a_root_directory_and_one_version(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b"
    assert not is_pond(path)
    create(path)
    assert is_pond(path)
    assert path.stat().st_mode & 0o777 == 0o700
    store = open_reader(path)
    image = store.load_image()
    root = image.find_node(ROOT)
    assert root is not None
    assert root.attr[:6] == (0o40755, os.getuid(), os.getgid(), 2, 0, 0)
    assert (image.version, image.node_count, root.parent) == (Version(1), 1, ROOT)
    assert image.load_entries(ROOT) == {}
    store.close()
    configuration = DeltaTable(path).metadata().configuration
    assert configuration["delta.appendOnly"] == "true"
    assert configuration["delta.enableExpiredLogCleanup"] == "false"
    assert int(configuration["delta.checkpointInterval"]) > 10**6


def test_an_existing_empty_directory_becomes_private(tmp_path: Path) -> None:
    """It had 0750 before, and all versions of all files were to be read by its group."""
    path = tmp_path / "pond"
    path.mkdir(mode=0o750)
    (path / "lost+found").mkdir()
    create(path)
    assert path.stat().st_mode & 0o777 == 0o700


def test_nothing_else_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("x")
    with pytest.raises(PondExists, match="not empty"):
        create(tmp_path)
    with pytest.raises(PondExists, match="no directory"):
        create(tmp_path / "precious")
    assert os.listdir(tmp_path) == ["precious"]


def test_a_pond_is_not_created_twice(pond: Path) -> None:
    with pytest.raises(PondExists, match="already holds a pond"):
        create(pond)


def test_a_foreign_delta_table_is_not_taken_for_an_empty_directory(tmp_path: Path) -> None:
    DeltaTable.create(tmp_path / "t", schema=pa.schema([pa.field("a", pa.int64())]))
    with pytest.raises(PondExists):
        create(tmp_path / "t")
    store = open_writer(tmp_path / "t", mountpoint="", socket="")
    with pytest.raises(StoreDamaged):
        store.load_image()
    store.close()


CREATE = "import sys; from pondfs.store import create; create(sys.argv[1])"
POINTS = [
    "create:marker", "create:table", "data-file:fsync", "commit:data-file",
    "commit:store-dir-fsync", "commit:entry-fsync", "commit:link", "commit:log-dir-fsync",
    "commit:done", "create:done",
]  # fmt: skip


@pytest.mark.parametrize("point", POINTS)
def test_a_creation_that_was_killed_is_done_over(tmp_path: Path, point: str) -> None:
    path = tmp_path / "pond"
    env = {**os.environ, "PONDFS_FAULT": f"{point}:1"}
    killed = subprocess.run([sys.executable, "-c", CREATE, path], env=env, check=False)
    assert killed.returncode == -signal.SIGKILL
    if point != "create:done":
        assert not is_pond(path)
        with pytest.raises(NotAPond):
            open_pond(path)
        create(path)
    store = open_pond(path)
    assert store.load_image().version == 1
    assert store.strays == []
    store.close()


def test_two_creations_at_once_do_not_harm_each_other(tmp_path: Path) -> None:
    path = tmp_path / "pond"
    table.make_directory(os.fspath(path))
    lock = WriterLock(os.fspath(path / "_pond"), mountpoint="", socket="")
    table.begin_creation(os.fspath(path))
    with pytest.raises(PondLocked):
        create(path)
    lock.release()
    create(path)


# --- opening ---


def test_no_pond(tmp_path: Path) -> None:
    for opening in (open_pond, open_reader):
        with pytest.raises(NotAPond, match="is no pond"):
            opening(tmp_path / "nothing")


def test_the_local_directory_may_be_missing(pond: Path) -> None:
    """A copy of the table alone is a pond."""
    (pond / "_pond" / "lock").unlink()
    shutil.rmtree(pond / "_pond")
    open_reader(pond).close()
    assert not (pond / "_pond").exists()
    store = open_pond(pond)
    assert names(store) == {b"f2", b"f3"}
    store.close()


def cut_entry(path: Path) -> None:
    entry = log_entry(path, 3)
    entry.write_bytes(entry.read_bytes()[:-20])


def lose_lines(path: Path) -> None:
    entry = log_entry(path, 3)
    entry.write_bytes(b"".join(entry.read_bytes().splitlines(keepends=True)[:-1]))


def empty_entry(path: Path) -> None:
    log_entry(path, 3).write_bytes(b"")


def newest_file(path: Path) -> Path:
    (name,) = (n for n in data_file_names(path) if n.encode() in log_entry(path, 3).read_bytes())
    return path / name


def lose_file(path: Path) -> None:
    newest_file(path).unlink()


def cut_file(path: Path) -> None:
    newest_file(path).write_bytes(newest_file(path).read_bytes()[:-1])


@pytest.mark.parametrize("damage", [cut_entry, lose_lines, empty_entry, lose_file, cut_file])
def test_a_newest_commit_that_is_not_whole_is_set_aside(
    pond: Path, damage: Callable[[Path], None]
) -> None:
    damage(pond)
    bad = log_entry(pond, 3).read_bytes()
    reader = open_reader(pond)
    assert names(reader) == {b"f2"}
    assert f"{3:020d}.json" in reader.notes[0]
    reader.close()
    assert log_entry(pond, 3).read_bytes() == bad, "a reader changes nothing"
    store = open_pond(pond)
    (note,) = store.notes
    assert f"{3:020d}.json" in note
    assert "set aside" in note
    (kept,) = (pond / "_pond" / "set-aside").iterdir()
    assert kept.read_bytes() == bad
    assert names(store) == {b"f2"}
    # Its version is made again, by other rows.
    store.commit(make_cut(3, [file_row(9, b"new", b"f9")]))
    store.close()
    again = open_pond(pond)
    assert again.notes == []
    assert names(again) == {b"f2", b"f9"}
    again.close()


@pytest.mark.parametrize("writable", [True, False])
def test_a_file_of_an_older_commit_is_never_passed_over(pond: Path, writable: bool) -> None:
    entry = log_entry(pond, 2).read_bytes()
    (name,) = (n for n in data_file_names(pond) if n.encode() in entry)
    (pond / name).rename(pond / "elsewhere")
    for damage in (None, lose_file, empty_entry):
        if damage is not None:
            damage(pond)
        with pytest.raises(StoreDamaged, match=name):
            open_pond(pond) if writable else open_reader(pond)
        assert log_entry(pond, 3).exists(), "what is refused stays as it is"


def test_two_bad_entries_are_more_than_a_crash_leaves(pond: Path) -> None:
    for number in (2, 3):
        log_entry(pond, number).write_bytes(b"")
    with pytest.raises(StoreDamaged, match=r"00002\.json"):
        open_pond(pond)
    assert log_entry(pond, 3).exists()


def test_a_file_that_a_checkpoint_vouches_for_is_no_matter_of_a_crash(pond: Path) -> None:
    """Setting the entry aside would leave the checkpoint, which says the same."""
    DeltaTable(pond).create_checkpoint()
    lost = newest_file(pond)
    lost.unlink()
    with pytest.raises(StoreDamaged, match=lost.name):
        open_pond(pond)
    assert log_entry(pond, 3).exists()


def test_temporary_entries_of_a_crash_are_swept_up(pond: Path) -> None:
    left = pond / "_delta_log" / f".{4:020d}.json.tmp"
    left.write_bytes(b"{")
    open_reader(pond).close()
    assert left.exists()
    open_pond(pond).close()
    assert not left.exists()


def test_a_newest_entry_that_rotted_is_not_passed_over(pond: Path) -> None:
    """Its commit was acknowledged: it goes when somebody says so, not by opening."""
    entry = log_entry(pond, 3)
    rotten = entry.read_bytes().replace(b'"user"', b'"usfr"')
    entry.write_bytes(rotten)
    for opened in (open_pond, open_reader):
        with pytest.raises(StoreDamaged, match=rf"{entry.name} is damaged .*'pond repair'"):
            opened(pond)
    assert entry.read_bytes() == rotten
    outcome = repair_store(pond)
    assert outcome.after is not None
    assert not outcome.after.findings
    (kept,) = (pond / "_pond" / "set-aside").iterdir()
    assert kept.read_bytes() == rotten
    store = open_pond(pond)
    assert names(store) == {b"f2"}
    store.close()
