"""kill -9 at every step of a prune: kept versions are whole, the rest is there whole or gone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import trio

from pondfs.node import Version
from pondfs.store.prune import make_plan
from pondfs.store.prune_files import write_files
from tests.unit.store.histories import Walk, state, states
from tests.unit.store.support import committed, data_file_names, open_pond

PRUNE = """
import sys
from pondfs.store import open_writer
from pondfs.store.prune import make_plan
from pondfs.store.prune_files import write_files

store = open_writer(sys.argv[1], mountpoint="", socket="")
plan = make_plan(sys.argv[1], [int(version) for version in sys.argv[2:]])
store.swap_files(write_files(plan).request)
store.remove_pruned()
store.close()
"""
BEFORE = [
    "prune:data-file", "data-file:fsync", "prune:store-dir-fsync", "prune:written", "prune:entry",
    "commit:entry-fsync", "commit:link",
]  # fmt: skip
AFTER = [
    "commit:log-dir-fsync", "commit:done", "prune:published", "prune:append-only", "prune:unlink",
    "prune:unlink:5", "prune:removed", "checkpoint:rename", "checkpoint:done",
]  # fmt: skip


@pytest.mark.parametrize("point", [*BEFORE, *AFTER])
def test_killed_anywhere_kept_versions_are_whole(tmp_path: Path, point: str) -> None:
    path = tmp_path / "pond"
    walk = Walk(path, 7)
    trio.run(walk.run, 60, 0.4)
    before = states(walk.store)
    walk.close()
    newest = max(before)
    keep = sorted({newest, newest // 2, newest // 3})

    env = {**os.environ, "PONDFS_FAULT": point, "PYTHONPATH": os.getcwd()}
    killed = subprocess.run(
        [sys.executable, "-c", PRUNE, path, *map(str, keep)],
        env=env, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert killed.returncode == -signal.SIGKILL, killed.stderr

    store = open_pond(path)
    assert store.notes == []
    versions = {info.version for info in store.list_versions()}
    assert versions == (set(before) if point in BEFORE else set(keep))
    for version in versions:
        assert state(store, version) == before[version]
    # Nothing is left of either side but strays, which go when they are old.
    store.remove_strays(-1)
    assert data_file_names(path) == committed(path)
    store.close()

    # It can be done again, and the pond goes on.
    again = Walk(path, 8)
    plan = make_plan(path, [Version(newest)])
    again.store.swap_files(write_files(plan).request)
    again.store.remove_pruned()
    trio.run(again.run, 10, 0.5)
    assert state(again.store, Version(newest)) == before[newest]
    again.close()
    assert data_file_names(path) == committed(path)
