"""The feed of what another process commits."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from deltalake import DeltaTable

from pondfs.errors import StoreDamaged
from pondfs.extent import Content
from pondfs.interfaces import News
from pondfs.node import ROOT, NodeId, Version
from pondfs.oplog import Row
from pondfs.store import news
from pondfs.store.delta import DeltaStore
from pondfs.store.news import LogFeed
from tests.unit.store.support import (
    SYMLINK,
    attr,
    extent_row,
    file_row,
    log_entry,
    make_cut,
    new_pond,
    read_bytes,
    size_row,
)


@pytest.fixture
def writer(tmp_path: Path) -> Iterator[DeltaStore]:
    store = new_pond(tmp_path / "pond")
    yield store
    store.close()


@pytest.fixture
def reader(writer: DeltaStore) -> Iterator[DeltaStore]:
    store = DeltaStore.open_reader(writer.path)
    yield store
    store.close()


@pytest.fixture
def feed(reader: DeltaStore) -> LogFeed:
    return reader.follow()


def commit(store: DeltaStore, version: int, *rows: Row) -> None:
    store.commit(make_cut(version, rows))


def exchange(store: DeltaStore) -> None:
    before = set(DeltaTable(store.path).file_uris())
    DeltaTable(store.path).optimize.compact()
    for uri in before - set(DeltaTable(store.path).file_uris()):
        os.unlink(uri.removeprefix("file://"))


def test_nothing_new(feed: LogFeed) -> None:
    assert feed.read() == News([])
    assert not feed.has_news()


def test_versions_come_whole_and_in_order(
    writer: DeltaStore, reader: DeltaStore, feed: LogFeed
) -> None:
    """Rows as they were committed, staged ones first; contents can be read where they are."""
    staged = writer.stage(Version(2), 0, [extent_row(5, 3, b"staged"), extent_row(5, 9, b"more")])
    target = Content(b"the target", 10)
    writer.commit(
        make_cut(
            2,
            [
                file_row(5, b"one", b"a"),
                Row("create", 1, ROOT, 6, SYMLINK, b"\xff", attr=attr(SYMLINK, 10), offset=0,
                    content=target),
                Row("unlink", 1, ROOT, 7, stat.S_IFREG, b"gone", removed=True),
                Row("unlink", 1, ROOT, 7, stat.S_IFREG, removed=True),
            ],
            first_seq=2,
            staged=[staged.file],
        )
    )  # fmt: skip
    commit(writer, 3, size_row(5, 2, valid_below=1))
    assert feed.has_news()
    found = feed.read()
    assert (found.reload, found.trouble) == (False, "")
    two, three = found.versions
    assert (two.version, three.version) == (2, 3)
    assert two.time_ns > 10**18
    first, second, create, link, entry, node = two.rows
    assert [(row.node, row.offset) for row in (first, second, create)] == [(5, 3), (5, 9), (5, 0)]
    contents = [row.content for row in (first, second, create)]
    assert [read_bytes(reader, c, 0, c.length) for c in contents if c] == [
        b"staged", b"more", b"one",
    ]  # fmt: skip
    assert all(c is not None and c.position > 0 for c in contents)
    assert (create.name, create.attr, create.part) == (b"a", attr(size=3), ROOT)
    assert link.name == b"\xff"
    assert link.content is not None
    assert link.content.data == b"the target"
    assert (entry.name, entry.removed, entry.attr) == (b"gone", True, None)
    assert (node.name, node.removed) == (None, True)
    assert [(row.valid_below, row.attr) for row in three.rows] == [(1, attr(size=2))]
    assert not feed.has_news()
    assert feed.read().versions == []


def test_it_goes_on_behind_the_image_that_was_loaded(writer: DeltaStore) -> None:
    commit(writer, 2, file_row(5, b"one", b"a"))
    reader = DeltaStore.open_reader(writer.path)
    commit(writer, 3, file_row(6, b"two", b"b"))
    assert reader.load_image().version == 3
    feed = reader.follow()
    commit(writer, 4, file_row(7, b"three", b"c"))
    assert [new.version for new in feed.read().versions] == [4]
    reader.close()


def test_what_makes_no_version_is_passed_over(writer: DeltaStore, feed: LogFeed) -> None:
    """A tag; a checkpoint, which is no entry at all."""
    writer.put_tag("name", Version(1))
    commit(writer, 2, file_row(5, b"one", b"a"))
    assert [new.version for new in feed.read().versions] == [2]


def test_exchanged_files_want_a_new_fold(writer: DeltaStore, feed: LogFeed) -> None:
    """Also when the files of the version before are gone already."""
    commit(writer, 2, file_row(5, b"one", b"a"))
    commit(writer, 3, file_row(6, b"two", b"b"))
    assert len(feed.read().versions) == 2
    commit(writer, 4, file_row(7, b"three", b"c"))
    exchange(writer)
    assert feed.read() == News([], reload=True)
    with pytest.raises(StoreDamaged, match="is gone"):
        feed.fold(Version(3))
    image = feed.reload()
    assert image.version == 4
    assert set(image.load_entries(ROOT)) == {b"a", b"b", b"c"}
    assert feed.fold(Version(3)).version == 3
    assert feed.read() == News([])


def test_another_programs_rows_want_a_new_fold(writer: DeltaStore, feed: LogFeed) -> None:
    from deltalake import write_deltalake

    table = DeltaTable(writer.path).to_pyarrow_table().slice(0, 1)
    write_deltalake(writer.path, table, mode="append")
    assert feed.read().reload


def test_much_is_read_in_parts_or_folded(
    writer: DeltaStore, feed: LogFeed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(news, "MOST_ROWS", 5)
    monkeypatch.setattr(news, "MOST_ENTRIES", 3)
    for version in range(2, 9):
        commit(writer, version, file_row(version, b"x", b"%d" % version))
    seen = []
    while feed.has_news():
        seen.append([int(new.version) for new in feed.read().versions])
        assert len(seen) < 10
    assert seen[:4] == [[2, 3], [4, 5], [6, 7], [8]]
    commit(writer, 9, *(extent_row(5, n, b"x") for n in range(9)))
    assert feed.read() == News([], reload=True)


def test_a_damaged_entry_stops_it(writer: DeltaStore, feed: LogFeed) -> None:
    commit(writer, 2, file_row(5, b"one", b"a"))
    commit(writer, 3, file_row(6, b"two", b"b"))
    entry = log_entry(Path(writer.path), 3)
    whole = entry.read_bytes()
    for bad in (b"", whole[: len(whole) // 2], whole[: whole.index(b"\n") + 1]):
        entry.write_bytes(bad)
        found = feed.read()
        assert entry.name in found.trouble
        assert not found.reload
        assert feed.has_news()
    entry.write_bytes(whole)
    assert [new.version for new in feed.read().versions] == [3]


def test_a_missing_data_file_is_no_reason_to_fold_for_ever(
    writer: DeltaStore, feed: LogFeed
) -> None:
    """Once a fold found nothing newer, it is damage."""
    commit(writer, 2, file_row(5, b"one", b"a"))
    for name in os.listdir(writer.path):
        if name.endswith(".parquet") and name in log_entry(Path(writer.path), 2).read_text():
            os.unlink(os.path.join(writer.path, name))
    assert feed.read() == News([], reload=True)
    assert feed.reload().version == 1
    with pytest.raises(StoreDamaged, match="is gone"):
        feed.read()


def test_an_entry_that_was_cleaned_away(writer: DeltaStore, feed: LogFeed) -> None:
    """A reader that slept while the writer checkpointed and cleaned up."""
    for version in range(2, 5):
        commit(writer, version, file_row(version, b"x", b"%d" % version))
    DeltaTable(writer.path).create_checkpoint()
    for number in range(4):
        log_entry(Path(writer.path), number).unlink()
    assert feed.has_news()
    assert feed.read().reload
    image = feed.reload()
    assert image.version == 4
    assert image.find_node(NodeId(4)) is not None
    assert not feed.read().reload
    assert not feed.has_news()


def test_the_store_being_away_is_an_error(
    writer: DeltaStore, feed: LogFeed, tmp_path: Path
) -> None:
    (tmp_path / "pond").rename(tmp_path / "elsewhere")
    with pytest.raises(FileNotFoundError):
        feed.has_news()
    (tmp_path / "elsewhere").rename(tmp_path / "pond")
    feed.read()
    assert not feed.has_news()
