"""Many writers at once, for long, while the daemon is stopped, ended and killed: nothing is lost.

Each writer knows what every file of its own must hold; what they do with shared files has outcomes
that can be told (``shared.py``); and the tree a crash leaves must be that of one moment
(``judge.py``). No step takes long, nothing leaks, the memory stays flat.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from pondfs.options import FSYNCS
from pondfs.store.check import CLEAN, check_store
from tests.campaign import Campaign
from tests.crash.test_kill import assert_dense
from tests.load import shared
from tests.load.crew import HANG_LONG_S, HANG_S, Crew
from tests.load.judge import Judge, common
from tests.load.own import NEVER
from tests.mount.harness import PondMount, detach, run, wait_gone, wait_until
from tests.mount.haste import hasten
from tests.mount.test_memory import anonymous_mb, daemon, forget

RSS_GROWTH_MB = 48.0
"""Pending content (up to 64 MiB) and what a compaction reads come and go."""

MOST_JOURNALED_BYTES = 64 << 20
"""A commit is due at 40 MB; while it runs, more may come."""

MOST_PENDING_BYTES = 160 << 20
"""A cut of 64 MiB in a commit, and as much beside it: writers wait then."""

LET_GO_S = 240.0
"""A compaction that began takes that long on a busy machine; its worker has pipes."""

IN_USE = 60
"""Nodes in memory that may stay when nothing is open: what changed since the image is more."""


@dataclass
class Samples:
    """What the daemon had while it was at work, every second."""

    rss_mb: list[float] = field(default_factory=list)
    journaled: int = 0
    pending: int = 0
    images: set[int] = field(default_factory=set)


class LoadRun:
    """The pond, its writers, what is done to the daemon; ``idle``: what one has open at rest."""

    def __init__(self, pond: PondMount, writers: int, journals: Path, hang_s: float) -> None:
        self.pond = pond
        self.is_hasty = True
        self.rng = random.Random(writers)
        self.faults: Counter[str] = Counter()
        self.samples = Samples()
        self.shared = 0
        self.records = 0
        for number in range(writers):
            (pond.mnt / f"w-{number}").mkdir()
        (pond.mnt / "loose").mkdir()
        (pond.mnt / "shared").mkdir()
        pond.commit()
        pond.remount()
        fd = os.open(pond.mnt, os.O_RDONLY)
        os.mkdir("made", dir_fd=fd)
        os.fsync(fd)  # from here on it has a journal
        os.close(fd)
        self.idle = others(self)
        self.crew = Crew(pond.mnt, writers, journals, hang_s)

    def options(self) -> tuple[str, ...]:
        """Return how to mount next: with thresholds as they are, as anybody does."""
        if not self.is_hasty:
            return ("xattr",)
        return ("xattr", "commit=1", f"fsync={self.rng.choice(FSYNCS)}")

    def start(self) -> None:
        """Let the writers work, in a shared directory that is new."""
        before, self.shared = self.shared, self.shared + 1
        top = self.pond.mnt / "shared" / str(self.shared)
        top.mkdir()
        shared.prepare(os.fspath(top))
        if before:
            shutil.rmtree(self.pond.mnt / "shared" / str(before))
        self.crew.tell("work", shared=str(self.shared))

    def watch(self, seconds: float) -> None:
        """Let them work for so long, look that they do, and what the daemon takes.

        Longer where the machine is slow: until each of them has synced something.
        """
        until = time.monotonic() + seconds
        pid = self.pond.pid
        begun = [(member, member.journal.stat().st_size) for member in self.crew.members]
        while (left := until - time.monotonic()) > 0 or not all(
            member.has_acknowledged(size) for member, size in begun
        ):
            time.sleep(min(max(left, 0.1), 1.0))  # time to work, not something to wait for
            self.crew.check_progress()
            self.samples.rss_mb.append(anonymous_mb(pid))
            # By a process that can be ended, in case the daemon does not answer.
            answer = run(["cat", self.pond.mnt / ".pond/status"], timeout_s=self.crew.hang_s + 5)
            told = json.loads(answer.stdout)
            self.samples.journaled = max(self.samples.journaled, told["journaled_bytes"])
            self.samples.pending = max(self.samples.pending, told["pending_bytes"])
            self.samples.images.add(told["image_version"])
            assert told["last_error"] is None

    def stop(self, seconds: float) -> None:
        """The daemon does nothing for so long; then it goes on as if nothing had been."""
        self.faults["stop"] += 1
        pid, begin = self.pond.pid, time.monotonic()
        os.kill(pid, signal.SIGSTOP)
        time.sleep(seconds)  # what is tried is how long it takes
        os.kill(pid, signal.SIGCONT)
        self.crew.outages.over.append((begin, time.monotonic()))

    def end_daemon(self, number: signal.Signals) -> None:
        """It is ended, or killed; a new one takes over; all is compared; on it goes."""
        self.faults[number.name] += 1
        pond, pid = self.pond, self.pond.pid
        begin = time.monotonic()
        os.kill(pid, number)
        wait_gone(pid, 60)
        if pond.is_mounted():
            detach(pond.mnt)
        self.crew.wait_for("down")
        pond.mount(*self.options())
        self.crew.outages.over.append((begin, time.monotonic()))
        clean = number == signal.SIGTERM
        self.crew.tell("check", clean_since=begin if clean else None)
        self.judge("found", clean=clean)

    def judge(self, say: str, *, clean: bool) -> None:
        """Hear what the writers found, and look at what they share."""
        reports = self.crew.wait_for(say)
        self.crew.take(reports)
        synced_at = max(report["synced_at"] for report in reports)
        lo, hi = common((report["found"] for report in reports), synced_at)
        records = [record for report in reports for record in report["records"]]
        top = self.pond.mnt / "shared" / str(self.shared)
        self.records += len(records)
        Judge(top, records, NEVER if clean else lo, hi).check()

    def finish(self) -> None:
        """Have the writers close and compare all; then again through a new mount."""
        self.crew.tell("finish")
        self.crew.wait_for("equal")
        self.judge("done", clean=True)

    def compare_again(self) -> None:
        """Once more: what is in the store is what there was."""
        self.crew.tell("compare")
        self.crew.wait_for("equal")


@pytest.fixture
def crews() -> Iterator[list[Crew]]:
    """Those that are ended when the test is."""
    made: list[Crew] = []
    yield made
    for crew in made:
        crew.end()


@pytest.mark.campaign
def test_a_load_under_signals(
    pond_unmounted: PondMount, tmp_path: Path, crews: list[Crew], campaign: Campaign
) -> None:
    pond = pond_unmounted
    hasten(pond, tmp_path)
    pond.allow_log("failed, which harms nothing", "is not used from here on")
    pond.mount("xattr", "commit=1")
    hang_s = HANG_LONG_S if campaign.long else HANG_S
    load = LoadRun(pond, campaign.rounds(suite=4, long=16), tmp_path, hang_s)
    crews.append(load.crew)
    begin = time.monotonic()
    seconds = campaign.rounds(suite=1, long=300)
    load.start()
    while load.faults.total() < 3 or time.monotonic() < begin + seconds:
        load.watch(load.rng.uniform(1, 2) if not campaign.long else load.rng.uniform(1, 12))
        match load.faults.total() % 3:
            case 0:
                load.stop(load.rng.uniform(0.5, 1) if not campaign.long else load.rng.uniform(1, 6))
            case 1:
                load.end_daemon(signal.SIGKILL)
                load.start()
            case _:
                load.end_daemon(signal.SIGTERM)
                load.start()
    compactions = count_compactions(pond)
    if campaign.long:
        compactions += stay_flat(load, 300)
    else:
        load.watch(2)
    load.finish()
    check_let_go(load)
    pond.remount()
    load.compare_again()
    pond.umount()
    assert_dense(pond.store)
    report = check_store(pond.store, data=True)
    assert report.verdict == CLEAN, report.findings
    if campaign.long:
        assert compactions
        assert len(load.samples.images) > 1
    assert load.samples.journaled < MOST_JOURNALED_BYTES
    assert load.samples.pending < MOST_PENDING_BYTES
    crew = load.crew
    for told in crew.told.values():
        assert told["steps"] > told["syncs"] > 0, "a writer did nothing"
    assert load.records, "nothing was done in what all share"
    campaign.tell(
        f"load, {len(crew.members)} writers",
        rounds=crew.sum("steps"), faults=load.faults.total(), losses=0,
        note=f"{time.monotonic() - begin:.0f} s; {crew.sum('syncs'):,} syncs;"
        f" {', '.join(f'{count} {name}' for name, count in sorted(load.faults.items()))};"
        f" longest step {crew.longest[0]:.1f} s ({crew.longest[1]}); {compactions} compactions;"
        f" rss {max(load.samples.rss_mb):.0f} MB",
    )  # fmt: skip


def count_compactions(pond: PondMount) -> int:
    """Return how many the log tells of."""
    return sum("data files with" in line for line in pond.daemon_log().splitlines())


def stay_flat(load: LoadRun, seconds: float) -> int:
    """Half of the time one daemon does it all, as it is used: its memory does not grow.

    Returns: how many compactions there were.
    """
    pond = load.pond
    del pond.env["PYTHONPATH"]
    load.is_hasty = False
    load.end_daemon(signal.SIGTERM)
    load.start()
    before = count_compactions(pond)
    load.samples.rss_mb.clear()
    for _ in range(6):
        load.watch(seconds / 6)
        load.stop(load.rng.uniform(1, 6))
    rss = load.samples.rss_mb
    third = len(rss) // 3
    early, late = max(rss[third : 2 * third]), max(rss[2 * third :])
    print("rss, MB:", " ".join(f"{mb:.0f}" for mb in rss))
    assert late < early + RSS_GROWTH_MB, f"the daemon grew from {early:.0f} to {late:.0f} MB"
    return count_compactions(pond) - before


def check_let_go(load: LoadRun) -> None:
    """Nothing is open any more: no handle, no node without a name, only what an idle daemon has."""
    pond = load.pond
    pond.commit()
    nodes = {
        os.lstat(os.path.join(path, name)).st_ino
        for path, below, files in os.walk(pond.mnt)
        for name in [".", *below, *files]
    }
    assert daemon(pond)["nodes"] == len(nodes)

    def is_forgotten() -> bool:
        forget(pond)
        told = daemon(pond)
        return bool(told["nodes_in_memory"] <= told["nodes_changed"] + IN_USE)

    wait_until(is_forgotten, "nodes nobody uses to leave", 60)
    until = time.monotonic() + LET_GO_S
    # A pond that has grown has an image; no more than one.
    allowed = load.idle + Counter({os.fspath(pond.store / "_pond/image"): 1})
    while more := others(load) - allowed:
        assert time.monotonic() < until, f"still open: {more}"
        time.sleep(0.1)


def others(load: LoadRun) -> Counter[str]:
    """Return what the daemon has open besides data files, which it keeps for reading."""
    found: Counter[str] = Counter()
    place = Path(f"/proc/{load.pond.pid}/fd")
    for name in os.listdir(place):
        try:
            target = os.readlink(place / name)
        except FileNotFoundError:
            continue
        if not target.removesuffix(" (deleted)").endswith(".parquet"):
            found[target.split(":")[0].removesuffix(" (deleted)")] += 1
    return found
