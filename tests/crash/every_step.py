"""What a pond's store does, one kind of work at a time: run by ``test_every_step.py`` to be killed.

``python every_step.py WORK STORE [VERSION …]`` does WORK. It prints every version as soon as that
is acknowledged.
"""

from __future__ import annotations

import stat
import sys
import time
from collections.abc import Callable

from pondfs.extent import Content
from pondfs.node import ROOT, NodeId, Version
from pondfs.oplog import Cut, Row, Summary
from pondfs.store import checkpoint, create, images, logkeeper, open_writer, prune_swap, rowcache
from pondfs.store.delta import DeltaStore

FIRST_NODE = 1 << 61
FILE = stat.S_IFREG | 0o644


def file_of(version: int, number: int) -> tuple[NodeId, bytes, bytes]:
    """Return a file that *version* makes: its node, its name and its bytes."""
    data = b"%d of version %d" % (number, version)
    return NodeId(FIRST_NODE + 10 * version + number), b"step %d %d" % (version, number), data


def row_of(version: int, number: int) -> Row:
    node, name, data = file_of(version, number)
    now_ns = time.time_ns()
    attr = (FILE, 0, 0, 1, 0, len(data), now_ns, now_ns, now_ns)
    content = Content(data, len(data))
    return Row("create", now_ns, ROOT, node, FILE, name, attr=attr, offset=0, content=content)


def cut_of(version: int, numbers: range, first_seq: int = 0) -> Cut:
    rows = [row_of(version, number) for number in numbers]
    summary = Summary(message="", user="ada", host="lab", operations=len(rows))
    return Cut(Version(version), time.time_ns(), rows, summary, first_seq)


def acknowledge(version: int) -> None:
    print(version, flush=True)


def opened(path: str) -> DeltaStore:
    return open_writer(path, mountpoint="", socket="")


def do_create(path: str) -> None:
    create(path)
    acknowledge(1)


def do_open(path: str) -> None:
    opened(path).close()


def do_commit(path: str) -> None:
    """Three versions of two files, one of them staged."""
    store = opened(path)
    for version in range(store.version + 1, store.version + 4):
        staged = store.stage(Version(version), 0, [row_of(version, 0)])
        cut = cut_of(version, range(1, 2), first_seq=1)
        cut.staged.append(staged.file)
        store.commit(cut)
        acknowledge(version)
    store.close()


def do_journal(path: str) -> None:
    """Two versions that are journaled, a third that carries them, and once more."""
    store = opened(path)
    for first in (store.version + 1, store.version + 4):
        cuts = [cut_of(version, range(2)) for version in range(first, first + 3)]
        for cut in cuts[:2]:
            store.journal(cut)
            acknowledge(cut.version)
        store.commit(cuts[2], cuts[:2])
        acknowledge(cuts[2].version)
    store.close()


def do_image(path: str) -> None:
    store = opened(path)
    store.load_image()
    store.save_image()
    store.close()


def do_rows(path: str) -> None:
    """The cache of rows: made, then added to at closing."""
    rowcache.WORTH_FILES = rowcache.CLOSING_FILES = 1
    images.WORTH_FILES = 1 << 30
    store = opened(path)
    store.load_image()
    for version in range(store.version + 1, store.version + 3):
        store.commit(cut_of(version, range(2)))
        acknowledge(version)
    store.close()


def do_compact(path: str) -> None:
    from pondfs.store.compact import make_plan
    from pondfs.store.compact_files import write_files

    store = opened(path)
    store.swap_files(write_files(make_plan(path), part_rows=30).request)
    store.remove_pruned(now=True)
    store.close()


def do_prune(path: str, *keep: str) -> None:
    from pondfs.store.prune import make_plan
    from pondfs.store.prune_files import write_files

    store = opened(path)
    plan = make_plan(path, [Version(int(version)) for version in keep])
    store.swap_files(write_files(plan).request)
    store.remove_pruned()
    store.close()


def do_log(path: str) -> None:
    """Checkpoints, and the entries they make needless."""
    checkpoint.ENTRIES_BETWEEN = 4
    logkeeper.KEPT_ENTRIES = 5
    logkeeper.SAFE_AGE_S = logkeeper.LOOK_AGAIN_S = 0.0
    store = opened(path)
    for version in range(store.version + 1, store.version + 25):
        store.commit(cut_of(version, range(1)))
        acknowledge(version)
        if store.has_long_log():
            store.keep_log()
    store.close()


def do_strays(path: str) -> None:
    store = opened(path)
    store.remove_strays(-1)
    store.close()


def do_tag(path: str) -> None:
    store = opened(path)
    store.put_tag("kept", store.version)
    acknowledge(store.version)
    store.close()


WORKS: dict[str, Callable[..., None]] = {
    "create": do_create,
    "open": do_open,
    "commit": do_commit,
    "journal": do_journal,
    "image": do_image,
    "rows": do_rows,
    "compact": do_compact,
    "prune": do_prune,
    "log": do_log,
    "strays": do_strays,
    "tag": do_tag,
}

if __name__ == "__main__":
    prune_swap.GRACE_S = 0.0
    WORKS[sys.argv[1]](*sys.argv[2:])
