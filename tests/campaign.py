"""A campaign: a test that does a little in the suite and much in `make test-long`.

    def test_power_cuts(campaign: Campaign) -> None:
        for number in range(campaign.rounds(suite=5, long=50)):
            ...
        campaign.tell("power cuts", rounds=number + 1, faults=cuts, losses=0)

What it tells is a line at the end of the run, that of `make test-long` being the evidence.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


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
        tail = f"  ({note})" if note else ""
        line = f"{name:<38} {rounds:>7,} rounds {faults:>7,} faults {losses:>3} losses{tail}"
        self.record("campaign", line)
