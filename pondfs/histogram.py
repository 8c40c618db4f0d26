"""Histograms: how often something took how long, or how much."""

from bisect import bisect_left
from collections.abc import Mapping
from typing import NamedTuple

COMMIT_BOUNDS_S = (1e-3, 2.5e-3, 5e-3, 10e-3, 25e-3, 50e-3, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""4 ms is what a small commit may take."""

ROW_BOUNDS = (1.0, 3.0, 10.0, 30.0, 100.0, 1e3, 1e4, 1e5, 1e6)
BYTE_BOUNDS = (0.0, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9)


class Histogram:
    """Values by size.

    Attributes:
        bounds: upper bounds, inclusive, ascending.
        counts: how many values were up to each bound and above the one before; the last: above all.
        sum: of all values.
    """

    __slots__ = ("bounds", "counts", "sum")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def note(self, value: float) -> None:
        """Count *value*."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value

    @property
    def count(self) -> int:
        """How many values there were."""
        return sum(self.counts)

    def copy(self) -> "Histogram":
        """Return what it holds now, for another thread."""
        new = Histogram(self.bounds)
        new.counts, new.sum = self.counts.copy(), self.sum
        return new


class Timings(NamedTuple):
    """What requests took, by operation, and how many failed, by operation and errno."""

    seconds: Mapping[str, Histogram]
    errors: Mapping[tuple[str, int], int]
