import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pondfs.cli import pond
from pondfs.cli.run import run
from pondfs.errors import UsageError
from pondfs.store import open_reader
from tests.unit.fake_daemon import StartDaemon
from tests.unit.store.histories import State, states
from tests.unit.store.support import (
    committed,
    data_file_names,
    file_row,
    make_cut,
    new_pond,
    open_pond,
)

MountTable = Callable[..., Path]
VERSIONS = 12


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "store"
    store = new_pond(path)
    for version in range(2, VERSIONS + 1):
        store.commit(make_cut(version, [file_row(version, os.urandom(500), b"%d" % version)]))
    store.close()
    return path


def compact(path: Path, *args: str) -> int:
    return run(pond, "pond", ["--pond", str(path), "compact", *args])


def all_states(path: Path) -> dict[Any, State]:
    store = open_pond(path)
    found = states(store)
    store.close()
    return found


def test_a_dry_run_changes_nothing(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = data_file_names(path)
    assert compact(path, "--dry-run") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("would write 12 data files of 12, ")
    assert lines[0].endswith(" anew: about 1 data file would be left")
    assert lines[1:] == ["dry run: nothing was done"]
    assert compact(path, "-n", "--json") == 0
    assert json.loads(capsys.readouterr().out)["dry_run"] is True
    assert data_file_names(path) == before


def test_it_leaves_one_file_that_says_the_same(
    path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = all_states(path)
    size = sum((path / name).stat().st_size for name in data_file_names(path))
    assert compact(path, "--json") == 0
    report = json.loads(capsys.readouterr().out)
    (name,) = data_file_names(path)
    assert report == {
        "files_before": 12, "files_after": 1, "rewritten_files": 12, "rewritten_bytes": size,
        "written_bytes": (path / name).stat().st_size, "removed_bytes": size, "dry_run": False,
    }  # fmt: skip
    assert all_states(path) == before
    assert compact(path) == 0
    assert capsys.readouterr().out == "nothing to compact: 1 data file\n"
    assert not list((path / "_pond").glob("compact-*"))


def test_a_reader_keeps_the_old_files(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    reader = open_reader(path)
    assert compact(path) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].endswith(": 1 data file is left")
    assert lines[1].startswith("the old ones go when nobody reads the pond any more")
    reader.close()


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
    before = data_file_names(path)

    async def answer(request: dict[str, Any]) -> dict[str, Any]:
        if refuses:
            raise UsageError("not today")
        daemon = open_pond(path)
        daemon.swap_files(request["request"])
        removed = daemon.remove_pruned(now=True)
        daemon.close()
        return {"removed_bytes": removed}

    hello = {"mountpoint": str(mnt), "store": str(path), "pid": 77}
    start_daemon(path=mount_table(path, mnt), hello=hello, prune=answer)
    code = compact(path)
    if refuses:
        assert code != 0
        assert "not today" in capsys.readouterr().err
        assert data_file_names(path) == before
    else:
        assert code == 0
        assert len(data_file_names(path)) == 1
        assert committed(path) == data_file_names(path)
    assert not list((path / "_pond").glob("compact-*"))


def test_it_has_an_example(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(pond, "pond", ["compact", "--help"]) == 0
    assert "Example:\n" in capsys.readouterr().out
