"""The ways a mount ends, and ``pond`` beside it: none may lose what was written."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.mount.harness import PondMount, detach, is_running, require, run, wait_gone, wait_until
from tests.mount.place import opened

pytestmark = pytest.mark.pond_only("about the commands")

CONTENT = b"content" * 50_000


def test_umount_returns_when_the_daemon_is_gone(pond: PondMount) -> None:
    """So that the next command may unmount the disk below, or copy the store."""
    pond.remount("commit=3600")
    (pond.mnt / "file").write_bytes(CONTENT)
    pid = pond.pid
    pond.umount()
    assert not is_running(pid)
    assert not pond.is_mounted()
    pond.mount()
    assert (pond.mnt / "file").read_bytes() == CONTENT


def test_pond_umount_is_the_same(pond: PondMount) -> None:
    """``pond umount MOUNTPOINT``, for those without /sbin in their PATH."""
    (pond.mnt / "file").write_bytes(CONTENT)
    pid = pond.pid
    pond.run("pond", "umount", str(pond.mnt))
    assert not is_running(pid)
    pond.mount()
    assert (pond.mnt / "file").read_bytes() == CONTENT


def terminate_twice(pond: PondMount) -> None:
    """Send SIGTERM again while the first is being obeyed, as an impatient user does."""
    pid = pond.pid
    os.kill(pid, signal.SIGTERM)
    os.kill(pid, signal.SIGTERM)


ENDINGS: dict[str, Callable[[PondMount], object]] = {
    "umount": lambda pond: run([require("umount"), "-i", pond.mnt]),
    "fusermount3": lambda pond: run([require("fusermount3"), "-u", pond.mnt]),
    "lazy": lambda pond: detach(pond.mnt),
    "SIGTERM": lambda pond: os.kill(pond.pid, signal.SIGTERM),
    "SIGINT": lambda pond: os.kill(pond.pid, signal.SIGINT),
    "SIGHUP": lambda pond: os.kill(pond.pid, signal.SIGHUP),
    "two signals": terminate_twice,
    "umount.pond as umount(8) calls it": lambda pond: pond.run(
        "umount.pond", str(pond.mnt), "-r", "-n", "-v", "-t", "fuse.pond"
    ),
}


@pytest.mark.parametrize("ending", ENDINGS)
def test_no_ending_loses_what_was_written(pond: PondMount, ending: str) -> None:
    """Nothing was synced, the timer is an hour away: the last commit is the daemon's to make."""
    pond.remount("commit=3600")
    for number in range(50):
        (pond.mnt / f"file{number}").write_bytes(CONTENT[: number * 1000])
    os.unlink(pond.mnt / "file7")
    pid = pond.pid
    ENDINGS[ending](pond)
    wait_gone(pid)
    assert not pond.is_mounted()
    pond.mount()
    assert len(os.listdir(pond.mnt)) == 49
    for number in range(50):
        if number != 7:
            assert (pond.mnt / f"file{number}").read_bytes() == CONTENT[: number * 1000]


def test_a_mount_made_right_after_a_plain_umount(pond: PondMount) -> None:
    """The kernel does not wait for the old daemon: the new one must, or say who is in the way."""
    (pond.mnt / "file").write_bytes(CONTENT)
    pid = pond.pid
    run([require("umount"), "-i", pond.mnt])
    done = pond.run("mount.pond", str(pond.store), str(pond.mnt), check=False)
    if done.returncode != 0:
        assert str(pid) in done.stderr
        wait_gone(pid)
        pond.mount()
    assert (pond.mnt / "file").read_bytes() == CONTENT


def test_a_busy_mount_stays_mounted_and_says_so(pond: PondMount) -> None:
    """An open file keeps it; the pond goes on as before, committed up to here."""
    (pond.mnt / "file").write_bytes(CONTENT)
    with opened(pond.mnt / "file", os.O_RDWR) as fd:
        done = pond.run("umount.pond", str(pond.mnt), check=False)
        assert done.returncode not in (0, 1)
        assert len(done.stderr.strip().splitlines()) == 1
        assert "use" in done.stderr
        os.pwrite(fd, b"more", 0)
    assert (pond.mnt / "file").read_bytes() == b"more" + CONTENT[4:]
    pond.remount()
    assert (pond.mnt / "file").read_bytes() == b"more" + CONTENT[4:]


def test_a_lazy_umount_ends_when_the_last_user_lets_go(pond: PondMount) -> None:
    """`umount -l`: the name goes at once, the open file still works, and its bytes are kept."""
    with opened(pond.mnt / "file", os.O_CREAT | os.O_RDWR) as fd:
        pid = pond.pid
        pond.run("umount.pond", "-l", str(pond.mnt))
        assert not pond.is_mounted()
        os.write(fd, CONTENT)
    wait_gone(pid)
    pond.mount()
    assert (pond.mnt / "file").read_bytes() == CONTENT


def test_umount_of_what_is_no_pond(pond: PondMount, tmp_path: Path) -> None:
    """One line, mount failure, no harm."""
    for place in (tmp_path, tmp_path / "missing", Path("/proc")):
        done = pond.run("umount.pond", str(place), check=False)
        assert done.returncode == 32
        assert len(done.stderr.strip().splitlines()) == 1
        assert "Traceback" not in done.stderr


def test_init_makes_a_pond_once(pond_unmounted: PondMount) -> None:
    """`pond init` refuses an existing pond, and what it made can be mounted with nocreate."""
    pond = pond_unmounted
    pond.run("pond", "init", str(pond.store))
    again = pond.run("pond", "init", str(pond.store), check=False)
    assert again.returncode != 0
    assert str(pond.store) in again.stderr
    pond.mount("nocreate")
    assert os.listdir(pond.mnt) == []


def test_log_tells_each_commit(pond: PondMount) -> None:
    """One record a version, newest first, with its message; also when nothing is mounted."""
    pond.remount("commit=3600")
    for number in range(3):
        (pond.mnt / f"file{number}").write_bytes(CONTENT)
        pond.commit(f"message {number}")
    log = pond.log()
    assert [record["message"] for record in log[:3]] == ["message 2", "message 1", "message 0"]
    versions = [record["version"] for record in log]
    assert versions == sorted(versions, reverse=True)
    assert versions[0] == pond.status()["version"]
    assert len(pond.pond("log", "-n", "2", "--json").stdout) < len(
        pond.pond("log", "--json").stdout
    )
    assert "message 1" in pond.pond("log").stdout
    pond.umount()
    assert pond.log()[: len(log)] == log or pond.log()[1:] == log


def test_status_counts_what_is_pending(pond: PondMount) -> None:
    """pending_* rise with every change and fall to 0 with the commit that takes it."""
    pond.remount("commit=3600")
    before = pond.status()
    assert (before["pending_nodes"], before["pending_bytes"]) == (0, 0)
    (pond.mnt / "file").write_bytes(CONTENT)
    pending = pond.status()
    assert pending["pending_nodes"] >= 1
    assert pending["pending_bytes"] >= len(CONTENT)
    assert pending["version"] == before["version"]
    pond.commit()
    after = pond.status()
    assert (after["pending_nodes"], after["pending_bytes"]) == (0, 0)
    assert after["version"] == before["version"] + 1
    assert "pending" in pond.pond("status").stdout
    pond.commit()
    assert pond.status()["version"] == after["version"], "an empty commit is none"


def test_commands_on_an_unmounted_pond(pond: PondMount, tmp_path: Path) -> None:
    """status and commit say that it is not mounted; a store that is none is not made one."""
    (pond.mnt / "file").write_bytes(b"content")
    version = pond.status()["version"]
    pond.umount()
    status = pond.status()
    assert status["pid"] is None
    assert status["version"] >= version
    assert "not mounted" in pond.pond("commit").stdout
    missing = pond.run("pond", "--pond", str(tmp_path / "missing"), "log", check=False)
    assert missing.returncode != 0
    assert str(tmp_path / "missing") in missing.stderr
    assert not (tmp_path / "missing").exists()


def test_the_timer_commits(pond: PondMount) -> None:
    """`commit=1`: what nobody synced is in the table a second later."""
    pond.remount("commit=1")
    version = pond.status()["version"]
    (pond.mnt / "file").write_bytes(b"content")
    wait_until(lambda: pond.status()["version"] > version, "the timer's commit")
    pond.kill()
    pond.mount()
    assert (pond.mnt / "file").read_bytes() == b"content"


def test_max_pending_commits(pond: PondMount) -> None:
    """A size threshold bounds memory however far away the timer is."""
    pond.remount("commit=3600", "max_pending=1M")
    version = pond.status()["version"]
    for number in range(8):
        (pond.mnt / f"file{number}").write_bytes(bytes([number]) * (1 << 20))
    wait_until(lambda: pond.status()["version"] > version, "a commit for size")


@pytest.mark.parametrize("what", ["fsync", "fdatasync", "directory", "O_SYNC", "pond commit"])
def test_what_was_acknowledged_survives_a_kill(pond: PondMount, what: str) -> None:
    """Each way to ask for durability, followed at once by SIGKILL."""
    pond.remount("commit=3600")
    flags = os.O_CREAT | os.O_WRONLY | (os.O_SYNC if what == "O_SYNC" else 0)
    (pond.mnt / "before").write_bytes(b"before")
    with opened(pond.mnt / "file", flags) as fd:
        os.write(fd, CONTENT)
        if what == "fsync":
            os.fsync(fd)
        elif what == "fdatasync":
            os.fdatasync(fd)
    if what == "directory":
        with opened(pond.mnt, os.O_RDONLY) as fd:
            os.fsync(fd)
    elif what == "pond commit":
        pond.commit()
    pond.kill()
    pond.mount()
    assert (pond.mnt / "file").read_bytes() == CONTENT
    assert (pond.mnt / "before").read_bytes() == b"before"


def test_log_level_of_the_daemon(pond: PondMount) -> None:
    """`log=debug` tells more, `log=error` nothing when all is well."""
    pond.remount("log=debug")
    (pond.mnt / "file").write_bytes(b"content")
    pond.umount()
    assert "DEBUG" in pond.daemon_log()
