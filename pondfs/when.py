"""Which version a person means: ``42``, ``2026-06-20``, ``10m-ago``, ``yesterday``, a tag.

One grammar for paths (``.pond/at/…``), mount options and commands. Names carry no colons, so that
they pass through Samba and Windows; ISO 8601 with colons is understood as well. Times are UTC
unless they say otherwise. A coarse time means its whole period, and so the last version in it.
"""

import re
from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from pondfs.errors import NoSuchVersion, UsageError
from pondfs.node import Version

_VERSION = re.compile(r"v?(\d{1,18})", re.ASCII)
_UNIX = re.compile(r"@(\d{1,11})(?:\.(\d{1,9}))?", re.ASCII)
_AGO = re.compile(r"(\d{1,9})(ms|s|m|h|d|w)-ago", re.ASCII)
_YEAR = re.compile(r"(19[7-9]|2\d\d)\d", re.ASCII)
_TIME = re.compile(
    r"(?P<year>\d{4})"
    r"(?:-(?P<month>\d\d)"
    r"(?:-(?P<day>\d\d)"
    r"(?:[T ](?P<hour>\d\d)"
    r"(?::?(?P<minute>\d\d)"
    r"(?::?(?P<second>\d\d)(?:[.,](?P<fraction>\d{1,9}))?)?)?"
    r"(?P<zone>Z|[+-]\d\d(?::?\d\d)?)?"
    r")?)?)?",
    re.ASCII,
)
_TAG = re.compile(r"[^\W\d_][\w.+=@-]{0,127}")
_UNITS_S = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
_NS = 10**9


@dataclass(frozen=True, slots=True)
class Moment:
    """The last version before an instant.

    Attributes:
        before_ns: nanoseconds since 1970 UTC; versions at or after it do not count.
    """

    before_ns: int


When = Version | Moment
"""What a text means before a pond is asked."""


NO_TAGS: Mapping[str, Version] = {}


def check_tag_name(name: str) -> None:
    """Refuse a name that could not stand where a version is named.

    Raises: UsageError.
    """
    if not _TAG.fullmatch(name) or ".." in name:
        raise UsageError(
            f"'{name}' is no tag name: use up to 128 letters, digits and . _ + = @ -, "
            "beginning with a letter, without '..'"
        )
    try:
        parse(name, 0)
    except NoSuchVersion:
        return
    raise UsageError(f"'{name}' is no tag name: it already means a version or a time")


def parse(text: str, now_ns: int, tags: Mapping[str, Version] = NO_TAGS) -> When | None:
    """Return what *text* means at *now_ns*; None for ``latest``.

    ``42`` and ``v42`` are versions; four digits alone are one, too, unless they are a year from
    1970 on: ``2026`` is the year, ``v2026`` the version.

    Raises: NoSuchVersion saying what would be understood.
    """
    if text == "latest":
        return None
    if text in tags:
        return tags[text]
    if text == "yesterday":
        today = datetime.fromtimestamp(now_ns // _NS, UTC).date()
        midnight = datetime(today.year, today.month, today.day, tzinfo=UTC)
        return Moment(_ns(midnight))
    if found := _UNIX.fullmatch(text):
        digits = found[2] or ""
        step = 10 ** (9 - len(digits))
        return Moment(int(found[1]) * _NS + int((digits or "0").ljust(9, "0")) + step)
    if found := _AGO.fullmatch(text):
        return Moment(now_ns - int(int(found[1]) * _UNITS_S[found[2]] * _NS) + 1)
    year_alone = _YEAR.fullmatch(text)
    if not year_alone and (found := _VERSION.fullmatch(text)):
        return Version(int(found[1]))
    if found := _TIME.fullmatch(text):
        try:
            return Moment(_period(found)[1])
        except (ValueError, OverflowError) as error:
            raise NoSuchVersion(f"'{text}' is no time: {error}") from None
    raise NoSuchVersion(
        f"'{text}' names no version: use a number (42), a UTC time (2026-06-20, "
        "2026-06-20T1205), @SECONDS, 10m-ago, 3d-ago, yesterday, latest, or a tag"
    )


def resolve(
    text: str,
    versions: Sequence[Version],
    times_ns: Sequence[int],
    now_ns: int,
    tags: Mapping[str, Version] = NO_TAGS,
) -> Version:
    """Return the version *text* means.

    Args:
        text: see `parse`.
        versions: all versions, ascending, without the pruned ones.
        times_ns: when each was committed, parallel; ascending, unless the clock was set back.
        now_ns: what ``ago`` counts from.
        tags: pinned versions, by name.
    Raises: NoSuchVersion: not understood, never committed, pruned, or before the first commit.
    """
    when = parse(text, now_ns, tags)
    if not versions:
        raise NoSuchVersion("the pond has no version yet")
    if when is None:
        return versions[-1]
    if isinstance(when, Moment):
        # A clock that was set back must not hide versions: a later one counts as not earlier.
        at = bisect_left(_ascending(times_ns), when.before_ns)
        if at == 0:
            raise NoSuchVersion(f"'{text}' is before the pond's first version")
        return versions[at - 1]
    at = bisect_right(versions, when)
    if at == 0 or versions[at - 1] != when:
        raise NoSuchVersion(f"there is no version {when} (never made, or pruned): see pond log")
    return when


def span(
    since: str | None,
    until: str | None,
    versions: Sequence[Version],
    times_ns: Sequence[int],
    now_ns: int,
    tags: Mapping[str, Version] = NO_TAGS,
) -> tuple[int, int]:
    """Return the half-open range of *versions* from the first *since* means to the last *until*.

    A version that is not there is a bound all the same. A coarse time counts whole: from the
    first instant of *since* to the last of *until*; ``yesterday`` is since its midnight.

    Args: as of `resolve`.
    Raises: NoSuchVersion: not understood.
    """
    first, last = 0, len(versions)
    if since is not None:
        when = parse(since, now_ns, tags)
        if when is None:
            first = max(0, last - 1)
        elif isinstance(when, Moment):
            first = bisect_left(_ascending(times_ns), begin(since, when, now_ns))
        else:
            first = bisect_left(versions, when)
    if until is not None:
        when = parse(until, now_ns, tags)
        if isinstance(when, Moment):
            last = bisect_left(_ascending(times_ns), when.before_ns)
        elif when is not None:
            last = bisect_right(versions, when)
    return first, max(first, last)


def begin(text: str, when: Moment, now_ns: int) -> int:
    """Return the first nanosecond that *text*, which means *when*, stands for."""
    if text == "yesterday":
        return when.before_ns - 86400 * _NS
    if found := _UNIX.fullmatch(text):
        step: int = 10 ** (9 - len(found[2] or ""))
        return when.before_ns - step
    if _AGO.fullmatch(text):
        return when.before_ns - 1
    found = _TIME.fullmatch(text)
    assert found is not None
    return _period(found)[0]


def _ascending(times_ns: Sequence[int]) -> Sequence[int]:
    highest = 0
    result = []
    for time_ns in times_ns:
        highest = max(highest, time_ns)
        result.append(highest)
    return result


def _period(found: re.Match[str]) -> tuple[int, int]:
    """Return the first nanosecond of the period a written time stands for, and the one after."""
    part = {
        name: int(value) for name, value in found.groupdict().items() if name in _FIELDS and value
    }
    zone = found["zone"]
    shift = timedelta(0)
    if zone and zone != "Z":
        digits = zone[1:].replace(":", "").ljust(4, "0")
        shift = timedelta(hours=int(digits[:2]), minutes=int(digits[2:]))
        shift = shift if zone[0] == "+" else -shift
    start = datetime(
        part["year"],
        part.get("month", 1),
        part.get("day", 1),
        part.get("hour", 0),
        part.get("minute", 0),
        part.get("second", 0),
        tzinfo=UTC,
    )
    if digits := found["fraction"]:
        step: int = 10 ** (9 - len(digits))
        exact = _ns(start - shift) + int(digits.ljust(9, "0"))
        return exact, exact + step
    if "second" in part:
        end = start + timedelta(seconds=1)
    elif "minute" in part:
        end = start + timedelta(minutes=1)
    elif "hour" in part:
        end = start + timedelta(hours=1)
    elif "day" in part:
        end = start + timedelta(days=1)
    elif "month" in part:
        end = start.replace(year=start.year + start.month // 12, month=start.month % 12 + 1)
    else:
        end = start.replace(year=start.year + 1)
    return _ns(start - shift), _ns(end - shift)


_FIELDS = ("year", "month", "day", "hour", "minute", "second")


def _ns(moment: datetime) -> int:
    """Return nanoseconds since 1970, exactly: a float's seconds are good to 200 ns only."""
    delta = moment - datetime(1970, 1, 1, tzinfo=UTC)
    return (delta.days * 86400 + delta.seconds) * _NS + delta.microseconds * 1000
