import os
import sys
import types
from pathlib import Path

import pytest

from pondfs.cli import mount_pond
from pondfs.cli.run import run
from pondfs.options import MountOptions


@pytest.fixture
def mounted(monkeypatch: pytest.MonkeyPatch) -> list[MountOptions]:
    """What `pondfs.mount.mount` was asked for; a stand-in for it."""
    asked: list[MountOptions] = []

    def mount(options: MountOptions) -> int:
        asked.append(options)
        return 32 if "fail" in str(options.store) else 0

    module = types.ModuleType("pondfs.mount")
    module.__dict__["mount"] = mount
    monkeypatch.setitem(sys.modules, "pondfs.mount", module)
    monkeypatch.delenv("POND", raising=False)
    return asked


def mount(*args: str) -> int:
    return run(mount_pond.command, "mount.pond", args)


def test_as_a_person_calls_it(mounted: list[MountOptions]) -> None:
    assert mount("/srv/p", "/mnt", "-o", "ro,commit=2", "-f", "-v", "-o", "xattr") == 0
    (options,) = mounted
    assert (options.store, options.mountpoint) == (Path("/srv/p"), Path("/mnt"))
    assert options.ro
    assert options.xattr
    assert options.commit_s == 2
    assert options.foreground
    assert options.verbose


def test_options_may_come_first(mounted: list[MountOptions]) -> None:
    assert mount("-o", "ro", "-s", "/srv/p", "/mnt") == 0
    assert mounted[0].ro
    assert not mounted[0].foreground


def test_as_mount8_calls_it(mounted: list[MountOptions], monkeypatch: pytest.MonkeyPatch) -> None:
    """Its ``-f`` means fake: nothing is mounted. ``--foreground`` is ours all the same."""
    monkeypatch.setattr(mount_pond, "called_by_mount", lambda: True)
    args = ["/srv/p", "/mnt", "-s", "-n", "-v", "-o", "rw,_netdev,nofail", "-t", "fuse.pond"]
    assert mount(*args) == 0
    assert mount(*args, "-f") == 0
    assert [options.foreground for options in mounted] == [False]
    assert mount(*args, "--foreground") == 0
    assert mounted[1].foreground


def test_a_fake_mount_still_checks_its_options(
    mounted: list[MountOptions],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(mount_pond, "called_by_mount", lambda: True)
    assert mount("/srv/p", "/mnt", "-f", "-o", "sparkle") == 1
    assert "unknown option 'sparkle'" in capsys.readouterr().err


def test_mount8_is_known_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "getppid", lambda: 7)
    (tmp_path / "7").mkdir()
    comm = tmp_path / "7" / "comm"
    comm.write_text("mount\n")
    assert mount_pond.called_by_mount(str(tmp_path))
    comm.write_text("bash\n")
    assert not mount_pond.called_by_mount(str(tmp_path))
    comm.unlink()
    assert not mount_pond.called_by_mount(str(tmp_path))
    assert not mount_pond.called_by_mount()


def test_exit_codes(mounted: list[MountOptions], capsys: pytest.CaptureFixture[str]) -> None:
    assert mount() == 1
    assert mount("/srv/p", "/mnt", "third") == 1
    assert mount("/srv/p", "/mnt", "--frobnicate") == 1
    assert mount("/srv/p", "/mnt", "-N", "/proc/1/ns/mnt") == 1
    assert mount("/srv/fail", "/mnt") == 32
    assert capsys.readouterr().err.count("mount.pond: ") == 4
