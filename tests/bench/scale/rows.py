"""Short ways to say what a figure is."""

from __future__ import annotations

from tests.bench.bars import Bar, Row


def at_most(name: str, work: str, unit: str, limit: float, against: str = "") -> Row:
    """A cost with a bar."""
    return Row(name, work, unit, Bar(limit, against), more_is_better=False)


def at_least(name: str, work: str, unit: str, limit: float, against: str = "") -> Row:
    """A rate with a bar."""
    return Row(name, work, unit, Bar(limit, against))


def told(name: str, work: str, unit: str) -> Row:
    """A cost that has no bar, and is there to understand the others."""
    return Row(name, work, unit, more_is_better=False)


def told_rate(name: str, work: str, unit: str) -> Row:
    """A rate that has no bar."""
    return Row(name, work, unit)
