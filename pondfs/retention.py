"""Which versions to keep: restic's rules, over the list of versions alone.

Each rule keeps versions by itself, and what any rule keeps is kept. ``--keep-daily 7`` keeps the
newest version of each of the seven newest days *that have one*; days without any do not count, so
a pond that rested for a month loses nothing. While there are fewer than seven, the oldest version
stays too. Periods are UTC, weeks are ISO weeks.

Versions have an order that is certain and times that are what some clock said. A time that does not
fit the order, or is still to come, was told by a clock that was wrong: such a version uses up no
rule, and the others are kept as if it were not there.

Source: restic 0.17, "Removing backup snapshots", ``restic forget``.
"""

import re
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import UTC, datetime

from pondfs.errors import UsageError
from pondfs.node import Version

UNLIMITED = -1

_NS = 10**9
_DURATION = re.compile(r"(?:(\d+)y)?(?:(\d+)m)?(?:(\d+)d)?(?:(\d+)h)?", re.ASCII)
_SLACK_NS = 3600 * _NS  # a clock that much ahead does no harm; NTP may just have set it right
_MOST = 10_000  # of a unit; more would leave the calendar


@dataclass(frozen=True, slots=True)
class Duration:
    """A span of the calendar, as ``2y5m7d3h`` says it: months have the length they have."""

    years: int = 0
    months: int = 0
    days: int = 0
    hours: int = 0

    def before(self, time_ns: int) -> int:
        """Return the instant this long before *time_ns*."""
        moment = datetime.fromtimestamp(time_ns // _NS, UTC)
        month = moment.year * 12 + moment.month - 1 - self.years * 12 - self.months
        if month < 12 * 1970:
            return 0
        # As Go's AddDate, which restic uses: a 31st that is not there runs into the next month.
        first = datetime(month // 12, month % 12 + 1, 1, tzinfo=UTC)
        day_ns = int(first.timestamp()) * _NS + (moment.day - 1) * 86400 * _NS
        in_day_ns = time_ns % (86400 * _NS)
        return day_ns + in_day_ns - (self.days * 24 + self.hours) * 3600 * _NS


@dataclass(frozen=True, slots=True)
class Policy:
    """How much to keep. 0: the rule is not used; `UNLIMITED`: as much as there is.

    Attributes:
        last: the newest versions.
        hourly daily weekly monthly yearly: the newest version of so many periods that have one.
        within: every version that is at most so much older than the newest.
    """

    last: int = 0
    hourly: int = 0
    daily: int = 0
    weekly: int = 0
    monthly: int = 0
    yearly: int = 0
    within: Duration | None = None

    @property
    def is_empty(self) -> bool:
        """Whether no rule is used, so that nothing would be kept."""
        return not any(getattr(self, field.name) for field in fields(self))


def parse_count(text: str) -> int:
    """Return what ``--keep-daily`` and its like are given: a number, -1 or ``unlimited``.

    Raises: UsageError.
    """
    if text in ("unlimited", "-1"):
        return UNLIMITED
    if not re.fullmatch(r"\d{1,9}", text, re.ASCII):
        raise UsageError(f"'{text}' is no number of versions: use 7, or unlimited")
    return int(text)


def parse_duration(text: str) -> Duration:
    """Return the span ``2y5m7d3h`` says; any of its parts may be missing.

    Raises: UsageError.
    """
    found = _DURATION.fullmatch(text)
    parts = [int(part or 0) for part in found.groups()] if found else []
    if not any(parts) or max(parts) > _MOST:
        raise UsageError(
            f"'{text}' is no duration: use years, months, days and hours in this order, "
            "as in 2y5m7d3h or 30d"
        )
    return Duration(*parts)


def choose(
    versions: Sequence[Version],
    times_ns: Sequence[int],
    policy: Policy,
    pinned: Mapping[Version, Sequence[str]],
    now_ns: int | None = None,
) -> dict[Version, list[str]]:
    """Return the versions to keep, ascending, each with the reasons.

    The newest and the pinned ones are always among them. Where clocks were wrong (see the module)
    it keeps too much rather than too little, whichever of them it was: also if it is *now_ns*.

    Args:
        versions: all versions, ascending.
        times_ns: when each was committed, parallel.
        policy: the rules.
        pinned: versions with tags, and the tags.
        now_ns: no version is (much) later than this; None when nobody knows.
    Raises: UsageError when there is no rule at all.
    """
    if policy.is_empty:
        raise UsageError("say what to keep: --keep-last 100, --keep-daily 30, --keep-within 1y …")
    if not versions:
        return {}
    fits = _in_order(times_ns, now_ns)
    reasons: dict[Version, list[str]] = {version: [] for version in versions}
    for version, tags in pinned.items():
        if version in reasons:
            reasons[version].extend(f"tag {tag}" for tag in tags)
    for version in versions[-policy.last :] if policy.last > 0 else versions if policy.last else ():
        reasons[version].append("last")
    for rule, period_of in _PERIODS.items():
        left: int = getattr(policy, rule)
        last: tuple[int, ...] = ()
        seen: set[tuple[int, ...]] = set()
        for at in range(len(versions) - 1, -1, -1):
            if not left:
                break
            period = period_of(datetime.fromtimestamp(times_ns[at] // _NS, UTC))
            # One whose time is wrong neither takes the place of a right one nor uses one up.
            if period != last if fits[at] else period not in seen:
                left -= left > 0 and fits[at]
                reasons[versions[at]].append(rule)
            elif at == 0:
                reasons[versions[at]].append(f"oldest {rule}")
            seen.add(period)
            last = period if fits[at] else last
    if policy.within is not None:
        _keep_within(policy.within, versions, times_ns, fits, reasons)
    if not reasons[versions[-1]]:
        reasons[versions[-1]].append("newest")
    return {version: why for version, why in reasons.items() if why}


def _keep_within(
    within: Duration,
    versions: Sequence[Version],
    times_ns: Sequence[int],
    fits: Sequence[bool],
    reasons: dict[Version, list[str]],
) -> None:
    # As in restic, a span counts from the newest version and not from now: a pond at rest keeps
    # what it has. Of the times that might be the newest's, the earliest keeps most.
    likely = [time_ns for time_ns, fit in zip(times_ns, fits, strict=True) if fit]
    since = within.before(min([times_ns[-1], *likely[-1:]]))
    later = None
    for at in range(len(versions) - 1, -1, -1):
        if fits[at]:
            later = times_ns[at]
        # A wrong time says nothing; but it was not after the next right one.
        if later is None or later > since:
            reasons[versions[at]].append("within")


def _in_order(times_ns: Sequence[int], now_ns: int | None) -> list[bool]:
    """Return for each version whether its time fits: most of them that follow each other."""
    # For each length, the run so far of that length that ends earliest: its end, and where.
    ends: list[int] = []
    last: list[int] = []
    before: list[int] = []
    for at, time_ns in enumerate(times_ns):
        if now_ns is not None and time_ns > now_ns + _SLACK_NS:
            before.append(-1)
            continue
        length = bisect_right(ends, time_ns)
        before.append(last[length - 1] if length else -1)
        ends[length : length + 1], last[length : length + 1] = [time_ns], [at]
    fits = [False] * len(times_ns)
    at = last[-1] if last else -1
    while at >= 0:
        fits[at] = True
        at = before[at]
    return fits


_PERIODS: dict[str, Callable[[datetime], tuple[int, ...]]] = {
    "hourly": lambda moment: (moment.year, moment.month, moment.day, moment.hour),
    "daily": lambda moment: (moment.year, moment.month, moment.day),
    "weekly": lambda moment: moment.isocalendar()[:2],
    "monthly": lambda moment: (moment.year, moment.month),
    "yearly": lambda moment: (moment.year,),
}
