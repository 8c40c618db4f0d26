"""How long the kernel's requests take, and how they fail.

pyfuse3 keeps its session in module globals, so there is one mount for each process; and a handler
that finds its histogram in its closure need not look for it at each request.
"""

from pondfs.histogram import REQUEST_BOUNDS_S, Histogram, Timings

_seconds: dict[str, Histogram] = {}
_errors: dict[tuple[str, int], int] = {}


def histogram_of(operation: str) -> Histogram:
    """Return the histogram of an operation, in seconds."""
    return _seconds.setdefault(operation, Histogram(REQUEST_BOUNDS_S))


def failed(operation: str, number: int) -> int:
    """Count an answer that is an errno; return that."""
    _errors[operation, number] = _errors.get((operation, number), 0) + 1
    return number


def timings() -> Timings:
    """Return what was counted up to now, for another thread."""
    return Timings({op: found.copy() for op, found in _seconds.items()}, _errors.copy())
