"""The systemd units: understood by systemd, and no directive that would hide the mount."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

from tests.mount.harness import BIN, require

UNITS = Path(__file__).parents[2] / "systemd"
NAMES = [path.relative_to(UNITS).as_posix() for path in sorted(UNITS.rglob("*@.*"))]

# Source: systemd.exec(5), "Sandboxing" and "Paths": each of these makes a mount namespace.
NAMESPACED = re.compile(
    r"^(Protect(System|Home|KernelTunables|KernelModules|KernelLogs|ControlGroups|Proc)|ProcSubset"
    r"|Private(Tmp|Devices|Mounts|Users|Network|IPC)|(ReadWrite|ReadOnly|Inaccessible|Exec|NoExec)Paths"
    r"|Bind(ReadOnly)?Paths|TemporaryFileSystem|Root(Directory|Image)|MountFlags|DynamicUser)=",
    re.MULTILINE,
)


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """Return a directory with the units as `make install` writes them."""
    for name in NAMES:
        text = (UNITS / name).read_text()
        assert "@BINDIR@" in text or name.endswith(".timer")
        target = tmp_path / name
        target.parent.mkdir(exist_ok=True)
        target.write_text(text.replace("@BINDIR@", str(BIN)))
    return tmp_path


@pytest.mark.parametrize("name", NAMES)
def test_systemd_understands_it(installed: Path, name: str) -> None:
    manager = "--user" if name.startswith("user/") else "--system"
    done = subprocess.run(
        [require("systemd-analyze"), manager, "--man=no", "--generators=no", "verify",
         str(installed / name)],
        capture_output=True, text=True, timeout=60, check=False,
        env={**os.environ, "XDG_RUNTIME_DIR": str(installed)},
    )  # fmt: skip
    ours = [line for line in done.stderr.splitlines() if "pond" in line]
    assert done.returncode == 0, done.stderr
    assert not ours, done.stderr


@pytest.mark.parametrize("name", NAMES)
def test_the_mount_is_seen_by_everybody(name: str) -> None:
    assert not NAMESPACED.search((UNITS / name).read_text())


def test_it_may_do_little_else(installed: Path) -> None:
    """The exposure that systemd finds, of 10; a service without any directive has 9.6."""
    done = subprocess.run(
        [require("systemd-analyze"), "security", "--offline=true", "--threshold=45",
         str(installed / "pond@.service")],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-300:] + done.stderr
