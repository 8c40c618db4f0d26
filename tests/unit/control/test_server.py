import errno
import json
import os
import socket
import stat
import threading
from pathlib import Path
from typing import Any

import pytest
import trio

from pondfs.control import server
from pondfs.control.client import Client
from pondfs.control.protocol import MAX_LINE_BYTES
from pondfs.errors import CommitFailed, DaemonRefused, PondLocked
from tests.unit.fake_daemon import Daemon, StartDaemon


async def echo(request: dict[str, Any]) -> dict[str, Any]:
    return {"got": request}


def connect(daemon: Daemon) -> socket.socket:
    raw = socket.socket(socket.AF_UNIX)
    raw.connect(str(daemon.path))
    raw.settimeout(10)
    return raw


def read_line(raw: socket.socket) -> dict[str, Any]:
    line = b""
    while not line.endswith(b"\n"):
        byte = raw.recv(1)
        assert byte, f"hung up after {line!r}"
        line += byte
    message: dict[str, Any] = json.loads(line)
    return message


def test_only_the_owner_may_connect(start_daemon: StartDaemon) -> None:
    daemon = start_daemon()
    assert stat.S_IMODE(daemon.path.stat().st_mode) == 0o600


def test_somebody_else_is_refused(
    start_daemon: StartDaemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The mode of a socket is one barrier; the kernel's word on who calls is the other."""
    daemon = start_daemon(echo=echo)
    monkeypatch.setattr(server, "_UCRED", _Stranger())
    with connect(daemon) as raw:
        refusal = read_line(raw)
        assert (refusal["ok"], refusal["errno"]) == (False, errno.EPERM)
        assert raw.recv(1) == b""


class _Stranger:
    size = 12

    def unpack(self, _: bytes) -> tuple[int, int, int]:
        return (1, 12345, 12345)


def test_a_request_carries_who_asks(start_daemon: StartDaemon) -> None:
    with Client(start_daemon(echo=echo).path) as client:
        got = client.call("echo", peer="forged", x=[1, "é"])["got"]
    assert got["peer"] == {"uid": os.geteuid(), "pid": os.getpid()}
    assert got["x"] == [1, "é"]


def test_requests_are_answered_in_order_with_their_ids(start_daemon: StartDaemon) -> None:
    with connect(start_daemon(echo=echo)) as raw:
        assert read_line(raw)["pondfs"] == 1
        raw.sendall(b'{"id":"a","op":"echo"}\n\n{"id":[7],"op":"echo"}\n{"id":3,"op"')
        assert read_line(raw)["id"] == "a"
        assert read_line(raw)["id"] == [7]
        raw.sendall(b':"echo"}\n')
        assert read_line(raw)["id"] == 3


@pytest.mark.parametrize(
    ("line", "number"),
    [
        (b"rubbish", errno.EPROTO),
        (b"\x00\xff\xfe", errno.EPROTO),
        (b"[1,2]", errno.EPROTO),
        (b"[" * 60_000, errno.EPROTO),
        (b"{}", errno.EOPNOTSUPP),
        (b'{"op":"explode"}', errno.EOPNOTSUPP),
        (b'{"op":["echo"]}', errno.EOPNOTSUPP),
    ],
)
def test_bad_input_is_answered_and_the_next_request_served(
    start_daemon: StartDaemon, line: bytes, number: int
) -> None:
    with connect(start_daemon(echo=echo)) as raw:
        read_line(raw)
        raw.sendall(line + b'\n{"id":2,"op":"echo"}\n')
        refusal = read_line(raw)
        assert (refusal["ok"], refusal["errno"]) == (False, number)
        assert read_line(raw)["ok"]


def test_a_line_without_end_is_hung_up_on(start_daemon: StartDaemon) -> None:
    daemon = start_daemon(echo=echo)
    with connect(daemon) as raw:
        read_line(raw)
        raw.sendall(b"x" * (MAX_LINE_BYTES + 1))
        assert read_line(raw)["errno"] == errno.EMSGSIZE
        # Hung up, with some of what we sent unread: the kernel says so by a reset.
        try:
            assert raw.recv(1) == b""
        except ConnectionResetError:
            pass
    with Client(daemon.path) as client:
        assert client.call("echo")["ok"]


def test_what_a_handler_raises_becomes_the_reply(
    start_daemon: StartDaemon, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "MAX_REPLY_BYTES", MAX_LINE_BYTES)

    async def full(_: dict[str, Any]) -> dict[str, Any]:
        raise CommitFailed("the store's disk is full", errno.ENOSPC)

    async def broken(_: dict[str, Any]) -> dict[str, Any]:
        raise KeyError("nonsense")

    async def endless(_: dict[str, Any]) -> dict[str, Any]:
        return {"text": "x" * MAX_LINE_BYTES}

    with Client(start_daemon(full=full, broken=broken, endless=endless, echo=echo).path) as client:
        with pytest.raises(DaemonRefused, match="disk is full") as refused:
            client.call("full")
        assert (refused.value.errno, refused.value.exit_code) == (errno.ENOSPC, 8)
        assert not caplog.records
        with pytest.raises(DaemonRefused, match="nonsense") as refused:
            client.call("broken")
        assert refused.value.errno == errno.EIO
        assert "Traceback" in caplog.text
        with pytest.raises(DaemonRefused, match="too long"):
            client.call("endless")
        assert client.call("echo")["ok"]


def test_a_client_that_leaves_early_disturbs_nobody(start_daemon: StartDaemon) -> None:
    daemon = start_daemon(echo=echo)
    for _ in range(100):
        connect(daemon).close()
    with connect(daemon) as raw:
        raw.sendall(b'{"op":"echo"}\n' * 1000)
    with Client(daemon.path) as client:
        assert client.call("echo")["ok"]


def test_a_slow_request_does_not_hold_up_other_clients(start_daemon: StartDaemon) -> None:
    release = trio.Event()

    async def slow(_: dict[str, Any]) -> dict[str, Any]:
        await release.wait()
        return {}

    async def let_go(_: dict[str, Any]) -> dict[str, Any]:
        release.set()
        return {}

    daemon = start_daemon(slow=slow, let_go=let_go)
    with connect(daemon) as first, Client(daemon.path) as second:
        read_line(first)
        first.sendall(b'{"id":1,"op":"slow"}\n')
        second.call("let_go")
        assert read_line(first)["ok"]


def test_the_socket_of_a_dead_daemon_is_replaced(start_daemon: StartDaemon, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(tmp_path / "control.sock"))
    with Client(start_daemon(echo=echo).path) as client:
        assert client.call("echo")["ok"]


def test_the_socket_of_a_living_daemon_is_not(start_daemon: StartDaemon) -> None:
    daemon = start_daemon(echo=echo)
    with pytest.raises(PondLocked, match="already answers"):
        start_daemon()
    with Client(daemon.path) as client:
        assert client.call("echo")["ok"]


def test_at_the_end_clients_hear_how_it_went(start_daemon: StartDaemon) -> None:
    daemon = start_daemon(farewell=lambda: {"ok": False, "error": "disk full", "errno": 28})
    with connect(daemon) as raw:
        read_line(raw)
        daemon.stop()
        assert read_line(raw) == {"farewell": True, "ok": False, "error": "disk full", "errno": 28}
        assert raw.recv(1) == b""
    assert not daemon.path.exists()
    assert daemon.failed is None


def test_a_successors_socket_is_left_alone(start_daemon: StartDaemon) -> None:
    daemon = start_daemon()
    daemon.path.unlink()
    daemon.path.touch()
    daemon.stop()
    assert daemon.path.exists()


def test_a_client_that_does_not_read_does_not_hold_up_the_end(
    start_daemon: StartDaemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "FAREWELL_TIMEOUT_S", 0.05)

    async def big(_: dict[str, Any]) -> dict[str, Any]:
        return {"text": "x" * (MAX_LINE_BYTES // 2)}

    daemon = start_daemon(big=big)
    with connect(daemon) as raw:
        raw.sendall(b'{"op":"big"}\n' * 50)
        daemon.stop()
    assert daemon.failed is None


def test_a_request_that_just_came_is_not_given_up_to_make_room(
    start_daemon: StartDaemon, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """It and a client too many come in one tick: in half of the cases its handler was cancelled."""
    monkeypatch.setattr(server, "MAX_CONNECTIONS", 2)
    monkeypatch.setattr(server, "HANG_UP_S", 0.01)
    began, go_on, ended = threading.Event(), threading.Event(), threading.Event()
    cancelled = 0

    async def stall(_: dict[str, Any]) -> dict[str, Any]:
        began.set()
        assert go_on.wait(10)  # the whole thread of trio: what comes meanwhile comes at once
        return {}

    async def work(_: dict[str, Any]) -> dict[str, Any]:
        nonlocal cancelled
        try:
            await trio.lowlevel.checkpoint()
        except trio.Cancelled:
            cancelled += 1
            raise
        finally:
            ended.set()
        return {}

    for number in range(12):
        daemon = start_daemon(path=tmp_path / f"{number}.sock", stall=stall, work=work)
        for event in (began, go_on, ended):
            event.clear()
        with connect(daemon) as silent, connect(daemon) as busy:
            read_line(silent)
            read_line(busy)
            busy.sendall(b'{"op":"stall"}\n')
            assert began.wait(10)
            silent.sendall(b'{"op":"work"}\n')
            with connect(daemon) as one_too_many:
                go_on.set()
                assert ended.wait(10)
                read_line(one_too_many)
        daemon.stop()
    assert cancelled == 0


def test_another_goes_where_the_one_that_should_has_work(
    start_daemon: StartDaemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All are being answered when one too many comes; it gets in as soon as one is silent."""
    monkeypatch.setattr(server, "MAX_CONNECTIONS", 2)
    monkeypatch.setattr(server, "HANG_UP_S", 0.01)
    began, go_on = threading.Semaphore(0), trio.Event()

    async def work(_: dict[str, Any]) -> dict[str, Any]:
        began.release()
        await go_on.wait()
        return {}

    async def let_go(_: dict[str, Any]) -> dict[str, Any]:
        go_on.set()
        return {}

    daemon = start_daemon(work=work, let_go=let_go)
    with connect(daemon) as first, connect(daemon) as second:
        for busy in (first, second):
            read_line(busy)
            busy.sendall(b'{"op":"work"}\n{"op":"let_go"}\\n')
            assert began.acquire(timeout=10)
        with connect(daemon) as third:
            third.settimeout(0.2)
            with pytest.raises(TimeoutError):
                third.recv(1)
            daemon.soon(go_on.set)
            third.settimeout(10)
            assert read_line(third)["pondfs"] == 1
