"""Rows are skipped by statistics, and come in bounded memory however many there are."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import deltalake
import duckdb
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from pondfs.node import format_node_id
from pondfs.oplog import Row
from pondfs.query.oplog import Stats, bounds
from pondfs.query.session import Session
from pondfs.store.delta import DeltaStore
from pondfs.store.schema import STATISTICS
from tests.unit.store.support import adopt, extent_row, file_row, make_cut, new_pond

START_NS = 1_750_000_000 * 10**9
"""When version 0 would have been; each is a minute after the one before."""

VERSIONS = 12
MINUTE_NS = 60 * 10**9
GROUP_ROWS = 1000


def commit(store: DeltaStore, version: int, rows: list[Row]) -> None:
    cut = make_cut(version, [row._replace(time_ns=at(version)) for row in rows])
    cut.time_ns = at(version) + 1000
    adopt(store.commit(cut))


def at(version: int) -> int:
    return START_NS + version * MINUTE_NS


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Each version is a data file about a directory and nodes of its own, in four row groups."""
    path = tmp_path_factory.mktemp("oplog") / "pond"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pondfs.store.datafile.ROW_GROUP_ROWS", GROUP_ROWS)
        store = new_pond(path)
        for version in range(2, VERSIONS + 1):
            rows = [
                file_row(node(version, number), b"x", b"%d" % number, part=part(version, number))
                for number in range(3 * GROUP_ROWS)
            ]
            commit(store, version, rows)
        store.close()
    return path


def node(version: int, number: int) -> int:
    return (version << 32) + number + 2


def part(version: int, number: int) -> int:
    return (version << 48) + number // GROUP_ROWS


def ask(session: Session, sql: str) -> tuple[list[dict[str, Any]], Stats]:
    result = session.sql(sql)
    return result.table().to_pylist(), result.stats


ALL_GROUPS = 4
"""Row groups of a file: its ``commit`` row, which is about the root, is one of its own.

That row is why files are skipped only by the largest id in them: the root's is the smallest.
"""

ONE = format_node_id(node(5, 7))
OTHER = format_node_id(node(6, 7))
BEFORE = "timestamp < TIMESTAMP '2026-01-01T00:00:00Z'"  # the first version is of today


@pytest.mark.parametrize(
    ("where", "count", "files", "groups"),
    [
        (f"node_id = '{ONE}'", 1, 4, 8 * ALL_GROUPS - 1),
        (f"node_id IN ('{ONE}', '{OTHER}')", 2, 4, 8 * ALL_GROUPS - 2),
        (f"part_id = '{format_node_id(part(7, 1000))}'", GROUP_ROWS, 6, 6 * ALL_GROUPS - 1),
        (f"node_id = '{ONE}' AND op = 'create' AND version < 9", 1, 8, 4 * ALL_GROUPS - 1),
        ("node_id = 'ffffffffffffffff'", 0, 12, 0),
        ("version = 5", 3 * GROUP_ROWS + 1, 11, 0),
        ("version BETWEEN 5 AND 6", 6 * GROUP_ROWS + 2, 10, 0),
        ("version IN (5, 6, 70, 80, 90)", 6 * GROUP_ROWS + 2, 10, 0),
        ("version > 99", 0, 12, 0),
        (f"timestamp >= TIMESTAMP '2025-06-15T15:18:40Z' AND {BEFORE}", 3 * GROUP_ROWS + 1, 11, 0),
        ("timestamp = TIMESTAMP '2025-06-15T15:10:41Z'", 0, 12, 0),
        ("pending", 0, 12, 0),
    ],
)
def test_files_and_row_groups_are_skipped(
    path: Path, where: str, count: int, files: int, groups: int
) -> None:
    with Session(path) as session:
        found, stats = ask(session, f"SELECT version, file_type FROM oplog WHERE {where}")
        assert len(found) == count
        assert stats.files == VERSIONS
        assert stats.files_skipped == files
        assert stats.row_groups_skipped == groups
        plan, _ = ask(session, f"EXPLAIN ANALYZE SELECT file_type FROM oplog WHERE {where}")
        line = plan[-1]
        assert line["plan_type"] == "oplog"
        assert f"data files: {VERSIONS}, skipped: {files};" in line["plan"]
        assert line["plan"].endswith(f"skipped: {groups}")


def test_the_times_of_row_groups_are_known(tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pondfs.store.datafile.ROW_GROUP_ROWS", 10)
        store = new_pond(tmp_path / "pond")
        rows = [
            file_row(2 + n, b"x", b"%d" % n)._replace(time_ns=START_NS + n * MINUTE_NS)
            for n in range(100)
        ]
        adopt(store.commit(make_cut(2, rows)))
        store.close()
    with Session(tmp_path / "pond") as session:
        found, stats = ask(
            session,
            "SELECT file_type FROM oplog WHERE timestamp < TIMESTAMP '2025-06-15T15:21:40Z' "
            "AND version = 2",
        )
    assert len(found) == 15
    assert (stats.row_groups, stats.row_groups_skipped) == (11, 9)


def test_every_way_of_reading_gives_the_same_rows(tmp_path: Path) -> None:
    """From the cache of rows and from the data files, with and without columns the cache lacks."""
    store = new_pond(tmp_path / "pond")
    for version in range(2, 40):
        commit(store, version, [file_row(version * 10 + n, b"x", b"%d" % n) for n in range(5)])
    store.close()
    some = "SELECT version, seq, name, node_id, size, pending{} FROM oplog{} ORDER BY version, seq"
    for where in ("", " WHERE version > 7 AND name NOT IN ('0', '4', 'a', 'b')"):
        with Session(tmp_path / "pond") as session:
            cached, in_cache = ask(session, some.format("", where))
            whole, in_files = ask(session, some.format(", content", where))
        assert in_cache.row_groups < 5 < 30 < in_files.row_groups
        for row in whole:
            del row["content"]
        assert cached == whole
    assert len(cached) == 32 * 3
    os.unlink(tmp_path / "pond" / "_pond" / "rows")
    with Session(tmp_path / "pond") as session:
        assert ask(session, some.format("", where))[0] == cached


def test_files_without_statistics_of_times_are_read(path: Path) -> None:
    add = json.loads((path / "_delta_log" / f"{3:020d}.json").read_text().splitlines()[-1])["add"]
    stats = json.loads(add["stats"])
    assert "timestamp" in stats["minValues"]
    for kind in ("minValues", "maxValues"):
        del stats[kind]["timestamp"]
    for promise in (bounds(json.dumps(stats)), bounds("")):
        assert "timestamp" not in str(promise)
    assert "timestamp" in str(bounds(add["stats"]))
    assert all(name in str(bounds(add["stats"])) for name in STATISTICS)


def test_delta_rs_and_duckdb_read_the_times_as_they_are(path: Path) -> None:
    adds = pa.table(deltalake.DeltaTable(path).get_add_actions(flatten=True))
    (low,), (high,) = (
        adds.filter(pc.equal(adds["min.version"], 5))[name].to_pylist()
        for name in ("min.timestamp", "max.timestamp")
    )
    assert low.timestamp() * 10**9 == at(5)
    assert (high.timestamp() - low.timestamp()) == pytest.approx(0.001, abs=1e-6)
    where = (
        "timestamp >= TIMESTAMPTZ '2025-06-15 15:18:40+00' "
        "AND timestamp < TIMESTAMPTZ '2026-01-01 00:00:00+00'"
    )
    sql = f"SELECT count(*) FROM read_parquet('{path}/*.parquet') WHERE {where}"
    assert duckdb.execute(sql).fetchall() == [(3 * GROUP_ROWS + 1,)]
    scan = deltalake.QueryBuilder().register("t", deltalake.DeltaTable(path))
    where = where.replace("TIMESTAMPTZ", "TIMESTAMP")
    found = pa.table(scan.execute(f"SELECT count(*) AS n FROM t WHERE {where}").read_all())
    assert found.to_pylist() == [{"n": 3 * GROUP_ROWS + 1}]


# --- memory ---------------------------------------------------------------------------------------

READ = """
import sys
from pondfs.query.session import Session

def peak():
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("VmHWM"))

with Session(sys.argv[1]) as session:
    list(session.sql("SELECT 1 FROM oplog LIMIT 1"))
    before = peak()
    # Memory that was not let go of would be taken three times.
    for _ in range(3):
        rows = size = 0
        for batch in session.sql(sys.argv[2]):
            rows += batch.num_rows
            size += batch.nbytes
print(rows, size, peak() - before)
"""

MILLION = 1_000_000


@pytest.fixture(scope="module")
def million(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("million") / "pond"
    store = new_pond(path)
    data = bytes(300)
    for version in range(2, 12):
        first = version * MILLION
        rows = [file_row(first + n, data, b"%d" % n) for n in range(MILLION // 10)]
        adopt(store.commit(make_cut(version, rows)))
        del rows
    store.close()
    return path


def read(path: Path, sql: str) -> tuple[int, int, int]:
    """Read three times; return the rows, their bytes, and how far memory grew, in KiB."""
    command = [sys.executable, "-c", READ, os.fspath(path), sql]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300)
    rows, size, grown = map(int, done.stdout.split())
    return rows, size, grown


@pytest.mark.parametrize(
    ("columns", "at_least_bytes", "at_most_kib"),
    [
        ("* EXCLUDE (content)", 150 << 20, 160 << 10),
        ("*", 450 << 20, 256 << 10),
        ("version, seq, file_type, name", 25 << 20, 60 << 10),
    ],
)
def test_a_million_rows_stream_in_bounded_memory(
    million: Path, columns: str, at_least_bytes: int, at_most_kib: int
) -> None:
    rows, size, grown_kib = read(million, f"SELECT {columns} FROM oplog")
    assert rows == MILLION + 12
    assert size > at_least_bytes
    assert grown_kib < at_most_kib


def test_large_contents_stream_in_bounded_memory(tmp_path: Path) -> None:
    path = tmp_path / "pond"
    store = new_pond(path)
    pieces = 40
    for version in range(2, 12):
        data = os.urandom(1 << 20)
        rows = [extent_row(2, n << 20, data) for n in range(pieces)]
        adopt(store.commit(make_cut(version, rows)))
    store.close()
    rows_read, size, grown_kib = read(path, "SELECT content FROM oplog")
    assert rows_read == 10 * (pieces + 1) + 2
    assert size > 10 * pieces << 20
    assert grown_kib < 200 << 10
