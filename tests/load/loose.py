"""A file that is written for long through one descriptor, and synced now and then.

Its bytes are the kernel's until it is synced or closed, and the kernel hands them over page by
page, when it likes. So after a crash each page is as it was after some write since the last sync.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable

from tests.crash.journal import PAGE_BYTES
from tests.load.own import read_all

MOST_BYTES = 60_000
MOST_STATES = 50


class LooseFile:
    """The file, open or not, and what it held after each write since it was durable."""

    def __init__(self, path: str, rng: random.Random, synced: Callable[[float], None]) -> None:
        self.path = path
        self.rng = rng
        self.fd = -1
        self._synced = synced
        self.states: list[tuple[float, bytes]] = [(0.0, b"")]
        self.is_durable = False

    @property
    def now(self) -> bytes:
        """What it holds."""
        return self.states[-1][1]

    def act(self) -> None:
        """Open it; or write, cut, read, sync or close it."""
        if self.fd < 0:
            self.fd = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644)
        elif len(self.states) > MOST_STATES:
            self.sync()
        else:
            weights = {self.write: 8, self.append: 4, self.cut: 2, self.read: 4, self.sync: 2}
            self.rng.choices([*weights, self.close], [*weights.values(), 1])[0]()

    def write(self) -> None:
        """Write somewhere, perhaps beyond the end."""
        offset, new = self.rng.randrange(MOST_BYTES), self.rng.randbytes(self.rng.randrange(9000))
        if new:
            now = self.now.ljust(offset, b"\0")
            self._add(now[:offset] + new + now[offset + len(new) :])
            os.pwrite(self.fd, new, offset)
            self._ended()

    def append(self) -> None:
        """Write at the end."""
        new = self.rng.randbytes(self.rng.randrange(1, 500))
        offset = len(self.now)
        self._add(self.now + new)
        os.pwrite(self.fd, new, offset)
        self._ended()

    def cut(self) -> None:
        """Make it shorter or longer."""
        size = self.rng.randrange(MOST_BYTES)
        self._add(self.now[:size].ljust(size, b"\0"))
        os.ftruncate(self.fd, size)
        self._ended()

    def _add(self, content: bytes) -> None:
        self.states.append((float("inf"), content))

    def _ended(self) -> None:
        self.states[-1] = (time.monotonic(), self.now)

    def read(self) -> None:
        """Compare it with what it must be."""
        assert read_all(self.fd) == self.now, f"{self.path} is not what was written"

    def sync(self) -> None:
        """Make it durable."""
        begin = time.monotonic()
        self.rng.choice([os.fsync, os.fdatasync])(self.fd)
        self.states = self.states[-1:]
        self.is_durable = True
        self._synced(begin)

    def close(self) -> None:
        """Close it: it is all the daemon's then, and durable with the next sync of anything."""
        os.close(self.fd)
        self.fd = -1

    def note_sync(self) -> None:
        """Something else was synced: what is not open is durable."""
        if self.fd < 0:
            self.states = self.states[-1:]
            self.is_durable = os.path.exists(self.path)

    def find(self, since: float | None) -> None:
        """Compare what there is after a crash; go on from it.

        Args:
            since: the daemon was asked to end at this time, and brought down what was written by
                then; None after a crash.
        """
        if since is not None:
            whole = self.fd < 0
            ended = [at for at, (end, _) in enumerate(self.states) if end <= since]
            self.states = self.states[-1:] if whole else self.states[ended[-1] if ended else 0 :]
        self.let_go()
        try:
            fd = os.open(self.path, os.O_RDONLY)
        except FileNotFoundError:
            assert not self.is_durable, f"{self.path} is gone"
            found = b""
        else:
            found = read_all(fd)
            os.close(fd)
        check(found, [content for _, content in self.states], self.path)
        self.states = [(0.0, found)]

    def let_go(self) -> None:
        """Close it, on a mount that may be dead."""
        if self.fd >= 0:
            try:
                os.close(self.fd)
            except OSError:
                pass
            self.fd = -1


def check(found: bytes, states: list[bytes], path: str) -> None:
    """Fail unless each page of *found* is as it was in one of *states*.

    A page that was being written while it was sent can be of two: then each byte is as in one.
    """
    sizes = [len(state) for state in states]
    assert min(sizes) <= len(found) <= max(sizes), f"{path}: {len(found)} bytes, not of {sizes}"
    for at in range(0, len(found), PAGE_BYTES):
        page = found[at : at + PAGE_BYTES]
        candidates = {state[at : at + len(page)].ljust(len(page), b"\0") for state in states}
        if page not in candidates:
            columns = zip(*candidates, strict=True)
            wrong = [i for i, those in enumerate(columns) if page[i] not in those]
            assert not wrong, f"{path}: {len(wrong)} bytes of page {at} were never so"
