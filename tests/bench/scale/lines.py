"""100 MB written as a million lines, with an fsync for every hundred; then read back."""

from __future__ import annotations

import hashlib
import os
import time
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from tests.bench.scale.bench import Bench, Section
from tests.bench.scale.programs import LINE
from tests.bench.scale.rows import at_least, at_most, told, told_rate
from tests.bench.scale.stored import live_files
from tests.bench.targets import Pond, drop_caches
from tests.bench.workloads import MIB

LINES_PER_FSYNC = 100
PARTS = 10
READS = 3
_REST = LINE[8:]


_PONDS = {"delta": ("fsync=delta", "compact=off"), "pond": ()}


def run(bench: Bench) -> None:
    """Write on ext4; in a pond as it is by default; in one where each fsync is a data file."""
    lines = bench.count(1_000_000, 3000) // (PARTS * LINES_PER_FSYNC) * PARTS * LINES_PER_FSYNC
    with bench.ext4() as folder:
        written = _write(bench, "ext4", folder / "lines", lines)
        rate = _read_rate(bench, folder / "lines", written, None)
        for row in ("lines_read", "lines_read_compacted"):
            bench.note(row, rate, "ext4")
    for column, options in _PONDS.items():
        with bench.pond("pond", *options) as pond:
            path = pond.root / "lines"
            written = _write(bench, column, path, lines)
            bench.note("lines_files", len(live_files(pond.store)), column)
            bench.note("lines_read", _read_rate(bench, path, written, pond), column)
            bench.show.step(f"compact, {column}")
            with bench.timed("lines_compact", column):
                pond.pond("compact")
            bench.note("lines_read_compacted", _read_rate(bench, path, written, pond), column)


@dataclass(slots=True)
class _Written:
    """What was written: how much, its hash, and the seconds that each part took."""

    bytes: int = 0
    hash: Any = field(default_factory=hashlib.sha256)
    parts_s: list[float] = field(default_factory=list)


def _write(bench: Bench, column: str, path: Path, lines: int) -> _Written:
    bench.show.step(f"write lines, {column}", lines)
    written, fsyncs_ms = _Written(), list[float]()
    blocks = lines // LINES_PER_FSYNC
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        for part in range(PARTS):
            started = time.perf_counter()
            for block in range(part * blocks // PARTS, (part + 1) * blocks // PARTS):
                for line in range(block * LINES_PER_FSYNC, (block + 1) * LINES_PER_FSYNC):
                    text = b"%08d" % line + _REST
                    written.hash.update(text)
                    written.bytes += os.write(fd, text)
                before = time.perf_counter()
                os.fsync(fd)
                fsyncs_ms.append((time.perf_counter() - before) * 1e3)
                bench.show.advance(LINES_PER_FSYNC)
            written.parts_s.append(time.perf_counter() - started)
    finally:
        os.close(fd)
    bench.note("lines_write", blocks * LINES_PER_FSYNC / sum(written.parts_s), column)
    bench.note("lines_fsync", median(fsyncs_ms), column)
    bench.note("lines_drift", written.parts_s[-1] / written.parts_s[0], column)
    return written


def _read_rate(bench: Bench, path: Path, written: _Written, pond: Pond | None) -> float:
    """Return the MB/s of reading the file cold, the median of some, after comparing its hash.

    Nothing is done between two reads: the kernel would read on meanwhile, at no cost.
    """
    bench.show.step("read lines cold")
    taken = []
    whole = memoryview(bytearray(b"\1") * written.bytes)
    for _ in range(READS if bench.scale else 1):
        if pond is not None:
            pond.remount()
        drop_caches()
        at = 0
        started = time.perf_counter()
        fd = os.open(path, os.O_RDONLY)
        try:
            while count := os.readv(fd, (whole[at : at + MIB],)):
                at += count
        finally:
            os.close(fd)
        taken.append(time.perf_counter() - started)
        found = hashlib.sha256(whole[:at])
        assert found.digest() == written.hash.digest(), f"{path} is not what was written"
    return written.bytes / 1e6 / median(taken)


SECTION = Section(
    "lines",
    "100 MB appended as 1,000,000 lines, fsync every 100",
    (
        told_rate("lines_write", "append lines, with the fsyncs", "/s"),
        told("lines_fsync", "… fsync, median", "ms"),
        at_most("lines_drift", "… time of the last tenth / the first", "×", 1.2),
        told("lines_files", "data files then", "files"),
        at_least("lines_read", "read it, cold, before compaction", "MB/s", 0.3, "ext4"),
        told("lines_compact", "`pond compact`", "s"),
        at_least("lines_read_compacted", "read it, cold, compacted", "MB/s", 0.5, "ext4"),
    ),
    run,
    ("ext4", "delta", "pond"),
)
