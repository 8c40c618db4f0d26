import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import duckdb
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import trio
from deltalake import DeltaTable, QueryBuilder

from pondfs.errors import StoreDamaged, UsageError
from pondfs.node import NodeId, Version
from pondfs.oplog import VersionInfo
from pondfs.store import compact as planning
from pondfs.store import (
    compact_files,
    datafile,
    imagefile,
    images,
    open_reader,
    prune_swap,
    rewrite,
)
from pondfs.store.changes import load_changes
from pondfs.store.compact import Plan, choose_small, make_plan
from pondfs.store.compact_files import write_files
from pondfs.store.compact_worker import _check_space
from pondfs.store.content import DataFile
from pondfs.store.delta import DeltaStore
from pondfs.store.lives import load_history
from pondfs.store.lock import rewriting
from pondfs.store.prune import make_plan as make_prune
from pondfs.store.prune_files import write_files as write_prune
from pondfs.store.request import Request, discard
from pondfs.store.rewrite import GROUP_ROWS
from pondfs.vfs.base import VfsOptions
from pondfs.vfs.compactor import Compactor
from pondfs.vfs.past import VERSIONS
from pondfs.vfs.swap import swap_files
from pondfs.vfs.vfs import Vfs
from tests.unit.store.histories import Walk, state, states
from tests.unit.store.support import (
    committed,
    data_file_names,
    directory_rows,
    extent_row,
    fault,
    file_row,
    make_cut,
    new_pond,
    open_pond,
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


def compact(store: DeltaStore, part_rows: int = 1 << 17, *, small: bool = False) -> Plan:
    plan = make_plan(store.path, small=small)
    if plan.files:
        store.swap_files(write_files(plan, part_rows=part_rows).request)
        store.remove_pruned(now=True)
    return plan


def rows_of(path: Path) -> pa.Table:
    table = DeltaTable(path).to_pyarrow_dataset().to_table()
    return table.sort_by([("version", "ascending"), ("seq", "ascending")]).combine_chunks()


def write_often(store: DeltaStore, versions: int, *, first: int = 2) -> None:
    """A file that grows with every version, and others that come beside it."""
    for version in range(first, first + versions):
        rows = [extent_row(10, version * 100, os.urandom(100)), size_row(10, version * 100 + 100)]
        if version == 2:
            rows = [file_row(10, None, b"grows")]
        store.commit(
            make_cut(version, [*rows, file_row(1000 + version, os.urandom(50), b"f%d" % version)])
        )


# --- nothing is lost ---


@pytest.mark.campaign("compacted ponds", suite=8, long=150)
def test_every_version_is_as_it_was(path: Path, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = random.Random(seed)
    monkeypatch.setattr(compact_files, "LEAST_GROUP_ROWS", rng.choice([3, 1024]))
    monkeypatch.setattr(compact_files, "FULL_BYTES", rng.choice([20_000, 112 << 20]))
    monkeypatch.setattr(images, "WORTH_FILES", rng.choice([10, 10**9]))
    walk = Walk(path, seed)
    trio.run(walk.run, 120, rng.choice([0.1, 0.3, 1.0]))
    before, rows = states(walk.store), rows_of(path)
    infos = walk.store.list_versions()

    plan = compact(walk.store, rng.choice([20, 1 << 17]))
    assert plan.files
    assert states(walk.store) == before
    assert rows_of(path).equals(rows)
    assert walk.store.list_versions() == infos
    assert committed(path) == data_file_names(path)
    walk.close()

    # Whoever opens it now finds the same, and it goes on; also on top of what is compacted.
    walk = Walk(path, seed + 1000)
    assert states(walk.store) == before
    trio.run(walk.run, 40, 0.3)
    now = states(walk.store)
    assert {version: now[version] for version in before} == before
    compact(walk.store, 20)
    assert states(walk.store) == now
    # And versions may be forgotten after it.
    keep = sorted(rng.sample(sorted(now), 3))
    forget = make_prune(path, keep)
    walk.store.swap_files(write_prune(forget).request)
    walk.store.remove_pruned()
    kept = [*keep, max(now)]
    assert states(walk.store) == {version: now[version] for version in sorted(kept)}
    walk.close()
    assert committed(path) == data_file_names(path)


@pytest.mark.campaign("ponds compacted while in use", suite=8, long=150)
def test_the_live_tree_goes_on(path: Path, seed: int) -> None:
    """Pending changes, open files without a name, and pasts that are looked at, through a swap."""
    walk = Walk(path, seed)
    rng = walk.random
    trio.run(walk.run, 60, 0.3)
    if rng.random() < 0.5:
        walk.close()
        walk = Walk(path, seed)
    vfs = walk.vfs

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(vfs.committer.run)
            for _ in range(40):
                await walk.step()
                if rng.random() < 0.2:
                    await vfs.committer.commit()
            plan = make_plan(path)
            request = write_files(plan, part_rows=rng.choice([20, 1000])).request
            for _ in range(10):
                await walk.step()
            if rng.random() < 0.5:
                await vfs.committer.commit()
            before = states(walk.store)
            await vfs.past.lookup(VERSIONS, b"%d" % rng.choice(list(before)))
            live = await walk.live()
            walk.forget_all()
            await swap_files(vfs, request)
            assert not set(data_file_names(path)) & {file.name for file in plan.files}
            assert await walk.live() == live
            assert states(walk.store) == before
            for _ in range(30):
                await walk.step()
            for handle in walk.handles:
                vfs.release(handle)
            walk.handles.clear()
            await vfs.committer.commit()
            now = states(walk.store)
            assert {version: now[version] for version in before} == before
            nursery.cancel_scope.cancel()

    trio.run(main)
    live = states(walk.store)
    walk.close()
    again = open_pond(path)
    assert states(again) == live
    again.close()


def told_of(path: Path, name: bytes) -> object:
    try:
        return load_history(path, name.split(b"/"))
    except UsageError as error:  # a directory by now
        return str(error)


def test_histories_and_diffs_are_the_same(path: Path) -> None:
    walk = Walk(path, 3)
    trio.run(walk.run, 150, 0.3)
    versions = [info.version for info in walk.store.list_versions()]
    pairs = [(versions[i], versions[j]) for i in range(0, len(versions), 5) for j in range(0, i, 3)]
    diffs = [load_changes(path, old, new) for old, new in pairs]
    changed = {change.path for diff in diffs for change in diff if change.type == "file"}
    events = [told_of(path, name) for name in sorted(changed)]
    compact(walk.store, 20)
    assert [load_changes(path, old, new) for old, new in pairs] == diffs
    assert [told_of(path, name) for name in sorted(changed)] == events
    assert len(diffs) > 10 < len(events)
    walk.close()


def test_other_engines_read_the_same(path: Path, store: DeltaStore) -> None:
    write_often(store, 30)
    before = rows_of(path)
    compact(store)
    assert rows_of(path).equals(before)
    columns = 'version, seq, part_id, node_id, name, "offset", length, content'
    file = os.fspath(path / next(iter(committed(path))))
    query = duckdb.sql(f"SELECT {columns} FROM '{file}' ORDER BY version, seq")
    assert query is not None
    found = query.to_arrow_table()
    assert found.cast(before.select(found.column_names).schema).equals(
        before.select(found.column_names)
    )
    table = pl.read_delta(os.fspath(path)).sort("version", "seq")
    assert table.to_dicts() == pl.DataFrame(before).to_dicts()
    # To a Delta reader nothing changed, and rows are still only added.
    table_now = DeltaTable(path)
    assert table_now.metadata().configuration["delta.appendOnly"] == "true"
    assert table_now.history(1)[0]["operation"] == "OPTIMIZE"


# --- how it lies then ---


def test_rows_lie_by_directory_node_and_offset(path: Path, store: DeltaStore) -> None:
    write_often(store, 40)
    compact(store)
    (name,) = data_file_names(path)
    rows = pq.read_table(path / name).select(["part_id", "node_id", "offset", "version", "seq"])
    keys = [
        tuple(-1 if value is None else value for value in row.values()) for row in rows.to_pylist()
    ]
    assert keys == sorted(keys)
    grown = [row["offset"] for row in rows.to_pylist() if row["node_id"] == f"{10:016x}"]
    assert len([offset for offset in grown if offset is not None]) == 39


def test_a_directory_touches_few_files_and_row_groups(
    path: Path, store: DeltaStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = random.Random(5)
    directories = [rng.randrange(1 << 62) for _ in range(100)]
    node = 1 << 62
    store.commit(make_cut(2, [row for d in directories for row in directory_rows(d, b"d%d" % d)]))
    for version in range(3, 43):
        rows = []
        for _ in range(100):
            node += 1
            rows.append(
                file_row(node, rng.randbytes(200), b"%d" % node, part=rng.choice(directories))
            )
        store.commit(make_cut(version, rows))
    monkeypatch.setattr(compact_files, "FULL_BYTES", 200_000)
    monkeypatch.setattr(compact_files, "LEAST_GROUP_ROWS", 64)
    compact(store, 1000)
    files = data_file_names(path)
    assert len(files) > 5
    assert max(os.path.getsize(path / name) for name in files) < 320_000
    spans = [
        (name, group.statistics.min, group.statistics.max)
        for name in files
        for meta in [pq.read_metadata(path / name)]
        for at in range(meta.num_row_groups)
        for group in [meta.row_group(at).column(meta.schema.names.index("part_id"))]
    ]
    for directory in directories:
        touched = [name for name, low, high in spans if low <= f"{directory:016x}" <= high]
        assert len(set(touched)) <= 2
        assert len(touched) <= 0.05 * len(spans)


def test_again_there_is_nothing_to_do(path: Path, store: DeltaStore) -> None:
    assert not make_plan(path).files  # one data file
    write_often(store, 30)
    assert len(make_plan(path).files) == 31
    compact(store)
    assert not make_plan(path).files
    assert len(data_file_names(path)) == 1


def test_what_lies_well_is_left_alone_until_enough_came(
    path: Path, store: DeltaStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(planning, "LARGE_BYTES", 50_000)
    monkeypatch.setattr(compact_files, "FULL_BYTES", 120_000)
    monkeypatch.setattr(compact_files, "LEAST_GROUP_ROWS", 16)
    version = 2
    for _ in range(40):
        rows = [file_row(version * 100 + at, os.urandom(9000 // 8), b"%d-%d" % (version, at),
                         part=1000 + at) for at in range(8)]  # fmt: skip
        directories = [r for at in range(8) for r in directory_rows(1000 + at, b"d%d" % at)]
        store.commit(make_cut(version, directories + rows if version == 2 else rows))
        version += 1
    compact(store)
    large = data_file_names(path)
    assert len(large) > 2
    assert not make_plan(path).files
    write_often(store, 5, first=version)
    assert {file.name for file in make_plan(path).files} == data_file_names(path) - large
    compact(store)
    assert large < data_file_names(path)
    assert len(data_file_names(path)) == len(large) + 1
    assert not make_plan(path).files
    # The second run grows, until it is worth it to make one run of both.
    for at in range(12):
        store.commit(
            make_cut(version + 5 + at, [file_row(9000 + at, os.urandom(10_000), b"%d" % at)])
        )
    compact(store)
    assert not large & data_file_names(path)
    assert not make_plan(path).files


def test_a_large_file_of_one_directory_is_left_alone(
    path: Path, store: DeltaStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(planning, "LARGE_BYTES", 50_000)
    settled = store.commit(make_cut(2, [file_row(10, os.urandom(100_000), b"film")]))
    write_often(store, 5, first=3)
    assert settled.file.name not in {file.name for file in compact(store).files}
    assert settled.file.name in data_file_names(path)


def test_small_files_are_put_together_by_size() -> None:
    def file(size: int) -> DataFile:
        return DataFile("", "f", size, "", 0)

    few = [file(10_000)] * 100
    assert choose_small(few) == []
    assert len(choose_small([*few, file(10_000)])) == 101
    # One that has as much as all below it joins, one that has more waits.
    assert len(choose_small([*few, file(900_000), file(3_000_000)])) == 101
    assert len(choose_small([*few, file(900_000), file(1_500_000)])) == 102
    assert choose_small([file(planning.LARGE_BYTES)] * 200) == []


def test_how_often_a_byte_is_written_grows_slowly() -> None:
    """100,000 commits: the files stay few, and each byte is written some ten times."""
    files: list[DataFile] = []
    written = 0
    for _ in range(100_000):
        files.append(DataFile("", "f", 20_000, "", 0))
        if len(files) > planning.MANY_FILES and (chosen := choose_small(files)):
            size = sum(file.size for file in chosen)
            written += size
            files = [file for file in files if file not in chosen]
            files.append(DataFile("", "f", size, "", 0))
        assert len(files) <= 200
    assert written < 12 * 100_000 * 20_000


# --- and in what form ---


def codecs(path: Path) -> set[str]:
    found = set()
    for name in data_file_names(path):
        meta = pq.read_metadata(path / name)
        for at in range(meta.num_row_groups):
            found.add(meta.row_group(at).column(meta.num_columns - 1).compression)
    return found


def write_lines(store: DeltaStore, versions: int, size: int, *, first: int = 2) -> list[bytes]:
    """A file that grows by lines."""
    written = []
    for version in range(first, first + versions):
        data = b"".join(b"%d: line %d\n" % (version, at) for at in range(size // 12))[:size]
        written.append(data)
        rows = [extent_row(10, (version - 2) * size, data), size_row(10, (version - 1) * size)]
        if version == 2:
            rows = [file_row(10, data, b"log")]
        store.commit(make_cut(version, rows))
    return written


def test_what_gets_smaller_is_compressed(path: Path, store: DeltaStore) -> None:
    written = write_lines(store, 40, 30_000)
    noise = os.urandom(9 << 20)  # a row group of its own
    store.commit(make_cut(42, [file_row(11, noise, b"noise", part=1 << 60)]))
    before, size = rows_of(path), sum(f.stat().st_size for f in path.glob("*.parquet"))
    report = write_files(make_plan(path))
    assert report.freed_bytes > 40 * 30_000 / 2
    store.swap_files(report.request)
    store.remove_pruned(now=True)
    assert sum(f.stat().st_size for f in path.glob("*.parquet")) == size - report.freed_bytes
    assert codecs(path) == {"ZSTD", "UNCOMPRESSED"}
    assert rows_of(path).equals(before)
    image = store.load_image()
    assert read_file(store, image, 10) == b"".join(written)
    assert read_file(store, image, 11) == noise
    # By delta-rs itself.
    asked = (
        QueryBuilder()
        .register("rows", DeltaTable(path))
        .execute('select content from rows where "offset" is not null order by version')
    )
    found = pa.table(asked)["content"].to_pylist()
    assert found == [*written, noise]
    # What can't be compressed is still read by one system call.
    (extent,) = image.load_extents(NodeId(11))
    assert extent.content.position > 0
    assert all(e.content.position < -1 for e in image.load_extents(NodeId(10)))


def test_compressed_files_are_compacted_and_pruned_again(path: Path, store: DeltaStore) -> None:
    written = write_lines(store, 20, 30_000)
    compact(store)
    written += write_lines(store, 20, 30_000, first=22)
    compact(store)
    assert codecs(path) == {"ZSTD"}
    assert read_file(store, store.load_image(), 10) == b"".join(written)
    before = states(store)
    keep = [Version(5), Version(30)]
    store.swap_files(write_prune(make_prune(path, keep)).request)
    store.remove_pruned()
    assert codecs(path) == {"ZSTD"}
    assert states(store) == {version: before[version] for version in (*keep, Version(41))}


def test_what_lies_well_is_compressed_once_if_that_is_worth_it(
    path: Path, store: DeltaStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A large file of one directory, as it was written; and what an earlier pondfs compacted."""
    monkeypatch.setattr(planning, "LARGE_BYTES", 50_000)
    (data,) = write_lines(store, 1, 1 << 20)
    assert len(make_plan(path).files) == 2
    compact(store)
    assert codecs(path) == {"ZSTD"}
    assert read_file(store, store.load_image(), 10) == data
    assert not make_plan(path).files
    monkeypatch.setattr(rewrite, "pack_contents", lambda page, lengths: page)
    monkeypatch.setattr(datafile, "table_bytes", lambda pages, frames: b"")
    write_lines(store, 10, 100_000, first=3)
    compact(store)
    assert codecs(path) == {"ZSTD", "UNCOMPRESSED"}
    before = rows_of(path)
    monkeypatch.undo()
    monkeypatch.setattr(planning, "LARGE_BYTES", 50_000)
    assert len(make_plan(path).files) == 1
    compact(store)
    assert codecs(path) == {"ZSTD"}
    assert rows_of(path).equals(before)
    assert not make_plan(path).files


def test_that_it_was_tried_in_vain_is_remembered(
    path: Path, store: DeltaStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else each compaction would write a file anew whose sample promises too much."""
    monkeypatch.setattr(planning, "LARGE_BYTES", 50_000)
    write_often(store, 5)
    store.commit(make_cut(7, [file_row(11, os.urandom(100_000), b"noise", part=1 << 60)]))
    monkeypatch.setattr(planning, "is_worth", lambda sample: True)
    assert len(compact(store).files) == 7
    assert codecs(path) == {"UNCOMPRESSED"}
    assert not make_plan(path).files


def test_files_are_full_by_what_they_have_after_compression(
    path: Path, store: DeltaStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By what they had before, there would be 32 of them."""
    monkeypatch.setattr(planning, "LARGE_BYTES", 50_000)
    monkeypatch.setattr(compact_files, "FULL_BYTES", 150_000)
    monkeypatch.setattr(compact_files, "LEAST_GROUP_ROWS", 16)
    rng = random.Random(4)
    for version in range(2, 42):
        rows = [
            file_row(version * 100 + at, rng.randbytes(300) * 20, b"%d" % at, part=1000 + version)
            for at in range(20)
        ]
        store.commit(make_cut(version, rows))
    before = rows_of(path)
    compact(store)
    sizes = sorted(file.stat().st_size for file in path.glob("*.parquet"))
    assert 2 <= len(sizes) < 10
    assert sizes[0] > 60_000
    assert sizes[-1] < 250_000  # footers are not counted: here, a third
    assert rows_of(path).equals(before)
    assert not make_plan(path).files


# --- beside others ---


def test_the_saved_image_is_brought_along(
    path: Path, store: DeltaStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the next opening, and the one after a crash, would fold a million nodes anew."""
    write_often(store, 20)
    imagefile.save(os.fspath(path), store.load_image())
    write_often(store, 20, first=22)
    version, before = Version(41), state(store, Version(41))
    compact(store)
    store._images.wait()
    image, later = imagefile.load(os.fspath(path), store._files, None) or (None, [])
    assert image is not None
    assert (image.version, later) == (version, [])
    assert read_file(store, image, 10) == before[10][1]
    write_often(store, 3, first=42)
    store.close()
    again = open_pond(path)
    assert state(again, version) == before
    saved = imagefile.load(os.fspath(path), again._files, None)
    assert saved is not None
    assert len(saved[1]) == 3
    again.close()


def test_old_files_stay_a_while_for_queries_of_others(
    path: Path, store: DeltaStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_often(store, 10)
    plan = make_plan(path)
    store.swap_files(write_files(plan).request)
    assert store.remove_pruned() == 0
    store.close()
    store = open_pond(path)
    assert {file.name for file in plan.files} < data_file_names(path)
    # They are no strays: nobody counts them as such, or removes them early.
    assert store.strays == []
    monkeypatch.setattr(prune_swap, "GRACE_S", -1.0)
    monkeypatch.setattr(store._leftovers, "_removable_s", time.time())
    assert store.remove_pruned() > 0
    assert data_file_names(path) == committed(path)
    store.close()


def test_a_reader_keeps_what_it_reads(path: Path, store: DeltaStore) -> None:
    write_often(store, 10)
    reader = open_reader(path)
    image = reader.load_image()
    compact(store)
    assert read_file(reader, image, 10)
    reader.close()
    assert store.remove_pruned(now=True) > 0
    assert data_file_names(path) == committed(path)


def test_more_files_than_the_cache_of_rows_leaves_out(path: Path, store: DeltaStore) -> None:
    """What was committed is in the cache of rows, but not all that a data file says."""
    write_often(store, 250)
    before = rows_of(path)
    compact(store, 100)
    store._images.wait()
    assert rows_of(path).equals(before)
    write_often(store, 250, first=252)
    before = rows_of(path)
    assert len(compact(store, small=True).files) == 251
    assert rows_of(path).equals(before)
    assert len(data_file_names(path)) == 1


def test_commits_meanwhile_stay(path: Path, store: DeltaStore) -> None:
    write_often(store, 10)
    request = write_files(make_plan(path)).request
    write_often(store, 3, first=12)
    before = states(store)
    store.swap_files(request)
    assert states(store) == before
    assert max(before) == 14


def test_a_prune_meanwhile_is_told(path: Path, store: DeltaStore) -> None:
    write_often(store, 10)
    rewritten = write_files(make_plan(path))
    forget = make_prune(path, [Version(11)])
    store.swap_files(write_prune(forget).request)
    with pytest.raises(UsageError, match="rewritten meanwhile: compact again"):
        store.swap_files(rewritten.request)


def test_what_is_not_what_the_log_says_is_no_ground_to_write_on(
    path: Path, store: DeltaStore
) -> None:
    write_often(store, 3)
    plan = make_plan(path)
    plan.files[1].row_count = 7
    with pytest.raises(StoreDamaged, match="but its log entry says 7"):
        write_files(plan)
    assert data_file_names(path) == committed(path)
    assert not list((path / "_pond").glob("compact-*"))


def test_a_full_disk_leaves_nothing(path: Path, store: DeltaStore) -> None:
    write_often(store, 5)
    for point in ("compact:data-file", "compact:store-dir-fsync", "compact:written"):
        with fault(point, "ENOSPC"), pytest.raises(OSError, match="No space"):
            write_files(make_plan(path))
        assert data_file_names(path) == committed(path)
        assert not list((path / "_pond").glob("compact-*"))


MEMORY = """
import re, sys
from pondfs.store.compact import make_plan
from pondfs.store.compact_files import write_files
write_files(make_plan(sys.argv[1]))
print(int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1]) // 1024)
"""


def test_memory_is_bounded(path: Path, store: DeltaStore) -> None:
    """Many rows, and large contents: 600,000 rows would take more in memory."""
    node = 100
    for version in range(2, 8):
        rows = []
        for at in range(100_000):
            node += 1
            rows.append(
                file_row(node * 7919 % (1 << 40), None, b"name-%d" % node, part=at % 999 + 1)
            )
        store.commit(make_cut(version, rows))
    data = os.urandom(1 << 20)
    for version in range(8, 18):
        rows = [extent_row(50 + at, version << 20, data) for at in range(16)]
        store.commit(make_cut(version, rows))
    done = subprocess.run(
        [sys.executable, "-c", MEMORY, path], capture_output=True, text=True, check=True,
        env={**os.environ, "PYTHONPATH": os.getcwd()},
    )  # fmt: skip
    assert int(done.stdout) < 256
    assert GROUP_ROWS <= 1 << 13


# --- what must not go wrong in the background ---


def test_what_a_disk_made_of_a_file_is_not_copied(path: Path, store: DeltaStore) -> None:
    """Under new checksums nobody could tell any more."""
    data = os.urandom(10_000)
    settled = store.commit(make_cut(2, [file_row(10, data, b"f")]))
    write_often(store, 5, first=3)
    name = path / settled.file.name
    whole = bytearray(name.read_bytes())
    whole[whole.index(data) + 5000] ^= 1
    name.write_bytes(whole)
    before = set(os.listdir(path))
    with pytest.raises(StoreDamaged, match=settled.file.name):
        write_files(make_plan(path))
    with pytest.raises(StoreDamaged, match=settled.file.name):
        write_prune(make_prune(path, [Version(7)]))
    assert set(os.listdir(path)) == before
    assert not [
        name for name in os.listdir(path / "_pond") if name.startswith(("compact", "prune"))
    ]


def test_a_killed_one_leaves_nothing_for_long(path: Path, store: DeltaStore) -> None:
    """Neither the next compaction nor the next opening lets its files lie about."""
    write_often(store, 20)
    script = (
        "import sys; from pondfs.store.compact import make_plan;"
        "from pondfs.store.compact_files import write_files; write_files(make_plan(sys.argv[1]))"
    )
    for point in ("compact:store-dir-fsync", "data-file:fsync"):
        for opens in (True, False):
            subprocess.run(
                [sys.executable, "-c", script, path], check=False,
                env={**os.environ, "PONDFS_FAULT": point, "PYTHONPATH": os.getcwd()},
            )  # fmt: skip
            left = [name for name in os.listdir(path) if name.startswith(".compact-")]
            assert left
            assert store.remove_strays(-1) == []
            if opens:
                store.close()
                # Not under the hands of one that is at work.
                with rewriting(os.fspath(path / "_pond"), wait=True):
                    open_pond(path).close()
                    assert set(left) <= set(os.listdir(path))
                store = open_pond(path)
            else:
                rewritten = write_files(make_plan(path))
                discard(os.fspath(path), rewritten)
            assert not [name for name in os.listdir(path) if name.startswith(".compact-")]
    found = os.listdir(path / "_pond")
    assert not [name for name in found if name.startswith("compact-")]
    store.close()


def test_one_prepared_by_another_pondfs_is_refused(
    path: Path, store: DeltaStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A newer one was installed while the pond was mounted."""
    write_often(store, 5)
    monkeypatch.setattr(rewrite, "__version__", "99.0")
    rewritten = write_files(make_plan(path))
    before = states(store)
    with pytest.raises(UsageError, match=r"99\.0"):
        store.swap_files(rewritten.request)
    assert states(store) == before
    discard(os.fspath(path), rewritten)


def test_the_worker_leaves_the_disk_to_others(
    path: Path, store: DeltaStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = os.statvfs(path)
    free = found.f_bavail * found.f_frsize
    _check_space(os.fspath(path), 1000)
    with pytest.raises(OSError, match="compacting needs"):
        _check_space(os.fspath(path), free)


def test_a_clock_gone_wrong_keeps_no_file_for_years(
    path: Path, store: DeltaStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_often(store, 5)
    real = time.time_ns
    with monkeypatch.context() as later:
        later.setattr(time, "time_ns", lambda: real() + 10 * 365 * 86400 * 10**9)
        store.swap_files(write_files(make_plan(path)).request)
    store.close()
    store = open_pond(path)
    assert data_file_names(path) == committed(path)
    store.close()


def test_fifty_compactions_hold_nothing(path: Path, store: DeltaStore) -> None:
    """No open file, and no data file, is left of those that went."""
    write_often(store, 10)
    fds = 0
    for at in range(50):
        write_often(store, 3, first=12 + 3 * at)
        compact(store)
        store._images.wait()
        read_file(store, store.load_image(), 10)
        if at == 5:
            fds = len(os.listdir("/proc/self/fd"))
    assert len(os.listdir("/proc/self/fd")) <= fds + 2
    assert data_file_names(path) == committed(path)


def test_versions_are_numbers_even_if_they_look_like_years(store: DeltaStore) -> None:
    """``.pond/versions/2026`` showed the newest version of that year instead."""
    for version in (1971, 2026, 2027):
        name, data = b"f%d" % version, b"in %d" % version
        store.commit(make_cut(version, [file_row(version, data, name)]))
    vfs = Vfs(store, VfsOptions())

    async def main() -> None:
        for version in (1971, 2026, 2027):
            node = await vfs.past.lookup(VERSIONS, b"%d" % version)
            assert node is not None
            assert max(vfs.nodes.children(node)) == b"f%d" % version

    trio.run(main)


def test_versions_that_come_while_they_are_listed_are_listed(
    store: DeltaStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After each compaction they are listed anew, and commits go on meanwhile."""
    write_often(store, 3)
    vfs = Vfs(store, VfsOptions())
    listed = store.list_versions
    rounds = 0

    def slowly() -> list[VersionInfo]:
        nonlocal rounds
        rounds += 1
        found = listed()
        if rounds == 1:
            trio.from_thread.run_sync(vfs.past.committed, Version(5), 5 * 10**18)
        if rounds == 2:
            trio.from_thread.run_sync(vfs.past.exchanged)
        return found

    monkeypatch.setattr(store, "list_versions", slowly)

    async def main() -> None:
        assert await vfs.past.list_versions() == [1, 2, 3, 4, 5]
        vfs.past.committed(Version(6), 6 * 10**18)
        assert await vfs.past.list_versions() == [1, 2, 3, 4, 5, 6]
        vfs.past.exchanged()
        assert await vfs.past.list_versions() == [1, 2, 3, 4]  # as the log has it
        assert rounds == 3

    trio.run(main)


def test_an_unmount_amid_the_swap_does_not_remove_what_is_put_in_place(
    path: Path, store: DeltaStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process hears that it is over before the entry is in the log."""
    write_often(store, planning.MANY_FILES + 10)
    before = states(store)
    vfs = Vfs(store, VfsOptions())
    checked = threading.Event()
    check = prune_swap._check_added

    def slowly(request: Request) -> None:
        check(request)
        checked.set()
        time.sleep(2.0)

    monkeypatch.setattr(prune_swap, "_check_added", slowly)

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(vfs.committer.run)
            nursery.start_soon(Compactor(vfs, path)._compact)
            await trio.to_thread.run_sync(checked.wait)
            nursery.cancel_scope.cancel()

    trio.run(main)
    assert len(store._files) == 1
    store.checkpoint(now=True)
    store.close()
    store = open_pond(path)
    assert store.notes == []
    assert states(store) == before
    store.close()


def test_a_worker_whose_daemon_is_gone_clears_away(path: Path, store: DeltaStore) -> None:
    """It had just finished, and nobody hears it say so."""
    write_often(store, planning.MANY_FILES + 10)
    before = data_file_names(path)
    worker = subprocess.Popen(
        [sys.executable, "-m", "pondfs.store.compact_worker", path],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    assert worker.stdin is not None
    assert worker.stdout is not None
    worker.stdout.close()
    until = time.monotonic() + 100
    while data_file_names(path) == before:
        assert time.monotonic() < until
        time.sleep(0.01)
    time.sleep(0.5)
    worker.terminate()  # as systemd does with all of a service
    worker.stdin.close()
    assert worker.wait(100) == 0
    assert data_file_names(path) == before
    assert not [name for name in os.listdir(path / "_pond") if name.startswith("compact-")]
