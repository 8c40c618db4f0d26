"""A program that works on a tree until its filesystem dies, and keeps a journal of every step.

Run by ``test_kill.py`` as ``python load.py ROOT JOURNAL SEED [FILE COMMITS]``: it changes the tree
below ROOT as programs do (new files, saving by write-fsync-rename, writing in place, moving,
linking and deleting files, whole directories at once), with JOURNAL outside the mount. With FILE,
a second thread writes and fsyncs that file meanwhile, so that commits fall between any two steps;
COMMITS is that thread's journal.

It imports nothing that takes long: it is started fifty times.
"""

from __future__ import annotations

import json
import os
import random
import sys
import threading
from collections.abc import Callable, Iterator

DIRECTORIES = 5


class Load:
    """The tree as this program knows it, and the steps it does to it."""

    most_files = 120

    def __init__(self, root: str, journal: str, seed: int) -> None:
        # Inside, it meets the dead mount even after that was detached from its mountpoint.
        os.chdir(root)
        self.rng = random.Random(seed)
        self.journal = os.open(journal, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self.held: dict[str, int] = {}
        self.count = 0
        self.counted = threading.Condition()
        self.files: list[str] = []
        self.directories: list[str] = []
        for path, names, files in os.walk("."):
            prefix = "" if path == "." else path.removeprefix("./") + "/"
            self.directories += [prefix + name for name in names]
            self.files += [prefix + name for name in files]

    def step(self, verb: str, path: str, *rest: str | int) -> None:
        """Do one step, with its journal line before and its ``ok`` after it."""
        self._write_line([verb, path, *rest])
        self._do(verb, path, *rest)
        self._write_line("ok")
        with self.counted:
            self.count += 1
            self.counted.notify()

    def _write_line(self, record: object) -> None:
        os.write(self.journal, json.dumps(record).encode() + b"\n")

    def _do(self, verb: str, path: str, *rest: str | int) -> None:
        match verb, *rest:
            case ["mkdir"]:
                os.mkdir(path)
            case ["rmdir"]:
                os.rmdir(path)
            case ["create"]:
                os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL))
            case ["write" | "held", int(offset), int(length), int(seed)]:
                fd = os.open(path, os.O_WRONLY)
                os.pwrite(fd, random.Random(seed).randbytes(length), offset)
                if verb == "held":
                    self.held[path] = fd
                else:
                    os.close(fd)
            case ["truncate", int(size)]:
                os.truncate(path, size)
            case ["rename", str(new_path)]:
                os.rename(path, new_path)
            case ["link", str(new_path)]:
                os.link(path, new_path)
            case ["unlink"]:
                os.unlink(path)
            case ["fsync"]:
                fd = self.held.pop(path, -1)
                fd = os.open(path, os.O_RDONLY) if fd < 0 else fd
                os.fsync(fd)
                os.close(fd)
            case _:
                raise AssertionError(f"unknown step {verb}")

    def run(self) -> None:
        """Work until an operation fails; the journal's last line then holds its errno."""
        try:
            for number in range(len(self.directories), DIRECTORIES):
                self.step("mkdir", f"d{number}")
                self.directories.append(f"d{number}")
            for action in self._choose():
                action()
        except OSError as error:
            self._write_line(["failed", error.errno, os.strerror(error.errno or 0)])

    def _choose(self) -> Iterator[Callable[[], None]]:
        weights: dict[Callable[[], None], int] = {
            self.add: 6,
            self.save: 5,
            self.patch: 4,
            self.cut: 2,
            self.move: 3,
            self.link: 2,
            self.delete: 3,
            self.add_directory: 1,
        }
        while True:
            action = self.rng.choices([*weights], [*weights.values()])[0]
            if len(self.files) > self.most_files:
                action = self.delete
            elif len(self.files) < 10:
                action = self.add
            yield action

    def _length(self) -> int:
        return self.rng.choice([0, 1, 700, 700, 4096, 9000, 9000, 9000, 70_000, 700_000])

    def _seed(self) -> int:
        return self.rng.getrandbits(40)

    def _new_name(self) -> str:
        return f"{self.rng.choice(self.directories)}/f{self._seed():x}"

    def _write(self, path: str, offset: int, sync: bool) -> None:
        length = self._length()
        if length:
            self.step("held" if sync else "write", path, offset, length, self._seed())
        if sync:
            self.step("fsync", path)

    def add(self) -> None:
        """A new file; some are synced."""
        path = self._new_name()
        self.step("create", path)
        self._write(path, 0, sync=self.rng.random() < 0.2)
        self.files.append(path)

    def save(self) -> None:
        """Save as editors do: a temporary file, fsync, rename over the old one."""
        path = self.rng.choice([*self.files, self._new_name()])
        # Its own name each time: a killed round may have left an earlier one behind.
        temporary = self._new_name() + ".tmp"
        self.step("create", temporary)
        self._write(temporary, 0, sync=self.rng.random() < 0.5)
        self.step("rename", temporary, path)
        if path not in self.files:
            self.files.append(path)
        if self.rng.random() < 0.2:
            self.step("fsync", os.path.dirname(path))

    def patch(self) -> None:
        """Write into a file that is there, or behind its end."""
        self._write(
            self.rng.choice(self.files),
            self.rng.choice([0, 10, 4096, 5000, 30_000]),
            sync=self.rng.random() < 0.2,
        )

    def cut(self) -> None:
        """Truncate to something shorter or longer."""
        self.step("truncate", self.rng.choice(self.files), self._length())

    def move(self) -> None:
        """Rename to a new name or over another file."""
        old = self.rng.choice(self.files)
        new = self.rng.choice([*self.files, *(self._new_name() for _ in self.files)])
        # rename(2) of two names of one file does nothing; the model need not know that.
        if not self._is_same(old, new):
            self.step("rename", old, new)
            self.files = [path for path in self.files if path not in (old, new)] + [new]

    def _is_same(self, old: str, new: str) -> bool:
        return os.path.lexists(new) and os.path.samefile(old, new)

    def link(self) -> None:
        """Give a file a second name."""
        new = self._new_name()
        self.step("link", self.rng.choice(self.files), new)
        self.files.append(new)

    def delete(self) -> None:
        """Delete a file."""
        path = self.files.pop(self.rng.randrange(len(self.files)))
        self.step("unlink", path)

    def add_directory(self) -> None:
        """A directory of ten files, made durable by one fsync; half of them deleted again."""
        path = f"batch{self._seed():x}"
        self.step("mkdir", path)
        names = [f"{path}/{number}" for number in range(10)]
        for name in names:
            self.step("create", name)
            self.step("write", name, 0, 2000, self._seed())
        self.step("fsync", path)
        if self.rng.random() < 0.7:
            for name in names:
                self.step("unlink", name)
            self.step("rmdir", path)
            if self.rng.random() < 0.5:
                self.step("fsync", self.directories[0])
        else:
            self.files += names


def commit_now_and_then(load: Load, path: str, journal: str) -> None:
    """Fsync one file after every few steps of the load, until that fails.

    Its journal: ``begin N COUNT`` before it writes the number N into the file, ``ok N COUNT``
    after the fsync; COUNT steps of the load had ended at the first of the two.
    """
    rng = random.Random(load.rng.random())
    lines = os.open(journal, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    number = 0
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT)
        while True:
            number += 1
            _wait_for_steps(load, load.count + rng.randrange(1, 40))
            record = b"%d %d\n" % (number, load.count)
            os.write(lines, b"begin " + record)
            os.pwrite(fd, b"%020d" % number, 0)
            os.fsync(fd)
            os.write(lines, b"ok " + record)
    except OSError:
        return  # the load meets the same end and says why


def _wait_for_steps(load: Load, count: int) -> None:
    with load.counted:
        load.counted.wait_for(lambda: load.count >= count)


def main() -> None:
    """Run the load named by the arguments."""
    root, journal, seed, *committer = sys.argv[1:]
    load = Load(root, journal, int(seed))
    if committer:
        args = (load, *committer)
        threading.Thread(target=commit_now_and_then, args=args, daemon=True).start()
    load.run()


if __name__ == "__main__":
    main()
