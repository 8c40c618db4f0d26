"""What a disk can hold after the power went: made of a trace, one of many possible ones at a time.

The disk that is assumed (the terms are those of ALICE, Pillai et al., OSDI 2014):

- An operation is whole once a sync that began after it has returned: of the file for its bytes and
  its size, of a directory for the names in it. Syncing a new file does not keep its name.
- Of all others any subset may be there, in any order: later ones without earlier ones, of one file
  or of several.
- A name changes whole or not at all, a rename of two directories as well.
- A write is torn: any of its sectors may be there. The size may have grown without them, or in
  part; what is there in their place is zeros, or anything.

An *ordered* disk is the mild one that many programs seem to rely on: everything up to some
operation, in order, the last of them torn.
"""

from __future__ import annotations

import hashlib
import math
import os
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.crash.disk_trace import ROOT, Names, Op, Resize, Sync, Trace, Write

SECTORS = (512, 4096)
RECENT = 12
"""Operations that were not synced and are younger than all others: those vary the most."""

KINDS = (
    "ordered", "torn", "none", "all", "names", "garbage", "bytes", "last", "but one",
    "few", "half", "most",
)  # fmt: skip
_CHANCES = {"few": 0.15, "half": 0.5, "most": 0.85}

Entry = bytes | None
"""A file's bytes; None for a directory."""


@dataclass(frozen=True, slots=True)
class Cut:
    """Which image of a trace: when the power went, what kind of disk, and which of many.

    Attributes:
        line: of the trace; calls that ended on it or before have ended.
    """

    line: int
    kind: str
    seed: int

    def __str__(self) -> str:
        return f"cut at line {self.line}, kind '{self.kind}', seed {self.seed}"


@dataclass(frozen=True, slots=True)
class Image:
    """What is on the disk, by path; and how it came to be, operation by operation."""

    entries: dict[str, Entry]
    choices: list[str]

    def digest(self) -> str:
        """Return the same for two images exactly if they hold the same."""
        whole = hashlib.sha256()
        for path, data in sorted(self.entries.items()):
            size = -1 if data is None else len(data)
            whole.update(f"{path}\0{size}\0".encode())
            whole.update(data or b"")
        return whole.hexdigest()

    def write(self, place: Path) -> None:
        """Put it into the directory *place*, which is made."""
        place.mkdir()
        for path, data in sorted(self.entries.items()):
            target = place / path
            if data is None:
                target.mkdir(0o700)
            else:
                fd = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
                with open(fd, "wb") as file:
                    file.write(data)


class Disk:
    """Makes images of what *trace* wrote; syncs that *ignores* says yes to count for nothing."""

    def __init__(self, trace: Trace, ignores: Callable[[Sync], bool] = lambda sync: False) -> None:
        self._trace = trace
        by_object: dict[int, list[Sync]] = {}
        for sync in trace.syncs:
            if not ignores(sync):
                by_object.setdefault(sync.object, []).append(sync)
        self._safe = [self._safe_from(op, by_object) for op in trace.ops]

    @staticmethod
    def _safe_from(op: Op, by_object: dict[int, list[Sync]]) -> float:
        """Return the line from which the operation is on the disk for good."""
        if isinstance(op.effect, Names):
            objects = {directory for directory, _, _ in op.effect.changes}
        else:
            objects = {op.effect.file}
        syncs = [sync for each in objects for sync in by_object.get(each, ())]
        return min((sync.end for sync in syncs if sync.start > op.end), default=math.inf)

    def lines(self) -> list[int]:
        """Return where the power may go: wherever that may make a difference."""
        trace = self._trace
        ends = {op.end for op in trace.ops} | {sync.end for sync in trace.syncs}
        return sorted(ends | {mark.start for mark in trace.marks})

    def image(self, cut: Cut) -> Image:
        """Return one of the images that are possible."""
        rng = random.Random(f"{cut.line} {cut.kind} {cut.seed}")
        names: dict[int, dict[str, int]] = {number: {} for number in self._trace.directories}
        files: dict[int, bytearray] = {}
        choices = []
        for op, how in self._choose(cut, rng):
            choices.append(f"{how.told:<8} {op.start}-{op.end} {op.label}")
            if isinstance(op.effect, Names):
                if how.is_whole:
                    _point(names, op.effect)
            else:
                file = op.effect.file
                _fill(files.setdefault(file, bytearray()), op.effect, how, rng)
        return Image(dict(_walk(names, files, ROOT, "")), choices)

    def _choose(self, cut: Cut, rng: random.Random) -> Iterator[tuple[Op, How]]:
        """Yield the operations in question, each with how much of it there is."""
        begun = [(op, safe) for op, safe in zip(self._trace.ops, self._safe, strict=True)
                 if op.start <= cut.line]  # fmt: skip
        loose = [op for op, safe in begun if safe > cut.line]
        ended = [op for op in loose if op.end <= cut.line]
        recent = set(map(id, loose[-RECENT:]))
        mild = cut.kind in _CHANCES and rng.random() < 0.5
        one = rng.choice(loose[-RECENT:]) if loose else None
        sector = rng.choice(SECTORS)
        for op, safe in begun:
            if safe <= cut.line:
                yield op, SAFE
                continue
            has_ended = op.end <= cut.line
            is_write = isinstance(op.effect, Write)
            match cut.kind:
                case "ordered":
                    how = WHOLE if has_ended else NOTHING
                case "torn":
                    is_last = bool(ended) and op is ended[-1]
                    how = WHOLE if has_ended and not is_last else NOTHING
                    if is_last and is_write:
                        how = _torn(rng, sector, 0.5)
                case "none":
                    how = NOTHING
                case "all":
                    how = WHOLE
                case "names" | "garbage":
                    is_garbage = cut.kind == "garbage"
                    how = How(grows=True, garbage=is_garbage) if is_write else WHOLE
                case "bytes":
                    how = NOTHING if isinstance(op.effect, Names) else WHOLE
                case "last":
                    how = WHOLE if op is loose[-1] else NOTHING
                case "but one":
                    how = NOTHING if op is one else WHOLE
                case _:
                    chance = _CHANCES[cut.kind]
                    if mild and id(op) not in recent:
                        how = WHOLE
                    elif is_write and rng.random() < 0.5:
                        how = _torn(rng, sector, chance)
                    else:
                        how = WHOLE if rng.random() < chance else NOTHING
            yield op, how


@dataclass(frozen=True, slots=True)
class How:
    """How much of an operation is there. Without *sector*, all of it or nothing.

    Attributes:
        grows: of a write that made the file longer: whether the file is, by some sectors at least.
        garbage: whether what a file grew by is anything at all, where nothing was written.
        sector: bytes that are there whole or not at all; 0: the whole write is one.
        chance: of each of them to be there.
    """

    is_whole: bool = False
    grows: bool = False
    garbage: bool = False
    sector: int = 0
    chance: float = 0.0
    told: str = "part"


SAFE = How(is_whole=True, told="synced")
WHOLE = How(is_whole=True, told="whole")
NOTHING = How(told="-")


def _torn(rng: random.Random, sector: int, chance: float) -> How:
    return How(
        grows=rng.random() < 0.7, garbage=rng.random() < 0.3, sector=sector, chance=chance,
        told="torn",
    )  # fmt: skip


def _fill(data: bytearray, effect: Write | Resize, how: How, rng: random.Random) -> None:
    if isinstance(effect, Resize):
        if how.is_whole:
            del data[effect.size :]
            data.extend(bytes(effect.size - len(data)))
        return
    end = effect.offset + len(effect.data)
    before = len(data)
    if (how.is_whole or how.grows) and end > before:
        size = end
        if how.sector and rng.random() < 0.5:
            size = min(end, rng.randrange(before, end) // how.sector * how.sector + how.sector)
        data.extend(bytes(size - before))
        start = max(before, effect.offset)
        if how.garbage and start < size:
            data[start:size] = rng.randbytes(size - start)
    if how.is_whole:
        data[effect.offset : end] = effect.data
    elif how.sector:
        first = effect.offset - effect.offset % how.sector
        for at in range(first, end, how.sector):
            # Without the size, what lies beyond the old end is not there.
            start, stop = max(at, effect.offset), min(at + how.sector, end, len(data))
            if start < stop and rng.random() < how.chance:
                data[start:stop] = effect.data[start - effect.offset : stop - effect.offset]


def _point(names: dict[int, dict[str, int]], effect: Names) -> None:
    for directory, name, target in effect.changes:
        if target is None:
            names[directory].pop(name, None)
        else:
            names[directory][name] = target


def _walk(
    names: dict[int, dict[str, int]], files: dict[int, bytearray], directory: int, above: str
) -> Iterator[tuple[str, Entry]]:
    for name, target in names[directory].items():
        if target in names:
            yield above + name, None
            yield from _walk(names, files, target, f"{above}{name}/")
        else:
            yield above + name, bytes(files.get(target, b""))
