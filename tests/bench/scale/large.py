"""One file of 20 GiB: written, read here and there, compacted, changed here and there."""

from __future__ import annotations

import json
import os
import random
import shutil
import time
from pathlib import Path
from statistics import median

from tests.bench.scale.bench import Bench, Section
from tests.bench.scale.process import forget_peak, memory_of
from tests.bench.scale.programs import LINE
from tests.bench.scale.rows import at_least, at_most, told
from tests.bench.scale.stored import bytes_of, live_files
from tests.bench.targets import Pond, drop_caches
from tests.bench.workloads import KIB, MIB, seconds

PAGE = 4 * KIB
PAGES = MIB // PAGE
COMPACT_TIMEOUT_S = 1800.0
_PATTERN = b"".join(
    random.Random(60 + page).randbytes(PAGE // 2) + LINE * (PAGE // 2 // len(LINE)) + bytes(48)
    for page in range(PAGES)
)
"""A MiB that compresses to half of it, wherever one looks: else nothing would be compressed."""
assert len(_PATTERN) == MIB
_CHANGED = random.Random(61).randbytes(PAGE - 8)


def run(bench: Bench) -> None:
    """Write it on ext4 and in a pond, one after the other: there is no room for both."""
    mebibytes = bench.count(20 * 1024, 64)
    _require_room(bench.base, 2.3 * mebibytes * MIB)
    with bench.ext4() as folder:
        _note_write(bench, "ext4", folder / "large", mebibytes)
    with bench.pond("large") as pond:
        forget_peak(pond)
        _note_write(bench, "pond", pond.root / "large", mebibytes)
        bench.note("large_rss", memory_of(pond).peak)
        bench.note("large_store", bytes_of(pond.store) / (mebibytes * MIB))
        _Reader(bench, pond, mebibytes).run()


def _require_room(base: Path, needed: float) -> None:
    free = shutil.disk_usage(base).free
    assert free > needed, f"{base} has {free / 1e9:.0f} GB free, {needed / 1e9:.0f} GB are needed"


def _note_write(bench: Bench, column: str, path: Path, mebibytes: int) -> None:
    bench.show.step(f"write on {column}, MiB", mebibytes)
    taken_s = seconds(_write, bench, path, mebibytes)
    bench.note("large_write", mebibytes * MIB / 1e6 / taken_s, column)


def _write(bench: Bench, path: Path, mebibytes: int) -> None:
    """Every MiB begins with its number, so that a filesystem that mixes them up is noticed."""
    view = memoryview(_PATTERN)[8:]
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
    try:
        for number in range(mebibytes):
            assert os.writev(fd, (number.to_bytes(8, "big"), view)) == MIB
            bench.show.advance()
        os.fsync(fd)
    finally:
        os.close(fd)


class _Reader:
    """Reads and changes single pages of the file."""

    def __init__(self, bench: Bench, pond: Pond, mebibytes: int) -> None:
        self._bench, self._pond, self._mebibytes = bench, pond, mebibytes
        self._dice = random.Random(62)
        self._changed: set[int] = set()

    def run(self) -> None:
        bench, pond, show = self._bench, self._pond, self._bench.show
        bench.note("large_files", len(live_files(pond.store)))
        bench.note("large_read", self._read("read cold"))
        show.step("compact")
        with bench.timed("large_compact"):
            printed = pond.pond("compact", "--json", timeout_s=COMPACT_TIMEOUT_S)
        bench.note("large_compact_read", json.loads(printed)["rewritten_bytes"] / 1e6)
        bench.note("large_compact_rss", memory_of(pond).peak)
        bench.note("large_compacted_store", bytes_of(pond.store) / (self._mebibytes * MIB))
        bench.note("large_read_compacted", self._read("read cold, compacted"))
        show.step("change pages")
        before = bytes_of(pond.store)
        with bench.timed("large_change_time"):
            self._change(self._bench.count(10_000, 200))
        bench.note("large_change", (bytes_of(pond.store) - before) / 1e6)
        bench.note("large_read_changed", self._read("read what was changed, cold", changed=True))

    def _read(self, step: str, *, changed: bool = False) -> float:
        """Return the median, in ms, of reading pages nobody read since the mount."""
        self._bench.show.step(step)
        self._pond.remount()
        drop_caches()
        pages = range(self._mebibytes * PAGES)
        chosen = sorted(self._changed) if changed else pages
        picked = self._dice.sample(chosen, min(2000, len(chosen)))
        taken = []
        fd = os.open(self._pond.root / "large", os.O_RDONLY)
        try:
            for page in picked:
                started = time.perf_counter()
                got = os.pread(fd, PAGE, page * PAGE)
                taken.append((time.perf_counter() - started) * 1e3)
                assert got == self._expected(page), f"page {page} is wrong"
        finally:
            os.close(fd)
        return median(taken)

    def _expected(self, page: int) -> bytes:
        if page in self._changed:
            return page.to_bytes(8, "big") + _CHANGED
        number, place = divmod(page, PAGES)
        found = _PATTERN[place * PAGE : (place + 1) * PAGE]
        return found if place else number.to_bytes(8, "big") + found[8:]

    def _change(self, pages: int) -> None:
        picked = self._dice.sample(range(self._mebibytes * PAGES), pages)
        fd = os.open(self._pond.root / "large", os.O_WRONLY)
        try:
            for page in picked:
                os.pwrite(fd, page.to_bytes(8, "big") + _CHANGED, page * PAGE)
            os.fsync(fd)
        finally:
            os.close(fd)
        self._changed.update(picked)


SECTION = Section(
    "large",
    "One file of 20 GiB",
    (
        at_least("large_write", "write 20 GiB + fsync", "MB/s", 0.35, "ext4"),
        at_most("large_rss", "… the most RSS meanwhile", "MB", 400.0),
        told("large_store", "… store / file", "×"),
        told("large_files", "… data files", "files"),
        at_most("large_read", "random 4 KiB read, cold, median", "ms", 0.5),
        told("large_compact", "`pond compact`, mounted", "s"),
        told("large_compact_read", "… of what it found worth it", "MB"),
        told("large_compact_rss", "… the daemon's most RSS", "MB"),
        told("large_compacted_store", "… store / file afterwards", "×"),
        at_most("large_read_compacted", "random 4 KiB read, cold, median, compacted", "ms", 1.5),
        at_most("large_change", "10,000 random 4 KiB overwrites + fsync add", "MB", 80.0),
        told("large_change_time", "… and take", "s"),
        told("large_read_changed", "… read of what they wrote, cold, median", "ms"),
    ),
    run,
    ("ext4", "pond"),
    timeout_s=2400.0,
)
