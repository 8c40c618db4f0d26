"""What ``make bench --write`` keeps in docs/reference/performance.md: whole tables only.

A table in which some rows are of today and some of last month could not say when it was measured.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from tests.bench.bars import ROWS
from tests.bench.machine import Machine
from tests.bench.page import Page
from tests.bench.suite import WORKLOADS, Results
from tests.bench.table import FigureTable


@dataclass(frozen=True, slots=True)
class Kept:
    """A table of the page: its name there, its rows, and the targets it is nothing without."""

    name: str
    rows: tuple[str, ...]
    targets: tuple[str, ...]


def _rows(workloads: Iterable[str]) -> tuple[str, ...]:
    return tuple(row for name in workloads for row in WORKLOADS[name].rows)


_PAST, _SQL = ("past", "pond_cost"), ("query", "read")
_EVERYDAY = tuple(name for name in WORKLOADS if name not in (*_PAST, *_SQL))

TABLES = (
    Kept("everyday", _rows(_EVERYDAY), ("ext4", "bare", "pond")),
    Kept("past", _rows(_PAST), ("pond",)),
    Kept("sql", _rows(_SQL), ("pond",)),
)

SAME_LOOP = Kept(
    "same-loop",
    tuple(row for row in _rows(_EVERYDAY) if (bar := ROWS[row].bar) and bar.against == "bare"),
    ("bare", "pond"),
)
"""With the bare filesystem's loop as pond's: its figures are not for the first table."""


def table_of(results: Results, rows: Sequence[str], targets: Iterable[str]) -> FigureTable:
    """Return what was measured of *rows*, with a column for each target that has figures there."""
    figures = {name: results.medians(name) for name in rows if name in results.figures}
    columns = [name for name in targets if any(name in each for each in figures.values())]
    ratios = [name for name in ("bare", "ext4") if name in columns]
    return FigureTable([ROWS[name] for name in rows], figures, columns, "pond", ratios)


def write(
    page: Page, results: Results, machine: Machine, command: str, tables: Sequence[Kept]
) -> list[str]:
    """Write the tables that are whole; return what became of each that had any figure."""
    told = []
    for kept in tables:
        missing = [row for row in kept.rows if "pond" not in results.medians(row)]
        if len(missing) == len(kept.rows):
            continue
        table = table_of(results, kept.rows, kept.targets)
        lacking = [*missing, *(set(kept.targets) - set(table.columns))]
        if lacking:
            told.append(f"{kept.name} not written to {page.path.name}: no {', '.join(lacking)}")
            continue
        page.write(kept.name, f"{machine.caption(command)}\n\n{table.markdown()}")
        told.append(f"{kept.name} written to {page.path}")
    return told
