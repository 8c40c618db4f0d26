"""Names, symlinks and extended attributes of any bytes: the same bytes everywhere.

Made through a mount, committed, and seen again: in the mount after a remount, below ``.pond/``, by
the Python API, ``pond ls``, the log of changes, SQL, and another engine that folds the table.
"""

from __future__ import annotations

import base64
import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import pondfs
from pondfs.cli.output import format_path
from tests.campaign import Campaign
from tests.crash import delta_log
from tests.crash.second_reader import assert_same, fold_by_sql
from tests.fuzz.settings import fuzzing
from tests.fuzz.test_texts import is_tame
from tests.mount.harness import PondMount

ODD = [
    b"\x1b[31m\x1b]0;title\x07", b"a\nb", b"\r", b"\xff\xfe", b"\xc3", "e\u0301".encode(),
    "é".encode(), b"'", b'"', b"\\", b"\\n", b" ", b"-rf", b"*", b"[a]", b"?", b"~", b"$(x)",
    b"%00", b"#", b"&?=", "\u202e\u200b".encode(), b"\xed\xa0\x80", b"\xf4\x90\x80\x80",
    b"\x80" * 255, b"n" * 255, b".pon", b"{,}", b"a:b", b";", b"NUL", b"\x7f", b"\xc2\x9b1m",
]  # fmt: skip

BYTES = st.binary(min_size=1, max_size=255).map(lambda data: data.replace(b"\0", b"0"))
NAMES = st.one_of(
    st.sampled_from(ODD), BYTES.map(lambda data: data.replace(b"/", b"_")),
).filter(lambda name: name not in (b".", b"..", b".pond"))  # fmt: skip
XATTRS = st.dictionaries(
    st.tuples(st.sampled_from([b"user.", b"trusted."]), BYTES).map(lambda of: b"".join(of)[:255]),
    st.binary(max_size=300),
    max_size=3,
)
THINGS = st.dictionaries(
    NAMES, st.tuples(st.one_of(BYTES, st.none()), XATTRS), min_size=1, max_size=25
)
"""By name: a symlink's target, or None for a file that holds its own name; and its xattrs."""

Things = dict[bytes, tuple[bytes | None, dict[bytes, bytes]]]


def make(directory: bytes, things: Things) -> None:
    for name, (target, xattrs) in things.items():
        path = os.path.join(directory, name)
        if target is not None:
            os.symlink(target, path)
            continue
        with open(path, "wb") as file:
            file.write(name)
        for key, value in xattrs.items():
            os.setxattr(path, key, value)


def check_below(directory: bytes, things: Things) -> None:
    """Compare with what the kernel says."""
    assert sorted(os.listdir(directory)) == sorted(things)
    for name, (target, xattrs) in things.items():
        path = os.path.join(directory, name)
        if target is not None:
            assert os.readlink(path) == target
            continue
        with open(path, "rb") as file:
            assert file.read() == name
        found = {key: os.getxattr(path, key) for key in map(os.fsencode, os.listxattr(path))}
        assert found == xattrs


def check_by_api(store: Path, top: str, things: Things) -> None:
    with pondfs.open(store) as pond:
        assert sorted(map(os.fsencode, pond.listdir(top))) == sorted(things)
        for name, (target, xattrs) in things.items():
            path = f"{top}/{os.fsdecode(name)}"
            if target is not None:
                assert os.fsencode(pond.readlink(path)) == target
            else:
                assert pond.read_bytes(path) == name
                assert {
                    os.fsencode(key): value for key, value in pond.xattrs(path).items()
                } == xattrs


def check_by_commands(pond: PondMount, top: str, version: int, things: Things) -> None:
    wanted = sorted(os.path.join(os.fsencode(top), name) for name in things)
    listed = json.loads(pond.pond("ls", "-a", "--json", f"/{top}").stdout)
    assert sorted(os.fsencode(one["path"]) for one in listed) == wanted
    targets = {os.fsencode(one["path"]): one["target"] for one in listed}
    for name, (target, _) in things.items():
        found = targets[os.path.join(os.fsencode(top), name)]
        assert (None if found is None else os.fsencode(found)) == target
    logged = json.loads(pond.pond("log", "--stat", "--json", "-n", "1").stdout)
    changed = [os.fsencode(change["path"]) for change in logged[0]["changes"]]
    assert set(wanted) <= set(changed)
    rows = sql(
        pond, f"SELECT name, name_bytes FROM oplog WHERE version = {version} AND name IS NOT NULL"
    )
    assert set(things) <= {name_of(row) for row in rows}
    for verb in (["ls", "-al"], ["ls", "-a"], ["find"], ["du"], ["log", "--stat", "-n", "1"]):
        where = [] if verb[0] == "log" else [f"/{top}"]
        out = pond.run("pond", "--pond", str(pond.store), *verb, *where).stdout
        assert is_tame(out)
        if verb[0] != "du":
            assert all(format_path(name) in out for name in things)


def sql(pond: PondMount, query: str) -> Sequence[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads(pond.pond("query", "--format", "json", query).stdout)
    return rows


def name_of(row: dict[str, Any]) -> bytes:
    if row["name_bytes"] is None:
        return str(row["name"]).encode()
    return base64.b64decode(row["name_bytes"])


@pytest.mark.campaign
def test_the_same_bytes_everywhere(pond_unmounted: PondMount, campaign: Campaign) -> None:
    pond = pond_unmounted.mount("commit=3600,xattr")
    counts = {"rounds": 0, "names": 0}

    def see_all(things: Things) -> None:
        counts["rounds"] += 1
        counts["names"] += len(things)
        top = f"top{counts['rounds']}"
        directory = os.fsencode(pond.mnt / top)
        os.mkdir(directory)
        make(directory, things)
        check_below(directory, things)
        pond.commit(message=f"round {counts['rounds']}")
        version = pond.log()[0]["version"]
        check_by_commands(pond, top, version, things)
        check_by_api(pond.store, top, things)
        pond.remount()
        check_below(directory, things)
        check_below(os.fsencode(pond.mnt / ".pond" / "at" / str(version) / top), things)
        assert_same(fold_by_sql(delta_log.data_files(pond.store)), pond.mnt)
        shutil.rmtree(directory)

    see_all(
        {
            name: (name, {}) if at % 3 == 0 else (None, {b"user." + name[:200]: name})
            for at, name in enumerate(ODD)
        }
    )

    @fuzzing(campaign, suite=1, long=600)
    @given(THINGS)
    def more(things: Things) -> None:
        see_all(things)

    more()
    campaign.tell(
        "fuzz: names and xattrs", rounds=counts["rounds"], faults=counts["names"], losses=0
    )
