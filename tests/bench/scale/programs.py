"""Programs of one process that fsync often."""

from __future__ import annotations

import os
import random
import sqlite3
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median, quantiles

LINE = b"2026-11-20T12:00:00Z sensor 17: a line of a hundred bytes, as in a log".ljust(99) + b"\n"
_BLOCK = random.Random(50).randbytes(4096)


@dataclass(frozen=True, slots=True)
class Times:
    """Of many alike, in ms."""

    median: float
    p99: float

    @classmethod
    def of(cls, taken_ms: list[float]) -> Times:
        return cls(median(taken_ms), quantiles(taken_ms, n=100)[98])


def append(path: Path, times: int) -> Times:
    """Append 4 KiB and fsync, so often."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    taken_ms = []
    try:
        for _ in range(times):
            started = time.perf_counter()
            os.write(fd, _BLOCK)
            os.fsync(fd)
            taken_ms.append((time.perf_counter() - started) * 1e3)
    finally:
        os.close(fd)
    return Times.of(taken_ms)


def sqlite(path: Path, transactions: int) -> float:
    """Return the seconds of so many one-row transactions in WAL mode, each of them durable."""
    database = sqlite3.connect(path, isolation_level=None)
    try:
        assert database.execute("PRAGMA journal_mode=WAL").fetchone() == ("wal",)
        database.execute("PRAGMA synchronous=FULL")
        database.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, at REAL, what TEXT)")
        started = time.perf_counter()
        for number in range(transactions):
            database.execute("INSERT INTO t VALUES (?, ?, ?)", (number, number / 3, "x" * 100))
        taken_s = time.perf_counter() - started
        assert database.execute("SELECT count(*) FROM t").fetchone() == (transactions,)
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    finally:
        database.close()
    return taken_s
