"""The grammar of times and versions."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pondfs.errors import NoSuchVersion
from pondfs.node import Version
from pondfs.when import Moment, parse, resolve, span

NS = 10**9
NOW = datetime(2026, 6, 21, 12, 5, 30, tzinfo=UTC)
NOW_NS = int(NOW.timestamp()) * NS


def before(*args: int) -> Moment:
    return Moment(int(datetime(*args, tzinfo=UTC).timestamp()) * NS)  # type: ignore[misc,arg-type]  # ends of the call's types


@pytest.mark.parametrize(
    ("text", "meaning"),
    [
        ("42", Version(42)),
        ("v42", Version(42)),
        ("1969", Version(1969)),
        ("2026", before(2027, 1, 1)),
        ("v2026", Version(2026)),
        ("20260", Version(20260)),
        ("2026-06", before(2026, 7, 1)),
        ("2026-12", before(2027, 1, 1)),
        ("2026-06-20", before(2026, 6, 21)),
        ("2026-06-20T12", before(2026, 6, 20, 13)),
        ("2026-06-20T1205", before(2026, 6, 20, 12, 6)),
        ("2026-06-20T12:05", before(2026, 6, 20, 12, 6)),
        ("2026-06-20 12:05", before(2026, 6, 20, 12, 6)),
        ("2026-06-20T120500Z", before(2026, 6, 20, 12, 5, 1)),
        ("2026-06-20T12:05:00+02:00", before(2026, 6, 20, 10, 5, 1)),
        ("2026-06-20T1205-0130", before(2026, 6, 20, 13, 36)),
        ("2026-06-20T120500.250Z", Moment(before(2026, 6, 20, 12, 5).before_ns + 251 * 10**6)),
        ("@1750420800", Moment(1750420801 * NS)),
        ("@1750420800.5", Moment(1750420800 * NS + 6 * 10**8)),
        ("10m-ago", Moment(NOW_NS - 600 * NS + 1)),
        ("2h-ago", Moment(NOW_NS - 7200 * NS + 1)),
        ("3d-ago", Moment(NOW_NS - 3 * 86400 * NS + 1)),
        ("yesterday", before(2026, 6, 21)),
        ("latest", None),
    ],
)
def test_meanings(text: str, meaning: object) -> None:
    assert parse(text, NOW_NS) == meaning


@pytest.mark.parametrize(
    "text",
    ["", "tomorrow", "-1", "2026-13", "2026-02-30", "2026-6-1", "10x-ago", "ago", "@", "v", "1:2",
     "2026-06-20T25", "9999-12-31T2400", "９"],
)  # fmt: skip
def test_what_is_not_understood(text: str) -> None:
    with pytest.raises(NoSuchVersion):
        parse(text, NOW_NS)


VERSIONS = [Version(number) for number in (1, 2, 4, 5)]
TIMES = [int((NOW - timedelta(hours=hours)).timestamp()) * NS for hours in (50, 30, 10, 1)]


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("latest", 5),
        ("4", 4),
        ("2h-ago", 4),
        ("1h-ago", 5),
        ("yesterday", 2),
        ("2026", 5),
        ("2026-06-19", 1),
        ("2d-ago", 1),
    ],
)
def test_versions_found(text: str, version: int) -> None:
    assert resolve(text, VERSIONS, TIMES, NOW_NS) == version


@pytest.mark.parametrize("text", ["3", "0", "6", "2025", "51h-ago", "@0"])
def test_versions_not_found(text: str) -> None:
    with pytest.raises(NoSuchVersion):
        resolve(text, VERSIONS, TIMES, NOW_NS)


def test_a_clock_set_back_hides_nothing() -> None:
    """Version 3 was committed 'before' version 2; the time after 2 still means the newest."""
    assert (
        resolve("@200", [Version(1), Version(2), Version(3)], [NS, 150 * NS, 90 * NS], NOW_NS) == 3
    )


# Hypothesis wants naive limits and adds the zone itself.
@given(st.datetimes(datetime(1971, 1, 1), datetime(9000, 1, 1)))  # noqa: DTZ001
def test_a_written_second_is_that_second(moment: datetime) -> None:
    text = moment.strftime("%Y-%m-%dT%H%M%SZ").rjust(18, "0")
    end = int(moment.replace(microsecond=0, tzinfo=UTC).timestamp()) + 1
    assert parse(text, NOW_NS) == Moment(end * NS)


@given(st.text(max_size=30))
def test_any_text_is_a_version_or_refused(text: str) -> None:
    try:
        resolve(text, VERSIONS, TIMES, NOW_NS)
    except NoSuchVersion:
        pass


@pytest.mark.parametrize(
    ("since", "until", "expected"),
    [
        (None, None, [1, 2, 4]),
        ("2", None, [2, 4]),
        ("3", "3", []),
        ("latest", "latest", [4]),
        ("2026-06-20", None, [2, 4]),
        ("2026-06-19", "2026-06-20", [1, 2]),
        ("2026-06-20T1300", None, [4]),
        ("@1781956800", "@1781956800", [2]),
        ("@1781956800.5", None, [4]),
        ("yesterday", None, [2, 4]),
        (None, "yesterday", [1, 2]),
        ("1h-ago", None, [4]),
        ("4", "2", []),
    ],
)
def test_spans(since: str | None, until: str | None, expected: list[int]) -> None:
    noon_ns = 1781956800 * NS  # 2026-06-20T12:00:00Z
    versions = [Version(1), Version(2), Version(4)]
    times = [noon_ns - 86400 * NS, noon_ns, noon_ns + 86400 * NS]
    first, last = span(since, until, versions, times, noon_ns + 86400 * NS + 60 * NS)
    assert versions[first:last] == expected
