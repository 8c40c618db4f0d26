import errno
import os
import signal
import subprocess
import sys

import pytest

from pondfs.store.faults import fault
from tests.unit.store import support

CODE = "from pondfs.store.faults import fault; fault('a:b'); print(1); fault('a:b'); print(2)"


def run(value: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PONDFS_FAULT": value}
    return subprocess.run(
        [sys.executable, "-u", "-c", CODE], env=env, capture_output=True, text=True, check=False
    )


def test_nothing_happens_without_being_asked_for() -> None:
    fault("commit:link")
    assert run("").stdout == "1\n2\n"
    assert run("other:point").stdout == "1\n2\n"


def test_killing_at_the_first_or_a_later_time() -> None:
    first, second = run("a:b"), run("a:b:2")
    assert (first.returncode, first.stdout) == (-signal.SIGKILL, "")
    assert (second.returncode, second.stdout) == (-signal.SIGKILL, "1\n")


def test_failing_always_or_some_times() -> None:
    with support.fault("x:y", "ENOSPC"):
        for _ in range(3):
            with pytest.raises(OSError, match="fault x:y") as caught:
                fault("x:y")
            assert caught.value.errno == errno.ENOSPC
    with support.fault("x:y", "EIO", "2"):
        for _ in range(2):
            with pytest.raises(OSError, match="fault x:y"):
                fault("x:y")
        fault("x:y")
