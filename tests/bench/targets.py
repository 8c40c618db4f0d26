"""Where a workload runs: an ext4 directory, the bare filesystem, a pond.

A target is opened for one workload (a fresh mount, for a pond a fresh store), gives out an empty
directory for every round, and is closed. Commands have timeouts and `kill` ends a daemon that no
longer answers, so a hanging filesystem costs a row of the table and not the run.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from tests.mount import harness

BARE_FS = Path(__file__).with_name("bare_fs.py")
START_TIMEOUT_S = 60.0
COMMAND_TIMEOUT_S = 300.0
STOP_TIMEOUT_S = 300.0  # an unmount commits whatever is pending


class Target(ABC):
    """One filesystem under test; *root* is where workloads may write."""

    name: ClassVar[str]

    def __init__(self, base: Path) -> None:
        self.base = base / self.name
        self.root = self.base
        self._given_out = 0

    def open(self) -> None:
        """Make it ready, empty."""
        shutil.rmtree(self.base, ignore_errors=True)
        self.base.mkdir(parents=True)

    @abstractmethod
    def close(self) -> None:
        """Take it down and remove what it kept."""

    def remount(self) -> None:  # noqa: B027  # nothing to do is the right default
        """Lose every cache that a mount of its own holds, where contents survive that."""

    def daemon_pid(self) -> int | None:
        """Return the process that answers the kernel, None if the kernel needs none."""
        return None

    def kill(self) -> None:
        """End daemons that hang; calls waiting for them fail with ENOTCONN."""
        for pid in harness.daemons_of(self.base):
            os.kill(pid, 9)

    def new_directory(self) -> Path:
        """Return an empty directory with a name never used here before."""
        self._given_out += 1
        directory = self.root / f"round-{self._given_out}"
        directory.mkdir()
        return directory

    def settle(self) -> None:
        """Make everything durable, so that one target's leftovers do not slow the next."""
        harness.run(["sync", "-f", self.root], timeout_s=STOP_TIMEOUT_S)
        fd = os.open(self.root, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


class Ext4(Target):
    """A plain directory: what the kernel does by itself."""

    name = "ext4"

    def close(self) -> None:
        shutil.rmtree(self.base, ignore_errors=True)


class Mounted(Target):
    """A target behind a FUSE daemon, mounted at *root*."""

    def __init__(self, base: Path) -> None:
        super().__init__(base)
        self.root = self.base / "mnt"

    def open(self) -> None:
        super().open()
        self.root.mkdir()
        self.mount()

    def close(self) -> None:
        try:
            self.unmount()
        finally:
            harness.sweep(self.base)
            shutil.rmtree(self.base, ignore_errors=True)

    @abstractmethod
    def mount(self) -> None:
        """Return when the mount answers."""

    @abstractmethod
    def unmount(self) -> None:
        """Return when the daemon is gone."""

    def daemon_pid(self) -> int | None:
        """Return it as the kernel knows it, so that a hanging daemon is found too."""
        pids = harness.daemons_of(self.root)
        return pids[0] if pids else None


class Bare(Mounted):
    """The bare pyfuse3 filesystem; it forgets everything at unmount, so it is never remounted."""

    name = "bare"
    options: Sequence[str] = ()

    def mount(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, str(BARE_FS), str(self.root), *self.options],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if line.strip() != "ready":
            self._process.wait(START_TIMEOUT_S)
            raise harness.CommandError("bare_fs.py did not mount; its stderr says why")

    def unmount(self) -> None:
        harness.detach(self.root)
        try:
            self._process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()


class Pond(Mounted):
    """A pond, by the commands a user has. *options* are for the next mount; none are the default.

    Given a *store* it is one more mount of that, beside the first.
    """

    name = "pond"

    def __init__(
        self, base: Path, options: Sequence[str] = (), *, store: Path | None = None
    ) -> None:
        super().__init__(base)
        self.store = store or self.base / "store"
        self.options = options
        self._env = {key: value for key, value in os.environ.items() if key != "POND"}
        self._env["XDG_DATA_HOME"] = str(self.base)  # never the developer's own pond

    def mount(self) -> None:
        options = ["-o", ",".join(self.options)] if self.options else []
        self._run(
            "mount.pond", str(self.store), str(self.root), *options, timeout_s=START_TIMEOUT_S
        )

    def unmount(self) -> None:
        if harness.is_mounted(self.root):
            self._run("umount.pond", str(self.root), timeout_s=STOP_TIMEOUT_S)

    def remount(self) -> None:
        self.unmount()
        self.mount()

    def pond(self, *args: str, timeout_s: float = COMMAND_TIMEOUT_S) -> str:
        """Run ``pond`` on the mount, or on the store while there is none; return what it prints."""
        named = str(self.root if harness.is_mounted(self.root) else self.store)
        return self._run("pond", "--pond", named, *args, timeout_s=timeout_s)

    def _run(self, command: str, *args: str, timeout_s: float) -> str:
        args = (harness.command(command), *args)
        return harness.run(args, timeout_s=timeout_s, env=self._env).stdout


TARGETS: dict[str, type[Target]] = {kind.name: kind for kind in (Ext4, Bare, Pond)}


def drop_caches() -> bool:
    """Empty the kernel's caches of clean pages, names and inodes; False if not allowed to."""
    try:
        with open("/proc/sys/vm/drop_caches", "w") as knob:
            knob.write("3\n")
    except OSError:
        return False
    return True
