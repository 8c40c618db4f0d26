"""The data files: that they are there, can be read, and are as the log says."""

import os
import stat
from collections.abc import Iterator, Sequence

import numpy as np

from pondfs.errors import StoreDamaged
from pondfs.node import format_node_id
from pondfs.store.check.report import Wrong, invariant
from pondfs.store.content import UNKNOWN_VERSION, DataFile
from pondfs.store.history import ints
from pondfs.store.scan import FOLD_COLUMNS, Scan, read_rows

CHECK_COLUMNS = (*FOLD_COLUMNS, "file_type")


def what_is_missing(file: DataFile) -> str:
    """Return how a data file is not there; "" when it is, with its size."""
    try:
        found = os.stat(file.path)
    except FileNotFoundError:
        return "is missing"
    if not stat.S_ISREG(found.st_mode):
        return "is no file"
    return "" if found.st_size == file.size else f"has {found.st_size} bytes, not {file.size}"


@invariant("data-files")
def files_are_there(files: Sequence[DataFile]) -> Iterator[Wrong]:
    """Every data file that the log names is there, with the size it says."""
    for file in files:
        if how := what_is_missing(file):
            yield Wrong(
                f"data file {file.path} {how}: restore it from a backup ({_versions(file)})"
            )


def _versions(file: DataFile) -> str:
    if file.max_version == UNKNOWN_VERSION:
        return "nobody knows which versions it has"
    if file.min_version == file.max_version:
        return f"it has rows of version {file.min_version}"
    return f"it has rows of versions {file.min_version} to {file.max_version}"


def read_all_rows(files: Sequence[DataFile]) -> tuple[Scan, list[DataFile], dict[str, str]]:
    """Return the rows of *files* from the files themselves, page checksums looked at.

    Returns: the rows, the files they are of, and by name what is wrong with the others.
    """
    try:
        return read_rows(files, CHECK_COLUMNS, verify=True), list(files), {}
    except (StoreDamaged, OSError):
        pass  # one by one, to see which
    good: list[DataFile] = []
    bad: dict[str, str] = {}
    for file in files:
        try:
            read_rows([file], CHECK_COLUMNS, verify=True)
        except (StoreDamaged, OSError) as error:
            bad[file.name] = str(error)
        else:
            good.append(file)
    return read_rows(good, CHECK_COLUMNS), good, bad


@invariant("data-file-rows")
def files_are_readable(files: Sequence[DataFile], bad: dict[str, str]) -> Iterator[Wrong]:
    """Every data file is Parquet with our columns, whose pages have the checksums they should."""
    for file in files:
        if file.name in bad:
            yield Wrong(
                f"data file {file.path} can't be read ({bad[file.name]}): restore it from a "
                f"backup ({_versions(file)})"
            )


@invariant("data-file-statistics")
def statistics_hold(files: Sequence[DataFile], scan: Scan) -> Iterator[Wrong]:
    """What the log says of a data file holds for its rows: how many there are, and the least and
    greatest version, directory and node among them. Readers skip files by it.
    """
    counts = np.bincount(scan.file, minlength=len(files))
    starts = np.cumsum(counts) - counts
    version = ints(scan.table, "version")
    for number, file in enumerate(files):
        count, start = int(counts[number]), int(starts[number])
        what = ""
        if file.row_count is not None and file.row_count != count:
            what = f"{count} rows, not {file.row_count}"
        elif count:
            some = version[start : start + count]
            low, high = int(some.min()), int(some.max())
            if not file.min_version <= low <= high <= file.max_version:
                what = f"versions {low} to {high}, not {file.min_version} to {file.max_version}"
        if what:
            yield Wrong(
                f"data file {file.path} has {what}, as the log says: restore _delta_log from a "
                "backup"
            )


def node_text(node: int) -> str:
    """Return how messages call a node."""
    return f"node {format_node_id(node)}"
