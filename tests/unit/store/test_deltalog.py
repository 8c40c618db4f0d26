import json
import os
import re
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable

from pondfs.errors import NotAPond, StoreDamaged
from pondfs.store.deltalog import (
    BadEntryError,
    BadHeadError,
    RottenEntryError,
    list_log,
    read_entry,
    read_snapshot,
)
from tests.unit.store.support import file_row, log_entry, make_cut, new_pond


@pytest.fixture
def pond(tmp_path: Path) -> Path:
    """A pond of Delta versions 0 to 4."""
    path = tmp_path / "pond"
    store = new_pond(path)
    for version in (2, 3, 4):
        store.commit(make_cut(version, [file_row(version, b"x", b"f%d" % version)]))
    store.close()
    return path


def log_dir(path: Path) -> str:
    return os.fspath(path / "_delta_log")


def test_same_table_as_delta_rs_sees(pond: Path) -> None:
    ours, theirs = read_snapshot(log_dir(pond)), DeltaTable(pond)
    assert ours.version == theirs.version() == 4
    assert set(ours.adds) == {os.path.basename(uri) for uri in theirs.file_uris()}
    assert ours.pond_version == theirs.transaction_version("pondfs") == 4
    assert ours.metadata["id"] == str(theirs.metadata().id)


def test_an_older_version_of_the_table(pond: Path) -> None:
    snapshot = read_snapshot(log_dir(pond), up_to=2)
    assert (snapshot.version, snapshot.pond_version, len(snapshot.adds)) == (2, 2, 2)


def test_same_table_after_a_foreign_optimize_and_checkpoint(pond: Path) -> None:
    theirs = DeltaTable(pond)
    theirs.optimize.compact()
    theirs.create_checkpoint()
    # The checkpoint alone must do.
    for number in range(5):
        log_entry(pond, number).unlink()
    ours = read_snapshot(log_dir(pond))
    assert ours.checkpoint == ours.version == 5
    assert set(ours.adds) == {os.path.basename(uri) for uri in DeltaTable(pond).file_uris()}
    assert len(ours.adds) == 1
    assert len(ours.removes) == 4
    assert ours.metadata["configuration"]["delta.appendOnly"] == "true"
    assert ours.metadata["partitionColumns"] == []
    assert ours.pond_version == 4


@pytest.mark.parametrize("damage", [b"", b"{", b'{"add"\n', b"[]\n", b"\x00" * 50])
def test_a_bad_newest_entry_is_told_from_a_bad_older_one(pond: Path, damage: bytes) -> None:
    log_entry(pond, 4).write_bytes(damage)
    with pytest.raises(BadHeadError) as caught:
        read_snapshot(log_dir(pond))
    assert caught.value.version == 4
    log_entry(pond, 3).write_bytes(damage)
    with pytest.raises(StoreDamaged, match=r"00003\.json .* is damaged"):
        read_snapshot(log_dir(pond))


def test_an_entry_that_lost_whole_lines_is_bad(pond: Path) -> None:
    """Every line that is left parses; only the count shows it, in entries of before checksums."""
    lines = log_entry(pond, 4).read_bytes().splitlines(keepends=True)
    lines[0] = re.sub(rb'"crc":"[0-9a-f]{8}",', b"", lines[0])
    log_entry(pond, 4).write_bytes(b"".join(lines[:-1]))
    with pytest.raises(BadEntryError, match="it has 2 of 3 lines"):
        read_entry(log_dir(pond), 4)


def test_a_missing_entry_is_damage(pond: Path) -> None:
    log_entry(pond, 2).unlink()
    with pytest.raises(StoreDamaged, match=r"00002\.json .* is missing"):
        read_snapshot(log_dir(pond))


def test_a_damaged_checkpoint_is_passed_over_while_the_entries_are_there(
    pond: Path, caplog: pytest.LogCaptureFixture
) -> None:
    DeltaTable(pond).create_checkpoint()
    checkpoint = pond / "_delta_log" / f"{4:020d}.checkpoint.parquet"
    checkpoint.write_bytes(checkpoint.read_bytes()[:-9])
    assert len(read_snapshot(log_dir(pond)).adds) == 4
    assert "checkpoint" in caplog.text
    log_entry(pond, 0).unlink()
    said = rf"no checkpoint .* can be read \({checkpoint.name}\), and .* restore one of them"
    with pytest.raises(StoreDamaged, match=said):
        read_snapshot(log_dir(pond))


def test_a_state_before_a_damaged_checkpoint_is_not_taken_for_the_newest(pond: Path) -> None:
    """Where the entries that lead to it are gone, it would be a silent way back in time."""
    DeltaTable(pond).create_checkpoint()
    checkpoint = pond / "_delta_log" / f"{4:020d}.checkpoint.parquet"
    checkpoint.write_bytes(checkpoint.read_bytes()[:-9])
    log_entry(pond, 4).unlink()
    with pytest.raises(StoreDamaged, match=r"00004\.json .* is missing"):
        read_snapshot(log_dir(pond))


def test_a_list_made_while_the_log_changed_is_made_again(
    pond: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A directory that is read in pieces may show an entry without the one before it."""
    whole = os.listdir(log_dir(pond))
    lists = [
        [name for name in whole if name != log_entry(pond, 2).name],
        [*whole, log_entry(pond, 5).name],
        whole,
    ]
    monkeypatch.setattr(os, "listdir", lambda path: lists.pop(0))
    assert read_snapshot(log_dir(pond)).version == 4
    assert not lists


def test_other_names_in_the_log_are_no_entries(pond: Path) -> None:
    for name in ("_commit_x.json.tmp", ".00000000000000000009.json.tmp", f"{9:020d}.json.crc"):
        (pond / "_delta_log" / name).write_bytes(b"")
    assert list_log(log_dir(pond)) == ([0, 1, 2, 3, 4], [])


def test_a_checkpoint_of_another_kind_is_refused_not_passed_over(pond: Path) -> None:
    (pond / "_delta_log" / f"{3:020d}.checkpoint.{1:010d}.{2:010d}.parquet").write_bytes(b"x")
    with pytest.raises(StoreDamaged, match="of a kind pondfs cannot read"):
        read_snapshot(log_dir(pond))


@pytest.mark.parametrize(
    ("action", "message"),
    [
        ({"protocol": {"minReaderVersion": 3, "minWriterVersion": 7}}, "protocol to reader 3"),
        (
            {
                "add": {
                    "path": "x",
                    "size": 1,
                    "modificationTime": 1,
                    "deletionVector": {"storageType": "u"},
                }
            },
            "deletion vector",
        ),
    ],
)
def test_what_we_do_not_know_is_refused(
    pond: Path, action: dict[str, object], message: str
) -> None:
    log_entry(pond, 5).write_text(json.dumps(action))
    with pytest.raises(StoreDamaged, match=message):
        read_snapshot(log_dir(pond))


def test_no_log_is_no_pond(tmp_path: Path) -> None:
    with pytest.raises(NotAPond, match="has no _delta_log"):
        read_snapshot(log_dir(tmp_path))
    (tmp_path / "_delta_log").mkdir()
    with pytest.raises(NotAPond, match="is empty"):
        read_snapshot(log_dir(tmp_path))


def test_an_entry_in_which_a_digit_is_another_is_bad(pond: Path) -> None:
    """It is JSON still, and every line is there."""
    entry = log_entry(pond, 4)
    right = entry.read_bytes()
    for wrong in (
        right.replace(b'"version":4', b'"version":5'),
        right.replace(b'"size":', b'"size":1'),
        right.replace(b'"add"', b'"adt"'),
        right.replace(b'"user"', b'"usfr"'),
    ):
        assert wrong != right
        entry.write_bytes(wrong)
        with pytest.raises(RottenEntryError, match="another checksum"):
            read_entry(log_dir(pond), 4)


def test_what_a_crash_can_leave_is_told_from_rot(pond: Path) -> None:
    """An entry has its name after its bytes are on the disk: unless the disk lied about that."""
    entry = log_entry(pond, 4)
    right = entry.read_bytes()
    for stop in range(len(right)):
        for torn in (right[:stop], right[:stop] + bytes(len(right) - stop)):
            entry.write_bytes(torn)
            with pytest.raises(BadHeadError) as caught:
                read_snapshot(log_dir(pond))
            assert not caught.value.is_rotten
    head = len(b'{"commitInfo":{"pondfs":{"crc":"')
    assert right[:head].endswith(b'"crc":"')
    for at in range(head, len(right)):
        for bit in (1, 8):
            entry.write_bytes(right[:at] + bytes([right[at] ^ bit]) + right[at + 1 :])
            with pytest.raises(BadHeadError) as caught:
                read_snapshot(log_dir(pond))
            # Where a line ends, and in how many there are, it looks like the one or the other.
            near = right[at - 8 : at + 1]
            assert caught.value.is_rotten or right[at] == 10 or b'"lines":' in near


def test_entries_of_before_there_were_checksums(pond: Path) -> None:
    entry = log_entry(pond, 4)
    whole = read_snapshot(log_dir(pond))
    entry.write_bytes(re.sub(rb'"crc":"[0-9a-f]{8}",', b"", entry.read_bytes()))
    assert b"crc" not in entry.read_bytes()
    assert read_snapshot(log_dir(pond)) == whole


@pytest.mark.parametrize(
    "action",
    [
        {"add": {"path": "x"}},
        {"add": {"path": 5, "size": 1, "modificationTime": 1}},
        {"add": {"path": "x", "size": 1, "modificationTime": 1, "stats": "{"}},
        {"add": {"path": "x", "size": 1, "modificationTime": 1, "stats": '{"numRecords":"1"}'}},
        {"txn": {"appId": "pondfs"}},
        {"metaData": {"id": "x"}},
        {"remove": None},
        {"commitInfo": {"pondfs": 5}},
    ],
)
def test_actions_without_what_the_protocol_demands(pond: Path, action: dict[str, object]) -> None:
    log_entry(pond, 5).write_text(json.dumps(action))
    with pytest.raises(BadHeadError, match="is no action"):
        read_snapshot(log_dir(pond))


def test_any_damage_to_another_programs_checkpoint_is_told_as_such(pond: Path) -> None:
    """It has no seal: what Arrow makes of it is an `OSError` without a number, mostly."""
    DeltaTable(pond).create_checkpoint()
    checkpoint = pond / "_delta_log" / f"{4:020d}.checkpoint.parquet"
    right = checkpoint.read_bytes()
    whole = set(read_snapshot(log_dir(pond)).adds)
    told = 0
    for at in range(0, len(right), 97):
        checkpoint.write_bytes(right[:at] + bytes([right[at] ^ 0xFF]) + right[at + 1 :])
        snapshot = read_snapshot(log_dir(pond))
        assert set(snapshot.adds) == whole
        told += snapshot.checkpoint == -1
    assert told > len(right) // 97 // 2
    # The disk's own errors are no damage.
    checkpoint.unlink()
    checkpoint.mkdir()
    with pytest.raises(OSError, match="no file of this pond"):
        read_snapshot(log_dir(pond))


@pytest.mark.parametrize(
    "columns",
    [
        {"remove": [{"deletionTimestamp": 5}]},
        {"remove": [{"path": 5}]},
        {"add": [{"size": 5}]},
        {"txn": [7]},
    ],
)
def test_a_checkpoint_of_something_else(pond: Path, columns: dict[str, list[object]]) -> None:
    checkpoint = pond / "_delta_log" / f"{4:020d}.checkpoint.parquet"
    pq.write_table(pa.table(columns), checkpoint)
    snapshot = read_snapshot(log_dir(pond))
    assert snapshot.damaged == [4]
    assert len(snapshot.adds) == 4
