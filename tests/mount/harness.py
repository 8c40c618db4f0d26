"""Drive a real pond mount from a test: mount, kill, sweep, and never hang.

Tests reach these through the fixtures in ``tests/conftest.py``; only types and the few plain
functions are imported from here. Every command has a timeout, because a FUSE bug shows itself as a
process that never returns, and a suite that hangs says nothing about where.
"""

from __future__ import annotations

import errno
import json
import os
import re
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

BIN = Path(sys.executable).parent
# For what hangs, not for what is slow: a disk that others use stalls an fsync for many seconds.
COMMAND_TIMEOUT_S = 120.0
WAIT_TIMEOUT_S = 60.0
# How often a condition without a kernel notification is looked at again.
POLL_INTERVAL_S = 0.01

# Set by a developer to run the program and machine tests on an ordinary directory: a test that
# fails there is wrong about POSIX, not about pondfs.
PLAIN = os.environ.get("POND_TEST_PLAIN", "") not in ("", "0")

_ALARMING = re.compile(r"\b(WARNING|ERROR|CRITICAL)\b|Traceback \(most recent call last\)")


class CommandError(AssertionError):
    """A command a test relies on failed or did not return; the message holds what it printed."""


def command(name: str) -> str:
    """Return the path of an installed pondfs command, such as ``mount.pond``."""
    return str(BIN / name)


def require(program: str) -> str:
    """Return the path of a system program; fail, never skip, when it is not installed."""
    found = shutil.which(program, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")
    assert found is not None, f"{program} is not installed: run `make setup`"
    return found


def run(
    args: Sequence[str | bytes | Path],
    *,
    check: bool = True,
    timeout_s: float = COMMAND_TIMEOUT_S,
    env: Mapping[str, str] | None = None,
    cwd: Path | str | None = None,
    stdin: str | None = None,
    user: int | None = None,
    group: int | None = None,
    groups: Sequence[int] = (),
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end and return what it printed, undecodable bytes escaped.

    The output goes through pipes on purpose: a daemon that keeps the caller's stdout open would
    hang every script that does ``$(mount.pond …)``, and so fails here by the timeout.

    With *user* it runs as that user, in *group* (the one of the same number) and *groups*.

    Raises: CommandError if it runs too long, or (with *check*) exits other than 0.
    """
    shown = " ".join(os.fsdecode(arg) for arg in args)
    try:
        done = subprocess.run(
            [os.fspath(arg) for arg in args],
            input=stdin,
            stdin=subprocess.DEVNULL if stdin is None else None,
            capture_output=True,
            encoding="utf-8",
            errors="backslashreplace",
            timeout=timeout_s,
            env=None if env is None else dict(env),
            cwd=cwd,
            user=user,
            # Without, it would be another user in root's group.
            group=user if group is None else group,
            extra_groups=None if user is None else list(groups),
        )
    except subprocess.TimeoutExpired as slow:
        printed = (slow.stdout or b"")[-2000:], (slow.stderr or b"")[-2000:]
        raise CommandError(f"{shown}: no answer after {timeout_s:g} s: {printed}") from None
    if check and done.returncode != 0:
        raise CommandError(
            f"{shown}: exit code {done.returncode}\n{done.stdout[-4000:]}{done.stderr[-4000:]}"
        )
    return done


def wait_until(
    condition: Callable[[], object], what: str, timeout_s: float = WAIT_TIMEOUT_S
) -> None:
    """Return when *condition* holds; fail naming *what* when it does not within the timeout."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {timeout_s:g} s: {what}"
        time.sleep(POLL_INTERVAL_S)


@dataclass(frozen=True, slots=True)
class MountEntry:
    """One line of ``/proc/self/mountinfo``, unescaped."""

    mnt: Path
    fstype: str
    source: str
    options: tuple[str, ...]


def mounts() -> list[MountEntry]:
    """Return everything mounted, later mounts last.

    Source: proc(5), /proc/pid/mountinfo; space, tab, newline and backslash are octal there.
    """
    found = []
    for line in Path("/proc/self/mountinfo").read_text(errors="surrogateescape").splitlines():
        left, _, right = line.partition(" - ")
        fields, (fstype, source, super_options) = left.split(" "), right.split(" ", 2)
        options = (*fields[5].split(","), *super_options.split(","))
        found.append(MountEntry(Path(_unescape(fields[4])), fstype, _unescape(source), options))
    return found


def _unescape(text: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), text)


def is_mounted(mnt: Path) -> bool:
    """Say whether something is mounted exactly at *mnt*, without touching the mount itself."""
    return any(entry.mnt == mnt for entry in mounts())


def detach(mnt: Path) -> None:
    """Detach *mnt* at once, whatever uses it and whether or not its daemon answers."""
    lazily = [require("fusermount3"), "-u", "-z", str(mnt)]
    if run(lazily, check=False).returncode != 0 and is_mounted(mnt):
        run([require("umount"), "-l", "-i", str(mnt)], check=False)


def daemons_of(path: Path) -> list[int]:
    """Return the processes that serve a mount at or below *path*.

    A daemon is told from a bystander by two things together: the path among its arguments and an
    open ``/dev/fuse``. The tests ask the kernel, not the daemon, so a hung daemon is found too.
    """
    wanted = os.fsencode(path)
    found = []
    for proc in Path("/proc").iterdir():
        if not proc.name.isdigit() or int(proc.name) == os.getpid():
            continue
        try:
            args = (proc / "cmdline").read_bytes().split(b"\0")
            if not any(arg == wanted or arg.startswith(wanted + b"/") for arg in args):
                continue
            held = {_link(fd) for fd in (proc / "fd").iterdir()}
        except OSError:
            continue  # ended meanwhile, or not ours to look at
        if "/dev/fuse" in held and b"fusermount" not in args[0]:
            found.append(int(proc.name))
    return found


def _link(fd: Path) -> str:
    try:
        return os.readlink(fd)
    except FileNotFoundError:
        return ""  # closed meanwhile: the process is at work


def is_running(pid: int) -> bool:
    """Say whether process *pid* runs: a zombie does not, it only waits for its parent to look."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state not in ("Z", "X")


def wait_gone(pid: int, timeout_s: float = WAIT_TIMEOUT_S) -> None:
    """Return when process *pid* has ended; it need not be our child."""
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        ready, _, _ = select.select([pidfd], [], [], timeout_s)
        assert ready, f"process {pid} still runs after {timeout_s:g} s"
    finally:
        os.close(pidfd)


def sweep(path: Path) -> list[Path]:
    """Kill every daemon and detach every mount below *path*; return what was still mounted."""
    for pid in daemons_of(path):
        os.kill(pid, signal.SIGKILL)
        wait_gone(pid)
    left = [entry.mnt for entry in mounts() if path in (entry.mnt, *entry.mnt.parents)]
    for mnt in reversed(left):
        detach(mnt)
    return left


def is_dead(mnt: Path) -> bool:
    """Say whether *mnt* is a mount whose daemon is gone (every call there fails ENOTCONN)."""
    try:
        os.statvfs(mnt)
    except OSError as error:
        return error.errno == errno.ENOTCONN
    return False


def alarming(log: str, allowed: Iterable[str] = ()) -> list[str]:
    """Return the lines of a daemon's log that warn or worse and match no *allowed* pattern."""
    return [
        line
        for line in log.splitlines()
        if _ALARMING.search(line) and not any(re.search(pattern, line) for pattern in allowed)
    ]


@dataclass
class PondMount:
    """A store, a mountpoint, and the commands between them.

    A warning, an error or a traceback in the daemon's log fails the test at teardown unless a
    pattern in ``allowed`` (see :meth:`allow_log`) matches the line: a daemon that complains about
    something the test did not provoke has a bug the assertions missed.
    """

    store: Path
    mnt: Path
    env: dict[str, str]
    allowed: list[str] = field(default_factory=list)
    options: tuple[str, ...] = ()

    def mount(self, *opts: str) -> PondMount:
        """Mount with these ``-o`` options and return once the mount answers."""
        self.options = opts
        extra = ["-o", ",".join(opts)] if opts else []
        self.run("mount.pond", str(self.store), str(self.mnt), *extra)
        assert is_mounted(self.mnt), "mount.pond exited 0 but nothing is mounted"
        return self

    def umount(self) -> None:
        """Unmount by ``umount.pond``: on return everything is committed and the daemon gone."""
        self.run("umount.pond", str(self.mnt))

    def remount(self, *opts: str) -> PondMount:
        """Unmount and mount again, with the options of the last mount unless new ones come."""
        again = opts or self.options
        if self.is_mounted():
            self.umount()
        return self.mount(*again)

    def kill(self) -> None:
        """SIGKILL the daemon, as a crash would, and clear the dead mountpoint away."""
        pid = self.pid
        os.kill(pid, signal.SIGKILL)
        wait_gone(pid)
        detach(self.mnt)

    @property
    def pid(self) -> int:
        """The daemon's process id, from the kernel's side."""
        pids = daemons_of(self.mnt)
        assert len(pids) == 1, f"expected one daemon for {self.mnt}, found {pids}"
        return pids[0]

    def is_mounted(self) -> bool:
        """Say whether the pond is in the mount table, without asking its daemon."""
        return is_mounted(self.mnt)

    def run(
        self, name: str, *args: str, check: bool = True, timeout_s: float = COMMAND_TIMEOUT_S
    ) -> subprocess.CompletedProcess[str]:
        """Run one pondfs command in this pond's environment."""
        return run([command(name), *args], check=check, timeout_s=timeout_s, env=self.env)

    def pond(self, *args: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run ``pond --pond STORE …``."""
        return self.run("pond", "--pond", str(self.store), *args, check=check)

    def status(self) -> dict[str, Any]:
        """Return ``pond status --json``."""
        answer: dict[str, Any] = json.loads(self.pond("status", "--json").stdout)
        return answer

    def log(self) -> list[dict[str, Any]]:
        """Return ``pond log --json``: one record per version."""
        answer: list[dict[str, Any]] = json.loads(self.pond("log", "--json").stdout)
        return answer

    def commit(self, message: str | None = None) -> None:
        """Commit everything pending, as ``pond commit`` does."""
        self.pond("commit", *(["-m", message] if message is not None else []))

    def allow_log(self, *patterns: str) -> None:
        """Expect log lines that match one of these regular expressions."""
        self.allowed.extend(patterns)

    def daemon_log(self) -> str:
        """Return the daemon's log so far; empty if it has not written one."""
        path = self.store / "_pond" / "log"
        return path.read_text(errors="replace") if path.exists() else ""

    def unexpected_log_lines(self) -> list[str]:
        """Return the alarming lines of the daemon's log that the test did not expect."""
        return alarming(self.daemon_log(), self.allowed)

    def close(self) -> None:
        """End the mount for certain, then fail if it did not end well or its log complains."""
        failure: CommandError | None = None
        if self.is_mounted():
            try:
                self.umount()
            except CommandError as error:
                failure = error
        sweep(self.mnt)
        complaints = self.unexpected_log_lines()
        if failure is not None:
            raise failure
        assert not complaints, "the daemon's log complains:\n" + self.daemon_log()[-8000:]


class PlainPond(PondMount):
    """An ordinary directory in a pond's clothes, for ``POND_TEST_PLAIN=1``."""

    def mount(self, *opts: str) -> PondMount:
        """Do nothing: the directory is there."""
        self.options = opts
        return self

    def umount(self) -> None:
        """Do nothing: the directory stays."""

    def kill(self) -> None:
        """Do nothing: a plain directory has no daemon to lose."""

    def commit(self, message: str | None = None) -> None:
        """Do nothing: every change is there at once."""

    def is_mounted(self) -> bool:
        """Say yes, so that :meth:`remount` takes its usual way."""
        return True

    def close(self) -> None:
        """Do nothing: pytest removes the directory."""


def make_pond(
    store: Path, mnt: Path, env: Mapping[str, str], allowed: Iterable[str] = ()
) -> PondMount:
    """Return an unmounted pond whose mountpoint exists, or its plain stand-in."""
    mnt.mkdir(parents=True, exist_ok=True)
    kind = PlainPond if PLAIN else PondMount
    return kind(store=store, mnt=mnt, env=dict(env), allowed=list(allowed))
