import errno
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest
from deltalake import DeltaTable, write_deltalake

from pondfs.errors import ForeignCommit
from pondfs.node import Version
from pondfs.store import DeltaStore
from pondfs.store.schema import SCHEMA
from tests.unit.store.support import (
    adopt,
    committed,
    data_file_names,
    fault,
    file_row,
    log_entry,
    make_cut,
    names,
    new_pond,
    open_pond,
    read_bytes,
    read_file,
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "pond"


@pytest.fixture
def store(path: Path) -> Iterator[DeltaStore]:
    store = new_pond(path)
    yield store
    store.close()


BEFORE_LINK = [
    "commit:data-file", "data-file:fsync", "commit:store-dir-fsync", "commit:entry-fsync",
    "commit:link",
]  # fmt: skip
AFTER_LINK = ["commit:log-dir-fsync", "commit:done"]


@pytest.mark.parametrize("point", BEFORE_LINK + AFTER_LINK)
def test_a_failed_commit_can_be_tried_again(path: Path, store: DeltaStore, point: str) -> None:
    """Whichever step fails, and however often: in the end it is there, once."""
    staged = store.stage(Version(2), 0, [file_row(10, b"staged", b"s")])
    adopt(staged)
    cut = make_cut(2, [file_row(11, b"data", b"f")], first_seq=1, staged=[staged.file])
    before = committed(path)
    with fault(point, "EIO"):
        for _ in range(2 if point in BEFORE_LINK else 1):
            with pytest.raises(OSError, match="fault") as caught:
                store.commit(cut)
            assert caught.value.errno == errno.EIO
    if point in BEFORE_LINK:
        assert committed(path) == before
        assert data_file_names(path) == before | {staged.file.name}, "the try was cleaned away"
    content = cut.rows[0].content
    assert content is not None
    assert content.data == b"data", "still in memory"
    settled = store.commit(cut)
    adopt(settled)
    assert read_bytes(store, content, 0, 4) == b"data"
    store.commit(make_cut(3, [file_row(12, b"more", b"g")]))
    assert committed(path) == data_file_names(path)
    assert DeltaTable(path).version() == 3
    image = store.load_image()
    assert [read_file(store, image, node) for node in (10, 11, 12)] == [b"staged", b"data", b"more"]


def test_a_landed_commit_is_fsynced_again_before_it_counts(
    store: DeltaStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    cut = make_cut(2, [file_row(10, b"x", b"f")])
    with fault("commit:log-dir-fsync", "EIO"), pytest.raises(OSError, match="fault"):
        store.commit(cut)
    synced: list[str] = []
    sync = os.fsync

    def note(fd: int) -> None:
        synced.append(os.path.basename(os.readlink(f"/proc/self/fd/{fd}")))
        sync(fd)

    monkeypatch.setattr(os, "fsync", note)
    store.commit(cut)
    assert synced == [f"{2:020d}.json", "_delta_log"]


def test_a_landed_commit_is_never_taken_for_another(store: DeltaStore) -> None:
    with fault("commit:log-dir-fsync", "EIO"), pytest.raises(OSError, match="fault"):
        store.commit(make_cut(2, [file_row(10, b"x", b"f")]))
    with pytest.raises(ForeignCommit, match="already in the log with other rows"):
        store.commit(make_cut(2, [file_row(10, b"other", b"f")]))


# --- foreign writers ---


def foreign_append(path: Path) -> None:
    table = pa.table(
        {
            field.name: pa.array([_foreign_value(field)], field.type) for field in SCHEMA
        },
        schema=SCHEMA,
    )  # fmt: skip
    write_deltalake(path, table, mode="append")


def _foreign_value(field: pa.Field) -> object:
    values = {"version": 2, "seq": 1000, "op": "note", "content": b"", "removed": False}
    if field.name in values:
        return values[field.name]
    if field.name in ("part_id", "node_id"):
        return "0" * 15 + "1"
    if field.name == "timestamp":
        return 0
    return "directory" if field.name == "file_type" else None


def test_committing_goes_on_after_a_foreign_append(path: Path, store: DeltaStore) -> None:
    store.commit(make_cut(2, [file_row(10, b"x", b"f")]))
    foreign_append(path)
    foreign_append(path)
    store.commit(make_cut(3, [file_row(11, b"y", b"g")]))
    table = DeltaTable(path)
    assert (table.version(), table.transaction_version("pondfs")) == (5, 3)
    assert names(store) == {b"f", b"g"}
    store.close()
    again = open_pond(path)
    assert names(again) == {b"f", b"g"}
    again.close()


def test_committing_and_reading_go_on_across_a_foreign_optimize_and_vacuum(
    path: Path, store: DeltaStore
) -> None:
    contents = []
    for version in range(2, 8):
        settled = store.commit(make_cut(version, [file_row(version, b"%d" % version, b"f")]))
        adopt(settled)
        contents.append(settled.contents[0])
    assert read_bytes(store, contents[0], 0, 1) == b"2"
    table = DeltaTable(path)
    table.optimize.compact()
    settled = store.commit(make_cut(8, [file_row(8, b"8", b"g")]))
    assert len(committed(path)) == 2
    assert [read_bytes(store, content, 0, 1) for content in contents] == [
        b"%d" % v for v in range(2, 8)
    ]
    # What we had open stays readable even when the file's name is gone.
    DeltaTable(path).vacuum(0, dry_run=False, enforce_retention_duration=False)
    assert read_bytes(store, contents[0], 0, 1) == b"2"
    store.close()
    again = open_pond(path)
    image = again.load_image()
    assert image.version == 8
    assert [read_file(again, image, node) for node in range(7, 9)] == [b"7", b"8"]
    again.close()


def test_rows_deleted_by_another_program_stop_everything(path: Path, store: DeltaStore) -> None:
    store.commit(make_cut(2, [file_row(10, b"x", b"f")]))
    # Even the append-only property does not hold back a program that ignores it.
    (name,) = (n for n in committed(path) if n.encode() in log_entry(path, 2).read_bytes())
    log_entry(path, 3).write_text(
        f'{{"remove":{{"path":"{name}","dataChange":true,"deletionTimestamp":1}}}}\n'
    )
    cut = make_cut(3, [file_row(11, b"y", b"g")])
    for _ in range(2):
        with pytest.raises(ForeignCommit, match="removed rows"):
            store.commit(cut)
    assert not log_entry(path, 4).exists()
    # Undone as the message says, it goes on.
    log_entry(path, 3).unlink()
    store.commit(cut)
    assert names(store) == {b"f", b"g"}


def test_another_pondfs_that_passed_the_lock_is_noticed(path: Path, store: DeltaStore) -> None:
    """flock does not reach across every network filesystem."""
    copy = path.with_name("copy")
    shutil.copytree(path, copy)
    other = open_pond(copy)
    other.commit(make_cut(2, [file_row(10, b"theirs", b"f")]))
    for name in [*data_file_names(copy) - data_file_names(path), f"_delta_log/{2:020d}.json"]:
        shutil.copy(copy / name, path / name)
    other.close()
    with pytest.raises(ForeignCommit, match="another pondfs committed version 2"):
        store.commit(make_cut(2, [file_row(10, b"ours", b"f")]))
