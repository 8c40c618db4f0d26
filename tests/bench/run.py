"""Compare pond with a bare pyfuse3 filesystem and with ext4; print the table of the issue.

``make bench``, ``python -m tests.bench`` or ``python tests/bench/run.py``. A full run takes about
twelve minutes; ``--quick`` a tenth of the sizes, once each. The exit code is 0 whatever the
figures: a bar is a matter of machines, and judged by whoever reads the table.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

if __name__ == "__main__":  # run by its path: Python has put this folder first, not the repository
    sys.path[0] = str(Path(__file__).resolve().parents[2])

from tests.bench.bars import ROWS, Row
from tests.bench.suite import WORKLOADS, Plan, Results
from tests.bench.targets import TARGETS, Bare, Target
from tests.mount import harness

_VERDICTS = {True: "met", False: "missed", None: ""}


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


def ratio(figures: dict[str, float], other: str) -> float | None:
    """Return pond's figure as a multiple of *other*'s."""
    if "pond" not in figures or not figures.get(other):
        return None
    return figures["pond"] / figures[other]


def report(results: Results, plan: Plan, filesystem: str) -> dict[str, Any]:
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
            "pond/bare": ratio(figures, "bare"),
            "pond/ext4": ratio(figures, "ext4"),
            "bar": row.bar_text(),
            "met": row.is_met(figures),
        }
    return {
        "machine": {
            "cpus": os.cpu_count(),
            "kernel": platform.release(),
            "python": platform.python_version(),
            "filesystem": filesystem,
            "load": os.getloadavg()[0],
            "root": os.geteuid() == 0,
        },
        "scale": plan.scale,
        "rows": rows,
        "failures": results.failures,
    }


def render(results: Results, plan: Plan, filesystem: str) -> Table:
    """Return the table: figures, pond's ratios, bar, verdict."""
    scale = "" if plan.scale == 1 else f", sizes × {plan.scale:g}"
    title = f"{filesystem}, {os.cpu_count()} CPUs, kernel {platform.release()}{scale}"
    table = Table(title=title, title_justify="left")
    table.add_column("work")
    names = [target.name for target in plan.targets]
    for heading in ("unit", *names, "pond/bare", "pond/ext4"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("bar", no_wrap=True)
    table.add_column("", no_wrap=True)
    for row in ROWS.values():
        if row.name not in results.figures:
            continue
        figures = results.medians(row.name)
        ratios = [ratio(figures, other) for other in ("bare", "ext4")]
        table.add_row(
            row.work,
            row.unit,
            *(_figure(figures.get(name)) for name in names),
            *("" if each is None else f"{each:.2f}" for each in ratios),
            row.bar_text(),
            _verdict(row, figures),
        )
    return table


def _figure(value: float | None) -> str:
    if value is None:
        return ""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.3f}"


def _verdict(row: Row, figures: dict[str, float]) -> str:
    met = row.is_met(figures)
    colour = {True: "green", False: "bold red", None: ""}[met]
    return f"[{colour}]{_VERDICTS[met]}[/]" if colour else ""


def summary(results: Results) -> str:
    """Return the one line that says how the bars were met."""
    verdicts = {name: ROWS[name].is_met(results.medians(name)) for name in results.figures}
    missed = [name for name, met in verdicts.items() if met is False]
    met_count = sum(met is True for met in verdicts.values())
    text = f"bars: {met_count} met, {len(missed)} missed"
    text = f"{text}: {', '.join(missed)}" if missed else text
    broken = [name for name, targets in results.failures.items() if "pond" in targets]
    return f"{text}; failed: {', '.join(broken)}" if broken else text


def arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench", description="Compare pond, bare FUSE and ext4.")
    parser.add_argument(
        "--json", nargs="?", const="-", metavar="FILE", help="write JSON too; alone: only JSON"
    )
    parser.add_argument("--only", nargs="+", metavar="NAME", help="workloads or rows")
    parser.add_argument("--scale", type=float, default=1.0, help="multiply all sizes by this")
    parser.add_argument("--rounds", type=int, help="repeat every workload this often")
    parser.add_argument("--quick", action="store_true", help="the same as --scale 0.1 --rounds 1")
    parser.add_argument("--targets", default="pond,bare,ext4", help="some of pond,bare,ext4")
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
    screen = Console(stderr=True)
    with tempfile.TemporaryDirectory(prefix="pond-bench-", dir=chosen.dir) as folder:
        base = Path(folder)
        filesystem = harness.run(["stat", "-f", "-c", "%T", base]).stdout.strip()
        filesystem = {"ext2/ext3": "ext4"}.get(filesystem, filesystem)
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
        text = json.dumps(report(results, plan, filesystem), indent=2)
        if chosen.json == "-":
            print(text)
            return
        Path(chosen.json).write_text(text + "\n")
    console = Console(width=None if sys.stdout.isatty() else 150)
    console.print(render(results, plan, filesystem))
    for name, by_target in results.failures.items():
        for target_name, why in by_target.items():
            console.print(f"failed: {name} on {target_name}: {why}", style="red", markup=False)
    console.print(summary(results), highlight=False)


if __name__ == "__main__":
    main()
