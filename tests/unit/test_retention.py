from datetime import UTC, datetime, timedelta

import pytest

from pondfs.errors import UsageError
from pondfs.node import Version
from pondfs.retention import (
    UNLIMITED,
    Duration,
    Policy,
    choose,
    parse_count,
    parse_duration,
)

START = datetime(2026, 1, 1, tzinfo=UTC)


def ns(*moments: datetime) -> list[int]:
    return [int(moment.timestamp()) * 10**9 for moment in moments]


def kept(moments: list[datetime], **rules: int | Duration) -> list[int]:
    """Versions are numbered from 0 here, as the moments."""
    versions = [Version(at) for at in range(len(moments))]
    policy = Policy(**rules)  # type: ignore[arg-type]  # one dict for two types
    return list(choose(versions, ns(*moments), policy, {}))


def every(step: timedelta, count: int, start: datetime = START) -> list[datetime]:
    return [start + at * step for at in range(count)]


def test_the_last_ones() -> None:
    assert kept(every(timedelta(0, 1), 10), last=3) == [7, 8, 9]
    assert kept(every(timedelta(0, 1), 2), last=3) == [0, 1]
    assert kept(every(timedelta(0, 1), 4), last=UNLIMITED) == [0, 1, 2, 3]


def test_the_newest_of_each_period_that_has_one() -> None:
    moments = every(timedelta(hours=8), 9)
    assert kept(moments, daily=2) == [5, 8]
    assert kept(moments, daily=99) == [2, 5, 8]
    # Ten days of rest between: they do not count.
    assert kept([*moments, START + timedelta(days=13)], daily=2) == [8, 9]
    assert kept(every(timedelta(minutes=20), 7), hourly=2) == [5, 6]


def test_weeks_are_iso_weeks() -> None:
    sunday, monday = datetime(2026, 1, 4, tzinfo=UTC), datetime(2026, 1, 5, tzinfo=UTC)
    # 2025-12-29 and 2026-01-04 are one week in two years.
    assert kept([datetime(2025, 12, 29, tzinfo=UTC), sunday, monday], weekly=9) == [1, 2]


def test_months_and_years() -> None:
    moments = every(timedelta(days=10), 80)
    months = {(moment.year, moment.month): at for at, moment in enumerate(moments)}
    assert kept(moments, monthly=UNLIMITED) == sorted(months.values())
    assert kept(moments, monthly=3) == sorted(months.values())[-3:]
    years = {moment.year: at for at, moment in enumerate(moments)}
    assert kept(moments, yearly=2) == sorted(years.values())[-2:]


def test_rules_add_up_and_say_so() -> None:
    versions = [Version(at) for at in range(1, 6)]
    times = ns(*every(timedelta(days=1), 5))
    found = choose(versions, times, Policy(last=1, daily=2), {Version(2): ["v1.0", "sent"]})
    assert found == {2: ["tag v1.0", "tag sent"], 4: ["daily"], 5: ["last", "daily"]}


def test_the_newest_is_kept_whatever_the_rules_say() -> None:
    versions = [Version(1), Version(2)]
    times = ns(*every(timedelta(days=1), 2))
    assert choose(versions, times, Policy(within=Duration(hours=1)), {}) == {2: ["within"]}
    assert choose([], [], Policy(last=1), {}) == {}
    assert choose(versions, times, Policy(last=1), {Version(9): ["lost"]}) == {2: ["last"]}


def test_no_rule_at_all_is_refused() -> None:
    with pytest.raises(UsageError, match="say what to keep"):
        choose([Version(1)], [0], Policy(), {Version(1): ["tag"]})


def test_a_span_counts_from_the_newest_version() -> None:
    moments = every(timedelta(days=1), 10, datetime(2000, 3, 1, tzinfo=UTC))
    assert kept(moments, within=Duration(days=3)) == [7, 8, 9]
    assert kept(moments, within=Duration(years=40)) == list(range(10))


def test_calendar_spans() -> None:
    (time_ns,) = ns(datetime(2026, 3, 31, 5, tzinfo=UTC))
    assert [Duration(months=1).before(time_ns)] == ns(datetime(2026, 3, 3, 5, tzinfo=UTC))
    assert [Duration(2, 3, 1, 6).before(time_ns)] == ns(datetime(2023, 12, 29, 23, tzinfo=UTC))


def test_a_clock_that_was_set_back_loses_nothing() -> None:
    """Version 2 was made on the second day, though its clock said 1971."""
    day = timedelta(days=1)
    moments = [START, START + day, datetime(1971, 1, 1, tzinfo=UTC), START + 2 * day]
    assert kept(moments, daily=3) == [0, 2, 3]
    assert kept(moments, within=Duration(days=2)) == [1, 2, 3]


@pytest.mark.parametrize(("text", "count"), [("0", 0), ("7", 7), ("-1", -1), ("unlimited", -1)])
def test_counts(text: str, count: int) -> None:
    assert parse_count(text) == count


@pytest.mark.parametrize("text", ["", "-2", "x", "1.5", "9" * 30])
def test_what_is_no_count(text: str) -> None:
    with pytest.raises(UsageError, match="no number of versions"):
        parse_count(text)


def test_durations() -> None:
    assert parse_duration("2y5m7d3h") == Duration(2, 5, 7, 3)
    assert parse_duration("30d") == Duration(days=30)
    assert parse_duration("12h") == Duration(hours=12)


@pytest.mark.parametrize("text", ["", "d", "7", "3h7d", "0d", "-1d", "1w", "99999999d"])
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(UsageError, match="no duration"):
        parse_duration(text)
