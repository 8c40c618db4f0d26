"""What looking back costs, and what the way back costs whoever does not look.

Only a pond has a past, so other targets have no figures here. Each workload mounts ponds of its
own below the target's folder and removes them again.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median

from tests.bench.past_pond import FILE_BYTES, PastPond, Size, root_of
from tests.bench.targets import Pond, drop_caches
from tests.bench.workloads import Figures, Place, rate, seconds, write_file
from tests.mount import harness

PAST_ROWS = (
    *("past_build", "past_first_ls", "past_next_ls", "live_ls", "past_ls", "past_ls_ratio"),
    *("live_cold_read", "past_cat", "past_cat_ratio"),
    *("diff_adjacent", "diff_adjacent_unmounted", "log_20", "history"),
    *("follow_delay", "restore_1000", "prune"),
)
COST_ROWS = ("pond_cost_create", "pond_cost_stat", "pond_cost_readdir")

FIRST_LOOKS = 5
LISTINGS = 20
READS = 200
DIFFS = 15
FOLLOWED = 20
COST_ROUNDS = 20
SLICES = 10


def past(place: Place) -> Figures:
    """Make the pond; ask it everything; change it last."""
    if not isinstance(place.target, Pond):
        return {}
    with _mounted(Pond(place.target.base / "past")) as pond:
        made = PastPond(pond, Size.at(place.scale))
        figures = {"past_build": seconds(made.build)}
        pond.unmount()
        figures["diff_adjacent_unmounted"] = _diff_ms(made)
        pond.mount()
        for measure in (_first_looks, _listings, _reads, _commands, _follow, _restore_and_prune):
            figures |= measure(made)
    return figures


def pond_cost(place: Place) -> Figures:
    """Work in two live trees in turn, one of them with `.pond/`, hidden as it is by default.

    The figure is the median of the ratios within each short round: what the machine does besides
    then falls on both. Each round has new daemons, as of two alike one lists up to 15 % faster for
    all its life.
    """
    if not isinstance(place.target, Pond):
        return {}
    base = place.target.base
    files = place.count(2000)
    ratios: dict[str, list[float]] = {row: [] for row in COST_ROWS}
    with (
        _mounted(Pond(base / "with", ("ponddir=hidden",))) as has,
        _mounted(Pond(base / "without", ("ponddir=off",))) as lacks,
    ):
        for number in range(COST_ROUNDS):
            pair = [has, lacks] if number % 2 else [lacks, has]
            for pond in pair:
                pond.remount()
            rates = {pond: _live_rates(pond, number, files) for pond in pair}
            for row in COST_ROWS:
                ratios[row].append(rates[has][row] / rates[lacks][row])
    return {row: median(each) for row, each in ratios.items()}


def _live_rates(pond: Pond, number: int, files: int) -> Figures:
    folder = pond.root / f"cost{number:02}"
    folder.mkdir()
    paths = [f"{folder}/f{file:05}" for file in range(files)]
    figures = {
        "pond_cost_create": _middle_rate(write_file, paths),
        "pond_cost_stat": _middle_rate(os.stat, paths),
        "pond_cost_readdir": _middle_rate(os.listdir, [str(folder)] * SLICES),
    }
    pond.settle()
    return figures


def _middle_rate(operation: Callable[[str], object], paths: list[str]) -> float:
    """Return the rate of the middle one of some slices: a commit or a neighbour spoils few."""
    return median(rate(operation, paths[start::SLICES]) for start in range(SLICES))


# -- the pond's past ----------------------------------------------------------------------------


def _first_looks(made: PastPond) -> Figures:
    """List a directory of a version nobody looked at yet: after a mount, and later on."""
    looks = [root_of(made.pond, n) / made.directory(1) for n in made.spread(2 * FIRST_LOOKS)]
    fresh_s = []
    for look in looks[::2]:
        made.pond.remount()
        fresh_s.append(seconds(_list, look))
    next_s = [seconds(_list, look) for look in looks[1::2]]
    return {"past_first_ls": median(fresh_s), "past_next_ls": median(next_s)}


def _listings(made: PastPond) -> Figures:
    """List directories not listed since the mount, of the live tree and an old one in turn."""
    made.pond.remount()
    old = root_of(made.pond, made.middle_version)
    _list(made.pond.root / made.directory(0))
    _list(old / made.directory(0))
    _drop_caches(made.pond)
    rates: dict[Path, list[float]] = {made.pond.root: [], old: []}
    for number in range(1, min(LISTINGS + 1, made.size.directories)):
        for root, figures in rates.items():
            started = time.perf_counter()
            count = _list(root / made.directory(number))
            figures.append(count / (time.perf_counter() - started))
            if root is old:
                assert count == len(made.in_directory(made.middle, number))
    live, past_rate = (median(figures) for figures in rates.values())
    return {"live_ls": live, "past_ls": past_rate, "past_ls_ratio": past_rate / live}


def _reads(made: PastPond) -> Figures:
    """Read files here and there, cold, of the live tree and an old one in turn, never the same."""
    made.pond.remount()
    old = root_of(made.pond, made.middle_version)
    _list(old / made.directory(0))
    dice = random.Random(32)
    trees = ((made.pond.root, made.files), (old, made.middle))
    picked = [dice.sample(list(files), min(READS, len(files) // 2)) for _, files in trees]
    taken_ms: list[list[float]] = [[], []]
    _drop_caches(made.pond)
    for paths in zip(*picked, strict=True):
        for (root, files), path, taken in zip(trees, paths, taken_ms, strict=True):
            full = f"{root}/{path}"
            started = time.perf_counter()
            fd = os.open(full, os.O_RDONLY)
            got = os.read(fd, FILE_BYTES + 1)
            os.close(fd)
            taken.append((time.perf_counter() - started) * 1e3)
            assert got == made.content(files, path), full
    live, past_ms = (median(taken) for taken in taken_ms)
    return {"live_cold_read": live, "past_cat": past_ms, "past_cat_ratio": past_ms / live}


def _commands(made: PastPond) -> Figures:
    """Run what people type: from the start of the process to its end."""
    return {
        "diff_adjacent": _diff_ms(made),
        "log_20": _command_ms(made.pond, [("log", "-n", "20")] * DIFFS),
        "history": _command_ms(made.pond, [("history", made.hot)] * 5),
    }


def _diff_ms(made: PastPond) -> float:
    spans = [("diff", f"v{number}..v{number + 1}") for number in made.spread(DIFFS)]
    return _command_ms(made.pond, spans)


def _command_ms(pond: Pond, commands: Sequence[tuple[str, ...]]) -> float:
    """Return the median; one run before it finds the program's own files in memory."""
    pond.pond(*commands[0])
    return median(seconds(pond.pond, *args) for args in commands) * 1e3


def _follow(made: PastPond) -> Figures:
    """Commit a new file; look for it in a follower's mount until it is there."""
    follower = Pond(made.pond.base / "follower", ("ro", "follow"), store=made.pond.store)
    dice = random.Random(33)
    delays_ms = []
    with _mounted(follower):
        for number in range(FOLLOWED):
            # The follower looks at intervals: seeing one version must not set the time of the next.
            time.sleep(dice.uniform(0.1, 0.3))
            name = f"followed{number:02}"
            made.write(name)
            made.commit()
            started = time.perf_counter()
            harness.wait_until((follower.root / name).exists, f"{name} in the follower")
            delays_ms.append((time.perf_counter() - started) * 1e3)
    return {"follow_delay": median(delays_ms)}


def _restore_and_prune(made: PastPond) -> Figures:
    """Change all files of some directories and put them back; then keep a tenth of all versions."""
    names = [made.directory(number) for number in range(made.size.directories)]
    wanted = min(1000, made.size.files // 2)
    chosen = names[: -(-wanted * len(names) // made.size.files)]
    before, version = dict(made.files), made.newest()
    for number in range(len(chosen)):
        for path in made.in_directory(before, number):
            made.write(path)
    made.commit()
    restore_s = seconds(made.pond.pond, "restore", "--at", f"v{version}", *chosen)
    path = made.in_directory(before, 0)[0]
    assert (made.pond.root / path).read_bytes() == made.content(before, path), path
    keep = str(made.size.versions // 10)
    prune_s = seconds(made.pond.pond, "prune", "--keep-last", keep)
    return {"restore_1000": restore_s, "prune": prune_s}


# -- tools --------------------------------------------------------------------------------------


@contextmanager
def _mounted(pond: Pond) -> Iterator[Pond]:
    pond.open()
    try:
        yield pond
    finally:
        pond.close()


def _drop_caches(pond: Pond) -> None:
    """Drop the kernel's caches, the store's pages among them, and wait for the daemon's part."""
    drop_caches()
    os.statvfs(pond.root)


def _list(directory: Path) -> int:
    """Do what ``ls -l`` does, whole paths and all; return how many entries there are."""
    with os.scandir(directory) as entries:
        return len([os.lstat(entry.path) for entry in entries])
