import errno
import gc
import os
import random
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pytest
import trio
from deltalake import DeltaTable

from pondfs.errors import NoSuchVersion, PondError, StoreDamaged, UsageError
from pondfs.extent import Content
from pondfs.node import ROOT, NodeId, Version
from pondfs.store import leftovers, open_reader, prune_files, prune_swap
from pondfs.store import prune as planning
from pondfs.store.changes import load_changes
from pondfs.store.content import DataFile
from pondfs.store.delta import DeltaStore
from pondfs.store.deltalog import Snapshot, read_snapshot
from pondfs.store.lives import load_history, load_touching
from pondfs.store.log import read_versions
from pondfs.store.prune import Plan, make_plan
from pondfs.store.prune_files import write_files
from pondfs.store.prune_swap import is_done
from pondfs.store.request import discard
from pondfs.store.tags import tag_entry
from pondfs.vfs.past import VERSIONS, PastNode
from pondfs.vfs.swap import swap_files
from tests.unit.store.histories import ME, State, Walk, state, states
from tests.unit.store.support import (
    adopt,
    committed,
    data_file_names,
    extent_row,
    fault,
    file_row,
    make_cut,
    new_pond,
    open_pond,
    read_bytes,
    read_file,
    size_row,
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "pond"


def prune(store: DeltaStore, keep: list[int], part_rows: int = 1 << 20) -> Plan:
    plan = make_plan(store.path, [Version(version) for version in keep], part_rows=part_rows)
    if plan.touched:
        store.swap_files(write_files(plan).request)
        store.remove_pruned()
    return plan


def rows_of(path: Path) -> pa.Table:
    table = DeltaTable(path).to_pyarrow_dataset().to_table()
    return table.sort_by([("version", "ascending"), ("seq", "ascending")])


def size_on_disk(path: Path) -> int:
    return sum((path / name).stat().st_size for name in data_file_names(path))


@pytest.mark.campaign("pruned ponds", suite=12, long=250)
def test_kept_versions_are_as_they_were(
    path: Path, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = random.Random(seed)
    monkeypatch.setattr(planning, "BATCH_ROWS", rng.choice([15, 1 << 20]))
    walk = Walk(path, seed)
    trio.run(walk.run, 150, rng.choice([0.1, 0.3, 1.0]))
    store = walk.store
    before = states(store)
    rows_before = rows_of(path)
    newest = max(before)
    keep = {newest, *rng.sample(sorted(before), min(len(before), rng.randrange(1, 8)))}
    size = size_on_disk(path)

    plan = prune(store, sorted(keep), rng.choice([20, 1 << 20]))

    assert [info.version for info in plan.kept] == sorted(keep)
    assert {info.version for info in store.list_versions()} == keep
    for version in sorted(keep):
        assert state(store, version) == before[version]
    for version in before.keys() - keep:
        with pytest.raises(NoSuchVersion):
            store.load_image_at(version)
    assert committed(path) == data_file_names(path)
    assert not plan.touched or size_on_disk(path) < size
    # What is left stands in the table as it did; content may be taken out.
    left = rows_of(path)
    facts = [name for name in left.column_names if name not in ("offset", "length", "content")]
    was = {row_key(row): row for row in rows_before.select(facts).to_pylist()}
    for row in left.select(facts).to_pylist():
        assert was[row_key(row)] == row
    assert not prune(store, sorted(keep)).touched
    walk.close()

    store = open_pond(path)
    for version in sorted(keep):
        assert state(store, version) == before[version]
    store.close()
    # And it goes on from there.
    more = Walk(path, seed + 1000)
    trio.run(more.run, 30, 0.5)
    for version in sorted(keep):
        assert state(more.store, version) == before[version]
    now = states(more.store)
    last = sorted(now)[-3:]
    prune(more.store, list(last))
    assert states(more.store) == {version: now[version] for version in last}
    more.close()


def row_key(row: dict[str, Any]) -> tuple[int, int]:
    return row["version"], row["seq"]


# --- while it is mounted ---


@pytest.mark.campaign("ponds pruned while in use", suite=8, long=120)
def test_the_live_tree_goes_on(path: Path, seed: int) -> None:
    """Pending changes, open files without a name, and pasts that are looked at, through a swap."""
    walk = Walk(path, seed)
    rng = walk.random
    trio.run(walk.run, 60, 0.3)
    if rng.random() < 0.5:
        # From here on much of the tree is in the image alone.
        walk.close()
        walk = Walk(path, seed)
    vfs = walk.vfs

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(vfs.committer.run)
            for _ in range(60):
                await walk.step()
                if rng.random() < 0.2:
                    await vfs.committer.commit()
            versions = [info.version for info in walk.store.list_versions()]
            keep = {versions[0], *rng.sample(versions, min(3, len(versions)))}
            before = {version: state(walk.store, version) for version in keep}
            plan = make_plan(path, sorted(keep))
            request = write_files(plan).request
            for _ in range(10):
                await walk.step()
            if rng.random() < 0.5:
                await vfs.committer.commit()
                keep.add(vfs.committer.version)
                before[vfs.committer.version] = state(walk.store, vfs.committer.version)
            live = await walk.live()
            walk.forget_all()
            if plan.touched:
                await swap_files(vfs, request)
                assert set(data_file_names(path)) & set(names_of(plan)) == set()
            assert await walk.live() == live
            assert {info.version for info in walk.store.list_versions()} == keep
            for version, was in before.items():
                assert state(walk.store, version) == was
            for _ in range(30):
                await walk.step()
            live = await walk.live()
            for handle in walk.handles:
                vfs.release(handle)
            walk.handles.clear()
            await vfs.committer.commit()
            nursery.cancel_scope.cancel()

    def names_of(plan: Plan) -> list[str]:
        return [plan.files[number].name for number in plan.touched]

    trio.run(main)
    live = trio.run(walk.live)
    walk.close()
    again = Walk(path, seed)
    assert without_atimes(trio.run(again.live)) == without_atimes(live)
    again.close()


def test_an_open_file_without_a_name_stays_readable(path: Path) -> None:
    """Its bytes are in no kept version, and nobody had asked for them before."""
    walk = Walk(path, 1)
    node = walk.do(walk.vfs.make, ROOT, b"f", stat.S_IFREG | 0o644, 0, ME)
    walk.do(walk.vfs.write, node.id, 0, b"data")
    other = walk.do(walk.vfs.make, ROOT, b"g", stat.S_IFREG | 0o644, 0, ME).id
    walk.do(walk.vfs.write, other, 0, b"in the image alone")
    walk.do(walk.vfs.committer.commit)
    walk.close()

    walk = Walk(path, 1)
    node = walk.do(walk.vfs.lookup, ROOT, b"f")
    walk.do(walk.vfs.open, node.id, os.O_RDONLY)
    walk.do(walk.vfs.unlink, ROOT, b"f")
    walk.do(walk.vfs.committer.commit)
    assert node.extents is None
    request = write_files(make_plan(path, [])).request
    assert walk.do(swap_files, walk.vfs, request) > 0
    assert data_file_names(path) == committed(path)
    assert bytes(walk.do(walk.vfs.read, node.id, 0, 10)) == b"data"
    assert bytes(walk.do(walk.vfs.read, other, 0, 99)) == b"in the image alone"
    (extent,) = walk.vfs.nodes.extents(node)
    held = extent.content.file.held.fd
    del extent
    walk.do(walk.vfs.release, node.id)
    walk.do(walk.vfs.forget, [(node.id, 1)])
    del node
    gc.collect()
    with pytest.raises(OSError, match="Bad file"):
        os.fstat(held)
    walk.close()


def test_pasts_that_are_looked_at(path: Path) -> None:
    walk = Walk(path, 1)
    vfs = walk.vfs
    node = walk.do(vfs.make, ROOT, b"f", stat.S_IFREG | 0o644, 0, ME)
    made = []  # not just 2, 3, 4: the committer's timer may come in between
    for data in (b"one", b"two", b"tri"):
        walk.do(vfs.write, node.id, 0, data)
        walk.do(vfs.committer.commit)
        made.append(vfs.committer.version)
    one, two, newest = made

    async def look(version: int) -> bytes:
        tree = await vfs.past.lookup(VERSIONS, b"%d" % version)
        assert tree is not None
        file = vfs.nodes.get(vfs.nodes.children(tree)[b"f"])
        return await read(file.id)

    async def read(node_id: NodeId) -> bytes:
        await vfs.past.ready(node_id)
        return bytes(await vfs.read(node_id, 0, 10))

    assert walk.do(look, one) == b"one"
    assert walk.do(look, two) == b"two"
    seen = {node.view.version: node.id for node in vfs.nodes.live.values()
            if isinstance(node, PastNode) and stat.S_ISREG(node.mode)}  # fmt: skip
    walk.do(swap_files, vfs, write_files(make_plan(path, [two, newest])).request)
    assert data_file_names(path) == committed(path)
    assert walk.do(read, seen[two]) == b"two"
    assert walk.do(look, two) == b"two"
    with pytest.raises(PondError):
        walk.do(look, one)
    with pytest.raises(PondError):
        walk.do(read, seen[one])
    assert bytes(walk.do(vfs.read, node.id, 0, 10)) == b"tri"
    walk.close()


def without_atimes(live: State) -> State:
    """Times of access alone make no version."""
    return {node: (attr[:6] + attr[7:], *rest) for node, (attr, *rest) in live.items()}


def test_a_read_under_way_keeps_its_file(store: DeltaStore) -> None:
    """The last one to know a content lets go of the disk space."""
    settled = store.commit(make_cut(2, [file_row(10, b"old", b"f")]))
    adopt(settled)
    store.commit(make_cut(3, [size_row(10, 0, 0)]))
    content = settled.contents[0]
    store.hold(content)
    prune(store, [3])
    assert not os.path.exists(content.file.path)
    assert read_bytes(store, content, 0, 3) == b"old"
    held = content.file.held.fd
    del content, settled
    gc.collect()
    with pytest.raises(OSError, match="Bad file"):
        os.fstat(held)


def test_what_could_not_be_held_stays_until_the_end(
    store: DeltaStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Asking again for what is left over must not take it from under an open file."""
    settled = store.commit(make_cut(2, [file_row(10, b"old", b"f")]))
    adopt(settled)
    store.commit(make_cut(3, [size_row(10, 0, 0)]))
    content = settled.contents[0]

    def too_many(file: DataFile) -> None:
        raise OSError(errno.EMFILE, "too many open files")

    monkeypatch.setattr(DataFile, "hold", too_many)
    with pytest.raises(OSError, match="too many"):
        store.hold(content)
    prune(store, [3])
    assert store.remove_pruned() == 0
    assert read_bytes(store, content, 0, 3) == b"old"
    store.close()
    path = Path(store.path)
    assert data_file_names(path) == committed(path)


# --- what goes and what stays ---


@pytest.fixture
def store(path: Path) -> Iterator[DeltaStore]:
    store = new_pond(path)
    yield store
    store.close()


def rewrite(store: DeltaStore, versions: int, size: int = 10_000) -> None:
    """A file that each version writes anew, as most programs save."""
    data = os.urandom(size)
    store.commit(make_cut(2, [file_row(10, data, b"f")]))
    for version in range(3, versions + 1):
        row = size_row(10, size, 0)._replace(offset=0, content=Content(data, size))
        store.commit(make_cut(version, [row]))


def test_the_first_content_of_a_file_goes_though_its_name_stays(store: DeltaStore) -> None:
    rewrite(store, 50)
    before = size_on_disk(Path(store.path))
    plan = prune(store, [50])
    after = size_on_disk(Path(store.path))
    assert after < 17_000 < 500_000 < before
    assert plan.freed_bytes == pytest.approx(before - after, rel=0.05)
    assert len(read_file(store, store.load_image(), 10)) == 10_000


def test_bytes_of_a_kept_version_do_not_come_back_in_later_ones(store: DeltaStore) -> None:
    store.commit(make_cut(2, [file_row(10, b"secret", b"f")]))
    store.commit(make_cut(3, [size_row(10, 0, 0)]))
    store.commit(make_cut(4, [size_row(10, 9)]))
    prune(store, [2, 4])
    assert read_file(store, store.load_image_at(Version(2)), 10) == b"secret"
    assert read_file(store, store.load_image_at(Version(4)), 10) == bytes(9)


def test_files_with_nothing_to_drop_stay_as_they_are(store: DeltaStore) -> None:
    store.commit(make_cut(2, [file_row(10, b"x", b"f")]))
    store.commit(make_cut(3, [file_row(11, b"y", b"g")]))
    store.commit(make_cut(4, [file_row(11, b"y", b"g")]))
    names = data_file_names(Path(store.path))
    plan = prune(store, [1, 2, 4])
    assert plan.forgotten == [3]
    assert len(names & data_file_names(Path(store.path))) == 3


def test_large_files_are_split(
    path: Path, store: DeltaStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prune_files, "FULL_BYTES", 100_000)
    monkeypatch.setattr(prune_files, "GROUP_ROWS", 3)
    rows = [file_row(10 + at, os.urandom(9000), b"%d" % at) for at in range(40)]
    store.commit(make_cut(2, rows))
    for version in range(3, 12):
        store.commit(make_cut(version, [file_row(version * 100, os.urandom(9000), b"more")]))
    before = state(store, Version(11))
    prune(store, [11])
    assert state(store, Version(11)) == before
    sizes = [(path / name).stat().st_size for name in data_file_names(path)]
    assert len(sizes) > 5
    assert max(sizes) < 120_000


def test_diffs_and_histories_name_kept_versions_only(store: DeltaStore) -> None:
    rewrite(store, 9)
    store.commit(make_cut(10, [file_row(11, b"y", b"g")]))
    prune(store, [4, 7, 10])
    assert load_touching(store.path, [b"f"]) == {4, 7, 10}
    assert {event.version for event in load_history(store.path, [b"f"])} <= {4, 7, 10}
    changes = load_changes(store.path, Version(4), Version(10))
    assert [change.path for change in changes] == [b"g"]


def test_the_log_is_the_kept_versions_in_every_form(path: Path, store: DeltaStore) -> None:
    rewrite(store, 6)
    infos = {info.version: info for info in store.list_versions()}
    prune(store, [2, 4, 6])
    store.commit(make_cut(7, [], message="later"))
    newest = store.list_versions()[0]
    expected = [newest, infos[Version(6)], infos[Version(4)], infos[Version(2)]]
    assert store.list_versions() == expected
    assert read_versions(path, 3) == expected[:3]
    prune(store, [4, 7])
    assert store.list_versions() == [newest, infos[Version(4)]]


def test_only_a_prune_lifts_append_only(path: Path, store: DeltaStore) -> None:
    def allowed() -> str:
        return DeltaTable(path).metadata().configuration["delta.appendOnly"]

    rewrite(store, 4)
    with fault("prune:published", "EIO"), pytest.raises(OSError, match="Input/output"):
        prune(store, [4])
    assert allowed() == "false"
    store.close()
    again = open_pond(path)
    assert allowed() == "true"
    assert committed(path) == data_file_names(path)
    assert [info.version for info in again.list_versions()] == [4]
    again.close()


def test_another_engine_reads_what_is_left(path: Path, store: DeltaStore) -> None:
    rewrite(store, 12)
    prune(store, [5, 12])
    table = rows_of(path)
    commits = table.filter(pc.equal(table["op"], "commit"))
    assert commits["version"].to_pylist() == [5, 12]
    assert pl.read_delta(os.fspath(path)).height == table.num_rows
    # From the checkpoint as well as from the entries.
    assert list(path.glob("_delta_log/*.checkpoint.parquet"))
    for checkpoint in path.glob("_delta_log/*checkpoint*"):
        checkpoint.unlink()
    assert rows_of(path) == table


# --- beside others ---


def test_nothing_is_removed_under_a_reader(path: Path, store: DeltaStore) -> None:
    rewrite(store, 6)
    reader = open_reader(path)
    image = reader.load_image_at(Version(3))
    before = data_file_names(path)
    prune(store, [6])
    assert before < data_file_names(path)
    assert read_file(reader, image, 10)
    assert store.remove_pruned() == 0
    reader.close()
    assert store.remove_pruned() > 0
    assert committed(path) == data_file_names(path)


def test_what_a_reader_kept_goes_with_the_writer_or_at_the_next_opening(
    path: Path, store: DeltaStore
) -> None:
    rewrite(store, 6)
    reader = open_reader(path)
    prune(store, [6])
    store.close()
    assert data_file_names(path) > committed(path)
    reader.close()
    open_pond(path).close()
    assert data_file_names(path) == committed(path)


def test_a_plan_that_is_out_of_date_is_refused(path: Path, store: DeltaStore) -> None:
    rewrite(store, 6)
    late = write_files(make_plan(path, [Version(6)])).request
    prune(store, [4, 6])
    request = write_files(make_plan(path, [Version(6)])).request
    store.put_tag("dear", Version(4))
    with pytest.raises(UsageError, match="version 4 was tagged 'dear' meanwhile"):
        store.swap_files(request)
    store.put_tag("dear", None)
    with pytest.raises(UsageError, match="no prepared prune"):
        store.swap_files(late)  # a later one took it away
    with pytest.raises(UsageError, match="is no name"):
        store.swap_files("../" + request)
    assert [info.version for info in store.list_versions()] == [6, 4]


def test_a_prune_that_another_one_overtook(path: Path, store: DeltaStore) -> None:
    rewrite(store, 6)
    late = write_files(make_plan(path, [Version(6)]))
    saved = (path / "_pond" / late.request).read_bytes()
    prune(store, [5, 6])
    (path / "_pond" / late.request).write_bytes(saved)
    with pytest.raises(UsageError, match="rewritten meanwhile: prune again"):
        store.swap_files(late.request)
    store.commit(make_cut(7, [file_row(11, b"on", b"g")]))


def test_two_prunes_of_different_files(path: Path, store: DeltaStore) -> None:
    """The second brought back, into the log alone, what the first had forgotten."""
    for version in range(2, 10):
        store.commit(make_cut(version, [file_row(10 + version, b"x", b"%d" % version)]))
    late = write_files(make_plan(path, [Version(at) for at in (1, 2, 3, 4, 9)]))
    saved = (path / "_pond" / late.request).read_bytes()
    prune(store, [Version(at) for at in (3, 4, 5, 6, 7, 8, 9)])
    (path / "_pond" / late.request).write_bytes(saved)
    with pytest.raises(UsageError, match="version 1 was forgotten meanwhile: prune again"):
        store.swap_files(late.request)
    assert [info.version for info in store.list_versions()] == [9, 8, 7, 6, 5, 4, 3]


def test_what_was_committed_since_the_choice_stays(path: Path, store: DeltaStore) -> None:
    """The command looked at the log, and the plan again: what came in between was forgotten."""
    rewrite(store, 8)
    before = {version: state(store, Version(version)) for version in (4, 7, 8)}
    plan = make_plan(path, [Version(4), Version(6)], seen=Version(6))
    assert [info.version for info in plan.kept] == [4, 6, 7, 8]
    assert plan.forgotten == [1, 2, 3, 5]
    store.swap_files(write_files(plan).request)
    store.remove_pruned()
    assert {version: state(store, Version(version)) for version in (4, 7, 8)} == before


def test_no_tag_on_a_version_that_is_not_there(path: Path, store: DeltaStore) -> None:
    """One that a prune forgot in that moment, and no prune worked any more."""
    rewrite(store, 9)
    prune(store, [4, 6, 9])
    for version in (0, 1, 3, 5, 8, 10, 99):
        with pytest.raises(NoSuchVersion, match=f"no version {version}:"):
            store.put_tag("lost", Version(version))
    for version in (4, 6, 9):
        store.put_tag(f"v{version}", Version(version))
    store.commit(make_cut(10, [file_row(11, b"on", b"g")]))
    store.put_tag("v10", Version(10))
    assert list(store.list_tags()) == ["v10", "v4", "v6", "v9"]


def test_a_tag_on_a_version_that_is_not_there_is_in_no_ones_way(
    path: Path, store: DeltaStore
) -> None:
    rewrite(store, 6)
    prune(store, [4, 5, 6])
    store._publisher.publish_entry(tag_entry("old", Version(3)))
    prune(store, [5, 6])
    assert [info.version for info in store.list_versions()] == [6, 5]


@pytest.mark.parametrize("mounted", [False, True])
def test_after_a_compaction(path: Path, store: DeltaStore, mounted: bool) -> None:
    """Nothing came back: neither the compacted file, which is not ours, nor what it was made of."""
    rewrite(store, 9)
    if not mounted:
        store.close()
    old = data_file_names(path)
    DeltaTable(path).optimize.compact()
    if not mounted:
        store = open_pond(path)
    store.commit(make_cut(10, [file_row(11, b"y", b"g")]))
    image = store.load_image()
    before = state(store, Version(10))
    prune(store, [10])
    names = data_file_names(path)
    assert state(store, Version(10)) == before
    with pytest.raises(NoSuchVersion):
        store.load_image_at(Version(4))
    if mounted:
        # What was folded before the compaction reads the old files.
        assert names & old
        assert len(read_file(store, image, 10)) == 10_000
        assert store.remove_pruned() == 0
    else:
        assert names == committed(path)
        assert not old & names
    assert rows_of(path)["version"].to_pylist().count(10) > 0
    store.close()
    assert data_file_names(path) == committed(path)
    again = open_pond(path)
    assert state(again, Version(10)) == before
    prune(again, [10])
    again.close()
    assert pl.read_delta(os.fspath(path)).height == rows_of(path).num_rows
    assert DeltaTable(path).vacuum(0, enforce_retention_duration=False) == []


def test_a_compaction_alone_loses_no_files(path: Path, store: DeltaStore) -> None:
    rewrite(store, 6)
    old = data_file_names(path)
    DeltaTable(path).optimize.compact()
    store.close()
    open_pond(path).close()
    assert old <= data_file_names(path)


def test_no_old_file_goes_while_a_new_one_is_missing(path: Path, store: DeltaStore) -> None:
    """The command was interrupted and took its files back while the daemon linked the entry."""
    rewrite(store, 6)
    rewritten = write_files(make_plan(path, [Version(6)]))
    old = committed(path)
    store.swap_files(rewritten.request)
    new = path / rewritten.files[0]
    data = new.read_bytes()
    for damage in (b"", data[:-1]):
        new.write_bytes(damage)
        with pytest.raises(StoreDamaged, match="is gone or not whole"):
            store.remove_pruned()
        assert old <= data_file_names(path)
    new.write_bytes(data)
    assert store.remove_pruned() > 0
    assert data_file_names(path) == committed(path)


def test_a_swap_without_its_files_does_not_happen(
    path: Path, store: DeltaStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    rewrite(store, 6)
    before = states(store)
    rewritten = write_files(make_plan(path, [Version(6)]))
    made = prune_swap._entry

    def taken_back(*args: Any) -> bytes:
        """At the latest moment there is."""
        entry = made(*args)
        (path / rewritten.files[0]).unlink()
        return entry

    monkeypatch.setattr(prune_swap, "_entry", taken_back)
    with pytest.raises(StoreDamaged, match="not there whole: prune again"):
        store.swap_files(rewritten.request)
    assert states(store) == before


def test_asking_for_what_is_left_over_costs_nothing_when_there_is_nothing(
    path: Path, store: DeltaStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A daemon asks again and again: the space came back at unmounting only."""
    looks: list[str] = []

    def look(log_dir: str) -> Snapshot:
        looks.append(log_dir)
        return read_snapshot(log_dir)

    monkeypatch.setattr(leftovers, "read_snapshot", look)
    rewrite(store, 6)
    assert store.remove_pruned() == 0
    reader = open_reader(path)
    prune(store, [6])
    for _ in range(3):
        assert store.remove_pruned() == 0
    assert not looks
    reader.close()
    freed = store.remove_pruned()
    assert store.removed_bytes == freed > 0
    assert looks
    looks.clear()
    assert store.remove_pruned() == 0
    assert not looks
    assert data_file_names(path) == committed(path)


AS_ROOT = """
import os, sys
from tests.unit.store.support import extent_row, file_row, make_cut, open_pond
from pondfs.store.prune import make_plan
from pondfs.store.prune_files import write_files

path = sys.argv[1]
root = open_pond(path)
root.put_tag("name", 6)
root.load_image()
rewritten = write_files(make_plan(path, [4, 6]))
assert os.stat(f"{path}/_pond/{rewritten.request}").st_uid == 4321
root.swap_files(rewritten.request)
os.unlink(f"{path}/_pond/{rewritten.request}")
root.remove_pruned()
for version in range(7, 40):
    root.commit(make_cut(version, [file_row(version * 10, b"x", b"%d" % version)]))
root.checkpoint(now=True)
root.close()
open(f"{path}.mine", "w").close()
assert os.stat(f"{path}.mine").st_uid == 0
"""


@pytest.fixture
def reachable() -> Iterator[Path]:
    """Others get at it; pytest's own directories are for root alone."""
    with tempfile.TemporaryDirectory() as directory:
        Path(directory).chmod(0o755)
        yield Path(directory) / "pond"


def test_what_root_makes_is_the_owners(reachable: Path) -> None:
    """Root tagged and pruned, and the owner could not open the pond any more."""
    path, store = reachable, new_pond(reachable)
    rewrite(store, 6)
    store.close()
    shutil.rmtree(path / "_pond")
    for found in [path, *path.rglob("*")]:
        os.chown(found, 4321, 4322)
    # In a process of its own: what is imported late may be out of the owner's reach.
    subprocess.run(
        [sys.executable, "-c", AS_ROOT, path],
        check=True,
        env={**os.environ, "PYTHONPATH": os.getcwd()},
    )
    assert (path / "_pond" / "rows").exists()
    owners = {str(found.relative_to(path)): (found.stat().st_uid, found.stat().st_gid)
              for found in path.rglob("*")}  # fmt: skip
    assert set(owners.values()) == {(4321, 4322)}, owners


def test_what_is_set_aside_is_the_owners_too(reachable: Path) -> None:
    path, store = reachable, new_pond(reachable)
    rewrite(store, 3)
    store.close()
    for found in [path, *path.rglob("*")]:
        os.chown(found, 4321, 4322)
    (path / "_delta_log" / f"{3:020d}.json").write_bytes(b"")
    root = open_pond(path)
    assert root.notes
    root.close()
    assert {found.stat().st_uid for found in path.rglob("*")} == {4321}


def test_commits_meanwhile_are_kept_whole(path: Path, store: DeltaStore) -> None:
    rewrite(store, 6)
    request = write_files(make_plan(path, [Version(6)])).request
    store.commit(make_cut(7, [extent_row(10, 0, b"new")], message="seven"))
    store.commit(make_cut(8, [size_row(10, 2, 2)]))
    before = {version: state(store, Version(version)) for version in (6, 7, 8)}
    store.swap_files(request)
    store.remove_pruned()
    assert {v: state(store, Version(v)) for v in (6, 7, 8)} == before
    assert [info.version for info in store.list_versions()] == [8, 7, 6]
    assert store.list_versions()[1].message == "seven"


@pytest.mark.parametrize("point", ["prune:entry", "commit:entry-fsync", "commit:link"])
def test_a_swap_that_failed_did_not_happen(path: Path, store: DeltaStore, point: str) -> None:
    rewrite(store, 6)
    before = states(store)
    rewritten = write_files(make_plan(path, [Version(6)]))
    with fault(point, "ENOSPC"), pytest.raises(OSError, match="No space"):
        store.swap_files(rewritten.request)
    assert not is_done(store.path, rewritten.files)
    discard(store.path, rewritten)
    assert data_file_names(path) == committed(path)
    assert states(store) == before
    store.commit(make_cut(7, [file_row(11, b"on", b"g")]))


def test_a_swap_that_could_not_be_synced_counts(path: Path, store: DeltaStore) -> None:
    """It may be there after a power cut or not: both is whole, as no old file goes before."""
    rewrite(store, 6)
    before = state(store, Version(6))
    with fault("commit:log-dir-fsync", "EIO", "1"):
        store.swap_files(write_files(make_plan(path, [Version(6)])).request)
    assert data_file_names(path) > committed(path)
    assert state(store, Version(6)) == before
    store.commit(make_cut(7, [file_row(11, b"on", b"g")]))
    assert [info.version for info in store.list_versions()] == [7, 6]


def test_what_could_not_be_written_is_gone(path: Path, store: DeltaStore) -> None:
    rewrite(store, 6)
    before = data_file_names(path)
    for point in ("data-file:fsync", "prune:store-dir-fsync", "prune:written"):
        with fault(point, "ENOSPC"), pytest.raises(OSError, match="No space"):
            write_files(make_plan(path, [Version(6)]))
    assert data_file_names(path) == before
    assert not list((path / "_pond").glob("prune-*"))


def test_a_version_that_is_not_there(path: Path, store: DeltaStore) -> None:
    with pytest.raises(NoSuchVersion, match="no version 9"):
        make_plan(path, [Version(9)])
