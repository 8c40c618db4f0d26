"""ENOSPC and EIO on every operation that opening, closing and tending a pond do on its store.

As in ``test_bad_disk.py``, but nothing is mounted: each command runs on a copy of one pond, which
has all that makes work (a journal that a crash left, many data files and log entries, no image). A
command whose disk fails says so in one line, or did without; then, on a good disk, it does its
work, and the pond has every byte it had.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pytest

from pondfs.errors import StoreDamaged, SystemFailure
from pondfs.store.check import CLEAN, check_store
from tests.campaign import Campaign
from tests.crash.bad_disk import EVER, BadDisk
from tests.crash.fork_server import ForkServer
from tests.crash.second_reader import Tree, fold_by_dataframe
from tests.crash.test_bad_disk import faults
from tests.mount.harness import make_pond

SYNCS, SYNCS_LONG = 105, 205
"""Versions, one data file and log entry each: more than a checkpoint waits for, and an image."""

SUITE_FAULTS = 6
"""How many of the faults of each command the suite makes: each is a process and more."""

MOST_TIMES = 6
"""Of a step that is taken hundreds of times (reading each log entry) so many are made to fail."""

COMMANDS = {
    "recover": ("recover",),
    "tag": ("tag", "new", "v50"),
    "compact": ("compact",),
    "prune": ("prune", "--keep-last", "20"),
}


def sync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def tree_of(store: Path) -> tuple[object, object]:
    """Return what another engine finds in the table."""
    tree: Tree = fold_by_dataframe(pl.read_delta(str(store)))
    return tree.nodes, {node: parts for node, parts in tree.extents.items() if parts}


@pytest.fixture(scope="module")
def crashed(
    tmp_path_factory: pytest.TempPathFactory,
    pond_env: dict[str, str],
    request: pytest.FixtureRequest,
) -> Path:
    """The store of a pond whose daemon was killed: much is left to do, some is in the journal."""
    place = tmp_path_factory.mktemp("crashed")
    pond = make_pond(place / "pond", place / "mnt", pond_env)
    pond.mount("commit=3600,fsync=delta,compact=off")
    for number in range(SYNCS_LONG if request.config.getoption("--long") else SYNCS):
        (pond.mnt / f"file{number % 20}").write_bytes(b"%d" % number * 5000)
        sync(pond.mnt)
    pond.remount("commit=3600,fsync=journal,compact=off")
    for number in range(3):
        (pond.mnt / f"journaled{number}").write_bytes(b"%d" % number * 3000)
        sync(pond.mnt)
    pond.kill()
    for name in ("image", "rows"):
        (pond.store / "_pond" / name).unlink(missing_ok=True)
    for checkpoint in (pond.store / "_delta_log").glob("*checkpoint*"):
        checkpoint.unlink()
    return pond.store


@pytest.fixture
def server(tmp_path: Path, pond_env: dict[str, str]) -> Iterator[tuple[BadDisk, ForkServer]]:
    disk = BadDisk(tmp_path / "bad-disk", tmp_path / "pond")
    with ForkServer(pond_env | disk.environment) as server:
        yield disk, server


@pytest.mark.campaign
@pytest.mark.parametrize("name", COMMANDS)
def test_every_operation_of_a_command_fails(
    server: tuple[BadDisk, ForkServer],
    crashed: Path,
    tmp_path: Path,
    campaign: Campaign,
    name: str,
) -> None:
    disk, pond = server
    store = tmp_path / "pond"
    command = ("pond", "--pond", str(store), *COMMANDS[name])

    def begin_anew() -> None:
        shutil.rmtree(store, ignore_errors=True)
        shutil.copytree(crashed, store)

    begin_anew()
    found = faults(disk, lambda: pond.run(*command), most=MOST_TIMES if campaign.long else 1)
    if not campaign.long:
        found = found[:: -(-len(found) // SUITE_FAULTS)]
    wanted = tree_of(store)
    failed = hit = 0
    for turn, (step, first, number) in enumerate(found):
        for last in (first, EVER) if campaign.long else ((first,) if turn % 2 else (EVER,)):
            begin_anew()
            with disk.failing(step, number, first=first, last=last):
                ended = pond.run(*command)
                failed += disk.failed
                hit += disk.failed > 0
            what = f"{step} ({first} to {last}) failed: {os.strerror(number)}: {ended}"
            assert ended.code in (0, SystemFailure.exit_code, StoreDamaged.exit_code), what
            assert "Traceback" not in ended.stderr, what
            if ended.code:
                *_, line = ended.stderr.splitlines()  # before it: what waits in the journal
                assert line.startswith("pond: "), what
                assert os.strerror(number) in line, what
            again = pond.run(*command)
            assert again.code == 0 or name == "tag", f"{what}, then {again}"
            assert tree_of(store) == wanted, what
            report = check_store(store, data=campaign.long)
            assert report.verdict == CLEAN, f"{what}: {report.findings}"
    assert hit >= len(found) / 3, "too little failed for this to mean anything"
    campaign.tell(f"bad disks: pond {name}", rounds=len(found), faults=failed, losses=0)
