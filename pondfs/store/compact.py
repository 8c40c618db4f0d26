"""Compacting: the same rows in fewer data files, clustered. No version and no row goes.

A *run* is a number of files that divide the directories among themselves, each of them clustered:
a directory's rows are in one file of each run (in more only if it would fill one alone). After
``pond compact`` there are at most two runs: a small one joins a large one when it has grown to
`WORTH_SHARE` of it, so that what lies well is not written again and again.

In the background, small files alone are put together, those of like size with each other: how
often a byte is written grows with the logarithm of the pond, and so does the number of files.

What lies well but uncompressed is written anew once if it would get clearly smaller. New files say
that this was tried, so it is not tried again.
"""

import contextlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import pyarrow.parquet as pq

from pondfs.errors import StoreDamaged
from pondfs.store.content import DataFile
from pondfs.store.damage import damage_of
from pondfs.store.files import data_files
from pondfs.store.frames import load_table
from pondfs.store.layout import find_groups
from pondfs.store.packing import is_worth
from pondfs.store.scan import in_order
from pondfs.store.table import open_table

LARGE_BYTES = 32 << 20
"""A data file of this size is left alone when it lies well."""

FULL_BYTES = 112 << 20
"""New files share what there is evenly, with at most this: 64 to 128 MiB each."""

WORTH_SHARE = 4
"""Two runs become one when the smaller has a fourth of the larger."""

SAMPLES, SAMPLE_BYTES = 16, 64 << 10
"""What is compressed of a file to see whether all of it is worth it: 1 MiB, 10 ms."""

MANY_FILES = 100
"""Small data files that are worth a compaction in the background."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What a compaction would do.

    Attributes:
        store: the pond's directory.
        files: the data files it would put together; none: there is nothing to do.
        untouched: how many stay as they are.
    """

    store: str
    files: list[DataFile]
    untouched: int

    @property
    def bytes(self) -> int:
        """What the files have together."""
        return sum(file.size for file in self.files)

    @property
    def new_files(self) -> int:
        """How many come in their place, about."""
        return -(-self.bytes // FULL_BYTES)


def make_plan(store: str | os.PathLike[str], *, small: bool = False) -> Plan:
    """Return what there is to compact; only *small* files if that is wanted.

    Whoever asks sees to it that no data file goes meanwhile (the lock for readers, or for the
    writer).

    Raises: NotAPond, StoreDamaged.
    """
    path = os.path.abspath(os.fspath(store))
    files = data_files(path, open_table(path, writable=False).snapshot)
    chosen = choose_small(files) if small else choose(files)
    return Plan(path, in_order(chosen, None), len(files) - len(chosen))


def choose_small(files: Sequence[DataFile]) -> list[DataFile]:
    """Return small files to put together: from the smallest up, as long as it pays.

    A file joins if those below it have as much as itself together. So each time a byte is written
    it comes to lie in a file twice as large, at least.
    """
    small = sorted((file for file in files if file.size < LARGE_BYTES), key=lambda f: f.size)
    if len(small) <= MANY_FILES:
        return []
    count, below = 0, 0
    for file in small:
        if count > 1 and file.size > below:
            break
        below += file.size
        count += 1
    return small[:count]


@dataclass(slots=True)
class _Extent:
    """A file that lies well, and the directories in it: the first and the last."""

    file: DataFile
    first: str
    last: str


def choose(files: Sequence[DataFile]) -> list[DataFile]:
    """Return the files to put together, so that at most two runs are left."""
    others: list[DataFile] = []
    lying_well: list[_Extent] = []
    shrinking = False
    for file in files:
        found = _find_extent(file)
        if found is None:
            others.append(file)
        elif file.size >= LARGE_BYTES and would_shrink(file):
            others.append(file)
            shrinking = True
        elif found.first != found.last or file.size < LARGE_BYTES:
            lying_well.append(found)
        # One directory fills it: it could not lie better.
    *runs, largest = sorted(_find_runs(lying_well), key=_size) or [[]]
    chosen = others + [file for run in runs for file in run]
    if _size(chosen) * WORTH_SHARE >= _size(largest):
        chosen += largest
    elif not others and len(runs) <= 1:
        return []
    alone = len(chosen) == 1 and not shrinking
    if alone and (chosen[0].size < LARGE_BYTES or _find_extent(chosen[0])):
        return []
    return chosen


def would_shrink(file: DataFile) -> bool:
    """Return whether the file's contents are not compressed, and would be if written anew.

    A sample of them tells. Raises: StoreDamaged.
    """
    with open(file.path, "rb", buffering=0) as raw:
        # A file that was staged ends with somebody's bytes: they may look like the end of a table.
        with contextlib.suppress(StoreDamaged):
            if load_table(raw.fileno(), file.size, file.path) is not None:
                return False
        with damage_of(file), pq.ParquetFile(file.path, memory_map=False) as parquet:
            groups = [group for group in find_groups(parquet) if group.start >= 0]
        sample = b"".join(
            os.pread(raw.fileno(), min(SAMPLE_BYTES, group.stop - group.start), group.start)
            for group in groups[:: 1 + len(groups) // SAMPLES]
        )
    return is_worth(sample)


def _size(files: Sequence[DataFile]) -> int:
    return sum(file.size for file in files)


def _find_extent(file: DataFile) -> _Extent | None:
    """Return which directories are in a file; None if it is no part of a run.

    A small one is only if it has been rewritten before: it has several versions.
    """
    if file.size < LARGE_BYTES and file.min_version == file.max_version:
        return None
    with damage_of(file), pq.ParquetFile(file.path, memory_map=False) as parquet:
        metadata = parquet.metadata
    column = metadata.schema.names.index("part_id")
    bounds = [
        metadata.row_group(number).column(column).statistics
        for number in range(metadata.num_row_groups)
    ]
    if not bounds or any(each is None or not each.has_min_max for each in bounds):
        return None
    if any(low.max > high.min for low, high in pairwise(bounds)):
        return None
    return _Extent(file, bounds[0].min, bounds[-1].max)


def _find_runs(lying_well: list[_Extent]) -> list[list[DataFile]]:
    """Return which files divide the directories among themselves.

    One small file at most is in a run, the rest of a compaction: more are worth another.
    """
    runs: list[list[DataFile]] = []
    ends: list[tuple[str, bool]] = []
    for each in sorted(lying_well, key=lambda e: (e.first, e.last)):
        is_small = each.file.size < LARGE_BYTES
        for at, (last, has_small) in enumerate(ends):
            if last <= each.first and not (has_small and is_small):
                runs[at].append(each.file)
                ends[at] = (each.last, has_small or is_small)
                break
        else:
            runs.append([each.file])
            ends.append((each.last, is_small))
    return runs
