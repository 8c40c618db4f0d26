"""What the kernel's requests took, counted by bits of nanoseconds."""

from pondfs.fuse.timings import BOUNDS_S, Timing


def test_every_time_is_in_its_bucket() -> None:
    """Up to a bound, and above the one before: at each bound's edges, and far beyond both ends."""
    times_ns = [0, 1, 4000, 10**18]
    for bound in BOUNDS_S:
        times_ns += [round(bound * 1e9) - 1, round(bound * 1e9) + 1]
    timing = Timing()
    for took_ns in times_ns:
        timing.counts[took_ns.bit_length()] += 1
        timing.sum_ns += took_ns
    histogram = timing.histogram()
    assert histogram.count == len(times_ns)
    assert histogram.sum == sum(times_ns) / 1e9
    for place, bound in enumerate(BOUNDS_S):
        up_to = sum(took_ns / 1e9 <= bound for took_ns in times_ns)
        assert sum(histogram.counts[: place + 1]) == up_to
