"""Fixtures for the unit tests."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pondfs import mountinfo, unmount
from pondfs.control import protocol
from pondfs.mountinfo import load_mounts as mountinfo_load
from tests.unit.fake_daemon import Daemon, Handler, StartDaemon


@pytest.fixture
def start_daemon(tmp_path: Path) -> Iterator[StartDaemon]:
    """Return a function that starts a server: ``start_daemon(op=handler, …)``."""
    started: list[Daemon] = []

    def start(
        farewell: Callable[[], dict[str, Any]] | None = None,
        hello: dict[str, Any] | None = None,
        path: Path | None = None,
        **handlers: Handler,
    ) -> Daemon:
        daemon = Daemon(path or tmp_path / "control.sock", handlers, farewell)
        daemon.hello |= hello or {}
        started.append(daemon)
        return daemon.start()

    yield start
    for daemon in started:
        daemon.stop()


@pytest.fixture
def mount_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Return a function that puts a pond into the mount table, and its runtime directory.

    ``mount_table(store, mountpoint)`` returns where that mount's daemon has its socket.
    """
    table = tmp_path / "mountinfo"
    root = "1 1 8:1 / / rw - ext4 /dev/sda1 rw\n"
    table.write_text(root)
    monkeypatch.setattr(mountinfo, "load_mounts", lambda: mountinfo_load(str(table)))
    monkeypatch.setattr(unmount, "load_mounts", lambda: mountinfo_load(str(table)))
    runtime = tmp_path / "run"
    monkeypatch.setattr(protocol, "_directories", lambda uid: iter([runtime]))

    def add(store: Path, mountpoint: Path, options: str = "rw") -> Path:
        with table.open("a") as file:
            file.write(
                f"2 1 0:99 / {mountpoint} {options} - fuse.pond {store} "
                f"{options},user_id={os.geteuid()}\n"
            )
        return protocol.socket_path(mountpoint)

    return add
