"""What looks for losses finds them: each kind of damage, done to what was right."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.load import loose, shared
from tests.load.judge import Judge, common
from tests.load.own import NEVER, Own, Spent
from tests.load.shared import RECORD_BYTES, Record, Shared, log_record
from tests.mount.harness import run

WRITERS = 3


@pytest.fixture(scope="module")
def what_was_done(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Record]]:
    """What three writers did by turns in an ordinary directory, and their records."""
    top = tmp_path_factory.mktemp("shared")
    shared.prepare(os.fspath(top))
    rng = random.Random(5)
    writers = [Shared(number, rng, Spent(NEVER)) for number in range(WRITERS)]
    for writer in writers:
        writer.begin_in(os.fspath(top))
    for turn in range(600):
        writers[turn % WRITERS].act()
    return top, [record for writer in writers for record in writer.records]


@pytest.fixture
def done(what_was_done: tuple[Path, list[Record]], tmp_path: Path) -> tuple[Path, list[Record]]:
    """A copy of it, to be spoiled."""
    top, records = what_was_done
    run(["cp", "-a", top, tmp_path / "top"])
    return tmp_path / "top", [dict(record) for record in records]


def judge(top: Path, records: list[Record], *, lo: float = NEVER, hi: float = NEVER) -> None:
    Judge(top, records, lo, hi).check()


def test_what_is_right_passes(done: tuple[Path, list[Record]]) -> None:
    top, records = done
    judge(top, records)
    assert {each["what"] for each in records} == {
        *("log", "in-place", "renamed", "current", "move", "slot")
    }


def lose_log_record(top: Path) -> None:
    content = (top / "log").read_bytes()
    (top / "log").write_bytes(content[: -3 * RECORD_BYTES] + content[-2 * RECORD_BYTES :])


def tear_log(top: Path) -> None:
    content = bytearray((top / "log").read_bytes())
    content[RECORD_BYTES : RECORD_BYTES + 20] = bytes(20)
    (top / "log").write_bytes(content)


def double_log_record(top: Path) -> None:
    content = (top / "log").read_bytes()
    (top / "log").write_bytes(content + content[-RECORD_BYTES:])


def foreign_log_record(top: Path) -> None:
    with open(top / "log", "ab") as file:
        file.write(log_record(1, 10**6))


def swap_log_records(top: Path) -> None:
    content = (top / "log").read_bytes()
    pieces = [content[at : at + RECORD_BYTES] for at in range(0, len(content), RECORD_BYTES)]
    (top / "log").write_bytes(b"".join(reversed(pieces)))


def lose_count(top: Path) -> None:
    path = top / "counters" / "in-place"
    path.write_bytes(b"%020d\n" % (int(path.read_bytes()) - 1))


def count_more(top: Path) -> None:
    path = top / "counters" / "renamed"
    path.write_bytes(b"%020d\n" % (int(path.read_bytes()) + 1))


def old_generation(top: Path) -> None:
    (top / "current").unlink()
    (top / "current").write_bytes(shared.generation(-1, 0))


def half_generation(top: Path) -> None:
    content = (top / "current").read_bytes()
    (top / "current").write_bytes(content[:-1])


def half_kept(top: Path) -> None:
    kept = next((top / "kept").iterdir())
    content = kept.read_bytes()
    kept.unlink()
    kept.write_bytes(content + b"?")


def double_token(top: Path) -> None:
    found = next((top / "tokens" / "0").iterdir())
    shutil.copy(found, top / "tokens" / "1" / (found.name + ".copy"))


def lose_token(top: Path) -> None:
    next((top / "tokens" / "0").iterdir()).unlink()


def move_token(top: Path) -> None:
    found = next((top / "tokens" / "0").iterdir())
    number = found.name.split(".")[0]
    found.rename(top / "tokens" / str(int(number) % shared.PLACES) / f"{number}.0")


def spoil_token(top: Path) -> None:
    next((top / "tokens" / "0").iterdir()).write_bytes(shared.token(999))


def lose_slot(top: Path) -> None:
    (top / "slots" / "2").unlink()


def empty_slot(top: Path) -> None:
    (top / "slots" / "2").write_bytes(b"")


def foreign_slot(top: Path) -> None:
    (top / "slots" / "99999").write_bytes(b"1")


def lose_name(top: Path) -> None:
    (top / "busy" / "stays7").unlink()


@pytest.mark.parametrize(
    "damage",
    [
        *(lose_log_record, tear_log, double_log_record, foreign_log_record, swap_log_records),
        *(lose_count, count_more, old_generation, half_generation, half_kept, double_token),
        *(lose_token, move_token, spoil_token, lose_slot, empty_slot, foreign_slot, lose_name),
    ],
)
def test_damage_is_seen(done: tuple[Path, list[Record]], damage: Callable[[Path], None]) -> None:
    top, records = done
    damage(top)
    with pytest.raises(AssertionError):
        judge(top, records)


def test_what_two_say_they_had_is_seen(done: tuple[Path, list[Record]]) -> None:
    """A count, a token, a slot can't be two writers'."""
    top, records = done
    for what in ("in-place", "move", "slot"):
        one = next(each for each in records if each["what"] == what)
        with pytest.raises(AssertionError, match=r"twice|two writers"):
            judge(top, [*records, one | {"writer": 9}])


def test_what_was_not_synced_may_be_lost_but_not_what_was(
    done: tuple[Path, list[Record]],
) -> None:
    """The last record of the log: lost it may be, if the cut may have come before its end."""
    top, records = done
    content = (top / "log").read_bytes()
    (top / "log").write_bytes(content[:-RECORD_BYTES])
    last = max((each for each in records if each["what"] == "log"), key=lambda each: each["end"])
    judge(top, [each | {"durable": False} for each in records], lo=last["begin"])
    for changed in (last | {"durable": True}, last | {"begin": 0.0, "end": 1.0}):
        with pytest.raises(AssertionError, match="1 records are lost"):
            judge(top, [changed if each is last else each for each in records], lo=last["begin"])


def test_what_came_after_the_cut_is_seen(done: tuple[Path, list[Record]]) -> None:
    top, records = done
    with pytest.raises(AssertionError, match="later"):
        judge(top, records, lo=0.0, hi=max(each["begin"] for each in records) - 1e-6)


def test_there_is_one_moment_for_all() -> None:
    assert common([[(1, 5)], [(4, 9), (11, NEVER)], [(2, 4.5)]], 3) == (4, 4.5)
    with pytest.raises(AssertionError, match="no moment"):
        common([[(1, 5)], [(6, 9)]], 0)  # of two versions
    with pytest.raises(AssertionError, match="no moment"):
        common([[(1, 5)]], 6)  # older than what was acknowledged


def test_a_page_is_as_it_was_at_some_time() -> None:
    """Each for itself; and within a page, each byte."""
    old, new = b"a" * 10_000, b"b" * 12_000
    for found in (old, new, b"a" * 4096 + b"b" * 7904, b"b" * 50 + b"a" * 9950, b"b" * 11_000):
        loose.check(found, [old, new], "x")
    for found in (b"a" * 9999, b"b" * 12_001, b"a" * 4096 + b"c" + b"b" * 6000):
        with pytest.raises(AssertionError):
            loose.check(found, [old, new], "x")


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Own:
    """A writer's directory after it worked for a while; two steps of it are not synced."""
    (tmp_path / "own").mkdir()
    monkeypatch.chdir(tmp_path)
    own = Own(os.fspath(tmp_path / "own"), os.fspath(tmp_path / "journal"), 3, Spent(NEVER))
    for _ in range(150):
        own.act()
    own.step("create", "one")
    own.sync()
    own.step("rename", "one", "other")
    own.step("setxattr", "other", "user.a", "b")
    return own


@pytest.mark.parametrize("undone", [0, 1, 2])
def test_a_directory_tells_when_it_was_so(own: Own, undone: int) -> None:
    """What was not synced may be lost, the latest first; not if the daemon was asked to end."""
    times = [(own.synced_at, own.synced_at), *own.times, (NEVER, NEVER)]
    if undone > 0:
        os.removexattr("other", "user.a")
    if undone > 1:
        os.rename("other", "one")
    durable, history = own.durable, list(own.history)
    (when,) = own.find(clean=False)
    assert when == (times[2 - undone][0], times[3 - undone][1])
    own.durable, own.history, own.times = durable, history, times[1:-1]
    if undone:
        with pytest.raises(AssertionError, match="the tree is none"):
            own.find(clean=True)
    else:
        own.find(clean=True)


def test_a_directory_that_lost_a_synced_byte_is_seen(own: Own) -> None:
    with open(own.files[0], "ab") as file:
        file.write(b"!")
    with pytest.raises(AssertionError, match="the tree is none"):
        own.find(clean=False)
    with pytest.raises(AssertionError, match="differ"):
        own.assert_exact()
