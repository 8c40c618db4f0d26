import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from pondfs.errors import PondLocked
from pondfs.store.lock import WriterLock, find_holder

HOLD = """
import sys, time
from pondfs.store.lock import WriterLock
lock = WriterLock(sys.argv[1], mountpoint="/mnt/pond", socket="/run/x")
print("held", flush=True)
sys.stdin.read()
"""


def test_a_second_process_is_told_who_holds_it_until_that_dies(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, tmp_path], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(PondLocked, match=rf"/mnt/pond by process {holder.pid}") as caught:
            WriterLock(os.fspath(tmp_path), mountpoint="/other", socket="")
        assert caught.value.mountpoint == "/mnt/pond"
        holder.send_signal(signal.SIGKILL)
        holder.wait()
    WriterLock(os.fspath(tmp_path), mountpoint="/other", socket="").release()


def test_one_process_cannot_hold_it_twice(tmp_path: Path) -> None:
    lock = WriterLock(os.fspath(tmp_path), mountpoint="/a", socket="")
    with pytest.raises(PondLocked, match="mounted at /a"):
        WriterLock(os.fspath(tmp_path), mountpoint="/b", socket="")
    lock.release()
    lock.release()
    WriterLock(os.fspath(tmp_path), mountpoint="/b", socket="").release()


def test_the_file_says_who_and_how_to_reach_them(tmp_path: Path) -> None:
    lock = WriterLock(os.fspath(tmp_path), mountpoint="/a", socket="/run/s")
    holder = json.loads((tmp_path / "lock").read_text())
    assert holder["pid"] == os.getpid()
    assert holder["mountpoint"] == "/a"
    assert holder["socket"] == "/run/s"
    assert holder["host"]
    lock.release()
    assert find_holder(os.fspath(tmp_path)) is None


def test_a_holder_that_has_not_said_who_it_is(tmp_path: Path) -> None:
    lock = WriterLock(os.fspath(tmp_path), mountpoint="", socket="")
    (tmp_path / "lock").write_bytes(b"")
    with pytest.raises(PondLocked, match="in use by another process"):
        WriterLock(os.fspath(tmp_path), mountpoint="", socket="")
    lock.release()
