"""A day of a server in the field, compressed in time: what it takes must not grow with its age.

Fifty logs grow by a line each and are committed every 5 s, by an fsync; each hour one of them is
rotated; in the middle of the day a tree is copied in. An hour's 720 commits are spread over
`HOUR_S`, or come as fast as the machine can. It is mounted with ``fsync=delta``: 5 s apart each
would be a Delta commit in any case, and compressed, the journal would make one of fifty.

What compression changes: the daemon looks after its store by the clock on the wall. It puts files
together at most every 25 s, so here once in nearly two hours of the day instead of 140 times an
hour, and 1,200 files come between two times instead of five. So *data files* is higher than in
the field. Log entries go when a checkpoint is ten minutes old, by the time of its file: an hour
later those of the hours before are made an hour older. Old data files, too, stay ten minutes after
a compaction, but by what the log says, and that is more than the whole run: their number only
grows here, and is told, not judged.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from statistics import median

from tests.bench.scale.bench import Bench, Section
from tests.bench.scale.curves import WINDOW
from tests.bench.scale.million import mount_s
from tests.bench.scale.process import memory_of
from tests.bench.scale.programs import LINE, Times
from tests.bench.scale.rows import at_most, told
from tests.bench.scale.stored import (
    age_checkpoints,
    bytes_of,
    data_files,
    live_files,
    log_entries,
)
from tests.bench.targets import Pond
from tests.bench.trees import make_tree
from tests.mount import harness

HOURS, COMMITS_PER_HOUR, LOGS, TREE_FILES = 24, 720, 50, 1000
HOUR_S = 15.0
QUICK_HOURS, QUICK_COMMITS = 4, 5
COPY_IN_HOUR = 12
FLAT = 1.3
TOOTHED = ("files", "log")
EARLY, LATE = "hours 2–7", "hours 19–24"


def run(bench: Bench) -> None:
    """Live through the day; look at everything at the end of each hour."""
    hours = HOURS if bench.scale else QUICK_HOURS
    commits = bench.count(COMMITS_PER_HOUR, QUICK_COMMITS)
    tree = bench.base / "tree"
    make_tree(tree, bench.count(TREE_FILES, 20))
    with bench.pond("server", "fsync=delta") as pond, _Logs(pond.root) as logs:
        bench.show.step("live through hours", hours)
        for hour in range(1, hours + 1):
            started, began_s = time.monotonic(), time.time()
            logs.rotate(hour)
            if hour == hours * COPY_IN_HOUR // HOURS:
                harness.run(["cp", "-a", tree, pond.root / "copy"])
            taken_ms = logs.live(commits, bench.seconds(HOUR_S, 0.0))
            hour_s = time.monotonic() - started
            _look(bench, pond, Times.of(taken_ms))
            age_checkpoints(pond.store, began_s)
            _keep(bench, "hour", hour_s)
            bench.show.advance()
        logs.check(hours * commits)
    for name, values in bench.curves.items():
        # What grows until it is tidied has teeth like a saw: of those the tips are compared.
        middle = max if name in TOOTHED else median
        bench.note(f"server_{name}", middle(values[1 : 1 + WINDOW]), EARLY)
        bench.note(f"server_{name}", middle(values[-WINDOW:]), LATE)


def _look(bench: Bench, pond: Pond, times: Times) -> None:
    """Note how things are at the end of an hour; opening is what a second mount takes."""
    _keep(bench, "fsync", times.median)
    _keep(bench, "fsync_p99", times.p99)
    memory = memory_of(pond)
    _keep(bench, "rss", memory.resident)
    _keep(bench, "rss_anon", memory.anonymous)
    _keep(bench, "files", len(live_files(pond.store)))
    _keep(bench, "files_on_disk", data_files(pond.store))
    _keep(bench, "log", log_entries(pond.store))
    _keep(bench, "store", bytes_of(pond.store) / 1e6)
    beside = Pond(bench.base / "beside", ("ro",), store=pond.store)
    beside.root.mkdir(parents=True)
    try:
        _keep(bench, "open", mount_s(beside))
    finally:
        beside.close()


def _keep(bench: Bench, name: str, value: float) -> None:
    bench.curves.setdefault(name, []).append(value)


class _Logs:
    """The logs, open as a logger has them."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._fds: list[int] = []

    def __enter__(self) -> _Logs:
        for number in range(LOGS):
            self._fds.append(self._open(number))
        return self

    def __exit__(self, *_: object) -> None:
        for fd in self._fds:
            os.close(fd)

    def rotate(self, hour: int) -> None:
        """Give one log another name and begin a new one."""
        number = hour % LOGS
        os.rename(self._path(number), f"{self._path(number)}.{hour}")
        os.close(self._fds[number])
        self._fds[number] = self._open(number)

    def live(self, commits: int, spread_s: float) -> list[float]:
        """Write to all and commit, so often, in that time or more; return the ms of the fsyncs."""
        taken = []
        begin = time.monotonic()
        for number in range(commits):
            wait_s = begin + spread_s * number / commits - time.monotonic()
            if wait_s > 0:
                time.sleep(wait_s)
            for fd in self._fds:
                os.write(fd, LINE)
            started = time.perf_counter()
            os.fsync(self._fds[number % LOGS])
            taken.append((time.perf_counter() - started) * 1e3)
        return taken

    def check(self, commits: int) -> None:
        """Compare what is in all the logs, rotated or not, with how much was written."""
        held = sum(path.stat().st_size for path in self._root.glob("log*"))
        assert held == commits * LOGS * len(LINE), f"the logs have {held} bytes"

    def _path(self, number: int) -> Path:
        return self._root / f"log{number:02}"

    def _open(self, number: int) -> int:
        return os.open(self._path(number), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)


SECTION = Section(
    "server",
    "24 hours of a field server, compressed in time",
    (
        at_most("server_fsync_p99", "fsync, 99th percentile", "ms", FLAT, EARLY),
        told("server_fsync", "… median", "ms"),
        at_most("server_rss", "RSS", "MB", FLAT, EARLY),
        told("server_rss_anon", "… of that RssAnon", "MB"),
        at_most("server_files", "data files, the most", "files", FLAT, EARLY),
        told("server_files_on_disk", "… on the disk, old ones included", "files"),
        at_most("server_log", "files in the log's directory, the most", "files", FLAT, EARLY),
        at_most("server_open", "time to open: a second mount, read-only", "s", FLAT, EARLY),
        told("server_store", "the whole store", "MB"),
        told("server_hour", "what an hour took", "s"),
    ),
    run,
    (EARLY, LATE),
    judged=LATE,
)
