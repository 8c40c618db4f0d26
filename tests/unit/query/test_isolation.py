"""A session sees one state, whatever is committed or goes meanwhile; and Python ends well."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import trio

from pondfs.errors import UsageError
from pondfs.node import ROOT
from pondfs.oplog import Row
from pondfs.query.dataset import _own
from pondfs.query.session import Session
from pondfs.store.delta import DeltaStore
from pondfs.store.preview import read_pending, to_stream
from tests.unit.store.histories import ME, Walk
from tests.unit.store.support import adopt, file_row, make_cut, new_pond, open_pond

ROWS = 60_000


def commit(store: DeltaStore, version: int, changes: list[Row]) -> None:
    adopt(store.commit(make_cut(version, changes, message=f"version {version}")))


def rows(session: Session, sql: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = session.sql(sql).table().to_pylist()
    return found


ALL = [
    "SELECT * FROM nodes ORDER BY node_id",
    "SELECT * FROM oplog ORDER BY version, seq",
    "SELECT * FROM versions",
    "SELECT * FROM tags",
    "SELECT version, what, size FROM history('/a')",
    "SELECT change, path FROM changes('2', 'latest')",
]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "pond"
    store = new_pond(path)
    commit(store, 2, [file_row(11, b"eleven", b"a")])
    commit(store, 3, [file_row(11, b"eleven and more", b"a"), file_row(12, b"x", b"b")])
    store.put_tag("good", store.list_versions()[0].version)
    store.close()
    return path


@pytest.mark.parametrize("sql", ALL)
def test_what_is_committed_meanwhile_is_in_no_table(path: Path, sql: str) -> None:
    with Session(path) as session:
        fresh = rows(session, sql)
    with Session(path) as session:
        store = open_pond(path)
        commit(store, 4, [file_row(11, b"yet more", b"a"), file_row(13, b"new", b"c")])
        store.put_tag("later", store.list_versions()[0].version)
        store.close()
        assert rows(session, sql) == fresh
    with Session(path) as session:
        assert rows(session, sql) != fresh, "the commit shows in no way, so the test shows nothing"


@pytest.mark.parametrize("sql", [*ALL[:3], ALL[4]])
def test_at_a_version_nothing_later_counts(path: Path, sql: str) -> None:
    with Session(path) as session:
        fresh = rows(session, sql)
    store = open_pond(path)
    commit(store, 4, [file_row(11, b"yet more", b"a"), file_row(13, b"new", b"c")])
    store.close()
    with Session(path, at="3") as session:
        assert rows(session, sql) == fresh


def test_staged_content_is_there_though_its_file_goes(tmp_path: Path) -> None:
    walk = Walk(tmp_path / "pond", 0)

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(walk.vfs.committer.run)
            node = walk.vfs.make(ROOT, b"big", 0o100644, 0, ME)
            walk.vfs.open(node.id, os.O_RDWR)
            for number in range(3):
                await walk.vfs.write(node.id, number * 1000, b"%d" % number * 1000)
                await walk.vfs.committer._stage()
            await walk.vfs.write(node.id, 3000, b"not staged")
            nursery.cancel_scope.cancel()

    trio.run(main)
    preview = walk.vfs.preview(contents=True)
    assert preview is not None
    staged = [file.name for file in preview.staged]
    pending = read_pending(walk.path, staged, b"".join(to_stream(preview)))
    assert len(staged) == 3
    for name in staged:
        (walk.path / name).unlink()
    with Session(walk.path, pending=pending) as session:
        found = rows(
            session,
            'SELECT content, length, "offset" FROM oplog WHERE pending AND length > 0 ORDER BY 3',
        )
        sizes = rows(session, "SELECT size FROM nodes WHERE path = '/big'")
        skipped = session.sql("SELECT name FROM oplog WHERE NOT pending")
        skipped.table()
        assert skipped.stats.files_skipped == 3
    content = [b"%d" % number * 1000 for number in range(3)] + [b"not staged"]
    assert [row["content"] for row in found] == content
    assert [row["length"] for row in found] == list(map(len, content))
    assert sizes == [{"size": 3010}]
    walk.close()


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("large") / "pond"
    store = new_pond(path)
    commit(store, 2, [file_row(n, b"x", b"file %d" % n) for n in range(2, ROWS)])
    store.close()
    return path


def test_a_join_that_does_not_fit_goes_on_on_disk(
    large: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pondfs.query.session.MEMORY_BYTES", 12 << 20)
    monkeypatch.setattr("pondfs.query.session.BATCH_ROWS", 512)
    monkeypatch.setattr("pondfs.query.session.PARTS", 2)
    sql = (
        "SELECT o.*, n.path, n.mtime FROM oplog o JOIN nodes n USING (node_id) "
        "WHERE o.op = 'create' AND o.file_type = 'file'"
    )
    with Session(large) as session:
        # In proportion.
        session.context.sql("SET datafusion.execution.sort_spill_reservation_bytes = 1000000")
        result = session.sql(sql)
        found = result.table()
        assert found.num_rows == ROWS - 2
        assert result.stats.files == 2, "what was read in vain counts as well"
        settings = "SELECT value FROM information_schema.df_settings WHERE name LIKE"
        (used,) = rows(session, f"{settings} '%prefer_hash_join'")
        assert used == {"value": "false"}, "it did fit, so the test shows nothing"


def test_sorting_counts_a_batch_as_the_bytes_it_has(
    large: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pondfs.query.session.MEMORY_BYTES", 48 << 20)
    with Session(large) as session:
        found = session.sql("SELECT * FROM nodes ORDER BY name DESC").table()
    assert found.num_rows == ROWS - 1
    batch = next(iter(found.to_batches()))
    part = batch.slice(100, 10)
    assert _own(part).equals(part)
    assert _own(part).get_total_buffer_size() < 10_000 < part.get_total_buffer_size()


def test_nothing_stays_in_the_directory_for_temporary_files(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    top = tmp_path / "temporary"
    top.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(top))
    with Session(path) as session:
        assert rows(session, "SELECT * FROM nodes ORDER BY size")
        (in_use,) = top.iterdir()
        left = top / f"{in_use.name}-of-one-that-was-killed"
        (left / "datafusion-x").mkdir(parents=True)
        with Session(path):
            assert not left.exists()
            assert in_use.exists()
            assert len(list(top.iterdir())) == 2
    assert not list(top.iterdir())


FAILING = """
import sys
from pondfs.query.dataset import _own
from pondfs.query.session import Session
session = Session(sys.argv[1])
try:
    session.sql("SELECT CAST(name AS INT) FROM oplog a JOIN nodes b USING (node_id)").table()
except Exception as error:
    print(type(error).__name__)
next(iter(session.sql("SELECT a.name FROM nodes a JOIN nodes b ON a.size <= b.size")))
"""


def test_a_failed_or_forgotten_query_does_not_abort_python_at_its_end(large: Path) -> None:
    for _ in range(8):
        done = subprocess.run(
            [sys.executable, "-c", FAILING, large], capture_output=True, timeout=60
        )
        assert (done.returncode, done.stderr) == (0, b"")
        assert done.stdout == b"UsageError\n"


def test_a_name_that_is_no_utf_8_is_told(path: Path) -> None:
    with Session(path) as session, pytest.raises(UsageError, match="wildcards"):
        session.sql("SELECT * FROM '/\udcff.csv'")
