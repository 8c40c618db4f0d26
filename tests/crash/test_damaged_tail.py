"""A damaged end of the log, and files that belong to no commit: what a crash can leave behind.

A power cut may leave the last log entry empty, cut off anywhere, or full of zeros, may leave it
whole while the data file it names is not there, and leaves files of commits that never happened.
The pond opens at the last whole commit, says what it set aside, deletes nothing, and goes on.
"""

from __future__ import annotations

import os
import random
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import polars as pl
import pytest

from tests.crash import delta_log
from tests.crash.journal import TreeModel, snapshot
from tests.crash.second_reader import assert_same, fold_by_dataframe, fold_by_sql
from tests.mount.harness import PondMount, is_mounted

if TYPE_CHECKING:
    from tests.conftest import MakePond

Damage = Callable[[Path], list[Path]]
"""Damages a store; returns the files that must end up set aside, deepest harm first."""

OPTIONS = "commit=3600,fsync=delta"
"""Each fsync makes a log entry."""


def sync(path: Path) -> None:
    """fsync a file or a directory."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


class Original:
    """A store of a few versions, its last two trees, and its files: copied for each damage."""

    def __init__(self, pond: PondMount) -> None:
        pond.mount(OPTIONS)
        for number in range(3):
            (pond.mnt / f"folder{number}").mkdir()
            (pond.mnt / f"folder{number}" / "file").write_bytes(os.urandom(5000))
            sync(pond.mnt / f"folder{number}")
        self.before = snapshot(pond.mnt)
        (pond.mnt / "folder0" / "file").rename(pond.mnt / "folder1" / "file")
        (pond.mnt / "last").write_bytes(os.urandom(5000))
        sync(pond.mnt)
        self.after = snapshot(pond.mnt)
        pond.umount()
        self.store = pond.store
        self.version = delta_log.head_version(pond.store)


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory, pond_env: dict[str, str]) -> Original:
    """The one store that every test here damages a copy of."""
    place = tmp_path_factory.mktemp("original")
    (place / "mnt").mkdir()
    return Original(PondMount(place / "store", place / "mnt", pond_env))


@pytest.fixture
def pond(original: Original, make_pond: MakePond) -> PondMount:
    """A pond on a copy of the original's store, not mounted."""
    pond = make_pond()
    shutil.copytree(original.store, pond.store)
    # What is saved there may be rebuilt at any time; the log is read below.
    shutil.rmtree(pond.store / "_pond")
    return pond


def head(store: Path) -> Path:
    """Return the last entry of the log."""
    return delta_log.entry_paths(store)[-1]


def cut_at(place: Callable[[bytes], int]) -> Damage:
    """Return a damage that cuts the last entry off at a place in it."""

    def damage(store: Path) -> list[Path]:
        content = head(store).read_bytes()
        length = place(content)
        assert 0 <= length < len(content)
        os.truncate(head(store), length)
        return [head(store)]

    return damage


def line_end(number: int) -> Callable[[bytes], int]:
    """Return the place after the line *number* (from 1; -2 is the last line but one)."""

    def place(content: bytes) -> int:
        lines = content.splitlines(keepends=True)
        return sum(map(len, lines[:number] if number > 0 else lines[: number + 1]))

    return place


def refill(make: Callable[[bytes], bytes]) -> Damage:
    """Return a damage that replaces the last entry's content."""

    def damage(store: Path) -> list[Path]:
        head(store).write_bytes(make(head(store).read_bytes()))
        return [head(store)]

    return damage


def zero_from_the_middle(content: bytes) -> bytes:
    """Keep the length and lose the second half: a file whose blocks never reached the disk."""
    return content[: len(content) // 2] + bytes(len(content) - len(content) // 2)


def lose_data_file(store: Path) -> list[Path]:
    """The entry is on the disk and its data file is not."""
    for name in delta_log.parse_entry(head(store)).adds:
        (store / name).unlink()
    return [head(store)]


def empty_data_file(store: Path) -> list[Path]:
    """The data file's name is on the disk and its bytes are not."""
    for name in delta_log.parse_entry(head(store)).adds:
        os.truncate(store / name, 0)
    return [head(store)]


def cut_data_file(store: Path) -> list[Path]:
    """The data file has lost its end, and with it Parquet's footer."""
    for name in delta_log.parse_entry(head(store)).adds:
        os.truncate(store / name, (store / name).stat().st_size - 1)
    return [head(store)]


DAMAGES: dict[str, Damage] = {
    "empty": cut_at(lambda content: 0),
    "one byte": cut_at(lambda content: 1),
    "cut in the first line": cut_at(lambda content: content.index(b"\n") // 2),
    "cut before a line end": cut_at(lambda content: content.index(b"\n")),
    "cut after the first line": cut_at(line_end(1)),
    "cut before the last line": cut_at(line_end(-2)),
    "cut in the last line": cut_at(lambda content: len(content.rstrip()) - 1),
    "zeros": refill(lambda content: bytes(len(content))),
    "zeros from the middle": refill(zero_from_the_middle),
    "garbage": refill(lambda content: random.Random(5).randbytes(len(content))),
    "JSON, but no actions": refill(lambda content: b'[1]\n"x"\n'),
    "a page of zeros behind it": refill(lambda content: content + bytes(4096)),
    "no data file": lose_data_file,
    "an empty data file": empty_data_file,
    "a data file cut off": cut_data_file,
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
def test_a_bad_last_commit_is_set_aside(
    original: Original, pond: PondMount, damage: Damage
) -> None:
    """The pond opens at the commit before, says so, keeps the bad file, and commits again."""
    bad = damage(pond.store)
    content = {path: path.read_bytes() for path in bad}
    pond.allow_log("set.aside", *(path.name for path in bad))
    mounted = pond.run("mount.pond", str(pond.store), str(pond.mnt), "-o", OPTIONS)
    for path in bad:
        assert path.name in mounted.stderr, "mount.pond does not name it"
        assert path.name in pond.daemon_log(), "the daemon's log does not name it"
        assert not path.exists(), f"{path.name} is still in the table"
        kept = [found for found in set_aside(pond.store) if path.name in found.name]
        assert [found.read_bytes() for found in kept] == [content[path]], "it is not kept"
    assert not original.before.differences(snapshot(pond.mnt))
    assert delta_log.head_version(pond.store) == original.version - 1
    go_on(pond, original.before, original.version)


def set_aside(store: Path) -> list[Path]:
    """Return the files that were set aside."""
    return [path for path in (store / "_pond" / "set-aside").rglob("*") if path.is_file()]


def go_on(pond: PondMount, tree: TreeModel, version: int) -> None:
    """Commit *version* on top of *tree*, twice mount, and have other engines read the table."""
    (pond.mnt / "folder0" / "next").write_bytes(b"next")
    sync(pond.mnt / "folder0" / "next")
    assert delta_log.head_version(pond.store) == version
    pond.umount()
    second = pond.run("mount.pond", str(pond.store), str(pond.mnt), "-o", OPTIONS)
    assert second.stderr == "", "the second mount has something to complain about"
    now = snapshot(pond.mnt)
    (pond.mnt / "folder0" / "next").unlink()
    assert now.differences(snapshot(pond.mnt)) == {"folder0/next"}
    assert not tree.differences(snapshot(pond.mnt))
    pond.remount()
    assert_same(fold_by_sql(delta_log.data_files(pond.store)), pond.mnt)
    assert_same(fold_by_dataframe(pl.read_delta(str(pond.store))), pond.mnt)


def test_files_of_no_commit_do_no_harm(original: Original, pond: PondMount) -> None:
    """Data files whose commit never happened, whole or torn, and temporary files of every kind."""
    data = delta_log.data_files(pond.store)[-1]
    strays = {
        pond.store / "00000000-0000-4000-8000-000000000001.parquet": data.read_bytes(),
        pond.store / "00000000-0000-4000-8000-000000000002.parquet": data.read_bytes()[:-9],
        pond.store / "00000000-0000-4000-8000-000000000003.parquet": b"",
        pond.store / "part-00000-foreign.snappy.parquet": b"PAR1",
        pond.store / ".tmp-data": b"half",
        delta_log.log_dir(pond.store) / "_commit_00000000-0000-4000.json.tmp": b'{"add"',
        delta_log.log_dir(pond.store) / ".00000000000000000099.json.tmp": b"",
        delta_log.log_dir(pond.store) / "00000000000000000099.json.crc": b"",
    }
    for path, content in strays.items():
        path.write_bytes(content)
    pond.mount(OPTIONS)
    assert not original.after.differences(snapshot(pond.mnt))
    assert not set_aside(pond.store)
    go_on(pond, original.after, original.version + 1)


def test_a_bad_entry_in_the_middle_is_no_tail(original: Original, pond: PondMount) -> None:
    """What comes after it was acknowledged: mounting without it would lose data, so it is refused.

    Nothing is changed, so that a copy of the entry from a backup makes the pond whole again.
    """
    middle = delta_log.entry_paths(pond.store)[-2]
    content = middle.read_bytes()
    os.truncate(middle, len(content) // 2)
    before = fingerprint(pond.store)
    refused = pond.run("mount.pond", str(pond.store), str(pond.mnt), check=False)
    assert_refused(pond, refused, middle.name)
    assert fingerprint(pond.store) == before
    middle.write_bytes(content)
    pond.mount(OPTIONS)
    assert not original.after.differences(snapshot(pond.mnt))


def test_a_gap_in_the_log_is_no_tail(original: Original, pond: PondMount) -> None:
    """An entry is missing between two others: the same, refused and untouched."""
    middle = delta_log.entry_paths(pond.store)[-2]
    middle.unlink()
    before = fingerprint(pond.store)
    refused = pond.run("mount.pond", str(pond.store), str(pond.mnt), check=False)
    assert_refused(pond, refused, middle.name.lstrip("0").removesuffix(".json"))
    assert fingerprint(pond.store) == before


def test_a_lost_data_file_of_an_older_commit_is_never_passed_over(
    original: Original, pond: PondMount
) -> None:
    """It held acknowledged data, and the commits after it are whole: no older state is right."""
    lost = pond.store / delta_log.read_log(pond.store)[-2].adds[0]
    lost.unlink()
    before = fingerprint(pond.store)
    refused = pond.run("mount.pond", str(pond.store), str(pond.mnt), check=False)
    assert_refused(pond, refused, lost.name)
    assert fingerprint(pond.store) == before


def assert_refused(pond: PondMount, refused: subprocess.CompletedProcess[str], named: str) -> None:
    """Fail unless the mount was refused in one line that names what is wrong."""
    pond.allow_log(named)
    assert refused.returncode != 0
    assert not is_mounted(pond.mnt)
    assert named in refused.stderr, refused.stderr
    assert len(refused.stderr.splitlines()) == 1, refused.stderr


def fingerprint(store: Path) -> dict[str, bytes]:
    """Return every file of the table with its bytes; ``_pond`` is not part of it."""
    return {
        str(path.relative_to(store)): path.read_bytes()
        for path in store.rglob("*")
        if path.is_file() and "_pond" not in path.parts
    }
