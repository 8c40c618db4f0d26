import dataclasses
import os
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from pondfs.errors import MountFailed, UsageError
from pondfs.options import (
    MountOptions,
    check_places,
    default_store,
    parse_options,
    parse_size,
    split_options,
)

HOME = {"HOME": "/home/ann"}


def parse(*options: str, sloppy: bool = False) -> MountOptions:
    return parse_options(["/srv/pond", "/mnt"], options, environ={}, sloppy=sloppy)


def test_two_positionals_are_store_and_mountpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir("/usr")
    options = parse_options(["pond", "../mnt"], environ={})
    assert (options.store, options.mountpoint) == (Path("/usr/pond"), Path("/mnt"))


def test_one_positional_is_the_mountpoint() -> None:
    options = parse_options(["/mnt"], environ={"POND": "/srv/p"})
    assert (options.store, options.mountpoint) == (Path("/srv/p"), Path("/mnt"))


@pytest.mark.parametrize("positionals", [[], ["a", "b", "c"], [""], ["/srv/pond", ""]])
def test_other_positionals_are_refused(positionals: list[str]) -> None:
    with pytest.raises(UsageError, match="mountpoint"):
        parse_options(positionals, environ=HOME)


@pytest.mark.parametrize(
    ("uid", "environ", "store"),
    [
        (0, {"POND": "/p"}, "/p"),
        (0, {}, "/var/lib/pond"),
        (0, {"XDG_DATA_HOME": "/data", **HOME}, "/var/lib/pond"),
        (1000, {"POND": "/p", "XDG_DATA_HOME": "/data", **HOME}, "/p"),
        (1000, {"XDG_DATA_HOME": "/data", **HOME}, "/data/pond"),
        (1000, {"XDG_DATA_HOME": "not/absolute", **HOME}, "/home/ann/.local/share/pond"),
        (1000, {"POND": "", **HOME}, "/home/ann/.local/share/pond"),
    ],
)
def test_default_store(
    uid: int, environ: Mapping[str, str], store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: uid)
    assert default_store(environ) == Path(store)


def test_without_home_the_user_database_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """mount(8) and systemd give no HOME."""
    monkeypatch.setattr(os, "geteuid", lambda: 65534)
    assert default_store({}) == Path("/nonexistent/.local/share/pond")
    monkeypatch.setattr(os, "geteuid", lambda: 4_000_000_000)
    with pytest.raises(UsageError, match=r"no home directory.*name a STORE"):
        default_store({})


def test_a_url_is_refused() -> None:
    with pytest.raises(UsageError, match="URLs are not supported"):
        parse_options(["s3://bucket/pond", "/mnt"], environ={})


def test_without_options_the_defaults_hold() -> None:
    assert parse() == MountOptions(store=Path("/srv/pond"), mountpoint=Path("/mnt"))


@pytest.mark.parametrize(
    ("option", "field", "value"),
    [
        ("ro", "ro", True),
        ("allow_other", "allow_other", True),
        ("nocreate", "nocreate", True),
        ("log=info", "follow", False),
        ("log=info", "compact", True),
        ("compact=off", "compact", False),
        ("compact=off,compact=on", "compact", True),
        ("xattr", "xattr", True),
        ("acl", "acl", True),
        ("uid=1000", "uid", 1000),
        ("uid=root", "uid", 0),
        ("gid=33", "gid", 33),
        ("gid=root", "gid", 0),
        ("umask=027", "umask", 0o27),
        ("commit=30", "commit_s", 30.0),
        ("commit=0.2", "commit_s", 0.2),
        ("commit=0", "commit_s", 5.0),
        ("max_pending=2G", "max_pending_bytes", 2 << 30),
        ("log=info", "cache_bytes", 128 << 20),
        ("cache=1GiB", "cache_bytes", 1 << 30),
        ("attr_timeout=1.5", "attr_timeout_s", 1.5),
        ("entry_timeout=0", "entry_timeout_s", 0.0),
        ("negative_timeout=10", "negative_timeout_s", 10.0),
        ("log=debug", "log_level", "debug"),
        ("noexec", "kernel", ("noexec",)),
    ],
)
def test_option(option: str, field: str, value: object) -> None:
    assert getattr(parse(option), field) == value


def test_follow_is_for_the_newest_version_read_only() -> None:
    assert parse("ro,follow").follow
    for options in ("follow", "follow,ro,rw"):
        with pytest.raises(UsageError, match="-o ro"):
            parse(options)
    for options in ("ro,follow,version=3", "ro,at=yesterday,follow", "follow,version=3"):
        with pytest.raises(UsageError, match=r"leave out version= and at=|-o ro"):
            parse(options)


def test_acl_implies_xattr() -> None:
    assert parse("acl").xattr


def test_what_fstab_says_to_mount_is_ignored() -> None:
    options = parse(
        "rw,_netdev,nofail,user,users,owner,group,defaults,noauto,user=ann,x-systemd.automount,"
        "x-gvfs-name=Pond,comment=mine,relatime"
    )
    assert options == parse()


def test_an_unknown_option_is_refused_unless_sloppy() -> None:
    with pytest.raises(UsageError, match="unknown option 'sparkle=2'"):
        parse("ro,sparkle=2")
    assert parse("ro,sparkle=2", sloppy=True).ro


@pytest.mark.parametrize(
    "option",
    [
        "commit=soon",
        "commit=-1",
        "commit=nan",
        "commit=inf",
        "commit",
        "max_pending=1k",
        "max_pending=lots",
        "max_pending=-1M",
        "cache=0",
        "cache=64k",
        "cache=much",
        "uid=no-such-user",
        "uid=4294967295",
        "uid=-1",
        "umask=9",
        "umask=01777777",
        "attr_timeout=",
        "log=chatty",
        "compact=maybe",
        "ro=1",
        "remount",
    ],
)
def test_a_bad_value_names_the_option(option: str) -> None:
    with pytest.raises(UsageError, match=option.partition("=")[0]):
        parse(option)


def test_the_last_option_wins() -> None:
    assert not parse("ro,rw").ro
    assert parse("commit=1", "commit=2").commit_s == 2
    assert parse("noexec,nosuid,exec").kernel == ("exec", "nosuid")
    assert parse("sync,async").kernel == ("async",)


def test_commas_in_quotes_do_not_split() -> None:
    options = ['ro,context="system_u:object_r:tmp_t:s0:c127,c456",noexec', "", "a,,b"]
    assert split_options(options) == [
        "ro",
        "context=system_u:object_r:tmp_t:s0:c127,c456",
        "noexec",
        "a",
        "b",
    ]


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("65536", 65536),
        ("4k", 4096),
        ("128M", 1 << 27),
        ("1GiB", 1 << 30),
        ("1TB", 1 << 40),
    ],
)
def test_sizes_are_binary(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "M", "1.5G", "-1", "1X", "1 M"])
def test_bad_sizes(text: str) -> None:
    with pytest.raises(ValueError, match="whole number"):
        parse_size(text)


def test_options_are_immutable() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        parse().ro = True  # type: ignore[misc]  # the point of the test


def test_places_must_not_lie_in_each_other(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "link").symlink_to("a")
    check_places(tmp_path / "store", tmp_path / "a")
    with pytest.raises(MountFailed, match="inside its mountpoint"):
        check_places(tmp_path / "a" / "b", tmp_path / "a")
    with pytest.raises(MountFailed, match="inside its mountpoint"):
        check_places(tmp_path / "link" / "new", tmp_path / "a")
    with pytest.raises(MountFailed, match="inside the store"):
        check_places(tmp_path / "a", tmp_path / "link" / "b")
    with pytest.raises(MountFailed, match="is the store itself"):
        check_places(tmp_path / "a", tmp_path / "link")


def test_a_pond_is_not_mounted_over_another(
    tmp_path: Path, mount_table: Callable[..., Path]
) -> None:
    """A dead daemon's mount still answers a stat, from the kernel's cache: the table decides."""
    mount_table("/srv/other", tmp_path)
    with pytest.raises(MountFailed, match=f"/srv/other is mounted .* pond umount {tmp_path}, then"):
        check_places(tmp_path / "store", tmp_path)


def test_the_mountpoint_must_be_a_directory(tmp_path: Path) -> None:
    with pytest.raises(MountFailed, match="make the directory first"):
        check_places(tmp_path / "store", tmp_path / "missing")
    (tmp_path / "file").touch()
    with pytest.raises(MountFailed, match="not a directory"):
        check_places(tmp_path / "store", tmp_path / "file")
