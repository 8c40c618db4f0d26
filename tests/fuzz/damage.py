"""Ponds to be damaged, and what may be seen of one that is: all of it, or an error that names it.

The newest log entry is the exception: where it is cut off or zeros, or its data file is, a crash
may have torn it, and the pond opens at the version before, saying so.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import trio

from pondfs.errors import PondError
from pondfs.node import Version
from pondfs.store.delta import DeltaStore
from tests.unit.store.histories import Walk, states
from tests.unit.store.support import open_pond
from tests.unit.store.test_compact import compact


@dataclass(frozen=True)
class Seen:
    """What a pond holds: each version's tree with all bytes, the log, the tags."""

    states: dict[Version, Any]
    log: list[Any]
    tags: dict[str, Version]

    def without_newest(self) -> Seen:
        """Return what is left when the newest log entry never came."""
        newest = max(self.states)
        return Seen(
            {version: state for version, state in self.states.items() if version != newest},
            [info for info in self.log if info.version != newest],
            self.tags,
        )


def see(path: Path) -> tuple[Seen, list[str]]:
    """Return all that a pond holds, and what opening it had to say."""
    store = DeltaStore.open_reader(path)
    try:
        return Seen(states(store), store.list_versions(), store.list_tags()), store.notes
    finally:
        store.close()


def make_pond(path: Path, seed: int, *, compacted: bool, steps: int = 40) -> None:
    """Make a pond of some versions, with all that may lie beside the table.

    With *compacted* most contents are compressed, and a checkpoint covers the first entries.
    """
    walk = Walk(path, seed)
    trio.run(walk.run, steps, 0.2)
    walk.close()
    store = open_pond(path)
    store.put_tag("pinned", Version(3))
    if compacted:
        compact(store)
        store.checkpoint(now=True)
    store.close()
    walk = Walk(path, seed + 1)
    trio.run(walk.run, steps // 4, 0.4)
    walk.store.load_image()
    walk.close()


def files_of(path: Path) -> list[Path]:
    """Return every file of a pond that may be damaged, by its name in it."""
    return sorted(
        found for found in path.rglob("*") if found.is_file() and found.name not in ("lock", "log")
    )


Looked = tuple[Seen, list[str]]


@contextmanager
def replaced(file: Path, data: bytes) -> Iterator[None]:
    """Have *file* hold *data* while inside; everything is as it was afterwards."""
    before = file.read_bytes()
    file.write_bytes(data)
    try:
        yield
    finally:
        file.write_bytes(before)


class WrongTree(AssertionError):
    """A damaged pond showed something else than it holds, and said nothing."""


def check(
    path: Path, file: Path, mutated: bytes, right: Seen, look: Callable[[Path], Looked] = see
) -> str:
    """Damage *file* and see what the pond shows.

    Returns: "right", "told", or "newest" when it opened at the version before and said so.
    Raises: WrongTree; whatever is no `PondError`.
    """
    with replaced(file, mutated):
        try:
            seen, notes = look(path)
        except PondError as error:
            if not names_a_file(path, str(error)):
                raise AssertionError(f"{error!r} does not say which file") from error
            return "told"
    if seen == right:
        return "right"
    if notes and seen == right.without_newest():
        return "newest"
    raise WrongTree(f"{file.relative_to(path)}: {differences(seen, right)}; notes: {notes}")


def names_a_file(path: Path, text: str) -> bool:
    return os.fspath(path) in text or any(f.name in text for f in files_of(path))


def differences(seen: Seen, right: Seen) -> str:
    """Say shortly where two differ."""
    found = []
    if seen.log != right.log:
        found.append(f"log {[s for s in seen.log if s not in right.log]}")
    if seen.tags != right.tags:
        found.append(f"tags {seen.tags}")
    for version in sorted({*seen.states, *right.states}):
        ours, theirs = seen.states.get(version), right.states.get(version)
        if ours is None or theirs is None:
            found.append(f"version {version} is {'missing' if ours is None else 'too many'}")
        elif ours != theirs:
            nodes = [n for n in {*ours, *theirs} if ours.get(n) != theirs.get(n)]
            found.append(
                f"version {version}: {len(nodes)} nodes: "
                + "; ".join(
                    f"{str(ours.get(n))[:300]} FOR {str(theirs.get(n))[:300]}" for n in nodes[:1]
                )
            )
    return "; ".join(found)[:1500]
