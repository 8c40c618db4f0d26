"""The journal: whole versions or none, in order, whatever becomes of the file."""

import errno
import os
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pytest
from deltalake import DeltaTable

from pondfs.control.reach import require_pond
from pondfs.entry import encode_name
from pondfs.errors import StoreDamaged
from pondfs.node import ROOT, NodeId, Version
from pondfs.oplog import Cut, Row
from pondfs.store import DeltaStore, journal, open_reader
from pondfs.store.log import read_versions
from tests.unit.store.support import (
    SYMLINK,
    adopt,
    attr,
    data_file_names,
    directory_rows,
    extent_row,
    fault,
    file_row,
    make_cut,
    names,
    new_pond,
    open_pond,
    read_file,
    size_row,
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "pond"


@pytest.fixture
def store(path: Path) -> Iterator[DeltaStore]:
    store = new_pond(path)
    yield store
    store.close()


def journal_of(path: Path) -> Path:
    return path / "_pond" / "journal"


def crash(store: DeltaStore, path: Path, copy: str = "crashed") -> Path:
    """Return what a power cut now would leave: the store as it is on the disk."""
    shutil.copytree(path, path.with_name(copy), symlinks=True)
    return path.with_name(copy)


def cut_of(version: int, data: bytes = b"") -> Cut:
    """A version that makes one file of its own number."""
    return make_cut(
        version, [file_row(version + 1000, data or b"%d" % version, b"f%d" % version)],
        message=f"number {version}",
    )  # fmt: skip


def found_after(path: Path) -> list[Version]:
    """The versions that opening takes over; what they say is checked."""
    store = open_pond(path)
    recovered = list(store.recovered)
    image = store.load_image()
    for version in range(2, image.version + 1):
        assert read_file(store, image, version + 1000) == b"%d" % version
    store.close()
    return recovered


# --- what is journaled is there after a crash, what is published is one commit ---


def test_journaled_versions_survive_a_crash_and_become_one_commit(
    path: Path, store: DeltaStore
) -> None:
    for version in range(2, 7):
        store.journal(cut_of(version))
    assert len(data_file_names(path)) == 1
    crashed = crash(store, path)
    assert found_after(crashed) == [2, 3, 4, 5, 6]
    assert len(data_file_names(crashed)) == 2
    assert not journal_of(crashed).exists()
    infos = read_versions(crashed)
    assert [info.version for info in infos] == [6, 5, 4, 3, 2, 1]
    assert [info.message for info in infos[:5]] == [f"number {n}" for n in (6, 5, 4, 3, 2)]
    assert {info.user for info in infos[:5]} == {"ada"}
    # Once more, nothing is left to be taken over.
    assert found_after(crashed) == []


def test_a_commit_carries_the_journaled_versions_with_their_rows_unchanged(
    path: Path, store: DeltaStore
) -> None:
    """However a version came into the table, its rows are the same."""
    cuts = [
        make_cut(2, [*directory_rows(20, b"d"), file_row(21, b"x" * 5000, b"a", part=20)]),
        make_cut(3, [extent_row(21, 4096, b"y" * 100, part=20), size_row(21, 5000, part=20)]),
        make_cut(4, [file_row(22, None, b"\xff\xfe"), file_row(23, b"\0" * 300, b"z")]),
    ]
    for cut in cuts[:2]:
        store.journal(cut)
    settled = store.commit(cuts[2], cuts[:2])
    adopt(settled)
    assert DeltaTable(path).transaction_version("pondfs") == 4
    assert len(DeltaTable(path).file_uris()) == 2
    other = new_pond(path.with_name("other"))
    for cut in cuts:
        copies = [_in_memory(store, row) for row in cut.rows]
        other.commit(Cut(cut.version, cut.time_ns, copies, cut.summary))
    other.close()
    one, each = (
        pl.read_delta(str(p)).filter(pl.col("version") > 1).sort("version", "seq")
        for p in (path, path.with_name("other"))
    )
    assert one.equals(each)


def _in_memory(store: DeltaStore, row: Row) -> Row:
    if row.content is None:
        return row
    data = bytearray(row.content.length)
    store.read(row.content, 0, memoryview(data))
    content = type(row.content)(bytes(data), len(data))
    return row._replace(content=content)


def test_rows_come_back_from_the_journal_as_they_went_in(path: Path, store: DeltaStore) -> None:
    rows = [
        file_row(10, os.urandom(70_000), b"odd \xff"),
        Row("create", 7000, ROOT, 11, SYMLINK, b"link", attr=attr(SYMLINK, 4), offset=0,
            content=file_row(0, b"file").content),
        Row("unlink", 8000, ROOT, 10, 0o100000, b"gone", removed=True),
        Row("update", 9000, ROOT, 10, 0o100644, attr=attr(size=3), valid_below=3,
            metadata='{"xattrs":{"user.a":"AAE="}}'),
    ]  # fmt: skip
    cut = make_cut(2, rows, message="näme")
    store.journal(cut)
    (found,) = journal.load(os.fspath(path), store._table_id, Version(1)).cuts
    assert (found.version, found.time_ns // 1000) == (2, cut.time_ns // 1000)
    assert found.summary == cut.summary
    for row, back in zip(rows, found.rows, strict=True):
        assert back[:1] + back[2:4] == row[:1] + row[2:4]
        assert back.mode & 0o170000 == row.mode & 0o170000
        assert back[5:11] == row[5:11]
        assert back.time_ns == row.time_ns // 1000 * 1000
        if row.content is not None:
            assert row.content.data is not None
            assert back.content is not None
            assert bytes(back.content.data or b"") == bytes(row.content.data)
    assert encode_name(b"odd \xff")[1] == found.rows[0].name


def test_nothing_is_left_of_it_after_a_clean_end(path: Path, store: DeltaStore) -> None:
    store.journal(cut_of(2))
    assert journal_of(path).exists()
    store.commit(cut_of(3), [cut_of(2)])
    store.close()
    assert not journal_of(path).exists()
    assert found_after(path) == []


def test_it_stays_when_its_versions_are_in_no_commit(path: Path, store: DeltaStore) -> None:
    """A daemon that had to give up (a full disk, a second SIGTERM) leaves them to the next."""
    store.journal(cut_of(2))
    store.close()
    assert found_after(path) == [2]


def test_it_is_written_over_and_does_not_grow(path: Path, store: DeltaStore) -> None:
    sizes = []
    version = 1
    for _ in range(6):
        cuts = [cut_of(version + n) for n in range(1, 60)]
        for cut in cuts:
            store.journal(cut)
        version += 60
        store.commit(cut_of(version), cuts)
        sizes.append(journal_of(path).stat().st_size)
    assert sizes[1:] == sizes[:-1]
    store.journal(cut_of(version + 1))
    assert found_after(crash(store, path)) == [version + 1]


def test_what_is_behind_the_newest_record_is_not_taken_for_a_version(
    path: Path, store: DeltaStore
) -> None:
    """Records have all sizes: old ones begin anywhere behind the new ones."""
    rng = random.Random(3)
    version = 1
    for round_number in range(30):
        cuts = []
        for _ in range(rng.randrange(1, 9)):
            version += 1
            data = b"%d" % version
            row = file_row(version + 1000, data, b"f%d" % version)
            more = extent_row(5, 0, rng.randbytes(rng.randrange(1, 900)))
            cuts.append(make_cut(version, [row, more] if rng.random() < 0.5 else [row]))
            store.journal(cuts[-1])
        crashed = crash(store, path, f"round{round_number}")
        assert found_after(crashed) == [cut.version for cut in cuts]
        *earlier, last = cuts
        store.commit(last, earlier)
        crashed = crash(store, path, f"after{round_number}")
        assert found_after(crashed) == []


def test_readers_are_told_of_what_only_the_journal_has(path: Path, store: DeltaStore) -> None:
    store.journal(cut_of(2))
    store.journal(cut_of(3))
    crashed = crash(store, path)
    assert "has versions 2 to 3: mount it" in journal.find_waiting(os.fspath(crashed))
    reader = open_reader(crashed)
    assert reader.load_image().version == 1
    reader.close()
    assert found_after(crashed) == [2, 3]
    assert journal.find_waiting(os.fspath(crashed)) == ""


# --- torn, damaged, foreign ---


def test_a_record_cut_anywhere_is_dropped_and_the_ones_before_stay(
    path: Path, store: DeltaStore
) -> None:
    store.journal(cut_of(2))
    begin = store._journal.used_bytes
    store.journal(cut_of(3))
    end = store._journal.used_bytes
    whole = journal_of(path).read_bytes()
    for size in {*range(begin, end, 97), begin, begin + 1, begin + 63, begin + 64, end - 65}:
        # As a disk leaves it that did not write all of it: cut off, zeros, or what was there.
        for rest in (b"", bytes(end - size), b"\xaa" * (end - size)):
            torn = whole[:size] + rest
            if torn[:end] == whole[:end]:
                continue
            journal_of(path).write_bytes(torn)
            found = journal.load(os.fspath(path), store._table_id, Version(1))
            assert ([cut.version for cut in found.cuts], found.trouble) == ([2], "")
    journal_of(path).write_bytes(whole)


def test_a_damaged_record_in_the_middle_is_told_and_the_file_kept(
    path: Path, store: DeltaStore
) -> None:
    """Later records were acknowledged, but are changes of a state that is lost."""
    ends = [0]
    for version in range(2, 7):
        store.journal(cut_of(version))
        ends.append(store._journal.used_bytes)
    crashed = crash(store, path)
    damaged = bytearray(journal_of(crashed).read_bytes())
    damaged[ends[2] + 100] ^= 1
    journal_of(crashed).write_bytes(damaged)
    opened = open_pond(crashed)
    assert opened.recovered == [2, 3]
    (note,) = opened.notes
    assert "version 4 is damaged, and so 6 is not readable" in note
    (aside,) = (crashed / "_pond" / "set-aside").iterdir()
    assert str(aside) in note
    assert aside.read_bytes() == damaged
    assert opened.load_image().version == 3
    opened.commit(cut_of(4))
    opened.close()


def test_any_flipped_bit_loses_no_version_silently(path: Path, store: DeltaStore) -> None:
    for version in range(2, 5):
        store.journal(cut_of(version))
    end = store._journal.used_bytes
    whole = journal_of(path).read_bytes()
    rng = random.Random(5)
    padding = 0
    for _ in range(400):
        at = rng.randrange(end)
        damaged = bytearray(whole)
        damaged[at] ^= 1 << rng.randrange(8)
        journal_of(path).write_bytes(damaged)
        found = journal.load(os.fspath(path), store._table_id, Version(1))
        versions = [cut.version for cut in found.cuts]
        assert versions == [Version(v) for v in range(2, 2 + len(versions))]
        # The newest can't be told from one that was torn; a bit between records means nothing.
        if len(versions) < 2:
            assert found.trouble
        padding += len(versions) == 3
    assert padding < 100
    journal_of(path).write_bytes(whole)


def test_a_gap_to_the_table_is_told(path: Path, store: DeltaStore) -> None:
    """A table from a backup, with the journal of a later state beside it."""
    old = crash(store, path, "backup")
    store.commit(cut_of(2))
    store.commit(cut_of(3))
    store.journal(cut_of(4))
    shutil.copyfile(journal_of(path), journal_of(old))
    opened = open_pond(old)
    assert opened.recovered == []
    assert "it begins at version 4, the table ends at 1" in opened.notes[0]
    assert not journal_of(old).exists()
    opened.close()


def test_an_older_table_of_the_same_history_gets_its_versions_back(
    path: Path, store: DeltaStore
) -> None:
    """A log entry that a disk lost, though it was synced: the journal still has the rows."""
    store.journal(cut_of(2))
    store.journal(cut_of(3))
    before = crash(store, path, "before")
    store.commit(cut_of(4), [cut_of(2), cut_of(3)])
    shutil.copyfile(journal_of(path), journal_of(before))
    assert found_after(before) == [2, 3]


def test_the_journal_of_another_pond_is_nothing(path: Path, store: DeltaStore) -> None:
    store.journal(cut_of(2))
    other = new_pond(path.with_name("other"))
    other.close()
    shutil.copyfile(journal_of(path), journal_of(path.with_name("other")))
    opened = open_pond(path.with_name("other"))
    assert (opened.recovered, opened.notes) == ([], [])
    opened.close()


def test_whole_records_that_make_no_rows_are_refused_and_kept(
    path: Path, store: DeltaStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    cut = cut_of(2)
    monkeypatch.setattr(journal, "commit_row", lambda cut: file_row(1, None))
    store.journal(cut)
    crashed = crash(store, path)
    with pytest.raises(StoreDamaged, match=r"version 2 in .*journal makes no rows"):
        open_pond(crashed)
    assert journal_of(crashed).exists()
    # The lock was let go of.
    journal_of(crashed).unlink()
    open_pond(crashed).close()


def test_a_staged_version_is_refused(path: Path, store: DeltaStore) -> None:
    staged = store.stage(Version(2), 0, [file_row(10, b"x", b"f")])
    with pytest.raises(ValueError, match="in data files"):
        store.journal(make_cut(2, [file_row(11, b"y", b"g")], first_seq=1, staged=[staged.file]))
    assert not journal_of(path).exists()


def test_readers_are_told_what_is_wrong_with_a_journal(path: Path, store: DeltaStore) -> None:
    """And never more than that: the table is sound."""
    store.journal(cut_of(2))
    crashed = crash(store, path)
    journal_of(crashed).unlink()
    journal_of(crashed).mkdir()
    assert "can't be read" in journal.find_waiting(os.fspath(crashed))
    require_pond(crashed)
    store.commit(cut_of(2))
    store.journal(cut_of(3))
    old = crash(store, path, "old")
    shutil.rmtree(old / "_delta_log")
    shutil.copytree(crashed / "_delta_log", old / "_delta_log")
    assert "begins at version 3" in journal.find_waiting(os.fspath(old))


def test_a_refused_opening_keeps_nothing_open(path: Path, store: DeltaStore) -> None:
    store.journal(cut_of(2))
    crashed = crash(store, path)
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        with fault("commit:data-file", "ENOSPC"), pytest.raises(OSError, match="space"):
            open_pond(crashed)
    assert len(os.listdir("/proc/self/fd")) <= before


def test_what_is_found_at_opening_is_synced_before_it_is_built_upon(
    path: Path, store: DeltaStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kill may have come between an entry's name and the sync of that: the journal that has the
    same rows goes only when the entry is as durable."""
    store.journal(cut_of(2))
    store.commit(cut_of(3), [cut_of(2)])
    store.journal(cut_of(4))
    crashed = crash(store, path)
    steps: list[str] = []
    sync, remove = os.fsync, journal.remove

    def note_sync(fd: int) -> None:
        steps.append(os.readlink(f"/proc/self/fd/{fd}").removeprefix(os.fspath(crashed)))
        sync(fd)

    def note_removal(store: str) -> None:
        steps.append("remove")
        remove(store)

    monkeypatch.setattr(os, "fsync", note_sync)
    monkeypatch.setattr(journal, "remove", note_removal)
    open_pond(crashed).close()
    wanted = ["/_delta_log/00000000000000000002.json", "/_delta_log", "remove"]
    assert [step for step in steps if step in wanted][:2] == wanted[:2]
    assert steps.index("/_delta_log") < steps.index("remove")


# --- errors ---


@pytest.mark.parametrize("point", ["journal:write", "journal:sync", "journal:dir-fsync"])
def test_after_an_error_the_version_is_committed_and_the_journal_goes_on(
    path: Path, store: DeltaStore, point: str
) -> None:
    if point != "journal:dir-fsync":  # which is for the first alone
        store.journal(cut_of(2))
    with fault(point, "EIO"), pytest.raises(OSError, match="error") as failure:
        store.journal(cut_of(3))
    assert failure.value.errno == errno.EIO
    # A crash here: nobody was told of version 3, so it may be there or not.
    assert found_after(crash(store, path, "between")) in ([], [2], [2, 3])
    store.commit(cut_of(3), [cut_of(2)])
    assert found_after(crash(store, path, "after")) == []
    store.journal(cut_of(4))
    assert found_after(crash(store, path, "on")) == [4]


@pytest.mark.parametrize("point", ["commit:data-file", "commit:link", "commit:log-dir-fsync"])
def test_a_recovery_that_fails_leaves_the_journal_for_the_next(
    path: Path, store: DeltaStore, point: str
) -> None:
    for version in range(2, 5):
        store.journal(cut_of(version))
    crashed = crash(store, path)
    with fault(point, "ENOSPC"), pytest.raises(OSError, match="space"):
        open_pond(crashed)
    assert journal_of(crashed).exists()
    # Where the entry had its name already, the first try had landed.
    assert found_after(crashed) in ([2, 3, 4], [])
    assert [info.version for info in read_versions(crashed)] == [4, 3, 2, 1]


# --- kill -9 ---

POINTS = [
    "journal:write", "journal:sync", "journal:done", "commit:data-file", "data-file:fsync",
    "commit:store-dir-fsync", "commit:entry-fsync", "commit:link", "commit:log-dir-fsync",
    "commit:done",
]  # fmt: skip

WORK = """
import sys
from tests.unit.store.support import open_pond
from tests.unit.store.test_journal import cut_of

for session in range(3):
    store = open_pond(sys.argv[1])
    version = store.load_image().version
    for _ in range(2):
        cuts = []
        for version in range(version + 1, version + 5):
            cuts.append(cut_of(version))
            store.journal(cuts[-1])
            print(version, flush=True)
        version += 1
        store.commit(cut_of(version), cuts)
        print(version, flush=True)
    version += 1
    store.journal(cut_of(version))  # and nobody commits it: the next session has to
    print(version, flush=True)
    store.close()
"""


@pytest.mark.parametrize(("point", "time"), [(point, n) for point in POINTS for n in (1, 2, 6)])
def test_killed_anywhere_what_was_acknowledged_is_there_once(
    path: Path, point: str, time: int
) -> None:
    DeltaStore.create(path)
    env = {**os.environ, "PONDFS_FAULT": f"{point}:{time}", "PYTHONPATH": os.getcwd()}
    killed = subprocess.run(
        [sys.executable, "-c", WORK, path], env=env, capture_output=True, text=True, check=False
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    acknowledged = max(map(int, killed.stdout.split()), default=1)
    store = open_pond(path)
    assert store.notes == []
    image = store.load_image()
    assert image.version in (acknowledged, acknowledged + 1)
    assert DeltaTable(path).transaction_version("pondfs") == image.version
    for version in range(2, image.version + 1):
        assert read_file(store, image, version + 1000) == b"%d" % version
    assert image.find_node(NodeId(image.version + 1001)) is None
    store.commit(cut_of(image.version + 1))
    assert b"f%d" % (image.version + 1) in names(store)
    store.close()
    rows = pl.read_delta(str(path)).select("version", "seq", "op")
    assert rows.select("version", "seq").is_unique().all()
    commits = rows.filter(pl.col("op") == "commit")["version"].sort().to_list()
    assert commits == list(range(1, image.version + 2))
