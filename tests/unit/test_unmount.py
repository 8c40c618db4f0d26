import errno
import os
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pondfs import unmount as unmount_module
from pondfs.cli import umount_pond
from pondfs.cli.run import run
from pondfs.control.protocol import socket_path
from pondfs.errors import CommitFailed, MountFailed
from pondfs.mountinfo import find_pond_at
from pondfs.unmount import find_users, flush_kernel, unmount
from tests.unit.fake_daemon import StartDaemon

MountTable = Callable[..., Path]


class Scene:
    """A mount table with one pond, its daemon, and a stand-in for umount(8) and fusermount3(1).

    The daemon is a process that the stand-in ends, as detaching ends a real one, and a control
    server that follows it.
    """

    def __init__(self, tmp_path: Path, socket: Path, start_daemon: StartDaemon) -> None:
        self.mnt = tmp_path / "mnt"
        self.process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
        self.commit_error: Exception | None = None
        self.farewell: dict[str, Any] = {"ok": True}
        self.asked: list[dict[str, Any]] = []
        self._socket = socket
        self._start_daemon = start_daemon
        self._calls = tmp_path / "calls"
        self._program = tmp_path / "program"
        self.tool(f"kill {self.process.pid}")

    def tool(self, script: str) -> None:
        """Make the stand-in do *script*."""
        self._program.write_text(f'#!/bin/sh\necho "$@" >>{self._calls}\n{script}\n')
        self._program.chmod(0o755)

    def start(self) -> None:
        async def commit(request: dict[str, Any]) -> dict[str, Any]:
            self.asked.append(request)
            if self.commit_error is not None:
                raise self.commit_error
            return {"version": 1}

        daemon = self._start_daemon(
            path=self._socket,
            hello={"pid": self.process.pid, "mountpoint": str(self.mnt)},
            farewell=lambda: self.farewell,
            commit=commit,
        )

        def follow() -> None:
            self.process.wait()
            daemon.stop()

        threading.Thread(target=follow, daemon=True).start()

    def calls(self) -> list[str]:
        return self._calls.read_text().splitlines() if self._calls.exists() else []

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        assert self.process.stdin is not None
        self.process.stdin.close()


@pytest.fixture
def scene(
    tmp_path: Path,
    mount_table: MountTable,
    start_daemon: StartDaemon,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Scene]:
    mnt = tmp_path / "mnt"
    mnt.mkdir()
    made = Scene(tmp_path, mount_table(tmp_path / "store", mnt), start_daemon)
    monkeypatch.setattr(unmount_module, "_program", lambda name: str(tmp_path / "program"))
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    yield made
    made.close()


def test_commit_detach_wait(scene: Scene) -> None:
    scene.start()
    unmount(scene.mnt)
    assert scene.asked[0]["for"] == "umount"
    assert scene.calls() == [f"-i {scene.mnt}"]
    assert scene.process.wait(10) != 0


def test_a_failing_commit_refuses(scene: Scene) -> None:
    scene.start()
    scene.commit_error = CommitFailed("No space left on device", errno.ENOSPC)
    with pytest.raises(MountFailed, match=r"stays mounted.*No space left on device.*or lose"):
        unmount(scene.mnt)
    assert scene.calls() == []
    unmount(scene.mnt, force=True)
    assert scene.calls() == [f"-i {scene.mnt}"]


def test_lazy_does_not_wait(scene: Scene) -> None:
    scene.tool("exit 0")
    scene.start()
    unmount(scene.mnt, lazy=True)
    assert scene.calls() == [f"-i -l {scene.mnt}"]
    assert scene.process.poll() is None


def test_a_store_gone_read_only_refuses(scene: Scene) -> None:
    """It was taken for a read-only mount once, detached, and the daemon kept the changes."""
    scene.start()
    scene.commit_error = CommitFailed("Read-only file system", errno.EROFS)
    with pytest.raises(MountFailed, match="stays mounted"):
        unmount(scene.mnt)


def test_a_dead_daemons_mount_is_just_detached(scene: Scene) -> None:
    unmount(scene.mnt)
    os.mknod(socket_path(scene.mnt), stat.S_IFSOCK | 0o600)
    unmount(scene.mnt)
    assert scene.calls() == [f"-i {scene.mnt}"] * 2


def test_a_busy_mount_names_who_uses_it(scene: Scene) -> None:
    scene.tool(f"echo 'umount: {scene.mnt}: target is busy.' >&2; exit 32")
    scene.start()
    with pytest.raises(MountFailed, match="is in use: leave it"):
        unmount(scene.mnt)
    (scene.mnt / "file").write_text("x")
    with (scene.mnt / "file").open():
        user = subprocess.Popen(
            ["sh", "-c", f"cd {scene.mnt} && echo && read line"], stdin=-1, stdout=-1
        )
        assert user.stdin is not None
        assert user.stdout is not None
        user.stdout.readline()
        try:
            with pytest.raises(MountFailed, match=rf"in use by sh \({user.pid}\): leave it"):
                unmount(scene.mnt)
        finally:
            user.stdin.close()
            user.wait()
            user.stdout.close()


def test_other_failures_are_passed_on(scene: Scene) -> None:
    scene.tool("echo 'umount: permission denied' >&2; exit 1")
    scene.start()
    with pytest.raises(MountFailed, match=r"cannot unmount .*permission denied"):
        unmount(scene.mnt)


def test_a_failed_last_commit_is_told(scene: Scene) -> None:
    scene.farewell = {"ok": False, "error": "Input/output error", "errno": errno.EIO}
    scene.start()
    with pytest.raises(MountFailed, match=r"is unmounted, but .* Input/output error"):
        unmount(scene.mnt)


def test_an_ordinary_user_takes_fusermount(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    scene.start()
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(unmount_module, "find_sockets", lambda mnt, uid: iter([scene._socket]))
    unmount(scene.mnt)
    assert scene.calls() == [f"-u {scene.mnt}"]


def test_what_is_no_pond_is_refused(tmp_path: Path, mount_table: MountTable) -> None:
    with pytest.raises(MountFailed, match=f"{tmp_path} is not mounted"):
        unmount(tmp_path)
    with pytest.raises(MountFailed, match="/ is no pond but ext4: umount /"):
        unmount("/")


def test_as_umount8_calls_it(scene: Scene, capsys: pytest.CaptureFixture[str]) -> None:
    scene.start()
    args = [str(scene.mnt), "-n", "-v", "-r", "-t", "fuse.pond"]
    assert run(umount_pond.command, "umount.pond", args) == 0
    assert capsys.readouterr().out == f"{scene.mnt} unmounted\n"
    assert run(umount_pond.command, "umount.pond", [str(scene.mnt / "x")]) == 32
    assert capsys.readouterr().err == f"umount.pond: {scene.mnt}/x is not mounted\n"


def test_users_are_found_without_asking_the_mount(tmp_path: Path, mount_table: MountTable) -> None:
    mount_table(tmp_path / "store", tmp_path)
    mount = find_pond_at(tmp_path)
    assert mount is not None
    assert find_users(mount) == []


def test_the_kernels_pages_are_flushed(tmp_path: Path) -> None:
    flush_kernel(tmp_path)
    with pytest.raises(FileNotFoundError):
        flush_kernel(tmp_path / "missing")
