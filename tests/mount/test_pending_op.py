"""The control ops `pending` and `operations`: what a commit would write, told before it is made."""

import json
import os
import random
import re
import socket
import stat
import threading
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import trio

from pondfs.control.client import Client, MountClient
from pondfs.control.protocol import find_sockets
from pondfs.errors import DaemonRefused
from pondfs.node import ROOT
from pondfs.store.delta import DeltaStore
from pondfs.store.preview import read_pending, to_table
from pondfs.store.schema import SCHEMA
from pondfs.unmount import flush_kernel
from pondfs.vfs.base import Caller, VfsOptions
from pondfs.vfs.vfs import Vfs
from tests.mount.harness import PondMount, run
from tests.mount.place import ALICE, as_user

MIB = 1 << 20


def connect(pond: PondMount) -> Client:
    return Client(next(find_sockets(pond.mnt, 0)))


def pending_rows(pond: PondMount) -> tuple[pa.Table, dict[str, Any]]:
    flush_kernel(pond.mnt)
    with connect(pond) as client:
        reply, data = client.call_table("pending", timeout_s=30)
    assert reply["rows"] <= pq_rows(reply, data)
    return read_pending(pond.store, reply["staged"], data).table(), reply


def pq_rows(reply: dict[str, Any], data: bytes) -> int:
    with pa.ipc.open_stream(data) as reader:
        assert reader.schema == SCHEMA
        return int(reader.read_all().num_rows)


def committed_rows(pond: PondMount, version: int) -> pa.Table:
    names = [
        action["add"]["path"]
        for path in sorted((pond.store / "_delta_log").glob("*.json"))
        for action in map(json.loads, path.read_text().splitlines())
        if "add" in action
    ]
    table = pa.concat_tables([pq.read_table(pond.store / name).cast(SCHEMA) for name in names])
    mine = pc.and_(pc.equal(table["version"], version), pc.not_equal(table["op"], "commit"))
    return table.filter(mine).sort_by("seq")


def same_before_and_after(pond: PondMount) -> dict[str, Any]:
    before, reply = pending_rows(pond)
    assert pending_rows(pond)[0].equals(before), "asking changed something"
    done = json.loads(pond.pond("commit", "--json").stdout)
    assert done["version"] == reply["version"]
    after = committed_rows(pond, done["version"])
    for name in SCHEMA.names:
        assert before[name].to_pylist() == after[name].to_pylist(), name
    is_named_or_update = pc.or_(pc.is_valid(before["name"]), pc.equal(before["op"], "update"))
    assert pc.sum(is_named_or_update).as_py() == done["operations"]
    return reply


def busy(top: Path, dice: random.Random) -> None:
    """Do one thing to the tree below *top*."""
    there = [Path(path, name) for path, some, files in os.walk(top) for name in (*some, *files)]
    directories = [top, *(p for p in there if p.is_dir() and not p.is_symlink())]
    files = [p for p in there if p.is_file() and not p.is_symlink()]
    new = dice.choice(directories) / f"n{dice.randrange(10**6)}"
    match dice.choice(("make", "make", "dir", "link", "symlink", "move", "remove", "edit", "cut",
                       "mode", "read", "xattr", "fifo", "odd")):  # fmt: skip
        case "make":
            new.write_bytes(dice.randbytes(dice.choice((0, 10, 5000, 200_000))))
        case "dir":
            new.mkdir()
        case "symlink":
            new.symlink_to("somewhere/é")
        case "fifo":
            os.mkfifo(new)
        case "odd":
            Path(os.fsdecode(os.fsencode(new) + b"\xff\n")).write_bytes(b"odd")
        case "link" if files:
            os.link(dice.choice(files), new)
        case "move" if there:
            old = dice.choice(there)
            if not new.is_relative_to(old):
                old.rename(new)
        case "remove" if there:
            old = dice.choice(there)
            run(["rm", "-rf", old])
        case "edit" if files:
            with open(dice.choice(files), "r+b") as file:
                file.seek(dice.randrange(300_000))
                file.write(dice.randbytes(dice.choice((1, 4096, 70_000))))
        case "cut" if files:
            os.truncate(dice.choice(files), dice.randrange(10_000))
        case "mode" if there:
            old = dice.choice(there)
            if not old.is_symlink():
                old.chmod(dice.randrange(0o1000) | 0o700)
        case "read" if files:
            dice.choice(files).read_bytes()
        case "xattr" if files:
            os.setxattr(dice.choice(files), "user.x", dice.randbytes(9))


@pytest.mark.parametrize("seed", range(4))
def test_what_is_told_before_is_what_is_committed(pond_unmounted: PondMount, seed: int) -> None:
    pond = pond_unmounted.mount("commit=3600,xattr")
    dice = random.Random(seed)
    for _ in range(6):
        for _ in range(30):
            busy(pond.mnt, dice)
        if pond.status()["pending_nodes"]:
            same_before_and_after(pond)


def test_staged_content_is_told_as_well(pond_unmounted: PondMount) -> None:
    pond = pond_unmounted.mount("commit=3600")
    big = pond.mnt / "big"
    big.write_bytes(os.urandom(50 * MIB))
    os.truncate(big, 45 * MIB + 7)  # what is staged already is cut off
    with open(big, "ab") as file:
        file.write(os.urandom(41 * MIB))
    (pond.mnt / "temporary").write_bytes(os.urandom(40 * MIB))
    (pond.mnt / "temporary").unlink()
    with open(big, "r+b") as file:
        file.write(b"a new beginning")
    reply = same_before_and_after(pond)
    assert reply["staged"], "nothing was staged, so the test shows nothing"


def test_nothing_pending_is_an_empty_table(pond_unmounted: PondMount) -> None:
    pond = pond_unmounted.mount("commit=3600")
    table, reply = pending_rows(pond)
    assert (table.num_rows, table.schema, reply["version"]) == (0, SCHEMA, 2)


def test_a_directory_that_only_got_names_is_no_operation(pond_unmounted: PondMount) -> None:
    pond = pond_unmounted.mount("commit=3600")
    read = pond.mnt / "read"
    read.write_text("x")
    pond.commit()
    (pond.mnt / "new").mkdir()
    (pond.mnt / "new" / "file").write_text("y")
    read.read_text()
    table, _ = pending_rows(pond)
    told = zip(table["op"].to_pylist(), table["name"].to_pylist(), strict=True)
    assert sorted(told, key=str) == [
        ("create", "file"), ("create", "new"), ("create", None), ("touch", None), ("touch", None),
    ]  # fmt: skip
    same_before_and_after(pond)


def test_a_file_that_was_read_and_changed_is_an_operation(pond_unmounted: PondMount) -> None:
    pond = pond_unmounted.mount("commit=3600")
    file = pond.mnt / "file"
    file.write_text("x")
    pond.commit()
    file.chmod(0o600)
    file.read_text()
    os.utime(file, (1, 1))
    file.read_text()
    assert json.loads(pond.pond("commit", "--json").stdout)["operations"] == 1


def test_a_client_that_takes_nothing_does_not_stop_the_mount(pond_unmounted: PondMount) -> None:
    pond = pond_unmounted.mount("commit=3600")
    (pond.mnt / "big").write_bytes(os.urandom(30 * MIB))
    flush_kernel(pond.mnt)
    with socket.socket(socket.AF_UNIX) as lazy:
        lazy.connect(str(next(find_sockets(pond.mnt, 0))))
        lazy.sendall(b'{"id":1,"op":"pending"}\n')
        (pond.mnt / "other").write_text("x")
        pond.commit()
        assert (pond.mnt / "other").read_text() == "x"
    table, _ = pending_rows(pond)
    assert table.num_rows == 0


def test_only_the_owner_may_read_rows(public: PondMount) -> None:
    (public.mnt / "secret").write_text("x")
    with as_user(ALICE, public.mnt), MountClient(public.mnt) as client:
        with pytest.raises(DaemonRefused, match="owner and root") as refused:
            client.call("pending")
        assert refused.value.exit_code == 1


def operations(pond: PondMount, **fields: Any) -> list[tuple[Any, ...]]:
    with connect(pond) as client:
        found = client.call("operations", **fields)["operations"]
    return sorted((o["op"], o["path"], o["from"], o["type"], o["size"], o["bytes"]) for o in found)


def test_operations_by_path(pond_unmounted: PondMount) -> None:
    pond = pond_unmounted.mount("commit=3600")
    mnt = pond.mnt
    (mnt / "old" / "deep").mkdir(parents=True)
    for name in ("old/deep/gone", "moved", "edited"):
        (mnt / name).write_bytes(b"12345")
    pond.commit()
    assert operations(pond) == []
    run(["rm", "-r", mnt / "old"])
    (mnt / "new").mkdir()
    (mnt / "moved").rename(mnt / "new" / "name")
    (mnt / "new" / "file").write_bytes(b"1234567")
    (mnt / "new" / "same").hardlink_to(mnt / "new" / "file")
    (mnt / "edited").chmod(0o600)
    with open(mnt / "edited", "ab") as file:
        file.write(b"678")
    flush_kernel(mnt)
    assert operations(pond) == [
        ("create", "new", None, "directory", 0, 0),
        ("create", "new/file", None, "file", 7, 7),
        ("create", "new/same", None, "file", 7, 0),
        ("rename", "new/name", "moved", "file", 5, 0),
        ("unlink", "old", None, "directory", None, 0),
        ("unlink", "old/deep", None, "directory", None, 0),
        ("unlink", "old/deep/gone", None, "file", None, 0),
        ("update", "edited", None, "file", 8, 8),  # the kernel writes its whole page back
    ]
    assert [o[1] for o in operations(pond, path="old/deep")] == ["old/deep", "old/deep/gone"]
    assert [o[1] for o in operations(pond, path="moved")] == ["new/name"]
    pond.commit()
    assert operations(pond) == []


def test_commands_about_what_is_pending(pond_unmounted: PondMount) -> None:
    pond = pond_unmounted.mount("commit=3600")
    mnt = pond.mnt
    (mnt / "dir").mkdir()
    for name in ("same", "edited", "old", "gone", "dir/gone"):
        (mnt / name).write_text("x")
    pond.commit()
    assert pond.status()["operations"] is None
    (mnt / "edited").write_text("other")
    (mnt / "old").rename(mnt / "dir" / "moved")
    (mnt / "gone").unlink()
    (mnt / "dir" / "gone").unlink()
    (mnt / "new\n").write_text("x")

    lines = pond.pond("ls", "--pending", "-R").stdout.splitlines()
    assert lines == [
        ".:", "  dir", "M edited", "A new\\n", "  same", "D gone", "D old",
        "", "dir:", "R moved", "D gone",
    ]  # fmt: skip
    told = json.loads(pond.pond("ls", "--pending", "-R", "--json").stdout)
    assert {one["path"]: one["pending"] for one in told} == {
        "dir": None, "edited": "changed", "new\n": "new", "same": None, "gone": "removed",
        "old": "removed", "dir/moved": "moved", "dir/gone": "removed",
    }  # fmt: skip
    assert [one["size"] for one in told if one["path"] in ("gone", "edited")] == [5, None]

    told = json.loads(pond.pond("status", "--pending", "--json").stdout)["operations"]
    assert {(one["op"], one["path"], one["from"]) for one in told} == {
        ("update", "edited", None), ("rename", "dir/moved", "old"), ("unlink", "gone", None),
        ("unlink", "dir/gone", None), ("create", "new\n", None),
    }  # fmt: skip
    text = pond.pond("status", "--pending").stdout
    assert re.search(r"^rename .* old -> dir/moved$", text, re.MULTILINE)
    assert re.search(r"^update +5 B .* edited$", text, re.MULTILINE)

    told = json.loads(pond.pond("show", "--pending", "-n", "1", "--json").stdout)
    assert all(row["pending"] and row["version"] == 3 for row in told)
    assert {row["path"] for row in told if row["op"] == "unlink"} == {"gone", "dir/gone"}

    done = json.loads(pond.pond("sync", "--json").stdout)
    assert (done["committed"], done["version"]) == (True, 3)
    shown = json.loads(pond.pond("show", "-n", "1", "--json").stdout)
    assert [{**row, "pending": False} for row in told] == shown
    done = json.loads(pond.pond("sync", "--json").stdout)
    assert (done["committed"], done["version"]) == (False, 3)
    assert "nothing was pending" in pond.pond("sync").stdout
    assert pond.pond("ls", "--pending").stdout.splitlines() == [
        "  dir", "  edited", "  new\\n", "  same",
    ]  # fmt: skip


def test_rows_that_are_being_staged_are_told_with_their_numbers(tmp_path: Path) -> None:
    """A stage under way is in no file yet and in the tree no more: it must not fall between."""
    DeltaStore.create(tmp_path / "pond")
    store = DeltaStore.open_writer(tmp_path / "pond", mountpoint="", socket="")
    began, go_on = threading.Event(), threading.Event()
    stage = store.stage

    def slow(*args: Any) -> Any:
        began.set()
        assert go_on.wait(20)
        return stage(*args)

    store.stage = slow  # type: ignore[method-assign, assignment]

    async def main() -> pa.Table:
        vfs = Vfs(store, VfsOptions(commit_s=3600))
        vfs.committer.stage_at_bytes = 1 << 20
        async with trio.open_nursery() as nursery:
            nursery.start_soon(vfs.committer.run)
            node = vfs.make(ROOT, b"file", stat.S_IFREG | 0o644, 0, Caller(0, 0))
            for at in range(3):
                await vfs.write(node.id, at * MIB, bytes([at]) * MIB)
            with trio.fail_after(60):
                await trio.to_thread.run_sync(began.wait)
            await vfs.write(node.id, 0, b"later")
            preview = vfs.preview(contents=True)
            assert preview is not None
            assert not preview.staged
            told = to_table(preview.version, preview.first_seq, preview.rows)
            go_on.set()
            version = await vfs.committer.commit()
            assert version == preview.version
            nursery.cancel_scope.cancel()
        return told

    told = trio.run(main)
    store.close()
    files = [tmp_path / "pond" / file.name for file in store._files]
    rows = pa.concat_tables([pq.read_table(file).cast(SCHEMA) for file in files])
    mine = pc.and_(pc.equal(rows["version"], 2), pc.not_equal(rows["op"], "commit"))
    assert told.equals(rows.filter(mine).sort_by("seq"))
    assert pc.sum(pc.equal(told["op"], "extent")).as_py() == 3


def test_others_see_operations_where_they_may_read(public: PondMount) -> None:
    private, shared = public.mnt / "private", public.mnt / "shared"
    private.mkdir(0o700)
    shared.mkdir(0o755)
    public.mnt.chmod(0o755)
    public.commit()
    (private / "secret").write_text("x")
    (shared / "known").write_text("x")
    with as_user(ALICE, public.mnt), MountClient(public.mnt) as client:
        found = client.call("operations")["operations"]
    assert [operation["path"] for operation in found] == ["shared/known"]
