import json
import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable

from pondfs.node import ROOT
from pondfs.store import checkpoint
from pondfs.store.deltalog import read_snapshot
from tests.unit.store.support import fault, file_row, log_entry, make_cut, new_pond, open_pond


@pytest.fixture
def pond(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A pond of six commits that writes a checkpoint for every six."""
    monkeypatch.setattr(checkpoint, "ENTRIES_BETWEEN", 5)
    path = tmp_path / "pond"
    store = new_pond(path)
    for version in range(2, 7):
        store.commit(make_cut(version, [file_row(version, b"x", b"f%d" % version)]))
    store.close()
    return path


def last_checkpoint(path: Path) -> int:
    return read_snapshot(os.fspath(path / "_delta_log")).checkpoint


def files_by_delta_rs(path: Path) -> set[str]:
    return {os.path.basename(uri) for uri in DeltaTable(path).file_uris()}


def test_delta_rs_opens_the_table_from_the_checkpoint_alone(pond: Path) -> None:
    assert last_checkpoint(pond) == 6
    before = DeltaTable(pond)
    # The entry of the checkpoint's own version stays, as in every clean-up of a Delta log.
    for number in range(6):
        log_entry(pond, number).unlink()
    table = DeltaTable(pond)
    assert table.version() == 6
    assert table.transaction_version("pondfs") == 6
    assert files_by_delta_rs(pond) == {os.path.basename(uri) for uri in before.file_uris()}
    assert table.metadata().configuration == before.metadata().configuration
    assert table.schema() == before.schema()
    assert table.protocol().min_writer_version == 2
    store = open_pond(pond)
    assert len(store.load_image().load_entries(ROOT)) == 5
    store.close()
    # And it goes on from there.
    table.optimize.compact()
    assert len(files_by_delta_rs(pond)) == 1


def test_commits_after_it_are_seen_with_it(pond: Path) -> None:
    store = open_pond(pond)
    store.commit(make_cut(7, [file_row(7, b"x", b"f7")]))
    store.close()
    assert last_checkpoint(pond) == 6
    assert files_by_delta_rs(pond) == set(read_snapshot(os.fspath(pond / "_delta_log")).adds)


def test_a_process_that_died_has_its_checkpoint_written_at_the_next_opening(pond: Path) -> None:
    store = open_pond(pond)
    for version in range(7, 14):
        store.commit(make_cut(version, [file_row(version, b"x", b"f%d" % version)]))
    assert last_checkpoint(pond) == 6
    store._lock.release()  # type: ignore[union-attr]  # died: no close
    open_pond(pond).close()
    assert last_checkpoint(pond) == 13


def test_a_foreign_optimize_survives_it(pond: Path) -> None:
    DeltaTable(pond).optimize.compact()
    store = open_pond(pond)
    for version in range(7, 13):
        store.commit(make_cut(version, [file_row(version, b"x", b"f%d" % version)]))
    store.close()
    assert last_checkpoint(pond) > 6
    snapshot = read_snapshot(os.fspath(pond / "_delta_log"))
    assert len(snapshot.adds) == 7
    assert len(snapshot.removes) == 6
    assert files_by_delta_rs(pond) == set(snapshot.adds)


def test_what_is_said_of_files_that_went_goes_from_checkpoint_to_checkpoint(pond: Path) -> None:
    """They stay as Arrow has them: what they say, and which there are, is what the entry said."""
    DeltaTable(pond).optimize.compact()
    log_dir = os.fspath(pond / "_delta_log")
    said = {
        name: {key: value for key, value in body.items() if value is not None}
        for name, body in read_snapshot(log_dir).removes.items()
    }
    assert len(said) == 6
    gone = sorted(said)[0]
    for _ in range(2):
        assert checkpoint.write_checkpoint(log_dir, read_snapshot(log_dir))
        found = read_snapshot(log_dir)
        assert found.checkpoint == found.version
        assert {name: found.removes[name] for name in found.removes} == {
            name: {**body, "dataChange": False} for name, body in said.items()
        }
    del found.removes[gone]
    assert checkpoint.write_checkpoint(log_dir, found)
    found = read_snapshot(log_dir)
    assert gone not in found.removes
    assert set(found.removes) == said.keys() - {gone}
    # One that came back, and one that went again.
    other = sorted(said)[1]
    found.apply(found.version, [{"add": {"path": other}}, {"remove": {"path": gone, "size": 7}}])
    assert set(found.removes) == said.keys() - {other}
    assert found.removes[gone] == {"path": gone, "size": 7}


def test_what_it_cannot_carry_over_is_left_to_the_entries(
    pond: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    log_dir = os.fspath(pond / "_delta_log")
    snapshot = read_snapshot(log_dir)
    snapshot.unknown.add("domainMetadata")
    assert not checkpoint.write_checkpoint(log_dir, snapshot)
    assert "domainMetadata" in caplog.text
    next(iter(snapshot.adds.values()))["baseRowId"] = 1
    snapshot.unknown.clear()
    assert not checkpoint.write_checkpoint(log_dir, snapshot)
    assert "add.baseRowId" in caplog.text


def test_a_failure_leaves_the_log_as_it_was(pond: Path, caplog: pytest.LogCaptureFixture) -> None:
    before = sorted(os.listdir(pond / "_delta_log"))
    log_dir = os.fspath(pond / "_delta_log")
    snapshot = read_snapshot(log_dir)
    with fault("checkpoint:rename", "ENOSPC"), pytest.raises(OSError, match="No space"):
        checkpoint.write_checkpoint(log_dir, snapshot)
    assert sorted(os.listdir(log_dir)) == before
    store = open_pond(pond)
    for version in range(7, 13):
        store.commit(make_cut(version, [file_row(version, b"x", b"f%d" % version)]))
    with fault("checkpoint:rename", "ENOSPC"):
        store.close()
    assert "no checkpoint of" in caplog.text


@pytest.mark.parametrize(
    "action",
    [
        {"txn": {"appId": "another", "version": 5, "lastUpdated": "yesterday"}},
        {"txn": {"appId": "another", "version": 1 << 70}},
        {"metaData": "ours", "format": 5},
    ],
)
def test_what_another_program_wrote_does_not_keep_the_pond_from_opening(
    pond: Path, caplog: pytest.LogCaptureFixture, action: dict[str, Any]
) -> None:
    """Values that Arrow does not know how to write are the log's to keep."""
    if "metaData" in action:
        ours = read_snapshot(os.fspath(pond / "_delta_log")).metadata
        action = {"metaData": {**ours, "format": action["format"]}}
    log_entry(pond, 7).write_text(json.dumps(action))
    for number in range(8, 13):
        log_entry(pond, number).write_text('{"commitInfo":{}}')
    store = open_pond(pond)
    assert "no checkpoint of" in caplog.text
    store.commit(make_cut(7, [file_row(7, b"x", b"f7")]))
    store.close()
    assert last_checkpoint(pond) == 6


def test_another_programs_checkpoint_does_not_keep_the_pond_from_opening(
    pond: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Its tombstones are taken over as Arrow has them, whatever that is."""
    DeltaTable(pond).optimize.compact()
    log_dir = pond / "_delta_log"
    assert checkpoint.write_checkpoint(os.fspath(log_dir), read_snapshot(os.fspath(log_dir)))
    path = log_dir / f"{7:020d}.checkpoint.parquet"
    table = pq.read_table(path)
    kind = table.schema.field("remove").type
    other = pa.struct(
        [pa.field(f.name, pa.string()) if f.name == "deletionTimestamp" else f for f in kind]
    )
    removes = [
        body and {**body, "deletionTimestamp": "soon"} for body in table["remove"].to_pylist()
    ]
    at = table.schema.get_field_index("remove")
    table = table.replace_schema_metadata(None).set_column(
        at, pa.field("remove", other), pa.array(removes, other)
    )
    pq.write_table(table, path)
    for number in range(8, 14):
        log_entry(pond, number).write_text('{"commitInfo":{}}')
    store = open_pond(pond)
    assert "no checkpoint of" in caplog.text
    store.close()
