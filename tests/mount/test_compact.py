"""Data files become few while the pond is used, and nobody notices."""

from __future__ import annotations

import errno
import json
import os
import re
import subprocess
import threading
import time
from pathlib import Path

import pytest

from tests.mount.harness import PondMount, wait_gone, wait_until

OLD = 300.0
"""Seconds a test waits for what takes some ten."""


def data_files(pond: PondMount) -> int:
    """Data files that the table has, by its log."""
    from pondfs.store.deltalog import read_snapshot

    return len(read_snapshot(os.fspath(pond.store / "_delta_log")).adds)


def append(path: Path, number: int) -> None:
    with open(path, "ab", buffering=0) as file:
        file.write(b"line %d\n" % number)
        os.fsync(file.fileno())


def lines(count: int) -> bytes:
    return b"".join(b"line %d\n" % number for number in range(count))


@pytest.fixture
def quiet(pond: PondMount) -> PondMount:
    """Only asking makes versions."""
    pond.remount("commit=3600,fsync=delta")
    return pond


def workers(pond: PondMount) -> set[int]:
    """Processes that put this pond's files together; other tests have theirs."""
    wanted = f"pondfs.store.compact_worker {re.escape(os.fspath(pond.store))}"
    found = subprocess.run(["pgrep", "-f", wanted], capture_output=True, text=True, check=False)
    return {int(pid) for pid in found.stdout.split()}


def test_small_files_are_put_together_while_it_is_used(quiet: PondMount) -> None:
    pond, log = quiet, quiet.mnt / "log"
    (pond.mnt / "kept").write_bytes(b"open all along")
    kept = os.open(pond.mnt / "kept", os.O_RDWR)
    gone = os.open(pond.mnt / "gone", os.O_RDWR | os.O_CREAT)
    os.write(gone, b"has no name")
    os.fsync(gone)
    (pond.mnt / "gone").unlink()
    for number in range(160):
        append(log, number)
    first = int(pond.log()[-1]["version"])
    newest = int(pond.log()[0]["version"])
    # And it goes on being written to.
    number = 160
    until = time.monotonic() + OLD
    while number < 180 or data_files(pond) > 100:
        append(log, number)
        number += 1
        os.pwrite(kept, b"written", 5)
        time.sleep(0.05)
        assert time.monotonic() < until, pond.daemon_log()
    # The log of the table says it before the daemon's does.
    wait_until(lambda: "data files" in pond.daemon_log(), "the daemon says what it did")
    assert log.read_bytes() == lines(number)
    assert os.pread(kept, 99, 0) == b"open writtenng"
    assert os.pread(gone, 99, 0) == b"has no name"
    versions = pond.mnt / ".pond" / "versions"
    for version in range(newest - 100, newest, 7):
        found = (versions / str(version) / "log").read_bytes()
        assert lines(160).startswith(found)
        assert found.count(b"\n") in range(version - first - 4, version - first + 1)
    os.close(kept)
    os.close(gone)
    pond.remount("commit=3600,fsync=delta")
    assert log.read_bytes() == lines(number)
    # What is out of use is removed in the end; nothing else lies about.
    assert not [name for name in os.listdir(pond.store / "_pond") if name.startswith("compact-")]


def test_what_is_open_in_the_past_is_read_after_its_files_are_gone(pond: PondMount) -> None:
    """Though nothing of it was read before: it gave EIO."""
    pond.remount("commit=3600,compact=off")
    for number in range(5):
        (pond.mnt / "file").write_bytes(b"%d" % number * 20_000)
        pond.commit()
    newest = int(pond.log()[0]["version"])
    pond.remount()
    opened = os.open(pond.mnt / f".pond/versions/{newest - 2}/file", os.O_RDONLY)
    assert json.loads(pond.pond("compact", "--json").stdout)["removed_bytes"] > 0
    assert os.pread(opened, 99_999, 0) == b"2" * 20_000
    os.close(opened)


def test_off_is_off(pond: PondMount) -> None:
    pond.remount("commit=3600,fsync=delta,compact=off")
    for number in range(130):
        append(pond.mnt / "log", number)
    time.sleep(8)
    assert data_files(pond) > 130


def test_the_command_beside_writers(quiet: PondMount) -> None:
    """Three times in a row, while a file grows and an other is read."""
    pond, log = quiet, quiet.mnt / "log"
    data = os.urandom(3 << 20)
    (pond.mnt / "data").write_bytes(data)
    pond.commit()
    stop = threading.Event()
    written = 0
    wrong: list[str] = []

    def write() -> None:
        nonlocal written
        while not stop.is_set():
            append(log, written)
            written += 1

    def read() -> None:
        while not stop.is_set():
            fd = os.open(pond.mnt / "data", os.O_RDONLY)
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
            if os.pread(fd, 4 << 20, 0) != data:
                wrong.append("other bytes")
            os.close(fd)

    threads = [threading.Thread(target=write), threading.Thread(target=read)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(3):
            least = written + 5
            wait_until(lambda: written >= least, "the writer goes on")  # noqa: B023 - now
            report = json.loads(pond.pond("compact", "--json").stdout)
            assert report["files_before"] > 2 >= report["files_after"]
            assert report["removed_bytes"] > 0
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert not wrong
    assert log.read_bytes() == lines(written)
    assert (pond.mnt / "data").read_bytes() == data
    assert pond.pond("compact", "--dry-run").returncode == 0
    pond.remount("commit=3600,fsync=delta")
    assert log.read_bytes() == lines(written)
    assert (pond.mnt / "data").read_bytes() == data


def data_file_of(pond: PondMount) -> Path:
    """The largest data file: the others hold names."""
    return max(pond.store.glob("*.parquet"), key=lambda path: path.stat().st_size)


def text(size: int) -> bytes:
    """What a third is left of when it is compressed."""
    return b"".join(b"line %d of some text\n" % (at * 7919) for at in range(size // 20))[:size]


def test_compressed_files_read_as_before(quiet: PondMount) -> None:
    """Whole and in pieces, by the mount, the commands, SQL and Python; with next to no cache."""
    pond = quiet
    whole = text(6 << 20)
    (pond.mnt / "text").write_bytes(whole)
    for number in range(50):
        append(pond.mnt / "log", number)
    (pond.mnt / "old").write_bytes(b"old " * 50_000)
    pond.commit()
    version = pond.log()[0]["version"]
    (pond.mnt / "old").write_bytes(b"new")
    (pond.mnt / "t.csv").write_bytes(b"a,b\n" + b"1,2\n" * 5000)
    pond.commit()
    report = json.loads(pond.pond("compact", "--json").stdout)
    assert report["written_bytes"] < report["rewritten_bytes"] / 2
    assert pond.mnt.joinpath("text").read_bytes() == whole
    pond.remount("commit=3600,fsync=delta,cache=1M")
    fd = os.open(pond.mnt / "text", os.O_RDONLY)
    for at in range(0, len(whole), 333_337):
        assert os.pread(fd, 5000, at) == whole[at : at + 5000]
    os.close(fd)
    assert (pond.mnt / "text").read_bytes() == whole
    assert (pond.mnt / "log").read_bytes() == lines(50)
    assert (pond.mnt / ".pond/versions" / str(version) / "old").read_bytes() == b"old " * 50_000
    assert pond.pond("cat", "--at", f"v{version}", "old").stdout == "old " * 50_000
    asked = pond.pond("query", "--json", "select sum(b) as b from read('/t.csv')").stdout
    assert json.loads(asked) == [{"b": 10_000}]
    pond.pond("restore", "--at", f"v{version}", "old")
    assert (pond.mnt / "old").read_bytes() == b"old " * 50_000


@pytest.mark.allow_log(r"is damaged", r"Traceback")
def test_a_rotten_piece_is_an_error_there_and_nowhere_else(quiet: PondMount) -> None:
    pond = quiet
    whole = text(6 << 20)
    (pond.mnt / "text").write_bytes(whole)
    pond.commit()
    pond.pond("compact")
    pond.umount()
    from pondfs.store.frames import load_table

    path = data_file_of(pond)
    with path.open("r+b") as file:
        table = load_table(file.fileno(), path.stat().st_size, os.fspath(path))
        assert table is not None
        assert len(table.starts) > 40
        at = table.starts[20] + table.sizes[20] // 2
        (byte,) = os.pread(file.fileno(), 1, at)
        os.pwrite(file.fileno(), bytes([byte ^ 0x10]), at)
    pond.mount("commit=3600,fsync=delta")
    fd = os.open(pond.mnt / "text", os.O_RDONLY)
    wrong = []
    for offset in range(0, len(whole), 4096):
        try:
            found = os.pread(fd, 4096, offset)
        except OSError as error:
            wrong.append((offset, error.errno))
        else:
            assert found == whole[offset : offset + 4096]
    os.close(fd)
    # One frame of 128 KiB: 32 pages, and a part of another.
    assert 32 <= len(wrong) <= 34
    assert {number for _, number in wrong} == {errno.EIO}
    assert wrong[-1][0] - wrong[0][0] == 4096 * (len(wrong) - 1)
    assert str(path) in pond.daemon_log()


def fill_for_long(pond: PondMount) -> None:
    """So much in small files that putting them together takes seconds."""
    data = os.urandom(2 << 20)
    for number in range(130):
        path = pond.mnt / f"file{number}"
        path.write_bytes(data)
        fd = os.open(path, os.O_RDONLY)
        os.fsync(fd)
        os.close(fd)


def wait_for_worker(pond: PondMount) -> int:
    wait_until(lambda: workers(pond), "a process puts files together", OLD)
    wait_until(
        lambda: [name for name in os.listdir(pond.store / "_pond") if name.startswith("compact-")],
        "it writes",
    )
    (pid,) = workers(pond)
    return pid


def test_unmounting_in_the_middle_leaves_nothing(quiet: PondMount) -> None:
    pond = quiet
    fill_for_long(pond)
    pid = wait_for_worker(pond)
    pond.umount()
    wait_gone(pid)
    assert_nothing_left(pond)


def test_a_killed_daemon_takes_its_worker_along(quiet: PondMount) -> None:
    pond = quiet
    fill_for_long(pond)
    pid = wait_for_worker(pond)
    pond.kill()
    wait_gone(pid)
    pond.mount("commit=3600,fsync=delta,compact=off")
    assert len(list(pond.mnt.iterdir())) == 130
    pond.umount()
    assert_nothing_left(pond)


def assert_nothing_left(pond: PondMount) -> None:
    from pondfs.store.deltalog import read_snapshot

    snapshot = read_snapshot(os.fspath(pond.store / "_delta_log"))
    there = {name for name in os.listdir(pond.store) if name.endswith(".parquet")}
    assert there - snapshot.removes.keys() == set(snapshot.adds)
    assert not [name for name in os.listdir(pond.store / "_pond") if name.startswith("compact-")]
