"""What a mounted pond does for itself: its log stays short, and leftovers go."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from deltalake import DeltaTable

from pondfs.store.deltalog import list_log
from tests.mount.harness import PondMount, wait_until
from tests.mount.haste import hasten


@pytest.fixture
def hasty(make_pond: Callable[..., PondMount], tmp_path: Path) -> PondMount:
    """Upkeep every moment: a checkpoint every 20 entries, and 20 kept."""
    pond = make_pond()
    hasten(pond, tmp_path)
    pond.run("pond", "init", os.fspath(pond.store))
    return pond.mount("commit=3600,fsync=delta")


def in_log(pond: PondMount) -> tuple[list[int], list[int]]:
    return list_log(os.fspath(pond.store / "_delta_log"))


def append(path: Path, number: int) -> None:
    with open(path, "ab", buffering=0) as file:
        file.write(b"line %d\n" % number)
        os.fsync(file.fileno())


def test_the_log_stays_short_while_mounted(hasty: PondMount) -> None:
    pond = hasty
    for number in range(300):
        append(pond.mnt / "log", number)
    wait_until(lambda: len(in_log(pond)[0]) <= 60, "old entries are removed")
    entries, checkpoints = in_log(pond)
    assert entries[0] >= 200
    assert len(checkpoints) >= 2
    newest = int(pond.log()[0]["version"])
    assert [int(line["version"]) for line in pond.log()] == list(range(newest, 0, -1))
    assert DeltaTable(pond.store).transaction_version("pondfs") == newest
    # What no entry tells of any more is there all the same.
    old = pond.mnt / ".pond" / "versions" / str(newest - 290) / "log"
    assert old.read_bytes().count(b"\n") in range(8, 12)
    pond.kill()
    pond.mount("commit=3600,fsync=delta")
    assert (pond.mnt / "log").read_bytes().count(b"\n") == 300
    append(pond.mnt / "log", 300)
    assert int(pond.log()[0]["version"]) == newest + 1


def test_leftovers_of_a_crash_go_while_mounted(hasty: PondMount) -> None:
    stray = pond_file(hasty)
    stray.write_bytes(b"of a stage that was cut off")
    wait_until(lambda: not stray.exists(), "the stray is removed")
    wait_until(lambda: "no commit refers to" in hasty.daemon_log(), "the log names it")
    append(hasty.mnt / "log", 0)


def pond_file(pond: PondMount) -> Path:
    return pond.store / "12345678-1234-1234-1234-123456789abc.parquet"
