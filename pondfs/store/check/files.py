"""The data files: that they are there, can be read, and are as the log says."""

import json
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pondfs.errors import StoreDamaged
from pondfs.store.check.report import Wrong, invariant
from pondfs.store.content import UNKNOWN_VERSION, DataFile
from pondfs.store.scan import FOLD_COLUMNS, Scan, read_rows
from pondfs.store.table import what_is_missing
from pondfs.store.tree import shown

CHECK_COLUMNS = (*FOLD_COLUMNS, "file_type")


def read_all_rows(
    files: Sequence[DataFile],
) -> tuple[Scan, list[DataFile], dict[DataFile, str]]:
    """Return the rows of *files* from the files themselves, page checksums looked at.

    Returns: the rows; the files they are of; and the others, with what is wrong with what is there.
    """
    bad = {file: "" for file in files if what_is_missing(file.path, file.size)}
    good = [file for file in files if file not in bad]
    try:
        return read_rows(good, CHECK_COLUMNS), good, bad
    except (StoreDamaged, OSError):
        pass  # one by one, to see which
    for file in good:
        try:
            read_rows([file], CHECK_COLUMNS)
        except (StoreDamaged, OSError) as error:
            bad[file] = str(error)
    good = [file for file in good if file not in bad]
    return read_rows(good, CHECK_COLUMNS), good, bad


Paths = Mapping[str, tuple[bytes, ...]]
"""By name of a data file: files that have bytes in it, as far as that is known."""


@invariant("data-files")
def files_are_there(files: Sequence[DataFile], paths: Paths) -> Iterator[Wrong]:
    """Every data file that the log names is there, with the size it says."""
    for file in files:
        if how := what_is_missing(file.path, file.size):
            yield _lost(file, how, paths)


@invariant("data-file-rows")
def files_are_readable(lost: Mapping[DataFile, str], paths: Paths) -> Iterator[Wrong]:
    """Every data file is Parquet with our columns, whose pages have the checksums they should."""
    for file, why in lost.items():
        if why:
            yield _lost(file, f"can't be read ({why})", paths)


def _lost(file: DataFile, how: str, paths: Paths) -> Wrong:
    found = paths.get(file.name, ())
    whose = ""
    if found:
        more = f" and {len(found) - 3:,} more" if len(found) > 3 else ""
        some = ", ".join(f"'/{shown(path)}'" for path in found[:3])
        whose = f", bytes of {some}{more}"
    return Wrong(
        f"data file {file.path} {how}: restore it from a backup ({_versions(file)}{whose})", found
    )


def _versions(file: DataFile) -> str:
    if file.max_version == UNKNOWN_VERSION:
        return "nobody knows which versions it has rows of"
    if file.min_version == file.max_version:
        return f"it has rows of version {file.min_version}"
    return f"it has rows of versions {file.min_version} to {file.max_version}"


@invariant("data-file-statistics")
def statistics_hold(files: Sequence[DataFile], scan: Scan) -> Iterator[Wrong]:
    """What the log says of a data file holds for its rows: how many there are, and the least and
    greatest version, directory and node among them. Readers skip files by it.
    """
    counts = np.bincount(scan.file, minlength=len(files))
    starts = np.cumsum(counts) - counts
    for number, file in enumerate(files):
        count, start = int(counts[number]), int(starts[number])
        if what := _beyond_bounds(file, scan.table.slice(start, count)):
            yield Wrong(
                f"data file {file.path} has {what}, as the log says: restore _delta_log from a "
                "backup"
            )


def _beyond_bounds(file: DataFile, rows: pa.Table) -> str:
    """Return what the log says otherwise of a file with these rows; "" for nothing."""
    count = rows.num_rows
    if file.row_count is not None and file.row_count != count:
        return f"{count} rows, not {file.row_count}"
    said = json.loads(file.stats) if file.stats and count else {}
    lows, highs = said.get("minValues") or {}, said.get("maxValues") or {}
    for name in ("version", "part_id", "node_id"):
        if lows.get(name) is None or highs.get(name) is None:
            continue
        bounds = pc.min_max(rows[name])
        low, high = bounds["min"].as_py(), bounds["max"].as_py()
        if not lows[name] <= low <= high <= highs[name]:
            return f"{name} from {low} to {high}, not {lows[name]} to {highs[name]}"
    return ""
