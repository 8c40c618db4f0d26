"""What a store holds: data files, log entries, bytes. Beside a daemon that goes on working."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from pondfs.errors import StoreDamaged
from pondfs.store.deltalog import LOG_DIR, BadHeadError, list_log, read_snapshot

_LOOK_S = 1.0


def live_files(store: Path) -> list[str]:
    """Return the data files that the table's newest version has."""
    for last_try in (False, False, True):
        try:
            return list(read_snapshot(str(store / LOG_DIR)).adds)
        except (BadHeadError, StoreDamaged, FileNotFoundError):
            if last_try:
                raise
            # The daemon took entries away between our listing and our reading.
    raise AssertionError


def delta_version(store: Path) -> int:
    """Return the number of the newest log entry."""
    entries, checkpoints = list_log(str(store / LOG_DIR))
    return max([*entries, *checkpoints], default=-1)


def log_entries(store: Path) -> int:
    """Return how many files the log's directory has: what every Delta reader lists."""
    return len(os.listdir(store / LOG_DIR))


def data_files(store: Path) -> int:
    """Return how many data files lie there, those no longer of use included."""
    return sum(name.endswith(".parquet") for name in os.listdir(store))


def bytes_of(path: Path) -> int:
    """Return what all below *path* takes on the disk; files may come and go meanwhile."""
    return sum(status.st_blocks * 512 for status in _all_below(os.fspath(path)))


def _all_below(path: str) -> Iterator[os.stat_result]:
    with os.scandir(path) as entries:
        for entry in entries:
            try:
                yield entry.stat(follow_symlinks=False)
                if entry.is_dir(follow_symlinks=False):
                    yield from _all_below(entry.path)
            except FileNotFoundError:
                continue


def age_checkpoints(store: Path, before_s: float) -> None:
    """Make the log's checkpoints that were written before then an hour older.

    By their age it is told which entries may go; and here ten minutes would be as good as never.
    """
    for path in (store / LOG_DIR).glob("*.checkpoint.parquet"):
        with contextlib.suppress(FileNotFoundError):  # its time had come
            written_s = path.stat().st_mtime
            if written_s < before_s:
                os.utime(path, (written_s, written_s - 3600))


def wait_at_most(count: Callable[[Path], int], store: Path, most: int, timeout_s: float) -> int:
    """Return what is counted when it is no more than *most*, or when time is up."""
    deadline = time.monotonic() + timeout_s
    while (found := count(store)) > most and time.monotonic() < deadline:
        time.sleep(_LOOK_S)
    return found
