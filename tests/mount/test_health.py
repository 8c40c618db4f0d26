"""What a monitoring system hears of a pond, and the exit code it goes by."""

from __future__ import annotations

import json
import os
import signal
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from pondfs.cli.health import CLOCK_S, LATE_S, judge
from tests.mount.harness import PondMount, detach, wait_gone, wait_until


def health(pond: PondMount, *args: str) -> tuple[int, str]:
    done = pond.run("pond", "--pond", str(pond.store), "health", *args, check=False)
    assert not done.stderr
    return done.returncode, done.stdout


def test_well_and_not(pond: PondMount) -> None:
    (pond.mnt / "file").write_bytes(b"x" * 1000)
    pond.commit()
    code, said = health(pond)
    assert code == 0, said
    assert said.startswith(f"POND OK - {pond.store} on {pond.mnt}, version 2, 2 nodes | version=2 ")
    assert said.count("\n") == 1
    pond.umount()
    code, said = health(pond)
    assert code == 2
    assert said == f"POND CRITICAL - {pond.store} is not mounted\n"


def test_a_daemon_that_is_dead_or_deaf(pond: PondMount) -> None:
    pid = pond.pid
    os.kill(pid, signal.SIGSTOP)
    code, said = health(pond, "--timeout", "0.3")
    os.kill(pid, signal.SIGCONT)
    assert code == 2
    assert said.startswith("POND CRITICAL - ")
    assert health(pond)[0] == 0
    os.kill(pid, signal.SIGKILL)
    wait_gone(pid)
    code, said = health(pond, "--json")
    told = json.loads(said)
    assert (code, told["state"]) == (2, "critical")
    assert told["version"] is None
    detach(pond.mnt)


def status(**changed: Any) -> dict[str, Any]:
    """What the daemon of a pond that is well says, but for *changed*."""
    storage = {"disk_free_bytes": 50 << 30, "disk_bytes": 100 << 30}
    return {
        "last_error": None,
        "pending_age_s": None,
        "read_only": False,
        "options": {"commit_s": 5.0},
        "storage": storage,
        "storage_error": "",
        "last_commit": {"timestamp": 1000.0},
    } | changed


@pytest.mark.parametrize(
    ("changed", "state", "says"),
    [
        ({"last_error": "commit failed: No space left on device"}, "critical", "No space left"),
        ({"pending_age_s": 5 + LATE_S + 1}, "warning", "changes wait for"),
        ({"pending_age_s": 5 + 3600.0}, "critical", "changes wait for"),
        ({"storage": {"disk_free_bytes": 4 << 30, "disk_bytes": 100 << 30}}, "warning", "4.0 GiB"),
        ({"storage": {"disk_free_bytes": 1 << 20, "disk_bytes": 1 << 30}}, "critical", "1.0 MiB"),
        ({"storage": None, "storage_error": "EIO"}, "warning", "can't be looked at: EIO"),
        ({"last_commit": {"timestamp": 2000.0 + 2 * CLOCK_S}}, "warning", "in the future"),
    ],
)
def test_what_is_not_well(changed: dict[str, Any], state: str, says: str) -> None:
    (reason,) = judge(status(**changed), now=2000.0)
    assert reason.state == state
    assert says in reason.text


def test_what_is_well() -> None:
    assert not [*judge(status(), now=2000.0)]
    assert not [*judge(status(pending_age_s=4.0, last_commit=None), now=2000.0)]
    assert not [*judge(status(pending_age_s=1e6, read_only=True), now=2000.0)]


def test_metrics_over_http(pond_unmounted: PondMount) -> None:
    """The same families as in .pond/metrics, from a port that the kernel chose."""
    pond = pond_unmounted.mount("metrics=127.0.0.1:0")
    wait_until(lambda: "metrics at http://" in pond.daemon_log(), "it tells where")
    url = pond.daemon_log().partition("metrics at ")[2].split()[0]
    assert url.startswith("http://127.0.0.1:")
    with urllib.request.urlopen(url, timeout=20) as answer:
        assert answer.headers["Content-Type"].startswith("text/plain; version=")
        told = answer.read().decode()
    families = {family.name for family in text_string_to_metric_families(told)}
    in_file = (pond.mnt / ".pond" / "metrics").read_text()
    assert families == {family.name for family in text_string_to_metric_families(in_file)}
    assert f'pondfs_version{{mountpoint="{pond.mnt}"}} 1.0' in told
    # And the mount ends though a scraper holds a connection.
    with urllib.request.urlopen(url, timeout=20):
        pond.umount()


@pytest.mark.allow_log("no metrics at")
def test_a_port_somebody_has_is_no_reason_not_to_mount(pond_unmounted: PondMount) -> None:
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        pond = pond_unmounted.mount(f"metrics=127.0.0.1:{port}")
        wait_until(lambda: "no metrics at" in pond.daemon_log(), "the log tells")
        assert Path(pond.mnt).is_dir()
        (pond.mnt / "file").write_bytes(b"x")
        pond.commit()


@pytest.mark.parametrize("where", ["0.0.0.0:9742", "192.168.1.2:80", "localhost:1", "9742", ":1"])
def test_metrics_are_for_this_machine(pond_unmounted: PondMount, where: str) -> None:
    pond_unmounted.mnt.mkdir(exist_ok=True)
    done = pond_unmounted.run(
        "mount.pond", str(pond_unmounted.store), str(pond_unmounted.mnt), "-o", f"metrics={where}",
        check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert "takes an address of this machine" in done.stderr
