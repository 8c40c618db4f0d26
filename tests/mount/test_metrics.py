"""``.pond/metrics`` and the figures of ``pond status`` say what was done through the mount."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from pondfs.metrics import FAMILIES
from tests.mount.harness import PondMount, wait_until
from tests.mount.place import ALICE, Say, as_user, errno_of

Metrics = Callable[..., float]


def read(mnt: Path) -> Metrics:
    """Return what ``.pond/metrics`` holds now, as a function of a sample's name and labels."""
    samples: dict[tuple[object, ...], float] = {}
    for family in text_string_to_metric_families((mnt / ".pond/metrics").read_text()):
        assert family.documentation
        for name, labels, number, *_ in family.samples:
            assert labels.pop("mountpoint") == str(mnt)
            key = (name, *sorted(labels.items()))
            assert key not in samples
            samples[key] = number

    def value(name: str, **labels: str) -> float:
        return samples.get((name, *sorted(labels.items())), float("nan"))

    return value


def count(metrics: Metrics, op: str) -> float:
    return metrics("pondfs_operation_duration_seconds_count", op=op)


@pytest.fixture
def quiet(pond: PondMount) -> PondMount:
    """Only asking makes versions."""
    pond.remount("commit=3600,compact=off")
    return pond


def test_what_is_done_is_counted(quiet: PondMount) -> None:
    mnt, before = quiet.mnt, read(quiet.mnt)
    for number in range(7):
        (mnt / f"f{number}").write_bytes(b"x" * 100)
    (mnt / "d").mkdir()
    (mnt / "d" / "in").touch()
    assert errno_of((mnt / "d").rmdir) == "ENOTEMPTY"
    os.sync()  # what the kernel holds back
    after = read(mnt)
    assert count(after, "create") - count(before, "create") == 8
    assert count(after, "mkdir") - count(before, "mkdir") == 1
    assert count(after, "rmdir") - count(before, "rmdir") == 1
    assert after("pondfs_operation_errors_total", op="rmdir", errno="ENOTEMPTY") == 1
    bucket = "pondfs_operation_duration_seconds_bucket"
    assert after(bucket, op="create", le="+Inf") == count(after, "create")
    assert 0 < after("pondfs_operation_duration_seconds_sum", op="create") < 60
    assert after("pondfs_pending_bytes") == 700
    assert after("pondfs_pending_nodes") == 10  # with the root
    assert after("pondfs_pending_entries") == 9
    assert after("pondfs_pending_age_seconds") > 0
    assert after("pondfs_nodes") == before("pondfs_nodes") + 9
    assert after("pondfs_commit_duration_seconds_count") == 0
    assert after("pondfs_process_resident_memory_bytes") > 1e7
    assert after("pondfs_process_cpu_seconds_total") > 0
    assert after("pondfs_process_open_fds") > 3


def test_commits_are_counted(quiet: PondMount) -> None:
    (quiet.mnt / "one").write_bytes(b"x" * 5000)
    quiet.commit()
    with open(quiet.mnt / "two", "wb") as file:
        file.write(b"y" * 300)
        file.flush()
        os.fsync(file.fileno())
    metrics, status = read(quiet.mnt), quiet.status()
    assert metrics("pondfs_journaled_versions_total") == 1
    assert metrics("pondfs_journal_versions") == 1
    assert metrics("pondfs_journal_bytes") == 300
    assert metrics("pondfs_version") == status["version"]
    assert metrics("pondfs_commit_duration_seconds_count") == 1
    assert metrics("pondfs_pending_bytes") == 0
    quiet.commit()
    metrics = read(quiet.mnt)
    assert metrics("pondfs_journal_versions") == 0
    assert metrics("pondfs_commit_duration_seconds_count") == 2
    assert metrics("pondfs_commit_duration_seconds_bucket", le="+Inf") == 2
    assert metrics("pondfs_commit_bytes_sum") == 5300
    assert metrics("pondfs_commit_bytes_bucket", le="1000.0") == 1
    assert metrics("pondfs_commit_rows_count") == 2
    assert metrics("pondfs_commit_failures_total") == 0
    assert metrics("pondfs_commit_failing") == 0
    assert metrics("pondfs_version") == status["version"]
    assert metrics("pondfs_pending_bytes") == 0
    assert metrics("pondfs_pending_age_seconds") == 0
    synced = metrics("pondfs_last_fsync_timestamp_seconds")
    assert 0 <= metrics("pondfs_last_commit_timestamp_seconds") - synced < 60


def test_what_the_pond_takes(quiet: PondMount) -> None:
    """The same in ``.pond/metrics``, in ``.pond/status``, by ``pond status``, and unmounted."""
    (quiet.mnt / "file").write_bytes(b"x" * 1024)
    quiet.commit()
    (quiet.mnt / "file").write_bytes(b"y" * 300)
    quiet.commit()
    mounted = json.loads(quiet.pond("status", "--json", "--full").stdout)
    storage = mounted["storage"]
    assert storage["version"] == mounted["version"]
    assert (storage["live_bytes"], storage["history_bytes"]) == (300, 1024)
    names = [path for path in quiet.store.iterdir() if path.suffix == ".parquet"]
    assert storage["data_files"] == len(names)
    assert storage["data_bytes"] == sum(path.stat().st_size for path in names)
    metrics = read(quiet.mnt)
    text = json.loads((quiet.mnt / ".pond/status").read_text())["storage"]
    for key in ("data_files", "data_bytes", "live_bytes", "history_bytes", "reclaimable_bytes"):
        assert metrics(f"pondfs_{key}") == text[key] == storage[key]
    entries = len(list((quiet.store / "_delta_log").glob("*.json")))
    assert mounted["log"] == {"entries_since_checkpoint": entries}
    assert metrics("pondfs_log_entries_since_checkpoint") == entries
    quiet.umount()
    told = quiet.status()
    disk = dict.fromkeys(("disk_free_bytes", "disk_bytes", "age_s"))
    assert {**told["storage"], **disk} == {**storage, **disk}
    shown = quiet.pond("status").stdout
    assert "\nlive         300 B\nhistory      1.0 KiB, in older versions only\n" in shown


def test_compactions_are_told(quiet: PondMount) -> None:
    for number in range(5):
        (quiet.mnt / f"f{number}").write_bytes(b"content")
        quiet.commit()
    assert read(quiet.mnt)("pondfs_compactions_total") == 0
    report = json.loads(quiet.pond("compact", "--json").stdout)
    last = json.loads(quiet.pond("status", "--json", "--full").stdout)["last_compaction"]
    assert last["files_before"] == report["rewritten_files"]
    assert (last["files_after"], last["bytes_after"]) == (1, report["written_bytes"])
    metrics = read(quiet.mnt)
    assert metrics("pondfs_compactions_total") == 1
    assert metrics("pondfs_last_compaction_read_bytes") == report["rewritten_bytes"]
    assert metrics("pondfs_last_compaction_duration_seconds") == last["duration_s"] > 0
    quiet.umount()
    assert quiet.status()["last_compaction"] == last
    assert f"{report['rewritten_files']} files, " in quiet.pond("status").stdout
    quiet.mount("commit=3600")
    metrics = read(quiet.mnt)
    assert metrics("pondfs_compactions_total") == 0
    assert metrics("pondfs_last_compaction_written_files") == 1


def test_a_pond_that_can_not_be_counted(quiet: PondMount, tmp_path: Path) -> None:
    """It says so, and everything else; once all is well again, it counts again."""
    (quiet.mnt / "file").write_bytes(b"x" * 1000)
    (victim,) = (path for path in quiet.store.iterdir() if path.suffix == ".parquet")
    quiet.commit()
    shutil.move(victim, tmp_path / "aside")
    try:
        for is_mounted in (True, False):
            status = json.loads(quiet.pond("status", "--json", "--full").stdout)
            assert status["storage"] is status["log"] is status["image"] is None
            assert victim.name in status["storage_error"]
            assert status["version"] >= 2
            assert "could not be counted" in quiet.pond("status").stdout
            if is_mounted:
                metrics = read(quiet.mnt)
                assert metrics("pondfs_storage_error") == 1
                assert metrics("pondfs_live_bytes") != metrics("pondfs_live_bytes")  # not there
                assert metrics("pondfs_version") == status["version"]
                quiet.umount()
    finally:
        shutil.move(tmp_path / "aside", victim)
    quiet.mount("commit=3600")
    assert read(quiet.mnt)("pondfs_storage_error") == 0


def test_who_may_read_the_mount_may_read_them(public: PondMount, say: Say) -> None:
    (public.mnt / "file").write_bytes(b"x" * 1000)
    public.commit()
    with as_user(ALICE, public.mnt):
        assert "pondfs_live_bytes" in Path(".pond/metrics").read_text()
        assert errno_of(os.open, ".pond/metrics", os.O_WRONLY) in ("EACCES", "EROFS")
    code, out, err = say("status", "--json", "--full")
    assert (code, err) == (0, "")
    assert json.loads(out)["storage"]["live_bytes"] == 1000


def test_a_read_only_mount_has_them(quiet: PondMount, make_pond: Callable[..., PondMount]) -> None:
    (quiet.mnt / "file").write_bytes(b"x" * 1000)
    quiet.commit()
    other = make_pond("other")
    other.store = quiet.store
    other.mount("ro,follow")
    assert read(other.mnt)("pondfs_live_bytes") == 1000
    (quiet.mnt / "file").write_bytes(b"y" * 10)
    quiet.commit()
    wait_until(lambda: read(other.mnt)("pondfs_history_bytes") == 1000, "the new version counts")
    metrics = read(other.mnt)
    assert metrics("pondfs_live_bytes") == 10
    assert metrics("pondfs_commit_duration_seconds_count") == 0
    other.umount()


def test_all_that_are_written_down_are_told(quiet: PondMount) -> None:
    """But those about what has not happened yet, and what nobody counts."""
    (quiet.mnt / "file").write_bytes(b"x")
    with open(quiet.mnt / "file", "rb+") as file:
        os.fsync(file.fileno())
    quiet.commit()
    text = (quiet.mnt / ".pond/metrics").read_text()
    told = {family.name for family in text_string_to_metric_families(text)}
    missing = {family.name for family in FAMILIES} - told
    assert {name for name in missing if "image" not in name and "compaction" not in name} <= {
        "pondfs_content_cache_hits",
        "pondfs_content_cache_misses",
        "pondfs_content_cache_bytes",
    }
