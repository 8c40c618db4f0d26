"""kill -9 at every step of everything a store does: nothing acknowledged is lost, nothing is half.

The steps are the named points in the source, and none may be without a test here: the table below
has to have them all.
"""

from __future__ import annotations

import ast
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import trio

import pondfs
from pondfs.node import ROOT, Version
from pondfs.store.check import DAMAGED, check_store
from pondfs.store.delta import DeltaStore
from pondfs.store.deltalog import read_snapshot
from pondfs.store.journal import journal_path
from pondfs.store.request import COMPACT, PRUNE
from tests.campaign import Campaign
from tests.crash import every_step, test_repair
from tests.crash.every_step import cut_of, file_of
from tests.unit.store.histories import State, Walk, state, states
from tests.unit.store.support import committed, data_file_names, open_pond

COMMIT = (
    "commit:data-file", "data-file:fsync", "commit:store-dir-fsync", "commit:entry-fsync",
    "commit:link", "commit:log-dir-fsync", "commit:done",
)  # fmt: skip
ENTRY = COMMIT[3:]
CHECKPOINT = ("checkpoint:rename", "checkpoint:named", "checkpoint:done", "checkpoint:done:2")

STEPS: dict[tuple[str, str], tuple[str, ...]] = {
    ("create", "nothing"): (
        "create:directory", "create:marker", "create:cleared", "create:log-dir", "create:table",
        "create:unmarked", "create:done",
    ),
    ("commit", "walked"): ("stage:done", *COMMIT),
    ("journal", "walked"): ("journal:dir-fsync", "journal:write:3", "journal:sync", "journal:done"),
    ("open", "journaled"): ("commit:link", "replay:committed", "replay:done"),
    ("open", "a torn head"): ("aside:copied", "aside:unlinked"),
    ("open", "a damaged journal"): ("aside:journal",),
    ("open", "an abandoned compaction"): ("abandoned:unlink",),
    ("image", "walked"): ("cache:header:4", "cache:rename"),
    ("rows", "walked"): ("cache:header:2",),
    ("compact", "walked"): (
        "compact:data-file", "compact:store-dir-fsync", "compact:rename", "compact:written",
        "prune:entry", "prune:published", "prune:unlink",
    ),
    ("prune", "walked"): (
        "prune:data-file", "prune:store-dir-fsync", "prune:rename", "prune:written", "prune:entry",
        "prune:published", "prune:append-only", "prune:unlink:5", "prune:removed",
    ),
    ("log", "walked"): (*CHECKPOINT, "log:unlink", "log:unlinked", "log:cleaned"),
    ("strays", "with strays"): ("stray:unlink:2",),
    ("tag", "walked"): ("commit:log-dir-fsync",),
}  # fmt: skip
"""The points that each kind of work passes, on each kind of pond; with a number, that time."""

MORE: dict[tuple[str, str], tuple[str, ...]] = {
    ("create", "nothing"): COMMIT,
    ("commit", "walked"): ("data-file:fsync:2", "commit:link:2", "commit:done:3"),
    ("journal", "walked"): (
        "journal:write", "journal:write:2", "journal:write:4", "journal:sync:3", "journal:done:4",
        *COMMIT, "commit:link:2",
    ),
    ("open", "journaled"): tuple(point for point in COMMIT if point != "commit:link"),
    ("open", "a torn head"): ("replay:done",),
    ("open", "a damaged journal"): ("replay:done",),
    ("image", "walked"): ("cache:header", "cache:header:2", "cache:header:3", "cache:header:5"),
    ("rows", "walked"): ("cache:header", "cache:rename"),
    ("compact", "walked"): (
        "data-file:fsync", *ENTRY, "cache:rename", "prune:unlink:5", "prune:removed", *CHECKPOINT,
    ),
    ("prune", "walked"): (
        "data-file:fsync", *ENTRY, "commit:link:2", "commit:done:2", "prune:unlink", *CHECKPOINT,
    ),
    ("log", "walked"): ("log:unlink:9", "log:cleaned:3", "checkpoint:done:6"),
    ("strays", "with strays"): ("stray:unlink",),
    ("tag", "walked"): tuple(point for point in ENTRY if point != "commit:log-dir-fsync"),
}  # fmt: skip
"""What the long run does as well: points again, in other work or at other times."""

LINKED = ("commit:log-dir-fsync", "commit:done")
IN_PLACE = {
    *LINKED, "prune:published", "cache:rename", "prune:append-only", "prune:unlink",
    "prune:unlink:5", "prune:removed", *CHECKPOINT, "commit:link:2", "commit:done:2",
}  # fmt: skip
"""Points after which a prune or a compaction is done, as far as anybody can see."""

LIFTED = {*LINKED, "prune:published", "commit:link:2"}
"""Points at which a prune has lifted ``delta.appendOnly``, and not set it again."""


def points_in_source() -> set[str]:
    """Return every name that `fault` is called with anywhere in pondfs."""
    found: set[str] = set()
    for source in Path(pondfs.__file__).parent.rglob("*.py"):
        for call in ast.walk(ast.parse(source.read_text())):
            if isinstance(call, ast.Call) and ast.unparse(call.func) == "fault":
                found.update(_names(ast.unparse(call.args[0])))
    return found


def _names(source: str) -> list[str]:
    """Return what an argument of `fault` can be: a string, or one that begins with the kind."""
    if not source.startswith("f"):
        return [ast.literal_eval(source)]
    kind, _, tail = ast.literal_eval(source[1:]).partition(":")
    assert kind == "{self._kind}", source
    return [f"{kind}:{tail}" for kind in (PRUNE, COMPACT)]


def test_no_step_is_without_a_test() -> None:
    """A new point in the source has to be in `STEPS`, and so has to be reached by some work."""
    points = [point for each in STEPS.values() for point in each]
    points += [*test_repair.BEFORE, *test_repair.AFTER]  # on a pond of its own
    assert {":".join(point.split(":")[:2]) for point in points} == points_in_source()


class Pond:
    """A pond that is there before the work, and what it holds.

    Attributes:
        states: what each version holds; those that only a journal has are not among them.
        journaled: how many versions only the journal has.
    """

    def __init__(self, path: Path, states: dict[Version, State], journaled: int = 0) -> None:
        self.path = path
        self.states = states
        self.journaled = journaled

    @property
    def newest(self) -> Version:
        return max(self.states, default=Version(0))

    def copy(self, path: Path) -> Pond:
        shutil.copytree(self.path, path)
        return Pond(path, dict(self.states), self.journaled)


@pytest.fixture(scope="module")
def walked(tmp_path_factory: pytest.TempPathFactory) -> Pond:
    """Return a pond with a past of some twenty versions."""
    path = tmp_path_factory.mktemp("walked") / "pond"
    walk = Walk(path, 7)
    trio.run(walk.run, 60, 0.4)
    held = states(walk.store)
    walk.close()
    return Pond(path, held)


def journaled(pond: Pond) -> None:
    """Leave versions that only the journal has."""
    store = open_pond(pond.path)
    for version in (pond.newest + 1, pond.newest + 2):
        store.journal(cut_of(version, range(2)))
    store.close()
    pond.journaled = 2


def torn_head(pond: Pond) -> None:
    """Tear the newest log entry, as a disk that lied about fsync does: that version is lost."""
    entry = max((pond.path / "_delta_log").glob("*.json"))
    entry.write_bytes(entry.read_bytes()[:-30])
    del pond.states[pond.newest]


def damaged_journal(pond: Pond) -> None:
    """Damage a record with a whole one behind it: both versions are lost."""
    journaled(pond)
    path = Path(journal_path(os.fspath(pond.path)))
    data = bytearray(path.read_bytes())
    data[200] ^= 1
    path.write_bytes(data)
    pond.journaled = 0


def abandoned(pond: Pond) -> None:
    """Leave what a killed compaction was writing."""
    killed = kill("compact", "compact:store-dir-fsync", pond)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert list(pond.path.glob(".compact-*"))


def with_strays(pond: Pond) -> None:
    """Leave staged data files that no commit came for."""
    store = open_pond(pond.path)
    for _ in range(3):
        store.stage(Version(pond.newest + 1), 0, [every_step.row_of(pond.newest + 1, 0)])
    store.close()


PONDS: dict[str, Callable[[Pond], None]] = {
    "walked": lambda pond: None,
    "journaled": journaled,
    "a torn head": torn_head,
    "a damaged journal": damaged_journal,
    "an abandoned compaction": abandoned,
    "with strays": with_strays,
}


def kill(work: str, point: str, pond: Pond) -> subprocess.CompletedProcess[str]:
    """Do *work* until it is killed at *point*."""
    args = [str(version) for version in kept(pond)] if work == "prune" else []
    return subprocess.run(
        [sys.executable, "-m", every_step.__name__, work, os.fspath(pond.path), *args],
        env={**os.environ, "PONDFS_FAULT": point},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )


def kept(pond: Pond) -> list[Version]:
    """Return the versions that a prune keeps."""
    newest = pond.newest
    return sorted({newest, Version(newest // 2), Version(newest // 3)})


@pytest.mark.campaign
@pytest.mark.parametrize(("work", "kind"), list(STEPS))
def test_killed_anywhere(
    walked: Pond, tmp_path: Path, work: str, kind: str, campaign: Campaign
) -> None:
    """At each point of one kind of work, each time on a pond like the one before."""
    points = STEPS.get((work, kind), ()) + (MORE.get((work, kind), ()) if campaign.long else ())
    for point in points:
        if kind == "nothing":
            pond = Pond(tmp_path / point, {})
        else:
            pond = walked.copy(tmp_path / point)
            PONDS[kind](pond)
        killed = kill(work, point, pond)
        assert killed.returncode == -signal.SIGKILL, f"{point} was not reached: {killed.stderr}"
        acknowledged = max(map(int, killed.stdout.split()), default=pond.newest)
        if work == "create" and not DeltaStore.is_pond(pond.path):
            assert not acknowledged
            DeltaStore.create(pond.path)
        if work in (PRUNE, COMPACT):
            # Whoever looks on without opening it finds that only adding is allowed, but in a prune.
            snapshot = read_snapshot(os.fspath(pond.path / "_delta_log"))
            is_append_only = snapshot.metadata["configuration"]["delta.appendOnly"] == "true"
            assert is_append_only != (work == PRUNE and point in LIFTED), point
        check(pond, acknowledged, work, point)
        shutil.rmtree(pond.path)
    campaign.tell(
        f"kills: {work} on {kind}", rounds=1, faults=len(points), losses=0, note="kill -9 at a step"
    )


def check(pond: Pond, acknowledged: int, work: str, point: str) -> None:
    """It is no damage as it lies there. Open it: all is there, and it goes on."""
    left = check_store(pond.path, data=True)
    assert left.verdict != DAMAGED, f"{point}: {left.findings}"
    store = open_pond(pond.path)
    # A head that is not whole is told of as long as it is there.
    assert len(store.notes) == (point == "aside:copied")
    found = states(store)
    newest = max(found)
    if work == "create":
        assert newest == 1
    else:
        least = max(acknowledged, pond.newest + pond.journaled)
        assert least <= newest <= least + (work not in (PRUNE, COMPACT, "image", "open", "tag"))
    if work == PRUNE and point in IN_PLACE:
        assert sorted(found) == kept(pond)
    elif work != "log":
        assert sorted(found) == list(range(1, newest + 1))
    for version, held in found.items():
        if version <= pond.newest:
            assert held == pond.states[version]
        elif work != "create":
            check_steps(held, pond.states[pond.newest], range(pond.newest + 1, version + 1), work)
    if work == "tag":
        # Not acknowledged at any of these points, but there once it is in the log.
        assert store.list_tags() == ({"kept": newest} if point in LINKED else {})
    # Nothing is left of either side but strays, which go when they are old.
    store.remove_strays(-1)
    store.remove_pruned(now=True)
    store.commit(cut_of(newest + 1, range(2)))
    store.close()
    assert data_file_names(pond.path) == committed(pond.path)
    report = check_store(pond.path, data=True)
    assert report.findings == (), report.findings
    again = DeltaStore.open_reader(pond.path)
    assert states(again) == {**found, Version(newest + 1): state(again, Version(newest + 1))}
    again.close()


def check_steps(held: State, before: State, versions: range, work: str) -> None:
    """A version holds what was there before the work, and the files of the steps up to it."""
    numbers = 1 if work == "log" else 2
    files = [file_of(version, number) for version in versions for number in range(numbers)]
    for node, name, data in files:
        assert held[node][1] == data
        assert held[ROOT][1][name] == node
    names = {name for _, name, _ in files}
    nodes = {node for node, _, _ in files}
    left = {name: node for name, node in held[ROOT][1].items() if name not in names}
    assert left == before[ROOT][1]
    assert {n: s for n, s in held.items() if n not in nodes | {ROOT}} == {
        n: s for n, s in before.items() if n != ROOT
    }
