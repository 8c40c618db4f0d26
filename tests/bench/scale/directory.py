"""One directory of a hundred thousand files."""

from __future__ import annotations

import os
import time
from pathlib import Path
from statistics import median

from tests.bench.scale.bench import Bench, Section
from tests.bench.scale.rows import at_most, told, told_rate
from tests.bench.targets import Pond, drop_caches
from tests.bench.workloads import seconds
from tests.mount import harness

BATCHES = 10
_CONTENT = b"a hundred bytes, more or less, as a small message in a mail directory has them: " * 2


def run(bench: Bench) -> None:
    """Fill it; list it; add to it."""
    batch = bench.count(10_000, 50)
    with bench.pond("directory") as pond:
        folder = pond.root / "folder"
        folder.mkdir()
        bench.show.step("create files", BATCHES * batch)
        taken = []
        for number in range(BATCHES):
            taken.append(seconds(_create, folder, number * batch, batch))
            bench.show.advance(batch)
        bench.note("directory_create", BATCHES * batch / sum(taken))
        bench.note("directory_drift", taken[-1] / taken[0])
        pond.settle()
        _list(bench, pond, folder, BATCHES * batch)
        bench.show.step("add one and fsync")
        _add(bench, folder, bench.count(200, 20))


def _create(folder: Path, first: int, count: int) -> None:
    for number in range(first, first + count):
        fd = os.open(f"{folder}/{number:08}", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
        os.write(fd, _CONTENT)
        os.close(fd)


def _list(bench: Bench, pond: Pond, folder: Path, expected: int) -> None:
    bench.show.step("ls -f")
    pond.remount()
    drop_caches()
    for row in ("directory_ls", "directory_ls_again"):
        started = time.perf_counter()
        listing = harness.run(["ls", "-f", folder]).stdout
        bench.note(row, time.perf_counter() - started)
        assert listing.count("\n") == expected + 2  # . and ..


def _add(bench: Bench, folder: Path, count: int) -> None:
    """Add to it and to a directory that was empty in turn: whatever else goes on falls on both."""
    small = folder.with_name("small")
    small.mkdir()
    rows = {"directory_add": folder, "directory_add_small": small}
    taken: dict[str, list[float]] = {row: [] for row in rows}
    for number in range(count):
        for row, place in rows.items():
            started = time.perf_counter()
            fd = os.open(f"{place}/added{number:04}", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
            os.write(fd, _CONTENT)
            os.fsync(fd)
            taken[row].append((time.perf_counter() - started) * 1e3)
            os.close(fd)
    for row, times in taken.items():
        bench.note(row, median(times))


SECTION = Section(
    "directory",
    "One directory of 100,000 files",
    (
        told_rate("directory_create", "create + write 160 bytes + close", "/s"),
        at_most("directory_drift", "… time of the last 10,000 / the first 10,000", "×", 1.3),
        at_most("directory_ls", "`ls -f`, cold", "s", 2.0),
        told("directory_ls_again", "… once more", "s"),
        at_most("directory_add", "add one more + fsync, median", "ms", 4.0),
        told("directory_add_small", "… to a directory that was empty", "ms"),
    ),
    run,
)
