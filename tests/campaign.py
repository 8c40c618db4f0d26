"""A campaign: a test that does a little in the suite and much in `make test-long`.

    @pytest.mark.campaign
    def test_power_cuts(campaign: Campaign) -> None:
        for number in range(campaign.rounds(suite=5, long=50)):
            ...
        campaign.tell("power cuts", rounds=number + 1, faults=cuts, losses=0)

What it tells is a line at the end of the run, that of `make test-long` being the evidence. One that
does the same with many seeds is a test for each:

    @pytest.mark.campaign("pruned ponds", suite=25, long=300)
    def test_kept_versions_are_as_they_were(seed: int) -> None: ...

Its line counts them. A campaign that failed has a line that says so, and so has one that was
skipped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import pytest

TOLD, NAMED = "campaign", "campaign of seeds"
"""Names of properties in a test's report: a line it told; the name that its marker has."""


@dataclass(frozen=True)
class Campaign:
    """How much a test is to do, and what it tells at its end. The fixture `campaign` gives it."""

    long: bool
    """Whether this is `make test-long`: `pytest --long`."""

    record: Callable[[str, object], None]

    def rounds(self, suite: int, long: int) -> int:
        """Return how often: in the suite, and in the long run."""
        return long if self.long else suite

    def tell(self, name: str, *, rounds: int, faults: int, losses: int, note: str = "") -> None:
        """Say in one line what was done: *faults* made in *rounds*, and *losses* found.

        A test that finds a loss fails where it finds it: the line of one that ended says 0.
        """
        self.record(TOLD, line_of(name, rounds, faults, losses, note))


def lines_of(reports: Iterable[pytest.TestReport]) -> list[str]:
    """Return what to print of these tests: a line for each campaign."""
    lines: set[str] = set()
    passed: dict[str, int] = {}
    failed: dict[str, list[str]] = {}
    skipped: dict[str, list[str]] = {}
    for report in reports:
        properties = dict(report.user_properties)
        if "campaign" not in report.keywords and TOLD not in properties:
            continue
        name = str(properties.get(NAMED, report.nodeid.rpartition("/")[2]))
        if report.failed:
            failed.setdefault(name, []).append(report.nodeid.rpartition("::")[2])
        elif report.skipped:
            skipped.setdefault(name, []).append(report.nodeid.rpartition("::")[2])
        elif report.when == "call" and report.passed:
            told = {str(value) for key, value in report.user_properties if key == TOLD}
            if NAMED in properties:
                passed[name] = passed.get(name, 0) + 1
            elif not told:
                lines.add(f"{name:<38} told nothing")
            lines |= told
    for name in passed.keys() - failed.keys():
        lines.add(line_of(name, passed[name], 0, 0))
    for what, without in (("FAILED", failed), ("SKIPPED", skipped)):
        for name, tests in without.items():
            more = f" and {len(tests) - 3} more" if len(tests) > 3 else ""
            lines.add(f"{name:<38} {what}: {', '.join(tests[:3])}{more}")
    return sorted(lines)


def line_of(name: str, rounds: int, faults: int, losses: int, note: str = "") -> str:
    """Return the line of one campaign."""
    tail = f"  ({note})" if note else ""
    return f"{name:<38} {rounds:>7,} rounds {faults:>7,} faults {losses:>3} losses{tail}"
