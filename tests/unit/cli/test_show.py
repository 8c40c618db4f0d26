"""``pond show`` on a pond that is not mounted: rows of versions, and the paths they are about."""

import json
from pathlib import Path
from typing import Any

import pytest

from pondfs.cli import pond
from pondfs.cli.run import run
from pondfs.cli.show import KEYS
from tests.unit.store.support import DIRECTORY, SYMLINK
from tests.unit.store.test_changes import Life


@pytest.fixture
def life(tmp_path: Path) -> Life:
    """Versions: 2 makes things, 3 moves and links, 4 changes, 5 removes."""
    life = Life(tmp_path)
    tree = life.tree
    tree.make(b"dir", DIRECTORY)
    tree.make(b"dir/file", data=b"content")
    tree.make(b"other", data=b"x")
    tree.make(b"link", SYMLINK, b"dir/file")
    life.commit()
    tree.rename(b"dir", b"moved")
    tree.link(b"moved/file", b"again")
    life.commit()
    tree.write(b"moved/file", b"more content")
    tree.chmod(b"other", 0o600)
    life.commit()
    tree.remove(b"other")
    tree.make(b"odd\n\xff")
    life.commit()
    return life


def show(life: Life, *args: str) -> int:
    return run(pond, "pond", ["--pond", str(life.store.path), "show", *args])


def rows(life: Life, capsys: pytest.CaptureFixture[str], *args: str) -> list[dict[str, Any]]:
    assert show(life, "--json", *args) == 0
    found: list[dict[str, Any]] = json.loads(capsys.readouterr().out)
    return found


def test_rows_have_their_keys_and_paths(life: Life, capsys: pytest.CaptureFixture[str]) -> None:
    found = rows(life, capsys)
    assert {tuple(row) for row in found} == {KEYS}
    assert [row["version"] for row in found] == sorted((r["version"] for r in found), reverse=True)
    assert not any(row["pending"] for row in found)
    told = [(row["version"], row["op"], row["path"], row["file_type"]) for row in found]
    assert (2, "create", "dir/file", "file") in told
    assert (2, "create", "link", "symlink") in told
    assert (3, "rename", "dir", "directory") in told
    assert (3, "rename", "moved", "directory") in told
    assert (3, "link", "again", "file") in told
    assert (4, "update", "other", "file") in told
    assert (5, "unlink", "other", "file") in told
    assert (5, "create", "odd\n\udcff", "file") in told
    assert (1, "create", "", "directory") in told
    removed = [row for row in found if row["removed"] and row["name"] is None]
    assert [(row["version"], row["path"]) for row in removed] == [(5, "other")]


def test_as_many_versions_as_asked_for(life: Life, capsys: pytest.CaptureFixture[str]) -> None:
    def versions(*args: str) -> set[int]:
        return {row["version"] for row in rows(life, capsys, *args)}

    assert versions() == {1, 2, 3, 4, 5}
    assert versions("-n", "2") == {4, 5}
    assert versions("--version", "3") == {3}
    assert versions("--version", "2..4") == {2, 3, 4}
    assert versions("--version", "2..4", "-n", "1") == {4}
    assert versions("--at", "3") == {1, 2, 3}
    assert versions("--at", "3", "-n", "1") == {3}


def test_only_rows_about_a_path(life: Life, capsys: pytest.CaptureFixture[str]) -> None:
    def told(path: str) -> set[tuple[int, str, str]]:
        return {(r["version"], r["op"], r["path"]) for r in rows(life, capsys, path)}

    file = told("moved/file")
    assert {(2, "create", "dir/file"), (3, "link", "again")} <= file
    assert {path for _, _, path in file} <= {"dir/file", "moved/file", "again"}
    assert told("other") == {
        (2, "create", "other"), (2, "update", "other"), (4, "update", "other"),
        (5, "unlink", "other"),
    }  # fmt: skip
    directory = told("moved")
    assert {(3, "rename", "moved"), (3, "rename", "dir"), (2, "create", "dir/file")} <= directory
    assert not any(path in ("other", "link") for _, _, path in directory)
    assert told("/") == {(r["version"], r["op"], r["path"]) for r in rows(life, capsys)}


@pytest.mark.parametrize(
    ("args", "code", "says"),
    [
        (["nowhere"], 11, "nowhere"),
        (["--version", "3", "--at", "2"], 1, "one of them"),
        (["--pending", "--at", "2"], 1, "--pending"),
        (["--version", "4..2"], 1, "earlier version comes first"),
        (["--version", "4.."], 1, "40..42"),
        (["--version", "99"], 10, "99"),
    ],
)
def test_what_is_refused(
    life: Life, capsys: pytest.CaptureFixture[str], args: list[str], code: int, says: str
) -> None:
    assert show(life, *args) == code
    said = capsys.readouterr()
    assert said.out == ""
    assert says in said.err
    assert said.err.count("\n") == 1


def test_for_people(life: Life, capsys: pytest.CaptureFixture[str]) -> None:
    assert show(life, "-n", "2") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("version 5, ")
    assert any(line.split() == ["unlink", "file", "/other"] for line in lines)
    assert any(line.split() == ["gone", "file", "/other"] for line in lines)
    assert any(line.endswith("/odd\\n\\xff") for line in lines)
    assert any(line.split() == ["update", "file", "12", "B", "/again"] for line in lines)


def test_in_brief(life: Life, capsys: pytest.CaptureFixture[str]) -> None:
    assert show(life, "-m", "brief") == 0
    heading, *lines = capsys.readouterr().out.splitlines()
    assert heading.split() == ["VERSION", "TIME", "ROWS", "BYTES", "OPERATIONS", "MESSAGE"]
    assert [line.split()[0] for line in lines] == ["5", "4", "3", "2", "1"]
    assert "12 B" in lines[1]


def test_in_detail(life: Life, capsys: pytest.CaptureFixture[str]) -> None:
    assert show(life, "-m", "detailed", "--version", "4") == 0
    text = capsys.readouterr().out
    assert "12 bytes at 0" in text
    assert "earlier bytes count below 0" in text
    assert "-rw------- 1000:" in text
    assert "node 000000000000000" in text


def test_pending_without_a_mount_is_nothing(life: Life, capsys: pytest.CaptureFixture[str]) -> None:
    assert rows(life, capsys, "--pending") == rows(life, capsys)
