"""Transactions beside a mount while others work on the same tree at random."""

import os
import random
import stat
from pathlib import Path
from typing import Any

from pondfs.api.mounted import MountedBackend
from pondfs.errors import Conflict
from tests.conftest import MakePond
from tests.mount.test_transaction import USUAL, put, seen, start, told

ROUNDS = 15


class Changer:
    """Does random operations; no two files it writes have the same bytes."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self._files = 0

    def some(self, tree: Any, most: int) -> None:
        """Do up to *most* operations."""
        for _ in range(self.chance.randint(1, most)):
            try:
                self._one(tree)
            except OSError as error:
                if error.errno not in USUAL:
                    raise

    def _one(self, tree: Any) -> None:
        chance = self.chance
        directories, every = [b""], list[bytes]()
        for directory in directories:
            below = [os.path.join(directory, name) for name in tree.listdir(directory)]
            every += below
            directories += [path for path in below if stat.S_ISDIR(tree.lstat(path).mode)]
        files = [path for path in every if stat.S_ISREG(tree.lstat(path).mode)]
        new = os.path.join(chance.choice(directories), b"n%d" % chance.randrange(40))
        some = chance.choice(every) if every else b""
        what = chance.randrange(10)
        if what <= 1 or not files:
            self._write(tree, new)
        elif what == 2:
            tree.mkdir(new)
        elif what <= 4:
            tree.rename(some, chance.choice([new, new, chance.choice(every)]))
        elif what == 5:
            tree.link(chance.choice(files), new)
        elif what == 6:
            self._write(tree, chance.choice(files))
        elif what == 7:
            tree.chmod(chance.choice(files), chance.choice([0o600, 0o644, 0o755]))
        elif stat.S_ISDIR(tree.lstat(some).mode):
            tree.rmdir(some)
        else:
            tree.unlink(some)

    def _write(self, tree: Any, path: bytes) -> None:
        self._files += 1
        put(tree, path, b"%d" % self._files)


def contents(mnt: dict[str, tuple[object, ...]]) -> set[bytes]:
    """Return what the files of a tree hold."""
    return {found[-1] for found in mnt.values() if isinstance(found[-1], bytes)}


def test_nothing_is_lost_and_nothing_comes_back(make_pond: MakePond) -> None:
    """Either it is a conflict and nothing happens, or both sides' changes are there."""
    pond = make_pond().mount("xattr,commit=3600")
    change = Changer(20261122)
    others = MountedBackend(Path(pond.mnt))
    for _ in range(40):
        change.some(others, 4)
    conflicts = 0
    for _ in range(ROUNDS):
        tx = start(pond)
        base = contents(seen(pond.mnt))
        both = [(tx, 8), (others, 5)]
        change.chance.shuffle(both)
        for tree, most in both:
            change.some(tree, most)
        if change.chance.random() < 0.5:
            pond.commit("theirs")
        ours, before = contents(told(tx)), seen(pond.mnt)
        theirs = contents(before)
        try:
            tx.commit("ours")
        except Conflict:
            conflicts += 1
            assert seen(pond.mnt) == before
        else:
            kept = base & ours & theirs
            assert contents(seen(pond.mnt)) == (ours - base) | (theirs - base) | kept
    assert 0 < conflicts < ROUNDS
    others.close()
    found = seen(pond.mnt)
    pond.remount("xattr")
    assert seen(pond.mnt) == found
