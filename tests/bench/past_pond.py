"""The pond whose past is looked at: many files, many versions of a few changes each.

It is made through the mount, as anybody would, with an fsync for each version. What the tree held
in the middle version is remembered, so that a filesystem that shows another past is noticed.
"""

from __future__ import annotations

import json
import os
import random
from dataclasses import dataclass, field
from pathlib import Path

from tests.bench.targets import Pond

FILE_BYTES = 1024
_BYTES = random.Random(30).randbytes(1 << 20)
_NO_TIMER = "commit=3600"  # every version is one of ours


@dataclass(frozen=True, slots=True)
class Size:
    """How much is made."""

    files: int
    versions: int

    @classmethod
    def at(cls, scale: float) -> Size:
        """Return the full size, or below scale 1 a fifth of the files and half the versions.

        ``--quick`` so gets 2,000 files and 50 versions: the full size takes a minute.
        """
        if scale >= 1:
            return cls(round(100_000 * scale), round(1000 * scale))
        return cls(max(200, round(20_000 * scale)), max(20, round(500 * scale)))

    @property
    def directories(self) -> int:
        return max(10, self.files // 500)


@dataclass(slots=True)
class PastPond:
    """A pond, and what is known of it.

    Attributes:
        files: path below the root → where in the bytes its content begins, now.
        base: the version that made the tree; the last is ``base + size.versions``.
        middle: the files in version `middle_version`.
        hot: a file that was changed in every tenth version.
    """

    pond: Pond
    size: Size
    files: dict[str, int] = field(default_factory=dict)
    base: int = 0
    middle: dict[str, int] = field(default_factory=dict)
    hot: str = ""
    _names: list[str] = field(default_factory=list)
    _dice: random.Random = field(default_factory=lambda: random.Random(31))
    _made: int = 0

    @property
    def middle_version(self) -> int:
        return self.base + self.size.versions // 2

    def spread(self, count: int) -> list[int]:
        """Return *count* versions all over the history, none twice, neither first nor last."""
        step = self.size.versions / (count + 1)
        return [self.base + round(step * (number + 1)) for number in range(count)]

    def build(self) -> None:
        """Make it. The pond is mounted before and after, everything durable."""
        self.pond.unmount()
        self.pond.options = (_NO_TIMER,)
        self.pond.mount()
        for number in range(self.size.directories):
            os.mkdir(self.pond.root / self.directory(number))
        for number in range(self.size.files):
            self._create(number % self.size.directories)
        self.pond.settle()
        self.base = self.newest()
        self.hot = self._names.pop()  # so that nothing else renames or removes it
        for number in range(1, self.size.versions + 1):
            self._change(number)
            if number == self.size.versions // 2:
                self.middle = dict(self.files)
        newest = self.newest()
        assert newest == self.base + self.size.versions, (self.base, newest)
        self.pond.unmount()
        self.pond.options = ()
        self.pond.mount()

    def newest(self) -> int:
        version: int = json.loads(self.pond.pond("log", "-n", "1", "--json"))[0]["version"]
        return version

    def directory(self, number: int) -> str:
        return f"dir{number:03}"

    def in_directory(self, files: dict[str, int], number: int) -> list[str]:
        """Return the paths of *files* that are in that directory."""
        start = self.directory(number) + "/"
        return [path for path in files if path.startswith(start)]

    def content(self, files: dict[str, int], path: str) -> bytes:
        """Return what *path* holds in the state *files*."""
        begin = files[path]
        return _BYTES[begin : begin + FILE_BYTES]

    def write(self, path: str) -> None:
        """Give *path*, which may be new, another content."""
        begin = self._dice.randrange(len(_BYTES) - FILE_BYTES)
        fd = os.open(self.pond.root / path, os.O_WRONLY | os.O_CREAT, 0o644)
        os.write(fd, _BYTES[begin : begin + FILE_BYTES])
        os.close(fd)
        self.files[path] = begin

    def commit(self) -> None:
        """Make everything pending a version. Contents are with the daemon since the close."""
        fd = os.open(self.pond.root, os.O_RDONLY | os.O_DIRECTORY)
        os.fsync(fd)
        os.close(fd)

    def _create(self, directory: int) -> None:
        path = f"{self.directory(directory)}/file{self._made:06}"
        self._made += 1
        self.write(path)
        self._names.append(path)

    def _move(self, path: str, new: str) -> None:
        os.rename(self.pond.root / path, self.pond.root / new)
        self.files[new] = self.files.pop(path)
        self._names.append(new)

    def _change(self, number: int) -> None:
        """Make one version: three files edited, one new, one gone, one in another directory."""
        edited = [self.hot] if number % 10 == 0 else []
        edited += self._dice.sample(self._names, 3 - len(edited))
        for path in edited:
            self.write(path)
        self._create(self._dice.randrange(self.size.directories))
        gone = self._take()
        os.unlink(self.pond.root / gone)
        del self.files[gone]
        target = self.directory(self._dice.randrange(self.size.directories))
        self._move(self._take(), f"{target}/moved{number:04}")
        self.commit()

    def _take(self) -> str:
        """Take a file out of those to choose from."""
        place = self._dice.randrange(len(self._names))
        self._names[place], self._names[-1] = self._names[-1], self._names[place]
        return self._names.pop()


def root_of(pond: Pond, version: int) -> Path:
    """Return the root of an old tree."""
    return pond.root / ".pond" / "at" / f"v{version}"
