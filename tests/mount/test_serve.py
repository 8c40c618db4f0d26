"""A pond as a service: what systemd is told, and when; a crash, a reload, an end.

The tests are the service manager: they own the notify socket, send its signals, and start the
daemon again.
"""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import MakePond
from tests.mount.harness import (
    WAIT_TIMEOUT_S,
    PondMount,
    command,
    detach,
    is_dead,
    is_mounted,
    mounts,
    run,
    wait_until,
)

WATCHDOG_S = 0.6


class Service:
    """One instance and the daemon that serves it, seen as systemd does."""

    def __init__(self, pond: PondMount, place: Path) -> None:
        self.pond = pond
        self.file = place / "field.toml"
        self.configure()
        self.words: list[tuple[float, str]] = []
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(place / "notify"))
        self._socket.setblocking(False)
        self._output = place / "output"
        self.process: subprocess.Popen[bytes] | None = None

    def configure(self, *options: str, more: str = "") -> None:
        listed = ", ".join(f'"{option}"' for option in options)
        self.file.write_text(
            f'store = "{self.pond.store}"\nmountpoint = "{self.pond.mnt}"\n'
            f"options = [{listed}]\n{more}"
        )

    def start(self) -> None:
        """Start it and return once it says that it is ready."""
        self.words.clear()
        with self._output.open("ab") as output:
            self.process = subprocess.Popen(
                [command("pond"), "serve", str(self.file)],
                env={
                    **self.pond.env,
                    "NOTIFY_SOCKET": self._socket.getsockname(),
                    "WATCHDOG_USEC": str(int(WATCHDOG_S * 1e6)),
                },
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd="/",
            )
        self.wait_for("READY=1")

    def heard(self) -> list[str]:
        """Return every word so far."""
        while True:
            try:
                message = self._socket.recv(65536).decode()
            except BlockingIOError:
                return [word for _, word in self.words]
            self.words += [(time.monotonic(), word) for word in message.split("\n")]

    def wait_for(self, pattern: str, count: int = 1) -> None:
        def is_there() -> bool:
            found = [word for word in self.heard() if re.search(pattern, word)]
            if len(found) >= count:
                return True
            assert self.process is not None
            assert self.process.poll() is None, self.output()
            return False

        wait_until(is_there, f"{count} times {pattern}")

    def output(self) -> str:
        return self._output.read_text()

    def send(self, number: signal.Signals) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def wait(self) -> int:
        assert self.process is not None
        return self.process.wait(WAIT_TIMEOUT_S)

    def close(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        if is_mounted(self.pond.mnt):
            detach(self.pond.mnt)
        self._socket.close()


@pytest.fixture
def service(make_pond: MakePond, tmp_path: Path) -> Iterator[Service]:
    service = Service(make_pond(), tmp_path)
    yield service
    service.close()


def synced(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def test_what_systemd_is_told(service: Service) -> None:
    """Ready when a stat works; fed while all is well; stopping, with time asked for; 0."""
    service.start()
    assert is_mounted(service.pond.mnt)
    os.stat(service.pond.mnt)
    service.wait_for("^WATCHDOG=1$", 3)
    synced(service.pond.mnt / "kept", b"synced")
    (service.pond.mnt / "pending").write_bytes(b"not synced")
    service.wait_for(r"^STATUS=version \d+")
    service.send(signal.SIGTERM)
    assert service.wait() == 0, service.output()
    words = service.heard()
    assert "STOPPING=1" in words
    assert [word for word in words if word.startswith("EXTEND_TIMEOUT_USEC=")]
    assert words.index("READY=1") < words.index("WATCHDOG=1") < words.index("STOPPING=1")
    assert not is_mounted(service.pond.mnt)
    service.start()
    assert (service.pond.mnt / "kept").read_bytes() == b"synced"
    assert (service.pond.mnt / "pending").read_bytes() == b"not synced"


def test_a_service_manager_that_does_not_listen_holds_up_nobody(service: Service) -> None:
    """Its socket's queue was full, and the daemon waited in the middle of serving."""
    service.start()
    limit = int(Path("/proc/sys/net/unix/max_dgram_qlen").read_text())
    time.sleep((limit + 10) * WATCHDOG_S / 3)
    synced(service.pond.mnt / "kept", b"synced")
    assert service.pond.status()["version"] >= 2
    assert len(service.heard()) > limit
    service.wait_for("^WATCHDOG=1$", 1)


def test_a_child_of_the_daemon_does_not_speak_for_it(service: Service) -> None:
    service.start()
    assert service.process is not None
    environ = Path(f"/proc/{service.process.pid}/environ").read_bytes()
    assert b"NOTIFY_SOCKET" in environ  # what it was started with; not what it starts others with
    run([command("pond"), "--pond", str(service.pond.store), "compact"], env=service.pond.env)
    assert service.heard().count("READY=1") == 1


@pytest.mark.allow_log("whose daemon is gone", "set aside")
def test_a_crash(service: Service) -> None:
    """Nobody sees an empty directory; the next start clears it away and has all that was synced."""
    service.start()
    synced(service.pond.mnt / "kept", b"synced")
    service.send(signal.SIGKILL)
    service.wait()
    assert is_dead(service.pond.mnt)
    with pytest.raises(OSError, match="not connected"):
        os.listdir(service.pond.mnt)
    service.start()
    assert (service.pond.mnt / "kept").read_bytes() == b"synced"
    assert "whose daemon is gone" in service.output()
    assert [entry.mnt for entry in mounts()].count(service.pond.mnt) == 1


def test_a_program_in_the_dead_mount_does_not_keep_the_new_one_out(service: Service) -> None:
    service.start()
    synced(service.pond.mnt / "kept", b"synced")
    held = os.open(service.pond.mnt / "kept", os.O_RDONLY)
    service.send(signal.SIGKILL)
    service.wait()
    service.start()
    assert (service.pond.mnt / "kept").read_bytes() == b"synced"
    with pytest.raises(OSError, match=r"not connected|aborted"):
        os.fstat(held)
    os.close(held)


def test_a_mount_that_lives_is_left_alone(service: Service) -> None:
    service.start()
    second = run([command("pond"), "serve", str(service.file)], check=False, env=service.pond.env)
    assert second.returncode == 32
    assert "is mounted on" in second.stderr
    assert (service.pond.mnt / ".pond" / "status").exists()


def commit_s(service: Service) -> float:
    return float(service.pond.status()["options"]["commit_s"])


@pytest.mark.allow_log("nothing is changed", "takes a restart")
def test_a_reload_takes_up_what_it_can(service: Service) -> None:
    service.configure("commit=300")
    service.start()
    (service.pond.mnt / "pending").write_bytes(b"x")
    assert commit_s(service) == 300
    assert service.pond.status()["pending_nodes"]
    service.configure("commit=0.2", "max_pending=2M", "cache=3M", "log=debug", "xattr")
    service.send(signal.SIGHUP)
    service.wait_for("^RELOADING=1$")
    service.wait_for("^MONOTONIC_USEC=")
    service.wait_for("^READY=1$", 2)
    assert commit_s(service) == 0.2
    assert service.pond.status()["options"]["max_pending_bytes"] == 2 << 20
    wait_until(lambda: not service.pond.status()["pending_nodes"], "it is committed sooner")
    assert "xattr changed, which takes a restart" in service.output()
    service.configure("commit=soon")
    service.send(signal.SIGHUP)
    service.wait_for("^READY=1$", 3)
    assert commit_s(service) == 0.2
    assert "nothing is changed" in service.output()
    service.file.unlink()
    service.send(signal.SIGHUP)
    service.wait_for("^READY=1$", 4)
    assert commit_s(service) == 0.2


def test_unmounted_by_hand_it_ends_well(service: Service) -> None:
    """So that `Restart=on-failure` leaves it unmounted."""
    service.start()
    (service.pond.mnt / "pending").write_bytes(b"x")
    service.pond.umount()
    assert service.wait() == 0


@pytest.mark.parametrize(
    ("text", "code", "says"),
    [
        ("store = 1\n", 1, "expected `str`"),
        ('store = "/etc/hosts"\nmountpoint = "/proc/nowhere"\n', 32, "cannot make"),
        ('store = "/etc/hosts"\nmountpoint = "{mnt}"\n', None, "/etc/hosts"),
        (
            'store = "{store}"\nmountpoint = "{mnt}"\n[resources]\noom_score_adjust = 2000\n',
            1,
            "oom_score_adjust",
        ),
    ],
)
def test_what_cannot_be_served_is_told_in_a_line(
    service: Service, text: str, code: int | None, says: str
) -> None:
    service.file.write_text(
        text.replace("{mnt}", str(service.pond.mnt)).replace("{store}", str(service.pond.store))
    )
    ended = run([command("pond"), "serve", str(service.file)], check=False, env=service.pond.env)
    assert ended.returncode != 0
    assert ended.returncode == (code or ended.returncode)
    assert says in ended.stderr
    assert "Traceback" not in ended.stderr
    assert ended.stderr.count("\n") == 1


def test_resources_are_taken(service: Service) -> None:
    service.configure(more="[resources]\nnice = 7\noom_score_adjust = 300\nopen_files = 2048\n")
    service.start()
    assert service.process is not None
    proc = Path(f"/proc/{service.process.pid}")
    assert os.getpriority(os.PRIO_PROCESS, service.process.pid) == 7
    assert (proc / "oom_score_adj").read_text().strip() == "300"
    limits = (proc / "limits").read_text()
    assert re.search(r"Max open files\s+2048\s+2048", limits), limits


def maintain(service: Service, *args: str) -> subprocess.CompletedProcess[str]:
    return run([command("pond"), "maintain", str(service.file), *args], env=service.pond.env)


def test_maintenance_beside_the_mount(service: Service) -> None:
    service.configure(more="[maintain]\nkeep_last = 3\n")
    service.start()
    for number in range(6):
        synced(service.pond.mnt / "log", b"%d" % number)
    trial = maintain(service, "--dry-run")
    assert "==> pond prune --keep-last 3 --dry-run" in trial.stdout
    assert len(service.pond.log()) >= 6
    done = maintain(service)
    assert "==> pond compact" in done.stdout
    assert "==> pond check" in done.stdout
    assert len(service.pond.log()) == 3
    assert (service.pond.mnt / "log").read_bytes() == b"5"
