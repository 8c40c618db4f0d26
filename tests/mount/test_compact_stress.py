"""Compaction all the time, kills, remounts: every version keeps every byte.

The daemon and its worker get thresholds so low that they compact without a pause. A model has what
each version holds; it is compared with what the mount, a follower and the bare store show.
"""

from __future__ import annotations

import json
import os
import random
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pondfs.node import Version
from pondfs.store import open_reader
from pondfs.store.deltalog import read_snapshot
from pondfs.store.tree import StoredTree
from tests.campaign import Campaign
from tests.mount.harness import PondMount, daemons_of, detach, wait_until
from tests.mount.haste import hasten

PATIENCE_S = 120.0

Files = dict[str, bytes]
"""Names and bytes of a tree's files; of a symlink, its target behind an arrow."""


class Model:
    """The mount's files in memory, and what each version had."""

    def __init__(self, mnt: Path, rng: random.Random) -> None:
        self.mnt = mnt
        self.rng = rng
        self.now: Files = {}
        self.pending = False
        # What the next version will hold if the call under way gets that far.
        self.versions: dict[int, Files] = {}
        self.newest = 1

    def step(self) -> None:
        """Change something, then perhaps make a version of it."""
        rng = self.rng
        name = f"d{rng.randrange(3)}/f{rng.randrange(4)}"
        path = self.mnt / name
        if name.endswith("f3") and rng.random() < 0.7:
            return self._link(name)
        if (target := self.now.get(name, b"")).startswith(b"->"):
            path.unlink()
            del self.now[name]
            return None
        data = target
        match rng.randrange(10):
            case 0 if name in self.now:
                path.unlink()
                del self.now[name]
                return None
            case 1 if name in self.now:
                other = f"d{rng.randrange(3)}/f{rng.randrange(3)}"
                os.rename(path, self.mnt / other)
                self.now[other] = self.now.pop(name)
                return None
            case 2:
                size = rng.randrange(60_000)
                with open(path, "ab") as file:
                    file.truncate(size)
                data = data[:size].ljust(size, b"\0")
            case 3 | 4 | 5:
                new = rng.randbytes(rng.randrange(1, 3000))
                with open(path, "ab", buffering=0) as file:
                    file.write(new)
                data += new
            case 6:
                data = rng.randbytes(rng.randrange(90_000))
                if rng.random() < 0.7:  # as most files are, it can be compressed
                    data = b"".join(data[at : at + 20] * 40 for at in range(0, len(data), 800))
                path.write_bytes(data)
            case _:
                at, new = rng.randrange(50_000), rng.randbytes(rng.randrange(1, 9000))
                fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
                os.pwrite(fd, new, at)
                os.close(fd)
                data = data.ljust(at, b"\0")
                data = data[:at] + new + data[at + len(new) :]
        self.now[name] = data
        return None

    def _link(self, name: str) -> None:
        path = self.mnt / name
        if name in self.now:
            path.unlink()
        target = self.rng.randbytes(6).hex()
        path.symlink_to(target)
        self.now[name] = b"->" + target.encode()

    def commit(self) -> None:
        """Make a version: there is something pending for certain."""
        fd = os.open(self.mnt / "mark", os.O_RDWR | os.O_CREAT, 0o644)
        try:
            mark = b"%08d" % (self.newest + 1)
            os.pwrite(fd, mark, 0)
            self.now["mark"] = mark
            # Before it is sure: a kill may come after the commit, before its answer.
            self.versions[self.newest + 1] = dict(self.now)
            os.fsync(fd)
        finally:
            os.close(fd)
        self.newest += 1


def read_tree(top: Path) -> Files:
    found: Files = {}
    for directory in sorted(top.iterdir()):
        if directory.name == "mark":
            found["mark"] = directory.read_bytes()
            continue
        for path in directory.iterdir():
            name = f"{directory.name}/{path.name}"
            is_link = path.is_symlink()
            found[name] = b"->" + os.fsencode(os.readlink(path)) if is_link else path.read_bytes()
    return found


def read_image(store: Path, wanted: list[int]) -> Iterator[tuple[int, Files]]:
    """Read versions as a command does that knows nothing of a mount."""
    opened = open_reader(store)
    try:
        for version in wanted:
            image = opened.load_image_at(Version(version))
            tree = StoredTree(opened, image, lambda text: None)
            found: Files = {}
            for top, about in tree.entries(b""):
                names = [top + b"/" + name for name, _ in tree.entries(top)]
                for path in names or ([top] if about.mode & 0o170000 == 0o100000 else []):
                    at = tree.lstat(path)
                    if at.mode & 0o170000 == 0o120000:
                        data = b"->" + tree.readlink(path)
                    else:
                        whole = bytearray(at.size_bytes)
                        for offset, piece in tree.read(path):
                            whole[offset : offset + len(piece)] = piece
                        data = bytes(whole)
                    found[os.fsdecode(path)] = data
            yield version, found
    finally:
        opened.close()


def differences(found: Files, wanted: Files) -> list[str]:
    return sorted(name for name in {*found, *wanted} if found.get(name) != wanted.get(name))


def assert_is(found: Files, wanted: Files, what: str) -> None:
    assert not (wrong := differences(found, wanted)), f"{what}: {wrong}"


@pytest.fixture
def hasty(
    make_pond: Callable[..., PondMount], tmp_path: Path, pond_env: dict[str, str]
) -> PondMount:
    pond = make_pond()
    hasten(pond, tmp_path)
    pond.run("pond", "init", os.fspath(pond.store))
    return pond


@pytest.mark.campaign
def test_all_bytes_of_all_versions(
    hasty: PondMount, make_pond: Callable[..., PondMount], campaign: Campaign
) -> None:
    seed = 1
    pond, rng = hasty, random.Random(seed)
    model = Model(pond.mnt, rng)
    options = ("commit=3600", "fsync=delta")  # `look` reads the table, beside the daemon
    pond.mount(*options)
    for number in range(3):
        (pond.mnt / f"d{number}").mkdir()
    model.commit()
    follower = make_pond("follower", store=pond.store)
    follower.env = pond.env
    compactions = 0
    kills = 0
    until = time.monotonic() + campaign.rounds(suite=12, long=300)
    # On a busy machine it takes longer until one has ended.
    while time.monotonic() < until or (not compactions and time.monotonic() < until + PATIENCE_S):
        ends = rng.choice(["kill", "kill in the middle", "unmount", "unmount"])
        steps = rng.randrange(30, 250)
        seen = len(pond.daemon_log().splitlines())
        # What came is looked at in the meantime, as other processes do.
        stop, wrong = threading.Event(), list[str]()
        reader = threading.Thread(
            target=look, args=(pond.store, dict(model.versions), random.Random(seed), stop, wrong)
        )
        reader.start()
        if rng.random() < 0.5:
            follower.mount("ro", "follow")
        killer = threading.Timer(rng.random() * 4, os.kill, (pond.pid, 9))
        if ends == "kill in the middle":
            killer.start()
            steps = 10**6
        try:
            for _ in range(steps):
                model.step()
                if rng.random() < 0.6:
                    model.commit()
                if ends != "kill in the middle" and rng.random() < 0.03:
                    glance(pond, model, follower)
        except OSError:
            if ends != "kill in the middle":
                raise
        finally:
            killer.cancel()
            stop.set()
            reader.join()
        assert not wrong, wrong
        compactions += sum(
            "data files with" in line for line in pond.daemon_log().splitlines()[seen:]
        )
        if ends.startswith("kill"):
            kills += 1
            if ends == "kill":
                pond.kill()
            else:
                wait_until(lambda: not daemons_of(pond.mnt), "the daemon is gone")
                detach(pond.mnt)
        else:
            model.versions[model.newest + 1] = dict(model.now)
            pond.umount()
        if follower.is_mounted():
            follower.umount()
        # A cache that a kill left half written is read past, and made anew.
        pond.allow_log("failed, which harms nothing", "is not used from here on")
        pond.mount(*options)
        known = max(int(name) for name in os.listdir(pond.mnt / ".pond" / "versions"))
        assert known in (model.newest, model.newest + 1)
        model.newest = known
        model.now = dict(model.versions[known])
        model.versions = {v: files for v, files in model.versions.items() if v <= known}
        assert_is(read_tree(pond.mnt), model.now, f"now, after {ends}")
        if rng.random() < 0.3:
            pond.pond("compact")
        if rng.random() < 0.2:
            keep = str(rng.randrange(20, 200))
            report = json.loads(pond.pond("prune", "--keep-last", keep, "--json").stdout)
            kept = {each["version"] for each in report["kept"]}
            model.versions = {v: files for v, files in model.versions.items() if v in kept}
        check_all(pond, model, rng, 40)
    check_all(pond, model, rng, 10**9)
    pond.umount()
    for version, found in read_image(pond.store, sorted(model.versions)):
        assert_is(found, model.versions[version], f"version {version}, unmounted")
    assert compactions
    left = {name for name in os.listdir(pond.store) if name.endswith(".parquet")}
    snapshot = read_snapshot(os.fspath(pond.store / "_delta_log"))
    strays = left - set(snapshot.adds) - set(snapshot.removes)
    print(f"{len(snapshot.adds)} files, {len(strays)} strays")
    assert not [name for name in os.listdir(pond.store) if name.startswith((".comp", ".prune"))]
    campaign.tell(
        "compactions, prunes, kills", rounds=compactions, faults=kills, losses=0,
        note=f"{len(model.versions):,} versions compared",
    )  # fmt: skip


def look(
    store: Path, versions: dict[int, Files], rng: random.Random, stop: threading.Event,
    wrong: list[str],
) -> None:  # fmt: skip
    while versions and not stop.is_set():
        some = sorted(rng.sample(sorted(versions), min(4, len(versions))))
        try:
            for version, found in read_image(store, some):
                if bad := differences(found, versions[version]):
                    wrong.append(f"version {version}, from outside: {bad}")
        except Exception as error:
            wrong.append(repr(error))
        stop.wait(0.1)


def glance(pond: PondMount, model: Model, follower: PondMount) -> None:
    """Compare what is there now, some version, and what the follower shows."""
    assert_is(read_tree(pond.mnt), model.now, "now")
    if model.versions:
        version = model.rng.choice(sorted(model.versions))
        found = read_tree(pond.mnt / ".pond" / "versions" / str(version))
        assert_is(found, model.versions[version], f"version {version}")
    if follower.is_mounted() and model.newest in model.versions:
        wanted = model.versions[model.newest]
        mark = follower.mnt / "mark"
        wait_until(lambda: mark.read_bytes() == wanted["mark"], "the follower is there")
        assert_is(read_tree(follower.mnt), wanted, "what the follower shows")


def check_all(pond: PondMount, model: Model, rng: random.Random, most: int) -> None:
    some = sorted(model.versions)
    for version in sorted(rng.sample(some, min(most, len(some)))):
        found = read_tree(pond.mnt / ".pond" / "versions" / str(version))
        assert_is(found, model.versions[version], f"version {version}, mounted")
