"""One of the writers: ``python -m tests.load.writer MOUNT NUMBER JOURNAL SEED``.

It works in MOUNT/w-NUMBER, writes MOUNT/loose/NUMBER, and shares a directory with the others. What
it did is in JOURNAL, outside the mount, line by line. On its standard input it is told what to do,
on its standard output it tells what came of it, a JSON object a line:

- ``work`` in the shared directory ``shared``: until the daemon is gone (``down``), or
- ``finish``: close all, compare all (``done``);
- ``check`` after a new mount: what is there? (``found``), which is where it goes on;
- ``compare`` all once more (``equal``), and end.
"""

from __future__ import annotations

import errno
import json
import os
import random
import select
import sys
from pathlib import Path
from typing import Any

from tests.load.loose import LooseFile
from tests.load.own import NEVER, Interval, Own, Spent
from tests.load.shared import Shared

DEATH = {errno.ENOTCONN, errno.ECONNABORTED, errno.EIO}
"""What a program sees of a mount whose daemon died: the call under way, and every later one."""

SLOW_S = 0.2
"""Steps that took longer are told, with their times."""


class Writer:
    """What it works on, and its talk with who started it."""

    def __init__(self, mount: str, number: int, journal: str, seed: int) -> None:
        rng = random.Random(f"writer {seed}")
        self.rng = rng
        self.spent = Spent(SLOW_S)
        self.own = Own(f"{mount}/w-{number}", journal, seed, self.spent)
        self.loose_place = f"{mount}/loose/{number}"
        self.loose = LooseFile(f"../loose/{number}", rng, self.own.note_sync)
        self.shared = Shared(number, rng, self.spent)

    def run(self) -> None:
        """Do what is said until there is nothing more to do."""
        say("ready")
        while told := sys.stdin.readline():
            order = json.loads(told)
            match order.pop("do"):
                case "work":
                    self.work(order["shared"])
                case "check":
                    self.check(**order)
                case "compare":
                    self.compare()

    def work(self, shared: str) -> None:
        """Work until the daemon is gone, or somebody says something."""
        self.shared.begin_in(f"../shared/{shared}")
        try:
            while not select.select([0], [], [], 0)[0]:
                part = self.rng.random()
                syncs = self.own.syncs + self.shared.syncs
                if part < 0.55:
                    self.own.act()
                elif part < 0.75:
                    self.loose.act()
                else:
                    self.shared.act()
                if self.own.syncs + self.shared.syncs > syncs:
                    self.loose.note_sync()
            assert json.loads(sys.stdin.readline()) == {"do": "finish"}
            if self.loose.fd >= 0:
                self.loose.close()
        except OSError as error:
            if error.errno not in DEATH:
                raise
            say("down", errno=error.errno)
            return
        self.compare()
        self._tell("done", [(NEVER, NEVER)])

    def check(self, clean_since: float | None) -> None:
        """Say what the version that is there now can be; go on from it.

        Args:
            clean_since: when the daemon was asked to end; None if it was killed.
        """
        self.own.let_go()
        ends = [end for _, end in self.own.times if end < NEVER]
        found = self.own.find(clean=clean_since is not None)
        self.loose.find(clean_since)
        self._tell("found", found, last_end=max(ends, default=0.0))

    def _tell(self, what: str, found: list[Interval], last_end: float = 0.0) -> None:
        say(
            what,
            found=found,
            last_end=last_end,
            synced_at=max(self.own.synced_at, self.shared.synced_at),
            records=self.shared.records,
            slow=self.spent.slow,
            steps=self.spent.steps,
            syncs=self.own.syncs + self.shared.syncs,
            compared=self.own.checks,
        )
        self.spent.slow = []

    def compare(self) -> None:
        """Compare everything with what it must be; be nowhere in the mount then."""
        self.own.assert_exact()
        assert Path(self.loose_place).exists() or not self.loose.now
        if self.loose.now:
            assert Path(self.loose_place).read_bytes() == self.loose.now, self.loose_place
        os.chdir("/")
        say("equal")


def say(what: str, **more: Any) -> None:
    """Tell who started this."""
    print(json.dumps({"say": what} | more), flush=True)


def main() -> None:
    """Run the writer named by the arguments."""
    mount, number, journal, seed = sys.argv[1:]
    Writer(mount, int(number), journal, int(seed)).run()


if __name__ == "__main__":
    main()
