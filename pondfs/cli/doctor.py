"""``pond doctor``: what a pond stands on, and what to do about it."""

import os
import textwrap
from collections import Counter
from typing import Any

import click

from pondfs.cli.output import print_json
from pondfs.cli.reach import find_named, pond_option
from pondfs.doctor.examine import examine
from pondfs.doctor.finding import SEVERITIES, Finding, worst
from pondfs.errors import NeedsCare, NeedsMending

EXIT_CODES = {
    "ok": 0,
    "note": 0,
    "warning": NeedsCare.exit_code,
    "error": NeedsMending.exit_code,
}

_COLOURS = {"ok": "green", "note": "cyan", "warning": "yellow", "error": "red"}

_SEVERITY_WIDTH = max(map(len, SEVERITIES)) + 2
_LOOK_WIDTH = 15
_WIDTH = 100


@click.command("doctor")
@click.argument("store", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option("-v", "--verbose", is_flag=True, help="Say as well what is as it should be.")
@click.option(
    "--timeout", "timeout_s", metavar="S", type=click.FloatRange(min=0.1), default=10.0,
    help="Give up what does not answer in S seconds (10).",
)  # fmt: skip
@pond_option
def command(store: str | None, as_json: bool, verbose: bool, timeout_s: float) -> int:
    """Look at the machine and at a pond's surroundings, and say what is wrong and what to do.

    FUSE, libraries, clock; mounts whose daemon is gone or hangs; the lock; the disk the store is
    on, its room and its promises; the log, the journal, and what a crash left. It works without a
    pond, and gives up what says nothing for --timeout (Python itself may take a minute to start).
    It changes nothing in a pond; a file is made, synced and removed beside its log, to see whether
    the disk takes commits. Exit code 0: nothing worse than a note; 15: a warning; 16: an error.
    What is in the store is read by pond check.

    \b
    Example:
      pond doctor
      pond doctor -v /srv/pond
      pond doctor --json | jq '.findings[] | select(.severity == "error")'
    """
    found = examine(store if store is not None else find_named(), os.environ, timeout_s)
    verdict = worst(found.findings)
    if as_json:
        print_json(
            {
                "store": str(found.store),
                "mountpoint": None if found.mountpoint is None else str(found.mountpoint),
                "verdict": verdict,
                "findings": [finding.record() for finding in found.findings],
            }
        )
    else:
        for finding in found.findings:
            if verbose or finding.severity != "ok":
                _print(finding)
        click.echo(_sum(found.findings))
    return EXIT_CODES[verdict]


def _print(finding: Finding) -> None:
    """Print what was seen beside how bad it is, and what to do below."""
    severity = click.style(finding.severity.ljust(_SEVERITY_WIDTH), fg=_COLOURS[finding.severity])
    margin = _SEVERITY_WIDTH + _LOOK_WIDTH
    first, *rest = _wrapped(finding.message, _WIDTH - margin)
    click.echo(severity + finding.look.ljust(_LOOK_WIDTH) + first)
    lines = rest
    if finding.advice:
        lines += _wrapped(f"→ {finding.advice}" + ":" * bool(finding.command), _WIDTH - margin)
    if finding.command:
        lines.append(f"    {_printable(finding.command)}")
    for line in lines:
        click.echo(" " * margin + line)


def _wrapped(text: str, width: int) -> list[str]:
    # Names are not cut: they are there to be copied.
    return textwrap.wrap(
        _printable(text), width, break_long_words=False, break_on_hyphens=False
    ) or [""]  # fmt: skip


def _printable(text: str) -> str:
    """Return *text* so that a name in it does not speak to the terminal."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _sum(findings: list[Finding]) -> str:
    counts: Any = Counter(finding.severity for finding in findings)
    told = [
        f"{counts[severity]} {severity}{'s' * (counts[severity] != 1)}"
        for severity in ("error", "warning", "note")
        if counts[severity]
    ]
    fine = f"{counts['ok']} {'looks' if counts['ok'] != 1 else 'look'} found all as it should be"
    return f"{', '.join(told) or 'nothing to do'}; {fine}"
