"""What the doctor can see of other processes, and what it can't."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from pondfs.doctor.mounts import _look_at_daemon
from pondfs.doctor.processes import has_mapped
from tests.mount.place import ALICE, as_user

UNSEEN = f"""
import ctypes, os
os.setgroups([]), os.setgid({ALICE}), os.setuid({ALICE})
ctypes.CDLL(None).prctl(4, 0)  # PR_SET_DUMPABLE, as the daemon has it
print(flush=True)
input()
"""


def test_what_is_mapped() -> None:
    assert has_mapped(os.getpid(), "/libc")
    assert has_mapped(os.getpid(), "libeatmydata") is False


def test_a_daemon_that_is_not_for_its_own_user_to_look_into(tmp_path: Path) -> None:
    """Then it is not said that fsync works there."""
    daemon = subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", UNSEEN], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        assert daemon.stdout is not None
        assert daemon.stdout.readline() == b"\n"
        hello = {"pid": daemon.pid, "store": "/srv/pond", "last_error": None}
        with as_user(ALICE, tmp_path):
            assert has_mapped(daemon.pid, "libeatmydata") is None
            seen = list(_look_at_daemon("the pond at /mnt", hello))
        assert [finding.severity for finding in seen] == ["note", "ok"]
        assert "libeatmydata" in seen[0].message
    finally:
        daemon.communicate(b"\n")
