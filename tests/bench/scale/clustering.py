"""Rows of one directory: how few files and row groups they are in, without Hive partitions.

The same rows are written once more by delta-rs, partitioned by `part_id` as Delta does it, and both
tables are asked the same by delta-rs's own DataFusion.
"""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median

import deltalake
import pyarrow as pa
import pyarrow.parquet as pq

from pondfs.query.session import Session
from tests.bench.query import FILES_PER_DIRECTORY, Tree
from tests.bench.scale.bench import Bench, Section
from tests.bench.scale.rows import at_most, told
from tests.bench.scale.stored import bytes_of, live_files
from tests.bench.targets import Pond

HIVE = "Hive"
_COLUMNS = "version, op, part_id, node_id, name, size, content"


def run(bench: Bench) -> None:
    """Make a pond of many directories, compact it, change it, and again; ask for some of them."""
    files = bench.count(500_000, 2000)
    with bench.pond("clustering", mount=False) as pond:
        bench.show.step("make files", files)
        Tree(pond.store, files).build(bench.show.advance)
        bench.show.step("compact")
        with bench.timed("clustering_write"):
            pond.pond("compact")
        bench.show.step("change some and compact again")
        _change(pond, bench.count(2000, 10))
        pond.pond("compact")
        asked = _some_directories(pond.store, bench.count(50, 5))
        _note_table(bench, pond.store, "pond")
        _note_touched(bench, pond.store, asked)
        hive = bench.base / "hive"
        bench.show.step("write a Hive-partitioned copy")
        with bench.timed("clustering_write", HIVE):
            _write_hive(pond.store, hive)
        _note_table(bench, hive, HIVE)
        bench.show.step("ask both")
        for column, table in (("pond", pond.store), (HIVE, hive)):
            bench.note("clustering_query", _query_ms(table, asked), column)
            bench.note("clustering_whole", _whole_ms(table), column)


def _change(pond: Pond, directories: int) -> None:
    """Add a file to so many directories: what comes after a compaction makes the next one's run."""
    pond.mount()
    for number in range(directories):
        (pond.root / f"dir{number:05}" / "added").write_bytes(b"later\n")
    pond.unmount()


def _some_directories(store: Path, count: int) -> list[str]:
    """Return some of those that were changed: their own row, and one more than all have."""
    with Session(store) as session:
        found = session.sql(
            "SELECT part_id, count(*) AS n FROM oplog WHERE op = 'create' GROUP BY part_id "
            f"HAVING count(*) > {FILES_PER_DIRECTORY + 1} ORDER BY part_id"
        )
        ids = found.table()["part_id"].to_pylist()
    return random.Random(70).sample(ids, min(count, len(ids)))


def _note_touched(bench: Bench, store: Path, asked: Sequence[str]) -> None:
    """Note the most that was read for any of the directories."""
    groups = sum(pq.read_metadata(store / name).num_row_groups for name in live_files(store))
    files_read, groups_read, taken_ms = [], [], []
    with Session(store) as session:
        for part in asked:
            started = time.perf_counter()
            result = session.sql(f"SELECT {_COLUMNS} FROM oplog WHERE part_id = '{part}'")
            rows = result.table().num_rows
            taken_ms.append((time.perf_counter() - started) * 1e3)
            assert rows > FILES_PER_DIRECTORY, (part, rows)
            stats = result.stats
            files_read.append(stats.files - stats.files_skipped)
            groups_read.append(stats.row_groups - stats.row_groups_skipped)
    bench.note("clustering_files", max(files_read))
    bench.note("clustering_groups", 100 * max(groups_read) / groups)
    bench.note("clustering_all_groups", groups)
    bench.note("clustering_session", median(taken_ms))


def _note_table(bench: Bench, table: Path, column: str) -> None:
    bench.note("clustering_table_files", len(deltalake.DeltaTable(table).file_uris()), column)
    local = bytes_of(table / "_pond") if (table / "_pond").exists() else 0
    bench.note("clustering_bytes", (bytes_of(table) - local) / 1e6, column)


def _write_hive(store: Path, hive: Path) -> None:
    schema = pq.read_schema(store / live_files(store)[0])
    rows = pa.concat_tables(
        pq.read_table(store / name, schema=schema) for name in live_files(store)
    )
    deltalake.write_deltalake(hive, rows, partition_by=["part_id"])


def _query_ms(table: Path, asked: Sequence[str]) -> float:
    """Return the median of asking for a directory, with the table open."""
    opened = deltalake.DeltaTable(table)
    taken = []
    for part in asked:
        started = time.perf_counter()
        found = _ask(opened, f"SELECT {_COLUMNS} FROM t WHERE part_id = '{part}'")
        taken.append((time.perf_counter() - started) * 1e3)
        assert found.num_rows > FILES_PER_DIRECTORY, part
    return median(taken)


def _whole_ms(table: Path) -> float:
    """Return the time of opening the table and counting what is in all of it."""
    started = time.perf_counter()
    opened = deltalake.DeltaTable(table)
    found = _ask(opened, "SELECT op, count(*) AS n FROM t GROUP BY op")
    assert found.num_rows > 1
    return (time.perf_counter() - started) * 1e3


def _ask(table: deltalake.DeltaTable, sql: str) -> pa.Table:
    return pa.table(deltalake.QueryBuilder().register("t", table).execute(sql).read_all())


SECTION = Section(
    "clustering",
    "Rows of one directory, by SQL",
    (
        told("clustering_write", "`pond compact`; write the copy partitioned by `part_id`", "s"),
        told("clustering_table_files", "data files", "files"),
        told("clustering_bytes", "… and all of the table, without pond's caches", "MB"),
        at_most("clustering_files", "data files read for a directory, most of 50", "files", 2),
        at_most("clustering_groups", "row groups read for it, of all, most of 50", "%", 5.0),
        told("clustering_all_groups", "… all row groups", "groups"),
        told("clustering_query", "`SELECT … WHERE part_id = …`, by delta-rs, median", "ms"),
        told("clustering_session", "… by `pond query`'s session", "ms"),
        told("clustering_whole", "open + `GROUP BY op` over all rows, by delta-rs", "ms"),
    ),
    run,
    (HIVE, "pond"),
)
