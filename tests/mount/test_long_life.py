"""Two hundred versions of one tree, each against a copy that was kept when it was made.

Through ``versions/``, ``at/``, mounts of their own and ``pond cp --at``; then again after a
remount, after another engine compacted the table, and after most versions were pruned.
"""

import os
from pathlib import Path

import pytest
from deltalake import DeltaTable

from tests.campaign import Campaign
from tests.mount.harness import PondMount
from tests.mount.place import errno_of
from tests.mount.test_past import Life, same_tree

VERSIONS = 200


@pytest.fixture
def life(pond: PondMount, tmp_path: Path) -> Life:
    pond.remount("commit=3600,compact=off")  # another engine is to find what it can compact
    copies = tmp_path / "copies"
    copies.mkdir()
    life = Life(pond, copies)
    for number in range(VERSIONS):
        life.step(number)
    assert len(life.kept) == VERSIONS
    return life


def check(life: Life, name: str, versions: list[int]) -> None:
    """Fail unless each of *versions* below ``.pond/NAME`` is as its copy."""
    for version in versions:
        same_tree(life.kept[version], life.pond.mnt / f".pond/{name}/{version}")


def check_mounted(life: Life, versions: list[int], mnt: Path) -> None:
    """The same through read-only mounts beside the writer."""
    mnt.mkdir(exist_ok=True)
    for version in versions:
        life.pond.run("mount.pond", str(life.pond.store), str(mnt), "-o", f"ro,version={version}")
        try:
            same_tree(life.kept[version], mnt)
        finally:
            life.pond.run("umount.pond", str(mnt))


def check_copied(life: Life, versions: list[int], place: Path) -> None:
    """The same through ``pond cp --at``."""
    for version in versions:
        copy = place / f"copy{version}-{len(os.listdir(place))}"
        life.pond.pond("cp", "--at", str(version), "/", str(copy))
        same_tree(life.kept[version], copy)


@pytest.mark.campaign
def test_every_version_stays_what_it_was(life: Life, tmp_path: Path, campaign: Campaign) -> None:
    """The long form looks at every version in every way."""
    pond, versions = life.pond, sorted(life.kept)
    check(life, "versions", versions[:: campaign.rounds(suite=3, long=1)])
    check(life, "at", versions[:: campaign.rounds(suite=10, long=1)])
    step = campaign.rounds(suite=40, long=1)
    check_mounted(life, versions[::step], tmp_path / "old")
    copied = tmp_path / "copied"
    copied.mkdir()
    check_copied(life, versions[::step], copied)

    pond.pond("tag", "pinned", str(versions[42]))
    before = stored_bytes(pond)
    pond.pond("prune", "--keep-last", "100")
    assert stored_bytes(pond) < before
    check_pruned(life, versions, 100, 9)
    pond.remount()
    check_pruned(life, versions, 100, 21)

    pond.umount()
    assert DeltaTable(pond.store).optimize.compact()["numFilesRemoved"] > 10
    check_copied(life, versions[-61::60], copied)
    pond.mount()
    check_pruned(life, versions, 100, 17)
    check_mounted(life, versions[-67::60], tmp_path / "old")

    pond.umount()
    pond.pond("prune", "--keep-last", "20")
    pond.mount()
    check_pruned(life, versions, 20, 5)
    check_mounted(life, versions[-7:-8:-1], tmp_path / "old")
    check_copied(life, versions[-5:-6:-1], copied)
    # And life goes on.
    pond.pond("restore", "--at", "pinned", "/")
    same_tree(life.kept[versions[42]], pond.mnt)
    pond.pond("undo")
    same_tree(life.kept[versions[-1]], pond.mnt)
    campaign.tell("versions in every way", rounds=len(versions), faults=0, losses=0)


def stored_bytes(pond: PondMount) -> int:
    return sum(path.stat().st_size for path in pond.store.glob("*.parquet"))


def check_pruned(life: Life, versions: list[int], last: int, step: int) -> None:
    """Fail unless the tagged version and the *last* newest are left, and some of them unchanged."""
    pond = life.pond
    left = [entry["version"] for entry in pond.log()][::-1]
    assert left == [versions[42], *versions[-last:]]
    for name in ("versions", "at"):
        assert errno_of((pond.mnt / f".pond/{name}/{versions[50]}").stat) == "ENOENT"
    check(life, "versions", left[1::step])
    check(life, "at", left[2 :: 2 * step])
    same_tree(life.kept[versions[42]], pond.mnt / ".pond/tags/pinned")
    same_tree(life.kept[versions[-1]], pond.mnt)
