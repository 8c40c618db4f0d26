import errno
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trio

from pondfs.control.client import Client
from pondfs.errors import DaemonGone, NotPermitted
from tests.unit.fake_daemon import StartDaemon


@pytest.fixture
def listener(tmp_path: Path) -> Iterator[socket.socket]:
    """A socket on which nobody answers unless the test does."""
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(tmp_path / "s"))
        bound.listen()
        yield bound


def test_the_greeting_is_read_first(start_daemon: StartDaemon) -> None:
    with Client(start_daemon(hello={"version": 42}).path) as client:
        assert client.hello["version"] == 42
        assert client.mountpoint == Path("/mnt/pond")


def test_nobody_there(tmp_path: Path) -> None:
    with pytest.raises(DaemonGone, match="no daemon answers") as gone:
        Client(tmp_path / "missing")
    assert gone.value.errno == errno.ENOENT
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(tmp_path / "s"))
    with pytest.raises(DaemonGone) as gone:
        Client(tmp_path / "s")
    assert gone.value.errno == errno.ECONNREFUSED


def test_a_deaf_daemon_is_given_up(listener: socket.socket) -> None:
    with pytest.raises(DaemonGone, match="does not answer in time") as gone:
        Client(Path(listener.getsockname()), timeout_s=0.05)
    assert gone.value.errno == errno.ETIMEDOUT


@pytest.mark.parametrize(
    ("greeting", "error", "words"),
    [
        (b'{"pondfs":2}\n', DaemonGone, "same version of pondfs"),
        (b'{"ok":false,"error":"only the owner"}\n', NotPermitted, "only the owner"),
        (b"", DaemonGone, "hung up"),
        (b"x" * 2_000_000, DaemonGone, "something else than messages"),
    ],
)
def test_bad_greetings(
    listener: socket.socket, greeting: bytes, error: type[Exception], words: str
) -> None:
    def greet() -> None:
        connection, _ = listener.accept()
        with connection:
            try:
                connection.sendall(greeting)
            except BrokenPipeError:
                pass

    thread = threading.Thread(target=greet)
    thread.start()
    with pytest.raises(error, match=words):
        Client(Path(listener.getsockname()), timeout_s=10)
    thread.join()


def test_a_late_answer_is_not_taken_for_the_next_one(start_daemon: StartDaemon) -> None:
    release = trio.Event()

    async def slow(_: dict[str, Any]) -> dict[str, Any]:
        await release.wait()
        return {"which": "slow"}

    async def quick(_: dict[str, Any]) -> dict[str, Any]:
        return {"which": "quick"}

    async def let_go(_: dict[str, Any]) -> dict[str, Any]:
        release.set()
        return {}

    daemon = start_daemon(slow=slow, quick=quick, let_go=let_go)
    with Client(daemon.path) as client, Client(daemon.path) as other:
        with pytest.raises(DaemonGone, match="in time"):
            client.call("slow", timeout_s=0.05)
        other.call("let_go")
        assert client.call("quick")["which"] == "quick"


def test_waiting_for_the_end_brings_the_farewell(start_daemon: StartDaemon) -> None:
    # A real process, so that there is a pid to wait for.
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    assert process.stdin is not None
    daemon = start_daemon(
        hello={"pid": process.pid}, farewell=lambda: {"ok": False, "error": "disk full"}
    )
    with Client(daemon.path) as client:
        daemon.stop()
        with pytest.raises(DaemonGone, match=f"pid {process.pid}"):
            client.wait_exit(timeout_s=0.01)
        process.stdin.close()
        farewell = client.wait_exit(timeout_s=10)
    process.wait()
    assert farewell == {"farewell": True, "ok": False, "error": "disk full"}


def test_a_daemon_that_dies_says_no_farewell(start_daemon: StartDaemon) -> None:
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    assert process.stdin is not None
    daemon = start_daemon(hello={"pid": process.pid})
    with Client(daemon.path) as client:
        # What the kernel does to a killed process's sockets.
        client._socket.shutdown(socket.SHUT_RD)
        process.kill()
        assert client.wait_exit(timeout_s=10) is None
    process.wait()
    process.stdin.close()


def test_the_daemon_hangs_up_mid_call(start_daemon: StartDaemon) -> None:
    entered = threading.Event()

    async def forever(_: dict[str, Any]) -> dict[str, Any]:
        entered.set()
        await trio.sleep_forever()

    daemon = start_daemon(forever=forever)

    def stop() -> None:
        entered.wait(10)
        daemon.stop()

    stopper = threading.Thread(target=stop)
    stopper.start()
    with Client(daemon.path) as client, pytest.raises(DaemonGone, match="hung up"):
        client.call("forever", timeout_s=10)
    stopper.join()


def test_importing_the_client_imports_no_trio() -> None:
    code = "import sys, pondfs.control.client; sys.exit('trio' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], env=os.environ, check=False).returncode == 0
