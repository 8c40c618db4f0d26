"""A pond's whole life in a few seconds, to be recorded: made, filled, kept in order, killed.

Run under strace by ``disk_trace.py``'s users as ``python recorded_work.py PYTHON STORE MOUNT
JOURNAL SEED FSYNC``. What it does to the tree are the steps of ``load.py``, in the same kind of
journal; what it has pondfs do are steps, too: ``["pond", what, …]``.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

from tests.crash.load import Load

SMALL_DAEMON = str(Path(__file__).with_name("small_daemon.py"))
STAGED_BYTES = 400_000
STAGE_TIMEOUT_S = 60.0
SYNCED, BIG = "synced", "big"


class Recorded(Load):
    """The load, with smaller files, and a file that is synced between other steps."""

    recover: Life | None = None

    def _length(self) -> int:
        return self.rng.choice([0, 1, 700, 700, 4096, 9000, 9000, 30_000])

    def do(self, count: int) -> None:
        """Do *count* things, and end with an fsync."""
        for number in range(len(self.directories), 3):
            self.step("mkdir", f"d{number}")
            self.directories.append(f"d{number}")
        actions = self._choose()
        for _ in range(count):
            next(actions)()
        self.note()

    def note(self) -> None:
        """Change a file and sync it, so that there is one more version."""
        if SYNCED not in self.files:
            self.step("create", SYNCED)
            self.files.append(SYNCED)
        self.step("held", SYNCED, 0, 20, self._seed())
        self.step("fsync", SYNCED)

    def write_much(self) -> None:
        """Write more than the daemon keeps in memory, over a file that is there perhaps."""
        if BIG not in self.files:
            self.step("create", BIG)
            self.files.append(BIG)
        self.step("write", BIG, 0, STAGED_BYTES, self._seed())

    def sync_and_die(self, life: Life) -> None:
        """Sync on a mount that dies of it; that is done when the pond was mounted again.

        What the dead one wrote and did not sync is seen by the next: it must not build on sand.
        """
        self.step("held", SYNCED, 0, 20, self._seed())
        self.recover = life
        self.step("fsync", SYNCED)

    def _do(self, verb: str, path: str, *rest: str | int) -> None:
        if self.recover is None:
            super()._do(verb, path, *rest)
            return
        life, self.recover = self.recover, None
        try:
            super()._do(verb, path, *rest)
        except OSError:
            self.close()
            life.detach()
            life.mount()
        else:
            raise SystemExit("the daemon did not die")

    def close(self) -> None:
        """Stand where nothing is unmounted."""
        os.chdir("/")


class Life:
    """What is done to one pond from outside."""

    def __init__(self, python: str, store: str, mnt: str, journal: str, fsync: str) -> None:
        self.bin = Path(python).parent
        self.python, self.store, self.mnt, self.path = python, store, mnt, journal
        self.options = f"commit=3600,fsync={fsync}"
        self.journal = os.open(journal, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def step(self, *record: str) -> None:
        """Write down a step that is about the pond, do it, and write ``ok``."""
        os.write(self.journal, json.dumps(["pond", *record]).encode() + b"\n")
        getattr(self, record[0])(*record[1:])
        os.write(self.journal, b'"ok"\n')

    def mount(self, fault: str = "") -> None:
        """Mount; the daemon dies at the point *fault*, if one is given."""
        os.environ["PONDFS_FAULT"] = fault
        self._run(self.python, SMALL_DAEMON, self.store, self.mnt, "-o", self.options)
        del os.environ["PONDFS_FAULT"]

    def detach(self) -> None:
        """Clear a dead mount away."""
        self._run("fusermount3", "-u", "-z", self.mnt)

    def umount(self) -> None:
        self._run(str(self.bin / "umount.pond"), self.mnt)

    def commit(self) -> None:
        self._run(str(self.bin / "pond"), "--pond", self.store, "commit")

    def compact(self) -> None:
        self._run(str(self.bin / "pond"), "--pond", self.store, "compact")

    def prune(self, keep: str) -> None:
        self._run(str(self.bin / "pond"), "--pond", self.store, "prune", "--keep-last", keep)

    def tag(self, name: str) -> None:
        os.mkdir(f"{self.mnt}/.pond/tags/{name}")

    def untag(self, name: str) -> None:
        os.rmdir(f"{self.mnt}/.pond/tags/{name}")

    def kill(self) -> None:
        """End the daemon as a crash does."""
        pid = json.loads(Path(self.store, "_pond", "lock").read_text())["pid"]
        ended = os.pidfd_open(pid)
        os.kill(pid, signal.SIGKILL)
        select.select([ended], [], [])
        self.detach()

    def lose(self, name: str) -> None:
        """Write a new file that nobody syncs, and that is no step: no version ever has it.

        Returns: when some of it is in data files.
        """
        before = len(self._data_files())
        Path(self.mnt, name).write_bytes(os.urandom(STAGED_BYTES))
        deadline = time.monotonic() + STAGE_TIMEOUT_S
        while len(self._data_files()) == before:
            if time.monotonic() > deadline:
                raise SystemExit("nothing is staged")
            time.sleep(0.005)

    def _data_files(self) -> list[Path]:
        return list(Path(self.store).glob("*.parquet"))

    def _run(self, *args: str) -> None:
        done = subprocess.run(args, stdin=subprocess.DEVNULL, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"{args}: {done.stdout}{done.stderr}")


def main() -> None:
    """Live the life."""
    python, store, mnt, journal, number, fsync = sys.argv[1:]
    life = Life(python, store, mnt, journal, fsync)
    # Each mount's load gets its own.
    seed = 100 * int(number)

    def load(count: int) -> Recorded:
        nonlocal seed
        seed += 1
        work = Recorded(mnt, journal, seed)
        if count:
            work.do(count)
        return work

    life.step("mount")
    work = load(8)
    life.step("tag", "early")
    work.do(6)
    work.write_much()
    work.do(2)
    life.step("compact")
    work.do(4)
    work.close()
    life.lose("lost")
    life.step("kill")
    life.step("mount")
    work = load(3)
    life.step("commit")
    for tag in ("one", "two", "three", "four"):
        work.note()
        life.step("tag", tag)
    for tag in ("one", "two", "three", "four"):
        life.step("untag", tag)
    work.close()
    life.step("umount")
    life.step("mount", {"journal": "journal:sync", "delta": "commit:log-dir-fsync"}[fsync])
    work = load(0)
    work.sync_and_die(life)
    work = load(6)
    life.step("prune", "4")
    life.step("untag", "early")
    work.write_much()
    work.do(3)
    work.close()
    life.step("umount")
    life.step("mount")
    work = load(2)
    life.step("tag", "late")
    work.write_much()
    work.close()
    life.step("umount")


if __name__ == "__main__":
    main()
