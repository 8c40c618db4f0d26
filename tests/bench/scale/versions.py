"""A hundred thousand versions, made by as many fsyncs through a mount.

Where fsync can go to a journal, it does not here: each is to be a Delta commit. The daemon compacts
meanwhile, as it does.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from statistics import median

from tests.bench.scale.bench import Bench, Section
from tests.bench.scale.fsync_modes import DELTA, options_of
from tests.bench.scale.million import mount_often_s, mount_s
from tests.bench.scale.process import note_memory
from tests.bench.scale.programs import LINE
from tests.bench.scale.rows import at_most, told
from tests.bench.scale.stored import bytes_of, data_files, live_files, log_entries, wait_maintained
from tests.bench.targets import Pond
from tests.bench.workloads import seconds

FILES = 50
MOST_FILES = 200
MAINTENANCE_S = 180.0
SLICES, PER_SLICE = 20, 50


def run(bench: Bench) -> None:
    """Make the versions; look how much there is; compare with a pond that has none."""
    versions = bench.count(100_000, 150)
    with bench.pond("versions", *options_of(DELTA)) as pond:
        bench.show.step("make versions", versions)
        with bench.timed("versions_build"):
            _append(pond, versions, bench.show.advance)
        newest = json.loads(pond.pond("log", "-n", "1", "--json"))[0]["version"]
        assert newest > versions, newest
        bench.note("versions_files_at_once", len(live_files(pond.store)))
        bench.show.step("wait for maintenance")
        timeout_s = bench.seconds(MAINTENANCE_S, 1.0)
        bench.note("versions_files", wait_maintained(pond.store, MOST_FILES, timeout_s))
        bench.note("versions_files_on_disk", data_files(pond.store))
        bench.note("versions_log", log_entries(pond.store))
        bench.note("versions_log_bytes", bytes_of(pond.store / "_delta_log") / 1e6)
        bench.note("versions_store", bytes_of(pond.store) / 1e6)
        bench.show.step("pond log")
        pond.pond("log", "-n", "20")
        logs = [seconds(pond.pond, "log", "-n", "20") for _ in range(5)]
        bench.note("versions_log_20", median(logs) * 1e3)
        bench.show.step("mount")
        bench.note("versions_mount", mount_often_s(bench, pond))
        note_memory(bench, pond, "versions_rss")
        pond.unmount()
        (pond.store / "_pond" / "image").unlink(missing_ok=True)  # a small pond has none
        bench.note("versions_mount_fold", mount_s(pond))
        bench.show.step("append in this pond and in a new one")
        with bench.pond("new", *options_of(DELTA)) as new:
            _compare(bench, pond, new)


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


def _compare(bench: Bench, pond: Pond, new: Pond) -> None:
    """In turn, a few at a time, so that whatever else goes on falls on both."""
    taken: dict[str, list[float]] = {"pond": [], "new pond": []}
    _append(new, FILES, lambda: None)
    for _ in range(SLICES if bench.scale else 2):
        for column, target in (("pond", pond), ("new pond", new)):
            taken[column] += _append(target, PER_SLICE, lambda: None)
    for column, times in taken.items():
        bench.note("versions_append", median(times), column)
        bench.note("versions_append_ratio", median(times), column)


SECTION = Section(
    "versions",
    "100,000 versions",
    (
        told("versions_build", "append 100 bytes + fsync × 100,000, in 50 files", "s"),
        at_most("versions_mount", "from `mount.pond` to the first `ls`", "s", 1.0),
        told("versions_mount_fold", "… without an image", "s"),
        at_most("versions_append", "append + fsync, median", "ms", 4.0),
        at_most("versions_append_ratio", "… against a new pond's", "ms", 1.2, "new pond"),
        at_most("versions_log_20", "`pond log -n 20`", "ms", 300.0),
        told("versions_files_at_once", "data files right after", "files"),
        at_most("versions_files", "data files after maintenance", "files", MOST_FILES),
        told("versions_files_on_disk", "… on the disk then, old ones included", "files"),
        at_most("versions_log", "files in the log's directory then", "files", 2000),
        told("versions_log_bytes", "… which take", "MB"),
        told("versions_store", "the whole store", "MB"),
        told("versions_rss", "RSS after mounting", "MB"),
        told("versions_rss_anon", "… of that RssAnon", "MB"),
        told("versions_rss_file", "… of that RssFile", "MB"),
    ),
    run,
    ("new pond", "pond"),
    timeout_s=1500.0,
)
