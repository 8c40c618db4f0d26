"""Whatever a disk can hold after a power cut is a pond that holds what was promised.

A real cut (``test_power_cut.py``) shows what one filesystem leaves at some moments. Here a pond's
whole life is recorded, call by call, and of that are made the images that any disk could leave
which does no more than POSIX says: at every moment, with what was not synced lost, torn, or there
in any order. ``disk_images.py`` says what is assumed.
"""

from __future__ import annotations

import logging
import os
import random
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path

import pytest

from pondfs.options import FSYNCS
from tests.campaign import Campaign
from tests.conftest import MakePond
from tests.crash.disk_images import KINDS, Cut, Disk, Image
from tests.crash.disk_trace import Sync
from tests.crash.image_check import check_pond
from tests.crash.journal import TreeModel, find_state, snapshot
from tests.crash.recording import Recording, record
from tests.mount.harness import alarming

OLDER_VERSIONS = 2  # that are read of each image in the suite; in the long run, all
# An ignored sync has to be noticed in this many of the images that it makes a difference to.
TRIES = 60

MUST_HAPPEN = (
    r"create pond/_pond/creating",
    r"link pond/_delta_log/0+9\.json",
    r"unlink pond/[^/]*\.parquet",
    r"rename pond/\.compact-",
    r"rename pond/\.prune-",
    r"rename .* to pond/_pond/image",
    r"write pond/_pond/rows",
    r"rename .* to pond/_delta_log/_last_checkpoint",
    r"unlink pond/_delta_log/0+4\.json",
    r"unlink pond/_delta_log/.*\.checkpoint\.parquet",
)
"""Beginnings of what a recording has to hold, so that it is worth looking at."""


@pytest.fixture(scope="module")
def recorded(
    tmp_path_factory: pytest.TempPathFactory, pond_env: dict[str, str]
) -> Callable[[str, int], Recording]:
    """Return a function that gives the recording of a life, by its way to sync and its seed."""
    known: dict[tuple[str, int], Recording] = {}

    def get(fsync: str, seed: int) -> Recording:
        if (fsync, seed) not in known:
            if len(known) > 1:
                known.clear()  # each holds in memory what was written
            place = tmp_path_factory.mktemp(f"recording-{fsync}-{seed}")
            known[fsync, seed] = record(place, pond_env, fsync, seed)
        return known[fsync, seed]

    return get


@pytest.fixture
def shm(tmp_path: Path) -> Iterator[Path]:
    """Return a directory in memory, if there is that: a thousand images are written and synced."""
    with tempfile.TemporaryDirectory(
        prefix="pond-images-", dir="/dev/shm" if os.path.isdir("/dev/shm") else tmp_path
    ) as place:
        yield Path(place)


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    """Do not keep what the store says of caches that are damaged, as they are in most images."""
    logger = logging.getLogger("pondfs.store")
    before = logger.level
    logger.setLevel(logging.ERROR)
    yield
    logger.setLevel(before)


def check_image(
    recording: Recording, cut: Cut, image: Image, place: Path, versions: int | None
) -> None:
    """Check an image in the directory *place*. Raises: AssertionError, which says it all."""
    image.write(place)
    try:
        check_pond(place / "pond", recording.promise(cut.line), random.Random(cut.seed), versions)
    except Exception as error:
        raise AssertionError(f"{error}\n{recording.explain(cut, image)}") from error
    finally:
        shutil.rmtree(place)


def shuffled(disk: Disk, seed: int) -> list[Cut]:
    """Return a cut of each kind at each line, in no order."""
    cuts = [Cut(line, kind, seed) for line in disk.lines() for kind in KINDS]
    random.Random(seed).shuffle(cuts)
    return cuts


@pytest.mark.campaign
@pytest.mark.parametrize("fsync", FSYNCS)
def test_every_image_is_a_pond(
    recorded: Callable[[str, int], Recording],
    make_pond: MakePond,
    shm: Path,
    campaign: Campaign,
    fsync: str,
) -> None:
    """No two images are alike, or not in what they owe. Some are mounted as well."""
    wanted = campaign.rounds(suite=100, long=600)
    to_mount = campaign.rounds(suite=2, long=5)
    lives = campaign.rounds(suite=1, long=3)
    tried = calls = 0
    for seed in range(lives):
        recording = recorded(fsync, seed)
        check_recording(recording)
        disk = recording.disk_images()
        calls += len(recording.trace.ops)
        seen = set()
        mounted = 0
        for cut in shuffled(disk, seed):
            image = disk.image(cut)
            promise = recording.promise(cut.line)
            found = image.digest(), promise.journal.done
            if found in seen:
                continue
            seen.add(found)
            check_image(
                recording, cut, image, shm / "image", None if campaign.long else OLDER_VERSIONS
            )
            if mounted < to_mount and promise.has_ended("mount"):
                check_mounted(recording, cut, image, make_pond, shm / f"{seed}-{len(seen)}", fsync)
                mounted += 1
            if len(seen) == wanted:
                break
        assert len(seen) == wanted, "the recording is too short"
        assert mounted == to_mount, "too few of the images are of a pond that was mounted"
        tried += len(seen)
    campaign.tell(
        f"crash images, fsync={fsync}", rounds=lives, faults=tried, losses=0,
        note=f"of {calls:,} recorded writes and names",
    )  # fmt: skip


def check_recording(recording: Recording) -> None:
    """Nothing was missed: what the calls add up to is what is on the disk; and much happened."""
    trace, disk = recording.trace, recording.disk
    image = recording.disk_images().image(Cut(trace.ops[-1].end, "all", 0))
    assert image.entries == {
        str(path.relative_to(disk)): None if path.is_dir() else path.read_bytes()
        for path in disk.rglob("*")
    }
    # What is written through a map is a note between two processes, and means nothing afterwards.
    assert all(re.match(r"pond/_pond/(compact|prune)-", path) for path in trace.mapped)
    assert not alarming((disk / "pond" / "_pond" / "log").read_text())
    labels = [op.label for op in trace.ops]
    for what in MUST_HAPPEN:
        assert any(re.match(what, label) for label in labels), f"nothing did '{what}'"


def check_mounted(
    recording: Recording, cut: Cut, image: Image, make_pond: MakePond, place: Path, fsync: str
) -> None:
    """The same through a mount: the kernel shows the tree that was promised."""
    image.write(place)
    pond = make_pond(place.name, store=place / "pond")
    pond.allow_log(r"_pond/(image|rows) is not used")
    pond.mount("commit=3600", f"fsync={fsync}")
    try:
        journal = recording.promise(cut.line).journal
        find_state(TreeModel(), journal, snapshot(pond.mnt), at_fsyncs_only=True)
    except AssertionError as error:
        raise AssertionError(f"{error}\n{recording.explain(cut, image)}") from error
    pond.umount()


def is_data_file(sync: Sync) -> bool:
    return "_delta_log" not in sync.path and (
        sync.path.endswith(".parquet") or re.search(r"/\.(compact|prune)-", sync.path) is not None
    )


IGNORED: dict[str, Callable[[Sync], bool]] = {
    "data files": is_data_file,
    "the store": lambda sync: sync.path.endswith("/pond"),
    "where the store is": lambda sync: sync.path.endswith("/disk"),
    "log entries": lambda sync: "/_delta_log/#" in sync.path,
    "the log": lambda sync: sync.path.endswith("/_delta_log"),
    "the journal": lambda sync: sync.path.endswith("/journal"),
    "_pond": lambda sync: sync.path.endswith("/_pond"),
    "checkpoints": lambda sync: ".checkpoint.parquet" in sync.path,
}


@pytest.mark.parametrize("what", IGNORED)
def test_a_disk_that_ignores_fsync_is_noticed(
    recorded: Callable[[str, int], Recording], shm: Path, what: str
) -> None:
    """Each kind of sync is needed, and the images show it: without it something is lost.

    Else that nothing was found above would mean nothing.
    """
    recording = recorded("journal", 0)
    lying = recording.disk_images(IGNORED[what])
    check_that_something_is_lost(recording, lying, shuffled(lying, 1), shm)


def test_an_opening_that_trusts_what_it_sees_is_noticed(
    recorded: Callable[[str, int], Recording], shm: Path
) -> None:
    """A daemon that was killed had not synced its last log entry's name; the next one sees it."""
    recording = recorded("delta", 0)
    ignored = {
        id(sync)
        for entry, log in pairwise(recording.trace.syncs) if entry.path.endswith(".json")
        for sync in (entry, log)
    }  # fmt: skip
    lying = recording.disk_images(lambda sync: id(sync) in ignored)
    cuts = [Cut(line, "none", 0) for line in lying.lines()]
    check_that_something_is_lost(recording, lying, cuts, shm)


def check_that_something_is_lost(
    recording: Recording, lying: Disk, cuts: Sequence[Cut], shm: Path
) -> None:
    honest = recording.disk_images()
    tries = 0
    for cut in cuts:
        image = lying.image(cut)
        if image.entries == honest.image(cut).entries:
            continue
        try:
            check_image(recording, cut, image, shm / "image", OLDER_VERSIONS)
        except AssertionError:
            return
        tries += 1
        assert tries < TRIES, "nobody noticed"
    raise AssertionError("it makes no difference to any image that would be checked")
