"""How Hypothesis runs a campaign: the same examples each time in the suite, new ones at length."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from hypothesis import HealthCheck, settings

from tests.campaign import Campaign

Test = TypeVar("Test", bound=Callable[..., None])


def fuzzing(campaign: Campaign, *, suite: int, long: int) -> Callable[[Test], Test]:
    """Return the settings of one: a failure in the long run prints what repeats it."""
    made: Callable[[Test], Test] = settings(
        max_examples=campaign.rounds(suite, long),
        derandomize=not campaign.long,
        database=None,
        print_blob=True,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    return made
