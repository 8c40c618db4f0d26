"""All workloads in their order, and the loop that runs them on every target in turn.

The targets take turns within a round, and another one starts each round: what a machine does
besides (a cache warming up, a neighbour, a disk's mood) then falls on all of them alike. Figures
are medians over the rounds.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from tests.bench import past, query, trees, workloads
from tests.bench.targets import Target
from tests.bench.workloads import Figures, Place, Workload

WORKLOADS: dict[str, Workload] = {
    "create": Workload(workloads.create, ("create",)),
    "mkdir": Workload(workloads.mkdir, ("mkdir",)),
    "rename": Workload(workloads.rename, ("rename",)),
    "unlink": Workload(workloads.unlink, ("unlink",)),
    "stat": Workload(workloads.stat, ("stat", "stat_again")),
    "open_read": Workload(workloads.open_read, ("open_read",)),
    "readdir": Workload(workloads.readdir, ("readdir",)),
    "negative_lookup": Workload(workloads.negative_lookup, ("negative_lookup",)),
    "small_write": Workload(workloads.small_write, ("small_write",)),
    "sequential": Workload(
        workloads.sequential, ("sequential_write", "sequential_read", "random_read"), rounds=2
    ),
    "random_write": Workload(workloads.random_write, ("random_write",)),
    "append_fsync": Workload(
        workloads.append_fsync, ("append_median", "append_p99", "append_drift"), rounds=1
    ),
    "copy_tree": Workload(trees.copy_tree, ("copy_tree",)),
    "git_clone": Workload(trees.git_clone, ("git_clone", "rm_rf")),
    "rss": Workload(trees.rss, ("rss", "rss_growth"), rounds=1),
    "past": Workload(past.past, past.PAST_ROWS, rounds=1),
    "query": Workload(query.query, query.QUERY_ROWS, rounds=1),
    "read": Workload(query.read, query.READ_ROWS, rounds=1),
    "pond_cost": Workload(past.pond_cost, past.COST_ROWS, rounds=1),
}

# What a broken filesystem does to a workload; a failed command is an AssertionError of harness.run.
FAILURES = (OSError, AssertionError, subprocess.SubprocessError)


@dataclass
class Results:
    """Figures of every round, by row and target, and what went wrong, by workload and target."""

    figures: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    failures: dict[str, dict[str, str]] = field(default_factory=dict)

    def add(self, target: str, figures: Figures) -> None:
        for row, figure in figures.items():
            self.figures.setdefault(row, {}).setdefault(target, []).append(figure)

    def fail(self, workload: str, target: str, error: BaseException) -> None:
        text = str(error).strip() or type(error).__name__
        # The first failure is the cause; a target that failed often cannot be closed either.
        self.failures.setdefault(workload, {}).setdefault(target, text.splitlines()[-1])

    def medians(self, row: str) -> dict[str, float]:
        return {target: median(each) for target, each in self.figures.get(row, {}).items()}


@dataclass(frozen=True)
class Plan:
    """What one run does."""

    base: Path
    targets: Sequence[Target]
    scale: float = 1.0
    rounds: int | None = None  # None: as each workload says
    timeout_s: float = 900.0  # for one workload on one target, then its daemon is killed

    def steps(self, names: Collection[str]) -> int:
        return sum(self._rounds(name) * len(self.targets) for name in names)

    def run(self, names: Collection[str], progress: Callable[[str], None]) -> Results:
        """Run the workloads called *names*; *progress* hears of each step as it begins."""
        results = Results()
        with tempfile.TemporaryDirectory(prefix="sources-", dir=self.base) as sources:
            for name in names:
                self._run_workload(name, Path(sources), results, progress)
        return results

    def _rounds(self, name: str) -> int:
        return self.rounds or WORKLOADS[name].rounds

    def _run_workload(
        self, name: str, sources: Path, results: Results, progress: Callable[[str], None]
    ) -> None:
        standing = []
        try:
            for target in self.targets:
                try:
                    target.open()
                except FAILURES as error:
                    results.fail(name, target.name, error)
                    _close(target, name, results)
                else:
                    standing.append(target)
            for number in range(self._rounds(name)):
                for target in _rotated(self.targets, number):
                    progress(f"{name} on {target.name}")
                    if target not in standing:
                        continue
                    try:
                        results.add(target.name, self.run_once(name, target, sources))
                    except FAILURES as error:
                        results.fail(name, target.name, error)
                        standing.remove(target)
                        _close(target, name, results)
        finally:
            for target in standing:
                _close(target, name, results)

    def run_once(self, name: str, target: Target, sources: Path) -> Figures:
        """Run one round on an open target, leaving it empty and everything durable."""
        with _watchdog(target, self.timeout_s):
            place = Place(target, target.new_directory(), sources, self.scale)
            figures = WORKLOADS[name].run(place)
            shutil.rmtree(place.directory)
            target.settle()
        return figures


def _close(target: Target, workload: str, results: Results) -> None:
    """Close *target*; a failure to is one of the filesystem, like any other."""
    try:
        target.close()
    except FAILURES as error:
        results.fail(workload, target.name, error)


def _rotated(targets: Sequence[Target], number: int) -> Iterator[Target]:
    for index in range(len(targets)):
        yield targets[(index + number) % len(targets)]


@contextmanager
def _watchdog(target: Target, timeout_s: float) -> Iterator[None]:
    """Kill the target's daemon when time is up: a call stuck in FUSE hears nothing else."""
    timer = threading.Timer(timeout_s, target.kill)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
