"""Values are counted where Prometheus would look for them."""

from pondfs.histogram import Histogram


def test_bounds_are_inclusive() -> None:
    histogram = Histogram((1.0, 10.0))
    for value in (0.5, 1.0, 1.5, 10.0, 10.5, 1e9):
        histogram.note(value)
    assert histogram.counts == [2, 2, 2]
    assert histogram.count == 6
    assert histogram.sum == 0.5 + 1.0 + 1.5 + 10.0 + 10.5 + 1e9


def test_a_copy_is_of_its_moment() -> None:
    histogram = Histogram((1.0,))
    histogram.note(1.0)
    copy = histogram.copy()
    histogram.note(2.0)
    assert (copy.counts, copy.sum) == ([1, 0], 1.0)
    assert (histogram.counts, histogram.sum) == ([1, 1], 3.0)
