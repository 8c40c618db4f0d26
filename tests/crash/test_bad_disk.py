"""ENOSPC and EIO on every operation a mounted pond does on its store, one after the other.

What the operations are is found by watching the same work on a good disk. Then each is made to fail
in its turn: whoever asked gets that errno, reads go on, the mount stays; and once the disk works
again all that was acknowledged and all that was pending arrives.
"""

from __future__ import annotations

import errno
import os
import random
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from pondfs.store.check import CLEAN, check_store
from tests.campaign import Campaign
from tests.conftest import MakePond
from tests.crash.bad_disk import BadDisk, Step
from tests.crash.test_disk_full import complaints
from tests.mount.harness import PondMount
from tests.mount.haste import set_values

WRITE_ERRNOS = (errno.ENOSPC, errno.EIO, errno.EDQUOT, errno.EROFS)
STAGED_BYTES = 40 << 20
"""More than `STAGE_BYTES`: a part of it goes to the disk before anybody syncs."""

MOST_TIMES = 100


class Work(NamedTuple):
    """Something a pond does.

    Attributes:
        prepare: what comes before, on a good disk.
        act: what is done while the disk fails; it returns the errno that it ended with, 0 for none.
    """

    prepare: Callable[[Tree], object]
    act: Callable[[Tree], int]


def attempt(call: Callable[[], object]) -> int:
    """Return the errno that *call* fails with; 0 when it does not."""
    try:
        call()
    except OSError as error:
        return error.errno or 0
    return 0


class Tree:
    """A mounted pond, and what must be in it."""

    def __init__(self, pond: PondMount) -> None:
        self.pond = pond
        self.files: dict[str, bytes] = {}
        self._rng = random.Random(7)
        self._number = 0
        self.looked_at = 1  # the newest past version that was

    @property
    def root(self) -> Path:
        return self.pond.mnt

    def name(self) -> str:
        """Return a name nothing has."""
        self._number += 1
        return f"file{self._number}"

    def random(self, size: int) -> bytes:
        return self._rng.randbytes(size)

    def put(self, name: str, content: bytes) -> None:
        """Write a file; the daemon has all of it on return."""
        (self.root / name).write_bytes(content)
        self.files[name] = content

    def change(self) -> None:
        """Have something of everything pending."""
        for name in list(self.files)[2:-3]:
            (self.root / name).unlink()
            del self.files[name]
        self.put(self.name(), self.random(5000))
        self.put("rewritten", self.random(70_000))
        new = self.name()
        old = next(iter(set(self.files) - {"kept", "rewritten"}))
        (self.root / old).rename(self.root / new)
        self.files[new] = self.files.pop(old)
        os.chmod(self.root / new, 0o640)

    def change_and_sync(self) -> None:
        self.change()
        self.sync()

    def sync(self) -> None:
        """Make all of it durable. Raises: OSError as fsync(2) does."""
        fd = os.open(self.root, os.O_RDONLY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def read(self, name: str) -> bytes:
        """Return what the daemon has, not what the kernel remembers."""
        fd = os.open(self.root / name, os.O_RDONLY)
        try:
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
            return os.pread(fd, STAGED_BYTES * 2, 0)
        finally:
            os.close(fd)

    def compare(self) -> None:
        """Fail unless the tree is what it must be."""
        assert sorted(os.listdir(self.root)) == sorted(self.files)
        for name, content in self.files.items():
            assert self.read(name) == content, name

    def answers(self) -> None:
        """Fail unless the mount does what needs no disk."""
        os.statvfs(self.root)
        assert set(os.listdir(self.root)) >= set(self.files)
        name = self.name()
        (self.root / "rewritten").rename(self.root / name)
        os.chmod(self.root / name, 0o600)
        (self.root / name).rename(self.root / "rewritten")


def fsync(tree: Tree) -> int:
    return attempt(tree.sync)


def stage(tree: Tree) -> int:
    """Write more than memory is to hold, then sync it; what was refused is taken away again."""
    name, content = tree.name(), tree.random(1 << 20) * (STAGED_BYTES >> 20)
    number = attempt(lambda: (tree.root / name).write_bytes(content)) or fsync(tree)
    if number:
        (tree.root / name).unlink(missing_ok=True)
    else:
        tree.files[name] = content
    return number


def tag(tree: Tree) -> int:
    place = tree.root / ".pond" / "tags" / tree.name()
    return attempt(place.mkdir) or attempt(place.rmdir)


def read(tree: Tree) -> int:
    """Read what was committed a moment ago: its data file has to be opened."""
    return attempt(lambda: tree.read("rewritten"))


def past(tree: Tree) -> int:
    """Look at a version nobody looked at: its tree is made from rows."""
    tree.looked_at += 1
    version = tree.root / ".pond" / "versions" / str(tree.looked_at)
    return attempt(lambda: os.listdir(version))


WORKS = {
    "fsync": Work(Tree.change, fsync),
    "a staged write": Work(Tree.change, stage),
    "a tag": Work(Tree.change, tag),
    "a read": Work(Tree.change_and_sync, read),
    "the past": Work(Tree.change_and_sync, past),
}


@pytest.fixture
def bad_disk(tmp_path: Path) -> BadDisk:
    return BadDisk(tmp_path / "bad-disk", tmp_path / "pond")


@pytest.fixture
def bad_pond(bad_disk: BadDisk, make_pond: MakePond) -> Iterator[PondMount]:
    """An unmounted pond on a disk that can be made to fail."""
    pond = make_pond()
    pond.env.update(bad_disk.environment)
    pond.allow_log(r".*")  # that there are few lines is asserted where they come
    yield pond
    bad_disk.mend()


def faults(disk: BadDisk, work: Callable[[], object], *, most: int) -> list[tuple[Step, int, int]]:
    """Watch *work*; return what is to fail: which step, which time, with which errno.

    Of a step taken several times *most* of those, with all errnos; if that is 1, with one, by
    turns.
    """
    with disk.tracing() as trace:
        work()
    counts = Counter(step for step in trace if step.pattern != "_pond/log")
    assert counts, "nothing was done on the disk"
    found = []
    for turn, (step, count) in enumerate(sorted(counts.items())):
        errnos = WRITE_ERRNOS if step.writes else (errno.EIO,)
        if most > 1:
            times = range(1, count + 1, -(-count // most))
            found += [(step, time, number) for time in times for number in errnos]
        else:
            found.append((step, 1 + turn % min(count, 2), errnos[turn % 2 % len(errnos)]))
    return found


@pytest.mark.campaign
@pytest.mark.parametrize("name", WORKS)
def test_every_operation_fails_once_and_for_long(
    bad_disk: BadDisk, bad_pond: PondMount, tmp_path: Path, campaign: Campaign, name: str
) -> None:
    # No checkpoint in the background: it would take a failure that is meant for somebody else.
    set_values(bad_pond, tmp_path, {"pondfs.store.checkpoint": {"ENTRIES_BETWEEN": 1 << 30}})
    work = WORKS[name]
    tree = Tree(bad_pond.mount("commit=3600,fsync=delta,compact=off"))
    tree.put("kept", tree.random(300_000))
    tree.put("other", tree.random(10))
    tree.change()
    tree.change()
    tree.sync()
    work.prepare(tree)
    found = faults(bad_disk, lambda: work.act(tree), most=MOST_TIMES if campaign.long else 1)
    failed = hit = 0
    for turn, (step, first, number) in enumerate(found):
        for last in (first, 1 << 60) if campaign.long else ((first,) if turn % 2 else (1 << 60,)):
            work.prepare(tree)
            logged = len(complaints(bad_pond))
            with bad_disk.failing(step, number, first=first, last=last):
                ended = work.act(tree)
                what = f"{step} failed with {os.strerror(number)}, and the caller got {ended}"
                assert ended in (0, number), what
                # A stage that failed once is nobody's fsync: the commit after it has all of it.
                if bad_disk.failed and step.writes and (last > first or work.act is not stage):
                    assert ended == number, what
                if step.writes:
                    assert tree.read("kept") == tree.files["kept"]
                tree.answers()
                failed += bad_disk.failed
                hit += bad_disk.failed > 0
            found_lines = complaints(bad_pond)[logged:]
            assert len(found_lines) <= 2, "one failure, many lines"
            if work.act is read and bad_disk.failed:
                (line,) = found_lines
                assert ".parquet" in line, line
                assert "needed for '/rewritten'" in line, line
            tree.sync()
            tree.compare()
    assert hit >= len(found) / 3, "too little failed for this to mean anything"
    tree.pond.remount()
    tree.compare()
    tree.pond.umount()
    report = check_store(tree.pond.store, data=True)
    assert report.verdict == CLEAN, report.findings
    campaign.tell(f"bad disks: {name}", rounds=len(found), faults=failed, losses=0)


@pytest.mark.campaign
def test_every_operation_of_the_journal_fails(
    bad_disk: BadDisk, bad_pond: PondMount, campaign: Campaign
) -> None:
    """Then the version is a commit, and whoever synced does not notice; unless that fails, too.

    Each on a new mount: a journal that failed is left alone for a while.
    """
    options = "commit=3600,fsync=journal,compact=off"
    tree = Tree(bad_pond.mount(options))
    tree.put("kept", tree.random(300_000))
    tree.put("other", tree.random(10))
    tree.change_and_sync()
    bad_pond.remount()
    tree.change()
    # The journal has records by now that only it has, and then one more.
    with bad_disk.tracing() as trace:
        tree.sync()
        tree.change()
        tree.sync()
    found = [
        (step, first, number)
        for step, count in sorted(Counter(trace).items())
        for first in range(1, count + 1)
        for number in (WRITE_ERRNOS if step.writes else (errno.EIO,))
        if step.pattern != "_pond/log"
    ]
    rounds = found if campaign.long else found[::7]
    failed = hit = 0
    for step, first, number in rounds:
        bad_pond.remount()
        tree.change()
        with bad_disk.failing(step, number, first=first):
            for _ in range(3):
                ended = fsync(tree)
                assert ended == 0 or (ended == number and not step.pattern.startswith("_pond"))
                assert tree.read("kept") == tree.files["kept"]
            failed += bad_disk.failed
            hit += bad_disk.failed > 0
        tree.sync()
        tree.compare()
        # As it would be found after a crash, which is what a journal is for.
        bad_pond.kill()
        bad_pond.mount(options)
        tree.compare()
    assert failed >= len(rounds)
    assert hit >= len(rounds) / 3, "too little failed for this to mean anything"
    campaign.tell("bad disks: the journal", rounds=len(rounds), faults=failed, losses=0)


@pytest.mark.campaign
def test_every_operation_of_mounting_fails(
    bad_disk: BadDisk, bad_pond: PondMount, campaign: Campaign
) -> None:
    """It says why, in one line, or does without; the next mount on a good disk has everything."""
    options = "commit=3600,fsync=journal"
    tree = Tree(bad_pond.mount(options))
    tree.put("kept", tree.random(300_000))
    tree.put("other", tree.random(10))
    tree.change_and_sync()
    bad_pond.kill()
    args = (str(bad_pond.store), str(bad_pond.mnt), "-o", options)
    found = faults(
        bad_disk,
        lambda: bad_pond.run("mount.pond", *args),
        most=MOST_TIMES if campaign.long else 1,
    )
    failed = hit = 0
    rounds = found if campaign.long else found[::12]
    for step, first, number in rounds:
        tree.change()
        tree.sync()
        bad_pond.kill()  # leaves its journal
        with bad_disk.failing(step, number, first=first):
            ended = bad_pond.run("mount.pond", *args, check=False)
            failed += bad_disk.failed
            hit += bad_disk.failed > 0
        what = f"{step} failed with {os.strerror(number)}: {ended.returncode} {ended.stderr}"
        if ended.returncode:
            assert ended.returncode == 32, what
            assert ended.stderr.count("\n") == 1, what
            assert os.strerror(number) in ended.stderr, what
            assert not bad_pond.is_mounted(), what
            bad_pond.mount(options)
        tree.compare()
        tree.change()
        tree.sync()
        tree.compare()
    assert hit >= len(rounds) / 3, "too little failed for this to mean anything"
    campaign.tell("bad disks: mount.pond", rounds=len(rounds), faults=failed, losses=0)
