"""Which syncs are waited for on the spot, where everybody on the mount waits with them."""

from pondfs.node import Version
from pondfs.oplog import Cut, Summary
from pondfs.vfs.journaled import SLOW_S, THREADED, Journaled

QUICK_S = 0.00015


def after(*syncs_s: float) -> Journaled:
    journaled = Journaled(is_used=True, commit_s=1e9)
    for took_s in syncs_s:
        journaled.add(Cut(Version(2), 0, [], Summary()), 0.0, took_s)
    return journaled


def test_a_disk_has_to_prove_itself_first() -> None:
    assert not after().is_quick(100, 1.0)
    assert not after(*[QUICK_S] * 10).is_quick(100, 1.0)
    assert after(*[QUICK_S] * 60).is_quick(100, 1.0)
    assert not after(*[0.002] * 200).is_quick(100, 1.0)


def test_after_a_slow_one_some_go_through_a_thread() -> None:
    quick = [QUICK_S] * 100
    assert not after(*quick, 2 * SLOW_S).is_quick(100, 1.0)
    assert not after(*quick, 2 * SLOW_S, *quick[: THREADED - 1]).is_quick(100, 1.0)
    assert after(*quick, 2 * SLOW_S, *quick[:THREADED]).is_quick(100, 1.0)
    assert after(*quick, SLOW_S / 2).is_quick(100, 1.0)


def test_a_stall_is_remembered_longer() -> None:
    quick = [QUICK_S] * 100
    assert not after(*quick, 1.0, *quick[:40]).is_quick(100, 1.0)
    assert after(*quick, 1.0, *quick, *quick).is_quick(100, 1.0)
