import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable

from pondfs.extent import Content
from pondfs.node import ROOT, Version
from pondfs.oplog import Row
from pondfs.store import commitrows, records, rowcache
from pondfs.store.commitrows import CommitRows
from pondfs.store.content import DataFile
from pondfs.store.delta import DeltaStore
from pondfs.store.files import data_files
from pondfs.store.rowcache import CACHED_SCHEMA, RowCache
from pondfs.store.scan import FOLD_COLUMNS, Scan, in_order, read_rows
from pondfs.store.table import open_table
from pondfs.store.trace import Trace
from tests.unit.store.support import (
    DIRECTORY,
    FILE,
    adopt,
    as_file,
    attr,
    directory_rows,
    extent_row,
    file_row,
    make_cut,
    names,
    new_pond,
    open_pond,
    size_row,
)


@pytest.fixture(autouse=True)
def small_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """What takes hundreds of commits in a pond takes a few here."""
    monkeypatch.setattr(rowcache, "NOTED_FILES", 4)
    monkeypatch.setattr(rowcache, "CLOSING_FILES", 1)
    monkeypatch.setattr(rowcache, "WORTH_FILES", 1)
    monkeypatch.setattr(rowcache, "MOST_RECORDS", 2)


VERSIONS = 11


@pytest.fixture
def pond(tmp_path: Path) -> Path:
    """A pond with rows of every kind, its cache as committing and closing left it."""
    path = tmp_path / "pond"
    store = new_pond(path)
    odd: list[list[Row]] = [
        directory_rows(2, b"d"),
        [file_row(10, b"abc", b"a"), size_row(10, 2, 1)],
        [file_row(11, b"", b"\xff\xfe not utf-8"), file_row(12, None, "ä☃".encode())],
        [extent_row(10, 0, b"defg"), size_row(10, 4)],
        [Row("unlink", 5, ROOT, 12, FILE, "ä☃".encode(), removed=True)],
        [Row("update", 5, ROOT, 2, DIRECTORY, attr=attr(DIRECTORY), metadata='{"user.a": "eA=="}')],
        [],
    ]
    for version, rows in enumerate(odd, 2):
        adopt(store.commit(make_cut(version, rows, message="ü")))
    staged = store.stage(Version(9), 0, [extent_row(10, 4, b"staged")])
    adopt(staged)
    dropped = store.stage(Version(9), 1, [extent_row(10, 4, b"dropped")])
    store.discard(dropped.file)
    adopt(store.commit(make_cut(9, [size_row(10, 10)], first_seq=1, staged=[staged.file])))
    for version in (10, VERSIONS):
        adopt(store.commit(make_cut(version, [size_row(10, version)])))
    store.close()
    return path


def cache_path(pond: Path) -> Path:
    return pond / "_pond" / "rows"


def files_of(pond: Path, up_to: int | None = None) -> list[DataFile]:
    snapshot = open_table(os.fspath(pond), writable=False).snapshot
    return in_order(
        data_files(os.fspath(pond), snapshot), None if up_to is None else Version(up_to)
    )


def hits(pond: Path) -> int:
    cache = RowCache(os.fspath(pond))
    return sum(cache.find(file) is not None for file in files_of(pond))


def assert_same(one: Scan, other: Scan) -> None:
    assert one.table.schema == other.table.schema
    assert one.table.equals(other.table)
    one.table.validate(full=True)
    for some, others in (
        (one.file, other.file), (one.row, other.row), (one.position, other.position),
    ):  # fmt: skip
        assert some.dtype == others.dtype
    assert one.file.tolist() == other.file.tolist()
    assert one.row.tolist() == other.row.tolist()
    if "length" in one.table.column_names:
        # Where there is no content its place is nobody's business.
        has_content = np.array(one.table["length"].is_valid())
        assert one.position[has_content].tolist() == other.position[has_content].tolist()


def assert_reads_right(pond: Path, columns: Sequence[str] = FOLD_COLUMNS) -> None:
    for up_to in (None, 5):
        files = files_of(pond, up_to)
        cached = read_rows(files, columns, RowCache(os.fspath(pond)))
        assert_same(cached, read_rows(files, columns))


# --- what is in it ---


def test_rows_kept_from_writing_are_those_of_the_data_files(pond: Path) -> None:
    assert hits(pond) == len(files_of(pond)) == VERSIONS + 1
    assert_reads_right(pond)
    assert_reads_right(pond, ("length", "version"))
    assert_reads_right(pond, ("version", "timestamp", "op", "metadata"))


def test_rows_read_at_opening_are_those_of_the_data_files(pond: Path) -> None:
    cache_path(pond).unlink()
    store = open_pond(pond)
    before = names(store)
    store.close()
    cache = RowCache(os.fspath(pond))
    assert cache.records == 1
    assert hits(pond) == VERSIONS + 1
    assert_reads_right(pond)
    reader = DeltaStore.open_reader(pond)
    assert names(reader) == before == {b"d", b"a", b"\xff\xfe not utf-8"}
    reader.close()


def test_files_that_follow_each_other_are_one_piece(pond: Path) -> None:
    cache_path(pond).unlink()
    store = open_pond(pond)
    store.load_image()
    store.close()
    files = files_of(pond)
    cache = RowCache(os.fspath(pond))
    scan = read_rows(files, cache=cache)
    assert scan.table["version"].num_chunks == 1
    # And mapped, not copied.
    first = cache.find(files[0])
    assert first is not None
    here = scan.table["version"].chunk(0).buffers()[1]
    there = first.record["version"].chunk(0).buffers()[1]
    assert here is not None
    assert there is not None
    assert here.address == there.address
    # Another order, and files in between that it has not.
    for some in (files[::-1], [files[3], files[1], files[2]]):
        assert_same(read_rows(some, cache=cache), read_rows(some))
    del cache.places[files[4].name]
    assert_same(read_rows(files, cache=cache), read_rows(files))


def test_a_rewrite_by_another_engine_is_cached_as_ours(tmp_path: Path) -> None:
    (tmp_path / "_pond").mkdir()
    files = [as_file(tmp_path, 1, [file_row(2, b"abc", b"n"), size_row(2, 9)]) for _ in range(3)]
    table = pq.read_table(files[0].path)
    large = {pa.string(): pa.large_string(), pa.binary(): pa.large_binary()}
    fields = [pa.field(f.name, large.get(f.type, f.type)) for f in table.schema][::-1]
    other = os.path.join(tmp_path, "part-0.parquet")
    pq.write_table(table.select(table.column_names[::-1]).cast(pa.schema(fields)), other)
    files.append(DataFile(os.fspath(tmp_path), "part-0.parquet", os.path.getsize(other), "", 0))
    scan = read_rows(files)
    assert RowCache(os.fspath(tmp_path)).renew(files, scan)
    cached = read_rows(files, cache=RowCache(os.fspath(tmp_path)))
    assert_same(cached, scan)
    assert cached.position.tolist() == scan.position.tolist()


def test_a_file_of_another_size_is_another_file(pond: Path) -> None:
    cache = RowCache(os.fspath(pond))
    file = files_of(pond)[0]
    assert cache.find(file) is not None
    file.size += 1
    assert cache.find(file) is None


def test_everybody_reads_from_it(pond: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not one data file is opened for its rows once the cache has them."""
    monkeypatch.setattr(commitrows, "FILES_BEFORE_CACHE", 0)
    for file in files_of(pond):
        damaged = bytearray(Path(file.path).read_bytes())
        damaged[-8:] = bytes(8)
        Path(file.path).write_bytes(damaged)
    reader = DeltaStore.open_reader(pond)
    assert reader.load_image_at(Version(5)).version == 5
    reader.close()
    trace = Trace(pond)
    assert trace.newest == VERSIONS
    trace.close()
    assert len(CommitRows(os.fspath(pond)).newest(None)) == VERSIONS
    store = open_pond(pond)
    assert store.load_image().version == VERSIONS
    store.close()


# --- when it is not whole ---


def truncated(data: bytes) -> bytes:
    return data[:-100]


def flipped(data: bytes) -> bytes:
    return data[:1000] + bytes([data[1000] ^ 1]) + data[1001:]


def torn(data: bytes) -> bytes:
    return data[:4096] + bytes(len(data) - 4096)


def of_another_format(data: bytes) -> bytes:
    return data[:8] + bytes([data[8] + 1]) + data[9:]


def shorter_than_said(data: bytes) -> bytes:
    return data[:16] + (64).to_bytes(8, "little") + data[24:]


def garbage(data: bytes) -> bytes:
    return b"garbage" * 100


def stub(data: bytes) -> bytes:
    return data[:10]


def empty(data: bytes) -> bytes:
    return b""


DAMAGES = (truncated, flipped, torn, of_another_format, shorter_than_said, garbage, stub, empty)


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_told_once_and_read_around_and_mended(
    pond: Path, caplog: pytest.LogCaptureFixture, damage: Callable[[bytes], bytes]
) -> None:
    cache_path(pond).write_bytes(damage(cache_path(pond).read_bytes()))
    cache = RowCache(os.fspath(pond))
    assert not cache.is_whole
    assert [record.name for record in caplog.records] == ["pondfs.store"]
    assert "is not used" in caplog.text
    assert_same(read_rows(files_of(pond), cache=cache), read_rows(files_of(pond)))
    store = open_pond(pond)
    assert store.load_image().version == VERSIONS
    store.close()
    caplog.clear()
    assert hits(pond) == VERSIONS + 1
    assert_reads_right(pond)
    assert not caplog.records


def write_record(pond: Path, table: pa.Table, schema: pa.Schema, listed: Any) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rowcache, "CACHED_SCHEMA", schema)
        rowcache._replace(os.fspath(cache_path(pond)), [table], listed)


def test_records_that_make_no_sense_are_not_used(pond: Path) -> None:
    """Their checksums are right: another version of pondfs wrote them, or nobody knows who."""
    record = next(iter(RowCache(os.fspath(pond)).places.values())).record
    count, file = record.num_rows, files_of(pond)[0]
    fewer = record.drop_columns(["valid_below"])
    bad: list[tuple[pa.Table, Any]] = [
        (fewer, [(file.name, file.size, count)]),
        (record, [(file.name, file.size, count - 1)]),
        (record, [(file.name, file.size)]),
        (record, [7]),
    ]
    for table, listed in bad:
        write_record(pond, table, table.schema.remove_metadata(), listed)
        cache = RowCache(os.fspath(pond))
        assert not cache.is_whole
        assert not cache.places
        assert_reads_right(pond)


def test_no_record_goes_behind_one_that_is_not_whole(
    pond: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It would never be found; the next opening mends both."""
    store = open_pond(pond)
    cache_path(pond).write_bytes(truncated(cache_path(pond).read_bytes()))
    size = cache_path(pond).stat().st_size
    store.commit(make_cut(VERSIONS + 1, [size_row(10, 1)]))
    store.close()
    assert cache_path(pond).stat().st_size == size
    assert "could not be written" in caplog.text


def test_without_permission_everything_is_read_from_the_data_files(
    pond: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(records, "open", refuse, raising=False)
    monkeypatch.setattr(rowcache, "open", refuse, raising=False)
    reader = DeltaStore.open_reader(pond)
    assert len(names(reader)) == 3
    reader.close()
    assert "Permission denied" in caplog.text
    # A writer, too: the commit stands.
    store = open_pond(pond)
    store.load_image()
    store.commit(make_cut(VERSIONS + 1, [file_row(20, b"x", b"new")]))
    assert b"new" in names(store)
    store.close()
    assert caplog.text.count("could not be written") == 3


def test_a_full_disk_leaves_what_was_there(
    pond: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    before = cache_path(pond).read_bytes()

    def fail(*args: object) -> int:
        raise OSError(28, "No space left on device")

    for count, name in enumerate(("pwrite", "preadv", "open"), 1):
        store = open_pond(pond)
        store.commit(make_cut(store._version + 1, [size_row(10, 1)]))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(os, name, fail)
            store._keeper.close()
        store.close()
        assert caplog.text.count("No space left") == count
        assert cache_path(pond).read_bytes() == before
    monkeypatch.setattr(os, "pwrite", fail)
    files = files_of(pond)
    scan = read_rows(files)
    cache = RowCache(os.fspath(pond))
    cache.is_whole = False
    assert not cache.renew(files, scan)
    assert cache_path(pond).read_bytes() == before
    assert os.listdir(pond / "_pond").count("rows.tmp") == 0


def test_what_was_written_is_cut_off_where_it_was_written(
    pond: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The owner of the store may lead the name elsewhere meanwhile: root cut off that file."""
    victim = tmp_path / "victim"
    path, moved = cache_path(pond), tmp_path / "moved"
    before = path.read_bytes()
    victim.write_bytes(bytes(2 * len(before)))

    def fail(*args: object) -> int:
        path.rename(moved)
        path.symlink_to(victim)
        raise OSError(28, "No space left on device")

    store = open_pond(pond)
    store.commit(make_cut(store._version + 1, [size_row(10, 1)]))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "pwrite", fail)
        store._keeper.close()
    store.close()
    assert caplog.text.count("No space left") == 1
    assert victim.stat().st_size == 2 * len(before)
    assert moved.read_bytes() == before


# --- when it is written ---


def test_records_are_added_while_mounted_and_joined_at_the_next_opening(tmp_path: Path) -> None:
    path = tmp_path / "pond"
    store = new_pond(path)
    for version in range(2, 20):
        store.commit(make_cut(version, [file_row(version, b"x", b"f%d" % version)]))
    assert RowCache(os.fspath(path)).records == 5
    store.close()
    cache = RowCache(os.fspath(path))
    assert cache.records == 6
    assert len(cache.places) == 19
    store = open_pond(path)
    mapped = read_rows(files_of(path), cache=cache).table
    before = mapped.to_pylist()
    store.load_image()
    store.close()
    cache = RowCache(os.fspath(path))
    assert cache.records == 1
    assert len(cache.places) == 19
    # Whoever had the old one mapped has it still.
    assert mapped.to_pylist() == before


def test_many_noted_rows_make_a_record_early(pond: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rowcache, "NOTED_ROWS", 3)
    store = open_pond(pond)
    store.commit(make_cut(VERSIONS + 1, [size_row(10, 1)]))
    assert hits(pond) == VERSIONS + 1
    store.commit(make_cut(VERSIONS + 2, [size_row(10, 1)]))
    assert hits(pond) == VERSIONS + 3
    store.close()


def test_readers_write_nothing(pond: Path) -> None:
    cache_path(pond).unlink()
    before = sorted(os.listdir(pond / "_pond"))
    reader = DeltaStore.open_reader(pond)
    reader.load_image()
    reader.load_image_at(Version(3))
    reader.close()
    Trace(pond).close()
    assert sorted(os.listdir(pond / "_pond")) == before


def test_little_is_not_worth_a_cache(pond: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rowcache, "WORTH_FILES", 100)
    monkeypatch.setattr(rowcache, "CLOSING_FILES", 20)
    cache_path(pond).unlink()
    store = open_pond(pond)
    store.load_image()
    store.commit(make_cut(VERSIONS + 1, [size_row(10, 1)]))
    store.close()
    assert not cache_path(pond).exists()


def test_many_rows_in_few_files_are_worth_one(pond: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rowcache, "WORTH_FILES", 100)
    monkeypatch.setattr(rowcache, "_ROWS_LIKE_A_FILE", 0.1)
    cache_path(pond).unlink()
    store = open_pond(pond)
    store.load_image()
    store.close()
    assert hits(pond) == VERSIONS + 1


def test_rows_of_files_the_table_has_no_more_are_dropped(pond: Path) -> None:
    old = RowCache(os.fspath(pond)).places.keys()
    DeltaTable(pond).optimize.compact()
    (file,) = files_of(pond)
    store = open_pond(pond)
    assert len(names(store)) == 3
    store.close()
    assert RowCache(os.fspath(pond)).places.keys() == {file.name}
    assert file.name not in old
    assert_reads_right(pond)


def test_large_commits_are_left_to_the_next_opening(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rowcache, "_MOST_NOTED_ROWS", 3)
    path = tmp_path / "pond"
    store = new_pond(path)
    store.commit(make_cut(2, [file_row(node, b"x", b"%d" % node) for node in range(10, 20)]))
    store.commit(make_cut(3, [file_row(30, b"x", b"n")]))
    store.close()
    assert len(RowCache(os.fspath(path)).places) == 2
    store = open_pond(path)
    store.load_image()
    store.close()
    assert len(RowCache(os.fspath(path)).places) == 3


def test_its_size_is_bounded_and_files_with_few_rows_come_first(
    pond: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache_path(pond).unlink()
    files = files_of(pond)
    scan = read_rows(files)
    rows = np.bincount(scan.file)
    row_bytes = scan.table.nbytes / scan.table.num_rows + 8
    monkeypatch.setattr(rowcache, "MOST_BYTES", int(row_bytes * (scan.table.num_rows - 1)))
    assert RowCache(os.fspath(pond)).renew(files, scan)
    cache = RowCache(os.fspath(pond))
    (left_out,) = [at for at, file in enumerate(files) if cache.find(file) is None]
    assert rows[left_out] == rows.max()
    assert_reads_right(pond)
    # What does not fit is not missed again and again, and nothing is added without end.
    assert not cache.renew(files, scan)
    monkeypatch.setattr(rowcache, "MOST_BYTES", 1)
    size = cache_path(pond).stat().st_size
    store = open_pond(pond)
    store.commit(make_cut(VERSIONS + 1, [size_row(10, 1)]))
    store.close()
    assert cache_path(pond).stat().st_size == size


def test_rows_in_several_batches_read_the_same(pond: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rowcache, "_BATCH_ROWS", 4)
    monkeypatch.setattr(records, "_PIECE_BYTES", 4096)
    cache_path(pond).unlink()
    store = open_pond(pond)
    store.load_image()
    store.close()
    place = next(iter(RowCache(os.fspath(pond)).places.values()))
    assert place.record["version"].num_chunks > 3
    assert_reads_right(pond)


def test_no_content_is_kept_from_being_let_go(tmp_path: Path) -> None:
    """Noted rows hold no `Content`: the committer lets go of its bytes when they are settled."""
    path = tmp_path / "pond"
    store = new_pond(path)
    store.commit(make_cut(2, [file_row(10, b"abc", b"a")]))
    noted = [value for _, rows in store._keeper._files.values() for row in rows for value in row]
    assert not any(isinstance(value, Content) for value in noted)
    assert len(noted) % len(CACHED_SCHEMA) == 0
    store.close()


def test_it_is_private(pond: Path) -> None:
    assert cache_path(pond).stat().st_mode & 0o777 == 0o600
