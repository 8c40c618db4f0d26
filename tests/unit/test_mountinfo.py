import os
from pathlib import Path

import pytest

from pondfs import mountinfo
from pondfs.mountinfo import (
    FSTYPE,
    Mount,
    find_pond_around,
    find_pond_at,
    find_ponds_of,
    is_believable,
    load_mounts,
)

MOUNTS = rb"""22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw,errors=remount-ro
40 22 0:50 / /mnt/pond rw,nosuid,nodev - fuse.pond /srv/my\040pond rw,user_id=1000,group_id=1000
41 22 0:51 / /mnt/w\134eird\011\377 ro - fuse.pond /srv/my\040pond ro,user_id=0,group_id=0
42 40 0:52 / /mnt/pond/tmp rw - tmpfs tmpfs rw
43 22 0:53 / /mnt/covered rw - fuse.pond /srv/other rw,user_id=0
44 43 0:54 / /mnt/covered rw - tmpfs tmpfs rw
"""


@pytest.fixture(autouse=True)
def _mounts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = tmp_path / "mountinfo"
    table.write_bytes(MOUNTS)
    monkeypatch.setattr(mountinfo, "load_mounts", lambda: load_mounts(str(table)))


def test_a_line_is_unescaped_and_taken_apart() -> None:
    mount = find_pond_at("/mnt/pond")
    assert mount is not None
    assert mount.source == "/srv/my pond"
    assert mount.owner_uid == 1000
    assert mount.device == (0, 50)
    assert {"rw", "nosuid", "user_id=1000"} <= set(mount.options)


def test_names_that_are_not_utf8_survive() -> None:
    mount = find_pond_at("/mnt/w\\eird\t\udcff")
    assert mount is not None
    assert mount.owner_uid == 0


def test_only_the_uppermost_mount_counts() -> None:
    assert find_pond_at("/mnt/covered") is None
    assert find_pond_at("/mnt/pond/tmp") is None
    assert find_pond_at("/mnt/pond/below") is None


def test_a_symlink_to_the_mountpoint_finds_it(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("/mnt/pond")
    assert find_pond_at(tmp_path / "link") == find_pond_at("/mnt/pond") is not None


@pytest.mark.parametrize(
    ("directory", "is_inside"),
    [
        ("/mnt/pond", True),
        ("/mnt/pond/a/b", True),
        ("/mnt/pondering", False),
        ("/mnt/pond/tmp/x", False),
        ("/mnt/covered", False),
        ("/", False),
    ],
)
def test_the_pond_around_a_directory(directory: str, is_inside: bool) -> None:
    mount = find_pond_around(directory)
    assert (mount is not None) == is_inside
    if mount is not None:
        assert mount.mountpoint == Path("/mnt/pond")


def test_all_mounts_of_a_store_newest_first() -> None:
    found = find_ponds_of(Path("/srv/my pond"))
    assert [mount.device for mount in found] == [(0, 51), (0, 50)]
    assert find_ponds_of(Path("/srv/none")) == []


@pytest.mark.parametrize(
    ("asking", "mounted", "expected"),
    [(1000, 1000, True), (1001, 1000, False), (1001, 0, True), (0, 1000, False)],
)
def test_a_mount_of_somebody_elses_store_is_believed_by_who_made_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asking: int, mounted: int, expected: bool
) -> None:
    """Read-only, mostly; its own user's commands refused it as well."""
    os.chown(tmp_path, 2000, -1)
    monkeypatch.setattr(os, "geteuid", lambda: asking)
    options = ("ro", f"user_id={mounted}")
    mount = Mount(Path("/mnt/m"), FSTYPE, str(tmp_path), options, (0, 60), mounted)
    assert is_believable(mount) == expected


def test_our_own_table_can_be_read() -> None:
    assert any(mount.mountpoint == Path("/") for mount in load_mounts())
