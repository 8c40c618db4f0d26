"""A PostgreSQL server of our own, with its data where we want it, that ends for certain.

Debian's package; as its user, since the server refuses to be root; by a socket in a private
directory, so that it meets no other server.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tests.mount import harness

USER = "postgres"
COMMAND_TIMEOUT_S = 300.0
_START_S = 60
_TPS = re.compile(r"^tps = ([0-9.]+)", re.MULTILINE)
_DATABASE = "postgres"


class Postgres:
    """A server with its data in *data*, which is made, and removed at the end."""

    def __init__(self, data: Path) -> None:
        """Take the place; `start` does the rest."""
        self._bin = _find_programs()
        self._data = data
        # Beside the data the name would be too long for a socket's.
        self._private = Path(tempfile.mkdtemp(prefix="pond-pg-"))

    def __enter__(self) -> Postgres:
        """Make the directories the server's user needs."""
        shutil.chown(self._private, USER, USER)
        self._data.mkdir(mode=0o700)
        shutil.chown(self._data, USER, USER)
        return self

    def __exit__(self, *_: object) -> None:
        """End it, whatever state it or the filesystem below it is in."""
        try:
            if self._servers():
                self._stop()
        finally:
            for pid in self._servers():
                _kill(pid)
            shutil.rmtree(self._private, ignore_errors=True)
            shutil.rmtree(self._data, ignore_errors=True)

    def start(self) -> None:
        """Make a cluster as Debian's initdb makes it, fsync and all, and start the server."""
        self._run("initdb", "-D", self._data, "-A", "trust", "--locale=C.UTF-8")
        settings = f"-c listen_addresses='' -c unix_socket_directories='{self._private}'"
        log = self._private / "log"
        self._pg_ctl("start", "-w", "-t", str(_START_S), "-l", log, "-o", settings)

    def fill(self, scale: int) -> None:
        """Make pgbench's tables: 100,000 accounts for each of *scale*."""
        self._run("pgbench", "-h", self._private, "-q", "-i", "-s", str(scale), _DATABASE)

    def pgbench(self, clients: int, seconds: int) -> float:
        """Return the transactions a second of so many clients."""
        printed = self._run(
            "pgbench", "-h", self._private, "-c", str(clients), "-T", str(seconds), _DATABASE
        )
        found = _TPS.search(printed)
        assert found is not None, printed
        return float(found[1])

    def check(self) -> None:
        """Hold pgbench's books against each other: what was paid is what accounts, tellers have."""
        sums = (
            "SELECT (SELECT sum(abalance) FROM pgbench_accounts) = "
            "(SELECT sum(delta) FROM pgbench_history) AND "
            "(SELECT sum(tbalance) FROM pgbench_tellers) = "
            "(SELECT sum(bbalance) FROM pgbench_branches)"
        )
        printed = self._run("psql", "-h", self._private, "-X", "-A", "-t", "-c", sums, _DATABASE)
        assert printed.strip() == "t", f"pgbench's books do not agree: {printed}"

    def _pg_ctl(self, verb: str, *args: str | Path) -> str:
        return self._run("pg_ctl", verb, "-D", self._data, *args)

    def _run(self, program: str, *args: str | Path) -> str:
        command = [str(self._bin / program), *map(str, args)]
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            text=True, timeout=COMMAND_TIMEOUT_S, cwd="/", user=USER, group=USER, extra_groups=[],
        )  # fmt: skip
        assert done.returncode == 0, f"{program}: {done.stdout[-2000:]}{self._log()}"
        return done.stdout

    def _log(self) -> str:
        log = self._private / "log"
        return log.read_text(errors="replace")[-2000:] if log.exists() else ""

    def _stop(self) -> None:
        self._pg_ctl("stop", "-m", "fast", "-w", "-t", str(_START_S))

    def _servers(self) -> list[int]:
        """Return the processes of this server, whether or not it got as far as its pid file.

        Children whose parent is gone would look like nobody's: they come with it.
        """
        data = os.fsencode(self._data)
        parents = [pid for pid, args in _processes() if data in args and b"postgres" in args[0]]
        return [*parents, *(pid for parent in parents for pid in _children(parent))]


def _find_programs() -> Path:
    """Return where the newest PostgreSQL has its programs: Debian keeps them out of PATH."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/pgbench"), key=_release)
    assert found, "PostgreSQL is not installed: run `bash tools/packages.sh test`"
    return found[-1].parent


def _release(program: Path) -> float:
    return float(program.parts[-3])


def _processes() -> Iterator[tuple[int, list[bytes]]]:
    for proc in Path("/proc").iterdir():
        if proc.name.isdigit():
            try:
                yield int(proc.name), (proc / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue  # ended meanwhile


def _children(parent: int) -> list[int]:
    found = []
    for pid, _ in _processes():
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == parent:
            found.append(pid)
    return found


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return
    harness.wait_gone(pid)
