"""A kill at any step of keeping the log short: nothing is lost, for us or for anybody else."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import duckdb
import polars as pl
import pytest
from deltalake import DeltaTable

from pondfs.node import ROOT
from pondfs.store.delta import DeltaStore
from pondfs.store.deltalog import list_log
from pondfs.store.log import read_versions
from tests.unit.store.support import file_row, make_cut, open_pond

WORK = """
import sys
from pondfs.node import Version
from pondfs.store import checkpoint, logkeeper
from tests.unit.store.support import file_row, make_cut, open_pond

checkpoint.ENTRIES_BETWEEN = 4
logkeeper.KEPT_ENTRIES = 5
logkeeper.SAFE_AGE_S = logkeeper.LOOK_AGAIN_S = 0.0
for session in range(3):
    store = open_pond(sys.argv[1])
    version = store.load_image().version
    for version in range(version + 1, version + 13):
        store.commit(make_cut(version, [file_row(version, b"x", b"f%d" % version)]))
        print(version, flush=True)
        if version == 3:
            store.put_tag("three", Version(3))
        if store.has_long_log():
            store.keep_log()
    store.close()
"""
POINTS = [
    "checkpoint:rename", "checkpoint:rename:4", "checkpoint:named", "checkpoint:named:3",
    "checkpoint:done", "checkpoint:done:6", "log:unlink", "log:unlink:2", "log:unlink:9",
    "log:unlinked", "log:unlinked:3", "log:cleaned", "log:cleaned:3",
]  # fmt: skip


@pytest.mark.parametrize("point", POINTS)
def test_killed_anywhere_everything_is_there_for_everybody(tmp_path: Path, point: str) -> None:
    path = tmp_path / "pond"
    DeltaStore.create(path)
    env = {**os.environ, "PONDFS_FAULT": point, "PYTHONPATH": os.getcwd()}
    killed = subprocess.run(
        [sys.executable, "-c", WORK, path], env=env, capture_output=True, text=True, check=False
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    newest = max(map(int, killed.stdout.split()))
    # Before anybody repairs anything.
    check(path, newest)
    store = open_pond(path)
    assert store.notes == []
    assert store.strays == []
    assert store.load_image().version == newest
    assert len(store.load_image().load_entries(ROOT)) == newest - 1
    assert store.list_tags() == {"three": 3}
    store.commit(make_cut(newest + 1, [file_row(newest + 1, b"x", b"more")]))
    store.close()
    check(path, newest + 1)
    assert [name for name in os.listdir(path / "_delta_log") if name[0] == "."] == []


def check(path: Path, newest: int) -> None:
    versions = list(range(1, newest + 1))
    assert [info.version for info in read_versions(path)] == versions[::-1]
    entries, checkpoints = list_log(os.fspath(path / "_delta_log"))
    # No gap, and a beginning.
    assert entries == list(range(entries[0], entries[-1] + 1))
    assert entries[0] == 0 or checkpoints[-1] >= entries[0]
    table = DeltaTable(path)
    assert table.transaction_version("pondfs") == newest
    assert sorted(set(table.to_pyarrow_table()["version"].to_pylist())) == versions
    assert pl.read_delta(os.fspath(path))["version"].unique().sort().to_list() == versions
    found = duckdb.execute(
        "SELECT DISTINCT version FROM read_parquet(?) ORDER BY 1", [table.file_uris()]
    ).fetchall()
    assert [version for (version,) in found] == versions
