"""What makes a commit, what makes none, and that one commit is one version however large."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest

from tests.crash import delta_log
from tests.mount.harness import PondMount, wait_until

MIB = 1 << 20
BIG_BYTES = 600 * MIB
MOST_RESIDENT_BYTES = 400 * MIB


def fsync_file(mnt: Path) -> None:
    """fsync the file that was written."""
    with (mnt / "file").open("rb") as file:
        os.fsync(file.fileno())


def fdatasync_file(mnt: Path) -> None:
    """fdatasync it."""
    with (mnt / "file").open("rb") as file:
        os.fdatasync(file.fileno())


def fsync_directory(mnt: Path) -> None:
    """fsync its directory."""
    fd = os.open(mnt, os.O_RDONLY | os.O_DIRECTORY)
    os.fsync(fd)
    os.close(fd)


def fsync_another(mnt: Path) -> None:
    """fsync a file that nobody changed: the whole tree has one order of versions."""
    with (mnt / "another").open("rb") as file:
        os.fsync(file.fileno())


def write_o_sync(mnt: Path) -> None:
    """Write through a descriptor opened O_SYNC."""
    fd = os.open(mnt / "file", os.O_WRONLY | os.O_SYNC)
    os.write(fd, b"O_SYNC!")
    os.close(fd)


def write_o_dsync(mnt: Path) -> None:
    """Write through a descriptor opened O_DSYNC."""
    fd = os.open(mnt / "file", os.O_WRONLY | os.O_DSYNC)
    os.write(fd, b"O_DSYNC")
    os.close(fd)


TRIGGERS = [
    fsync_file,
    fdatasync_file,
    fsync_directory,
    fsync_another,
    write_o_sync,
    write_o_dsync,
]


def versions(pond: PondMount) -> int:
    """Return how many versions the log holds; fail unless they are 1, 2, 3 …"""
    numbers = [entry.version for entry in delta_log.read_log(pond.store)]
    published = [number for number in numbers if number is not None]
    assert published == list(range(1, len(published) + 1))
    return len(published)


def wait_for_version(pond: PondMount, number: int) -> None:
    """Return when the log holds that many versions."""
    wait_until(lambda: versions(pond) >= number, f"version {number} of {pond.store}")


def names_in_table(store: Path) -> set[str]:
    """Return every name that any row ever had."""
    return set(pl.read_delta(str(store), columns=["name"])["name"].drop_nulls())


@pytest.fixture
def slow_pond(pond_unmounted: PondMount) -> PondMount:
    """A pond whose timer never fires within a test, and which holds two committed files."""
    pond = pond_unmounted.mount("commit=3600,fsync=delta")
    (pond.mnt / "file").write_bytes(b"content")
    (pond.mnt / "another").write_bytes(b"another")
    fsync_directory(pond.mnt)
    return pond


@pytest.mark.parametrize("trigger", TRIGGERS)
def test_a_sync_makes_one_version(slow_pond: PondMount, trigger: Callable[[Path], None]) -> None:
    """On return of the call there is exactly one version more, with everything pending in it."""
    pond, before = slow_pond, versions(slow_pond)
    (pond.mnt / "new").write_bytes(b"new")
    with (pond.mnt / "file").open("r+b") as file:
        file.write(b"changed")
    assert versions(pond) == before, "something else made a commit"
    trigger(pond.mnt)
    assert versions(pond) == before + 1
    assert "new" in names_in_table(pond.store)


@pytest.mark.parametrize("trigger", TRIGGERS)
def test_a_sync_makes_one_version_in_the_journal(
    pond_unmounted: PondMount, trigger: Callable[[Path], None]
) -> None:
    """It has its number at once, and comes into the table with the others, as itself."""
    pond = pond_unmounted.mount("commit=3600,fsync=journal")
    (pond.mnt / "file").write_bytes(b"content")
    (pond.mnt / "another").write_bytes(b"another")
    before, entries = pond.status()["version"], versions(pond)
    for number in (1, 2, 3):
        (pond.mnt / f"new{number}").write_bytes(b"new")
        with (pond.mnt / "file").open("r+b") as file:
            file.write(b"%d" % number)
        trigger(pond.mnt)
        status = pond.status()
        assert (status["version"], status["journaled_versions"]) == (before + number, number)
    assert versions(pond) == entries
    pond.commit()
    assert delta_log.head_version(pond.store) == before + 3
    assert len(delta_log.read_log(pond.store)) == entries + 2  # the table's own, and one for all
    assert [record["version"] for record in pond.log()] == list(range(before + 3, 0, -1))
    rows = pl.read_delta(str(pond.store), columns=["version", "name"])
    found = dict(
        rows.filter(pl.col("name").str.starts_with("new")).select("name", "version").rows()
    )
    assert found == {f"new{number}": before + number for number in (1, 2, 3)}


def test_the_timer_brings_what_is_journaled_into_the_table(pond_unmounted: PondMount) -> None:
    """Whether or not anything else is pending by then."""
    pond = pond_unmounted.mount("commit=1,fsync=journal")
    (pond.mnt / "new").write_bytes(b"new")
    fsync_directory(pond.mnt)
    wait_until(lambda: delta_log.head_version(pond.store) == 2, "version 2 in the table")
    assert pond.status()["journaled_versions"] == 0


def test_much_that_is_journaled_comes_into_the_table(pond_unmounted: PondMount) -> None:
    """Long before the timer does: it is memory, and what a crash leaves to do."""
    pond = pond_unmounted.mount("commit=3600,fsync=journal")
    block = os.urandom(MIB)
    with (pond.mnt / "log").open("wb", buffering=0) as file:
        for _ in range(100):
            file.write(block)
            os.fsync(file.fileno())
    assert delta_log.head_version(pond.store) > 100 - 41
    assert len(delta_log.read_log(pond.store)) < 50
    assert pond.status()["journaled_bytes"] < 41 * MIB
    assert (pond.store / "_pond" / "journal").stat().st_size < 60 * MIB


def test_unmounting_makes_one_version(slow_pond: PondMount) -> None:
    """On return of umount.pond everything is in it."""
    pond, before = slow_pond, versions(slow_pond)
    (pond.mnt / "new").write_bytes(b"new")
    pond.umount()
    assert versions(pond) == before + 1
    pond.mount("commit=3600,fsync=delta")
    assert (pond.mnt / "new").read_bytes() == b"new"


def test_the_timer_commits(pond_unmounted: PondMount) -> None:
    """Nobody asks; within the timer's period the change is a version."""
    pond = pond_unmounted.mount("commit=1")
    before = versions(pond)
    (pond.mnt / "new").write_bytes(b"new")
    wait_for_version(pond, before + 1)
    wait_until(lambda: not pond.status()["pending_bytes"], "nothing is pending")
    assert "new" in names_in_table(pond.store)


@pytest.mark.parametrize("kind", ["content", "names"])
def test_much_pending_commits(pond_unmounted: PondMount, kind: str) -> None:
    """Changes past ``max_pending``, of either kind, become versions without anyone asking."""
    pond = pond_unmounted.mount("commit=3600,fsync=delta", "max_pending=1M")
    before = versions(pond)
    content = b"content" * 1000 if kind == "content" else b""
    count = 300 if kind == "content" else 1500
    for number in range(count):
        (pond.mnt / f"file{number}").write_bytes(content)
    wait_for_version(pond, before + 1)
    pond.remount()
    assert len(os.listdir(pond.mnt)) == count
    assert all(path.read_bytes() == content for path in pond.mnt.iterdir())


def test_nothing_pending_makes_no_version(slow_pond: PondMount) -> None:
    """Neither fsync, nor reading, nor remounting writes to the table when nothing changed."""
    pond, before = slow_pond, delta_log.entry_paths(slow_pond.store)
    for trigger in (fsync_file, fdatasync_file, fsync_directory):
        trigger(pond.mnt)
    pond.commit()
    os.listdir(pond.mnt)
    os.stat(pond.mnt / "file")
    pond.remount()
    assert delta_log.entry_paths(pond.store) == before


def test_the_timer_makes_no_empty_version(pond_unmounted: PondMount) -> None:
    """An idle mount writes nothing: two versions a period apart hold one change each.

    The first change and the second are each waited for; a timer that committed nothing in between
    would show as a version more.
    """
    pond = pond_unmounted.mount("commit=1")
    before = versions(pond)
    for number in (1, 2, 3):
        os.mkdir(pond.mnt / f"folder{number}")
        wait_for_version(pond, before + number)
    assert versions(pond) == before + 3


def test_a_temporary_file_leaves_no_rows(slow_pond: PondMount) -> None:
    """Created, written, renamed, linked and removed between two commits: it never was."""
    pond = slow_pond
    folder = pond.mnt / "temporary-folder"
    folder.mkdir()
    (folder / "inside").write_bytes(b"inside")
    (pond.mnt / "temporary").write_bytes(os.urandom(2 * MIB))
    inodes = {path.stat().st_ino for path in (folder, folder / "inside", pond.mnt / "temporary")}
    (pond.mnt / "temporary").rename(pond.mnt / "temporary2")
    os.link(pond.mnt / "temporary2", pond.mnt / "temporary3")
    for path in (folder / "inside", pond.mnt / "temporary2", pond.mnt / "temporary3"):
        path.unlink()
    folder.rmdir()
    (pond.mnt / "kept").write_bytes(b"kept")
    fsync_directory(pond.mnt)
    assert {"file", "another", "kept"} == names_in_table(pond.store)
    nodes = set(pl.read_delta(str(pond.store), columns=["node_id"])["node_id"])
    assert not nodes & {f"{ino:016x}" for ino in inodes}


def test_a_save_by_rename_leaves_no_temporary_name(slow_pond: PondMount) -> None:
    """The new file arrives under its final name, in one version with the old one's end."""
    pond = slow_pond
    (pond.mnt / "file.tmp").write_bytes(b"saved")
    (pond.mnt / "file.tmp").rename(pond.mnt / "file")
    fsync_directory(pond.mnt)
    assert "file.tmp" not in names_in_table(pond.store)
    assert (pond.mnt / "file").read_bytes() == b"saved"


def test_a_big_write_is_one_version_and_little_memory(pond_unmounted: PondMount) -> None:
    """600 MiB, staged as they come, appear as a whole with one fsync; the daemon stays small."""
    pond = pond_unmounted.mount("commit=3600,fsync=delta")
    (pond.mnt / "first").write_bytes(b"first")
    fsync_directory(pond.mnt)
    before = versions(pond)
    proc = Path(f"/proc/{pond.pid}")
    (proc / "clear_refs").write_text("5")  # forget the peak of the start; proc(5)
    block = os.urandom(8 * MIB)
    digest = hashlib.blake2b()
    with (pond.mnt / "big").open("wb", buffering=0) as big:
        for number in range(BIG_BYTES // len(block)):
            piece = number.to_bytes(8, "little") + block[8:]
            digest.update(piece)
            big.write(piece)
        assert versions(pond) == before, "part of the file became a version of its own"
        os.fsync(big.fileno())
    assert versions(pond) == before + 1
    found = hashlib.blake2b()
    with (pond.mnt / "big").open("rb", buffering=0) as big:
        while piece := big.read(8 * MIB):
            found.update(piece)
    assert found.digest() == digest.digest()
    peak_bytes = read_peak_bytes(proc)
    assert peak_bytes < MOST_RESIDENT_BYTES, f"the daemon held {peak_bytes / MIB:.0f} MiB"


def read_peak_bytes(proc: Path) -> int:
    """Return the largest resident set of a process since it was last reset."""
    match = re.search(r"VmHWM:\s+(\d+) kB", (proc / "status").read_text())
    assert match
    return int(match[1]) * 1024
