"""Carrying out a prune's plan up to the point where it counts.

Only files that lose something are written anew; what follows each other is put together.
"""

from collections.abc import Iterator
from dataclasses import asdict
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa

from pondfs.oplog import VersionInfo
from pondfs.store.history import ints
from pondfs.store.prune import Plan, Progress
from pondfs.store.request import PRUNE, Rewritten
from pondfs.store.rewrite import COLUMNS, GROUP_ROWS, ROW_BYTES, Rows, Writer, cut_groups
from pondfs.store.scan import read_rows

FULL_BYTES = 64 << 20
"""New data files are about this large, if what follows each other is as much."""


def write_files(plan: Plan, progress: Progress = lambda what, share: None) -> Rewritten:
    """Write what stays of the plan's files, and the request to put it in their place.

    Durability: the new data files and their names are fsynced on return.
    Raises: OSError, StoreDamaged; what was written is gone then.
    """
    spans = [plan.rows_of(number) for number in plan.touched]
    writer = Writer(
        plan.store,
        PRUNE,
        [plan.files[number] for number in plan.touched],
        [span.stop - span.start for span in spans],
    )
    try:
        for done, batch, size in _batches(plan):
            progress("writing", done)
            rows = _load(plan, batch).clustered()
            writer.write(cut_groups(rows, GROUP_ROWS), partial(int, size), FULL_BYTES)
        return writer.finish(
            {
                "kept": [version_facts(info) for info in plan.kept],
                "forgotten": len(plan.forgotten),
            }
        )
    except BaseException:
        writer.discard()
        raise
    finally:
        writer.close()


def _batches(plan: Plan) -> Iterator[tuple[float, list[int], int]]:
    """Yield places in *touched* with nothing in between, each lot up to one full file.

    With each, how much was done before it, and its bytes, about.
    """
    batch: list[int] = []
    size = 0
    kept = np.append(0, np.cumsum(plan.keep))
    for at, number in enumerate(plan.touched):
        rows = plan.rows_of(number)
        count = int(kept[rows.stop] - kept[rows.start])
        new = int(plan.live_bytes[number]) + count * ROW_BYTES
        # What stays as it is between two would come to lie inside the new file's versions.
        apart = at > 0 and number > plan.touched[at - 1] + 1
        if batch and (apart or size + new > FULL_BYTES):
            yield at / len(plan.touched), batch, size
            batch, size = [], 0
        if count:
            batch.append(at)
            size += new
    if batch:
        yield 1.0, batch, size


def _load(plan: Plan, batch: list[int]) -> Rows:
    parts: list[Rows] = []
    for at in batch:
        number = plan.touched[at]
        scan = read_rows([plan.files[number]], COLUMNS)
        span = plan.rows_of(number)
        length = np.where(plan.strip[span], 0, ints(scan.table, "length"))
        all_rows = Rows(scan.table, np.full(len(length), at), scan.row, scan.position, length)
        some = np.flatnonzero(plan.keep[span])
        parts.append(all_rows if len(some) == len(length) else all_rows.take(some))
    tables, *columns = zip(*parts, strict=True)
    return Rows(pa.concat_tables(tables), *map(np.concatenate, columns))


def version_facts(info: VersionInfo) -> dict[str, Any]:
    """Return a version as a log entry carries it."""
    facts = asdict(info)
    del facts["timestamp"]
    return {**facts, "time_ns": info.time_ns}
