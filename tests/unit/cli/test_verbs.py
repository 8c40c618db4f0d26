import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from pondfs import __version__
from pondfs.cli import log, pond
from pondfs.cli.reach import Place
from pondfs.cli.run import run
from pondfs.cli.status import KEYS
from pondfs.node import Version
from pondfs.oplog import VersionInfo
from tests.unit.fake_daemon import StartDaemon

MountTable = Callable[..., Path]

INFO = VersionInfo(
    version=Version(3),
    timestamp=datetime(2026, 6, 20, 12, 0, 0, 1, UTC),
    message="harvest [bold]é",
    user="ann",
    host="field",
    operations=12,
    bytes_added=5000,
    nodes_created=1200,
    nodes_changed=0,
    nodes_removed=1,
)

STATUS = {
    "version": 42,
    "pending_nodes": 3,
    "pending_entries": 2,
    "pending_bytes": 5000,
    "pending_age_s": 1.5,
    "last_commit": {
        "version": 42,
        "timestamp": 1781956800.000001,
        "duration_ms": 4.2,
        "bytes": 100,
        "rows": 7,
    },
    "last_error": None,
    "nodes": 1234,
    "rss_bytes": 80 << 20,
    "options": {"commit_s": 5.0},
    "read_only": False,
    "something_newer": 1,
}


@pytest.fixture
def mounted(tmp_path: Path, mount_table: MountTable, start_daemon: StartDaemon) -> list[Any]:
    """A mounted pond at ``tmp_path/mnt``; returns what its daemon was asked."""
    asked: list[Any] = []
    store, mnt = tmp_path / "store", tmp_path / "mnt"
    (store / "_delta_log").mkdir(parents=True)
    mnt.mkdir()

    hello = {"mountpoint": str(mnt), "store": str(store), "pid": 77}

    async def status(_: dict[str, Any]) -> dict[str, Any]:
        return STATUS | hello

    async def commit(request: dict[str, Any]) -> dict[str, Any]:
        asked.append(request)
        if len(asked) > 1:
            return {"version": None, "operations": 0, "bytes": 0, "duration_ms": 0.0}
        return {"version": 43, "operations": 5, "bytes": 2048, "duration_ms": 3.4}

    start_daemon(
        path=mount_table(store, mnt),
        hello=hello,
        status=status,
        commit=commit,
    )
    return asked


def verb(tmp_path: Path, *args: str) -> int:
    return run(pond, "pond", ["--pond", str(tmp_path / "store"), *args])


def test_the_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(pond, "pond", ["--version"]) == 0
    assert capsys.readouterr().out == f"pond, version {__version__}\n"


def test_alone_it_shows_its_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(pond, "pond", []) == 1
    assert "The pond:" in capsys.readouterr().err


def test_an_unknown_verb(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(pond, "pond", ["frobnicate"]) == 1
    assert capsys.readouterr().err == "pond: No such command 'frobnicate': see pond --help\n"


@pytest.mark.parametrize("name", ["init", "status", "log", "diff", "history", "commit", "umount"])
def test_every_verb_has_an_example(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(pond, "pond", [name, "--help"]) == 0
    assert "Example:\n" in capsys.readouterr().out


@pytest.mark.usefixtures("mounted")
def test_status_as_json_has_all_its_keys(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert verb(tmp_path, "status", "--json") == 0
    status = json.loads(capsys.readouterr().out)
    assert tuple(status) == KEYS
    assert status["mounted"] is True
    assert status["mountpoint"] == str(tmp_path / "mnt")
    assert status["pid"] == 77
    assert status["pending_bytes"] == 5000
    assert status["last_commit"]["timestamp"] == "2026-06-20T12:00:00.000001Z"


@pytest.mark.usefixtures("mounted")
def test_status_for_people(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert verb(tmp_path, "status") == 0
    lines = dict(
        line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines() if line.strip()
    )
    assert lines["mounted"] == f"{tmp_path}/mnt (read-write, pid 77)"
    assert lines["version"].startswith("42, ")
    assert lines["version"].endswith(" ago (7 rows, 100 B in 4 ms)")
    assert lines["pending"] == "3 nodes, 2 entries, 4.9 KiB, for 1.5 s"
    assert lines["nodes"] == "1,234"
    assert lines["memory"] == "80.0 MiB"


def test_a_commit_says_what_it_did(
    mounted: list[Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert verb(tmp_path, "commit", "-m", "first") == 0
    assert capsys.readouterr().out == "version 43: 5 operations, 2.0 KiB in 3 ms\n"
    assert mounted[0]["message"] == "first"
    assert verb(tmp_path, "commit") == 0
    assert capsys.readouterr().out == "nothing pending\n"
    assert verb(tmp_path, "commit", "--json") == 0
    assert json.loads(capsys.readouterr().out) == {
        "version": None,
        "operations": 0,
        "bytes": 0,
        "duration_ms": 0.0,
    }


def test_a_commit_of_an_unmounted_pond(
    tmp_path: Path, mount_table: MountTable, capsys: pytest.CaptureFixture[str]
) -> None:
    assert verb(tmp_path, "commit") == 3
    assert "there is no pond at" in capsys.readouterr().err
    (tmp_path / "store" / "_delta_log").mkdir(parents=True)
    assert verb(tmp_path, "commit") == 0
    assert capsys.readouterr().out == "nothing pending: the pond is not mounted\n"
    assert verb(tmp_path, "commit", "--json") == 0
    assert json.loads(capsys.readouterr().out)["version"] is None


def test_the_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(log, "load_versions", lambda place, limit: [INFO][:limit])
    assert verb(tmp_path, "log", "-n", "1", "--json") == 0
    assert json.loads(capsys.readouterr().out) == [
        {
            "version": 3,
            "timestamp": "2026-06-20T12:00:00.000001Z",
            "message": "harvest [bold]é",
            "user": "ann",
            "host": "field",
            "operations": 12,
            "nodes_created": 1200,
            "nodes_changed": 0,
            "nodes_removed": 1,
            "bytes_added": 5000,
        }
    ]
    assert verb(tmp_path, "log") == 0
    head, line = capsys.readouterr().out.splitlines()
    assert head.split() == "VERSION TIME WHO CREATED CHANGED REMOVED ADDED MESSAGE".split()
    assert line.endswith("ann@field    1,200        0        1  4.9 KiB  harvest [bold]é")


def test_log_takes_no_negative_count(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert verb(tmp_path, "log", "-n", "0") == 1
    assert "see pond log --help" in capsys.readouterr().err


def test_a_verbs_own_pond_option_wins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seen: list[Path] = []

    def load(place: Place, limit: int | None) -> list[VersionInfo]:
        seen.append(place.store)
        return []

    monkeypatch.setattr(log, "load_versions", load)
    assert verb(tmp_path, "log", "--pond", "/srv/other", "--json") == 0
    assert seen == [Path("/srv/other")]
