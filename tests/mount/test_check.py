"""`pond check` and `pond repair` on real ponds: the hash of a tree, and a check beside a mount."""

from __future__ import annotations

import os
import random
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from pondfs.options import FSYNCS
from pondfs.store.check import Report, check_store
from tests.campaign import Campaign
from tests.conftest import MakePond
from tests.mount.harness import PondMount, run
from tests.mount.haste import hasten
from tests.mount.test_compact_stress import Model
from tests.unit.store.damage import data_file

TREE_HASH = Path(__file__).parents[2] / "docs" / "reference" / "tree_hash.py"

WHEN_NS = 1_600_000_000_123_456_789


def content(name: str) -> bytes:
    return (name.encode() * 1000)[: 5000 + len(name)]


def make_files(top: Path, names: list[str]) -> None:
    for name in names:
        path = top / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content(name))


def finish(top: Path) -> None:
    """Give all of it the same owners, modes and times, however it came to be."""
    for directory, _, names in os.walk(top, topdown=False):
        for path in (*(os.path.join(directory, name) for name in names), directory):
            os.chown(path, 1001, 1002, follow_symlinks=False)
            if not os.path.islink(path):
                os.chmod(path, 0o750 if os.path.isdir(path) else 0o640)
            os.utime(path, ns=(1, WHEN_NS + os.path.isdir(path)), follow_symlinks=False)


def one_way(top: Path) -> None:
    make_files(top, ["d/a", "d/deep/b", "c", "a-b", "a.b"])
    (top / "empty").mkdir()
    os.link(top / "c", top / "d" / "linked")
    os.link(top / "c", top / "also")
    (top / "to").symlink_to("d/a")
    os.mkfifo(top / "fifo")
    with open(top / "sparse", "wb") as file:
        file.truncate(3_000_000)
        file.seek(1_000_000)
        file.write(b"island")
    os.setxattr(top / "d" / "a", "user.colour", b"blue\0green")
    os.setxattr(top / "d", "user.b", b"2")
    os.setxattr(top / "d", "user.a", b"1")
    (top / os.fsdecode(b"not \xff text")).write_bytes(b"odd")
    finish(top)


def other_way(top: Path, pond: PondMount) -> None:
    """The same in another order, over detours, by many commits."""
    (top / os.fsdecode(b"not \xff text")).write_bytes(b"odd")
    (top / "empty").mkdir()
    (top / "sparse").write_bytes(bytes(1_000_000) + b"island" + bytes(1_999_994))
    make_files(top, ["also", "wrong"])
    pond.commit()
    (top / "d").mkdir()
    os.setxattr(top / "d", "user.a", b"1")
    os.setxattr(top / "d", "user.b", b"2")
    (top / "also").write_bytes(content("c"))
    os.link(top / "also", top / "d" / "linked")
    os.link(top / "d" / "linked", top / "c")
    (top / "wrong").rename(top / "a.b")
    (top / "a.b").write_bytes(content("a.b")[:100])
    pond.commit()
    with open(top / "a.b", "ab") as file:
        file.write(content("a.b")[100:])
    make_files(top, ["a-b", "gone", "d/deep/b"])
    pond.commit()
    (top / "gone").unlink()
    (top / "to").symlink_to("d/a")
    os.mkfifo(top / "fifo")
    make_files(top, ["d/a"])
    os.setxattr(top / "d" / "a", "user.colour", b"blue\0green")
    finish(top)
    pond.commit()
    pond.pond("compact")


def hash_of(pond: PondMount) -> str:
    pond.commit()
    report = check_store(pond.store, data=True)
    assert report.findings == ()
    return report.tree_hash


def test_equal_trees_have_one_hash(make_pond: MakePond, tmp_path: Path) -> None:
    one, other, copy = (make_pond(name).mount("xattr") for name in ("one", "other", "copy"))
    one_way(one.mnt)
    other_way(other.mnt, other)
    expected = hash_of(one)
    assert hash_of(other) == expected
    # By another program, of the mount and of a plain copy.
    plain = tmp_path / "plain"
    command = [sys.executable, os.fspath(TREE_HASH)]
    for top in (one.mnt, other.mnt):
        assert run([*command, os.fspath(top)]).stdout.strip() == expected
    for target in (plain, copy.mnt):
        run(["rsync", "-aHAX", f"{one.mnt}/", f"{target}/"])
    assert run([*command, os.fspath(plain)]).stdout.strip() == expected
    assert hash_of(copy) == expected
    # Anything else is another.
    seen = {expected}
    changes: list[Callable[[Path], object]] = [
        lambda top: os.chmod(top / "c", 0o600),
        lambda top: os.chown(top / "c", 5, 5),
        lambda top: os.utime(top / "c", ns=(1, 1)),
        lambda top: os.setxattr(top / "c", "user.x", b""),
        lambda top: (top / "to").unlink(),
        lambda top: os.truncate(top / "sparse", 3_000_001),
        lambda top: (top / "also").unlink(),
        lambda top: (top / "empty").rename(top / "Empty"),
    ]
    for change in changes:
        change(copy.mnt)
        seen.add(hash_of(copy))
    assert len(seen) == 1 + len(changes)


@pytest.mark.campaign
@pytest.mark.parametrize("fsync", FSYNCS)
def test_beside_a_mount_that_is_changed(
    make_pond: MakePond, tmp_path: Path, fsync: str, campaign: Campaign
) -> None:
    """A writer commits, compacts and prunes all the time: every look finds a sound pond."""
    pond = make_pond()
    hasten(pond, tmp_path)
    pond.mount("commit=1", f"fsync={fsync}")
    for number in range(3):
        (pond.mnt / f"d{number}").mkdir()
    model = Model(pond.mnt, random.Random(3))
    stop = threading.Event()
    reports: list[Report] = []
    errors: list[BaseException] = []

    def look() -> None:
        try:
            while not stop.is_set():
                reports.append(check_store(pond.store, data=len(reports) % 2 == 0))
        except BaseException as error:
            errors.append(error)

    looker = threading.Thread(target=look)
    looker.start()
    rounds = campaign.rounds(suite=2, long=200)
    number = 0
    try:
        # At different versions, as a busy machine may let one side run alone for a while.
        while not errors and (number < rounds or len({r.version for r in reports}) < 4):
            for _ in range(20):
                model.step()
                model.commit()
            pond.pond("compact")
            pond.pond("prune", "--keep-last", "15")
            number += 1
    finally:
        stop.set()
        looker.join()
    assert not errors
    assert [report.findings for report in reports if report.findings] == []
    pond.umount()
    assert check_store(pond.store, data=True).findings == ()
    campaign.tell(
        f"checks beside a writer, fsync={fsync}", rounds=number, faults=0, losses=0,
        note=f"{len(reports)} checks",
    )  # fmt: skip


def test_the_commands(pond_unmounted: PondMount) -> None:
    pond = pond_unmounted.mount("commit=3600")
    (pond.mnt / "file").write_text("text")
    (pond.mnt / "synced").write_text("in the journal")
    fd = os.open(pond.mnt / "synced", os.O_RDWR)
    os.fsync(fd)
    os.close(fd)
    done = pond.pond("check")
    assert done.stdout.startswith("clean: 2 versions, ")
    assert "--data" in done.stderr
    done = pond.pond("check", "--data", os.fspath(pond.mnt))
    assert "tree at version 2: " in done.stdout
    # A mounted pond is not mended; looking is allowed.
    done = pond.pond("repair", check=False)
    assert (done.returncode, done.stdout) == (0, "clean: there is nothing to mend\n")
    pond.umount()
    entry = sorted((pond.store / "_delta_log").glob("*.json"))[-1]
    whole = entry.read_bytes()
    entry.write_bytes(whole[:-30])
    done = pond.pond("check", check=False)
    assert done.returncode == 13
    assert done.stdout.startswith("log-head: ")
    assert "pond repair" in done.stderr
    dry = pond.pond("repair", "-n")
    assert dry.stdout.startswith("would set the newest log entry aside\n")
    assert entry.read_bytes() != whole
    done = pond.pond("repair")
    assert "set the newest log entry aside" in done.stdout
    assert "clean: " in done.stdout
    pond.mount()
    (pond.mnt / "again").mkdir()
    pond.umount()
    file = data_file(pond.store, 1)
    file.unlink()
    for verb in ("check", "repair"):
        done = pond.pond(verb, check=False)
        assert done.returncode == 14, done
        assert os.fspath(file) in done.stdout
        assert "backup" in done.stderr
