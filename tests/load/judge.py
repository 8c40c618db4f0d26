"""Which moment the tree of a mount is of, and whether what all share is as it was then.

A version is the whole tree at one moment, its cut: what had ended before is in it, what began later
is not. Each writer knows from its own directory when that moment can have been (CLOCK_MONOTONIC is
one clock for all); there must be one that suits all of them, not before the beginning of the last
acknowledged sync of anybody.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from tests.load.own import NEVER, Interval
from tests.load.shared import (
    COUNTERS,
    PLACES,
    RECORD_BYTES,
    TOKENS,
    Record,
    check_listing,
    generation_of,
    log_record,
    token,
)


def common(times: Iterable[list[Interval]], least: float) -> Interval:
    """Return the time within one of each list's intervals, not before *least*: from and until.

    Raises: AssertionError if there is none: what the writers found is not of one version, or older
        than what was acknowledged.
    """
    left = [(least, NEVER)]
    for intervals in times:
        both = [
            (max(begin, other[0]), min(end, other[1])) for begin, end in left for other in intervals
        ]
        rest = [(begin, end) for begin, end in both if begin <= end]
        assert rest, (
            f"there is no moment at which all was so: until here {left}, and then {intervals};"
            f" the last acknowledged sync began at {least}"
        )
        left = rest
    return min(begin for begin, _ in left), max(end for _, end in left)


class Judge:
    """What was done below *top*, and the moment the tree is of.

    ``lo``, ``hi``: the cut was not earlier, not later. With ``lo`` infinite, all that ended is in.
    """

    def __init__(self, top: Path, records: list[Record], lo: float, hi: float) -> None:
        self.top = top
        self.records = records
        self.lo = lo
        self.hi = hi

    def must(self, record: Record) -> bool:
        """Say whether it is in for certain."""
        ended = record["end"] is not None and record["end"] <= self.lo
        return ended or bool(record.get("durable"))

    def may(self, record: Record) -> bool:
        """Say whether it can be in."""
        return bool(record["begin"] <= self.hi)

    def of(self, what: str) -> list[Record]:
        """Return the records of one kind."""
        return [record for record in self.records if record["what"] == what]

    def check(self) -> None:
        """Check all of it."""
        self.check_log()
        for name in COUNTERS:
            self.check_counter(name)
        self.check_generations()
        self.check_tokens()
        self.check_slots()
        check_listing(os.listdir(self.top / "busy"))

    def check_log(self) -> None:
        """No record is lost, unknown, twice or out of its writer's order; none is torn but new."""
        content = (self.top / "log").read_bytes()
        known = {log_record(each["writer"], each["number"]): each for each in self.of("log")}
        pieces = [content[at : at + RECORD_BYTES] for at in range(0, len(content), RECORD_BYTES)]
        found = [known[piece] for piece in pieces if piece in known]
        assert all(map(self.may, found)), "log: a record that came later"
        keys = [(each["writer"], each["number"]) for each in found]
        assert len(keys) == len(set(keys)), "log: a record is there twice"
        for writer in {writer for writer, _ in keys}:
            numbers = [number for who, number in keys if who == writer]
            assert numbers == sorted(numbers), f"log: the records of {writer} are out of order"
        missing = [each for piece, each in known.items() if piece not in set(pieces)]
        lost = [each for each in missing if self.must(each)]
        assert not lost, f"log: {len(lost)} records are lost: {lost[:3]}"
        torn = len(pieces) - len(found)
        assert torn <= sum(map(self.may, missing)), f"log: {torn} pieces are nobody's"

    def check_counter(self, name: str) -> None:
        """No count was made twice; the value is one that somebody made, and not too old."""
        counts = self.of(name)
        ended = Counter(each["value"] for each in counts if each["end"] is not None)
        twice = [value for value, times in ended.items() if times > 1]
        assert not twice, f"{name}: {twice[:5]} were counted twice"
        value = int((self.top / "counters" / name).read_bytes())
        assert value in {0, *(each["value"] for each in counts if self.may(each))}, value
        lost = [each for each in counts if self.must(each) and each["value"] > value]
        assert not lost, f"{name}: it is {value}, and lost are {lost[:3]}"

    def check_generations(self) -> None:
        """What is there is whole, and no later one had taken its place."""
        made = {(each["writer"], each["number"]): each for each in self.of("current")}
        key = generation_of((self.top / "current").read_bytes())
        end = 0.0
        if key != (-1, 0):
            assert key in made, f"current: {key} was never made"
            assert self.may(made[key]), f"current: {key} came later"
            end = made[key]["end"] or NEVER
        later = [each for each in made.values() if self.must(each) and each["begin"] > end]
        assert not later, f"current: {key} was replaced by {later[:3]}"
        paths = [self.top / "current", *(self.top / "kept").iterdir()]
        links = Counter(path.stat().st_ino for path in paths)
        for path in paths:
            generation_of(path.read_bytes())
            assert path.stat().st_nlink == links[path.stat().st_ino], path

    def check_tokens(self) -> None:
        """Each is in one place: one it was brought to, and not taken away from again."""
        where: dict[int, str] = {}
        for place in range(PLACES):
            for name in os.listdir(self.top / "tokens" / str(place)):
                number = int(name.split(".")[0])
                path = f"tokens/{place}/{name}"
                assert number not in where, f"token {number}: {where[number]} and {path}"
                where[number] = path
                assert (self.top / path).read_bytes() == token(number), path
        assert len(where) == TOKENS, f"only tokens {sorted(where)}"
        moves = self.of("move")
        took = Counter(each["old"] for each in moves if each["end"] is not None)
        twice = [old for old, times in took.items() if times > 1]
        assert not twice, f"two writers took {twice}"
        by_new = {each["new"]: each for each in moves}
        taken = set()
        for number, path in where.items():
            while path in by_new:
                assert self.may(by_new[path]), f"token {number} came to {path} later"
                taken.add(path)
                path = by_new[path]["old"]
            assert path == f"tokens/{number % PLACES}/{number}.0", f"token {number}: {path}"
        lost = [each for each in moves if self.must(each) and each["new"] not in taken]
        assert not lost, f"moves are lost: {lost[:3]}"

    def check_slots(self) -> None:
        """Each has one winner, whose number is in it."""
        won = self.of("slot")
        winners = Counter(each["number"] for each in won if each["end"] is not None)
        twice = [number for number, times in winners.items() if times > 1]
        assert not twice, f"slots {twice[:5]} were won twice"
        found = {int(name): (self.top / "slots" / name).read_bytes() for name in
                 os.listdir(self.top / "slots")}  # fmt: skip
        for each in won:
            if self.must(each):
                assert found.get(each["number"]) == b"%d" % each["writer"], f"slot {each}"
        for number, content in found.items():
            possible = [each for each in won if each["number"] == number and self.may(each)]
            assert possible, f"slot {number} came later, or never"
            assert content in {b"", *(b"%d" % each["writer"] for each in possible)}, number
