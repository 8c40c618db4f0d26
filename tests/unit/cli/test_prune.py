import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pondfs.cli import pond
from pondfs.cli import prune as command
from pondfs.cli.reach import Place, load_versions
from pondfs.cli.run import run
from pondfs.control.client import Client
from pondfs.errors import DaemonGone, UsageError
from pondfs.extent import Content
from pondfs.node import Version
from pondfs.store import open_reader
from pondfs.store.delta import DeltaStore
from tests.unit.fake_daemon import StartDaemon
from tests.unit.store.support import (
    data_file_names,
    file_row,
    make_cut,
    new_pond,
    open_pond,
    read_file,
    size_row,
)

MountTable = Callable[..., Path]
VERSIONS = 12


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A pond whose every version wrote one file anew."""
    path = tmp_path / "store"
    store = new_pond(path)
    store.commit(make_cut(2, [file_row(10, os.urandom(20_000), b"f")]))
    for version in range(3, VERSIONS + 1):
        row = size_row(10, 20_000, 0)._replace(
            offset=0, content=Content(os.urandom(20_000), 20_000)
        )
        store.commit(make_cut(version, [row], message=f"number {version}"))
    store.put_tag("dear", Version(3))
    store.close()
    return path


def prune(path: Path, *args: str) -> int:
    return run(pond, "pond", ["--pond", str(path), "prune", *args])


def versions(path: Path) -> list[int]:
    reader = open_reader(path)
    found = [int(info.version) for info in reader.list_versions()]
    reader.close()
    return found


def size_on_disk(path: Path) -> int:
    return sum((path / name).stat().st_size for name in data_file_names(path))


def test_a_dry_run_says_what_would_go(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = data_file_names(path)
    assert prune(path, "--keep-last", "2", "-n") == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines[0] == "VERSION TIME KEPT FOR MESSAGE".split()
    assert [(line[0], line[3:]) for line in lines[1:4]] == [
        ("12", ["last", "number", "12"]),
        ("11", ["last", "number", "11"]),
        ("3", ["tag", "dear", "number", "3"]),
    ]
    assert lines[4:6] == [["kept", "3", "versions"], ["forgotten", "9", "versions"]]
    assert lines[6][:2] == ["frees", "about"]
    assert lines[7:] == ["dry run: nothing was done".split()]
    assert versions(path) == list(range(VERSIONS, 0, -1))
    assert data_file_names(path) == before


def test_it_frees_what_it_says(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = size_on_disk(path)
    assert prune(path, "--keep-last", "2", "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert [kept["version"] for kept in report["kept"]] == [3, 11, 12]
    assert report["kept"][0]["reasons"] == ["tag dear"]
    assert report["forgotten"] == [1, 2, *range(4, 11)]
    assert not report["dry_run"]
    freed = before - size_on_disk(path)
    assert freed > 150_000
    assert report["freed_bytes"] == pytest.approx(freed, rel=0.1)
    assert report["estimated_bytes"] == pytest.approx(freed, rel=0.1)
    assert versions(path) == [12, 11, 3]
    assert not list((path / "_pond").glob("prune-*"))

    assert prune(path, "--keep-last", "2") == 0
    assert capsys.readouterr().out == "nothing to forget: all 3 versions are kept\n"
    assert prune(path, "--keep-last", "1") == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith("freed ")


def test_a_reader_keeps_the_space(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    reader = open_reader(path)
    assert prune(path, "--keep-last", "1") == 0
    assert "come back when nobody reads the pond any more" in capsys.readouterr().out
    kept = size_on_disk(path)
    assert prune(path, "--keep-last", "9", "--json") == 0
    assert json.loads(capsys.readouterr().out)["freed_bytes"] == 0
    reader.close()
    assert prune(path, "--keep-last", "9", "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert report["forgotten"] == []
    assert report["freed_bytes"] == kept - size_on_disk(path) > 150_000


def test_what_a_reader_kept_of_a_mounted_pond(
    path: Path,
    tmp_path: Path,
    mount_table: MountTable,
    start_daemon: StartDaemon,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The daemon is asked for it when there is nothing to forget, too."""
    asked: list[Any] = []

    async def answer(request: dict[str, Any]) -> dict[str, Any]:
        asked.append(request.get("request"))
        return {"removed_bytes": 5 << 20}

    mnt = tmp_path / "mnt"
    mnt.mkdir()
    hello = {"mountpoint": str(mnt), "store": str(path), "pid": 77}
    start_daemon(path=mount_table(path, mnt), hello=hello, prune=answer)
    assert prune(path, "--keep-last", "99", "-n") == 0
    assert capsys.readouterr().out.splitlines()[-1] == "dry run: nothing was done"
    assert not asked
    assert prune(path, "--keep-last", "99") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines == [
        "nothing to forget: all 12 versions are kept",
        "freed 5.0 MiB that a reader had kept",
    ]
    assert asked == [None]


def test_commits_while_the_rules_are_asked(
    path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """They were forgotten, and reported neither as kept nor as forgotten."""

    def look_early(place: Place, limit: int | None) -> Any:
        return [info for info in load_versions(place, limit) if info.version <= 10]

    monkeypatch.setattr(command, "load_versions", look_early)
    assert prune(path, "--keep-last", "1", "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert [(kept["version"], kept["reasons"]) for kept in report["kept"]] == [
        (3, ["tag dear"]), (10, ["last"]), (11, ["new"]), (12, ["new"]),
    ]  # fmt: skip
    assert report["forgotten"] == [1, 2, *range(4, 10)]
    assert versions(path) == [12, 11, 10, 3]


@pytest.mark.parametrize("error", [KeyboardInterrupt(), DaemonGone("lost it"), OSError("broken")])
def test_interrupted_while_the_daemon_is_at_it(
    path: Path,
    error: BaseException,
    tmp_path: Path,
    mount_table: MountTable,
    start_daemon: StartDaemon,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Ctrl-C removed the new files, the daemon then put them in the place of the old ones."""
    mnt = tmp_path / "mnt"
    mnt.mkdir()
    hello = {"mountpoint": str(mnt), "store": str(path), "pid": 77}
    start_daemon(path=mount_table(path, mnt), hello=hello)
    asked: list[str] = []

    def call(self: Client, op: str, **fields: Any) -> Any:
        asked.append(fields["request"])
        raise error

    monkeypatch.setattr(Client, "call", call)
    assert prune(path, "--keep-last", "1") != 0
    daemon = open_pond(path)
    daemon.swap_files(asked[0])
    daemon.remove_pruned()
    image = daemon.load_image_at(Version(3))
    assert len(read_file(daemon, image, 10)) == 20_000
    daemon.close()
    assert versions(path) == [12, 3]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ([], "say what to keep"),
        (["--keep-last", "x"], "no number of versions"),
        (["--keep-within", "1w"], "no duration"),
    ],
)
def test_what_makes_no_sense(
    path: Path, args: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert prune(path, *args) == UsageError.exit_code
    assert message in capsys.readouterr().err
    assert len(versions(path)) == VERSIONS


@pytest.mark.parametrize("refuses", [False, True])
def test_the_daemon_of_a_mounted_pond_is_asked(
    path: Path,
    refuses: bool,
    tmp_path: Path,
    mount_table: MountTable,
    start_daemon: StartDaemon,
    capsys: pytest.CaptureFixture[str],
) -> None:
    mnt = tmp_path / "mnt"
    mnt.mkdir()
    asked: list[Any] = []
    before = data_file_names(path)

    async def answer(request: dict[str, Any]) -> dict[str, Any]:
        if refuses:
            raise UsageError("not today")
        asked.append(request["request"])
        daemon: DeltaStore = open_pond(path)
        daemon.swap_files(request["request"])
        removed = daemon.remove_pruned()
        daemon.close()
        return {"removed_bytes": removed}

    hello = {"mountpoint": str(mnt), "store": str(path), "pid": 77}
    start_daemon(path=mount_table(path, mnt), hello=hello, prune=answer)
    code = prune(path, "--keep-last", "1")
    out, err = capsys.readouterr()
    if refuses:
        assert code != 0
        assert "not today" in err
        assert data_file_names(path) == before
    else:
        assert code == 0, err
        assert len(asked) == 1
        assert out.splitlines()[-1].startswith("freed ")
        assert versions(path) == [12, 3]
    assert not list((path / "_pond").glob("prune-*"))


def test_it_has_an_example(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(pond, "pond", ["prune", "--help"]) == 0
    assert "Example:\n" in capsys.readouterr().out
