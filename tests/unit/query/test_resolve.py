"""Texts to versions, with what a pond has."""

from pathlib import Path

import pytest

from pondfs.errors import NoSuchVersion, NotAPond
from pondfs.node import Version
from pondfs.query.session import Session
from pondfs.store.resolve import resolve_version
from tests.unit.store.support import adopt, file_row, make_cut, new_pond, open_pond

HOUR_NS = 3600 * 10**9
DAY_NS = 24 * HOUR_NS
NOON_NS = 20_000 * DAY_NS + 12 * HOUR_NS  # 2024-10-04


@pytest.fixture
def path(tmp_path: Path) -> Path:
    store = new_pond(tmp_path / "pond")
    for version in (2, 3, 4):
        cut = make_cut(version, [file_row(version + 10, b"x", b"%d" % version)])
        cut.time_ns = NOON_NS + (version - 4) * HOUR_NS + (100 * 365 * DAY_NS)
        adopt(store.commit(cut))
    store.put_tag("release", Version(3))
    store.close()
    return tmp_path / "pond"


NOW_NS = NOON_NS + 100 * 365 * DAY_NS + HOUR_NS // 2


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("1", 1), ("v2", 2), ("latest", 4), ("release", 3), ("1h-ago", 3), ("1m-ago", 4),
        ("2h-ago", 2), ("yesterday", 1),
    ],
)  # fmt: skip
def test_what_a_text_means(path: Path, text: str, version: int) -> None:
    assert resolve_version(path, text, NOW_NS) == version


@pytest.mark.parametrize("text", ["5", "0", "nope", "1999", "", "../etc", "'; DROP"])
def test_what_means_no_version(path: Path, text: str) -> None:
    with pytest.raises(NoSuchVersion):
        resolve_version(path, text, NOW_NS)


def test_what_came_later_does_not_count(path: Path) -> None:
    for text in ("latest", "1h-ago", "1m-ago", "release"):
        assert resolve_version(path, text, NOW_NS, Version(3)) == 3
    with pytest.raises(NoSuchVersion):
        resolve_version(path, "4", NOW_NS, Version(3))


def test_a_session_knows_no_version_that_came_after_it(path: Path) -> None:
    with Session(path) as session:
        store = open_pond(path)
        adopt(store.commit(make_cut(5, [file_row(99, b"x", b"late")])))
        store.close()
        for when in ("latest", "4"):
            sql = f"SELECT count(*) AS n FROM nodes_at('{when}')"
            assert session.sql(sql).table().to_pylist() == [{"n": 4}]
        with pytest.raises(NoSuchVersion):
            session.sql("SELECT * FROM nodes_at('5')")


def test_no_pond(tmp_path: Path) -> None:
    with pytest.raises(NotAPond):
        resolve_version(tmp_path, "latest", NOW_NS)
