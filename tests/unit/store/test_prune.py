import gc
import os
import random
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pytest
import trio
from deltalake import DeltaTable

from pondfs.errors import NoSuchVersion, PondError, UsageError
from pondfs.extent import Content
from pondfs.node import ROOT, NodeId, Version
from pondfs.store import open_reader, prune_files
from pondfs.store import prune as planning
from pondfs.store.changes import load_changes
from pondfs.store.delta import DeltaStore
from pondfs.store.lives import load_history, load_touching
from pondfs.store.log import read_versions
from pondfs.store.prune import Plan, make_plan
from pondfs.store.prune_files import write_files
from pondfs.store.prune_swap import is_done
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


@pytest.mark.parametrize("seed", range(int(os.environ.get("POND_PRUNE_SEEDS", "25"))))
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


@pytest.mark.parametrize("seed", range(int(os.environ.get("POND_PRUNE_SEEDS", "12"))))
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
    late = write_files(make_plan(path, [Version(5), Version(6)]))
    saved = (path / "_pond" / late.request).read_bytes()
    prune(store, [6])
    (path / "_pond" / late.request).write_bytes(saved)
    with pytest.raises(UsageError, match="rewritten meanwhile: prune again"):
        store.swap_files(late.request)
    store.commit(make_cut(7, [file_row(11, b"on", b"g")]))


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
    prune_files.discard(store.path, rewritten)
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
