"""A hundred thousand versions, made by as many fsyncs through a mount.

With ``fsync=delta`` each is a Delta commit, which the bars are for; with the journal, many are one.
The daemon compacts meanwhile, as it does. Checkpoints are made older while versions are made, as
they would be if those came every few seconds: else no log entry could go within the run.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

from tests.bench.scale.bench import Bench, Section
from tests.bench.scale.fsyncs import DELTA, MODES
from tests.bench.scale.million import mount_often_s, mount_s
from tests.bench.scale.process import note_memory
from tests.bench.scale.programs import LINE
from tests.bench.scale.rows import at_most, told
from tests.bench.scale.stored import (
    age_checkpoints,
    bytes_of,
    data_files,
    live_files,
    log_entries,
    wait_at_most,
)
from tests.bench.targets import Pond
from tests.bench.workloads import seconds

FILES = 50
MOST_FILES = 200
MAINTENANCE_S = 180.0
MOST_ENTRIES = 2000
CLEANING_S = 450.0  # a thousand go every 5 s, while they are made, too
PER_AGE = 720  # an hour of one every 5 s
SLICES, PER_SLICE = 20, 50


def run(bench: Bench) -> None:
    """Make the versions, in a pond of each mode."""
    for mode in MODES:
        with bench.pond("versions", f"fsync={mode}") as pond:
            _run_mode(bench, pond, mode)


def _run_mode(bench: Bench, pond: Pond, mode: str) -> None:
    """Make the versions; look how much there is; compare with a pond that has none."""
    versions = bench.count(100_000, 150)
    made = 0
    bench.show.step(f"make versions, {mode}", versions)
    with bench.timed("versions_build", mode):
        while made < versions:
            began_s = time.time()
            made += len(_append(pond, min(PER_AGE, versions - made), bench.show.advance))
            age_checkpoints(pond.store, began_s)
    newest = json.loads(pond.pond("log", "-n", "1", "--json"))[0]["version"]
    assert newest > versions, newest
    bench.note("versions_files_at_once", len(live_files(pond.store)), mode)
    bench.show.step("wait for maintenance")
    files = wait_at_most(_count_live, pond.store, MOST_FILES, bench.seconds(MAINTENANCE_S, 1.0))
    bench.note("versions_files", files, mode)
    bench.note("versions_files_on_disk", data_files(pond.store), mode)
    age_checkpoints(pond.store, time.time())
    bench.show.step("wait until old log entries are gone")
    entries = wait_at_most(log_entries, pond.store, MOST_ENTRIES, bench.seconds(CLEANING_S, 1.0))
    bench.note("versions_log", entries, mode)
    bench.note("versions_log_bytes", bytes_of(pond.store / "_delta_log") / 1e6, mode)
    bench.note("versions_store", bytes_of(pond.store) / 1e6, mode)
    bench.show.step("pond log")
    pond.pond("log", "-n", "20")
    logs = [seconds(pond.pond, "log", "-n", "20") for _ in range(5)]
    bench.note("versions_log_20", median(logs) * 1e3, mode)
    bench.show.step("mount")
    bench.note("versions_mount", mount_often_s(bench, pond), mode)
    note_memory(bench, pond, "versions_rss", mode)
    pond.unmount()
    (pond.store / "_pond" / "image").unlink(missing_ok=True)  # a small pond has none
    bench.note("versions_mount_fold", mount_s(pond), mode)
    bench.show.step("append in this pond and in a new one")
    with bench.pond("new", f"fsync={mode}") as new:
        _compare(bench, pond, new, mode)


def _count_live(store: Path) -> int:
    return len(live_files(store))


def _append(pond: Pond, times: int, tell: Callable[[], object]) -> list[float]:
    """Append a line to one file after the other, with fsync; return the ms each took."""
    fds = [
        os.open(pond.root / f"log{number:02}", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        for number in range(FILES)
    ]
    taken = []
    try:
        for number in range(times):
            fd = fds[number % FILES]
            started = time.perf_counter()
            os.write(fd, LINE)
            os.fsync(fd)
            taken.append((time.perf_counter() - started) * 1e3)
            tell()
    finally:
        for fd in fds:
            os.close(fd)
    return taken


def _compare(bench: Bench, pond: Pond, new: Pond, mode: str) -> None:
    """In turn, a few at a time, so that whatever else goes on falls on both."""
    _append(new, FILES, lambda: None)
    old_ms, new_ms = list[float](), list[float]()
    for _ in range(SLICES if bench.scale else 2):
        old_ms += _append(pond, PER_SLICE, lambda: None)
        new_ms += _append(new, PER_SLICE, lambda: None)
    bench.note("versions_append", median(old_ms), mode)
    bench.note("versions_append_new", median(new_ms), mode)
    bench.note("versions_append_ratio", median(old_ms) / median(new_ms), mode)


SECTION = Section(
    "versions",
    "100,000 versions",
    (
        told("versions_build", "append 100 bytes + fsync × 100,000, in 50 files", "s"),
        at_most("versions_mount", "from `mount.pond` to the first `ls`", "s", 1.0),
        told("versions_mount_fold", "… without an image", "s"),
        at_most("versions_append", "append + fsync, median", "ms", 4.0),
        told("versions_append_new", "… in a new pond", "ms"),
        at_most("versions_append_ratio", "… in this one / in a new one", "×", 1.2),
        at_most("versions_log_20", "`pond log -n 20`", "ms", 300.0),
        told("versions_files_at_once", "data files right after", "files"),
        at_most("versions_files", "data files after maintenance", "files", MOST_FILES),
        told("versions_files_on_disk", "… on the disk then, old ones included", "files"),
        at_most("versions_log", "files in the log's directory", "files", MOST_ENTRIES),
        told("versions_log_bytes", "… which take", "MB"),
        told("versions_store", "the whole store", "MB"),
        told("versions_rss", "RSS after mounting", "MB"),
        told("versions_rss_anon", "… of that RssAnon", "MB"),
        told("versions_rss_file", "… of that RssFile", "MB"),
    ),
    run,
    MODES,
    judged=DELTA,
    timeout_s=1500.0,
)
