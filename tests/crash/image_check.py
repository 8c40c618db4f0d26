"""Is what a crash left still the pond that people were promised? Opened as a mount would open it.

What was acknowledged is there, the rest whole or not at all, every version is one of the trees
there were, `check_store` finds nothing, and the pond goes on from there.
"""

from __future__ import annotations

import os
import random
import stat
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pondfs.node import ROOT, NodeId, Version
from pondfs.store import is_pond
from pondfs.store.check import check_store
from pondfs.store.delta import DeltaStore
from tests.crash.journal import Journal, Step, TreeModel, find_state, makes_durable, may_cut
from tests.unit.store.support import file_row, make_cut, open_pond, read_file

AFTERWARDS = b"written after the crash"
_NODE = (1 << 62) + 1


@dataclass
class Promise:
    """What a pond owes after a crash: the steps begun by then, and how many of them ended."""

    journal: Journal
    trees: list[str] = field(default_factory=list)
    """The digest of the tree before the first step, and after each."""

    @classmethod
    def of(cls, steps: Sequence[Step], done: int) -> Promise:
        """Return what is owed after *steps*, of which *done* have ended."""
        return cls(Journal(list(steps), done), digests(steps))

    def upto(self, begun: int, done: int) -> Promise:
        """Return what is owed at an earlier moment."""
        return Promise(Journal(self.journal.steps[:begun], done), self.trees[: begun + 1])

    def has_ended(self, what: str) -> bool:
        """Return whether pondfs said that it had done *what*, at any time."""
        return any(step[:2] == ["pond", what] for step in self.journal.steps[: self.journal.done])

    def tags(self) -> tuple[set[str], set[str]]:
        """Return the tags there have to be, and those there may be."""
        least: set[str] = set()
        most: set[str] = set()
        for number, step in enumerate(self.journal.steps):
            if step[:2] == ["pond", "tag"]:
                most.add(str(step[2]))
                if number < self.journal.done:
                    least.add(str(step[2]))
            elif step[:2] == ["pond", "untag"]:
                least.discard(str(step[2]))
                if number < self.journal.done:
                    most.discard(str(step[2]))
        return least, most

    def cuts(self) -> list[tuple[int, str]]:
        """Return the trees of which versions may have been made: at which step, and the digest."""
        steps = self.journal.steps
        found = [(0, self.trees[0])]
        found += [(at, self.trees[at]) for at, step in enumerate(steps) if may_cut(step)]
        return found


def digests(steps: Iterable[Step]) -> list[str]:
    """Return the digest of the tree before the first of *steps*, and after each."""
    tree = TreeModel()
    found = [tree.digest()]
    for step in steps:
        tree.apply(step)
        found.append(found[-1] if makes_durable(step) or may_cut(step) else tree.digest())
    return found


def tree_of(store: DeltaStore, version: Version | None) -> TreeModel:
    """Return the tree of *version* (None: the newest), every file read.

    Raises: AssertionError where it contradicts itself.
    """
    image = store.load_image_at(version)
    tree = TreeModel()
    links: dict[int, int] = {}
    todo: list[tuple[NodeId, str]] = [(ROOT, "")]
    while todo:
        directory, above = todo.pop()
        for name, node_id in image.load_entries(directory).items():
            path = above + os.fsdecode(name)
            node = image.find_node(node_id)
            assert node is not None, f"{path} leads nowhere"
            if stat.S_ISDIR(node.attr[0]):
                tree.directories.add(path)
                todo.append((node_id, f"{path}/"))
                continue
            tree.names[path] = node_id
            links[node_id] = node.attr[3]
            if node_id not in tree.contents:
                tree.contents[node_id] = read_file(store, image, node_id)
    found = list(tree.names.values())
    for number, count in links.items():
        assert found.count(number) == count, f"a file has nlink {count}"
    return tree


def check_pond(path: Path, promise: Promise, rng: random.Random, versions: int | None) -> None:
    """Open the pond at *path* as after a crash; raise AssertionError where a promise is broken.

    Args:
        path: the store, which may not be there if no pond was promised.
        promise: see above.
        rng: chooses the versions that are read.
        versions: how many older versions are compared with the trees there were; None: all.
    """
    if not is_pond(path):
        assert not promise.has_ended("mount"), "there is no pond"
        DeltaStore.create(path)
        promise = Promise.of([], 0)
    store = open_pond(path)
    try:
        assert store.notes == [], store.notes
        found = tree_of(store, None)
        find_state(TreeModel(), promise.journal, found, at_fsyncs_only=True)
        _check_versions(store, promise, rng, versions)
        tags, (least, most) = set(store.list_tags()), promise.tags()
        assert least <= tags <= most, f"tags {tags}, promised {least} to {most}"
        newest = store.version
        # Recovery itself may have written: all of it has to be as good as what was there.
        store.commit(make_cut(newest + 1, [file_row(_NODE, AFTERWARDS, b"afterwards")]))
        found.names["afterwards"] = _NODE
        found.contents[_NODE] = AFTERWARDS
    finally:
        store.close()
    report = check_store(path, data=True)
    assert report.findings == (), report.findings
    again = DeltaStore.open_reader(path)
    try:
        assert again.version == newest + 1
        assert not found.differences(tree_of(again, None)), "another tree at the second opening"
    finally:
        again.close()


def _check_versions(
    store: DeltaStore, promise: Promise, rng: random.Random, count: int | None
) -> None:
    """Every version is a tree there was at a cut, and they are in order."""
    listed = sorted(info.version for info in store.list_versions())
    is_dense = listed == list(range(1, len(listed) + 1))
    begun = any(step[:2] == ["pond", "prune"] for step in promise.journal.steps)
    assert is_dense or (begun and 1 not in listed), f"versions are missing: {listed}"
    assert not (is_dense and promise.has_ended("prune")), "what was pruned is back"
    chosen = listed if count is None else sorted(rng.sample(listed, min(count, len(listed))))
    cuts = promise.cuts()
    at = 0
    for version in chosen:
        digest = tree_of(store, version).digest()
        steps = [step for step, tree in cuts if tree == digest]
        assert steps, f"version {version} is a tree that there never was"
        assert steps[-1] >= at, f"version {version} is older than the one before it"
        at = next(step for step in steps if step >= at)
