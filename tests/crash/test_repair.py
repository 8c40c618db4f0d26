"""kill -9 at every step of a repair: the pond is as it was, or mended; a second one ends it."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from pondfs.node import NodeId
from pondfs.store.check import CLEAN, REPAIRABLE, check_store
from pondfs.store.repair import repair_store
from tests.unit.store import damage
from tests.unit.store.damage import A, D, F, link, rows, update
from tests.unit.store.support import attr, open_pond, read_file

REPAIR = "import sys; from pondfs.store.repair import repair_store; repair_store(sys.argv[1])"
BEFORE = ["repair:caches", "data-file:fsync", "commit:entry-fsync", "commit:link"]
AFTER = [
    "commit:log-dir-fsync", "repair:committed", "repair:tag", "checkpoint:rename",
    "checkpoint:named", "repair:checkpoint", "repair:done",
]  # fmt: skip


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pond with something wrong of each kind that a repair sees to."""
    path = damage.make_pond(tmp_path_factory.mktemp("repair") / "pond")
    rows(link(99, b"ghost"), update(77, attr(), part=D), update(A, attr(size=6, nlink=5)))(path)
    damage.loose_tag(path)
    damage.wrong_image("nlink", [1])(path)
    damage.dangling_last_checkpoint(path)
    return path


@pytest.mark.parametrize("point", [*BEFORE, *AFTER])
def test_killed_anywhere_it_can_be_done_again(broken: Path, tmp_path: Path, point: str) -> None:
    path = tmp_path / "pond"
    shutil.copytree(broken, path)
    env = {**os.environ, "PONDFS_FAULT": point, "PYTHONPATH": os.getcwd()}
    killed = subprocess.run(
        [sys.executable, "-c", REPAIR, path], env=env, capture_output=True, text=True, check=False
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr

    report = check_store(path, data=True)
    assert report.verdict in (CLEAN, REPAIRABLE)
    assert report.version == (5 if point in BEFORE else 6)
    outcome = repair_store(path)
    assert outcome.after is None or outcome.after.verdict == CLEAN
    assert outcome.version == (6 if point in BEFORE else None)
    assert check_store(path, data=True).verdict == CLEAN
    store = open_pond(path)
    image = store.load_image()
    assert [read_file(store, image, node) for node in (F, A, 77)] == [b"elEVen", b"twelve", b""]
    assert len(store.list_versions()) == 6
    assert image.load_entries(NodeId(D)) == {b"f": F}
    store.close()
