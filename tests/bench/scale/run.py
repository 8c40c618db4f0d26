"""How pond does when there is much of something: measure, print the tables, keep them.

``make bench-scale`` or ``python -m tests.bench.scale``. All of it takes half an hour and 50 GB of
disk; ``--quick`` runs the same code at tiny sizes in a minute. The exit code is 0 whatever the
figures, 1 if a row failed: a bar is a matter of machines, and judged by whoever reads the table.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import tempfile
from pathlib import Path
from types import FrameType
from typing import Any

from rich.console import Console

from tests.bench.machine import Machine
from tests.bench.page import PAGE, Page
from tests.bench.scale import curves
from tests.bench.scale.progress import Progress
from tests.bench.scale.sections import SECTIONS, Outcome, run_sections
from tests.bench.table import FigureTable, summary
from tests.mount import harness

_INTERRUPTED = 130


def arguments(argv: list[str] | None) -> argparse.Namespace:
    """Return what *argv* asks for."""
    parser = argparse.ArgumentParser(prog="bench-scale", description="Much of everything.")
    known = ", ".join(SECTIONS)
    parser.add_argument("--only", nargs="+", metavar="NAME", help=f"some of: {known}")
    parser.add_argument(
        "--json", nargs="?", const="-", metavar="FILE", help="write JSON too; alone: only JSON"
    )
    parser.add_argument("--scale", type=float, default=1.0, help="multiply all sizes by this")
    parser.add_argument("--quick", action="store_true", help="the least that runs all of the code")
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="keep figures.json, tables.md and the plots there"
    )
    parser.add_argument(
        "--write", nargs="?", type=Path, const=PAGE, metavar="PAGE",
        help="put tables and plots into docs/reference/performance.md",
    )  # fmt: skip
    parser.add_argument(
        "--dir", type=Path, default=Path("/var/tmp"), help="a folder on the disk to measure"
    )
    chosen = parser.parse_args(argv)
    if unknown := set(chosen.only or ()) - set(SECTIONS):
        parser.error(f"no row called {', '.join(sorted(unknown))}; known: {known}")
    if os.geteuid() != 0:
        parser.error("it drops the kernel's caches and runs a server as another user: be root")
    chosen.scale = 0.0 if chosen.quick else chosen.scale
    return chosen


def main(argv: list[str] | None = None) -> None:
    """Run what *argv* asks for and print it."""
    chosen = arguments(argv)
    names = [name for name in SECTIONS if not chosen.only or name in chosen.only]
    page = Page(chosen.write) if chosen.write else None
    machine = Machine.here(chosen.dir)
    outcomes: list[Outcome] = []
    show = Progress()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)
    with tempfile.TemporaryDirectory(prefix="pond-scale-", dir=chosen.dir) as folder:
        base = Path(folder)
        base.chmod(0o711)  # PostgreSQL's user has to get to what is its own
        try:
            for outcome in run_sections(names, base, chosen.scale, show):
                outcomes.append(outcome)
                if page is not None:
                    _write(page, outcome, machine)
        except KeyboardInterrupt:
            show.say("interrupted")
        finally:
            harness.sweep(base)
    is_interrupted = len(outcomes) < len(names)
    _tell(chosen, outcomes, machine)
    if is_interrupted:
        sys.exit(_INTERRUPTED)
    sys.exit(any(outcome.failure for outcome in outcomes))


def _interrupt(*_: int | FrameType | None) -> None:
    """Stop once; what takes everything down must not be stopped by a second Ctrl-C."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt


def table_of(outcome: Outcome) -> FigureTable:
    """Return a row's figures as a table."""
    section = outcome.section
    others = {row.bar.against for row in section.rows if row.bar is not None} - {""}
    ratios = [column for column in section.columns if column in others]
    return FigureTable(section.rows, outcome.bench.figures, section.columns, section.judged, ratios)


def _caption(outcome: Outcome, machine: Machine) -> str:
    scale = outcome.bench.scale
    sizes = "" if scale == 1 else f" Sizes × {scale:g}." if scale else " The least sizes."
    command = f"make bench-scale ARGS='--only {outcome.section.name}'"
    return f"{machine.caption(command)}{sizes} It took {outcome.taken_s:.0f} s."


def _write(page: Page, outcome: Outcome, machine: Machine) -> None:
    """Put a row into the page; one that failed leaves what is there."""
    if outcome.failure:
        return
    text = f"{_caption(outcome, machine)}\n\n{table_of(outcome).markdown()}"
    if outcome.bench.curves:
        folder = page.path.parent / "images"
        curves.draw(outcome.bench.curves, folder, machine.text())
        text += f"\n![{curves.TITLE}](images/{curves.NAME}.png)\n"
        text += f"\nShaded is what is compared. The same as [SVG](images/{curves.NAME}.svg).\n"
    page.write(outcome.section.name, text)


def report(outcomes: list[Outcome], machine: Machine) -> dict[str, Any]:
    """Return everything measured, for ``--json``."""
    return {
        "machine": machine.json(),
        "sections": {outcome.section.name: _report_one(outcome) for outcome in outcomes},
    }


def _report_one(outcome: Outcome) -> dict[str, Any]:
    section, figures = outcome.section, outcome.bench.figures
    return {
        "title": section.title,
        "scale": outcome.bench.scale,
        "taken_s": outcome.taken_s,
        "failure": outcome.failure,
        "judged": section.judged,
        "rows": {
            row.name: {
                "work": row.work,
                "unit": row.unit,
                "more_is_better": row.more_is_better,
                "figures": figures[row.name],
                "bar": row.bar_text(),
                "met": row.is_met(figures[row.name], section.judged),
            }
            for row in section.rows
            if row.name in figures
        },
        "curves": outcome.bench.curves,
    }


def _tell(chosen: argparse.Namespace, outcomes: list[Outcome], machine: Machine) -> None:
    text = json.dumps(report(outcomes, machine), indent=2)
    if chosen.out:
        _keep(chosen.out, outcomes, machine, text)
    if chosen.json == "-":
        print(text)
        return
    if chosen.json:
        Path(chosen.json).write_text(text + "\n")
    console = Console(width=None if sys.stdout.isatty() else 150)
    verdicts: dict[str, bool | None] = {}
    for outcome in outcomes:
        table = table_of(outcome)
        verdicts |= table.verdicts()
        console.print(table.rich(f"{outcome.section.title}: {outcome.taken_s:.0f} s"))
        if outcome.failure:
            console.print(
                f"failed: {outcome.section.name}: {outcome.failure}", style="red", markup=False
            )
    console.print(machine.text(), highlight=False)
    console.print(summary(verdicts), highlight=False)


def _keep(folder: Path, outcomes: list[Outcome], machine: Machine, report_text: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "figures.json").write_text(report_text + "\n")
    parts = []
    for outcome in outcomes:
        parts.append(f"## {outcome.section.title}\n\n{_caption(outcome, machine)}\n")
        if outcome.failure:
            parts.append(f"Failed: {outcome.failure}\n")
        parts.append(table_of(outcome).markdown())
        if outcome.bench.curves:
            curves.draw(outcome.bench.curves, folder, machine.text())
    (folder / "tables.md").write_text("\n".join(parts))
