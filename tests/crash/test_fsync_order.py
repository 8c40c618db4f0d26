"""fsync(2) on the mount returns only after every step of the commit is on the disk: traced.

The first part shows that the checker can fail, on traces made by hand; the second traces the
daemon. A test that looks at the files afterwards proves nothing here: the page cache shows every
write whether or not it was synced.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from tests.crash import delta_log
from tests.crash.fsync_order import OrderError, Proof
from tests.crash.system_calls import Call, parse_trace, trace_client, unescape
from tests.mount.harness import PondMount, require

_HEX24 = r"\x18\x00\x00\x00\x00\x00\x00\x00"
_REQUEST = r"\x38\x00\x00\x00\x14\x00\x00\x00" + _HEX24 + r"\x02\x00\x00\x00"
_REPLY = r"\x10\x00\x00\x00\x00\x00\x00\x00" + _HEX24

# One fsync as it should be. The client is 20; the daemon's main thread 10, its worker 11.
GOOD = {
    "call": "20 fsync(3</mnt/f> <unfinished ...>",
    "request": f'10 read(3</dev/fuse>, "{_REQUEST}"..., 1052672) = 56',
    "create": '11 openat(AT_FDCWD</>, "/p/a.parquet", O_WRONLY|O_CREAT|O_EXCL, 0666)'
    " = 12</p/a.parquet>",
    "data": r'11 write(12</p/a.parquet>, "\x50\x41\x52\x31"..., 4096) = 4096',
    "footer": '11 write(12</p/a.parquet>, "PAR1", 4 <unfinished ...>',
    "wait": "10 epoll_wait(4<anon_inode:[eventpoll]>, [], 1, 0) = 0",
    "footer done": "11 <... write resumed>) = 4",
    "data sync": "11 fsync(12</p/a.parquet>) = 0",
    "dir sync": "11 fsync(13</p>) = 0",
    "tmpfile": '11 openat(AT_FDCWD</>, "/p/_delta_log", O_WRONLY|O_TMPFILE, 0666)'
    " = 12</p/_delta_log/#77>(deleted)",
    "entry": r'11 write(12</p/_delta_log/#77>(deleted), "{\"add\":{}}\n", 11) = 11',
    "entry sync": "11 fsync(12</p/_delta_log/#77>(deleted)) = 0",
    "link": '11 linkat(AT_FDCWD</>, "/proc/self/fd/12", 14</p/_delta_log>,'
    ' "00000000000000000007.json", AT_SYMLINK_FOLLOW) = 0',
    "log sync": "11 fsync(14</p/_delta_log>) = 0",
    "reply": f'10 writev(3</dev/fuse>, [{{iov_base="{_REPLY}", iov_len=16}}], 1 <unfinished ...>',
    "return": "20 <... fsync resumed>) = 0",
    "reply done": "10 <... writev resumed>) = 16",
}


def check(lines: list[str]) -> None:
    """Check a handmade trace of one fsync of /mnt/f on the pond /p."""
    Proof(parse_trace(lines), Path("/p"), Path("/mnt/f"), [Path("/p/a.parquet")]).check()


def moved(step: str, before: str) -> list[str]:
    """Return the good trace with *step* moved to just before *before*."""
    steps = [name for name in GOOD if name != step]
    steps.insert(steps.index(before), step)
    return [GOOD[name] for name in steps]


def changed(step: str, old: str, new: str) -> list[str]:
    """Return the good trace with *old* in *step* replaced by *new*."""
    assert old in GOOD[step]
    return [text.replace(old, new) if name == step else text for name, text in GOOD.items()]


def test_a_good_trace_passes() -> None:
    """Else the failures below would mean nothing."""
    check(list(GOOD.values()))


@pytest.mark.parametrize(
    ("step", "message"),
    [
        ("call", "no fsync of /mnt/f"),
        ("request", "read no FUSE_FSYNC request"),
        ("create", "was not made in this trace"),
        ("data sync", "no sync of the data file a.parquet"),
        ("dir sync", "no sync of the directory of a.parquet"),
        ("entry", "no write of the log entry"),
        ("entry sync", "no sync of the log entry"),
        ("link", "no log entry was published"),
        ("log sync", "no sync of the directory of the log"),
        ("reply", "never answered"),
    ],
)
def test_a_missing_step_is_seen(step: str, message: str) -> None:
    """Each step of the promise alone makes the check fail when it is left out."""
    with pytest.raises(OrderError, match=message):
        check([text for name, text in GOOD.items() if name != step])


@pytest.mark.parametrize(
    ("step", "before", "message"),
    [
        ("data sync", "data", "no sync of the data file"),
        ("data sync", "footer done", "no sync of the data file"),
        ("data sync", "log sync", "no sync of the data file"),
        ("data sync", "return", "no sync of the data file"),
        ("footer done", "log sync", "data file a.parquet was written after"),
        ("dir sync", "create", "no sync of the directory of a.parquet"),
        ("dir sync", "log sync", "no sync of the directory of a.parquet"),
        ("entry sync", "entry", "no sync of the log entry"),
        ("entry sync", "log sync", "no sync of the log entry"),
        ("entry", "log sync", "log entry was written after"),
        ("log sync", "link", "no sync of the directory of the log"),
        ("log sync", "return", "no sync of the directory of the log"),
        ("log sync", "reply done", "no sync of the directory of the log"),
        ("link", "return", "no log entry was published before"),
        ("reply", "data sync", "no log entry was published before"),
        ("reply", "log sync", "no sync of the directory of the log"),
    ],
)
def test_a_step_out_of_order_is_seen(step: str, before: str, message: str) -> None:
    """A step that happens, but too early or too late, is as bad as one that does not."""
    with pytest.raises(OrderError, match=message):
        check(moved(step, before))


@pytest.mark.parametrize(
    ("step", "old", "new", "message"),
    [
        ("data sync", "= 0", "= -1 EIO (Input/output error)", "no sync of the data file"),
        ("data sync", "12</p/a.parquet>", "12</p/b.parquet>", "no sync of the data file"),
        ("data sync", "fsync", "sync_file_range", "no sync of the data file"),
        ("dir sync", "13</p>", "13</p/_pond>", "no sync of the directory of a.parquet"),
        ("log sync", "14</p/_delta_log>", "13</p>", "no sync of the directory of the log"),
        ("log sync", "= 0", "= -1 EIO (Input/output error)", "no sync of the directory of the"),
        ("link", "= 0", "= -1 EEXIST (File exists)", "no log entry was published"),
        ("link", "00000000000000000007.json", ".7.json.tmp", "no log entry was published"),
        ("link", "fd/12", "fd/13", "no write of the log entry"),
        ("reply", _REPLY[16:], r"\xfb\xff\xff\xff" + _HEX24, "with error -5"),
        ("reply", r"\x18", r"\x19", "never answered"),
        ("return", "= 0", "= -1 EIO (Input/output error)", "fsync on the mount failed: EIO"),
    ],
)
def test_a_wrong_step_is_seen(step: str, old: str, new: str, message: str) -> None:
    """A sync that failed, or of something else, is none."""
    with pytest.raises(OrderError, match=re.escape(message)):
        check(changed(step, old, new))


def test_files_that_get_their_names_by_rename_pass() -> None:
    """The promise is about the disk, not about which system calls keep it."""
    lines = [line.replace("/p/a.parquet", "/p/.a.tmp") for line in GOOD.values()]
    steps = dict(zip(GOOD, lines, strict=True))
    steps["data sync"] += '\n11 rename("/p/.a.tmp", "/p/a.parquet") = 0'
    check("\n".join(steps.values()).splitlines())
    late = '\n11 rename("/p/.a.tmp", "/p/a.parquet") = 0'
    steps["data sync"] = steps["data sync"].removesuffix(late)
    steps["dir sync"] += late
    with pytest.raises(OrderError, match="no sync of the directory of a"):
        check("\n".join(steps.values()).splitlines())


def test_traces_are_read_as_strace_writes_them() -> None:
    """Interleaved calls of several threads, and strings in strace's two ways of quoting."""
    calls = parse_trace(
        [
            '7     openat(AT_FDCWD</>, "a\\"b\\\\", O_RDONLY <unfinished ...>',
            "8     fsync(3</x>)                      = 0",
            "7     <... openat resumed>)             = 5</a>",
            "8     read(3</x>,  <unfinished ...>",
            "7     +++ exited with 0 +++",
            '8     <... read resumed>"\\x01\\x22", 9) = -1 EAGAIN (Resource temporarily …)',
        ]
    )
    assert [(call.name, call.start, call.end) for call in calls] == [
        ("fsync", 1, 1),
        ("openat", 0, 2),
        ("read", 3, 5),
    ]
    assert calls[1].strings == [b'a"b\\']
    assert (calls[1].result, calls[1].returned) == (5, "</a>")
    assert calls[2].strings == [b'\x01"']
    assert (calls[2].result, calls[2].returned.split()[0]) == (-1, "EAGAIN")
    assert unescape(r"\0\x7f\n\101\\x41") == b"\0\x7f\nA\\x41"


def traced_fsync(pond: PondMount, tmp_path: Path, target: Path, client: list[str]) -> list[Call]:
    """Run *client*, which fsyncs *target* on the mount, and check the commit that it makes."""
    before = delta_log.entry_paths(pond.store)
    calls = trace_client(pond.pid, tmp_path / "trace", client)
    made = [path for path in delta_log.entry_paths(pond.store) if path not in before]
    assert len(made) == 1, f"one fsync made the entries {made}"
    added = [pond.store / name for name in delta_log.parse_entry(made[0]).adds]
    Proof(calls, pond.store, target, added).check()
    return calls


@pytest.mark.parametrize("what", ["file", "file's data", "directory"])
def test_the_order_of_one_fsync(pond_unmounted: PondMount, tmp_path: Path, what: str) -> None:
    """A file, a file by fdatasync, and a directory make the same promise."""
    pond = pond_unmounted.mount("commit=3600,fsync=delta")
    folder, file = pond.mnt / "folder", pond.mnt / "folder" / "file"
    folder.mkdir()
    file.write_bytes(b"content" * 1000)
    target = folder if what == "directory" else file
    flags = ["--data"] if what == "file's data" else []
    traced_fsync(pond, tmp_path, target, [require("sync"), *flags, str(target)])


@pytest.mark.parametrize("what", ["file", "directory"])
def test_the_order_of_a_journaled_fsync(
    pond_unmounted: PondMount, tmp_path: Path, what: str
) -> None:
    """The first makes the file, the second finds it there; neither needs anything else."""
    pond = pond_unmounted.mount("commit=3600,fsync=journal")
    folder, file = pond.mnt / "folder", pond.mnt / "folder" / "file"
    folder.mkdir()
    target = folder if what == "directory" else file
    entries = delta_log.entry_paths(pond.store)
    for number in range(2):
        file.write_bytes(b"content" * 1000 * (number + 1))
        client = [require("sync"), str(target)]
        calls = trace_client(pond.pid, tmp_path / f"trace{number}", client)
        Proof(calls, pond.store, target, []).check_journaled()
    assert delta_log.entry_paths(pond.store) == entries


JOURNALED = {
    "call": GOOD["call"],
    "request": GOOD["request"],
    "open": '11 openat(AT_FDCWD</>, "/p/_pond/journal", O_RDWR|O_CREAT|O_CLOEXEC, 0600)'
    " = 12</p/_pond/journal>",
    "dir sync": "11 fsync(13</p/_pond>) = 0",
    "write": r'11 pwritev(12</p/_pond/journal>, [{iov_base="pondjrn1"..., iov_len=64}], 1, 0) = 64',
    "sync": "11 fdatasync(12</p/_pond/journal>) = 0",
    "reply": GOOD["reply"],
    "return": GOOD["return"],
    "reply done": GOOD["reply done"],
}


def check_journaled(lines: list[str]) -> None:
    """Check a handmade trace of one fsync of /mnt/f on the pond /p."""
    Proof(parse_trace(lines), Path("/p"), Path("/mnt/f"), []).check_journaled()


@pytest.mark.parametrize(
    ("step", "before", "message"),
    [
        ("dir sync", "", "no sync of the directory of the journal"),
        ("dir sync", "return", "no sync of the directory of the journal"),
        ("write", "", "no write of the journal"),
        ("write", "return", "no write of the journal"),
        ("sync", "", "no sync of the journal"),
        ("sync", "write", "no sync of the journal"),
        ("sync", "return", "no sync of the journal"),
        ("reply", "", "never answered"),
    ],
)
def test_a_journaled_fsync_that_breaks_the_order_is_seen(
    step: str, before: str, message: str
) -> None:
    check_journaled(list(JOURNALED.values()))
    steps = [name for name in JOURNALED if name != step]
    if before:
        steps.insert(steps.index(before), step)
    with pytest.raises(OrderError, match=message):
        check_journaled([JOURNALED[name] for name in steps])


def test_the_order_of_an_o_sync_write(pond_unmounted: PondMount, tmp_path: Path) -> None:
    """The kernel turns each O_SYNC write into a write and an fsync; its return promises the same.

    dd's ``conv=fsync`` on top gives the trace the fsync call the checker looks for; nothing is
    pending by then, so it finds the commit of the write, which the answer waited for.
    """
    pond = pond_unmounted.mount("commit=3600,fsync=delta")
    file = pond.mnt / "file"
    client = [require("dd"), "if=/dev/zero", f"of={file}", "bs=5000", "count=1", "oflag=sync"]
    traced_fsync(pond, tmp_path, file, [*client, "conv=fsync", "status=none"])


def test_the_order_of_a_staged_write(pond_unmounted: PondMount, tmp_path: Path) -> None:
    """What is staged early must be as durable as the rest when the commit refers to it."""
    pond = pond_unmounted.mount("commit=3600,fsync=delta")
    file = pond.mnt / "big"
    source = tmp_path / "source"
    source.write_bytes(os.urandom(1 << 20) * 96)
    client = [require("dd"), f"if={source}", f"of={file}", "bs=1M", "conv=fsync", "status=none"]
    traced_fsync(pond, tmp_path, file, client)
    assert len(delta_log.parse_entry(delta_log.entry_paths(pond.store)[-1]).adds) > 1, (
        "96 MiB came in one data file: nothing was staged, so this test proved nothing"
    )
