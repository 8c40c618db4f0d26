"""The control protocol, by clients that are broken, hostile, slow or gone.

Against a real daemon over its real socket: it stays, it answers others, what it refuses changes
nothing, and its log has nothing to complain about (the fixture looks).
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pondfs.control.protocol import MAX_LINE_BYTES, find_sockets
from pondfs.control.server import MAX_CONNECTIONS
from tests.campaign import Campaign
from tests.crash.journal import snapshot
from tests.fuzz.settings import fuzzing
from tests.mount.harness import PondMount

OPS = {
    "status": ["whole"],
    "commit": ["message", "for"],
    "publish": [],
    "log": ["limit"],
    "tags": [],
    "resolve": ["at"],
    "tag": ["name", "at", "delete"],
    "restore": ["paths", "at", "to", "dry_run"],
    "undo": ["at", "force", "dry_run"],
    "prune": ["request"],
    "apply": ["base", "files", "message"],
    "pending": [],
    "operations": ["path"],
    "changes": ["old", "new", "path", "light"],
    "history": ["path"],
    "touching": ["path"],
}

HOSTILE_TEXTS = [
    "", ".", "..", "/", "//", "../../etc/passwd", "a/../../b", "a\0b", "\0", "\udcff", "\ud800",
    "x" * 300, "/".join(["d"] * 3000), "a", "dir", "dir/b", "dir/new", ".pond", ".pond/at/1",
    "1", "v2", "latest", "yesterday", "@0", "@99999999999", "9" * 18, "0s-ago", "999999999w-ago",
    "0000", "9999-12-31T235959.999999999-2359", "\x1b[31m", "lock", "../pond/_pond/lock", "rows",
    "00000000-0000-4000-8000-000000000001.parquet", "é́", "{", "null", "m" * 70000,
]  # fmt: skip

SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.integers(-3, 5),
    st.floats(),
    st.sampled_from(HOSTILE_TEXTS),
    st.text(max_size=30),
)

VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=8,
)

ONE_OF_OURS = st.sampled_from(sorted(OPS)).flatmap(
    lambda op: st.fixed_dictionaries(
        {"op": st.just(op)}, optional=dict.fromkeys([*OPS[op], "id", "peer"], VALUES)
    )
)
ANYTHING = st.dictionaries(st.sampled_from(["op", "id", *HOSTILE_TEXTS]), VALUES, max_size=4)
MESSAGES = st.one_of(ONE_OF_OURS, ONE_OF_OURS, ONE_OF_OURS, ANYTHING)
"""Requests that are JSON: NaN and lone surrogates included, as json.dumps and peers make them."""

DEEP = [b"[" * depth + b"]" * depth for depth in (100, 100_000)] + [b'{"a":' * 50_000]

LINES = st.one_of(
    MESSAGES.map(lambda message: json.dumps(message).encode()),
    st.binary(max_size=200).map(lambda data: data.replace(b"\n", b" ")),
    st.tuples(MESSAGES, st.floats(0, 1)).map(
        lambda cut: (line := json.dumps(cut[0]).encode())[: int(len(line) * cut[1])]
    ),
    st.sampled_from(DEEP),
    st.sampled_from(
        [b"{}", b"null", b"0", b'""', b"[]", b'{"op":"status","op":"dance"}', b'{"id":1e400}',
         b'{"op":"log","limit":' + b"9" * 5000 + b"}", b"\xff\xfe{\0}\0", b"\xef\xbb\xbf{}"]
    ),
)  # fmt: skip

CHANGING = ("restore", "undo", "apply", "prune")


class RawClient:
    """A client that says what it likes."""

    def __init__(self, path: Path) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        # Not with a timeout: with that, a full listen queue is EAGAIN at once (unix(7)).
        self.socket.connect(os.fspath(path))
        self.socket.settimeout(60)
        self.stream = self.socket.makefile("rb")

    def __enter__(self) -> RawClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.stream.close()
        self.socket.close()

    def read(self) -> dict[str, Any] | None:
        """Return the next message, passing over bytes behind it; None when they hung up."""
        line = self.stream.readline()
        if not line:
            return None
        message: dict[str, Any] = json.loads(line)
        return message

    def ask(self, line: bytes) -> dict[str, Any] | None:
        self.socket.sendall(line + b"\n")
        reply = self.read()
        if reply is not None and reply.get("ok") and "staged" in reply:
            while True:
                piece = self.read()
                assert piece is not None
                if not piece["ok"] or not piece["bytes"]:
                    break
                assert len(self.stream.read(piece["bytes"])) == piece["bytes"]
        return reply


@pytest.fixture
def asked(make_pond: Any) -> tuple[PondMount, Path]:
    """A mounted pond of three versions with something pending, and its socket."""
    pond = make_pond().mount("commit=3600,xattr")
    (pond.mnt / "a").write_bytes(b"one")
    pond.commit()
    (pond.mnt / "dir").mkdir()
    (pond.mnt / "dir" / "b").write_bytes(b"two" * 5000)
    pond.commit()
    (pond.mnt / "a").write_bytes(b"three")
    (path,) = find_sockets(pond.mnt, os.geteuid())
    return pond, path


def rss_bytes(pid: int) -> int:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


@contextlib.contextmanager
def somebody_works(pond: PondMount) -> Iterator[list[int]]:
    """Write, read back and rename files in the mount meanwhile; yields how often that was done."""
    done = [0]
    wrong: list[BaseException] = []
    is_over = threading.Event()
    place = pond.mnt / "work"
    place.mkdir()

    def work() -> None:
        try:
            while not is_over.wait(0.005):
                data = os.urandom(300)
                (place / "file").write_bytes(data)
                (place / "file").rename(place / "other")
                assert (place / "other").read_bytes() == data
                done[0] += 1
        except BaseException as error:
            wrong.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield done
    finally:
        is_over.set()
        thread.join()
    assert not wrong, wrong


@pytest.mark.campaign
def test_whatever_is_asked_is_answered(asked: tuple[PondMount, Path], campaign: Campaign) -> None:
    pond, path = asked
    pid = pond.pid
    counts = {"lines": 0, "refused": 0}
    tree = [snapshot(pond.mnt)]

    @fuzzing(campaign, suite=40, long=20_000)
    @given(st.lists(LINES, min_size=1, max_size=6))
    def ask(lines: list[bytes]) -> None:
        changed = False
        with RawClient(path) as client:
            assert "pondfs" in (client.read() or {})
            for line in lines:
                if not line.strip():
                    continue  # no request at all
                reply = client.ask(line)
                assert reply is not None, f"hung up after {line[:200]!r}"
                counts["lines"] += 1
                if reply["ok"]:
                    changed |= json.loads(line)["op"] in CHANGING
                else:
                    assert reply["errno"] > 0
                    assert reply["error"]
                    assert "bug" not in reply["error"]
                    counts["refused"] += 1
        now = snapshot(pond.mnt)
        if changed:
            tree[0] = now
        assert not tree[0].differences(now)

    ask()
    at_first = rss_bytes(pid)
    ask()
    assert rss_bytes(pid) < at_first + (64 << 20)
    assert pond.pid == pid
    assert 0 < counts["refused"] < counts["lines"], "all was refused, or nothing"
    campaign.tell(
        "fuzz: control protocol", rounds=counts["lines"], faults=counts["refused"], losses=0
    )


def hang_all(path: Path, clients: contextlib.ExitStack) -> None:
    """Connect more clients than are served at once, each stuck somewhere else."""
    for at in range(MAX_CONNECTIONS // 2):
        client = clients.enter_context(RawClient(path))
        half = json.dumps({"op": "log", "id": "x" * (at * 100)}).encode()
        client.socket.sendall(half[: len(half) * (at % 5 + 1) // 6])
    # Their answers fill the socket, and nobody takes them.
    for _ in range(MAX_CONNECTIONS):
        client = clients.enter_context(RawClient(path))
        client.socket.setblocking(False)
        with contextlib.suppress(BlockingIOError, BrokenPipeError, ConnectionResetError):
            while True:
                client.socket.send(b'{"op":"status","id":"%s"}\n' % (b"y" * 5000))


@pytest.mark.campaign
def test_clients_that_hang_or_go_stall_nobody(
    asked: tuple[PondMount, Path], campaign: Campaign
) -> None:
    """More of them than are served at once, each stuck somewhere else."""
    pond, path = asked
    pid = pond.pid
    rounds = campaign.rounds(suite=2, long=60)
    with somebody_works(pond) as worked:
        for number in range(rounds):
            with contextlib.ExitStack() as clients:
                hang_all(path, clients)
                for at in range(20):
                    with RawClient(path) as client:
                        client.socket.sendall(b'{"op":"pending"}\n{"op":"log"}\n{"op":"stat')
                        client.socket.recv(1 + at * 40)
                assert "version" in pond.status(), f"round {number}"
        assert pond.pid == pid
        for huge in (
            b"x" * (MAX_LINE_BYTES + 70_000),
            b'{"op":"commit","message":"' + b"m" * (10 << 20),
        ):
            with RawClient(path) as client:
                client.read()
                with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                    client.socket.sendall(huge)
                with contextlib.suppress(ConnectionResetError):
                    refusal = client.read()
                    assert refusal is None or refusal["ok"] is False
        assert "version" in pond.status()
        assert worked[0] > 0
    campaign.tell(
        "fuzz: control clients that hang",
        rounds=rounds,
        faults=rounds * (3 * MAX_CONNECTIONS // 2 + 20),
        losses=0,
    )
