"""Files of a store with flipped, cut, zeroed and inserted bytes: the right tree, or an error.

Each change is made to one file of a small pond; then all its versions are read, with all bytes,
the log and the tags. Never may something else be there without an error that names a file.
"""

from __future__ import annotations

import collections
import logging
import shutil
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pondfs.errors import PondError
from pondfs.store import images
from pondfs.store.delta import DeltaStore
from tests.campaign import Campaign
from tests.fuzz.damage import Looked, Seen, check, files_of, make_pond, see
from tests.fuzz.mutations import Mutation, mutations
from tests.fuzz.settings import fuzzing
from tests.unit.store.histories import states
from tests.unit.store.support import extent_row, file_row, make_cut, open_pond, size_row


@pytest.fixture(scope="module", autouse=True)
def _save_at_once() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(images, "WORTH_ROWS", 1)
        logging.disable(logging.CRITICAL)
        yield
        logging.disable(logging.NOTSET)


@pytest.fixture(scope="module", params=["plain", "compacted"])
def pond(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("fuzz") / "pond"
    make_pond(path, 5, compacted=request.param == "compacted")
    return path


@pytest.mark.campaign
@pytest.mark.parametrize("place", ["_delta_log", "parquet", "_pond"])
def test_no_damage_shows_a_wrong_tree(pond: Path, place: str, campaign: Campaign) -> None:
    right, notes = see(pond)
    assert not notes
    files = [file for file in files_of(pond) if is_in(pond, file, place)]
    found: collections.Counter[str] = collections.Counter()

    @fuzzing(campaign, suite=40, long=15_000)
    @given(st.sampled_from(files), mutations())
    def damage(file: Path, mutation: Mutation) -> None:
        before = file.read_bytes()
        if (mutated := mutation.apply(before)) != before:
            found[check(pond, file, mutated, right)] += 1

    damage()
    assert found["told"] or place == "_pond", f"no damage was told: {found}"
    assert see(pond) == (right, [])
    is_compacted = any(file.name.endswith(".checkpoint.parquet") for file in files_of(pond))
    tell(f"{place}, {'compacted' if is_compacted else 'plain'}", found, campaign)


def is_in(pond: Path, file: Path, place: str) -> bool:
    if place == "parquet":
        return file.suffix == ".parquet" and file.parent == pond
    return file.parent == pond / place


@pytest.mark.campaign
def test_a_damaged_journal_gives_what_is_whole_of_it(tmp_path: Path, campaign: Campaign) -> None:
    """Versions up to some point, each as it was: or an error. What is left out is told."""
    path = tmp_path / "pond"
    DeltaStore.create(path)
    store = open_pond(path)
    ends = [0]
    for version in range(2, 7):
        rows = [file_row(version, b"v%d" % version * 40, b"f%d" % version)]
        if version > 3:
            rows += [extent_row(2, version * 10, b"x" * version), size_row(2, version * 11)]
        store.journal(make_cut(version, rows, message=f"m{version}"))
        ends.append(store._journal.used_bytes)
    journal = path / "_pond" / "journal"
    before = journal.read_bytes()
    records = [before[start:stop] for start, stop in pairwise(ends)]
    store._let_go()  # as a crash does: nothing is published
    whole = tmp_path / "whole"
    shutil.copytree(path, whole)
    right, _ = look_as_writer(whole)
    assert len(right.states) == 6
    used = before.rstrip(b"\0")
    found: collections.Counter[str] = collections.Counter()

    @fuzzing(campaign, suite=40, long=5_000)
    @given(mutations())
    def damage(mutation: Mutation) -> None:
        mutated = mutation.apply(used)
        copy = tmp_path / "copy"
        shutil.copytree(path, copy)
        try:
            (copy / "_pond" / "journal").write_bytes(mutated + before[len(used) :])
            seen, notes = look_as_writer(copy)
        except PondError:
            found["told"] += 1
            return
        finally:
            shutil.rmtree(copy)
        if seen == right:
            found["right"] += 1
            return
        kept = sorted(seen.states)
        assert kept == list(range(1, len(kept) + 1))
        assert all(seen.states[version] == right.states[version] for version in kept)
        assert [info.version for info in seen.log] == kept[::-1]
        # Of a torn last record nobody was told; whole ones behind a bad one were acknowledged.
        lost = any(record in mutated for record in records[len(kept) :])
        assert bool(notes) == lost
        found["told" if notes else "torn"] += 1

    damage()
    assert found["told"], f"no damage was told: {found}"
    tell("journal", found, campaign)


def tell(name: str, found: collections.Counter[str], campaign: Campaign) -> None:
    rounds = sum(found.values())
    note = ", ".join(f"{kind} {count}" for kind, count in sorted(found.items()))
    campaign.tell(
        f"fuzz: {name}", rounds=rounds, faults=rounds - found["right"], losses=0, note=note
    )


def look_as_writer(path: Path) -> Looked:
    store = open_pond(path)
    try:
        return Seen(states(store), store.list_versions(), store.list_tags()), list(store.notes)
    finally:
        store.close()
