import json
import os
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pytest
from deltalake import DeltaTable

from pondfs.errors import NotAPond
from pondfs.node import Version
from pondfs.oplog import VersionInfo
from pondfs.store import checkpoint, compact_files
from pondfs.store.commit import add_action
from pondfs.store.commitrows import CommitRows
from pondfs.store.compact import make_plan
from pondfs.store.compact_files import write_files
from pondfs.store.content import DataFile
from pondfs.store.log import has_version, read_times, read_versions
from tests.unit.store.support import (
    file_row,
    log_entry,
    make_cut,
    new_pond,
    open_pond,
    write_version,
)


@pytest.fixture
def pond(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(checkpoint, "ENTRIES_BETWEEN", 5)
    path = tmp_path / "pond"
    store = new_pond(path)
    for version in range(2, 9):
        rows = [file_row(version, b"x", b"f%d" % version)]
        store.commit(make_cut(version, rows, message=f"note {version}"))
    store.close()
    return path


def check(versions: list[VersionInfo], expected: range) -> None:
    assert [info.version for info in versions] == list(expected)
    assert [info.message for info in versions if info.version > 1] == [
        f"note {number}" for number in expected if number > 1
    ]
    for info in versions:
        assert abs((datetime.now(UTC) - info.timestamp).total_seconds()) < 60
        if info.version > 1:
            assert (info.user, info.host, info.operations) == ("ada", "lab", 1)


def test_newest_first(pond: Path) -> None:
    check(read_versions(pond), range(8, 0, -1))
    check(read_versions(pond, 3), range(8, 5, -1))
    check(read_versions(pond, 0), range(0))
    check(read_versions(pond, 99), range(8, 0, -1))


def test_beside_a_writer(pond: Path) -> None:
    store = open_pond(pond)
    store.commit(make_cut(9, [file_row(9, b"x", b"f9")], message="note 9"))
    check(read_versions(pond, 2), range(9, 7, -1))
    store.close()


def test_foreign_commits_are_no_versions(pond: Path) -> None:
    DeltaTable(pond).optimize.compact()
    check(read_versions(pond, 2), range(8, 6, -1))


def test_where_log_entries_are_gone_the_rows_tell(pond: Path) -> None:
    """A compacted table whose log was cleaned up still knows every version."""
    before = read_versions(pond)
    for number in range(8):
        log_entry(pond, number).unlink()
    assert read_versions(pond) == before
    assert read_versions(pond, 1) == before[:1]
    assert read_versions(pond, 3) == before[:3]
    DeltaTable(pond).optimize.compact()
    log_entry(pond, 8).unlink()
    assert read_versions(pond) == before
    assert read_versions(pond, 3) == before[:3]


def test_a_torn_newest_entry_is_a_commit_that_did_not_happen(pond: Path) -> None:
    log_entry(pond, 8).write_bytes(b"")
    check(read_versions(pond, 2), range(7, 5, -1))


def test_no_pond(tmp_path: Path) -> None:
    with pytest.raises(NotAPond):
        read_versions(tmp_path)


def test_the_newest_versions_need_no_arrow(pond: Path) -> None:
    """`pond log -n 20` shall answer at once; importing pyarrow takes 0.2 s."""
    code = (
        "import sys; from pathlib import Path; from pondfs.store.log import read_versions;"
        "read_versions(Path(sys.argv[1]), 3); sys.exit('pyarrow' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code, os.fspath(pond)], check=True)


def two_in_one(pond: Path, first: int) -> list[DataFile]:
    """An entry that carries two versions, as from a journal: only the rows tell them apart."""
    files = [
        write_version(pond, version, [file_row(version, b"x", b"f%d" % version)])
        for version in (first, first + 1)
    ]
    facts = {"first_version": first, "version": first + 1, "time_ns": 5, "message": "both"}
    actions = [
        {"commitInfo": {"pondfs": {**facts, "lines": 4}}},
        {"txn": {"appId": "pondfs", "version": first + 1}},
        *({"add": add_action(file)} for file in files),
    ]
    number = max(int(name[:20]) for name in os.listdir(pond / "_delta_log") if name[0] == "0")
    log_entry(pond, number + 1).write_text("\n".join(map(json.dumps, actions)))
    return files


def test_an_entry_with_several_versions_leaves_them_to_the_rows(pond: Path) -> None:
    before = read_versions(pond)
    two_in_one(pond, 9)
    found = read_versions(pond)
    assert [info.version for info in found] == list(range(10, 0, -1))
    assert {info.message for info in found[:2]} == {""}
    assert found[2:] == before
    assert read_versions(pond, 1) == found[:1]
    assert read_versions(pond, 2) == found[:2]
    # What comes after it is told by its own entry, and still nothing twice or left out.
    store = open_pond(pond)
    store.commit(make_cut(11, [file_row(11, b"x", b"f11")]))
    store.close()
    assert [info.version for info in read_versions(pond)] == list(range(11, 0, -1))
    assert read_versions(pond, 4)[1:] == found[:3]
    assert read_versions(pond, 1)[0].version == 11


@pytest.mark.parametrize("limit", [1, 3, 7, 8, 99, None])
def test_compacted_rows_tell_the_same_however_they_lie(
    pond: Path, limit: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Many row groups, a clustered file beside small ones, and a foreign one that is neither."""
    monkeypatch.setattr(compact_files, "LEAST_GROUP_ROWS", 3)
    before = read_versions(pond)
    store = open_pond(pond)
    for version in range(9, 21):
        store.commit(make_cut(version, [file_row(version, b"x", b"f%d" % version, part=7)]))
    store.swap_files(write_files(make_plan(pond)).request)
    store.remove_pruned(now=True)
    for version in range(21, 24):
        store.commit(make_cut(version, [file_row(version, b"x", b"f%d" % version)]))
    store.close()
    rows = CommitRows(os.fspath(pond)).newest(limit)
    assert [info.version for info in rows] == list(range(23, 0, -1))[:limit]
    assert CommitRows(os.fspath(pond), last=8).newest(limit) == before[:limit]
    assert CommitRows(os.fspath(pond), 4, 6).newest(limit) == before[2:5][:limit]
    versions, times_ns = read_times(pond)
    infos = CommitRows(os.fspath(pond)).newest(None)
    assert versions == [info.version for info in infos[::-1]]
    assert times_ns == [info.time_ns for info in infos[::-1]]
    assert [v for v in range(26) if has_version(pond, Version(v))] == list(range(1, 24))
    DeltaTable(pond).optimize.compact()
    assert CommitRows(os.fspath(pond)).newest(limit) == rows


def test_the_newest_few_do_not_cost_all(pond: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a compacted file, the row groups with the newest versions alone are read."""
    monkeypatch.setattr(compact_files, "LEAST_GROUP_ROWS", 3)
    store = open_pond(pond)
    for version in range(9, 41):
        store.commit(make_cut(version, [file_row(version, b"x", b"f%d" % version, part=7)]))
    store.swap_files(write_files(make_plan(pond)).request)
    store.close()
    read: list[int] = []
    choose = CommitRows._choose

    def count(rows: CommitRows, table: pa.Table) -> pa.Table:
        read.append(table.num_rows)
        return choose(rows, table)

    monkeypatch.setattr(CommitRows, "_choose", count)
    assert [info.version for info in CommitRows(os.fspath(pond)).newest(2)] == [40, 39]
    assert sum(read) <= 6
    read.clear()
    assert has_version(pond, Version(20))
    assert sum(read) <= 6


def test_a_damaged_entry_that_a_checkpoint_covers_hides_no_version(tmp_path: Path) -> None:
    """Opening does not look at it, so nobody would be told: the rows tell of its version."""
    store = new_pond(tmp_path / "pond")
    for version in range(2, 6):
        store.commit(make_cut(version, [file_row(version, b"x", b"f%d" % version)]))
    store.checkpoint(now=True)
    store.close()
    whole = read_versions(tmp_path / "pond")
    assert len(whole) == 5
    log_entry(tmp_path / "pond", 3).write_bytes(b"")
    assert read_versions(tmp_path / "pond") == whole
