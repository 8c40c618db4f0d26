"""Each invariant broken by itself: the check names it, a repair mends or refuses it."""

from __future__ import annotations

import os
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest
import trio
from deltalake import DeltaTable

from docs.generate import CHECK, check_page
from pondfs.errors import NoSuchVersion, NotAPond, PondLocked, StoreDamaged
from pondfs.node import ROOT, NodeId, Version
from pondfs.oplog import Row
from pondfs.store import compact, compact_files, prune, prune_files
from pondfs.store.check import CLEAN, DAMAGED, INVARIANTS, REPAIRABLE, Report, check_store, extents
from pondfs.store.check.files import CHECK_COLUMNS
from pondfs.store.check.point import take_point
from pondfs.store.check.tree import Tree
from pondfs.store.checkpoint import write_checkpoint
from pondfs.store.deltalog import PRUNED, read_snapshot
from pondfs.store.history import History
from pondfs.store.journal import Journal
from pondfs.store.prune_swap import append_only_entry
from pondfs.store.repair import repair_store
from pondfs.store.scan import read_rows
from tests.unit.store import damage
from tests.unit.store.damage import A, D, F, S, X, Y, link, rows, table, update, value
from tests.unit.store.histories import Walk
from tests.unit.store.support import (
    DIRECTORY,
    FILE,
    attr,
    data_file_names,
    extent_row,
    file_row,
    log_entry,
    make_cut,
    open_pond,
    read_file,
)

BREAKS: list[tuple[str, damage.Break]] = [
    ("log-readable", damage.truncate_older),
    ("log-readable", damage.remove_older),
    ("log-readable", damage.bounds(3, {"part_id": 5})),
    ("log-readable", damage.bounds(3, "low")),
    ("log-head", damage.truncate_newest),
    ("log-head", damage.rot_newest),
    ("log-head", damage.bounds(4, {"version": "4"})),
    ("log-head", damage.lose_newest_file),
    ("log-checkpoints", damage.wrong_checkpoint),
    ("log-checkpoint-readable", damage.bad_checkpoint),
    ("log-last-checkpoint", damage.dangling_last_checkpoint),
    ("log-last-checkpoint", damage.bad_last_checkpoint),
    ("log-last-checkpoint", damage.fifo("_delta_log/_last_checkpoint")),
    ("log-append-only", damage.allow_deletes),
    ("tags", damage.loose_tag),
    ("data-files", damage.remove_file),
    ("data-files", damage.link_file),
    ("data-file-rows", damage.flip(3, "uid")),
    ("data-file-statistics", damage.miscount),
    ("data-file-statistics", damage.misplace),
    ("data-checksums", damage.flip(4, "content")),
    ("row-order", table(3, value(0, "seq", 1))),
    ("row-ids", table(3, value(0, "node_id", "000000000000000:"))),
    ("row-shape", table(3, value(0, "uid", None))),
    ("row-shape", table(4, value(0, "offset", None))),
    ("commit-rows", table(3, value(0, "seq", 7))),
    ("commit-rows", table(3, value(0, "op", "commit"))),
    ("versions-dense", damage.forget_version),
    ("versions-dense", damage.misnumber),
    ("root", rows(Row("unlink", 5, ROOT, ROOT, DIRECTORY, removed=True))),
    ("fold", damage.unreadable_target),
    ("entry-node", rows(link(99, b"ghost"))),
    ("entry-directory", rows(link(A, b"a", part=88))),
    ("entry-directory", rows(link(A, b"a", part=F))),
    ("entry-name", rows(link(A, b"x/y", attrs=attr(size=6, nlink=2)))),
    ("entry-name", rows(link(A, b"..", attrs=attr(size=6, nlink=2)))),
    ("entry-name-bytes", table(2, value(3, "name_bytes", b"other"))),
    ("one-parent", rows(link(D, b"again", mode=DIRECTORY), update(ROOT, attr(DIRECTORY, nlink=4)))),
    ("reachable", rows(update(77, attr(), part=D))),
    ("reachable", rows(update(X, attr(DIRECTORY, nlink=2)))),
    (
        "no-cycles",
        rows(
            link(X, b"x", Y, DIRECTORY), update(X, attr(DIRECTORY, nlink=3)),
            link(Y, b"y", X, DIRECTORY), update(Y, attr(DIRECTORY, nlink=3)),
        ),
    ),
    ("nlink", rows(update(A, attr(size=6, nlink=5)))),
    ("nlink", rows(update(D, attr(DIRECTORY, nlink=9)))),
    ("nlink", rows(update(ROOT, attr(DIRECTORY, nlink=0)))),
    ("node-mode", rows(update(A, attr(0o170644, size=6), mode=FILE))),
    ("node-type", rows(update(A, attr(size=6), mode=0o010644))),
    ("node-device", rows(update(A, (*attr(size=6)[:4], -1, *attr(size=6)[5:])))),
    ("node-metadata", rows(update(A, attr(size=6))._replace(metadata="not json"))),
    ("node-metadata", rows(update(A, attr(size=6))._replace(metadata="[1]"))),
    ("node-metadata", rows(update(A, attr(size=6))._replace(metadata='{"xattrs":{"user.a":5}}'))),
    ("node-metadata", rows(update(D, attr(DIRECTORY, nlink=2))._replace(
        metadata='{"xattrs":{"user.a":"%%%"}}'))),
    ("node-size", rows(link(X, b"x", attrs=attr(size=-1)))),
    ("extents-inside", rows(update(A, attr(size=2)))),
    ("symlink-target", rows(update(S, attr(0o120777, size=99)))),
    ("saved-image", damage.wrong_image("nlink", [1])),
    ("saved-image", damage.wrong_image("parents", [0, 1, 0, 0, 0])),
    ("cached-rows", damage.wrong_rows),
    ("journal", damage.bad_journal),
    ("journal", damage.fifo("_pond/journal")),
]  # fmt: skip


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return damage.make_pond(tmp_path_factory.mktemp("check") / "pond")


@pytest.fixture
def pond(model: Path, tmp_path: Path) -> Path:
    path = tmp_path / "pond"
    shutil.copytree(model, path)
    return path


def found(report: Report) -> set[str]:
    return {finding.invariant for finding in report.findings}


def fingerprint(path: Path) -> dict[str, bytes]:
    return {
        os.path.relpath(file, path): file.read_bytes()
        for file in path.rglob("*")
        if file.is_file() and file.name != "lock"
    }


@pytest.mark.parametrize(
    ("name", "break_it"), BREAKS, ids=[f"{name}-{at}" for at, (name, _) in enumerate(BREAKS)]
)
def test_what_is_broken_is_named_and_mended_or_refused(
    pond: Path, name: str, break_it: damage.Break
) -> None:
    assert check_store(pond, data=True).verdict == CLEAN
    break_it(pond)
    report = check_store(pond, data=name == "data-checksums")
    assert found(report) == {name}
    mends = bool(INVARIANTS[name].mend)
    assert report.verdict == (REPAIRABLE if mends else DAMAGED)
    for finding in report.findings:
        assert "\n" not in finding.message
        assert "backup" in finding.message or "repair" in finding.message

    before = fingerprint(pond)
    planned = repair_store(pond, dry_run=True)
    assert planned.version is None
    assert fingerprint(pond) == before
    if name == "data-checksums":
        return  # which a repair does not look for
    outcome = repair_store(pond)
    assert found(outcome.before) == {name}
    if not mends:
        assert outcome.after is None
        assert not outcome.actions
        assert fingerprint(pond) == before
        return
    assert outcome.actions == planned.actions
    assert outcome.after is not None
    assert outcome.after.findings == ()
    again = check_store(pond, data=True)
    assert again.findings == ()
    assert again.tree_hash
    # Nothing is left to do, and the pond can be written to.
    assert repair_store(pond).actions == []
    store = open_pond(pond)
    damage.add(store, [file_row(1234, b"new", b"new")])
    assert read_file(store, store.load_image(), 1234) == b"new"
    store.close()
    assert check_store(pond, data=True).verdict == CLEAN


def test_the_reference_is_current() -> None:
    assert CHECK.read_text() == check_page(), "run `make docs`"


def test_every_invariant_is_broken_by_some_test() -> None:
    assert {name for name, _ in BREAKS} | {"extents-disjoint", "log-removes"} == set(INVARIANTS)


def test_extents_that_overlap(pond: Path) -> None:
    """No rows make such a fold, so only a bug in it can."""
    store = open_pond(pond)
    image = store.load_image()
    tree = Tree(History(read_rows(list(store._files), CHECK_COLUMNS), None))
    assert extents.extents_are_disjoint(tree, image.columns) == []
    image.columns.extent_offset = np.zeros(len(image.columns.extent_offset), np.int64)
    (finding,) = extents.extents_are_disjoint(tree, image.columns)
    assert "'/d/f'" in finding.message
    store.close()


def test_what_is_lost_gets_a_name(pond: Path) -> None:
    """What nothing leads to is in lost+found, whole, and belongs to who had it."""
    rows(
        *file_rows_without_name(),
        link(D, b"again", mode=DIRECTORY),
        update(ROOT, attr(DIRECTORY, nlink=4)),
        link(A, b"x/y", attrs=attr(size=6, nlink=2)),
        link(99, b"ghost"),
    )(pond)
    report = check_store(pond)
    assert found(report) == {"reachable", "one-parent", "entry-name", "entry-node"}
    outcome = repair_store(pond)
    assert outcome.version == report.version + 1
    store = open_pond(pond)
    image = store.load_image()
    root = image.load_entries(ROOT)
    assert set(root) == {b"again", b"a", b"s", b"lost+found"}
    lost = image.load_entries(root[b"lost+found"])
    assert lost == {b"%016x" % X: X, b"%016x" % 77: 77}
    assert image.load_entries(NodeId(X)) == {b"inside": 78}
    assert read_file(store, image, 77) == b"seventy-seven"
    about = image.find_node(root[b"lost+found"])
    assert about is not None
    assert about.attr[:5] == (0o040700, 0, 0, 3, 0)
    info = store.list_versions()[0]
    assert info.message.startswith("repair: ")
    assert info.nodes_created == 1
    # The version before is as it was: with a name that nobody shall follow.
    with pytest.raises(StoreDamaged, match="a name that no file can have"):
        store.load_image_at(Version(outcome.version - 1))
    store.close()

    # A second time the directory is used that is there.
    rows(update(79, attr(), part=D))(pond)
    assert repair_store(pond).after is not None
    store = open_pond(pond)
    image = store.load_image()
    assert set(image.load_entries(ROOT)) == set(root)
    assert b"%016x" % 79 in image.load_entries(root[b"lost+found"])
    store.close()


def file_rows_without_name() -> list[Row]:
    lost = file_row(77, b"seventy-seven", None, part=X)
    inside = file_row(78, b"inside", b"inside", part=X)
    return [lost, update(X, attr(DIRECTORY, nlink=2)), inside]


def test_a_name_that_begins_at_the_root(pond: Path) -> None:
    rows(link(A, b"/etc/x", D, attrs=attr(size=6, nlink=2)))(pond)
    (finding,) = check_store(pond).findings
    assert finding.paths == (b"d//etc/x",)
    assert "'/d//etc/x'" in finding.message


def test_what_opening_takes_over_can_be_damaged(pond: Path) -> None:
    """A version in the journal, which a look before it does not know: then only opening was done,
    and nothing else is said to have been.
    """
    rows(link(99, b"ghost"))(pond)
    damage.allow_deletes(pond)
    table_id = str(read_snapshot(os.fspath(pond / "_delta_log")).metadata["id"])
    written = Journal(os.fspath(pond), table_id)
    written.append(make_cut(6, [link(X, b"x", attrs=attr(size=-1))]))
    written.close()
    outcome = repair_store(pond)
    assert outcome.actions == ["set delta.appendOnly again"]
    assert outcome.version is None
    assert outcome.after is not None
    assert outcome.after.verdict == DAMAGED


def test_lost_and_found_is_taken_by_a_file(pond: Path) -> None:
    rows(file_row(70, b"mine", b"lost+found"), update(77, attr(), part=D))(pond)
    assert repair_store(pond).after is not None
    store = open_pond(pond)
    image = store.load_image()
    root = image.load_entries(ROOT)
    assert read_file(store, image, root[b"lost+found"]) == b"mine"
    assert list(image.load_entries(root[b"lost+found-2"]).values()) == [77]
    store.close()


def test_whose_bytes_a_lost_data_file_had(pond: Path) -> None:
    store = open_pond(pond)
    assert store.save_image() is not None
    damage.add(store, [update(A, attr(FILE & ~0o044, size=6))])
    store.close()
    damage.data_file(pond, 4).unlink()
    (finding,) = check_store(pond).findings
    assert finding.paths == (b"d/f",)
    assert "'/d/f'" in finding.message


def test_whose_bytes_are_damaged(pond: Path) -> None:
    damage.flip(4, "content")(pond)
    assert check_store(pond).verdict == CLEAN  # the bytes were not read
    (finding,) = check_store(pond, data=True).findings
    assert finding.paths == (b"d/f",)
    damage.flip(4, "content")(pond)
    rows(extent_row(F, 0, b"ELEVEN", part=D), update(F, attr(size=6), part=D))(pond)
    damage.flip(4, "content")(pond)
    (finding,) = check_store(pond, data=True).findings
    assert finding.paths == ()
    assert "only earlier versions" in finding.message


def test_a_compressed_file_is_read_frame_by_frame(pond: Path) -> None:
    rows(file_row(X, b"compress " * 50_000, b"large"))(pond)
    store = open_pond(pond)
    store.swap_files(compact_files.write_files(compact.make_plan(pond)).request)
    store.remove_pruned(now=True)
    store.close()
    report = check_store(pond, data=True)
    assert report.verdict == CLEAN
    assert report.read_bytes == report.data_bytes
    (file,) = pond.glob("*.parquet")
    data = bytearray(file.read_bytes())
    data[len(data) // 3] ^= 1
    file.write_bytes(data)
    assert found(check_store(pond, data=True)) <= {"data-checksums", "data-file-rows"}
    assert check_store(pond, data=True).verdict == DAMAGED


def test_what_another_program_compacted(pond: Path) -> None:
    before = check_store(pond, data=True)
    DeltaTable(pond).optimize.compact()
    after = check_store(pond, data=True)
    assert (after.findings, after.data_files) == ((), 1)
    assert after.tree_hash == before.tree_hash


def test_rows_that_another_program_took_out(pond: Path) -> None:
    """delta-rs calls it a repair: what is lost is forgotten, and nothing looks wrong then."""
    damage.forget_lost_file(pond)
    report = check_store(pond, data=True)
    assert "log-removes" in found(report)
    assert report.verdict == DAMAGED
    assert repair_store(pond).after is None


def test_a_checkpoint_without_statistics(pond: Path) -> None:
    """As another program writes it, where the table says so."""
    DeltaTable(pond).alter.set_table_properties({"delta.checkpoint.writeStatsAsJson": "false"})
    DeltaTable(pond).create_checkpoint()
    snapshot = read_snapshot(os.fspath(pond / "_delta_log"))
    assert snapshot.checkpoint == snapshot.version
    assert not any(add.get("stats") for add in snapshot.adds.values())
    assert check_store(pond, data=True).findings == ()


@pytest.mark.parametrize("bounds", [None, {}, {"version": None, "part_id": None}])
def test_statistics_that_say_nothing(pond: Path, bounds: object) -> None:
    """As another program may write them: then the file is looked into for whatever it is about."""
    damage.bounds(3, bounds)(pond)
    assert check_store(pond, data=True).findings == ()
    store = open_pond(pond)
    assert read_file(store, store.load_image(), A) == b"twelve"
    store.close()


def test_a_file_that_is_nothing_but_a_hole(pond: Path) -> None:
    """Hashing 8 EiB of zeros has no end."""
    rows(update(A, attr(size=64 << 20)))(pond)
    shares: list[float] = []
    report = check_store(
        pond, data=True, progress=lambda what, share: shares.append(share * ("hash" in what))
    )
    assert report.tree_hash
    assert any(0 < share <= 1 for share in shares)
    rows(update(A, attr(size=(1 << 63) - 1)))(pond)
    report = check_store(pond, data=True)
    assert report.findings == ()
    assert not report.tree_hash
    assert any("TiB of holes" in note for note in report.notes)


def test_old_versions_can_be_checked(pond: Path) -> None:
    rows(update(A, attr(size=6, nlink=5)))(pond)
    assert check_store(pond).verdict == REPAIRABLE
    report = check_store(pond, at=Version(4))
    assert (report.verdict, report.version) == (CLEAN, 4)
    with pytest.raises(NoSuchVersion):
        check_store(pond, at=Version(77))


def test_what_a_prune_forgot_is_not_missing(pond: Path) -> None:
    store = open_pond(pond)
    plan = prune.make_plan(pond, [Version(2)])
    store.swap_files(prune_files.write_files(plan).request)
    store.remove_pruned(now=True)
    assert check_store(pond, data=True).verdict == CLEAN
    # Nor when no entry tells of the prune any more.
    store.checkpoint(now=True)
    for entry in (pond / "_delta_log").glob("*.json"):
        entry.unlink()
    assert check_store(pond, data=True).verdict == CLEAN
    damage.add(store, [update(A, attr(size=6))])
    damage.add(store, [update(A, attr(size=6))])
    store.close()
    number = max(int(entry.stem) for entry in (pond / "_delta_log").glob("*.json"))
    damage.edit_entry(pond, number - 1, lambda actions: [a for a in actions if "add" not in a])
    (finding,) = check_store(pond).findings
    assert finding.invariant == "versions-dense"
    assert "version 5 is missing" in finding.message


def test_what_an_earlier_pondfs_pruned(pond: Path) -> None:
    """It left no mark, and the log does not tell of it any more: nobody knows, so it is a note."""
    store = open_pond(pond)
    plan = prune.make_plan(pond, [Version(3)])
    store.swap_files(prune_files.write_files(plan).request)
    store.remove_pruned(now=True)
    store.close()
    snapshot = read_snapshot(os.fspath(pond / "_delta_log"))
    del snapshot.txns[PRUNED]
    write_checkpoint(os.fspath(pond / "_delta_log"), snapshot)
    for entry in (pond / "_delta_log").glob("*.json"):
        entry.unlink()
    report = check_store(pond, data=True)
    assert report.findings == ()
    (note,) = report.notes
    assert note.startswith("versions 1 to 2 are not there: an earlier pondfs pruned")
    # The next commit leaves the mark: from there on none may be missing.
    store = open_pond(pond)
    for _ in range(3):
        damage.add(store, [update(A, attr(size=6))])
    store.close()
    assert read_snapshot(os.fspath(pond / "_delta_log")).txns[PRUNED]["version"] == 4
    report = check_store(pond)
    assert (report.findings, report.notes) == ((), [])
    number = max(int(entry.stem) for entry in (pond / "_delta_log").glob("*.json"))
    damage.edit_entry(pond, number - 1, lambda actions: [a for a in actions if "add" not in a])
    (finding,) = check_store(pond).findings
    assert "version 6 is missing" in finding.message


def test_a_new_pond_has_the_mark(pond: Path) -> None:
    assert read_snapshot(os.fspath(pond / "_delta_log")).txns[PRUNED]["version"] == 0


def test_what_is_no_finding(pond: Path) -> None:
    """Leftovers of a crash, caches that are not whole, a journal that waits."""
    stray = pond / "0000aaaa-0000-0000-0000-000000000000.parquet"
    stray.write_bytes(b"no commit got to it")
    os.utime(stray, (0, 0))
    (pond / "_pond" / "image").write_bytes(b"torn")
    (pond / "_pond" / "rows").write_bytes(bytes(100))
    aside = pond / "_pond" / "set-aside"
    aside.mkdir()
    (aside / "journal.1").write_bytes(b"")
    table_id = str(read_snapshot(os.fspath(pond / "_delta_log")).metadata["id"])
    written = Journal(os.fspath(pond), table_id)
    written.append(make_cut(5, [update(A, attr(size=6))]))
    written.close()
    report = check_store(pond, data=True)
    assert report.verdict == CLEAN
    assert len(report.notes) == 3
    assert any("version 5" in note for note in report.notes)


@pytest.mark.parametrize("name", ["readers", "image", "rows"])
def test_a_fifo_is_not_waited_for(pond: Path, name: str) -> None:
    """Root looks at other users' ponds."""
    damage.fifo(f"_pond/{name}")(pond)
    assert check_store(pond).findings == ()


def test_an_entry_that_a_checkpoint_covers(pond: Path) -> None:
    damage.checkpoint(pond)
    damage.truncate_older(pond)
    report = check_store(pond)
    assert report.verdict == CLEAN
    assert any("is damaged" in note for note in report.notes)


def test_what_was_set_aside_is_not_named_any_more(pond: Path) -> None:
    """A newest entry set aside, with its checkpoint, left `_last_checkpoint` naming nothing."""
    damage.bad_checkpoint(pond)
    damage.truncate_newest(pond)
    assert found(check_store(pond)) == {"log-head", "log-checkpoint-readable"}
    open_pond(pond).close()
    assert check_store(pond).findings == ()
    assert DeltaTable(pond).version() == 3


def test_a_prune_that_waits_for_the_disk(pond: Path) -> None:
    """Between its two entries lie syncs: a check that looks then waits for the second."""
    store = open_pond(pond)
    checked = threading.Event()
    reports: list[Report] = []

    def look() -> None:
        reports.append(check_store(pond))
        checked.set()

    looker = threading.Thread(target=look)
    damage.allow_deletes_by(store)
    looker.start()
    # Longer than one look; what is found does not depend on it.
    assert not checked.wait(1.5)
    metadata = read_snapshot(os.fspath(pond / "_delta_log")).metadata
    store._publisher.publish_entry(append_only_entry(metadata))
    looker.join()
    assert reports[0].findings == ()
    store.close()


def test_a_torn_entry_after_one_that_lifted_append_only(pond: Path) -> None:
    """Looking again for what lifted it meets the torn one again."""
    damage.allow_deletes(pond)
    torn = log_entry(pond, 6)
    torn.write_bytes(b'{"commitInfo":{')
    os.utime(torn, (0, 0))
    assert found(check_store(pond)) == {"log-head", "log-append-only"}
    outcome = repair_store(pond)
    assert outcome.after is not None
    assert outcome.after.findings == ()


def test_a_directory_inside_itself_that_is_reached(pond: Path) -> None:
    """Walking such a tree has no end, so it has no hash."""
    rows(
        link(X, b"x", D, DIRECTORY),
        update(X, attr(DIRECTORY, nlink=3)),
        update(D, attr(DIRECTORY, nlink=3)),
        link(D, b"d", X, DIRECTORY),
    )(pond)
    report = check_store(pond, data=True)
    assert "one-parent" in found(report)
    assert report.verdict == REPAIRABLE
    assert not report.tree_hash
    outcome = repair_store(pond)
    assert outcome.after is not None
    assert outcome.after.verdict == CLEAN
    assert check_store(pond, data=True).tree_hash


def test_files_that_were_exchanged_meanwhile(pond: Path) -> None:
    """Where nobody can lock them: what is gone then is not lost, and the check begins anew."""
    where = take_point(os.fspath(pond), Report(os.fspath(pond)))
    assert where is not None
    assert not where.is_outdated()
    store = open_pond(pond)
    store.swap_files(compact_files.write_files(compact.make_plan(pond)).request)
    store.remove_pruned(now=True)
    store.close()
    assert where.is_outdated()
    now = take_point(os.fspath(pond), Report(os.fspath(pond)))
    assert now is not None
    assert not now.is_outdated()
    Path(now.files[0].path).unlink()
    assert not now.is_outdated()


def test_files_that_are_exchanged_while_it_looks(pond: Path) -> None:
    """It finds them missing then, sees why, and begins anew: no damage, and the same tree."""
    right = check_store(pond, data=True)
    assert right.verdict == CLEAN
    (pond / "_pond" / "readers").unlink()  # so that nobody knows of it
    seen: list[str] = []

    def exchange(what: str, share: float) -> None:
        seen.append(what)
        if seen == ["looking at the log", "reading the rows"]:
            before = data_file_names(pond)
            store = open_pond(pond)
            store.swap_files(compact_files.write_files(compact.make_plan(pond)).request)
            store.remove_pruned(now=True)
            store.close()
            assert not before <= data_file_names(pond)

    report = check_store(pond, data=True, progress=exchange)
    assert seen.count("looking at the log") == 2
    assert report.findings == ()
    assert report.tree_hash == right.tree_hash


def test_no_pond(tmp_path: Path) -> None:
    with pytest.raises(NotAPond):
        check_store(tmp_path)
    (tmp_path / "_delta_log").mkdir()
    with pytest.raises(NotAPond):
        check_store(tmp_path)


def test_a_pond_in_use_is_not_mended(pond: Path) -> None:
    rows(link(99, b"ghost"))(pond)
    store = open_pond(pond)
    assert check_store(pond).verdict == REPAIRABLE
    assert repair_store(pond, dry_run=True).actions
    with pytest.raises(PondLocked):
        repair_store(pond)
    store.close()


def test_what_is_wrong_everywhere_is_told_a_hundred_times(pond: Path) -> None:
    rows(*[link(1000 + number, b"%d" % number) for number in range(150)])(pond)
    report = check_store(pond)
    assert len(report.findings) == 101
    assert report.findings[-1].message == "50 more of this kind"
    outcome = repair_store(pond)
    assert len(outcome.actions) == 150
    assert outcome.after is not None
    assert outcome.after.verdict == CLEAN


def test_wrong_counts_are_all_mended_though_not_all_are_told(pond: Path) -> None:
    rows(*[link(1000 + number, b"%d" % number, attrs=attr(nlink=7)) for number in range(150)])(pond)
    report = check_store(pond)
    assert [finding.message for finding in report.findings[100:]] == ["50 more of this kind"]
    outcome = repair_store(pond)
    assert len(outcome.actions) == 150
    assert outcome.after is not None
    assert outcome.after.verdict == CLEAN


@pytest.mark.parametrize("seed", range(3))
def test_no_false_findings(tmp_path: Path, seed: int) -> None:
    """Ponds with a random past, compacted and pruned: clean all along."""
    path = tmp_path / "pond"
    walk = Walk(path, seed)
    trio.run(walk.run, 120, 0.3)
    open_hash = check_store(path, data=True)
    assert open_hash.findings == ()
    walk.store.swap_files(compact_files.write_files(compact.make_plan(path)).request)
    compacted = check_store(path, data=True)
    assert compacted.findings == ()
    assert compacted.tree_hash == open_hash.tree_hash
    trio.run(walk.run, 60, 0.3)
    versions = [info.version for info in walk.store.list_versions()]
    kept = [version for version in versions if version % 3 == 0]
    walk.store.swap_files(prune_files.write_files(prune.make_plan(path, kept)).request)
    for version in (None, *kept[:4]):
        assert check_store(path, data=True, at=version).findings == ()
    walk.close()
    assert check_store(path, data=True).findings == ()
