"""``pond find`` and ``pond du``, of a mounted pond and of an unmounted one."""

from __future__ import annotations

import json
import os
import random
import stat
from pathlib import Path
from typing import Any

import pytest

from tests.mount.harness import PondMount

NIGHT = 10**18  # 2001-09-09


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@pytest.fixture(params=["mounted", "unmounted"])
def lived(request: pytest.FixtureRequest, pond_unmounted: PondMount) -> PondMount:
    """A pond of five versions.

    2: makes all; 3: changes, a file that comes and grows; 4: a move, removals; 5: more removals.
    """
    pond = pond_unmounted.mount("commit=3600")
    mnt = pond.mnt
    for name in ("north-2025.csv", "south-2026.csv", "notes.txt"):
        write(mnt / "data" / name, name)
    write(mnt / "data" / "old" / "deep" / "x-y.csv", "12345")
    write(mnt / "doomed" / os.fsdecode(b"odd\xff\n"), "odd")
    write(mnt / "mode", "mode")
    (mnt / "big").write_bytes(b"big" * 1_000_000)
    os.utime(mnt / "big", ns=(NIGHT, NIGHT))
    pond.commit("2")
    write(mnt / "data" / "notes.txt", "changed")
    write(mnt / "short", "lived")
    (mnt / "mode").chmod(0o600)
    write(mnt / "doomed" / "grows", "a")
    pond.commit("3")
    (mnt / "data" / "old").rename(mnt / "older")
    write(mnt / "doomed" / "grows", "abc")
    (mnt / "short").unlink()
    (mnt / "big").unlink()
    pond.commit("4")
    for path in (mnt / "doomed").iterdir():
        path.unlink()
    (mnt / "doomed").rmdir()
    pond.commit("5")
    if request.param == "unmounted":
        pond.umount()
    return pond


def lines(pond: PondMount, *args: str) -> list[str]:
    return pond.pond(*args).stdout.splitlines()


def test_what_came_and_what_changed(lived: PondMount) -> None:
    assert lines(lived, "find", "--created-between", "2..3") == ["doomed/grows", "short"]
    assert lines(lived, "find", "--created-between", "2..latest") == []
    assert lines(lived, "find", "--changed-between", "2..3") == ["data/notes.txt", "mode"]
    assert lines(lived, "find", "data", "--changed-between", "2..5") == ["data/notes.txt"]
    assert lines(lived, "find", "--created-between", "1..2", "--type", "d", "--name", "d*") == [
        "data", "data/old/deep", "doomed",
    ]  # fmt: skip


def test_what_went_by_its_last_version(lived: PondMount) -> None:
    """With the size it had then, which is not the one it had at the first of the two."""
    assert lines(lived, "find", "--deleted-between", "3..5") == [
        "big (2.9 MiB, last in version 3)",
        "short (5 B, last in version 3)",
        "doomed (last in version 4)",
        "doomed/grows (3 B, last in version 4)",
        "doomed/odd\\xff\\n (3 B, last in version 4)",
    ]
    assert lines(lived, "find", "--deleted-between", "2..4", "--larger", "1M") == [
        "big (2.9 MiB, last in version 3)"
    ]
    found = json.loads(
        lived.pond("find", "doomed", "--deleted-between", "2..5", "--json", "--type", "f").stdout
    )
    assert [(one["path"], one["size"], one["version"]) for one in found] == [
        ("doomed/odd\udcff\n", 3, 4)
    ]
    # It can be had from there.
    assert lived.pond("cat", "big", "--at", "3").stdout == "big" * 1_000_000
    assert lines(lived, "find", "--deleted-between", "4..4") == []


def test_times_mean_the_versions_they_mean_elsewhere(lived: PondMount) -> None:
    log = lived.log()
    after = {record["version"]: record["timestamp"] for record in log}
    span = f"{after[3]}..{after[4]}"
    assert lines(lived, "find", "--deleted-between", span, "--name", "short") == [
        "short (5 B, last in version 3)"
    ]


def test_newer_and_older(lived: PondMount) -> None:
    assert lines(lived, "find", "--older", "2002", "--at", "2") == ["big"]
    assert lines(lived, "find", "--newer", "2002", "--type", "f", "--at", "2", "--name", "b*") == []
    newer = set(lines(lived, "find", "--newer", "2", "--at", "3"))
    older = set(lines(lived, "find", "--older", "2", "--at", "3"))
    assert {"short", "data/notes.txt", "doomed/grows"} <= newer
    assert {"big", "mode"} <= older  # a mode is no modification
    assert not newer & older
    assert newer | older == set(lines(lived, "find", "--at", "3"))


def test_templates(lived: PondMount) -> None:
    assert lines(lived, "find", "--name", "*-*.csv", "--format", "$1/$0 $name $size $$") == [
        "2025/north north-2025.csv 14 $",
        "2026/south south-2026.csv 14 $",
        "y/x x-y.csv 5 $",
    ]
    assert lines(
        lived, "find", "--name", "old*/**/?-[xy].csv", "--format", "$0,$1,$2,$3,$path"
    ) == ["er,deep,x,y,older/deep/x-y.csv"]
    assert lines(
        lived, "find", "--deleted-between", "4..5", "--format", "$version $type $path"
    ) == [
        "4 directory doomed",
        "4 file doomed/grows",
        "4 file doomed/odd\\xff\\n",
    ]
    nul = lived.pond("find", "mode", "-0", "--format", "$path is $mtime").stdout
    assert nul.startswith("mode is 2")
    assert nul.endswith("Z\0")


@pytest.mark.parametrize(
    ("args", "error"),
    [
        (["--format", "$nothing"], "there is no $nothing: use $path $name"),
        (["--format", "$0"], "there is no $0: there are 0 wildcards, counted from $0"),
        (["--format", "a $"], "has a $ that stands for nothing: write $$"),
        (["--format", "x", "--json"], "leave -0 and --format out"),
        (["--created-between", "1..2", "--at", "2"], "choose one"),
        (["--created-between", "1..2", "--deleted-between", "1..2"], "choose one"),
        (["--created-between", "1..99"], "there is no version 99"),
        (["--newer", "soon"], "'soon' names no version"),
        (["nowhere", "--deleted-between", "1..2"], "neither version 1 nor version 2 has"),
    ],
)
def test_errors_are_one_line(pond: PondMount, args: list[str], error: str) -> None:
    (pond.mnt / "file").write_text("")
    pond.commit()
    done = pond.pond("find", *args, check=False)
    assert done.returncode != 0
    assert done.stdout == ""
    assert error in done.stderr
    assert done.stderr.count("\n") == 1


# --- du -------------------------------------------------------------------------------------------


def sums(root: Path) -> dict[str, list[int]]:
    """Return what `pond du --json` shall say: bytes, files and directories, by path."""
    found: dict[str, list[int]] = {}
    for top, _, _ in os.walk(root):
        seen: set[int] = set()
        sum_of = found[os.path.relpath(top, root).removeprefix(".")] = [0, 0, 0]
        for below, *_ in os.walk(top):
            sum_of[2] += 1
            entries = [os.lstat(os.path.join(below, name)) for name in os.listdir(below)]
            for info in entries:
                if stat.S_ISDIR(info.st_mode) or info.st_ino in seen:
                    continue
                seen.add(info.st_ino)
                sum_of[0] += info.st_size if stat.S_ISREG(info.st_mode) else 0
                sum_of[1] += 1
    return found


@pytest.fixture(params=["mounted", "unmounted"])
def full(request: pytest.FixtureRequest, pond_unmounted: PondMount) -> tuple[PondMount, Any]:
    """A pond, and what is in it."""
    pond = pond_unmounted.mount("commit=3600")
    mnt, rng = pond.mnt, random.Random(1)
    for number in range(40):
        path = mnt / "abc"[number % 3] / "de"[number % 2] / f"{number}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(rng.randbytes(rng.randrange(5000)))
    os.link(mnt / "a" / "d" / "0", mnt / "a" / "d" / "again")
    (mnt / "a" / "link").symlink_to("d/0")
    with (mnt / "b" / "holes").open("wb") as file:
        file.truncate(1 << 30)
    expected = sums(mnt)
    if request.param == "unmounted":
        pond.umount()
    return pond, expected


def test_du_counts_what_is_there(full: tuple[PondMount, Any]) -> None:
    pond, expected = full
    found = json.loads(pond.pond("du", "--json").stdout)
    assert {
        one["path"]: [one["bytes"], one["files"], one["directories"]] for one in found["paths"]
    } == expected
    assert found["paths"][-1]["path"] == "", "a directory comes after what is in it"
    assert found["paths"][-1]["allocated_bytes"] < 1 << 20
    on_disk = sum(path.lstat().st_size for path in pond.store.rglob("*") if path.is_file())
    assert found["store_bytes"] >= on_disk // 2


def test_du_of_some_paths(full: tuple[PondMount, Any]) -> None:
    pond, _ = full

    def paths(*args: str) -> list[str]:
        return [one["path"] for one in json.loads(pond.pond("du", "--json", *args).stdout)["paths"]]

    assert paths("-s", "a", "c") == ["a", "c"]
    assert paths("-d", "1", "b") == ["b/d", "b/e", "b"]
    assert paths("-d", "1") == ["a", "b", "c", ""]
    assert paths("b/holes") == ["b/holes"]
    assert paths("-s", "[ac]/d") == ["a/d", "c/d"]
    text = pond.pond("du", "-s", "b").stdout.splitlines()
    assert text[0].split() == ["SIZE", "ALLOCATED", "FILES", "PATH"]
    assert text[1].split()[:2] == ["1.0", "GiB"]
    # One of two names of a file counts, in whichever PATH it is first.
    both = json.loads(pond.pond("du", "--json", "a/d/0", "a/d/again").stdout)["paths"]
    assert [one["files"] for one in both] == [1, 0]
    assert pond.pond("du", "nothing", check=False).returncode == 11
    assert pond.pond("du", "-s", "-d", "2", check=False).returncode == 1


def test_du_as_it_was(pond: PondMount) -> None:
    (pond.mnt / "file").write_text("four")
    pond.commit()
    (pond.mnt / "file").write_text("sixsix")
    then, now = (
        json.loads(pond.pond("du", "-s", "/", "--json", *args).stdout)["paths"][0]["bytes"]
        for args in (["--at", "2"], [])
    )
    assert (then, now) == (4, 6)


def by_version(pond: PondMount, *path: str) -> list[tuple[int, int, int]]:
    found = json.loads(pond.pond("du", "--by-version", "--json", *path).stdout)["versions"]
    return [
        (one["bytes_added"], one["stored_bytes"], one["reachable_bytes"]) for one in reversed(found)
    ]


@pytest.mark.parametrize("mounted", [True, False])
def test_what_each_version_added(pond: PondMount, mounted: bool) -> None:
    mnt = pond.mnt
    (mnt / "in" / "deep").mkdir(parents=True)
    page = 4096  # what the kernel writes back at least
    (mnt / "in" / "deep" / "a").write_bytes(b"a" * 10 * page)
    (mnt / "out").write_bytes(b"o" * 100)
    (mnt / "in" / "link").symlink_to("12345")
    pond.commit()
    with (mnt / "in" / "deep" / "a").open("r+b") as file:
        file.seek(page)
        file.write(b"b" * 2 * page)
    pond.commit()
    (mnt / "out").unlink()
    (mnt / "in" / "deep").rename(mnt / "in" / "deeper")
    pond.commit()
    os.truncate(mnt / "in" / "deeper" / "a", 2 * page)
    pond.commit()
    if not mounted:
        pond.umount()
    log = {record["version"]: record["bytes_added"] for record in pond.log()}
    everything = by_version(pond)
    assert [added for added, _, _ in everything] == [log[version] for version in sorted(log)]
    assert [stored for _, stored, _ in everything] == [0, 10 * page + 105, 2 * page, 0, 0]
    assert [reachable for _, _, reachable in everything] == [0, page + 5, page, 0, 0]
    assert by_version(pond, "in") == [
        (0, 0, 0),
        (10 * page + 5, 10 * page + 5, page + 5),
        (2 * page, 2 * page, page),
        (0, 0, 0),
        (0, 0, 0),
    ]  # fmt: skip
    assert by_version(pond, "out")[1] == (100, 100, 0)
    pond.pond("prune", "--keep-last", "1")
    ((_, left, reachable),) = by_version(pond)
    # A row whose content is needed in part is kept whole.
    assert (left, reachable) == (12 * page + 5, 2 * page + 5)
