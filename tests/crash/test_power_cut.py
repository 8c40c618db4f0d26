"""The power goes: what was not synced is lost, and nothing else.

The store is on a disk of its own, an ext4 that is told to let nothing more reach its device, its
journal included. What a program was told is durable must be there afterwards, the rest whole or
not at all; ext4 itself is checked as well, so that what is proved is ours.
"""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from pondfs.options import FSYNCS
from tests.campaign import Campaign
from tests.conftest import MakePond
from tests.crash.small_disk import SmallDisk
from tests.crash.test_kill import MOST_STEPS, Work, assert_dense
from tests.mount.harness import detach, wait_gone

DISK_BYTES = 256 << 20


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    disk = SmallDisk(tmp_path, DISK_BYTES)
    yield disk
    disk.close()


@pytest.mark.campaign
@pytest.mark.parametrize("fsync", FSYNCS)
def test_power_cuts_lose_nothing_that_was_synced(
    disk: SmallDisk, make_pond: MakePond, tmp_path: Path, fsync: str, campaign: Campaign
) -> None:
    """Again and again on one store: load, the power goes somewhere, mount, compare.

    In even rounds the tree must be exactly that of the last acknowledged fsync, or of the one that
    was under way; in odd rounds commits come at any moment.
    """
    # The daemon's log is on the disk as well, and ends in the middle with it.
    pond = make_pond(store=disk.root / "pond")
    pond.mount("commit=3600", f"fsync={fsync}")
    (pond.mnt / "work").mkdir()
    pond.remount()
    cuts = campaign.rounds(suite=5, long=50)
    rng = random.Random(cuts)
    acknowledged = 0
    for number in range(cuts):
        pid = pond.pid
        work = Work(pond.mnt, tmp_path, number, with_commits=number % 2 == 1)
        try:
            work.wait_for_steps(rng.randrange(1, MOST_STEPS))
            # No answer may come after the cut: jbd2 lets an fdatasync succeed whose transaction the
            # ioctl aborted a moment ago (jbd2_complete_transaction), which no power cut does.
            os.kill(pid, signal.SIGSTOP)
            disk.cut_power()
            os.kill(pid, signal.SIGKILL)
            wait_gone(pid)
            detach(pond.mnt)
            journal = work.end()
        finally:
            work.process.kill()
            work.process.wait()
        disk.restore_power()
        pond.mount(*pond.options)
        work.check(journal)
        acknowledged += sum(step[0] == "fsync" for step in journal.steps[: journal.done])
    assert acknowledged > cuts, "too few acknowledged fsyncs for this to mean anything"
    pond.umount()
    assert_dense(pond.store)
    disk.check()
    campaign.tell(
        f"power cuts, fsync={fsync}", rounds=cuts, faults=cuts, losses=0,
        note=f"{acknowledged:,} acknowledged fsyncs",
    )  # fmt: skip
