"""Checks of "Errors" in docs/reference/semantics.md."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from tests.crash.small_disk import SmallDisk
from tests.mount.harness import require, run, wait_gone, wait_until
from tests.mount.place import errno_of, opened
from tests.mount.semantics_page import Ground, row
from tests.mount.syscalls import name_to_handle, open_by_handle

MIB = 1 << 20


def write_and_sync(path: Path, content: bytes) -> None:
    """Write a file and sync it. Raises: OSError, by whichever of the calls."""
    with opened(path, os.O_CREAT | os.O_WRONLY) as fd:
        os.write(fd, content)
        os.fsync(fd)


@row("ENOSPC, EDQUOT")
def _full(ground: Ground) -> None:
    """EDQUOT takes the same way: see tests/crash/test_disk_full.py."""
    disk = SmallDisk(ground.tmp, 64 * MIB)
    try:
        pond = ground.make("full", store=disk.root / "pond")
        pond.allow_log("No space left", "takes commits again")
        pond.mount("commit=3600,fsync=delta")
        (pond.mnt / "old").write_bytes(b"old")
        pond.commit()
        disk.fill()
        assert errno_of(write_and_sync, pond.mnt / "new", b"x" * MIB) == "ENOSPC"
        assert errno_of(os.mkdir, pond.mnt / "dir") == "ENOSPC"
        assert (pond.mnt / "old").read_bytes() == b"old"
        (pond.mnt / "old").unlink()
        assert not (pond.mnt / "old").exists()
        disk.free()
        pond.commit()
        write_and_sync(pond.mnt / "new", b"x" * MIB)
        pond.umount()
    finally:
        disk.close()


@row("EROFS")
def _read_only(ground: Ground) -> None:
    reader = ground.make("ro", store=ground.pond.store).mount("ro")
    assert errno_of(os.mkdir, reader.mnt / "dir") == "EROFS"
    reader.umount()
    disk = SmallDisk(ground.tmp, 64 * MIB)
    try:
        # What is open for writing (the lock, the daemon's log) keeps a disk from being turned.
        local, elsewhere = disk.root / "pond" / "_pond", ground.tmp / "local"
        local.mkdir(parents=True)
        elsewhere.mkdir()
        run([require("mount"), "--bind", elsewhere, local])
        pond = ground.make("rofs", store=disk.root / "pond")
        pond.allow_log("Read-only file system", "takes commits again")
        pond.mount("commit=3600,fsync=delta")
        (pond.mnt / "old").write_bytes(b"old")
        pond.commit()
        disk.turn("ro")
        assert errno_of(write_and_sync, pond.mnt / "new", b"x") == "EROFS"
        assert errno_of(os.mkdir, pond.mnt / "dir") == "EROFS"
        assert (pond.mnt / "old").read_bytes() == b"old"
        disk.turn("rw")
        pond.umount()
    finally:
        disk.close()


@row("EIO")
def _damaged(ground: Ground) -> None:
    pond = ground.make("eio").mount()
    (pond.mnt / "file").write_bytes(b"x" * MIB)
    pond.remount()
    (largest,) = sorted(pond.store.glob("*.parquet"), key=lambda path: path.stat().st_size)[-1:]
    whole = largest.read_bytes()
    largest.write_bytes(whole[: len(whole) // 2])
    with opened(pond.mnt / "file", os.O_RDONLY) as fd:
        assert errno_of(os.pread, fd, 4096, MIB - 4096) == "EIO"
    wait_until(lambda: largest.name in pond.daemon_log(), "the log names the file")
    pond.allow_log(largest.name)
    largest.write_bytes(whole)


@row("ENOTCONN")
def _dead(ground: Ground) -> None:
    pond = ground.make("dead").mount()
    (pond.mnt / "file").write_bytes(b"x")
    pond.commit()
    pid = pond.pid
    os.kill(pid, signal.SIGKILL)
    wait_gone(pid)
    assert errno_of(os.listdir, pond.mnt) == "ENOTCONN"
    assert errno_of(os.mkdir, pond.mnt / "dir") == "ENOTCONN"
    pond.run("pond", "umount", str(pond.mnt))
    pond.mount()
    assert (pond.mnt / "file").read_bytes() == b"x"


@row("ESTALE")
def _stale(ground: Ground) -> None:
    """By the handle an NFS server would keep: no file that is open, and no name, ever gives it."""
    pond = ground.make("stale").mount()
    (pond.mnt / "file").touch()
    handle = name_to_handle(pond.mnt / "file")
    with opened(pond.mnt, os.O_RDONLY) as root:
        os.close(open_by_handle(root, handle, os.O_RDONLY))
    pond.remount()
    (pond.mnt / "file").unlink()
    with opened(pond.mnt, os.O_RDONLY) as root:
        assert errno_of(open_by_handle, root, handle, os.O_RDONLY) == "ESTALE"
