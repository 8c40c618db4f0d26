"""The lines at the end of a run say what was done, and hide nothing."""

from __future__ import annotations

from typing import Literal

import pytest

from tests.campaign import NAMED, TOLD, Campaign, lines_of


def report(
    name: str,
    *properties: tuple[str, object],
    outcome: Literal["passed", "failed", "skipped"] = "passed",
    when: Literal["setup", "call", "teardown"] = "call",
) -> pytest.TestReport:
    return pytest.TestReport(
        f"tests/x/test_x.py::{name}", ("test_x.py", 1, name), {"campaign": 1}, outcome, None, when,
        user_properties=list(properties),
    )  # fmt: skip


def test_a_campaign_tells_a_line() -> None:
    told: list[tuple[str, object]] = []
    campaign = Campaign(True, lambda name, value: told.append((name, value)))
    assert campaign.rounds(suite=1, long=1000) == 1000
    campaign.tell("cuts", rounds=1000, faults=2, losses=0, note="3 acknowledged")
    (line,) = lines_of([report("test_a", *told), report("test_a", *told, when="teardown")])
    assert line.split() == "cuts 1,000 rounds 2 faults 0 losses (3 acknowledged)".split()


def test_seeds_are_counted() -> None:
    named = (NAMED, "pruned ponds")
    (line,) = lines_of([report(f"test_a[{seed}]", named) for seed in range(25)])
    assert line.split() == "pruned ponds 25 rounds 0 faults 0 losses".split()


def test_a_failure_has_a_line() -> None:
    named = (NAMED, "pruned ponds")
    reports = [report(f"test_a[{seed}]", named) for seed in range(25)]
    reports += [report("test_a[25]", named, outcome="failed"), report("test_b", outcome="failed")]
    seeds, other = lines_of(reports)
    assert seeds.split() == "pruned ponds FAILED: test_a[25]".split()
    assert other.split() == "test_x.py::test_b FAILED: test_b".split()


def test_a_teardown_that_fails_has_a_line_beside_what_was_told() -> None:
    told = (TOLD, "cuts 3 rounds")
    reports = [report("test_a", told), report("test_a", told, outcome="failed", when="teardown")]
    assert lines_of(reports) == [
        "cuts 3 rounds", f"{'test_x.py::test_a':<38} FAILED: test_a",
    ]  # fmt: skip


def test_a_campaign_that_was_skipped_has_a_line() -> None:
    """Beside those of its seeds that were not."""
    named = (NAMED, "pruned ponds")
    reports = [report(f"test_a[{seed}]", named) for seed in range(25)]
    reports += [report(f"test_a[{seed}]", named, outcome="skipped") for seed in range(25, 30)]
    reports += [report("test_b", outcome="skipped", when="setup")]
    assert [line.split() for line in lines_of(reports)] == [
        "pruned ponds 25 rounds 0 faults 0 losses".split(),
        "pruned ponds SKIPPED: test_a[25], test_a[26], test_a[27] and 2 more".split(),
        "test_x.py::test_b SKIPPED: test_b".split(),
    ]


def test_silence_has_a_line() -> None:
    (line,) = lines_of([report("test_a")])
    assert line.split() == "test_x.py::test_a told nothing".split()
