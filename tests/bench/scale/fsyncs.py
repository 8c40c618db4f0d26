"""Programs that fsync all the time: a log, SQLite, PostgreSQL; in every mode there is, and on ext4.

Each program has a new filesystem, so that none finds what another left to be done. Delta commits
are counted by the numbers of log entries, checkpoints and compactions included.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.bench.scale import programs
from tests.bench.scale.bench import Bench, Section
from tests.bench.scale.postgres import Postgres
from tests.bench.scale.rows import at_least, at_most, told
from tests.bench.scale.stored import delta_version
from tests.bench.targets import Pond

EXT4, DELTA, JOURNAL = "ext4", "delta", "journal"
MODES = (DELTA, JOURNAL)
"""What an fsync makes: mount.pond's ``fsync=``."""


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a program works."""

    column: str
    folder: Path
    pond: Pond | None

    @contextmanager
    def counted(self, bench: Bench, row: str) -> Iterator[None]:
        """Note how many Delta commits a second there are during the body."""
        if self.pond is None:
            yield
            return
        before, started = delta_version(self.pond.store), time.monotonic()
        yield
        taken_s = time.monotonic() - started
        commits = delta_version(self.pond.store) - before
        bench.note(row, commits / taken_s, self.column)


def run(bench: Bench) -> None:
    """Let each program run on ext4 and on a pond of each mode in turn."""
    work: tuple[Callable[[Bench, _Place], None], ...] = (_append, _sqlite, _pgbench)
    for do in work:
        for column in (EXT4, *MODES):
            bench.show.step(f"{do.__name__[1:]} on {column}")
            with _place(bench, column) as place:
                do(bench, place)


@contextmanager
def _place(bench: Bench, column: str) -> Iterator[_Place]:
    if column == EXT4:
        with bench.ext4() as folder:
            yield _Place(column, folder, None)
        return
    with bench.pond(column, "allow_other", f"fsync={column}") as pond:
        yield _Place(column, pond.root, pond)


def _append(bench: Bench, place: _Place) -> None:
    with place.counted(bench, "fsync_append_commits"):
        times = programs.append(place.folder / "journal", bench.count(5000, 100))
    bench.note("fsync_append", times.median, place.column)
    bench.note("fsync_append_p99", times.p99, place.column)


def _sqlite(bench: Bench, place: _Place) -> None:
    transactions = bench.count(5000, 50)
    with place.counted(bench, "fsync_sqlite_commits"):
        taken_s = programs.sqlite(place.folder / "database", transactions)
    bench.note("fsync_sqlite", transactions / taken_s, place.column)


def _pgbench(bench: Bench, place: _Place) -> None:
    with Postgres(place.folder / "postgres") as postgres:
        with bench.timed("fsync_pg_start", place.column):
            postgres.start()
        with bench.timed("fsync_pg_fill", place.column):
            postgres.fill(bench.count(10, 1))
        with place.counted(bench, "fsync_pg_commits"):
            tps = postgres.pgbench(clients=4, seconds=round(bench.seconds(30, 1)))
        bench.note("fsync_pg", tps, place.column)
        postgres.check()


SECTION = Section(
    "fsync",
    "Programs that fsync all the time",
    (
        at_most("fsync_append", "append 4 KiB + fsync × 5,000: median", "ms", 0.8),
        at_most("fsync_append_p99", "… 99th percentile", "ms", 5.0),
        at_most("fsync_append_commits", "… Delta commits meanwhile", "/s", 1.0),
        at_least("fsync_sqlite", "SQLite in WAL mode, 5,000 one-row transactions", "/s", 0.3, EXT4),
        at_most("fsync_sqlite_commits", "… Delta commits meanwhile", "/s", 1.0),
        told("fsync_pg_start", "PostgreSQL: `initdb` and start", "s"),
        told("fsync_pg_fill", "… `pgbench -i -s 10`", "s"),
        at_least("fsync_pg", "… `pgbench -c 4 -T 30`, transactions", "/s", 0.3, EXT4),
        at_most("fsync_pg_commits", "… Delta commits meanwhile", "/s", 1.0),
    ),
    run,
    (EXT4, *MODES),
    judged=JOURNAL,
)
