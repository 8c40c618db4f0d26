"""What a row of the table works with: scratch space, sizes, and where its figures go."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.bench.bars import Row
from tests.bench.scale.progress import Progress
from tests.bench.targets import Pond
from tests.mount import harness


@dataclass
class Bench:
    """One row's run.

    Attributes:
        base: scratch space of its own, on the disk that is measured.
        show: hears what is done.
        scale: 1 for the full sizes, 0 for the least that runs all of the code.
        figures: row → column → figure.
        curves: hour by hour, what `curves` draws.
    """

    base: Path
    show: Progress
    scale: float = 1.0
    figures: dict[str, dict[str, float]] = field(default_factory=dict)
    curves: dict[str, list[float]] = field(default_factory=dict)

    def count(self, full: int, least: int) -> int:
        """Return *full* scaled, but at least *least*."""
        return max(least, round(full * self.scale))

    def seconds(self, full: float, least: float) -> float:
        """Return how long something is to go on."""
        return max(least, full * self.scale)

    def note(self, row: str, figure: float, column: str = "pond") -> None:
        """Keep a figure, whatever comes after it."""
        self.figures.setdefault(row, {})[column] = figure

    @contextmanager
    def pond(self, name: str, *options: str, mount: bool = True) -> Iterator[Pond]:
        """Give a pond, new and mounted; without *mount* only the place for one."""
        pond = Pond(self.base / name, options)
        try:
            if mount:
                pond.open()
            else:
                pond.root.mkdir(parents=True)
            yield pond
        except BaseException:
            harness.sweep(pond.base)  # nobody needs what it would commit
            raise
        finally:
            pond.close()

    @contextmanager
    def ext4(self, name: str = "ext4") -> Iterator[Path]:
        """Give an empty directory beside."""
        folder = self.base / name
        folder.mkdir()
        try:
            yield folder
        finally:
            shutil.rmtree(folder)

    @contextmanager
    def timed(self, row: str, column: str = "pond") -> Iterator[None]:
        """Note how many seconds the body takes."""
        started = time.perf_counter()
        yield
        self.note(row, time.perf_counter() - started, column)


@dataclass(frozen=True, slots=True)
class Section:
    """What is measured of one kind of pond: a table of its own.

    Attributes:
        name: what ``--only`` knows it by.
        title: what is measured, in a few words.
        rows: its figures.
        run: notes each of them.
        columns: where they are measured, in order.
        judged: the column that the bars are for.
        timeout_s: then its daemons are killed.
    """

    name: str
    title: str
    rows: tuple[Row, ...]
    run: Callable[[Bench], None]
    columns: tuple[str, ...] = ("pond",)
    judged: str = "pond"
    timeout_s: float = 1200.0
