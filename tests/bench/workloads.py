"""What is timed: a function for each workload, giving the figures of one or a few rows.

Every function gets an empty directory of one target and returns row name → figure, in the unit
`bars.ROWS` states. Preparation is not timed. Sizes are full at scale 1.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from statistics import median, quantiles
from typing import ParamSpec

from tests.bench.targets import Target, drop_caches

Figures = dict[str, float]
P = ParamSpec("P")

KIB = 1024
MIB = 1024 * 1024
_SMALL = random.Random(4).randbytes(4 * KIB)
_PATTERN = random.Random(20).randbytes(MIB)


@dataclass(frozen=True, slots=True)
class Place:
    """One round of one workload: where, how much, and where source trees may be made."""

    target: Target
    directory: Path
    sources: Path
    scale: float = 1.0

    def count(self, full: int, least: int = 10) -> int:
        """Return *full* scaled, but enough to be worth anything."""
        return max(least, round(full * self.scale))

    def names(self, full: int, prefix: str = "f") -> list[str]:
        """Return that many paths in the directory. Their making is not part of what is timed."""
        return [f"{self.directory}/{prefix}{number:05}" for number in range(self.count(full))]


@dataclass(frozen=True, slots=True)
class Workload:
    """A function, the rows it fills, and how often one run repeats it."""

    run: Callable[[Place], Figures]
    rows: tuple[str, ...]
    rounds: int = 3


def seconds(work: Callable[P, object], *args: P.args, **kwargs: P.kwargs) -> float:
    """Return how long *work* takes."""
    started = time.perf_counter()
    work(*args, **kwargs)
    return time.perf_counter() - started


def rate(operation: Callable[[str], object], paths: Iterable[str]) -> float:
    """Return how many times a second *operation* gets done."""
    paths = list(paths)
    started = time.perf_counter()
    for path in paths:
        operation(path)
    return len(paths) / (time.perf_counter() - started)


def write_file(path: str) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
    os.write(fd, _SMALL)
    os.close(fd)


def read_file(path: str) -> None:
    fd = os.open(path, os.O_RDONLY)
    os.read(fd, len(_SMALL) + 1)
    os.close(fd)


def _is_absent(path: str) -> None:
    try:
        os.stat(path)
    except FileNotFoundError:
        return
    raise AssertionError(f"{path} is there")


def _written(paths: list[str]) -> list[str]:
    for path in paths:
        write_file(path)
    return paths


# -- names and attributes -----------------------------------------------------------------------


def create(place: Place) -> Figures:
    return {"create": rate(write_file, place.names(5000))}


def mkdir(place: Place) -> Figures:
    return {"mkdir": rate(os.mkdir, place.names(5000))}


def rename(place: Place) -> Figures:
    paths = _written(place.names(5000))
    return {"rename": rate(lambda path: os.rename(path, path + ".renamed"), paths)}


def unlink(place: Place) -> Figures:
    return {"unlink": rate(os.unlink, _written(place.names(5000)))}


def stat(place: Place) -> Figures:
    """The first stat after a write asks the daemon: with the writeback cache the kernel does not
    trust the block count it holds. The second is the kernel's own, by the long timeouts.
    """
    paths = _written(place.names(5000))
    return {"stat": rate(os.stat, paths), "stat_again": rate(os.stat, paths)}


def open_read(place: Place) -> Figures:
    paths = _written(place.names(5000))
    for path in paths:
        read_file(path)
    return {"open_read": rate(read_file, paths)}


def readdir(place: Place) -> Figures:
    paths = _written(place.names(5000))
    listings = 5
    taken_s = seconds(lambda: [os.listdir(place.directory) for _ in range(listings)])
    assert len(os.listdir(place.directory)) == len(paths)
    return {"readdir": listings * len(paths) / taken_s}


def negative_lookup(place: Place) -> Figures:
    _written(place.names(100))
    return {"negative_lookup": rate(_is_absent, place.names(5000, prefix="absent"))}


# -- content ------------------------------------------------------------------------------------


def small_write(place: Place) -> Figures:
    fd = os.open(place.directory / "log", os.O_WRONLY | os.O_CREAT)
    writes = place.count(100_000)
    line = _SMALL[:100]

    def write_all() -> None:
        for _ in range(writes):
            os.write(fd, line)

    try:
        return {"small_write": seconds(write_all) / writes * 1e6}
    finally:
        os.close(fd)


def sequential(place: Place) -> Figures:
    """One large file, written, then read cold, then read here and there cold.

    Cold: after a remount (where contents survive one) and dropped kernel caches; without root
    the caches stay, and the figures say less. Each MiB starts with its number, so that a
    filesystem that answers fast and wrong is noticed.
    """
    path = place.directory / "large"
    mebibytes = place.count(1024, least=2)
    view = memoryview(_PATTERN)[8:]

    def write_all() -> None:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
        for number in range(mebibytes):
            written = os.writev(fd, (number.to_bytes(8, "big"), view))
            assert written == MIB
        os.fsync(fd)
        os.close(fd)

    def read_all() -> None:
        buffer = bytearray(MIB)
        fd = os.open(path, os.O_RDONLY)
        for number in range(mebibytes):
            assert os.readv(fd, (buffer,)) == MIB
            assert int.from_bytes(buffer[:8], "big") == number
        os.close(fd)

    write_s = seconds(write_all)
    _cool(place)
    read_s = seconds(read_all)
    _cool(place)
    dice = random.Random(7)
    pages = dice.sample(range(mebibytes * 256), place.count(2000))
    fd = os.open(path, os.O_RDONLY)
    taken_ms = []
    for page in pages:
        offset = page * 4 * KIB
        started = time.perf_counter()
        got = os.pread(fd, 4 * KIB, offset)
        taken_ms.append((time.perf_counter() - started) * 1e3)
        inside = offset % MIB
        expected = _PATTERN[inside : inside + 4 * KIB]
        assert got[8:] == expected[8:]
    os.close(fd)
    return {
        "sequential_write": mebibytes * MIB / 1e6 / write_s,
        "sequential_read": mebibytes * MIB / 1e6 / read_s,
        "random_read": median(taken_ms),
    }


def _cool(place: Place) -> None:
    place.target.remount()
    drop_caches()


def random_write(place: Place) -> Figures:
    """Whole pages all over a 64 MiB file that is already durable."""
    mebibytes = place.count(64, least=2)
    fd = os.open(place.directory / "database", os.O_RDWR | os.O_CREAT)
    for _ in range(mebibytes):
        os.write(fd, _PATTERN)
    os.fsync(fd)
    writes = min(place.count(3000), mebibytes * 256)
    pages = random.Random(11).sample(range(mebibytes * 256), writes)

    def write_all() -> None:
        for page in pages:
            os.pwrite(fd, _SMALL, page * 4 * KIB)
        os.fsync(fd)

    try:
        return {"random_write": writes / seconds(write_all)}
    finally:
        os.close(fd)


def append_fsync(place: Place) -> Figures:
    appends = place.count(5000, least=20)
    fd = os.open(place.directory / "journal", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    taken_ms = []
    for _ in range(appends):
        started = time.perf_counter()
        os.write(fd, _SMALL)
        os.fsync(fd)
        taken_ms.append((time.perf_counter() - started) * 1e3)
    os.close(fd)
    window = min(100, appends // 2)
    return {
        "append_median": median(taken_ms),
        "append_p99": quantiles(taken_ms, n=100)[98],
        "append_drift": median(taken_ms[-window:]) / median(taken_ms[:window]),
    }
