"""kill -9 at any moment: the pond mounts again, and holds exactly what it promised to hold."""

from __future__ import annotations

import errno
import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pyarrow.dataset as ds
import pytest

from pondfs.options import FSYNCS
from tests.campaign import Campaign
from tests.crash import delta_log, load
from tests.crash.journal import (
    Journal,
    Step,
    TreeModel,
    content_of,
    find_state,
    read_commits,
    read_journal,
    snapshot,
)
from tests.crash.system_calls import attached
from tests.mount.harness import PondMount, detach, wait_gone, wait_until

# Steps of the load before the kill: some rounds end in the first steps, most amid many commits.
MOST_STEPS = 250
# So many fsyncs take what the disk takes, and others use it as well.
LOAD_TIMEOUT_S = 120.0
# What a program sees of a mount whose daemon died: the call under way, and every later one.
DEATH = {errno.ENOTCONN, errno.ECONNABORTED, errno.EIO}


def sync(path: Path) -> None:
    """fsync a file or a directory."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


# A save by rename between two fsyncs, then one write without.
STEPS_TAKEN: list[Step] = [
    ["create", "a.tmp"],
    ["held", "a.tmp", 0, 9000, 1],
    ["fsync", "a.tmp"],
    ["rename", "a.tmp", "a"],
    ["link", "a", "b"],
    ["fsync", "a"],
    ["write", "a", 5000, 9000, 2],
]


def state(count: int) -> TreeModel:
    """Return the tree after the first *count* of STEPS_TAKEN."""
    tree = TreeModel()
    for step in STEPS_TAKEN[:count]:
        tree.apply(step)
    return tree


@pytest.mark.parametrize("done", range(8))
@pytest.mark.parametrize("at_fsyncs_only", [True, False])
def test_the_checker_knows_which_states_are_allowed(done: int, at_fsyncs_only: bool) -> None:
    """Nothing from before the last acknowledged fsync, nothing from after the last step begun."""
    journal = Journal(STEPS_TAKEN[: done + 1], done)
    least = {0: 0, 1: 0, 2: 0, 3: 3, 4: 3, 5: 3, 6: 6, 7: 6}[done]
    allowed = set(range(least, min(done + 1, 7) + 1))
    if at_fsyncs_only:  # the fsyncs that may have cut are steps 2 and 5, when they were begun
        allowed = {least} | ({2, 5} & allowed & set(range(done + 1)))
    for count in range(8):
        after_fsync = {2: 3, 3: 2, 5: 6, 6: 5}.get(count)  # an fsync changes no tree
        if count in allowed or after_fsync in allowed:
            find_state(TreeModel(), journal, state(count), at_fsyncs_only=at_fsyncs_only)
        else:
            with pytest.raises(AssertionError, match="the tree is none"):
                find_state(TreeModel(), journal, state(count), at_fsyncs_only=at_fsyncs_only)


def damage_byte(tree: TreeModel) -> None:
    file = tree.names["a"]
    tree.contents[file] = b"?" + tree.contents[file][1:]


def damage_tail(tree: TreeModel) -> None:
    file = tree.names["a"]
    tree.contents[file] = tree.contents[file][:-1]


def damage_link(tree: TreeModel) -> None:
    tree.names["b"] = -99
    tree.contents[-99] = tree.contents[tree.names["a"]]


def damage_name(tree: TreeModel) -> None:
    tree.names["a.tmp"] = tree.names["a"]


def damage_directory(tree: TreeModel) -> None:
    tree.directories.add("lost+found")


@pytest.mark.parametrize(
    "damage", [damage_byte, damage_tail, damage_link, damage_name, damage_directory]
)
def test_the_checker_sees_damage(damage: Callable[[TreeModel], None]) -> None:
    """Bytes, lengths, which names share a file, names and directories: each alone counts."""
    tree = state(6)
    damage(tree)
    with pytest.raises(AssertionError, match="the tree is none"):
        find_state(TreeModel(), Journal(STEPS_TAKEN, 6), tree, at_fsyncs_only=False)


def test_the_checker_allows_a_write_page_by_page() -> None:
    """Pages of a write under way may have arrived or not; a page is never mixed or foreign."""
    journal = Journal(STEPS_TAKEN, 6)
    tree, after = state(6), state(7)
    file, old, new = tree.names["a"], *(t.contents[t.names["a"]] for t in (tree, after))
    tree.contents[file] = old[:8192] + new[8192:]
    find_state(TreeModel(), journal, tree, at_fsyncs_only=False)
    tree.contents[file] = old[:7000] + new[7000:]
    with pytest.raises(AssertionError, match="the tree is none"):
        find_state(TreeModel(), journal, tree, at_fsyncs_only=False)


def test_the_load_does_what_its_journal_says(tmp_path: Path) -> None:
    """On an ordinary directory, where nothing is ever lost: the journal predicts every byte."""
    (tmp_path / "work").mkdir()
    for seed in range(3):
        work = Work(tmp_path, tmp_path, seed, with_commits=True)
        try:
            work.wait_for_steps(400)
        finally:
            work.process.kill()
            work.process.wait()
        journal = read_journal(work.journal)
        assert journal.failure is None
        work.check(journal)


class Work:
    """The load of one round: a process, its journals, and the tree it began with."""

    def __init__(self, mnt: Path, journals: Path, seed: int, *, with_commits: bool) -> None:
        self.root = mnt / "work"
        self.committed_file = mnt / "committed"
        self.with_commits = with_commits
        self.journal = journals / f"{seed}.journal"
        self.commits = journals / f"{seed}.commits"
        self.before = snapshot(self.root)
        committer = [str(self.committed_file), str(self.commits)] if with_commits else []
        self.process = subprocess.Popen(
            # -S -E: without site-packages it starts in a few milliseconds
            [
                *(sys.executable, "-S", "-E", load.__file__),
                *(str(self.root), str(self.journal), str(seed), *committer),
            ],
            stdin=subprocess.DEVNULL,
        )

    def wait_for_steps(self, count: int) -> None:
        """Return when the load has begun *count* steps; fail if it ends before."""
        wait_until(
            lambda: self._journal_lines() > 2 * count or self.process.poll() is not None,
            f"{count} steps of the load",
            LOAD_TIMEOUT_S,
        )
        assert self.process.poll() is None, f"the load ended: {read_journal(self.journal).failure}"

    def _journal_lines(self) -> int:
        return self.journal.read_bytes().count(b"\n") if self.journal.exists() else 0

    def end(self) -> Journal:
        """Return the journal, after the load met the daemon's death."""
        self.process.wait(LOAD_TIMEOUT_S)
        journal = read_journal(self.journal)
        assert journal.failure in DEATH, f"the load failed with errno {journal.failure}"
        return journal

    def check(self, journal: Journal) -> None:
        """Compare the remounted tree with what the load can have left behind."""
        begun, durable, covered = read_commits(self.commits)
        if durable:
            number = int(self.committed_file.read_bytes())
            assert durable <= number <= begun, f"fsync of {durable} was acknowledged: {number}"
        find_state(
            self.before,
            journal,
            snapshot(self.root),
            at_fsyncs_only=not self.with_commits,
            acknowledged=covered,
        )


@pytest.mark.campaign
@pytest.mark.parametrize("fsync", FSYNCS)
def test_kills_lose_nothing(
    pond_unmounted: PondMount, tmp_path: Path, fsync: str, campaign: Campaign
) -> None:
    """Often on one store: load, kill -9 somewhere, mount, compare with every acknowledgement.

    In even rounds only the load's own fsyncs commit, so the tree must be exactly that of the last
    acknowledged fsync, or of the one that was under way: a batch of files is there or it is not.
    In odd rounds commits come at any moment, and the tree must be that after some step since.
    """
    pond = pond_unmounted.mount("commit=3600", f"fsync={fsync}")
    (pond.mnt / "work").mkdir()
    pond.remount()
    rng = random.Random(2)
    acknowledged = 0
    kills = campaign.rounds(suite=12, long=200)
    for number in range(kills):
        pid = pond.pid  # looked up while the daemon is idle: so the kill itself takes no time
        work = Work(pond.mnt, tmp_path, number, with_commits=number % 2 == 1)
        try:
            work.wait_for_steps(rng.randrange(1, MOST_STEPS))
            os.kill(pid, signal.SIGKILL)
            wait_gone(pid)
            detach(pond.mnt)
            journal = work.end()
        finally:
            work.process.kill()
            work.process.wait()
        pond.mount(*pond.options)
        work.check(journal)
        acknowledged += sum(step[0] == "fsync" for step in journal.steps[: journal.done])
    assert acknowledged > kills, "too few acknowledged fsyncs for this to mean anything"
    pond.umount()
    assert_dense(pond.store)
    campaign.tell(
        f"kills, fsync={fsync}", rounds=kills, faults=kills, losses=0,
        note=f"{acknowledged:,} acknowledged fsyncs",
    )  # fmt: skip


def assert_dense(store: Path) -> None:
    """Fail unless the versions are 1, 2, 3 …, each with one commit row, and no row is there twice.

    Both the log's entries and the rows say so; a version published twice, by a daemon that did not
    find its own entry again, would show in one of them.
    """
    numbered = [entry.version for entry in delta_log.read_log(store) if entry.version is not None]
    assert numbered == sorted(set(numbered))
    files = [str(path) for path in delta_log.data_files(store)]
    rows = ds.dataset(files, format="parquet").to_table(columns=["version", "seq", "op"])
    keys = list(zip(rows["version"].to_pylist(), rows["seq"].to_pylist(), strict=True))
    assert len(keys) == len(set(keys)), "(version, seq) is there twice"
    commits = sorted(
        version
        for (version, _), op in zip(keys, rows["op"].to_pylist(), strict=True)
        if op == "commit"
    )
    assert commits == list(range(1, delta_log.head_version(store) + 1))


# The calls of a commit, in order, and which one of its name it is in the committing thread.
# Source: DESIGN, "Commit, and what durable means".
STEPS = {
    "data file": ("fsync", 1),
    "its directory": ("fsync", 2),
    "log entry": ("fsync", 3),
    "publication": ("link,linkat", 1),
    "log's directory": ("fsync", 4),
}


@pytest.mark.parametrize("step", STEPS)
def test_a_kill_at_each_step_of_a_commit(
    pond_unmounted: PondMount, tmp_path: Path, step: str
) -> None:
    """The kernel kills the daemon as it enters the call: nothing after it happens.

    Whatever the step, the fsync is not acknowledged, what was before is there, and the batch is
    there as a whole or not at all; it is there if and only if its entry had been published.
    """
    pond = pond_unmounted.mount("commit=3600,fsync=delta")
    (pond.mnt / "before").mkdir()
    (pond.mnt / "before" / "file").write_bytes(b"acknowledged")
    sync(pond.mnt / "before")
    version = delta_log.head_version(pond.store)
    before = snapshot(pond.mnt)
    (pond.mnt / "before" / "file").rename(pond.mnt / "moved")
    for number in range(20):
        (pond.mnt / f"file{number}").write_bytes(content_of(number, 3000))
    after = snapshot(pond.mnt)
    call, nth = STEPS[step]
    injection = ("-e", f"trace={call}", "-e", f"inject={call}:signal=SIGKILL:when={nth}")
    with attached(pond.pid, tmp_path / "trace", *injection) as tracer:
        with pytest.raises(OSError, match="onnect") as failure:
            sync(pond.mnt)
        assert failure.value.errno in DEATH
        wait_until(lambda: any("killed by SIGKILL" in line for line in tracer.lines()), "the kill")
    detach(pond.mnt)
    published = delta_log.head_version(pond.store) == version + 1
    assert published == (step == "log's directory")
    pond.mount(*pond.options)
    assert not snapshot(pond.mnt).differences(after if published else before)
    (pond.mnt / "next").write_bytes(b"and on it goes")
    sync(pond.mnt / "next")
    pond.umount()
    assert_dense(pond.store)


MIB = 1 << 20
# More than the daemon holds in memory, so that some is staged before anybody commits.
STAGED_BYTES = 96 * MIB


def test_a_kill_while_much_is_staged(pond_unmounted: PondMount) -> None:
    """Data files written early for a commit that never came change nothing, once or many times.

    Then the same bytes, committed: all of them are there, however they reached the disk.
    """
    pond = pond_unmounted.mount("commit=3600")
    big = pond.mnt / "big"
    write_over(big, 1)
    sync(big)
    for number in (2, 3):
        pid, files = pond.pid, data_files_on_disk(pond.store)

        def is_staged(known: set[str] = files) -> bool:
            return data_files_on_disk(pond.store) > known

        write_over(big, number)
        (pond.mnt / f"new{number}").write_bytes(b"never committed")
        wait_until(is_staged, "content is staged")
        os.kill(pid, signal.SIGKILL)
        wait_gone(pid)
        detach(pond.mnt)
        pond.mount("commit=3600")
        assert os.listdir(pond.mnt) == ["big"]
        assert is_filled(big, 1)
    write_over(big, 4)
    os.truncate(big, STAGED_BYTES // 2)
    sync(big)
    pid = pond.pid
    os.kill(pid, signal.SIGKILL)
    wait_gone(pid)
    detach(pond.mnt)
    pond.mount("commit=3600")
    assert big.stat().st_size == STAGED_BYTES // 2
    assert is_filled(big, 4)
    pond.umount()
    assert_dense(pond.store)


def data_files_on_disk(store: Path) -> set[str]:
    """Return the names of all data files, whether or not the log knows them."""
    return {path.name for path in store.glob("*.parquet")}


def write_over(path: Path, number: int) -> None:
    """Fill a file with blocks that say *number* and where they are."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT, 0o644)
    try:
        for offset in range(0, STAGED_BYTES, MIB):
            os.pwrite(fd, block(number, offset), offset)
    finally:
        os.close(fd)


def block(number: int, offset: int) -> bytes:
    """Return the MiB that :func:`write_over` writes at *offset*."""
    return b"%07d %07d\n" % (number, offset // MIB) * (MIB // 16)


def is_filled(path: Path, number: int) -> bool:
    """Say whether every block of the file is :func:`write_over`'s of *number*."""
    with path.open("rb", buffering=0) as file:
        size = os.fstat(file.fileno()).st_size
        offsets = range(0, size, MIB)
        return all(os.pread(file.fileno(), MIB, at) == block(number, at) for at in offsets)
