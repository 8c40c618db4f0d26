"""A million files: mounting them, walking over them, and the memory afterwards.

The tree is written by commits to the store, as through a mount it would take minutes; some
directories of a thousand files are added through one.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from statistics import median

from tests.bench.query import FILES_PER_DIRECTORY, Tree
from tests.bench.scale.bench import Bench, Section
from tests.bench.scale.process import memory_of, note_memory, wait_shrunk
from tests.bench.scale.rows import at_most, told
from tests.bench.targets import Pond, drop_caches
from tests.bench.workloads import seconds
from tests.mount import harness

MOUNTS = 3
LARGE_DIRECTORIES = 5
FIND_TIMEOUT_S = 900.0
FORGET_TIMEOUT_S = 90.0


def run(bench: Bench) -> None:
    """Make the tree; mount it in every way; walk."""
    files = bench.count(1_000_000, 2000)
    entries = bench.count(1000, 20)
    with bench.pond("million", mount=False) as pond:
        bench.show.step("make files", files)
        with bench.timed("million_build"):
            Tree(pond.store, files).build(bench.show.advance)
        pond.mount()
        large = [_make_directory(pond.root, number, entries) for number in range(LARGE_DIRECTORIES)]
        pond.unmount()
        _mounts(bench, pond)
        _listings(bench, pond, large, entries)
        expected = files + -(-files // FILES_PER_DIRECTORY) + LARGE_DIRECTORIES * (entries + 1)
        _walk(bench, pond, expected)


def _make_directory(root: Path, number: int, entries: int) -> Path:
    folder = root / f"large{number}"
    folder.mkdir()
    for entry in range(entries):
        (folder / f"entry{entry:04}").write_bytes(b"%d\n" % entry)
    return folder


def mount_s(pond: Pond) -> float:
    """Return the time from the beginning of ``mount.pond`` until the root is listed."""
    started = time.perf_counter()
    pond.mount()
    os.listdir(pond.root)
    return time.perf_counter() - started


def mount_often_s(bench: Bench, pond: Pond) -> float:
    """Return the median of some; the pond is mounted at the end, and saved its image before."""
    taken = []
    for _ in range(MOUNTS if bench.scale else 1):
        pond.unmount()
        taken.append(mount_s(pond))
    return median(taken)


def _mounts(bench: Bench, pond: Pond) -> None:
    bench.show.step("mount with an image")
    bench.note("million_mount", mount_often_s(bench, pond))
    note_memory(bench, pond, "million_rss")
    pond.unmount()
    drop_caches()
    bench.note("million_mount_cold", mount_s(pond))
    pond.unmount()
    bench.show.step("mount without an image")
    (pond.store / "_pond" / "image").unlink()
    bench.note("million_mount_fold", mount_s(pond))
    bench.note("million_rss_fold", memory_of(pond).resident)


def _listings(bench: Bench, pond: Pond, large: list[Path], entries: int) -> None:
    """List directories that nobody looked at since the mount."""
    bench.show.step("ls -l")
    pond.remount()
    drop_caches()
    os.statvfs(pond.root)  # the daemon is awake; it has heard what the kernel dropped
    taken = []
    for folder in large:
        started = time.perf_counter()
        listing = harness.run(["ls", "-l", folder]).stdout
        taken.append((time.perf_counter() - started) * 1e3)
        assert listing.count("\n") == entries + 1, folder
    bench.note("million_ls", median(taken))
    bench.note("million_ls_first", taken[0])


def _walk(bench: Bench, pond: Pond, expected: int) -> None:
    pond.remount()
    for row in ("million_find", "million_find_again"):
        drop_caches()
        bench.show.step("find over all of it")
        bench.note(row, seconds(_find, pond.root, expected))
        bench.note(f"{row}_rss", memory_of(pond).resident)
    bench.show.step("let the kernel forget")
    drop_caches()
    wait_shrunk(pond, FORGET_TIMEOUT_S)
    note_memory(bench, pond, "million_rss_after")


def _find(root: Path, expected: int) -> None:
    listing = harness.run(["find", root, "-mindepth", "1"], timeout_s=FIND_TIMEOUT_S).stdout
    assert listing.count("\n") >= expected, f"find saw {listing.count(chr(10))} of {expected}"


SECTION = Section(
    "million",
    "1,000,000 files in 20,000 directories",
    (
        told("million_build", "make that pond, by commits to the store", "s"),
        at_most("million_mount", "from `mount.pond` to the first `ls`, with an image", "s", 1.0),
        told("million_mount_cold", "… programs and image not in memory", "s"),
        at_most("million_mount_fold", "… without an image", "s", 5.0),
        at_most("million_rss", "RSS after mounting and that `ls`, with an image", "MB", 150.0),
        told("million_rss_anon", "… of that RssAnon", "MB"),
        told("million_rss_file", "… of that RssFile (libraries, the mapped image)", "MB"),
        told("million_rss_fold", "RSS after mounting without an image", "MB"),
        at_most("million_ls", "`ls -l` of a directory of 1,000, cold, median of 5", "ms", 100.0),
        told("million_ls_first", "… the first one after mounting", "ms"),
        at_most("million_find", "`find` over all of it, after mounting", "s", 60.0),
        told("million_find_rss", "… RSS then", "MB"),
        told("million_find_again", "… once more, after the kernel forgot", "s"),
        told("million_find_again_rss", "… RSS then", "MB"),
        at_most("million_rss_after", "RSS when the kernel has forgotten all of it", "MB", 300.0),
        told("million_rss_after_anon", "… of that RssAnon", "MB"),
        told("million_rss_after_file", "… of that RssFile", "MB"),
    ),
    run,
)
