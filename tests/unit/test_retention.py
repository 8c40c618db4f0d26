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
    # Ten days of rest between: they do not count.
    assert kept([*moments, START + timedelta(days=13)], daily=2) == [8, 9]
    assert kept(every(timedelta(minutes=20), 7), hourly=2) == [5, 6]


def test_the_oldest_stays_while_a_rule_is_not_used_up() -> None:
    """As in restic 0.17."""
    moments = every(timedelta(hours=8), 9)
    assert kept(moments, daily=3) == [2, 5, 8]
    assert kept(moments, daily=4) == kept(moments, daily=UNLIMITED) == [0, 2, 5, 8]
    assert kept(moments, last=3, yearly=1) == [6, 7, 8]
    versions = [Version(at) for at in range(1, 10)]
    found = choose(versions, ns(*moments), Policy(daily=4, monthly=2), {})
    assert found[Version(1)] == ["oldest daily", "oldest monthly"]
    # By itself in its period it is that period's.
    assert kept(every(timedelta(days=1), 3), daily=9) == [0, 1, 2]


def test_weeks_are_iso_weeks() -> None:
    sunday, monday = datetime(2026, 1, 4, tzinfo=UTC), datetime(2026, 1, 5, tzinfo=UTC)
    # 2025-12-29 and 2026-01-04 are one week in two years.
    assert kept([datetime(2025, 12, 29, tzinfo=UTC), sunday, monday], weekly=2) == [1, 2]


def test_months_and_years() -> None:
    moments = every(timedelta(days=10), 80)
    months = {(moment.year, moment.month): at for at, moment in enumerate(moments)}
    assert kept(moments, monthly=UNLIMITED) == [0, *sorted(months.values())]
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


DAY = timedelta(days=1)
DAYS = every(DAY, 60)
WRONG = [START + timedelta(3650), datetime(1971, 1, 1, tzinfo=UTC), DAYS[5], DAYS[55]]


def rules(times: list[datetime], now: datetime | None, **policy: int | Duration) -> set[int]:
    versions = [Version(at) for at in range(len(times))]
    now_ns = None if now is None else ns(now)[0]
    return set(choose(versions, ns(*times), Policy(**policy), {}, now_ns))  # type: ignore[arg-type]  # one dict for two types


@pytest.mark.parametrize("now", [None, DAYS[-1] + DAY])
@pytest.mark.parametrize("wrong", WRONG)
@pytest.mark.parametrize("at", [0, 20, 40, 58])
def test_a_clock_that_was_wrong_once_concerns_that_version_only(
    wrong: datetime, at: int, now: datetime | None
) -> None:
    """One commit in 2036, and a running maximum had all later versions of that day."""
    times = [*DAYS[:at], wrong, *DAYS[at + 1 :]]
    others = [number for number in range(60) if number != at]
    for policy in (
        {"daily": 40}, {"weekly": 3}, {"monthly": 1}, {"within": Duration(days=30)}, {"hourly": 59},
    ):  # fmt: skip
        expected = {others[found] for found in kept([DAYS[number] for number in others], **policy)}
        assert rules(times, now, **policy) - {at} == expected - {at}


@pytest.mark.parametrize("wrong", WRONG)
def test_a_newest_version_with_a_wrong_time_hides_no_other(wrong: datetime) -> None:
    """In 2036, all of what --keep-within 1y keeps was older than that."""
    times = [*DAYS[:-1], wrong]
    now = DAYS[-1] + DAY
    assert rules(times, now, within=Duration(years=1)) == set(range(60))
    assert rules(times, now, within=Duration(days=30)) >= set(range(29, 60))
    assert rules(times, now, daily=40) >= set(range(20, 60))


def test_a_clock_that_was_wrong_for_long_loses_nothing() -> None:
    """Whichever side the many are on (for a span they must be right), also if it is wrong now."""
    for offset in (timedelta(days=-9000), timedelta(days=9000), timedelta(days=200)):
        for start, stop in ((0, 30), (25, 45), (5, 58), (40, 60)):
            times = [*DAYS]
            times[start:stop] = [moment + offset for moment in DAYS[start:stop]]
            for now in (None, DAYS[-1] + DAY, DAYS[-1] + timedelta(300), times[-1] + DAY):
                assert rules(times, now, daily=40) >= set(range(20, 60))
                assert rules(times, now, daily=-1) == set(range(60))
                for days in (15, 25, 50):
                    found = rules(times, now, within=Duration(days=days))
                    # Where most say the same, or nothing contradicts them, they may be right.
                    few = stop - start <= 20
                    if few and (times != sorted(times) or now == DAYS[-1] + DAY):
                        assert found >= set(range(60 - days, 60))
    assert rules(DAYS, datetime(1971, 1, 1, tzinfo=UTC), daily=40) == set(range(60))


def test_an_hour_ahead_is_no_wrong_clock() -> None:
    times = every(timedelta(minutes=1), 10)
    assert rules(times, times[4], daily=1) == {9}


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
