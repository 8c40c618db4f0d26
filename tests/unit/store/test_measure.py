"""The figures of a pond, held against its table and its tree."""

import json
import math
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pyarrow.dataset as ds
import pytest
import trio

from pondfs.figures import Figures
from pondfs.node import NodeId, Version
from pondfs.store import images, measure
from pondfs.store.compact import make_plan
from pondfs.store.compact_files import write_files
from pondfs.store.delta import DeltaStore
from pondfs.store.lock import ReaderLock
from pondfs.store.measure import Measurer
from tests.unit.store.histories import Walk
from tests.unit.store.support import (
    committed,
    extent_row,
    file_row,
    make_cut,
    new_pond,
    open_pond,
    size_row,
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "pond"


@pytest.fixture
def store(path: Path) -> Iterator[DeltaStore]:
    store = new_pond(path)
    yield store
    store.close()


def content_bytes(path: Path, after: int = 0) -> int:
    """All content in the table, by its column ``content``, as another reader has it."""
    files = [os.fspath(path / name) for name in committed(path)]
    table = ds.dataset(files).to_table(["version", "content"])
    pairs = zip(table["version"].to_pylist(), table["content"].to_pylist(), strict=True)
    return sum(len(content) for version, content in pairs if version > after)


def live_bytes(store: DeltaStore) -> int:
    """What the newest tree shows: its files' extents, its symlinks' targets."""
    image = store.load_image()
    total = 0
    for node in image.node_ids():
        found = image.find_node(NodeId(node))
        assert found is not None
        total += sum(extent.length for extent in image.load_extents(NodeId(node)))
        total += len(found.target or b"")
    return total


def check(figures: Figures, store: DeltaStore, path: Path) -> None:
    """Compare all that another way to count can tell."""
    files = committed(path)
    assert figures.version == figures.newest == store.list_versions()[0].version
    assert figures.live_bytes == live_bytes(store)
    assert figures.history_bytes == content_bytes(path) - live_bytes(store)
    assert figures.newer_bytes == 0
    assert figures.data_files == len(files)
    assert figures.data_bytes == sum((path / name).stat().st_size for name in files)


# --- content ---


@pytest.mark.parametrize("seed", range(6))
def test_all_content_is_live_or_history(
    path: Path, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a saved image and without, from rows that are cached and from those that are not."""
    monkeypatch.setattr(images, "WORTH_ROWS", 1 if seed % 2 else 10**9)
    walk = Walk(path, seed)
    trio.run(walk.run, 120, 0.3)
    measurer = Measurer(path)
    check(measurer.measure(math.inf), walk.store, path)
    trio.run(walk.run, 60, 0.3)
    check(measurer.measure(math.inf), walk.store, path)
    walk.close()
    store = open_pond(path)
    assert (path / "_pond" / "image").exists() == bool(seed % 2)
    check(store.measure(math.inf), store, path)
    store.swap_files(write_files(make_plan(path)).request)
    check(store.measure(math.inf), store, path)
    store.close()


def test_a_hole_is_no_content(store: DeltaStore, path: Path) -> None:
    store.commit(make_cut(2, [file_row(10, b"abc", b"f"), size_row(10, 1 << 40)]))
    figures = store.measure(math.inf)
    assert (figures.live_bytes, figures.history_bytes) == (3, 0)
    store.commit(make_cut(3, [extent_row(10, 1, b"XYZ")]))
    figures = store.measure(math.inf)
    assert (figures.live_bytes, figures.history_bytes) == (4, 2)
    store.commit(make_cut(4, [size_row(10, 0, 0)]))
    figures = store.measure(math.inf)
    assert (figures.live_bytes, figures.history_bytes) == (0, 6)


def test_of_what_takes_long_an_older_version_is_told(
    store: DeltaStore, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.commit(make_cut(2, [file_row(10, b"x" * 100, b"f")]))
    store.commit(make_cut(3, [file_row(10, b"y" * 30, b"f")]))
    assert store.measure(0.0).version is None  # there is no image, and none may be folded
    monkeypatch.setattr(images, "WORTH_ROWS", 1)
    store.close()  # saves it
    again = open_pond(path)
    again.commit(make_cut(4, [extent_row(10, 5, b"z" * 7)]))
    figures = Measurer(path).measure(0.0)
    assert (figures.version, figures.newest) == (3, 4)
    assert figures.live_bytes == 30
    assert figures.image is not None
    assert figures.image.version == 3
    assert figures.image.bytes == (path / "_pond" / "image").stat().st_size
    figures = Measurer(path).measure(math.inf)
    assert (figures.version, figures.live_bytes, figures.history_bytes) == (4, 30, 107)
    again.close()


def test_counting_goes_on_where_it_had_no_time(
    store: DeltaStore, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is not counted is not guessed; the files that were, are not looked at again."""
    for version in range(2, 6):
        store.commit(make_cut(version, [file_row(10 + version, b"x" * 10, b"f%d" % version)]))
    monkeypatch.setattr(images, "WORTH_ROWS", 1)
    store.close()
    (path / "_pond" / "rows").unlink(missing_ok=True)
    measurer = Measurer(path)
    now = iter(range(1000))  # each look at the clock is a second later
    monkeypatch.setattr(time, "monotonic", lambda: float(next(now)))
    figures = measurer.measure(2.5)
    assert (figures.version, figures.live_bytes, figures.history_bytes) == (5, 40, None)
    looks = 1
    while measurer.measure(2.5).history_bytes is None:
        looks += 1
    assert looks == 2  # two files each time, of five
    assert measurer.measure(0.0).history_bytes == 0


def test_a_compaction_meanwhile_is_not_held_up(
    store: DeltaStore, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The writer counts without the lock for readers: the old files go, and it begins anew."""
    for version in range(2, 7):
        store.commit(make_cut(version, [file_row(10 + version, b"x" * 10, b"f%d" % version)]))
    freed: list[int] = []
    clock = time.monotonic

    def compact_at_first() -> float:
        # When the log has been read, and no data file yet.
        monkeypatch.setattr(time, "monotonic", clock)
        store.swap_files(write_files(make_plan(path)).request)
        freed.append(store.remove_pruned(now=True))
        return clock()

    monkeypatch.setattr(time, "monotonic", compact_at_first)
    figures = store.measure(10.0)
    assert len(freed) == 1
    assert freed[0] > 0
    check(figures, store, path)
    assert figures.data_files == 1


# --- what is left over ---


def test_files_that_wait_for_readers_can_be_reclaimed(store: DeltaStore, path: Path) -> None:
    for version in range(2, 7):
        store.commit(make_cut(version, [file_row(10 + version, b"x" * 10, b"f%d" % version)]))
    old = {name: (path / name).stat().st_size for name in committed(path)}
    assert store.measure(math.inf).reclaimable_files == 0
    reading = ReaderLock(os.fspath(path / "_pond"))
    store.swap_files(write_files(make_plan(path)).request)
    store.remove_pruned(now=True)
    figures = store.measure(math.inf)
    assert figures.data_files == 1
    assert (figures.reclaimable_files, figures.reclaimable_bytes) == (len(old), sum(old.values()))
    reading.release()
    store.remove_pruned(now=True)
    figures = store.measure(math.inf)
    assert (figures.reclaimable_files, figures.reclaimable_bytes) == (0, 0)


def test_what_a_crash_left_can_be_reclaimed_and_a_stage_can_not(
    store: DeltaStore, path: Path
) -> None:
    staged = store.stage(Version(2), 0, [file_row(10, b"x" * 1000, b"f")])
    stray = path / "0a0a0a0a-0000-0000-0000-00000000000f.parquet"
    stray.write_bytes(b"left over")
    theirs = path / "part-0001.parquet"
    theirs.write_bytes(b"somebody else's")
    assert store.measure(math.inf).reclaimable_files == 0  # it may be about to be committed
    long_ago = time.time() - measure.STRAY_AGE_S - 60
    for file in (path / staged.file.name, stray, theirs):
        os.utime(file, (long_ago, long_ago))
    figures = store.measure(math.inf)
    assert (figures.reclaimable_files, figures.reclaimable_bytes) == (1, len(b"left over"))


# --- the log, and the last compaction ---


def test_the_log_counts_from_its_checkpoint(store: DeltaStore, path: Path) -> None:
    assert store.measure(math.inf).log_entries == 2  # the table, and version 1
    store.commit(make_cut(2, [file_row(10, b"x", b"f")]))
    assert store.measure(math.inf).log_entries == 3
    store.checkpoint(now=True)
    assert store.measure(math.inf).log_entries == 0
    store.put_tag("a", Version(2))
    assert store.measure(math.inf).log_entries == 1


def test_the_last_compaction_is_remembered(store: DeltaStore, path: Path) -> None:
    for version in range(2, 7):
        store.commit(make_cut(version, [file_row(10 + version, b"x" * 10, b"f%d" % version)]))
    assert store.measure(math.inf).compaction is None
    plan, before = make_plan(path), time.time()
    swap = store.swap_files(write_files(plan).request)
    last = store.measure(math.inf).compaction
    assert last is not None
    assert last == swap.compaction
    assert before <= last.timestamp <= time.time()
    assert 0 < last.duration_s <= time.time() - before
    assert (last.files_before, last.bytes_before) == (len(plan.files), plan.bytes)
    assert (last.files_after, last.bytes_after) == (1, store.measure(math.inf).data_bytes)
    store.close()
    assert Measurer(path).measure(0.0).compaction == last
    note = path / "_pond" / "compacted"
    for text in ("", "{}", "[]", json.dumps({"timestamp": "yesterday"})):
        note.write_text(text)
        assert Measurer(path).measure(0.0).compaction is None
