"""``pond diff``, ``pond history`` and the choices of ``pond log``, on a real store."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pondfs.cli import pond
from pondfs.cli.run import run
from tests.unit.fake_daemon import StartDaemon
from tests.unit.store.support import DIRECTORY
from tests.unit.store.test_changes import Life

MountTable = Callable[..., Path]


@pytest.fixture
def store(tmp_path: Path, mount_table: MountTable) -> Path:
    life = Life(tmp_path / "store")
    tree = life.tree
    tree.make(b"d", DIRECTORY)
    tree.make(b"d/a", data=b"one")
    tree.make(b"d/odd\n\xff", data=b"x" * 2048)
    life.commit()
    tree.write(b"d/a", b"three")
    tree.chmod(b"d/a", 0o600, 7)
    tree.rename(b"d/odd\n\xff", b"b")
    life.commit()
    tree.make(b"new", data=b"12")
    life.commit()
    life.store.close()
    return life.path


@pytest.fixture
def say(store: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    def say(*args: str) -> tuple[int, str, str]:
        code = run(pond, "pond", ["--pond", str(store), *args])
        told = capsys.readouterr()
        return code, told.out, told.err

    return say


Say = Callable[..., tuple[int, str, str]]


def test_diff(say: Say) -> None:
    assert say("diff", "2..3") == (
        0,
        "R d/odd\\n\\xff -> b\nM d/a\nm d/a (0644 -> 0600, uid 1000 -> 7)\n",
        "",
    )
    assert say("diff", "2..3", "d/a") == (0, "M d/a\nm d/a (0644 -> 0600, uid 1000 -> 7)\n", "")
    assert say("diff", "3") == (0, "A new\n", "")
    assert say("diff", "3..v3") == (0, "", "")


def test_diff_with_sizes(say: Say) -> None:
    code, out, _ = say("diff", "2", "--stat")
    assert code == 0
    assert out.splitlines() == [
        "R d/odd\\n\\xff -> b",
        "M d/a (3 B -> 5 B)",
        "m d/a (0644 -> 0600, uid 1000 -> 7)",
        "A new (2 B)",
        "1 added, 1 changed, 1 renamed, 1 mode: +4 B",
    ]
    assert say("diff", "4..4", "--stat")[1] == "nothing: +0 B\n"


def test_diff_as_json(say: Say) -> None:
    changes = json.loads(say("diff", "2..latest", "--json")[1])
    assert [change["change"] for change in changes] == ["renamed", "changed", "mode", "added"]
    assert changes[0]["from"] == "d/odd\n\udcff"
    assert changes[1] == {
        "change": "changed",
        "path": "d/a",
        "from": None,
        "type": "file",
        "before": {"mode": 0o644, "uid": 1000, "gid": 100, "size": 3},
        "after": {"mode": 0o600, "uid": 7, "gid": 100, "size": 5},
    }
    assert changes[3]["before"] is None


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        (["diff", "..3"], 1, "pond: '..3' is not A or A..B: see pond diff --help\n"),
        (
            ["diff", "99"],
            10,
            "pond: there is no version 99 (never made, or pruned): see pond log\n",
        ),
        (["diff", "2", "none"], 11, "pond: neither version 2 nor version 4 has '/none'\n"),
        (["diff", "2", "../x"], 1, "leads out of the pond"),
        (["history", "none"], 11, "pond: no version has '/none'"),
        (["history", "d"], 1, "pond: '/d' is a directory"),
        (["log", "none"], 11, "pond: no version has '/none'"),
        (["log", "--since", "soon"], 10, "pond: 'soon' names no version"),
    ],
)
def test_errors_are_one_line(say: Say, args: list[str], code: int, message: str) -> None:
    ended, out, err = say(*args)
    assert (ended, out) == (code, "")
    assert message in err
    assert err.count("\n") == 1


@pytest.mark.parametrize("pending", [0, 2])
def test_now_is_what_the_daemon_says_while_something_pends(
    say: Say,
    store: Path,
    tmp_path: Path,
    mount_table: MountTable,
    start_daemon: StartDaemon,
    monkeypatch: pytest.MonkeyPatch,
    pending: int,
) -> None:
    mnt = tmp_path / "mnt"
    (mnt / "d").mkdir(parents=True)
    asked = []

    async def status(_: dict[str, Any]) -> dict[str, Any]:
        return {"pending_nodes": pending, "pending_entries": 0}

    async def changes(request: dict[str, Any]) -> dict[str, Any]:
        if request["light"]:
            return {"changes": None}  # too much work for a daemon
        asked.append((request["old"], request["new"], request["path"]))
        node = {"mode": 0o644, "uid": 0, "gid": 0, "size": 3}
        change = {"change": "added", "path": "soon", "from": None, "type": "file"}
        return {"changes": [{**change, "before": None, "after": node}]}

    hello: dict[str, Any] = {"mountpoint": str(mnt), "store": str(store)}
    start_daemon(path=mount_table(store, mnt), hello=hello, status=status, changes=changes)
    assert say("diff", "3") == (0, "A soon\n" if pending else "A new\n", "")
    assert asked == ([(3, None, "")] if pending else [])
    assert say("diff", "3..4") == (0, "A new\n", "")
    # Paths into the mount are paths into the pond.
    assert say("diff", "2..3", f"{mnt}/d/a")[1].startswith("M d/a\n")
    monkeypatch.chdir(mnt / "d")
    assert say("diff", "2..3", "a")[1].startswith("M d/a\n")
    assert say("diff", "2..3", "..")[1].startswith("R ")


def test_history(say: Say) -> None:
    head, *lines = say("history", "b")[1].splitlines()
    assert head.split() == "VERSION TIME SIZE WHAT PATH".split()
    assert [line.split()[0] for line in lines] == ["3", "2"]
    assert lines[0].endswith("2.0 KiB  renamed from d/odd\\n\\xff  b")
    events = json.loads(say("history", "/d/a", "--json")[1])
    assert [event.pop("timestamp")[-1] for event in events] == ["Z", "Z"]
    assert events == [
        {"version": 3, "path": "d/a", "size": 5, "what": ["written"], "from": None},
        {"version": 2, "path": "d/a", "size": 3, "what": ["created"], "from": None},
    ]


def versions(say: Say, *args: str) -> list[int]:
    code, out, err = say("log", "--json", *args)
    assert (code, err) == (0, "")
    return [info["version"] for info in json.loads(out)]


def test_log_of_a_path_and_a_span(say: Say) -> None:
    assert versions(say) == [4, 3, 2, 1]
    assert versions(say, "d") == [3, 2]
    assert versions(say, "b", "-n", "1") == [3]
    assert versions(say, "/") == [4, 3, 2, 1]
    assert versions(say, "--since", "2", "--until", "v3") == [3, 2]
    assert versions(say, "--since", "latest") == [4]
    assert versions(say, "--since", "9") == []
    assert versions(say, "--since", "1h-ago") == [4, 3, 2, 1]
    assert versions(say, "--until", "1h-ago") == []
    assert versions(say, "d", "--since", "3") == [3]
