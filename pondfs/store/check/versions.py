"""The rows and the versions they are of: one total order, one commit row each, none missing."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pondfs.errors import StoreDamaged
from pondfs.node import ROOT, Version
from pondfs.store.check.log import LogWalk
from pondfs.store.check.report import Wrong, invariant
from pondfs.store.content import DataFile
from pondfs.store.history import ints, node_ids
from pondfs.store.image import Ints
from pondfs.store.rows import ATTRIBUTES
from pondfs.store.scan import Scan

_MOST_RUNS = 5
"""Gaps that one note names."""


class Versions:
    """All rows, and which versions they make.

    Attributes:
        table: the rows, without their bytes.
        version: each row's.
        seq: each row's number in it.
        commits: the commit rows.
        there: the versions that are there, ascending.
    """

    def __init__(self, scan: Scan) -> None:
        self.table: pa.Table = scan.table
        self.version = ints(scan.table, "version")
        self.seq = ints(scan.table, "seq")
        self.commits: Ints = np.flatnonzero(pc.equal(scan.table["op"], "commit").to_numpy())
        self.there = np.unique(self.version[self.commits])


@invariant("row-order")
def rows_have_an_order(rows: Versions) -> Iterator[Wrong]:
    """No two rows have the same version and number: (version, seq) is a total order."""
    version, seq = rows.version, rows.seq
    # Nearly always in order already, at least within each version.
    ascends = (version[1:] > version[:-1]) | ((version[1:] == version[:-1]) & (seq[1:] > seq[:-1]))
    if not ascends.all():
        order = np.lexsort((seq, version))
        version, seq = version[order], seq[order]
    same = np.flatnonzero((version[1:] == version[:-1]) & (seq[1:] == seq[:-1]))
    for at in same.tolist():
        yield Wrong(
            f"two rows are number {seq[at]} of version {version[at]}, so which comes first is "
            "not known: restore the pond from a backup"
        )
    for at in np.flatnonzero((rows.seq < 0) | (rows.version < 1)).tolist():
        yield Wrong(
            f"a row is number {rows.seq[at]} of version {rows.version[at]}, and neither can be "
            "negative: restore the pond from a backup"
        )


@invariant("row-ids")
def rows_have_ids(rows: Versions) -> Iterator[Wrong]:
    """`node_id` and `part_id` are 16 hex digits in every row."""
    for column in ("node_id", "part_id"):
        try:
            node_ids(rows.table, column)
        except StoreDamaged as error:
            yield Wrong(f"{error}: restore the pond from a backup")


@invariant("row-shape")
def rows_have_a_shape(rows: Versions) -> Iterator[Wrong]:
    """A row has all nine attributes or none; where its content lies and how long it is, or
    neither; and `valid_below` only with attributes.
    """
    table = rows.table
    has_mode = pc.is_valid(table["mode"])
    length, offset = table["length"], table["offset"]
    rules = [
        (f"{name} but no mode, or the other way round", pc.xor(pc.is_valid(table[name]), has_mode))
        for name in ATTRIBUTES[1:]
    ]
    rules += [
        ("an offset but no length, or the other way round",
         pc.xor(pc.is_valid(length), pc.is_valid(offset))),
        ("a length that is not above 0", pc.less_equal(length, 0)),
        ("an offset below 0", pc.less(offset, 0)),
        ("valid_below but no attributes",
         pc.and_(pc.is_valid(table["valid_below"]), pc.invert(has_mode))),
        ("valid_below below 0", pc.less(table["valid_below"], 0)),
    ]  # fmt: skip
    for what, mask in rules:
        for at in np.flatnonzero(pc.fill_null(mask, False).to_numpy()).tolist():
            yield Wrong(
                f"row {rows.seq[at]} of version {rows.version[at]} has {what}: restore the pond "
                "from a backup"
            )


@invariant("commit-rows")
def versions_end_with_a_commit_row(rows: Versions) -> Iterator[Wrong]:
    """Every version has one commit row, the last of its rows, which is on the root and has neither
    a name nor attributes; rows of versions that a prune forgot have none.
    """
    version = rows.version[rows.commits]
    numbers, counts = np.unique(version, return_counts=True)
    for number in numbers[counts > 1].tolist():
        yield Wrong(f"version {number} has several commit rows: restore the pond from a backup")
    table = rows.table.take(pa.array(rows.commits)).select(
        ["node_id", "part_id", "name", "mode", "length"]
    )
    odd = pc.or_(
        pc.or_(pc.is_valid(table["name"]), pc.is_valid(table["mode"])), pc.is_valid(table["length"])
    ).to_numpy()
    odd = odd | (node_ids(table, "node_id") != ROOT) | (node_ids(table, "part_id") != ROOT)
    for number in np.unique(version[odd]).tolist():
        yield Wrong(
            f"the commit row of version {number} is not on the root alone: restore the pond from "
            "a backup"
        )
    # The last number in each version, against that of its commit row.
    at = np.searchsorted(numbers, rows.version)
    at[at == len(numbers)] = 0
    of_version = np.flatnonzero(numbers[at] == rows.version) if len(numbers) else rows.commits[:0]
    last = np.full(len(numbers), -1, np.int64)
    np.maximum.at(last, at[of_version], rows.seq[of_version])
    ends = np.full(len(numbers), -1, np.int64)
    np.maximum.at(ends, np.searchsorted(numbers, version), rows.seq[rows.commits])
    for number in numbers[last > ends].tolist():
        yield Wrong(
            f"version {number} has rows after its commit row: restore the pond from a backup"
        )


@invariant("versions-dense")
def no_version_is_missing(
    rows: Versions, walk: LogWalk, pruned: Version, newest: Version, lost: Sequence[DataFile]
) -> Iterator[Wrong]:
    """Versions count up from 1 without a gap, but for those that a prune forgot, and the newest is
    the one that the log names.

    Args:
        rows: all of them.
        walk: what the log tells of versions.
        pruned: the newest version that a prune forgot, as the log has it.
        newest: the newest version by the log.
        lost: data files whose rows are not among them: what they had is told of already.
    """
    if not newest:
        yield Wrong("the pond has no version, not even an empty root: restore it from a backup")
        return
    if len(rows.there) and int(rows.version.max()) > newest:
        yield Wrong(
            f"rows are of version {rows.version.max()}, but the newest in the log is {newest}: "
            "restore _delta_log from a backup"
        )
    for jump in walk.jumps:
        yield Wrong(f"{jump}: restore _delta_log from a backup")
    missing = _missing(rows, pruned, newest, lost)
    for first, last in _runs(missing):
        yield Wrong(
            f"{_called(first, last)} missing, and no prune forgot "
            f"{'it' if first == last else 'them'}: restore the pond from a backup"
        )


def note_gaps(
    rows: Versions, newest: Version, lost: Sequence[DataFile], notes: list[str]
) -> Version:
    """Say which versions are not there, where nobody knows of prunes.

    Returns: up to which versions may be missing.
    """
    up_to = Version(max(newest - 1, 0))
    missing = _missing(rows, Version(0), up_to, lost)
    runs = ", ".join(_called(first, last) for first, last in _runs(missing)[:_MOST_RUNS])
    if runs:
        more = " and more" if len(_runs(missing)) > _MOST_RUNS else ""
        notes.append(
            f"{runs} not there{more}: an earlier pondfs pruned the pond and left no mark, or they "
            "are lost"
        )
    return up_to


def _missing(rows: Versions, pruned: Version, newest: Version, lost: Sequence[DataFile]) -> Ints:
    """Return the versions that should be there and are not, but for those in *lost* files."""
    missing = np.setdiff1d(np.arange(pruned + 1, newest + 1), rows.there)
    if newest and newest not in rows.there and newest <= pruned:
        missing = np.append(missing, newest)
    for file in lost:
        missing = missing[(missing < file.min_version) | (missing > file.max_version)]
    return missing


def _called(first: int, last: int) -> str:
    return f"version {first} is" if first == last else f"versions {first} to {last} are"


def _runs(numbers: Ints) -> list[tuple[int, int]]:
    """Return the runs of numbers that follow each other: first and last."""
    if not len(numbers):
        return []
    ends = np.flatnonzero(np.diff(numbers) != 1)
    firsts = numbers[np.append(0, ends + 1)].tolist()
    return list(zip(firsts, numbers[np.append(ends, len(numbers) - 1)].tolist(), strict=True))


@invariant("tags", mend="takes the tag off")
def tags_name_versions(rows: Versions, tags: Mapping[str, Version]) -> Iterator[Wrong]:
    """Every tag names a version that is there."""
    for name in loose_tags(rows, tags):
        version = tags[name]
        yield Wrong(
            f"tag '{name}' is on version {version}, which is not there: 'pond repair' takes it off"
        )


def loose_tags(rows: Versions, tags: Mapping[str, Version]) -> list[str]:
    """Return the tags on versions that are not there."""
    return [name for name, version in tags.items() if version not in rows.there]
