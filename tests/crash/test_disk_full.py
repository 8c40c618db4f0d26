"""A store that cannot be written: full, read-only, or failing. Nothing pending is lost by it.

The disks are real ext4 filesystems on loop devices. I/O errors are injected into the daemon's own
system calls by strace: this needs no device-mapper, which small kernels lack, and no preloaded
library.
"""

from __future__ import annotations

import errno
import os
import random
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import polars as pl
import pytest

from tests.crash import delta_log
from tests.crash.journal import snapshot
from tests.crash.second_reader import assert_same, fold_by_dataframe
from tests.crash.small_disk import SmallDisk
from tests.crash.system_calls import attached
from tests.mount.harness import PondMount, require, run, wait_until

if TYPE_CHECKING:
    from tests.conftest import MakePond

MIB = 1 << 20
DISK_BYTES = 96 * MIB
COMPLAINT = re.compile(r"\b(WARNING|ERROR|CRITICAL)\b")


@pytest.fixture
def disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SmallDisk]:
    """A small disk of its own; asked for before the pond on it, so detached after that."""
    disk = SmallDisk(tmp_path_factory.mktemp("small-disk"), DISK_BYTES)
    yield disk
    disk.close()


@pytest.fixture
def disk_pond(disk: SmallDisk, make_pond: MakePond, tmp_path: Path) -> Iterator[PondMount]:
    """A mounted pond whose table is on the small disk, and whose ``_pond`` is elsewhere.

    ``_pond`` is bound there from another disk, so that the daemon's log, which these tests count
    lines in, and its lock stay writable when the disk is not.
    """
    local = disk.root / "pond" / "_pond"
    local.mkdir(parents=True)
    elsewhere = tmp_path / "local"
    elsewhere.mkdir()
    run([require("mount"), "--bind", elsewhere, local])
    pond = make_pond(store=disk.root / "pond")
    pond.allow_log("No space left", "Read-only file system", "takes commits again")
    yield pond.mount("commit=3600,fsync=delta")
    disk.turn("rw")  # so that even a failed test's pond can be unmounted
    disk.free()


def sync(path: Path, expected: int = 0) -> None:
    """fsync a file or directory, and fail unless it returns the errno *expected* (0: success)."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
        number = 0
    except OSError as error:
        number = error.errno or 0
    finally:
        os.close(fd)
    assert number == expected, f"fsync: {os.strerror(number)}, not {os.strerror(expected)}"


def write_synced(path: Path, content: bytes) -> None:
    """Write a new file and fsync it; any of write, fsync and close may raise."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
    try:
        written = 0
        while written < len(content):
            written += os.write(fd, content[written:])
        os.fsync(fd)
    finally:
        os.close(fd)


def complaints(pond: PondMount) -> list[str]:
    """Return the warnings and errors in the daemon's log."""
    return [line for line in pond.daemon_log().splitlines() if COMPLAINT.search(line)]


def assert_arrived(pond: PondMount) -> None:
    """Fail unless the tree is the same after a remount, and to another engine."""
    before = snapshot(pond.mnt)
    pond.remount()
    assert not before.differences(snapshot(pond.mnt))
    assert_same(fold_by_dataframe(pl.read_delta(str(pond.store))), pond.mnt)


def test_a_full_disk_keeps_everything_pending(disk: SmallDisk, disk_pond: PondMount) -> None:
    """fsync and new files say ENOSPC; what needs no room goes on, and arrives once there is some.

    Reading, deleting, renaming and chmod are such; deleting above all, as it is the way out.
    """
    pond = disk_pond
    (pond.mnt / "old").write_bytes(b"old" * 9999)
    (pond.mnt / "doomed").write_bytes(b"doomed")
    sync(pond.mnt)
    version = delta_log.head_version(pond.store)
    (pond.mnt / "pending").write_bytes(b"written while there was room")
    disk.fill()
    sync(pond.mnt / "pending", errno.ENOSPC)
    assert (pond.mnt / "old").read_bytes() == b"old" * 9999
    assert (pond.mnt / "pending").read_bytes() == b"written while there was room"
    (pond.mnt / "doomed").unlink()
    (pond.mnt / "old").rename(pond.mnt / "renamed")
    os.chmod(pond.mnt / "renamed", 0o600)
    with pytest.raises(OSError, match="No space left"):
        (pond.mnt / "new").write_bytes(b"new")
    for _ in range(5):
        sync(pond.mnt, errno.ENOSPC)
    assert len(complaints(pond)) == 1, "the failure is logged once, not at every retry"
    assert "No space left" in pond.status()["last_error"]
    assert delta_log.head_version(pond.store) == version
    disk.free()
    sync(pond.mnt)
    assert pond.status()["last_error"] is None
    assert sorted(os.listdir(pond.mnt)) == ["pending", "renamed"]
    assert_arrived(pond)
    assert (pond.mnt / "renamed").stat().st_mode & 0o777 == 0o600


def test_writing_until_the_disk_is_full(disk: SmallDisk, disk_pond: PondMount) -> None:
    """Every file whose write, fsync and close succeeded is there for ever; the rest said ENOSPC."""
    pond = disk_pond
    disk.fill()
    disk.free(24 * MIB)
    rng = random.Random(3)
    acknowledged: dict[str, bytes] = {}
    refused: list[str] = []
    while len(refused) < 3:
        name, content = f"file{len(acknowledged) + len(refused)}", rng.randbytes(MIB)
        assert len(acknowledged) < 24, "more was acknowledged than the disk can hold"
        try:
            write_synced(pond.mnt / name, content)
            acknowledged[name] = content
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            refused.append(name)
    assert len(acknowledged) > 10, "the disk held far less than it has room for"
    for name, content in acknowledged.items():
        assert (pond.mnt / name).read_bytes() == content
    for name in refused:
        (pond.mnt / name).unlink()
    (pond.mnt / "file0").unlink()
    del acknowledged["file0"]
    disk.free()
    sync(pond.mnt)
    pond.remount()
    assert sorted(os.listdir(pond.mnt)) == sorted(acknowledged)
    for name, content in acknowledged.items():
        assert (pond.mnt / name).read_bytes() == content
    assert_arrived(pond)


def test_a_file_larger_than_the_disk(disk: SmallDisk, disk_pond: PondMount) -> None:
    """The write itself says ENOSPC, after most of the file was staged; the file can be deleted.

    Then what is pending is small again, and arrives: at the latest once there is room.
    """
    pond = disk_pond
    write_synced(pond.mnt / "kept", b"kept")
    disk.fill(8 * MIB)
    with pytest.raises(OSError, match="No space left") as failure:
        write_synced(pond.mnt / "huge", random.Random(4).randbytes(MIB) * (2 * DISK_BYTES // MIB))
    assert failure.value.errno == errno.ENOSPC
    assert (pond.mnt / "kept").read_bytes() == b"kept"
    (pond.mnt / "huge").unlink()
    disk.free()
    sync(pond.mnt)
    write_synced(pond.mnt / "next", b"next")
    assert_arrived(pond)
    assert sorted(os.listdir(pond.mnt)) == ["kept", "next"]


def test_the_timer_retries_and_logs_once(disk: SmallDisk, disk_pond: PondMount) -> None:
    """Nobody calls fsync: the daemon itself goes on trying, quietly, until the disk has room."""
    write_synced(disk_pond.mnt / "old", b"old")
    pond = disk_pond.remount("commit=1,fsync=delta")
    version = delta_log.head_version(pond.store)
    disk.fill()
    (pond.mnt / "old").chmod(0o600)
    wait_until(lambda: pond.status()["last_error"], "the timer's commit fails")
    wait_for_attempts(pond, disk.root.parent / "trace", 2)
    assert len(complaints(pond)) == 1, "the failure is logged once, not at every retry"
    disk.free()
    wait_until(lambda: delta_log.head_version(pond.store) > version, "a retry succeeds")
    assert_arrived(pond)
    assert (pond.mnt / "old").stat().st_mode & 0o777 == 0o600


def wait_for_attempts(pond: PondMount, output: Path, count: int) -> None:
    """Return when the daemon, left alone, began to write a data file *count* more times."""
    creation = re.compile(r"openat\(.*\.parquet.*O_CREAT|openat\(.*O_TMPFILE")
    with attached(pond.pid, output, "-e", "trace=openat") as tracer:
        wait_until(
            lambda: sum(creation.search(line) is not None for line in tracer.lines()) >= count,
            f"{count} more attempts",
        )


def test_what_is_journaled_waits_for_room(disk: SmallDisk, disk_pond: PondMount) -> None:
    """What was synced into the journal is durable though the table has no room for it.

    When the table's disk is found to be full, whoever syncs from then on is told; a kill in that
    state loses nothing that was acknowledged; with room everything arrives.
    """
    pond = disk_pond.remount("commit=3600,fsync=journal")
    (pond.mnt / "first").write_bytes(b"first")
    sync(pond.mnt)
    disk.fill()
    (pond.mnt / "second").write_bytes(os.urandom(100_000))
    sync(pond.mnt)
    assert delta_log.head_version(pond.store) < pond.status()["version"]
    assert pond.pond("commit", check=False).returncode == 8
    (pond.mnt / "first").rename(pond.mnt / "renamed")
    sync(pond.mnt, errno.ENOSPC)
    (pond.mnt / "renamed").rename(pond.mnt / "first")
    before = snapshot(pond.mnt)
    pond.kill()
    refused = pond.run("mount.pond", str(pond.store), str(pond.mnt), check=False)
    assert (refused.returncode, refused.stderr.count("\n")) == (32, 1)
    assert "No space left" in refused.stderr
    disk.free()
    pond.mount("commit=3600,fsync=journal")
    assert not before.differences(snapshot(pond.mnt))
    assert_arrived(pond)


def test_a_read_only_disk(disk: SmallDisk, disk_pond: PondMount) -> None:
    """EROFS reaches fsync; reads go on; once the disk is writable again everything arrives."""
    pond = disk_pond
    write_synced(pond.mnt / "old", b"old" * 9999)
    (pond.mnt / "pending").write_bytes(b"pending")
    disk.turn("ro")
    for _ in range(3):
        sync(pond.mnt / "pending", errno.EROFS)
    assert len(complaints(pond)) == 1, "the failure is logged once, not at every retry"
    assert (pond.mnt / "old").read_bytes() == b"old" * 9999
    assert (pond.mnt / "pending").read_bytes() == b"pending"
    (pond.mnt / "old").rename(pond.mnt / "renamed")
    disk.turn("rw")
    sync(pond.mnt / "pending")
    assert_arrived(pond)
    assert sorted(os.listdir(pond.mnt)) == ["pending", "renamed"]


@pytest.mark.parametrize("trouble", ["full", "read-only"])
def test_unmounting_is_refused_while_the_store_cannot_be_written(
    disk: SmallDisk, disk_pond: PondMount, trouble: str
) -> None:
    """Else the pending changes would live in a daemon that nobody can reach any more."""
    pond = disk_pond
    (pond.mnt / "pending").write_bytes(b"pending")
    if trouble == "full":
        disk.fill()
    else:
        disk.turn("ro")
    refused = pond.run("umount.pond", str(pond.mnt), check=False)
    assert refused.returncode == 32, refused.stderr
    assert pond.is_mounted()
    assert (pond.mnt / "pending").read_bytes() == b"pending"
    disk.turn("rw")
    disk.free()
    assert_arrived(pond)
    assert os.listdir(pond.mnt) == ["pending"]


# Where the disk fails, as strace can say it. The path of a data file is not known beforehand, so
# it is the committing thread's first fsync.
FAILING: dict[str, Callable[[Path], list[str]]] = {
    "the data file's fsync": lambda store: ["-e", "inject=fsync:error=EIO:when=1"],
    "the store directory's fsync": lambda store: ["-P", str(store), "-e", "inject=fsync:error=EIO"],
    "the log entry's fsync": lambda store: ["-e", "inject=fsync:error=EIO:when=3"],
    "the publication": lambda store: ["-e", "inject=link,linkat:error=EIO"],
    "the log directory's fsync": lambda store: [
        *("-P", str(delta_log.log_dir(store))),
        *("-e", "inject=fsync:error=EIO"),
    ],
}


@pytest.mark.parametrize("failing", FAILING)
def test_an_io_error(pond_unmounted: PondMount, tmp_path: Path, failing: str) -> None:
    """fsync says EIO and nothing is acknowledged; the next one succeeds and nothing is twice.

    A file whose fsync failed is never trusted afterwards: the kernel drops the pages it could not
    write and marks them clean, so a second fsync of the same file "succeeds" over lost data. When
    only the log directory's fsync failed the entry is there, and must be found, not repeated.

    Source: https://lwn.net/Articles/752063/ (PostgreSQL's fsync surprise).
    """
    pond = pond_unmounted.mount("commit=3600,fsync=delta")
    pond.allow_log("Input/output error", "takes commits again")
    write_synced(pond.mnt / "old", b"old")
    version = delta_log.head_version(pond.store)
    (pond.mnt / "pending").write_bytes(b"pending" * 1000)
    injection = FAILING[failing](pond.store)
    calls = "trace=fsync,link,linkat"
    with attached(pond.pid, tmp_path / "trace", "-e", calls, *injection) as tracer:
        sync(pond.mnt / "pending", errno.EIO)
        injected = tracer.injected()
        assert injected, "strace made nothing fail"
        assert (pond.mnt / "old").read_bytes() == b"old"
        assert (pond.mnt / "pending").read_bytes() == b"pending" * 1000
        (pond.mnt / "more").write_bytes(b"more")
    sync(pond.mnt)
    added = {name for entry in delta_log.read_log(pond.store) for name in entry.adds}
    distrusted = {re.sub(r".*/|>.*", "", call.args) for call in injected if call.name == "fsync"}
    assert not added & distrusted, "a data file whose fsync failed is part of the table"
    # "more" may have come with the retry of "pending", or in a version of its own.
    assert delta_log.head_version(pond.store) in (version + 1, version + 2)
    rows = pl.read_delta(str(pond.store))
    assert rows.select("version", "seq").is_unique().all(), "rows were published twice"
    assert_arrived(pond)
    assert sorted(os.listdir(pond.mnt)) == ["more", "old", "pending"]
