"""A kill at any step of a compaction: every version is whole, whatever happened."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import trio

from pondfs.store.compact import make_plan
from pondfs.store.compact_files import write_files
from pondfs.store.deltalog import read_snapshot
from tests.crash.test_prune import BEFORE as PRUNE_BEFORE
from tests.unit.store.histories import Walk, states
from tests.unit.store.support import committed, data_file_names, open_pond

COMPACT = """
import sys
from pondfs.store import open_writer
from pondfs.store.compact import make_plan
from pondfs.store.compact_files import write_files

store = open_writer(sys.argv[1], mountpoint="", socket="")
store.swap_files(write_files(make_plan(sys.argv[1]), part_rows=30).request)
store.remove_pruned(now=True)
store.close()
"""
BEFORE = [point.replace("prune:", "compact:") for point in PRUNE_BEFORE if point != "prune:entry"]
AFTER = [
    "commit:log-dir-fsync", "commit:done", "prune:published", "prune:unlink", "prune:unlink:5",
    "prune:removed", "checkpoint:rename", "checkpoint:done",
]  # fmt: skip


@pytest.mark.parametrize("point", [*BEFORE, "prune:entry", *AFTER])
def test_killed_anywhere_every_version_is_whole(tmp_path: Path, point: str) -> None:
    path = tmp_path / "pond"
    walk = Walk(path, 7)
    trio.run(walk.run, 60, 0.4)
    before = states(walk.store)
    walk.close()
    old = data_file_names(path)

    env = {**os.environ, "PONDFS_FAULT": point, "PYTHONPATH": os.getcwd()}
    killed = subprocess.run(
        [sys.executable, "-c", COMPACT, path],
        env=env, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    # Whoever looks on without opening it finds a table, and only adding is allowed all along.
    snapshot = read_snapshot(os.fspath(path / "_delta_log"))
    assert snapshot.metadata["configuration"]["delta.appendOnly"] == "true"
    assert (set(snapshot.adds) == old) == (point not in AFTER)

    store = open_pond(path)
    assert store.notes == []
    assert states(store) == before
    # Nothing is left of either side but strays, which go when they are old.
    store.remove_strays(-1)
    store.remove_pruned(now=True)
    assert data_file_names(path) == committed(path)
    store.close()

    # It can be done again, and the pond goes on.
    again = Walk(path, 8)
    trio.run(again.run, 10, 0.5)
    now = states(again.store)
    plan = make_plan(path)
    again.store.swap_files(write_files(plan).request)
    again.store.remove_pruned(now=True)
    assert states(again.store) == now
    assert {version: now[version] for version in before} == before
    again.close()
    assert data_file_names(path) == committed(path)
