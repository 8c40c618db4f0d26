"""Keeping the log short: what goes, what stays, and that nobody notices."""

import json
import os
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import duckdb
import polars as pl
import pytest
from deltalake import DeltaTable

from pondfs.errors import NoSuchVersion, StoreDamaged
from pondfs.node import ROOT, Version
from pondfs.store import checkpoint, logkeeper
from pondfs.store.delta import DeltaStore
from pondfs.store.deltalog import list_log, read_snapshot
from pondfs.store.log import read_versions
from pondfs.store.logkeeper import LogFigures
from pondfs.store.resolve import resolve_version
from tests.unit.store.support import (
    committed,
    data_file_names,
    fault,
    file_row,
    log_entry,
    make_cut,
    names,
    new_pond,
    open_pond,
)


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """A checkpoint every six entries, six entries kept, and no grace."""
    monkeypatch.setattr(checkpoint, "ENTRIES_BETWEEN", 5)
    monkeypatch.setattr(logkeeper, "KEPT_ENTRIES", 6)
    monkeypatch.setattr(logkeeper, "SAFE_AGE_S", 0.0)
    monkeypatch.setattr(logkeeper, "LOOK_AGAIN_S", 0.0)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "pond"


@pytest.fixture
def store(path: Path) -> Iterator[DeltaStore]:
    store = new_pond(path)
    yield store
    store.close()


def commit(store: DeltaStore, first: int, last: int, *, keep: bool = True) -> None:
    for version in range(first, last + 1):
        store.commit(make_cut(version, [file_row(version, b"x", b"f%d" % version)]))
        if keep and store.has_long_log():
            store.keep_log()


def log_names(path: Path) -> list[str]:
    return sorted(os.listdir(path / "_delta_log"))


def in_log(path: Path) -> tuple[list[int], list[int]]:
    return list_log(os.fspath(path / "_delta_log"))


def spoil(path: Path, version: int) -> Path:
    spoiled = path / "_delta_log" / f"{version:020d}.checkpoint.parquet"
    spoiled.write_bytes(spoiled.read_bytes()[:-9])
    return spoiled


def check_all(path: Path, newest: int) -> None:
    """Every version is there, for us and for everybody else."""
    assert [info.version for info in read_versions(path)] == list(range(newest, 0, -1))
    table = DeltaTable(path)
    assert table.transaction_version("pondfs") == newest
    expected = set(range(1, newest + 1))
    assert set(table.to_pyarrow_table(columns=["version"])["version"].to_pylist()) == expected
    assert set(pl.read_delta(os.fspath(path), columns=["version"])["version"]) == expected
    files = table.file_uris()
    counted = duckdb.execute("SELECT count(DISTINCT version) FROM read_parquet(?)", [files])
    assert counted.fetchone() == (newest,)


# --- it stays short ---


def test_the_log_stays_short_however_many_commits_there_are(path: Path, store: DeltaStore) -> None:
    most = 0
    for first in range(2, 302, 50):
        commit(store, first, first + 49)
        most = max(most, len(log_names(path)))
    # The kept ones, what comes until a checkpoint is due, and again until the one before may go.
    assert most <= 30
    check_all(path, 301)
    assert len(store.load_image().load_entries(ROOT)) == 300
    figures = store.log_figures()
    entries, checkpoints = in_log(path)
    assert figures.entries == len(entries)
    assert figures.entries_since_checkpoint == 301 - checkpoints[-1]
    assert figures.checkpoint_s is not None
    assert abs(datetime.now(UTC).timestamp() - figures.checkpoint_s) < 60
    store.close()
    again = open_pond(path)
    assert again.notes == []
    assert again.log_figures().entries == len(in_log(path)[0])
    assert again.load_image().version == 301
    again.close()


def test_a_new_pond_has_no_checkpoint_yet(store: DeltaStore) -> None:
    assert store.log_figures() == LogFigures(2, 2, None)


def test_nobody_notices(path: Path, store: DeltaStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Commits, upkeep and readers at once: delta-rs, our own, and a list of versions."""
    # Readers begin at the newest checkpoint they see: what they look at must stay a while.
    monkeypatch.setattr(logkeeper, "SAFE_AGE_S", 3.0)
    commit(store, 2, 20)
    ended = threading.Event()
    failures: list[BaseException] = []

    def until_the_end(step: object) -> threading.Thread:
        def run() -> None:
            try:
                while not ended.is_set():
                    step()  # type: ignore[operator]
            except BaseException as error:
                failures.append(error)

        thread = threading.Thread(target=run)
        thread.start()
        return thread

    def read() -> None:
        reader = DeltaStore.open_reader(path)
        assert reader.notes == []
        reader.close()

    def read_by_delta_rs() -> None:
        assert (DeltaTable(path).transaction_version("pondfs") or 0) >= 20

    def list_some() -> None:
        found = [info.version for info in read_versions(path, 15)]
        assert found == list(range(found[0], found[0] - 15, -1))

    threads = [until_the_end(each) for each in (read, read_by_delta_rs, list_some)]
    keeper = until_the_end(store.keep_log)
    newest = 20
    while in_log(path)[0][0] < 100 and not failures:
        newest += 1
        commit(store, newest, newest, keep=False)
    ended.set()
    for thread in [*threads, keeper]:
        thread.join()
    assert failures == []
    check_all(path, newest)


def test_a_hundred_thousand_go_bit_by_bit(
    path: Path, store: DeltaStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pond of a pondfs that never removed any; the oldest go first, so there is never a gap."""
    monkeypatch.setattr(logkeeper, "REMOVED_AT_ONCE", 7)
    commit(store, 2, 30, keep=False)
    store.checkpoint()
    commit(store, 31, 40, keep=False)
    store.checkpoint()
    rounds = 0
    while store.has_long_log():
        before = len(log_names(path))
        store.keep_log()
        assert 0 < before - len(log_names(path)) <= 7
        rounds += 1
        entries, _ = in_log(path)
        assert entries == list(range(entries[0], 41))
        assert store.log_figures().entries == len(entries)
        assert DeltaTable(path).transaction_version("pondfs") == 40
    assert rounds == 5
    check_all(path, 40)
    assert in_log(path) == (list(range(30, 41)), [30, 40])


def test_short_sessions_keep_it_short(path: Path) -> None:
    """Commands on a pond that is not mounted: each commits once and is gone."""
    new_pond(path).close()
    for version in range(2, 42):
        store = open_pond(path)
        commit(store, version, version, keep=False)
        store.close()
    assert len(log_names(path)) < 30
    check_all(path, 41)


# --- what stays ---


def make_old(path: Path, version: int, age_s: float) -> None:
    name = path / "_delta_log" / f"{version:020d}.checkpoint.parquet"
    when = datetime.now(UTC).timestamp() - age_s
    os.utime(name, (when, when))


def test_what_a_reader_may_be_reading_stays(
    path: Path, store: DeltaStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logkeeper, "SAFE_AGE_S", 600.0)
    commit(store, 2, 40)
    assert in_log(path)[0] == list(range(41))
    made = in_log(path)[1]
    assert len(made) > 4
    make_old(path, made[2], 700)
    store.keep_log()
    # It may be the newest that somebody knew ten minutes ago.
    assert in_log(path) == (list(range(made[2], 41)), made[2:])
    # A clock that was set back, from then or by then.
    make_old(path, made[3], -100 * 86400)
    store.keep_log()
    assert in_log(path)[1] == made[3:]
    check_all(path, 40)


def test_the_newest_entries_stay(
    path: Path, store: DeltaStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logkeeper, "KEPT_ENTRIES", 20)
    commit(store, 2, 60)
    entries, made = in_log(path)
    assert len(entries) >= 20
    assert made[0] == entries[0]
    assert made[1] > 60 - 20


def test_two_checkpoints_in_a_row_are_no_reason_to_remove_all(
    path: Path, store: DeltaStore
) -> None:
    """As after a prune, which writes one in any case."""
    commit(store, 2, 20, keep=False)
    store.checkpoint(now=True)
    commit(store, 21, 21, keep=False)
    store.checkpoint(now=True)
    store.keep_log()
    assert in_log(path)[0] == list(range(22))


def test_what_last_checkpoint_names_stays(path: Path, store: DeltaStore) -> None:
    """A crash may have kept it from naming the newer ones: readers begin where it says."""
    commit(store, 2, 40, keep=False)
    for number in (20, 30, 40):
        snapshot = read_snapshot(os.fspath(path / "_delta_log"), up_to=number)
        assert checkpoint.write_checkpoint(os.fspath(path / "_delta_log"), snapshot)
    last = path / "_delta_log" / "_last_checkpoint"
    last.write_text(json.dumps({**json.loads(last.read_bytes()), "version": 20}))
    store._log_keeper.clean()
    assert in_log(path) == (list(range(20, 41)), [20, 30, 40])
    # What names nothing is nobody's beginning.
    last.write_text(json.dumps({**json.loads(last.read_bytes()), "version": 7}))
    store._log_keeper.clean()
    assert in_log(path) == (list(range(30, 41)), [30, 40])
    check_all(path, 40)


def test_other_programs_entries_and_checkpoints_are_nothing_special(
    path: Path, store: DeltaStore
) -> None:
    commit(store, 2, 15)
    DeltaTable(path).optimize.compact()
    commit(store, 16, 30)
    DeltaTable(path).create_checkpoint()
    commit(store, 31, 60)
    assert len(log_names(path)) <= 30
    assert in_log(path)[0][-1] == 61
    check_all(path, 60)
    assert committed(path) <= data_file_names(path)


def test_tags_survive(path: Path, store: DeltaStore) -> None:
    commit(store, 2, 9)
    store.put_tag("here", Version(5))
    store.put_tag("gone", Version(6))
    store.put_tag("gone", None)
    commit(store, 10, 40)
    assert in_log(path)[0][0] > 15
    # Also on versions that no entry tells of any more.
    store.put_tag("old", Version(2))
    with pytest.raises(NoSuchVersion):
        store.put_tag("never", Version(41))
    assert store.list_tags() == {"here": 5, "old": 2}
    store.close()
    again = open_pond(path)
    assert again.list_tags() == {"here": 5, "old": 2}
    again.close()
    assert resolve_version(path, "old", 0) == 2


def test_a_version_is_found_by_number_and_time(path: Path, store: DeltaStore) -> None:
    commit(store, 2, 40)
    infos = read_versions(path)
    now_ns = infos[0].time_ns + 1
    assert resolve_version(path, "latest", now_ns) == 40
    assert resolve_version(path, "latest", now_ns, Version(30)) == 30
    assert resolve_version(path, "3", now_ns) == 3
    for text, up_to in (("41", None), ("31", Version(30)), ("0", None)):
        with pytest.raises(NoSuchVersion, match=f"there is no version {text}"):
            resolve_version(path, text, now_ns, up_to)
    for info in (infos[-1], infos[20], infos[0]):
        at = f"@{info.time_ns // 10**9}.{info.time_ns % 10**9 // 1000:06d}"
        assert resolve_version(path, at, now_ns) == info.version
    assert resolve_version(path, "1ms-ago", now_ns + 10**9, Version(30)) == 30
    with pytest.raises(NoSuchVersion, match="before the pond's first"):
        resolve_version(path, "@1", now_ns)


def test_removed_files_that_are_gone_are_forgotten(path: Path, store: DeltaStore) -> None:
    """Else a checkpoint would grow with every compaction there ever was."""
    commit(store, 2, 9)
    old = committed(path)
    DeltaTable(path).optimize.compact()
    commit(store, 10, 20)
    assert set(read_snapshot(os.fspath(path / "_delta_log")).removes) == old
    for name in sorted(old)[:5]:
        (path / name).unlink()
    commit(store, 21, 40)
    assert set(read_snapshot(os.fspath(path / "_delta_log")).removes) == set(sorted(old)[5:])


# --- damage ---


def test_a_damaged_checkpoint_costs_nothing(
    path: Path, store: DeltaStore, caplog: pytest.LogCaptureFixture
) -> None:
    """The one before and the entries since then say the same; and it does not stay."""
    commit(store, 2, 40)
    store.close()
    _, made = in_log(path)
    spoiled = spoil(path, made[-1])
    again = open_pond(path)
    assert again.notes == []
    assert len(again.load_image().load_entries(ROOT)) == 39
    assert not spoiled.exists() or made[-1] == 40
    again.close()
    assert "is damaged" in caplog.text
    check_all(path, 40)


def test_when_no_checkpoint_can_be_read_it_says_what_to_do(path: Path, store: DeltaStore) -> None:
    commit(store, 2, 40)
    store.close()
    made = in_log(path)[1]
    for version in made:
        spoil(path, version)
    with pytest.raises(StoreDamaged, match=r"no checkpoint .* restore one of them from a backup"):
        open_pond(path)


@pytest.mark.parametrize("which", [0, -1])
def test_nothing_is_removed_for_the_sake_of_a_damaged_checkpoint(
    path: Path, store: DeltaStore, which: int, caplog: pytest.LogCaptureFixture
) -> None:
    """Whether it would be the new beginning, or the newest."""
    commit(store, 2, 30, keep=False)
    log_dir = os.fspath(path / "_delta_log")
    for number in (20, 30):
        checkpoint.write_checkpoint(log_dir, read_snapshot(log_dir, up_to=number))
    spoil(path, (20, 30)[which])
    store._log_keeper.clean()
    assert in_log(path) == (list(range(31)), [20, 30])
    assert "is damaged" in caplog.text


def test_a_torn_newest_entry_is_set_aside_as_ever(path: Path, store: DeltaStore) -> None:
    commit(store, 2, 40)
    store.close()
    entries, made = in_log(path)
    assert made[-1] < entries[-1]
    log_entry(path, 40).write_bytes(log_entry(path, 40).read_bytes()[:-20])
    assert read_versions(path)[0].version == 39
    again = open_pond(path)
    assert len(again.notes) == 1
    assert again.load_image().version == 39
    commit(again, 40, 60)
    again.close()
    check_all(path, 60)


def test_a_damaged_checkpoint_of_an_entry_that_is_set_aside_goes_with_it(
    path: Path, store: DeltaStore
) -> None:
    """Else it would seem to be one of the entry that gets the number next."""
    commit(store, 2, 40, keep=False)
    store.checkpoint(now=True)
    store.close()
    assert in_log(path)[1] == [40]
    spoil(path, 40)
    log_entry(path, 40).write_bytes(b"")
    again = open_pond(path)
    assert len(again.notes) == 1
    commit(again, 40, 41, keep=False)
    again.close()
    assert 40 not in in_log(path)[1]
    check_all(path, 41)


def test_a_failure_is_told_and_tried_again_later(
    path: Path, store: DeltaStore, caplog: pytest.LogCaptureFixture
) -> None:
    commit(store, 2, 20, keep=False)
    with fault("checkpoint:rename", "ENOSPC"):
        assert store.has_long_log()
        store.keep_log()
        # A full disk is not asked again every five seconds.
        assert not store.has_long_log()
    assert "no checkpoint of" in caplog.text
    assert in_log(path)[1] == []
    store.keep_log()
    assert in_log(path)[1] == [20]
    with fault("log:unlink", "EIO"):
        commit(store, 21, 40, keep=False)
        store.keep_log()
    assert "old log entries stay" in caplog.text
    check_all(path, 40)


# --- followers ---


def test_a_follower_that_slept_through_it_loads_the_newest(path: Path, store: DeltaStore) -> None:
    commit(store, 2, 10)
    reader = DeltaStore.open_reader(path)
    reader.load_image()
    feed = reader.follow()
    commit(store, 11, 60)
    assert in_log(path)[0][0] > 11
    assert feed.has_news()
    assert feed.read().reload
    assert feed.reload().version == 60
    commit(store, 61, 62, keep=False)
    assert [new.version for new in feed.read().versions] == [61, 62]
    # Removing old ones is no news.
    commit(store, 63, 70)
    assert [new.version for new in feed.read().versions] == list(range(63, 71))
    store.checkpoint(now=True)
    store.keep_log()
    assert feed.read().versions == []
    assert not feed.has_news()
    reader.close()
    assert len(names(store)) == 69
