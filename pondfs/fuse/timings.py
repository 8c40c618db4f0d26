"""How long the kernel's requests take, and how they fail.

pyfuse3 keeps its session in module globals, so there is one mount for each process; and a handler
that finds its counts in its closure need not look for them at each request.

A time is counted by how many bits it has in nanoseconds, which is 0.28 us of a request's 35 to 45,
with the caches as cold as another program leaves them; a search among bounds in seconds is 0.5
(measured 2026-11).
"""

from pondfs.histogram import Histogram, Timings

_BITS = (*range(12, 25), *range(26, 36, 2))
"""Bounds that are told, as powers of two: 4 us, 8 us … 17 ms, then 67 ms, 0.27 s … 17 s."""

BOUNDS_S = tuple(2**bits / 1e9 for bits in _BITS)


class Timing:
    """What the requests of one operation took.

    Attributes:
        counts: how many took so many nanoseconds that they have as many bits as the place says.
        sum_ns: all of them together.
    """

    __slots__ = ("counts", "sum_ns")

    def __init__(self) -> None:
        self.counts = [0] * 65
        self.sum_ns = 0

    def histogram(self) -> Histogram:
        """Return the same in seconds."""
        found = Histogram(BOUNDS_S)
        start = 0
        for place, bits in enumerate((*_BITS, len(self.counts) - 1)):
            # What has that many bits is below the power.
            found.counts[place] = sum(self.counts[start : bits + 1])
            start = bits + 1
        found.sum = self.sum_ns / 1e9
        return found


_timings: dict[str, Timing] = {}
_errors: dict[tuple[str, int], int] = {}


def timing_of(operation: str) -> Timing:
    """Return the counts of an operation."""
    return _timings.setdefault(operation, Timing())


def failed(operation: str, number: int) -> int:
    """Count an answer that is an errno; return that."""
    _errors[operation, number] = _errors.get((operation, number), 0) + 1
    return number


def timings() -> Timings:
    """Return what was counted up to now, for another thread."""
    return Timings({op: found.histogram() for op, found in _timings.items()}, _errors.copy())
