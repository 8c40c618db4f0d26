"""Compare pond with a bare pyfuse3 filesystem and with ext4; print a table with bars.

``make bench``, ``python -m tests.bench`` or ``python tests/bench/run.py``. A full run takes about
twelve minutes; ``--quick`` a tenth of the sizes, once each. The exit code is 0 whatever the
figures: a bar is a matter of machines, and judged by whoever reads the table.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

if __name__ == "__main__":  # run by its path: Python has put this folder first, not the repository
    sys.path[0] = str(Path(__file__).resolve().parents[2])

from tests.bench.bars import ROWS
from tests.bench.machine import Machine
from tests.bench.page import PAGE, Page
from tests.bench.suite import WORKLOADS, Plan, Results
from tests.bench.table import FigureTable, ratio, summary
from tests.bench.targets import TARGETS, Bare, Target
from tests.bench.written import SAME_LOOP, TABLES, table_of, write
from tests.mount import harness

ALL_TARGETS = "pond,bare,ext4"


def choose(only: list[str] | None) -> list[str]:
    """Return the workloads to run: all, or those named, by their own name or by a row's."""
    if not only:
        return list(WORKLOADS)
    unknown = set(only) - set(WORKLOADS) - set(ROWS)
    if unknown:
        known = " ".join(dict.fromkeys([*WORKLOADS, *ROWS]))
        sys.exit(f"bench: no workload or row called {', '.join(sorted(unknown))}; known: {known}")
    return [
        name
        for name, workload in WORKLOADS.items()
        if name in only or not set(only).isdisjoint(workload.rows)
    ]


def report(results: Results, plan: Plan, machine: Machine) -> dict[str, Any]:
    """Return everything measured, for ``--json``."""
    rows = {}
    for name in results.figures:
        row, figures = ROWS[name], results.medians(name)
        rows[name] = {
            "work": row.work,
            "unit": row.unit,
            "more_is_better": row.more_is_better,
            "median": figures,
            "rounds": results.figures[name],
            "pond/bare": ratio(figures, "pond", "bare"),
            "pond/ext4": ratio(figures, "pond", "ext4"),
            "bar": row.bar_text(),
            "met": row.is_met(figures),
        }
    return {
        "machine": machine.json(),
        "scale": plan.scale,
        "rows": rows,
        "failures": results.failures,
    }


def verdict_line(results: Results, table: FigureTable) -> str:
    """Return the one line that says how the bars were met, and what failed."""
    text = summary(table.verdicts())
    broken = [name for name, targets in results.failures.items() if "pond" in targets]
    return f"{text}; failed: {', '.join(broken)}" if broken else text


def arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench", description="Compare pond, bare FUSE and ext4.")
    parser.add_argument(
        "--json", nargs="?", const="-", metavar="FILE", help="write JSON too; alone: only JSON"
    )
    parser.add_argument("--only", nargs="+", metavar="NAME", help="workloads or rows")
    parser.add_argument(
        "--write", nargs="?", type=Path, const=PAGE, metavar="PAGE",
        help="put whole tables into docs/reference/performance.md",
    )  # fmt: skip
    parser.add_argument("--scale", type=float, default=1.0, help="multiply all sizes by this")
    parser.add_argument("--rounds", type=int, help="repeat every workload this often")
    parser.add_argument("--quick", action="store_true", help="the same as --scale 0.1 --rounds 1")
    parser.add_argument("--targets", default=ALL_TARGETS, help="some of pond,bare,ext4")
    parser.add_argument(
        "--dir", type=Path, default=Path("/var/tmp"), help="a folder on the disk to measure"
    )
    parser.add_argument(
        "--bare-spin-us", type=float, help="let the bare filesystem look before it sleeps"
    )
    chosen = parser.parse_args(argv)
    unknown = set(chosen.targets.split(",")) - set(TARGETS)
    if unknown:
        parser.error(f"no target called {', '.join(sorted(unknown))}")
    if chosen.quick:
        chosen.scale, chosen.rounds = 0.1, 1
    return chosen


def main(argv: list[str] | None = None) -> None:
    """Run what *argv* asks for and print it."""
    chosen = arguments(argv)
    names = choose(chosen.only)
    wanted = chosen.targets.split(",")
    page = Page(chosen.write) if chosen.write else None
    screen = Console(stderr=True)
    with tempfile.TemporaryDirectory(prefix="pond-bench-", dir=chosen.dir) as folder:
        base = Path(folder)
        machine = Machine.here(base)
        targets: list[Target] = [kind(base) for name, kind in TARGETS.items() if name in wanted]
        for target in targets:
            if isinstance(target, Bare) and chosen.bare_spin_us is not None:
                target.options = ("--spin-us", f"{chosen.bare_spin_us:g}")
        if os.geteuid() != 0:
            screen.print("bench: not root, so caches stay warm and read-ahead stays at 128 KiB")
        plan = Plan(base, targets, chosen.scale, chosen.rounds)
        columns = (BarColumn(), TextColumn("{task.completed}/{task.total}"), TimeElapsedColumn())
        progress = Progress(*columns, TextColumn("{task.description}"), console=screen)
        try:
            with progress:
                task = progress.add_task("", total=plan.steps(names))
                started = -1

                def advance(step: str) -> None:
                    nonlocal started
                    started += 1
                    progress.update(task, description=step, completed=started)

                results = plan.run(names, advance)
                progress.update(task, description="", completed=plan.steps(names))
        except KeyboardInterrupt:
            sys.exit("bench: interrupted")
        finally:
            harness.sweep(base)  # an interrupted run leaves no mount
    if chosen.json:
        text = json.dumps(report(results, plan, machine), indent=2)
        if chosen.json == "-":
            print(text)
            return
        Path(chosen.json).write_text(text + "\n")
    console = Console(width=None if sys.stdout.isatty() else 150)
    table = table_of(results, tuple(ROWS), [target.name for target in targets])
    scale = "" if plan.scale == 1 else f", sizes × {plan.scale:g}"
    console.print(table.rich(machine.text() + scale))
    for name, by_target in results.failures.items():
        for target_name, why in by_target.items():
            console.print(f"failed: {name} on {target_name}: {why}", style="red", markup=False)
    if page is not None:
        tables = TABLES if chosen.bare_spin_us is None else (SAME_LOOP,)
        for line in write(page, results, machine, _command(chosen), tables):
            console.print(line, highlight=False)
    console.print(verdict_line(results, table), highlight=False)


def _command(chosen: argparse.Namespace) -> str:
    """Return what to type to get the same tables."""
    args = []
    if chosen.only:
        args.append("--only " + " ".join(chosen.only))
    if chosen.targets != ALL_TARGETS:
        args.append(f"--targets {chosen.targets}")
    if chosen.rounds:
        args.append(f"--rounds {chosen.rounds}")
    if chosen.scale != 1:
        args.append(f"--scale {chosen.scale:g}")
    if chosen.bare_spin_us is not None:
        args.append(f"--bare-spin-us {chosen.bare_spin_us:g}")
    return f"make bench ARGS='{' '.join(args)}'" if args else "make bench"


if __name__ == "__main__":
    main()
