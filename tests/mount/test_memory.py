"""What the daemon holds does not grow with what was ever done, only with what is in use.

A loop of everything programs do with a bounded set of files. Between its rounds the kernel is made
to forget, and then what the daemon has in memory must be as after the rounds before: nodes,
descriptors, memory that is its own.
"""

from __future__ import annotations

import ctypes
import json
import os
from pathlib import Path
from statistics import median
from typing import Any

import pytest

from pondfs.vfs.rebase import FEW_CHANGED
from tests.campaign import Campaign
from tests.mount.harness import PondMount, run, wait_until

FILES = FEW_CHANGED + 200
"""So many change in each round that an image is due."""

IN_USE = 60
"""Nodes that may stay: what is open, and what a round changes after that, too few for an image."""

FILES_READ = 4
"""Data files that a round reads contents from."""

GROWTH_MB = 5.0
"""What Python and the C library may take and give in one round; a round changes nodes of 3 MB."""

WAIT_S = 60.0
MS_REMOUNT = 32


def forget(pond: PondMount) -> None:
    """Have the kernel forget what nobody uses of this mount alone.

    Source: reconfigure_super() in the kernel's fs/super.c, which calls shrink_dcache_sb().
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(None, os.fsencode(pond.mnt), None, MS_REMOUNT, None):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def daemon(pond: PondMount) -> dict[str, Any]:
    answer: dict[str, Any] = json.loads((pond.mnt / ".pond/status").read_text())
    return answer


def anonymous_mb(pid: int) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) / 1024
    raise AssertionError(f"process {pid} has no RssAnon")


def settle(pond: PondMount) -> dict[str, Any]:
    """Commit, and return what the daemon holds when it and the kernel have let go."""
    pond.commit()
    wait_until(lambda: daemon(pond)["nodes_changed"] < IN_USE, "an image of what changed", WAIT_S)

    def is_forgotten() -> bool:
        forget(pond)
        return bool(daemon(pond)["nodes_in_memory"] < IN_USE)

    wait_until(is_forgotten, "nodes nobody uses to leave", WAIT_S)
    return daemon(pond)


class Work:
    """Rounds over the same names."""

    def __init__(self, pond: PondMount) -> None:
        self.pond = pond
        self.top = pond.mnt / "busy"
        self.many = self.top / "many"
        self.many.mkdir(parents=True)
        for number in range(FILES):
            (self.many / f"{number:05}").write_bytes(b"x")
        self.log = open(self.top / "log", "ab", buffering=0)  # noqa: SIM115  open all the while
        pond.commit()

    def round(self, number: int) -> None:
        """Change every file's attributes; make, write, fsync, rename, remove, list, restore."""
        for name in os.listdir(self.many):
            os.chmod(self.many / name, 0o600 + number % 2)
        for at in range(40):
            path = self.top / f"new{at % 8}"
            with open(path, "wb") as file:
                file.write(b"%d" % at * 500)
                file.flush()
                os.fsync(file.fileno())
            os.setxattr(path, b"user.round", b"%d" % number)
            os.rename(path, self.top / f"old{at % 4}")
            self.log.write(b"round %d, %d\n" % (number, at))
            os.fsync(self.log.fileno())
            if at % 3 == 0:
                os.unlink(self.top / f"old{at % 4}")
            nested = self.top / f"d{at % 2}" / "e"
            nested.mkdir(parents=True, exist_ok=True)
            (nested / "f").write_bytes(bytes(20_000))
            os.listdir(self.top)
            if at % 10 == 0:
                run(["rm", "-r", str(nested.parent)])
        self.pond.commit()
        path = self.top / "kept"
        path.write_bytes(b"%d" % number)
        self.pond.commit()
        newest = self.pond.log()[0]["version"]
        path.write_bytes(b"spoiled")
        self.pond.pond("restore", "--at", str(newest), "/busy/kept")
        assert path.read_bytes() == b"%d" % number
        (self.pond.mnt / f".pond/versions/{newest}/busy/kept").read_bytes()


@pytest.mark.campaign
def test_a_bounded_set_of_files_takes_bounded_memory(make_pond: Any, campaign: Campaign) -> None:
    rounds = campaign.rounds(suite=8, long=80)
    warm_up = max(3, rounds // 3)
    # What the first compaction loads stays (10 MB); in a short run nobody knows when it comes.
    compact = "on" if campaign.long else "off"
    pond = make_pond().mount("xattr", "commit=3600", f"compact={compact}")
    pid = pond.pid
    work = Work(pond)
    memory: list[float] = []
    descriptors: list[int] = []
    nodes: list[int] = []
    with work.log:
        for number in range(rounds):
            work.round(number)
            nodes.append(settle(pond)["nodes_in_memory"])
            memory.append(anonymous_mb(pid))
            descriptors.append(len(os.listdir(f"/proc/{pid}/fd")))
    print(f"{nodes=} {descriptors=}", " ".join(f"{mb:.1f}" for mb in memory))
    early, late = slice(warm_up, warm_up + 2), slice(-2, None)
    # Data files stay open for reading, some more with each round; nothing else may pile up.
    assert descriptors[-1] - descriptors[warm_up] <= FILES_READ * (rounds - warm_up)
    growth = median(memory[late]) - median(memory[early])
    assert growth < GROWTH_MB, memory
    campaign.tell(
        "memory of a bounded set of files", rounds=rounds, faults=0, losses=0,
        note=f"{memory[-1]:.0f} MB, {growth:+.1f} MB",
    )  # fmt: skip
