import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import polars as pl
import pytest
from deltalake import DeltaTable

from pondfs.errors import NotPermitted, PondLocked, StoreDamaged
from pondfs.node import NodeId, Version
from pondfs.oplog import Cut
from pondfs.store import DeltaStore, open_reader
from tests.unit.store.support import (
    adopt,
    committed,
    data_file_names,
    extent_row,
    fault,
    file_row,
    log_entry,
    make_cut,
    names,
    new_pond,
    open_pond,
    read_bytes,
    read_file,
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


# --- commits and stages ---


def test_what_was_committed_is_there_after_reopening(path: Path, store: DeltaStore) -> None:
    data = os.urandom(10_000)
    cut = make_cut(2, [file_row(10, data, b"f"), file_row(11, None, b"empty")])
    settled = store.commit(cut)
    assert (len(settled.contents), settled.row_numbers) == (1, [0])
    adopt(settled)
    content = settled.contents[0]
    assert content.data is None
    assert read_bytes(store, content, 100, 50) == data[100:150]
    store.close()
    again = open_pond(path)
    image = again.load_image()
    assert image.version == 2
    assert read_file(again, image, 10) == data
    assert read_file(again, image, 11) == b""
    again.close()


def test_a_commit_of_nothing_but_staged_files(path: Path, store: DeltaStore) -> None:
    parts = [os.urandom(3 << 20), os.urandom(5 << 20)]
    first = store.stage(Version(2), 0, [file_row(10, parts[0], b"f")])
    second = store.stage(Version(2), 1, [extent_row(10, 3 << 20, parts[1])])
    adopt(first)
    adopt(second)
    assert committed(path) == data_file_names(path) - {first.file.name, second.file.name}
    cut = make_cut(2, [size_row(10, 8 << 20)], first_seq=2, staged=[first.file, second.file])
    store.commit(cut)
    assert committed(path) == data_file_names(path)
    nothing = store.stage(Version(3), 0, [extent_row(10, 0, b"new")])
    store.commit(make_cut(3, [], first_seq=1, staged=[nothing.file]))
    image = store.load_image()
    assert image.version == 3
    assert read_file(store, image, 10) == b"new" + (parts[0] + parts[1])[3:]


def test_the_order_of_a_commit(
    path: Path, store: DeltaStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Data file, its directory, log entry, its name, the log's directory: each before the next."""
    done: list[str] = []
    sync, link = os.fsync, os.link

    def note_sync(fd: int) -> None:
        where = os.readlink(f"/proc/self/fd/{fd}")
        done.append("entry" if "/#" in where else os.path.relpath(where, path))
        sync(fd)

    def note_link(*args: Any, **kwargs: Any) -> None:
        done.append("link")
        link(*args, **kwargs)

    monkeypatch.setattr(os, "fsync", note_sync)
    monkeypatch.setattr(os, "link", note_link)
    settled = store.commit(make_cut(2, [file_row(10, b"x", b"f")]))
    assert done == [settled.file.name, ".", "entry", "link", "_delta_log"]
    done.clear()
    staged = store.stage(Version(3), 0, [file_row(11, b"x", b"g")])
    assert done == [staged.file.name, "."]


def test_a_failed_stage_leaves_nothing(path: Path, store: DeltaStore) -> None:
    before = data_file_names(path)
    for point in ("data-file:fsync", "commit:store-dir-fsync"):
        with fault(point, "ENOSPC"), pytest.raises(OSError, match="No space"):
            store.stage(Version(2), 0, [file_row(10, b"x", b"f")])
    assert data_file_names(path) == before


# --- readers ---


def test_a_reader_beside_a_writer_sees_whole_commits(path: Path, store: DeltaStore) -> None:
    reader = open_reader(path)
    assert names(reader) == set()
    store.commit(make_cut(2, [file_row(10, b"x", b"f")]))
    assert names(reader) == {b"f"}
    assert read_file(reader, reader.load_image(), 10) == b"x"
    with pytest.raises(NotPermitted, match="reading only"):
        reader.commit(make_cut(3, []))
    with pytest.raises(NotPermitted, match="reading only"):
        reader.stage(Version(3), 0, [size_row(10, 1)])
    reader.close()


def test_a_second_writer_is_refused(path: Path, store: DeltaStore) -> None:
    with pytest.raises(PondLocked, match=rf"mounted at /mnt/test by process {os.getpid()}"):
        open_pond(path)


def test_past_versions(store: DeltaStore) -> None:
    store.commit(make_cut(2, [file_row(10, b"one", b"f")]))
    store.commit(make_cut(3, [extent_row(10, 0, b"TWO")]))
    for version, data in ((2, b"one"), (3, b"TWO")):
        image = store.load_image_at(Version(version))
        assert image.version == version
        assert read_file(store, image, 10) == data


def test_rows_that_the_log_promises_and_no_file_has(path: Path, store: DeltaStore) -> None:
    store.commit(make_cut(2, [file_row(10, b"x", b"f")]))
    store.close()
    entry = log_entry(path, 2)
    unsummed = re.sub(rb'"crc":"[0-9a-f]{8}",', b"", entry.read_bytes())
    entry.write_bytes(unsummed.replace(b'"pondfs","version":2', b'"pondfs","version":9'))
    again = open_pond(path)
    with pytest.raises(StoreDamaged, match="up to version 2 only"):
        again.load_image()
    again.close()


def test_other_engines_read_the_table(path: Path, store: DeltaStore) -> None:
    data = {b"f%d" % i: os.urandom(1 + i * 997) for i in range(50)}
    rows = [file_row(10 + i, content, name) for i, (name, content) in enumerate(data.items())]
    store.commit(make_cut(2, rows[:25]))
    store.commit(make_cut(3, rows[25:]))
    expected = {name.decode(): content for name, content in data.items()}
    frame = pl.read_delta(os.fspath(path)).filter(pl.col("name").is_not_null())
    assert dict(zip(frame["name"], frame["content"], strict=True)) == expected
    assert frame["size"].to_list() == [len(content) for content in frame["content"]]
    assert frame["length"].to_list() == frame["size"].to_list()
    files = [os.fspath(path / name) for name in committed(path)]
    found = duckdb.connect().execute(
        "select name, content from read_parquet(?) where name is not null", [files]
    )
    assert dict(found.fetchall()) == expected


# --- housekeeping ---


def test_strays_are_known_and_removed_only_when_old_enough(path: Path, store: DeltaStore) -> None:
    left = store.stage(Version(2), 0, [file_row(10, b"x", b"f")])
    store.close()
    again = open_pond(path)
    assert again.strays == [left.file.name]
    young = again.stage(Version(2), 0, [file_row(10, b"y", b"f")])
    assert again.remove_strays(3600) == []
    old = time.time() - 7200
    for name in data_file_names(path):
        os.utime(path / name, (old, old))
    assert again.remove_strays(3600) == [left.file.name]
    again.commit(make_cut(2, [], first_seq=1, staged=[young.file]))
    assert names(again) == {b"f"}
    assert committed(path) == data_file_names(path)
    again.close()
    with pytest.raises(NotPermitted, match="reading only"):
        open_reader(path).remove_strays(0)


def test_closing_twice_and_free_space(path: Path) -> None:
    new_pond(path.with_name("first")).close()  # delta-rs opens some for good
    before = len(os.listdir("/proc/self/fd"))
    store = new_pond(path)
    assert store.statvfs().f_blocks > 0
    store.close()
    store.close()
    # Less, when what an earlier test left was collected meanwhile.
    assert len(os.listdir("/proc/self/fd")) <= before


def test_a_cut_is_never_changed(store: DeltaStore) -> None:
    cut: Cut = make_cut(2, [file_row(10, b"x", b"f")])
    rows = list(cut.rows)
    store.commit(cut)
    assert cut.rows == rows
    assert cut.staged == []
    assert store.load_image().find_node(NodeId(10)) is not None


# --- kill -9 ---

POINTS = [
    "commit:data-file", "data-file:fsync", "commit:store-dir-fsync", "commit:entry-fsync",
    "commit:link", "commit:log-dir-fsync", "commit:done", "stage:done",
]  # fmt: skip

WORK = """
import sys
from pondfs.node import Version
from pondfs.store import checkpoint
from tests.unit.store.support import extent_row, file_row, make_cut, open_pond

checkpoint.ENTRIES_BETWEEN = 4
for session in range(3):
    store = open_pond(sys.argv[1])
    version = store.load_image().version
    for version in range(version + 1, version + 4):
        staged = store.stage(Version(version), 0, [file_row(version, b"%d staged" % version, b"f")])
        rows = [extent_row(version, 0, b"%d commit" % version)]
        store.commit(make_cut(version, rows, first_seq=1, staged=[staged.file]))
        print(version, flush=True)
    store.close()
"""
KILLS = [
    *((point, n) for point in POINTS for n in (1, 4)),
    *((point, n) for point in ("checkpoint:rename", "checkpoint:done") for n in (1, 2)),
]


@pytest.mark.parametrize(("point", "time"), KILLS)
def test_killed_anywhere_what_was_acknowledged_is_there_whole(
    path: Path, point: str, time: int
) -> None:
    DeltaStore.create(path)
    env = {**os.environ, "PONDFS_FAULT": f"{point}:{time}", "PYTHONPATH": os.getcwd()}
    killed = subprocess.run(
        [sys.executable, "-c", WORK, path], env=env, capture_output=True, text=True, check=False
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    acknowledged = max(map(int, killed.stdout.split()), default=1)
    store = open_pond(path)
    assert store.notes == []
    image = store.load_image()
    assert image.version in (acknowledged, acknowledged + 1)
    assert DeltaTable(path).transaction_version("pondfs") == image.version
    for version in range(2, image.version + 1):
        # The commit's own row is written over what was staged.
        assert read_file(store, image, version) == b"%d commit" % version
    assert image.node_count == image.version
    assert set(store.strays) == data_file_names(path) - committed(path)
    assert store.remove_strays(-1) == store.strays
    store.commit(make_cut(image.version + 1, [file_row(99, b"on", b"g")]))
    assert names(store) == ({b"f", b"g"} if image.version > 1 else {b"g"})
    store.close()
    assert committed(path) == data_file_names(path)
