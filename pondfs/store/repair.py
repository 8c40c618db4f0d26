"""Mending what a check found, without inventing data: as one version, made as any commit.

Nothing is deleted. What the tree can't have any more (a name that leads nowhere, a second place of
a directory) is removed in the new version, and stays in those before; what nothing leads to gets
a name in ``lost+found``. Rows that are there are never changed, so what is wrong with a row that
another row can't put right is refused, and so is everything then: a part of a tree that is mended
while its other half is missing would be in the way when that comes back from a backup.

Not beside a mount: its daemon, and the kernel above it, have the tree in memory as it was.

What a crash leaves: the pond as it was found, or the new version; then caches that are made anew
at the next opening, and perhaps a tag or a checkpoint to mend by running it again.
"""

import os
import time
from dataclasses import dataclass

from pondfs.node import Version
from pondfs.oplog import Cut, Summary
from pondfs.store.check.data import Progress
from pondfs.store.check.examine import examine
from pondfs.store.check.log import walk_log
from pondfs.store.check.report import CLEAN, DAMAGED, Report
from pondfs.store.datafile import unlink_quietly
from pondfs.store.delta import DeltaStore
from pondfs.store.deltalog import LOG_DIR, checkpoint_name
from pondfs.store.faults import fault
from pondfs.store.lock import ReaderLock
from pondfs.store.repair_plan import OPENING, Plan, make_plan
from pondfs.store.table import POND_DIR

_MOST_TOLD = 2
"""Actions that the version's message names."""


@dataclass(slots=True)
class Outcome:
    """What a repair did, or would do.

    Attributes:
        before: what was found.
        actions: what was done about it, in a line each.
        version: the one it made; None when it made none.
        after: what is found now; None when nothing was done.
    """

    before: Report
    actions: list[str]
    version: Version | None = None
    after: Report | None = None


def repair_store(
    store: str | os.PathLike[str],
    *,
    dry_run: bool = False,
    progress: Progress = lambda what, share: None,
) -> Outcome:
    """Mend the pond in *store*, unless something is beyond repair: nothing is done then.

    Durability: all of it is durable on return.
    Raises: NotAPond; PondLocked when it is mounted; OSError as the disk says.
    """
    path = os.path.abspath(os.fspath(store))
    before, plan = _look(path, progress)
    if dry_run or before.verdict in (CLEAN, DAMAGED):
        return Outcome(before, plan.actions)
    version = _mend(path, plan, progress)
    return Outcome(before, plan.actions, version, _look(path, progress)[0])


def _look(path: str, progress: Progress) -> tuple[Report, Plan]:
    lock = ReaderLock(os.path.join(path, POND_DIR))
    try:
        report, tree = examine(path, data=False, at=None, progress=progress)
    finally:
        lock.release()
    return report, make_plan(report, tree)


def _mend(path: str, plan: Plan, progress: Progress) -> Version | None:
    store = DeltaStore.open_writer(path, mountpoint="", socket="", mending=True)
    try:
        # Opening took over what a crash left, so the tree may be another than it was a moment ago.
        report, tree = examine(path, data=False, at=None, progress=progress)
        if report.verdict == DAMAGED:
            # The rest is not done: only what opening did.
            plan.actions = [action for action in plan.actions if action in OPENING.values()]
            return None
        late = make_plan(report, tree)
        known = set(plan.actions)
        plan.actions += [action for action in late.actions if action not in known]
        caches = {*plan.caches, *late.caches}
        for name in caches:
            unlink_quietly(os.path.join(path, POND_DIR, name))
        fault("repair:caches")
        version = None
        if late.rows:
            version = Version(store.version + 1)
            store.commit(_cut(version, late))
            fault("repair:committed")
        for tag in late.tags:
            store.put_tag(tag, None)
            fault("repair:tag")
        if plan.checkpoint or late.checkpoint:
            store.checkpoint(now=True)
            _remove_unreadable(path)
            fault("repair:checkpoint")
        if caches or version is not None:
            store.save_image()
        fault("repair:done")
        return version
    finally:
        store.close()


def _remove_unreadable(path: str) -> None:
    """Remove checkpoints nobody can read, now that a new one says what they were to say."""
    log_dir = os.path.join(path, LOG_DIR)
    for number in walk_log(log_dir).unreadable:
        unlink_quietly(os.path.join(log_dir, checkpoint_name(number)))


def _cut(version: Version, plan: Plan) -> Cut:
    operations = sum(row.is_operation for row in plan.rows)
    summary = Summary(
        message=f"repair: {'; '.join(plan.actions[:_MOST_TOLD])}"
        + (f"; {len(plan.actions) - _MOST_TOLD} more" if len(plan.actions) > _MOST_TOLD else ""),
        operations=operations,
        nodes_created=plan.created,
        nodes_changed=operations - plan.created,
    )
    return Cut(version, time.time_ns(), plan.rows, summary)
