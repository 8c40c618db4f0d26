"""Data files in no version: which go while the pond is mounted, and which never."""

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from deltalake import DeltaTable

from pondfs.node import Version
from pondfs.oplog import Row
from pondfs.store import leftovers, table
from pondfs.store.delta import DeltaStore
from pondfs.store.lock import rewriting
from pondfs.store.scratch import ScratchStore
from tests.unit.store.support import (
    as_file,
    committed,
    data_file_names,
    file_row,
    make_cut,
    new_pond,
    open_pond,
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "pond"


@pytest.fixture
def store(path: Path) -> Iterator[DeltaStore]:
    store = new_pond(path)
    yield store
    store.close()


@pytest.fixture
def stray(path: Path, store: DeltaStore) -> str:
    """What a stage left that did not get to its end."""
    return make_stray(path)


def make_stray(path: Path) -> str:
    name = as_file(path, 2, rows()).name
    make_old(path, name)
    return name


def rows() -> list[Row]:
    return [file_row(10, b"x", b"f")]


def make_old(path: Path, name: str) -> None:
    old = time.time() - 2 * leftovers.STRAY_AGE_S
    os.utime(path / name, (old, old))


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files count at the first look already."""
    monkeypatch.setattr(leftovers, "SEEN_S", 0.0)


@pytest.mark.usefixtures("seen")
def test_an_old_one_goes(path: Path, store: DeltaStore, stray: str) -> None:
    assert store.has_old_strays()
    assert store.remove_old_strays() == [stray]
    assert not store.has_old_strays()
    assert data_file_names(path) == committed(path)


def test_one_that_was_just_seen_stays_whatever_the_clock_says(
    store: DeltaStore, stray: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A computer without a clock learns after a minute that it is not 1970."""
    assert not store.has_old_strays()
    assert store.remove_old_strays() == []
    now_s = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now_s + leftovers.SEEN_S + 1)
    assert store.has_old_strays()
    assert store.remove_old_strays() == [stray]


@pytest.mark.usefixtures("seen")
def test_a_young_one_stays(path: Path, store: DeltaStore) -> None:
    as_file(path, 2, rows())
    assert not store.has_old_strays()
    assert store.remove_old_strays() == []
    assert len(data_file_names(path)) == 2


@pytest.mark.usefixtures("seen")
def test_what_is_about_to_be_committed_stays(path: Path, store: DeltaStore) -> None:
    """Also when it was staged days ago."""
    staged = store.stage(Version(2), 0, rows())
    make_old(path, staged.file.name)
    assert not store.has_old_strays()
    assert store.remove_old_strays() == []
    store.commit(make_cut(2, [], first_seq=1, staged=[staged.file]))
    make_old(path, staged.file.name)
    assert not store.has_old_strays()
    assert store.remove_strays(-1) == []
    assert data_file_names(path) == committed(path)


@pytest.mark.usefixtures("seen")
def test_what_others_have_or_had_in_the_table_stays(path: Path, store: DeltaStore) -> None:
    store.commit(make_cut(2, rows()))
    DeltaTable(path).optimize.compact()
    for name in data_file_names(path):
        make_old(path, name)
    before = data_file_names(path)
    # Ours do not know of it: the log does.
    assert store.remove_old_strays() == []
    assert store.remove_strays(-1) == []
    assert data_file_names(path) == before


@pytest.mark.usefixtures("seen")
def test_a_transaction_beside_the_mount_keeps_its_files(
    path: Path, store: DeltaStore, stray: str
) -> None:
    """It may take longer than a day."""
    scratch = ScratchStore.open_reader(path)
    mine = scratch.stage(Version(2), 0, rows())
    make_old(path, mine.file.name)
    assert store.has_old_strays()
    assert store.remove_old_strays() == []
    assert {stray, mine.file.name} <= data_file_names(path)
    scratch.close()
    assert store.has_old_strays()
    assert store.remove_old_strays() == [stray]


@pytest.mark.usefixtures("seen")
def test_a_prune_that_is_being_prepared_keeps_its_files(
    path: Path, store: DeltaStore, stray: str
) -> None:
    with rewriting(os.fspath(path / table.POND_DIR), wait=True):
        assert store.has_old_strays()
        assert store.remove_old_strays() == []
    assert store.has_old_strays()
    assert store.remove_old_strays() == [stray]


@pytest.mark.usefixtures("seen")
def test_what_belongs_to_an_entry_that_was_set_aside_stays(
    path: Path, store: DeltaStore, stray: str
) -> None:
    aside = path / table.POND_DIR / table.SET_ASIDE_DIR
    aside.mkdir()
    (aside / "something").write_bytes(b"x")
    assert store.has_old_strays()
    assert store.remove_old_strays() == []
    assert stray in data_file_names(path)


def test_at_opening_they_go_at_once(path: Path, store: DeltaStore) -> None:
    store.close()
    stray = make_stray(path)
    reader = DeltaStore.open_reader(path)
    open_pond(path).close()
    assert stray in data_file_names(path)
    reader.close()
    open_pond(path).close()
    assert data_file_names(path) == committed(path)
