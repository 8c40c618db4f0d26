"""What the doctor says of the filesystem under a store: real ones, made for it."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from pondfs.doctor import disk
from pondfs.doctor.finding import Finding
from pondfs.doctor.scene import Look, Scene
from pondfs.mountinfo import Mount, find_mount_around
from pondfs.store.delta import DeltaStore
from tests.crash.small_disk import SmallDisk
from tests.mount.harness import require, run

MIB = 1 << 20
DISK_BYTES = 64 * MIB


def look(path: Path, what: Look) -> list[Finding]:
    return list(what(Scene(os.fspath(path), 1.0)))


def only(path: Path, what: Look, severity: str) -> Finding:
    (finding,) = look(path, what)
    assert finding.severity == severity, finding
    return finding


@pytest.fixture
def small(tmp_path: Path) -> Iterator[SmallDisk]:
    small = SmallDisk(tmp_path, DISK_BYTES)
    yield small
    small.close()


@contextmanager
def mounted(at: Path, *args: str) -> Iterator[Path]:
    at.mkdir(exist_ok=True)
    run([require("mount"), *args, at])
    try:
        yield at
    finally:
        run([require("umount"), at])


def test_room(small: SmallDisk) -> None:
    store = small.root / "pond"
    DeltaStore.create(store)
    only(store, disk.look_at_space, "ok")
    only(store, disk.look_at_filesystem, "ok")
    only(store, disk.look_at_publishing, "ok")
    small.fill(small.free_bytes() - 2 * MIB)
    finding = only(store, disk.look_at_space, "warning")
    assert "are free" in finding.message
    assert finding.command == f"pond --pond {store} prune --keep-within 30d --dry-run"
    small.fill()
    assert "ENOSPC" in only(store, disk.look_at_space, "error").message
    only(store, disk.look_at_publishing, "error")
    small.free()
    only(store, disk.look_at_space, "ok")


def test_inodes(small: SmallDisk) -> None:
    store = small.root / "pond"
    DeltaStore.create(store)
    free = os.statvfs(store).f_favail
    (small.root / "many").mkdir()
    for number in range(free - 300):
        os.close(os.open(small.root / "many" / str(number), os.O_CREAT | os.O_WRONLY))
    fine, finding = look(store, disk.look_at_space)
    assert (fine.severity, finding.severity) == ("ok", "warning")
    assert "inodes" in finding.message
    for number in range(250):
        os.close(os.open(small.root / "many" / f"more{number}", os.O_CREAT | os.O_WRONLY))
    assert look(store, disk.look_at_space)[-1].severity == "error"


def test_a_disk_that_became_read_only(small: SmallDisk) -> None:
    store = small.root / "pond"
    DeltaStore.create(store)
    small.turn("ro")
    fine, finding = look(store, disk.look_at_filesystem)
    assert (fine.severity, finding.severity) == ("ok", "error")
    only(store, disk.look_at_publishing, "error")
    run(["sh", "-c", finding.command.removeprefix("sudo ")])
    only(store, disk.look_at_filesystem, "ok")


def test_a_disk_without_barriers(small: SmallDisk) -> None:
    store = small.root / "pond"
    DeltaStore.create(store)
    small.turn("nobarrier")
    assert "nobarrier" in only(store, disk.look_at_filesystem, "error").message


def test_memory_is_no_disk(tmp_path: Path) -> None:
    with mounted(tmp_path / "memory", "-t", "tmpfs", "none") as memory:
        DeltaStore.create(memory / "pond")
        assert "in memory only" in only(memory / "pond", disk.look_at_filesystem, "error").message


def test_the_layer_of_a_container(tmp_path: Path) -> None:
    with mounted(tmp_path / "memory", "-t", "tmpfs", "none") as memory:
        for name in ("lower", "upper", "work"):
            (memory / name).mkdir()
        layers = f"lowerdir={memory}/lower,upperdir={memory}/upper,workdir={memory}/work"
        with mounted(tmp_path / "top", "-t", "overlay", "overlay", "-o", layers) as top:
            DeltaStore.create(top / "pond")
            finding = only(top / "pond", disk.look_at_filesystem, "warning")
            assert "container" in finding.message
        with mounted(tmp_path / "top", "-t", "overlay", "overlay", "-o", f"{layers},volatile"):
            found = look(tmp_path / "top" / "pond", disk.look_at_filesystem)
            assert [finding.severity for finding in found] == ["error", "warning"]
            assert "volatile" in found[0].message


def test_a_part_of_the_store_on_another_disk(small: SmallDisk, tmp_path: Path) -> None:
    store = small.root / "pond"
    DeltaStore.create(store)
    with mounted(tmp_path / "memory", "-t", "tmpfs", "none") as memory:
        run(["cp", "-a", store / "_pond", memory])
        run(["rm", "-r", store / "_pond"])
        (store / "_pond").symlink_to(memory / "_pond")
        found = look(store, disk.look_at_filesystem)
        assert [finding.severity for finding in found] == ["ok", "error", "note"]
        assert "the store's _pond on tmpfs" in found[1].message
        assert len(look(store, disk.look_at_space)) == 2


@pytest.mark.parametrize(
    ("kind", "options", "severity", "word"),
    [
        # What can't be made here: only the line of mountinfo is, as such a mount has it.
        ("nfs4", ("rw", "soft"), "warning", "'soft'"),
        ("9p", ("rw",), "warning", "host"),
        ("vfat", ("rw",), "error", "hard links"),
        ("exfat", ("rw",), "error", "hard links"),
        ("fuse.sshfs", ("rw",), "warning", "another computer"),
        ("fuse.other", ("rw",), "warning", "that program"),
        ("ext2", ("rw",), "warning", "no journal"),
        ("xfs", ("rw", "nobarrier"), "error", "nobarrier"),
        ("ext4", ("rw", "barrier=0"), "error", "barrier=0"),
        ("ext4", ("rw", "data=writeback"), "ok", "ext4"),
        ("zfs", ("rw",), "ok", "zfs"),
        ("somethingfs", ("rw",), "note", "not known"),
    ],
)
def test_kinds(kind: str, options: tuple[str, ...], severity: str, word: str) -> None:
    here = find_mount_around("/")
    assert isinstance(here, Mount)
    found = list(disk.judge_mount("the store", replace(here, fstype=kind, options=options)))
    assert (found[0].severity, word in found[0].message) == (severity, True)


def test_a_mount_that_sweeps_meanwhile(tmp_path: Path) -> None:
    """It takes away, once, what a crash may have left: the file that is just being tried, too."""
    store = tmp_path / "pond"
    DeltaStore.create(store)

    def sweep() -> None:
        while True:
            for path in (store / "_delta_log").glob(".probe.*"):
                with contextlib.suppress(FileNotFoundError):
                    path.unlink()
                    return

    sweeper = threading.Thread(target=sweep, daemon=True)
    sweeper.start()
    while sweeper.is_alive():
        only(store, disk.look_at_publishing, "ok")
