"""What a writer does in its own directory: everything programs do, with every byte known.

The steps are those of the kill tests' load and a journal's, and more: mmap, O_SYNC, exchanges,
symlinks, extended attributes. After each step the writer's model of the tree is what the directory
must be; the steps since its last acknowledged sync, with their times, are what a crash may take.
"""

from __future__ import annotations

import errno
import mmap
import os
import random
import resource
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tests.crash import load
from tests.crash.journal import ARROW, SYNCS, Journal, Step, TreeModel, find_states, snapshot
from tests.mount.syscalls import RENAME_EXCHANGE, renameat2

NEVER = float("inf")

MOST_STEPS = 80
"""Without a sync of one's own: then comes one, so that what a crash may take stays short."""

Interval = tuple[float, float]
"""Two times of CLOCK_MONOTONIC, which all processes share."""


@dataclass
class Spent:
    """When steps began and ended: what took long is told, and nothing is told of a step twice."""

    slow_s: float
    slow: list[tuple[str, float, float]] = field(default_factory=list)
    steps: int = 0

    def note(self, what: str, begin: float, end: float) -> None:
        """Count a step; remember it if it took long."""
        self.steps += 1
        if end - begin > self.slow_s:
            self.slow.append((what, begin, end))


class Own(load.Load):
    """The directory it is in, and the steps it does to it."""

    most_files = 60

    def __init__(self, root: str, journal: str, seed: int, spent: Spent) -> None:
        super().__init__(root, journal, seed)
        self.root = root
        self.spent = spent
        self.synced_at = 0.0
        self.syncs = 0
        self.checks = 0
        self._adopt(snapshot(Path(root), xattrs=True))

    def _adopt(self, found: TreeModel) -> None:
        """Go on from the tree that was found."""
        self.model, self.durable = found, found.copy()
        self.history: list[Step] = []
        self.times: list[Interval] = []
        self.directories = sorted(found.directories)
        is_link = {
            name: found.contents[file].startswith(ARROW) for name, file in found.names.items()
        }
        self.files = sorted(name for name in is_link if not is_link[name])
        self.symlinks = sorted(name for name in is_link if is_link[name])

    # -- steps ------------------------------------------------------------------------------------

    def step(self, verb: str, path: str, *rest: str | int) -> None:
        """Do one step; note when it began and ended, and what is durable by it."""
        step: Step = [verb, path, *rest]
        self._write_line(step)
        begin = time.monotonic()
        self.history.append(step)
        self.times.append((begin, NEVER))
        self._do(verb, path, *rest)
        end = time.monotonic()
        self.times[-1] = (begin, end)
        self.spent.note(verb, begin, end)
        self._write_line("ok")
        self.model.apply(step)
        if verb in SYNCS:
            self.note_sync(begin)

    def note_sync(self, begin: float) -> None:
        """Everything up to *begin* is durable, and all of this directory with it."""
        self._write_line("acknowledged")
        self.syncs += 1
        self.synced_at = begin
        self.durable = self.model.copy()
        self.history, self.times = [], []

    def _do(self, verb: str, path: str, *rest: str | int) -> None:
        match verb, *rest:
            case ["osync", int(offset), int(length), int(seed)]:
                fd = os.open(path, os.O_WRONLY | os.O_SYNC)
                try:
                    os.pwrite(fd, random.Random(seed).randbytes(length), offset)
                finally:
                    os.close(fd)
            case ["mmap" | "msync", int(offset), int(length), int(seed)]:
                new = random.Random(seed).randbytes(length)
                in_a_child(lambda: write_mapped(path, offset, new, sync=verb == "msync"))
            case ["fdatasync"]:
                fd = os.open(path, os.O_RDONLY)
                try:
                    os.fdatasync(fd)
                finally:
                    os.close(fd)
            case ["exchange", str(other)]:
                renameat2(path, other, RENAME_EXCHANGE)
            case ["symlink", str(target)]:
                os.symlink(target, path)
            case ["setxattr", str(name), str(value)]:
                os.setxattr(path, name, value.encode())
            case ["removexattr", str(name)]:
                os.removexattr(path, name)
            case _:
                super()._do(verb, path, *rest)

    # -- what to do next --------------------------------------------------------------------------

    def _choose(self) -> Iterator[Callable[[], None]]:
        weights: dict[Callable[[], None], int] = {
            self.add: 6,
            self.save: 5,
            self.patch: 5,
            self.append: 4,
            self.map: 3,
            self.cut: 3,
            self.move: 3,
            self.exchange: 2,
            self.link: 2,
            self.delete: 3,
            self.delete_open: 2,
            self.point: 2,
            self.mark: 4,
            self.add_directory: 1,
            self.read_back: 8,
            self.look_at_names: 3,
        }
        while True:
            action = self.rng.choices([*weights], [*weights.values()])[0]
            if len(self.directories) < load.DIRECTORIES:
                action = self.add_plain_directory
            elif len(self.history) > MOST_STEPS:
                action = self.sync
            elif len(self.files) > self.most_files:
                action = self.delete
            elif len(self.files) < 10:
                action = self.add
            yield action

    def act(self) -> None:
        """Do something: a few steps."""
        next(self._choose())()

    def _length(self) -> int:
        return self.rng.choice([0, 1, 700, 4096, 9000, 9000, 9000, 70_000] * 5 + [700_000])

    def add_plain_directory(self) -> None:
        """One more of the directories that stay."""
        path = f"d{self._seed():x}"
        self.step("mkdir", path)
        self.directories.append(path)

    def sync(self) -> None:
        """Make all durable by any file or directory."""
        path = self.rng.choice([*self.files, *self.directories])
        self.step(self.rng.choice(["fsync", "fdatasync"]), path)

    def add_directory(self) -> None:
        """As the load does it; and those go that are empty by now."""
        super().add_directory()
        used = {os.path.dirname(path) for path in self.model.names}
        for path in sorted(self.model.directories - used):
            if path.startswith("batch"):
                self.step("rmdir", path)
                if path in self.directories:
                    self.directories.remove(path)

    def append(self) -> None:
        """Write at the end, now and then with O_SYNC."""
        path = self.rng.choice(self.files)
        size = len(self.content(path))
        if size > 2_000_000:
            return self.step("truncate", path, 0)
        length = self._length()
        if length:
            verb = "osync" if self.rng.random() < 0.2 else "write"
            self.step(verb, path, size, length, self._seed())
        return None

    def map(self) -> None:
        """Write through a shared mapping, and have msync make it durable or not."""
        path = self.rng.choice(self.files)
        size = len(self.content(path))
        if size:
            offset = self.rng.randrange(size)
            length = self.rng.randint(1, min(size - offset, 20_000))
            verb = "msync" if self.rng.random() < 0.3 else "mmap"
            self.step(verb, path, offset, length, self._seed())

    def exchange(self) -> None:
        """Two files change their names."""
        one, other = self.rng.sample(self.files, 2)
        self.step("exchange", one, other)

    def delete_open(self) -> None:
        """Delete a file and go on using it."""
        path = self.rng.choice(self.files)
        old = self.content(path)
        links = list(self.model.names.values()).count(self.model.names[path])
        fd = os.open(path, os.O_RDWR)
        try:
            self.step("unlink", path)
            self.files.remove(path)
            assert os.fstat(fd).st_nlink == links - 1, f"links of {path}"
            assert read_all(fd) == old, f"{path}, deleted and open"
            if links == 1:
                new = self.rng.randbytes(3000)
                os.pwrite(fd, new, 1000)
                wanted = old[:1000].ljust(1000, b"\0") + new + old[4000:]
                assert read_all(fd) == wanted, f"{path}, deleted, open and written"
        finally:
            os.close(fd)

    def point(self) -> None:
        """Make a symlink, or delete one."""
        if len(self.symlinks) > 8:
            path = self.symlinks.pop(self.rng.randrange(len(self.symlinks)))
            return self.step("unlink", path)
        path = self._new_name()
        self.step("symlink", path, f"../{self.rng.choice(self.files)}")
        self.symlinks.append(path)
        return None

    def mark(self) -> None:
        """Set or remove an extended attribute, and look at those of a file."""
        path = self.rng.choice(self.files)
        name = f"user.n{self.rng.randrange(4)}"
        there = self.model.xattrs.get(self.model.names[path]) or {}
        if name in there and self.rng.random() < 0.4:
            self.step("removexattr", path, name)
        else:
            self.step("setxattr", path, name, "x" * self.rng.randrange(1, 300))
        there = self.model.xattrs.get(self.model.names[path]) or {}
        assert {name: os.getxattr(path, name) for name in os.listxattr(path)} == there, path

    def read_back(self) -> None:
        """Compare a file, or a symlink, with what it must be."""
        self.checks += 1
        if self.symlinks and self.rng.random() < 0.2:
            path = self.rng.choice(self.symlinks)
            assert ARROW + os.fsencode(os.readlink(path)) == self.content(path), path
            return
        path = self.rng.choice(self.files)
        begin = time.monotonic()
        fd = os.open(path, os.O_RDONLY)
        try:
            found, status = read_all(fd), os.fstat(fd)
        finally:
            os.close(fd)
        self.spent.note("read", begin, time.monotonic())
        assert found == self.content(path), f"{path} is not what was written"
        assert status.st_size == len(found), f"size of {path}"
        links = list(self.model.names.values()).count(self.model.names[path])
        assert status.st_nlink == links, f"links of {path}"

    def look_at_names(self) -> None:
        """Compare a directory with the names it must have."""
        self.checks += 1
        directory = self.rng.choice(self.directories)
        begin = time.monotonic()
        found = sorted(os.listdir(directory))
        self.spent.note("readdir", begin, time.monotonic())
        prefix = directory + "/"
        wanted = sorted(
            name.removeprefix(prefix)
            for name in [*self.model.names, *self.model.directories]
            if name.startswith(prefix)
        )
        assert found == wanted, f"names in {directory}"

    def content(self, path: str) -> bytes:
        """Return the bytes *path* must have."""
        return self.model.contents[self.model.names[path]]

    # -- after the daemon was gone ----------------------------------------------------------------

    def let_go(self) -> None:
        """Close what is open on the dead mount."""
        for fd in self.held.values():
            try:
                os.close(fd)
            except OSError:
                pass
        self.held.clear()

    def find(self, *, clean: bool) -> list[Interval]:
        """Return when the version that is there now can have been cut.

        Args:
            clean: the daemon was asked to end: every step that ended is in.

        Raises: AssertionError if the tree is none that there was since the last sync.
        """
        os.chdir(self.root)
        found = snapshot(Path(self.root), xattrs=True)
        done = sum(end < NEVER for _, end in self.times)
        fitting = find_states(
            self.durable,
            Journal(self.history, done),
            found,
            at_fsyncs_only=False,
            acknowledged=done if clean else 0,
        )
        intervals = [self._when(number) for number in fitting]
        self._adopt(found)
        self._write_line(["found", fitting])
        return intervals

    def _when(self, number: int) -> Interval:
        """Return when the tree was as after *number* steps, as far as the daemon knew."""
        begin = self.times[number - 1][0] if number else self.synced_at
        upcoming = number
        if upcoming < len(self.history) and self.history[upcoming][0] == "held":
            upcoming += 1  # its bytes may come only with the sync
        return begin, self.times[upcoming][1] if upcoming < len(self.times) else NEVER

    def assert_exact(self) -> None:
        """Compare the whole directory with what it must be."""
        differing = self.model.differences(snapshot(Path(self.root), xattrs=True))
        assert not differing, f"differ: {sorted(differing)}"


def read_all(fd: int) -> bytes:
    """Return what a file holds, from its beginning."""
    pieces: list[bytes] = []
    while piece := os.pread(fd, 1 << 20, sum(map(len, pieces))):
        pieces.append(piece)
    return b"".join(pieces)


def write_mapped(path: str, offset: int, new: bytes, *, sync: bool) -> None:
    """Write into a file that is long enough, through its pages."""
    fd = os.open(path, os.O_RDWR)
    # Its own look at the size would take a failure for 0.
    with mmap.mmap(fd, os.fstat(fd).st_size) as pages:
        pages[offset : offset + len(new)] = new
        if sync:
            pages.flush()
    os.close(fd)


def in_a_child(work: Callable[[], None]) -> None:
    """Do *work* in a process of its own, which a page that can't be had kills (SIGBUS).

    Raises: OSError as *work* does; EIO if the process was killed by that.
    """
    child = os.fork()
    if not child:
        try:
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            work()
        except OSError as error:
            os._exit(error.errno or 255)
        except BaseException:
            os._exit(255)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        assert os.WTERMSIG(status) == signal.SIGBUS, f"killed by signal {os.WTERMSIG(status)}"
        raise OSError(errno.EIO, "SIGBUS at a mapped page")
    code = os.waitstatus_to_exitcode(status)
    assert code != 255, "what is done in a child failed"
    if code:
        raise OSError(code, os.strerror(code))
