"""Replies with bytes behind them."""

import errno
import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from pondfs.control import server
from pondfs.control.client import Client
from pondfs.control.server import Stream
from pondfs.errors import DaemonGone, DaemonRefused
from tests.unit.fake_daemon import Daemon, StartDaemon

PIECES = [b"first\n", b'{"id":1}\n' * 40_000, bytes(range(256))]


class Told:
    """A handler that streams; counts how often it was closed."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self.pieces = pieces
        self.closed = threading.Event()

    async def __call__(self, request: dict[str, Any]) -> Any:
        assert not self.closed.is_set()
        return Stream({"version": 7}, self.pieces, self.closed.set)


async def echo(request: dict[str, Any]) -> dict[str, Any]:
    return {"got": request["x"]}


def test_pieces_arrive_whole_and_requests_go_on(start_daemon: StartDaemon) -> None:
    told = Told(iter(PIECES))
    with Client(start_daemon(told=told, echo=echo).path) as client:
        reply, data = client.call_table("told")
        assert reply["version"] == 7
        assert data == b"".join(PIECES)
        assert told.closed.wait(5)
        assert client.call("echo", x=1)["got"] == 1


def test_nothing_at_all(start_daemon: StartDaemon) -> None:
    with Client(start_daemon(told=Told(iter(()))).path) as client:
        assert client.call_table("told")[1] == b""


def test_an_error_on_the_way_is_told(start_daemon: StartDaemon) -> None:
    def pieces() -> Iterator[bytes]:
        yield b"some"
        raise OSError(errno.EIO, "the disk is tired")

    told = Told(pieces())
    with Client(start_daemon(told=told, echo=echo).path) as client:
        with pytest.raises(DaemonRefused, match="the disk is tired"):
            client.call_table("told")
        assert told.closed.wait(5)
        assert client.call("echo", x=1)["got"] == 1


def test_a_refusal_is_told_before_any_bytes(start_daemon: StartDaemon) -> None:
    async def refuse(_: dict[str, Any]) -> dict[str, Any]:
        raise PermissionError(errno.EPERM, "not for you")

    with (
        Client(start_daemon(told=refuse).path) as client,
        pytest.raises(DaemonRefused, match="not for you"),
    ):
        client.call_table("told")


def test_a_daemon_that_dies_in_between(start_daemon: StartDaemon) -> None:
    goes_on = threading.Event()

    def pieces() -> Iterator[bytes]:
        yield b"some"
        assert goes_on.wait(10)
        yield b"never"

    daemon: Daemon = start_daemon(told=Told(pieces()))
    stopper = threading.Thread(target=daemon.stop)
    with Client(daemon.path) as client:
        threading.Timer(0.2, stopper.start).start()
        threading.Timer(0.4, goes_on.set).start()
        with pytest.raises(DaemonGone):
            client.call_table("told", timeout_s=10)
        stopper.join()


def test_a_client_that_takes_nothing_is_hung_up_on(
    start_daemon: StartDaemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "STREAM_TIMEOUT_S", 0.2)
    told = Told(iter([bytes(8 << 20)] * 100))
    daemon = start_daemon(told=told, echo=echo)
    with socket.socket(socket.AF_UNIX) as lazy:
        lazy.connect(str(daemon.path))
        lazy.sendall(b'{"id":1,"op":"told"}\n')
        assert told.closed.wait(10)
        with Client(daemon.path) as client:
            assert client.call("echo", x=2)["got"] == 2
