import errno
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pondfs.errors import ForeignCommit, StoreDamaged
from pondfs.node import Version
from pondfs.store import commit
from pondfs.store.deltalog import read_entry
from tests.unit.store.support import as_file, fault, file_row, log_entry, make_cut


class Log:
    """A log directory by itself."""

    def __init__(self, path: Path) -> None:
        self.path = path / "_delta_log"
        self.path.mkdir()
        self.fd = os.open(self.path, os.O_RDONLY)

    def put(self, number: int, data: bytes) -> None:
        commit.put_entry(self.fd, os.fspath(self.path), number, data)


@pytest.fixture
def log(tmp_path: Path) -> Iterator[Log]:
    log = Log(tmp_path)
    yield log
    os.close(log.fd)


@pytest.fixture(params=["O_TMPFILE", "named"])
def either_log(log: Log, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Log:
    """The log on a filesystem with and on one without O_TMPFILE."""
    if request.param == "named":
        real = os.open

        def refuse(path: Any, flags: int, *args: Any, **kwargs: Any) -> int:
            if flags & os.O_TMPFILE == os.O_TMPFILE:
                raise OSError(errno.EOPNOTSUPP, "no O_TMPFILE here")
            return real(path, flags, *args, **kwargs)

        monkeypatch.setattr(os, "open", refuse)
    return log


def test_an_entry_is_put_only_where_there_is_none(either_log: Log) -> None:
    either_log.put(7, b"one\n")
    with pytest.raises(FileExistsError):
        either_log.put(7, b"two\n")
    assert log_entry(either_log.path.parent, 7).read_bytes() == b"one\n"
    assert os.listdir(either_log.path) == [f"{7:020d}.json"], "nothing else is left"


@pytest.mark.parametrize("point", ["commit:entry-fsync", "commit:link"])
def test_an_error_before_the_link_leaves_nothing(either_log: Log, point: str) -> None:
    with fault(point, "ENOSPC"), pytest.raises(OSError, match="No space") as caught:
        either_log.put(7, b"one\n")
    assert caught.value.errno == errno.ENOSPC
    assert os.listdir(either_log.path) == []


def test_bytes_are_durable_before_the_name_and_the_name_before_the_answer(
    either_log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    sync, link = os.fsync, os.link

    def note_sync(fd: int) -> None:
        done.append("directory" if fd == either_log.fd else "entry")
        sync(fd)

    def note_link(*args: Any, **kwargs: Any) -> None:
        done.append("link")
        link(*args, **kwargs)

    monkeypatch.setattr(os, "fsync", note_sync)
    monkeypatch.setattr(os, "link", note_link)
    either_log.put(7, b"one\n")
    assert done == ["entry", "link", "directory"]


def test_the_entry_says_what_delta_and_what_pondfs_want(tmp_path: Path, log: Log) -> None:
    file = as_file(tmp_path, 5, [file_row(2, b"abc", b"n")])
    cut = make_cut(5, [], message="why ✓\n")
    data = commit.entry(cut, [file])
    log.put(9, data)
    info, txn, add = read_entry(os.fspath(log.path), 9)
    assert info["commitInfo"]["operation"] == "WRITE"
    assert info["commitInfo"]["engineInfo"].startswith("pondfs/")
    facts = info["commitInfo"]["pondfs"]
    assert (facts["version"], facts["message"], facts["user"]) == (5, "why ✓\n", "ada")
    assert facts["lines"] == 3 == data.count(b"\n")
    assert (txn["txn"]["appId"], txn["txn"]["version"]) == ("pondfs", 5)
    assert add["add"]["path"] == file.name
    assert add["add"]["size"] == os.stat(file.path).st_size
    assert add["add"]["dataChange"] is True
    assert json.loads(add["add"]["stats"])["numRecords"] == 1
    actions = read_entry(os.fspath(log.path), 9)
    assert commit.is_commit_of(actions, Version(5))
    assert not commit.is_commit_of(actions, Version(4))


SCHEMA = '{"type":"struct"}'


@pytest.mark.parametrize(
    "action",
    [
        {"commitInfo": {"operation": "OPTIMIZE"}},
        {"add": {"path": "x", "dataChange": True}},
        {"add": {"path": "x", "dataChange": False}},
        {"remove": {"path": "x", "dataChange": False}},
        {"txn": {"appId": "another program", "version": 5}},
        {"metaData": {"schemaString": SCHEMA, "partitionColumns": [], "configuration": {}}},
        {"protocol": {"minReaderVersion": 1, "minWriterVersion": 2}},
    ],
)
def test_what_leaves_our_rows_as_they_are_is_no_conflict(action: dict[str, Any]) -> None:
    commit.check_foreign([action], 7, SCHEMA)


@pytest.mark.parametrize(
    ("action", "message"),
    [
        ({"remove": {"path": "x", "dataChange": True}}, "removed rows"),
        ({"remove": {"path": "x"}}, "removed rows"),
        ({"txn": {"appId": "pondfs", "version": 9}}, "another pondfs committed version 9"),
        ({"metaData": {"schemaString": "{}", "partitionColumns": []}}, "schema"),
        ({"metaData": {"schemaString": SCHEMA, "partitionColumns": ["op"]}}, "schema"),
        ({"protocol": {"minReaderVersion": 3, "minWriterVersion": 7}}, "protocol"),
        ({"add": {"path": "sub/x.parquet", "dataChange": True}}, "no file in the store's own"),
        ({"remove": {"path": "%2Fx", "dataChange": False}}, "no file in the store's own"),
    ],
)
def test_what_changes_our_rows_or_how_they_are_read_is_one(
    action: dict[str, Any], message: str
) -> None:
    with pytest.raises(ForeignCommit, match=message) as caught:
        commit.check_foreign([action], 7, SCHEMA)
    assert f"{7:020d}.json" in str(caught.value)


def test_a_damaged_entry_in_the_way_is_told(log: Log) -> None:
    assert commit.who_took(os.fspath(log.path), 7) is None
    log.put(7, b"{")
    with pytest.raises(StoreDamaged, match=r"00007\.json"):
        commit.who_took(os.fspath(log.path), 7)
