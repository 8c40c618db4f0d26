"""What ``pond check`` and ``pond repair`` have in common: how findings are told."""

import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pondfs.cli.output import Tell, format_count, format_size
from pondfs.cli.reach import find_place
from pondfs.control.reach import Place, locate
from pondfs.errors import BeyondRepair, NeedsRepair

if TYPE_CHECKING:
    from pondfs.store.check import Finding, Report

_TELL_EVERY_S = 0.2


def find_store(named: str | None) -> Place:
    """Return the pond that is meant: *named*, else as for any command."""
    return find_place() if named is None else locate(named, {})


def hush() -> None:
    """Keep the store from saying in the log what comes as findings and notes."""
    logging.getLogger("pondfs.store").setLevel(logging.ERROR)


def telling(tell: Tell) -> Callable[[str, float], None]:
    """Return what a check tells how far it is, for the terminal."""
    last_s = 0.0

    def progress(what: str, share: float) -> None:
        nonlocal last_s
        now_s = time.monotonic()
        if now_s - last_s >= _TELL_EVERY_S:
            last_s = now_s
            tell(f"{what} … {share:.0%}" if share else what)

    return progress


def tell_report(report: "Report") -> None:
    """Print what was found, for people."""
    for finding in report.findings:
        tell_finding(finding)
    for note in report.notes:
        click.echo(f"note: {_one_line(note)}")
    counts = (
        f"{_count(report.versions, 'version')}, {_count(report.nodes, 'node')}, "
        f"{_count(report.data_files, 'data file')} ({format_size(report.data_bytes)})"
    )
    read = f", {format_size(report.read_bytes)} read" if report.read_bytes else ""
    click.echo(f"{report.verdict}: {counts}{read}")
    if report.tree_hash:
        click.echo(f"tree at version {report.version}: {report.tree_hash}")


def tell_finding(finding: "Finding") -> None:
    """Print one finding, in one line."""
    colour = "yellow" if finding.repairable else "red"
    click.echo(click.style(f"{finding.invariant}: ", fg=colour) + _one_line(finding.message))


def raise_verdict(report: "Report", store: Path) -> None:
    """End with the exit code that tells what was found. Raises: NeedsRepair, BeyondRepair."""
    found = _count(len(report.findings), "finding")
    if report.verdict == "repairable":
        raise NeedsRepair(f"{found}: unmount, then 'pond repair {store}' mends all of it")
    if report.verdict == "damaged":
        beyond = sum(not finding.repairable for finding in report.findings)
        raise BeyondRepair(
            f"{found}, {format_count(beyond)} of them beyond repair: restore what they name from "
            "a backup"
        )


def _count(number: int, what: str) -> str:
    return f"{format_count(number)} {what}{'' if number == 1 else 's'}"


def _one_line(text: str) -> str:
    line = " ".join(text.split())
    # A name in it, which anybody may have given to a file, must not speak to the terminal.
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in line)
