"""What all writers do with the same files, with an outcome that can be told afterwards.

- ``log``: records appended by all: none lost, none torn, none twice;
- ``counters/``: counted up under flock, in place and by rename: no count lost;
- ``current``: replaced by whole generations with rename: whoever reads sees one, whole; ``kept/``
  has links to some;
- ``tokens/``: files that all move about: each is at one place, always;
- ``slots/``: made with O_EXCL: each has one winner;
- ``busy/``: names come and go beside names that stay: a listing has those once each.

What a writer did is a record: what, when it began, when it had ended (None: the daemon died), and
whether it was synced itself.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import random
import time
from typing import Any

from tests.load.own import Spent, read_all

RECORD_BYTES = 64
MOST_LOG_BYTES = 4 << 20
MOST_SLOTS = 1500
MOST_KEPT = 4
TOKENS = 48
PLACES = 4
STAYING = 200
COUNTERS = ("in-place", "renamed")

Record = dict[str, Any]
"""``what``, ``begin``, ``end``, ``writer``, and what that kind says besides."""


def log_record(writer: int, number: int) -> bytes:
    """Return a record of the log."""
    text = b"%06d %012d " % (writer, number)
    return text + hashlib.sha256(text).hexdigest()[: RECORD_BYTES - len(text) - 1].encode() + b"\n"


def generation(writer: int, number: int) -> bytes:
    """Return the whole content of one generation."""
    body = random.Random(f"{writer} {number}").randbytes(random.Random(number).randrange(20_000))
    return b"%06d %012d %s\n" % (writer, number, hashlib.sha256(body).hexdigest().encode()) + body


def generation_of(content: bytes) -> tuple[int, int]:
    """Return whose generation this is; fail unless all of it is there."""
    writer, number, _ = content.split(b"\n", 1)[0].split()
    assert content == generation(int(writer), int(number)), "a generation is not whole"
    return int(writer), int(number)


def token(number: int) -> bytes:
    """Return what a token holds."""
    return b"token %d " % number * 500


def prepare(top: str) -> None:
    """Make what the writers share, below an empty directory."""
    for name in ("counters", "kept", "tokens", "slots", "busy"):
        os.mkdir(f"{top}/{name}")
    for place in range(PLACES):
        os.mkdir(f"{top}/tokens/{place}")
    contents = {"log": b"", "lock": b"", "current": generation(-1, 0)}
    contents |= {f"counters/{name}": b"%020d\n" % 0 for name in COUNTERS}
    contents |= {f"tokens/{number % PLACES}/{number}.0": token(number) for number in range(TOKENS)}
    contents |= {f"busy/stays{number}": b"" for number in range(STAYING)}
    for name, content in contents.items():
        with open(f"{top}/{name}", "wb") as file:
            file.write(content)
    fd = os.open(top, os.O_RDONLY)
    os.fsync(fd)
    os.close(fd)


class Shared:
    """One writer's part in it. *top* may be relative: within the mount that may die."""

    def __init__(self, writer: int, rng: random.Random, spent: Spent) -> None:
        self.writer = writer
        self.rng = rng
        self.spent = spent
        self.top = ""
        self.number = 0
        self.slot = 0
        self.kept: list[str] = []
        self.records: list[Record] = []
        self.synced_at = 0.0
        self.syncs = 0

    def begin_in(self, top: str) -> None:
        """Work below *top* from here on, where nobody has done anything yet."""
        self.top = top
        self.slot = 0
        self.kept = []
        self.records = []

    def act(self) -> None:
        """Do one of these things."""
        weights = {
            self.append: 5,
            self.count: 4,
            self.replace: 3,
            self.look: 4,
            self.keep: 1,
            self.move: 5,
            self.take_slot: 2,
            self.come_and_go: 3,
        }
        self.number += 1
        self.rng.choices([*weights], [*weights.values()])[0]()

    def _begin(self, what: str, **more: Any) -> Record:
        record = {"what": what, "begin": time.monotonic(), "end": None, "writer": self.writer}
        self.records.append(record | more)
        return self.records[-1]

    def _end(self, record: Record) -> None:
        record["end"] = time.monotonic()
        self.spent.note(f"shared {record['what']}", record["begin"], record["end"])

    def _sync(self, fd: int, record: Record | None = None) -> None:
        begin = time.monotonic()
        os.fsync(fd)
        self.spent.note("shared fsync", begin, time.monotonic())
        self.synced_at = begin
        self.syncs += 1
        if record is not None:
            record["durable"] = True

    def append(self) -> None:
        """A record at the end of the log."""
        fd = os.open(f"{self.top}/log", os.O_WRONLY | os.O_APPEND)
        sync = self.rng.random() < 0.2
        try:
            if os.fstat(fd).st_size > MOST_LOG_BYTES:
                return
            record = self._begin("log", number=self.number)
            os.write(fd, log_record(self.writer, self.number))
            if sync:
                self._sync(fd, record)
        finally:
            os.close(fd)
        self._end(record)

    def count(self) -> None:
        """One more, under a lock that only one of us gets."""
        name = self.rng.choice(COUNTERS)
        path = f"{self.top}/counters/{name}"
        lock = os.open(f"{self.top}/lock", os.O_RDWR)
        try:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return
            fd = os.open(path, os.O_RDWR)
            try:
                value = int(os.pread(fd, 100, 0)) + 1
                record = self._begin(name, value=value)
                if name == "in-place":
                    os.pwrite(fd, b"%020d\n" % value, 0)
                    if value % 4 == 0:
                        self._sync(fd, record)
            finally:
                os.close(fd)
            if name == "renamed":
                self._write(f"{path}.new", b"%020d\n" % value, sync=value % 4 == 0)
                os.rename(f"{path}.new", path)
            self._end(record)
        finally:
            os.close(lock)

    def _write(self, path: str, content: bytes, *, sync: bool) -> None:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        try:
            os.write(fd, content)
            if sync:
                self._sync(fd)
        finally:
            os.close(fd)

    def replace(self) -> None:
        """A new generation over the one that is there."""
        temporary = f"{self.top}/.current.{self.writer}"
        content = generation(self.writer, self.number)
        self._write(temporary, content, sync=self.rng.random() < 0.3)
        record = self._begin("current", number=self.number)
        os.rename(temporary, f"{self.top}/current")
        self._end(record)

    def look(self) -> None:
        """Whatever generation is there, it is whole."""
        begin = time.monotonic()
        fd = os.open(f"{self.top}/current", os.O_RDONLY)
        try:
            generation_of(read_all(fd))
        finally:
            os.close(fd)
        self.spent.note("shared read", begin, time.monotonic())

    def keep(self) -> None:
        """Link the generation that is there, so that it stays."""
        if len(self.kept) >= MOST_KEPT:
            return os.unlink(self.kept.pop(0))
        path = f"{self.top}/kept/{self.writer}.{self.number}"
        try:
            os.link(f"{self.top}/current", path)
        except FileNotFoundError:
            # Replaced between being found and being linked: so says vfs_link() in fs/namei.c.
            return None
        self.kept.append(path)
        return None

    def move(self) -> None:
        """Take a token to another place, or to a new name; somebody else may be faster."""
        place = f"tokens/{self.rng.randrange(PLACES)}"
        there = os.listdir(f"{self.top}/{place}")
        if not there:
            return
        name = self.rng.choice(there)
        number = int(name.split(".")[0])
        old = f"{place}/{name}"
        new = f"tokens/{self.rng.randrange(PLACES)}/{number}.{self.writer}.{self.number}"
        record = self._begin("move", token=number, old=old, new=new)
        try:
            os.rename(f"{self.top}/{old}", f"{self.top}/{new}")
        except FileNotFoundError:
            self.records.pop()
            return
        self._end(record)

    def take_slot(self) -> None:
        """Make the next file that nobody has made."""
        while self.slot < MOST_SLOTS:
            self.slot += 1
            record = self._begin("slot", number=self.slot)
            try:
                flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
                fd = os.open(f"{self.top}/slots/{self.slot}", flags, 0o644)
            except FileExistsError:
                self.records.pop()
                continue
            try:
                os.write(fd, b"%d" % self.writer)
            finally:
                os.close(fd)
            self._end(record)
            return

    def come_and_go(self) -> None:
        """A name that comes, a listing that has all that stay once each, a name that goes."""
        busy = f"{self.top}/busy"
        mine = f"{busy}/{self.writer}.{self.number}"
        self._write(mine, b"here", sync=False)
        begin = time.monotonic()
        found = os.listdir(busy)
        self.spent.note("shared readdir", begin, time.monotonic())
        os.unlink(mine)
        check_listing(found)
        assert f"{self.writer}.{self.number}" in found, "what I made is not listed"


def check_listing(found: list[str]) -> None:
    """Fail unless every name that stays is listed, and none twice."""
    twice = len(found) - len(set(found))
    assert not twice, f"{twice} names are listed twice: {sorted(found)}"
    missing = {f"stays{number}" for number in range(STAYING)} - set(found)
    assert not missing, f"not listed: {sorted(missing)}"
