"""docs/reference/recover.py gets every version's tree and bytes back, and never sees pondfs."""

from __future__ import annotations

import ast
import base64
import json
import os
import random
import stat
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import trio
from deltalake import DeltaTable

from pondfs.store import open_reader
from pondfs.store.delta import DeltaStore
from pondfs.store.tree import NodeStat, StoredTree
from tests.mount.harness import PondMount
from tests.unit.store.histories import Walk

SCRIPT = Path(__file__).parents[2] / "docs" / "reference" / "recover.py"
MIB = 1 << 20

# Runs the script many times in one process, as importing Polars is most of what one run takes.
DRIVER = """
import base64, io, json, runpy, sys
sys.modules["pondfs"] = None  # importing it is an error
for args in json.load(sys.stdin):
    terminal, sys.stdout = sys.stdout, io.TextIOWrapper(io.BytesIO(), "utf-8")
    sys.argv = ["recover.py", *args]
    runpy.run_path(SCRIPT, run_name="__main__")
    sys.stdout.flush()
    said, sys.stdout = sys.stdout.buffer.getvalue(), terminal
    print(base64.b64encode(said).decode())
assert [name for name in sys.modules if name.split(".")[0] == "pondfs"] == ["pondfs"]
"""

Facts = tuple[str, ...]
Trees = dict[int, dict[bytes, tuple[Facts, bytes | None]]]
"""By version and path: what ``list`` says of a node, and what ``get`` gives of it."""


def run_script(calls: Sequence[Sequence[str]]) -> list[bytes]:
    """Return what the script printed when run with each of *calls*."""
    done = subprocess.run(
        [sys.executable, "-I", "-c", DRIVER.replace("SCRIPT", repr(str(SCRIPT)))],
        input=json.dumps(calls).encode(),
        capture_output=True,
        cwd="/",
        timeout=300,
    )
    assert done.returncode == 0, done.stderr.decode()
    return [base64.b64decode(line) for line in done.stdout.splitlines()]


def recover(store: Path, versions: Sequence[int]) -> Trees:
    """Return all the script gets back of *versions*."""
    place = str(store)
    found: Trees = {}
    lists = run_script([[place, "list", str(version)] for version in versions])
    for version, lines in zip(versions, lists, strict=True):
        found[version] = {}
        for line in lines.decode().splitlines():
            *facts, path = line.split(" ", 6)
            name = os.fsencode(ast.literal_eval(path)).removeprefix(b"/")
            found[version][name] = (tuple(facts), None)
    wanted = [
        (version, path)
        for version, tree in found.items()
        for path, (facts, _) in tree.items()
        if stat.S_ISREG(int(facts[0], 8)) or stat.S_ISLNK(int(facts[0], 8))
    ]
    got = run_script(
        [[place, "get", "/" + os.fsdecode(path), str(version)] for version, path in wanted]
    )
    for (version, name), data in zip(wanted, got, strict=True):
        found[version][name] = (found[version][name][0], data)
    return found


def facts_of(info: NodeStat | os.stat_result, size: int, mtime_ns: int) -> Facts:
    """Return the words of a line of ``list``."""
    return (
        f"{info.mode if isinstance(info, NodeStat) else info.st_mode:06o}",
        *(
            str(getattr(info, name if isinstance(info, NodeStat) else f"st_{name}"))
            for name in ("nlink", "uid", "gid")
        ),
        str(size),
        str(mtime_ns),
    )


def stored(store: DeltaStore) -> Trees:
    """Return what pondfs itself has of every version."""
    found: Trees = {}
    for version in (info.version for info in store.list_versions()):
        tree = StoredTree(store, store.load_image_at(version), lambda _: None)
        found[version] = dict(_stored_nodes(tree, b""))
    return found


def _stored_nodes(
    tree: StoredTree, path: bytes
) -> Iterator[tuple[bytes, tuple[Facts, bytes | None]]]:
    info = tree.lstat(path)
    data: bytearray | bytes | None = None
    if stat.S_ISREG(info.mode):
        data = bytearray(info.size_bytes)
        for offset, piece in tree.read(path):
            data[offset : offset + len(piece)] = piece
    elif stat.S_ISLNK(info.mode):
        data = tree.readlink(path)
    facts = facts_of(info, info.size_bytes, info.mtime_ns)
    yield path, (facts, None if data is None else bytes(data))
    if stat.S_ISDIR(info.mode):
        for name, _ in tree.entries(path):
            yield from _stored_nodes(tree, os.path.join(path, name))


@pytest.mark.parametrize("by", ["delta-rs", "pondfs"])
@pytest.mark.parametrize("seed", range(2))
def test_random_histories(tmp_path: Path, seed: int, by: str) -> None:
    """Before and after a compaction, and after a prune on top of that."""
    path = tmp_path / "a [pond] 50%"  # Delta has paths in URL encoding, Polars takes globs
    walk = Walk(path, seed)
    trio.run(walk.run, 120, 0.15)
    expected = stored(walk.store)
    assert len(expected) > 5
    walk.close()
    assert recover(path, sorted(expected)) == expected

    if by == "pondfs":
        run_pond(f"--pond={path}", "compact")
    else:
        DeltaTable(path).optimize.compact()
    assert len(DeltaTable(path).file_uris()) == 1, "nothing was compacted"
    assert recover(path, sorted(expected)) == expected

    keep = {max(expected), *random.Random(seed).sample(sorted(expected), 3)}
    tags = [f"--pond={path}", "tag"]
    for version in keep:
        run_pond(*tags, f"t{version}", str(version))
    run_pond(f"--pond={path}", "prune", "--keep-last", "1")
    with_store = open_reader(path)
    left = stored(with_store)
    with_store.close()
    assert left == {version: expected[version] for version in sorted(keep)}
    assert recover(path, sorted(keep)) == left


def run_pond(*args: str) -> None:
    """Run ``pond``."""
    pond = Path(sys.executable).parent / "pond"
    subprocess.run([pond, *args], check=True, capture_output=True, timeout=60)


def mounted(root: Path) -> dict[bytes, tuple[Facts, bytes | None]]:
    """Return the tree below *root*, a directory of a mount."""
    found: dict[bytes, tuple[Facts, bytes | None]] = {}
    todo = [b""]
    while todo:
        path = todo.pop()
        full = os.path.join(os.fsencode(root), path)
        info = os.lstat(full)
        data = None
        if stat.S_ISREG(info.st_mode):
            data = Path(os.fsdecode(full)).read_bytes()
        elif stat.S_ISLNK(info.st_mode):
            data = os.readlink(full)
        elif stat.S_ISDIR(info.st_mode):
            todo.extend(os.path.join(path, name) for name in os.listdir(full))
        found[path] = (facts_of(info, info.st_size, info.st_mtime_ns), data)
    return found


def test_what_a_mount_shows(pond_unmounted: PondMount) -> None:
    """Every version as ``.pond/versions`` has it: through the kernel, and through the script."""
    pond = pond_unmounted.mount("commit=3600")
    steps = [_fill, _overwrite, _rename, _truncate, _write_much, _remove]
    for step in steps:
        step(pond.mnt)
        pond.commit()
    versions = [record["version"] for record in pond.log()]
    assert len(versions) == len(steps) + 1
    shown = {
        version: mounted(pond.mnt / ".pond" / "versions" / str(version)) for version in versions
    }
    pond.umount()
    assert recover(pond.store, versions) == shown
    DeltaTable(pond.store).optimize.compact()
    assert recover(pond.store, versions) == shown
    pond.pond("prune", "--keep-last", "3")
    last = sorted(versions)[-3:]
    assert recover(pond.store, last) == {version: shown[version] for version in last}


def _fill(mnt: Path) -> None:
    rng = random.Random(1)
    for name in (b"plain", b"\xff\xfe", b"new\nline", b"back\\slash", "schön".encode(), b"x" * 255):
        (mnt / os.fsdecode(name)).write_bytes(rng.randbytes(5000))
    (mnt / "a" / "b").mkdir(parents=True)
    (mnt / "a" / "b" / "deep").write_bytes(b"")
    os.link(mnt / "plain", mnt / "a" / "also plain")
    (mnt / "link").symlink_to(os.fsdecode(b"a/\xe9"))
    os.mkfifo(mnt / "fifo")
    with (mnt / "sparse").open("wb") as sparse:
        for offset in (0, 7 * MIB, 40 * MIB):
            sparse.seek(offset)
            sparse.write(rng.randbytes(100))


def _overwrite(mnt: Path) -> None:
    with (mnt / "a" / "also plain").open("r+b") as file:
        file.seek(4990)
        file.write(b"0123456789abcdef")
    with (mnt / "sparse").open("r+b") as file:
        file.seek(7 * MIB - 5)
        file.write(b"over the edge")


def _rename(mnt: Path) -> None:
    (mnt / "a" / "b").rename(mnt / os.fsdecode(b"moved \x80"))
    (mnt / os.fsdecode(b"\xff\xfe")).rename(mnt / "now text")
    (mnt / "new\nline").rename(mnt / "schön")


def _truncate(mnt: Path) -> None:
    os.truncate(mnt / "sparse", 100)
    os.truncate(mnt / "sparse", 9 * MIB)
    os.truncate(mnt / "plain", 0)
    with (mnt / "plain").open("r+b") as file:  # the old bytes 0 to 49 must not come back
        file.seek(50)
        file.write(b"after")


def _write_much(mnt: Path) -> None:
    """Write more than the script, or the daemon, holds at once, and the middle of it twice."""
    rng = random.Random(2)
    block = rng.randbytes(MIB)
    with (mnt / "large").open("wb", buffering=0) as file:
        for number in range(90):
            file.write(number.to_bytes(8, "big") + block[8:])
        file.seek(30 * MIB + 77)
        for number in range(90, 110):
            file.write(number.to_bytes(8, "big") + block[8:])


def _remove(mnt: Path) -> None:
    (mnt / "plain").unlink()
    (mnt / "sparse").unlink()
    (mnt / "now text").unlink()
    (mnt / "now text").mkdir()


def test_one_run_from_a_shell(pond: PondMount, tmp_path: Path) -> None:
    """As a person does it: output into a file; errors in one line."""
    (pond.mnt / "large").write_bytes(random.Random(3).randbytes(3 * MIB))
    pond.umount()
    out = tmp_path / "out"
    shell = f"'{sys.executable}' -I '{SCRIPT}' '{pond.store}'"
    subprocess.run(f"{shell} get large > '{out}'", shell=True, check=True, timeout=60)
    assert out.read_bytes() == random.Random(3).randbytes(3 * MIB)
    for call, error in [
        ("get none", "version 2 has no file 'none'\n"),
        ("get /", "version 2 has no file ''\n"),
        ("list 7", "there is no version 7, there are [1, 2]\n"),
    ]:
        done = subprocess.run(
            f"{shell} {call}", shell=True, capture_output=True, text=True, timeout=60
        )
        assert (done.returncode, done.stdout, done.stderr) == (1, "", error)


def test_it_is_short_and_knows_nothing_of_pondfs() -> None:
    text = SCRIPT.read_text()
    assert len(text.splitlines()) < 60
    assert "import pondfs" not in text
    assert "from pondfs" not in text
