import errno
import os
import threading
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pondfs.errors import StoreDamaged
from pondfs.extent import Content
from pondfs.store.content import ContentReader, DataFile
from pondfs.store.schema import SCHEMA
from tests.unit.store.support import (
    as_file,
    extent_row,
    file_row,
    new_reader,
    read_bytes,
    read_nowait,
    size_row,
)


@pytest.fixture
def values() -> list[bytes | None]:
    return [os.urandom(1 + i * 7919 % 30_000) if i % 3 else None for i in range(60)]


@pytest.fixture
def file(tmp_path: Path, values: list[bytes | None]) -> DataFile:
    rows = [
        size_row(2, 0) if data is None else extent_row(2, 0, data) for data in values
    ]  # fmt: skip
    return as_file(tmp_path, 1, rows)


def check_all(reader: ContentReader, file: DataFile, values: list[bytes | None]) -> list[Content]:
    contents = []
    for row, data in enumerate(values):
        if data is None:
            continue
        content = Content.stored(file, row, len(data))
        contents.append(content)
        assert read_bytes(reader, content, 0, len(data)) == data
        assert (
            read_bytes(reader, content, len(data) // 2, len(data) // 3)
            == (data[len(data) // 2 : len(data) // 2 + len(data) // 3])
        )
        nowait = read_nowait(reader, content, 1, len(data) - 1)
        assert nowait is None or nowait == data[1:]
    return contents


def test_contents_of_an_image_are_located_on_first_use(
    file: DataFile, values: list[bytes | None]
) -> None:
    reader = new_reader()
    contents = check_all(reader, file, values)
    assert all(content.position > 0 for content in contents)


def test_cached_bytes_come_without_waiting(file: DataFile, values: list[bytes | None]) -> None:
    reader = new_reader()
    data = values[1]
    assert data is not None
    content = Content.stored(file, 1, len(data))
    assert read_nowait(reader, content, 0, 10) is None, "not located yet"
    read_bytes(reader, content, 0, 10)
    found = read_nowait(reader, content, 0, len(data))
    assert found == data, "just written, so in the page cache"


def test_a_filesystem_without_nowait_is_asked_once(
    file: DataFile, values: list[bytes | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = new_reader()
    content = Content.stored(file, 1, len(values[1] or b""))
    read_bytes(reader, content, 0, 1)
    calls = []

    def refuse(*args: Any) -> int:
        calls.append(args)
        raise OSError(errno.EOPNOTSUPP, "no RWF_NOWAIT")

    monkeypatch.setattr(os, "preadv", refuse)
    assert read_nowait(reader, content, 0, 1) is None
    assert read_nowait(reader, content, 0, 1) is None
    assert len(calls) == 1


@pytest.mark.parametrize(
    "options",
    [
        {"compression": "zstd", "row_group_size": 7},
        {"compression": "snappy", "use_dictionary": True},
        {"compression": "NONE", "use_dictionary": ["content"], "row_group_size": 20},
        {"compression": "NONE", "use_dictionary": False, "data_page_version": "2.0"},
        {"compression": "NONE", "use_dictionary": False, "write_batch_size": 1},
    ],
)
def test_files_rewritten_by_others_read_the_same(
    file: DataFile, values: list[bytes | None], options: dict[str, Any]
) -> None:
    pq.write_table(pq.read_table(file.path), file.path, **options)
    reader = ContentReader(max_open=4, cache_bytes=20_000)
    check_all(reader, file, values)


def test_damage_to_a_file_rewritten_by_others_names_it(
    file: DataFile, values: list[bytes | None]
) -> None:
    """Wherever it is: what Arrow makes of it is an `OSError` without a number, mostly."""
    pq.write_table(
        pq.read_table(file.path), file.path, compression="zstd", write_page_checksum=True
    )
    path = Path(file.path)
    right = path.read_bytes()
    length = pq.ParquetFile(path).metadata.row_group(0).column(SCHEMA.get_field_index("length"))
    footer = len(right) - 8 - int.from_bytes(right[-8:-4], "little")
    told = 0
    row, data = next((row, data) for row, data in enumerate(values) if data is not None)
    places = [*range(length.dictionary_page_offset or length.data_page_offset, footer, 997)]
    places += range(footer, len(right), 97)
    places += range(length.data_page_offset, length.data_page_offset + 40)
    for at in places:
        path.write_bytes(right[:at] + bytes([right[at] ^ 0xFF]) + right[at + 1 :])
        other = DataFile(str(path.parent), file.name, file.size, file.stats, 0)
        try:
            found = read_bytes(new_reader(), Content.stored(other, row, len(data)), 0, len(data))
        except StoreDamaged as error:
            told += file.name in str(error)
        else:
            assert found == data
    assert told > 40


def test_a_rewrite_with_large_nullable_columns_reads_the_same(
    file: DataFile, values: list[bytes | None]
) -> None:
    table = pq.read_table(file.path)
    fields = [
        pa.field(f.name, pa.large_binary() if f.type == pa.binary() else f.type)
        for f in table.schema
    ]
    pq.write_table(table.cast(pa.schema(fields)), file.path, compression="zstd")
    check_all(new_reader(), file, values)


def test_decoded_row_groups_are_bounded(file: DataFile, values: list[bytes | None]) -> None:
    pq.write_table(pq.read_table(file.path), file.path, compression="zstd", row_group_size=2)
    reader = ContentReader(max_open=4, cache_bytes=50_000)
    check_all(reader, file, values)
    assert 0 < reader.cache_bytes <= 50_000
    reader.limit_cache(30_000)
    assert 0 < reader.cache_bytes <= 30_000
    reader.close()
    assert reader.cache_bytes == 0


def test_open_files_are_bounded_and_come_back(tmp_path: Path) -> None:
    files = [as_file(tmp_path, 1, [file_row(2, b"%d" % i, b"n")]) for i in range(20)]
    contents = [Content.stored(f, 0, len(b"%d" % i)) for i, f in enumerate(files)]
    reader = ContentReader(max_open=4)
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        for i, content in enumerate(contents):
            assert read_bytes(reader, content, 0, content.length) == b"%d" % i
            assert len(os.listdir("/proc/self/fd")) <= before + 4
    reader.close()
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_file_that_is_used_stays_open_while_others_come_and_go(tmp_path: Path) -> None:
    files = [as_file(tmp_path, 1, [file_row(2, b"%02d" % i, b"n")]) for i in range(9)]
    contents = [Content.stored(f, 0, 2) for f in files]
    reader = ContentReader(max_open=3)
    read_bytes(reader, contents[0], 0, 2)
    kept = files[0].handle
    for content in contents[1:]:
        read_bytes(reader, content, 0, 2)
        read_bytes(reader, contents[0], 0, 2)
    assert files[0].handle is kept


def test_opening_a_file_waits_for_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its sums come from a disk that may be slow. Who opens the same file has it once."""
    slow_file, quick_file = (as_file(tmp_path, at, [file_row(2, b"x%d" % at)]) for at in (1, 2))
    reader = ContentReader(max_open=4)
    found: list[bytes] = []

    def read(file: DataFile) -> None:
        found.append(read_bytes(reader, Content.stored(file, 0, 2), 0, 2))

    slow, quick, same = (
        threading.Thread(target=read, args=(file,), daemon=True)
        for file in (slow_file, quick_file, slow_file)
    )
    reached, go_on = threading.Event(), threading.Event()
    pread = os.pread

    def wait(fd: int, length: int, at: int) -> bytes:
        if threading.current_thread() is slow:
            reached.set()
            go_on.wait(60)
        return pread(fd, length, at)

    monkeypatch.setattr(os, "pread", wait)
    slow.start()
    assert reached.wait(60)
    for thread in (quick, same):
        thread.start()
        thread.join(30)
    assert found == [b"x2", b"x1"]
    kept = slow_file.handle
    assert kept is not None
    go_on.set()
    slow.join(60)
    assert found == [b"x2", b"x1", b"x1"]
    assert slow_file.handle is kept
    reader.close()
    assert slow_file.handle is None


def test_an_open_file_outlives_its_name(file: DataFile, values: list[bytes | None]) -> None:
    """A foreign OPTIMIZE and VACUUM take the file away under a mounted pond."""
    reader = new_reader()
    read_bytes(reader, Content.stored(file, 1, len(values[1] or b"")), 0, 1)
    os.unlink(file.path)
    check_all(reader, file, values)


def damaged(reader: ContentReader, content: Content, what: str) -> None:
    with pytest.raises(StoreDamaged, match=what) as caught:
        read_bytes(reader, content, 0, content.length)
    assert caught.value.errno == errno.EIO
    assert content.file.path in str(caught.value)


def test_a_missing_file(file: DataFile) -> None:
    os.unlink(file.path)
    damaged(new_reader(), Content.stored(file, 1, 5), "is gone")


def test_a_file_that_became_shorter(file: DataFile, values: list[bytes | None]) -> None:
    content = Content.stored(file, 59, len(values[59] or b""))
    reader = new_reader()
    last = Content.stored(file, 58, len(values[58] or b""))
    read_bytes(reader, last, 0, last.length)
    os.truncate(file.path, last.position + 1)
    damaged(reader, last, "shorter than its rows say")
    damaged(new_reader(), content, "shorter than its rows say|damaged")


def test_a_row_that_is_not_there_or_of_another_length(file: DataFile) -> None:
    damaged(new_reader(), Content.stored(file, 60, 5), "has no row 60")
    damaged(new_reader(), Content.stored(file, 1, 5), "holds 7920 bytes of content, not 5")
    pq.write_table(pq.read_table(file.path), file.path, compression="zstd")
    damaged(new_reader(), Content.stored(file, 1, 5), "holds 7920 bytes of content, not 5")


def test_reads_from_many_threads(file: DataFile, values: list[bytes | None]) -> None:
    reader = ContentReader(max_open=1)
    errors: list[BaseException] = []

    def work() -> None:
        try:
            for _ in range(5):
                check_all(reader, file, values)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
