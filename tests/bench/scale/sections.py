"""All rows of the table in their order, and the loop that runs them.

Each has its own scratch space and daemons. One that fails says why, what it measured before stays,
and the others go on.
"""

from __future__ import annotations

import os
import shutil
import signal
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.bench.scale import (
    clustering,
    directory,
    fsyncs,
    large,
    lines,
    million,
    server,
    versions,
)
from tests.bench.scale.bench import Bench, Section
from tests.bench.scale.progress import Progress
from tests.mount import harness

SECTIONS: dict[str, Section] = {
    section.name: section
    for section in (
        million.SECTION,
        directory.SECTION,
        versions.SECTION,
        fsyncs.SECTION,
        large.SECTION,
        lines.SECTION,
        server.SECTION,
        clustering.SECTION,
    )
}


@dataclass
class Outcome:
    """What one row gave."""

    section: Section
    bench: Bench
    taken_s: float = 0.0
    failure: str = ""


def run_sections(
    names: Iterable[str], base: Path, scale: float, show: Progress
) -> Iterator[Outcome]:
    """Run the rows called *names*; yield what each gave when it is over and cleared away."""
    for name in names:
        folder = base / name
        folder.mkdir()
        folder.chmod(0o711)  # PostgreSQL's user has to get to what is its own
        outcome = Outcome(SECTIONS[name], Bench(folder, show, scale))
        show.section(name)
        started = time.monotonic()
        try:
            with _watchdog(folder, outcome.section.timeout_s):
                outcome.section.run(outcome.bench)
        except Exception as error:
            # Whatever a broken filesystem does to SQLite, Arrow or us; the others shall go on.
            outcome.failure = f"{type(error).__name__}: {error}".strip()
            show.say(f"{name} failed: {outcome.failure}")
        finally:
            harness.sweep(folder)
            shutil.rmtree(folder, ignore_errors=True)
            show.clear()
        outcome.taken_s = time.monotonic() - started
        yield outcome


@contextmanager
def _watchdog(folder: Path, timeout_s: float) -> Iterator[None]:
    """Kill the daemons when time is up: a call stuck in FUSE hears nothing else."""

    def kill() -> None:
        for pid in harness.daemons_of(folder):
            os.kill(pid, signal.SIGKILL)

    timer = threading.Timer(timeout_s, kill)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
