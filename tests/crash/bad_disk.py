"""A disk that fails on request: which operation, on which file, how often, with which errno.

``bad_disk.c`` is preloaded into the processes under test and sits where a disk's errors come from,
below every library; this is the test's side of it. Errors reach the process as they would from a
filesystem, and a failed fsync loses what it was to keep.
"""

from __future__ import annotations

import mmap
import re
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.mount.harness import require, run

_LAYOUT = struct.Struct("=1024s512s256sQQQQii")  # `struct control`
_COUNTS = struct.Struct("=QQ")
_COUNTS_AT = 1024 + 512 + 256 + 16
_ERROR_AT = _COUNTS_AT + 16

EVER = (1 << 64) - 1

# What differs between two runs of the same: names made of random digits, version numbers.
_RANDOM = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}|(?<=/)tmp\w{8}|\d+")


@dataclass(frozen=True, order=True)
class Step:
    """A kind of operation on a kind of file: ``fsync *.parquet``.

    Attributes:
        kind: open, create, read, write, fsync, link, rename, unlink, truncate, mkdir, list, stat,
            statvfs or mmap.
        pattern: the path below the store, as fnmatch has it.
    """

    kind: str
    pattern: str

    def __str__(self) -> str:
        return f"{self.kind} {self.pattern}"

    @property
    def writes(self) -> bool:
        """Whether a disk that is full or read-only refuses it."""
        return self.kind in {"create", "write", "fsync", "link", "rename", "truncate", "mkdir"}


class BadDisk:
    """What is below *root*, for the processes that have `environment`."""

    def __init__(self, place: Path, root: Path) -> None:
        place.mkdir(parents=True, exist_ok=True)
        self._library = place / "bad_disk.so"
        self._control = place / "control"
        self._trace = place / "control.trace"
        source = Path(__file__).with_suffix(".c")
        run([require("gcc"), "-shared", "-fPIC", "-O1", "-o", self._library, source, "-ldl"])
        self._control.write_bytes(bytes(_LAYOUT.size))
        with self._control.open("r+b") as file:
            self._page = mmap.mmap(file.fileno(), _LAYOUT.size)
        self.turn_to(root)

    @property
    def environment(self) -> dict[str, str]:
        """What a process needs to be on this disk."""
        return {"LD_PRELOAD": str(self._library), "BAD_DISK": str(self._control)}

    def turn_to(self, root: Path) -> None:
        """Have *root* be what is on the disk; nothing fails there."""
        self._root = bytes(root)
        self.mend()

    def mend(self) -> None:
        """Have nothing fail any more."""
        self._page[_ERROR_AT : _ERROR_AT + 4] = bytes(4)

    @contextmanager
    def failing(
        self, step: Step, number: int, *, first: int = 1, last: int = EVER
    ) -> Iterator[None]:
        """Have a step fail with the errno *number*, from its *first* time in here to its *last*."""
        self._set(step, number, first, last, traces=False)
        try:
            yield
        finally:
            self.mend()

    @contextmanager
    def tracing(self) -> Iterator[list[Step]]:
        """Have the steps taken in here written into the list, in order, at the end."""
        self._trace.write_bytes(b"")
        self._set(Step("", ""), 0, 0, 0, traces=True)
        steps: list[Step] = []
        try:
            yield steps
        finally:
            self._set(Step("", ""), 0, 0, 0, traces=False)
            for line in self._trace.read_text(errors="surrogateescape").splitlines():
                kind, _, path = line.partition(" ")
                steps.append(Step(kind, _RANDOM.sub("*", path)))

    @property
    def seen(self) -> int:
        """How often the step that fails was taken."""
        return int(_COUNTS.unpack_from(self._page, _COUNTS_AT)[0])

    @property
    def failed(self) -> int:
        """How often it failed."""
        return int(_COUNTS.unpack_from(self._page, _COUNTS_AT)[1])

    def _set(self, step: Step, number: int, first: int, last: int, *, traces: bool) -> None:
        self.mend()
        pattern, kinds = step.pattern.encode(), f" {step.kind} ".encode()
        data = _LAYOUT.pack(self._root, pattern, kinds, first, last, 0, 0, 0, traces)
        self._page[:] = data
        # Last: whoever looks meanwhile shall not see half of it.
        self._page[_ERROR_AT : _ERROR_AT + 4] = number.to_bytes(4, "little")
