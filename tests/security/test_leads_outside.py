"""Paths, symlinks and SQL that lead out of the pond: refused, or resolved inside of it.

Nobody gains rights by them: commands and queries run as whoever calls them. It is about surprise: a
tree from elsewhere must not say which of the caller's files are read, or written.
"""

from __future__ import annotations

import ast
import ctypes
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from pondfs.cli import pond as pond_command
from pondfs.cli.run import run as run_verb
from pondfs.errors import NoSuchPath, PondError, UsageError
from pondfs.query.session import Session
from pondfs.store.delta import DeltaStore
from pondfs.store.mounted_tree import MountedTree
from tests.campaign import Campaign
from tests.mount.harness import PondMount

MARK = "of-the-host"


def pond(store: Path, *args: str) -> int:
    return run_verb(pond_command, "pond", ("--pond", str(store), *args))


@pytest.fixture(scope="module")
def outside(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("outside")
    (place / "host.csv").write_text(f"a\n{MARK}\n")
    return place


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory, outside: Path) -> Path:
    """Return a pond full of symlinks that lead to the host's files."""
    top = tmp_path_factory.mktemp("leads")
    source = top / "source"
    source.mkdir()
    (source / "in.csv").write_text("a\ninside\n")
    (source / "absolute.csv").symlink_to(outside / "host.csv")
    (source / "upwards.csv").symlink_to("../" * 20 + f"{outside}/host.csv")
    (source / "directory").symlink_to(outside)
    (source / "loop.csv").symlink_to("loop.csv")
    DeltaStore.create(top / "pond")
    assert pond(top / "pond", "cp", f"host:{source}", "pond:/") == 0
    return top / "pond"


FROM_OUTSIDE = [
    "SELECT * FROM read('{outside}/host.csv')",
    "SELECT * FROM '{outside}/host.csv'",
    "SELECT * FROM read('file://{outside}/host.csv')",
    "SELECT * FROM 'file://{outside}/host.csv'",
    "SELECT * FROM read('../../../../../../..{outside}/host.csv')",
    "SELECT * FROM read('/../../../../../../..{outside}/host.csv')",
    "SELECT * FROM read('/source/absolute.csv')",
    "SELECT * FROM read('/source/upwards.csv')",
    "SELECT * FROM '/source/absolute.csv'",
    "SELECT * FROM read('/source/directory/host.csv')",
    "SELECT * FROM read('/source/directory/*.csv')",
    "SELECT * FROM read('/source/*/host.csv')",
    "SELECT * FROM read('/source/abs*.csv')",
    "SELECT * FROM read('/source/loop.csv')",
    "SELECT * FROM 'http://127.0.0.1:1/host.csv'",
    "SELECT * FROM read('http://127.0.0.1:1/host.csv')",
    "SELECT * FROM 's3://bucket/host.csv'",
    "SELECT * FROM read_csv('{outside}/host.csv')",
    "COPY (SELECT 1) TO '{outside}/made.csv'",
    "CREATE EXTERNAL TABLE t STORED AS CSV LOCATION '{outside}/host.csv'",
    "CREATE TABLE t AS SELECT 1",
    "CREATE VIEW v AS SELECT 1",
    "INSERT INTO nodes SELECT * FROM nodes",
    "DELETE FROM nodes",
    "UPDATE nodes SET name = ''",
    "DROP TABLE nodes",
    "SET datafusion.catalog.location = '{outside}'",
    "SELECT 1; COPY (SELECT 1) TO '{outside}/made.csv'",
    "EXPLAIN ANALYZE COPY (SELECT 1) TO '{outside}/made.csv'",
]


@pytest.mark.parametrize("sql", FROM_OUTSIDE)
def test_sql_reaches_no_file_of_the_host(store: Path, outside: Path, sql: str) -> None:
    with Session(store) as session:
        with pytest.raises((PondError, OSError)) as refused:
            session.sql(sql.format(outside=outside)).table()
        assert MARK not in str(refused.value)
        assert session.sql("SELECT a FROM read('/source/in.csv')").table()["a"].to_pylist() == [
            "inside"
        ]
    assert os.listdir(outside) == ["host.csv"]


def test_a_glob_passes_over_what_leads_out(store: Path) -> None:
    """`**` follows no symlink, and a single `*` refuses one that leads out."""
    with Session(store) as session, pytest.raises(UsageError, match="leads out"):
        session.sql("SELECT a FROM read('/**/*.csv')").table()


def test_nor_in_a_mount(store: Path, outside: Path, pond: PondMount) -> None:
    """There the kernel would follow them."""
    (pond.mnt / "absolute.csv").symlink_to(outside / "host.csv")
    (pond.mnt / "upwards.csv").symlink_to("../" * 20 + f"{outside}/host.csv")
    (pond.mnt / "directory").symlink_to(outside)
    with Session(pond.store, live=pond.mnt) as session:
        for path in ("/absolute.csv", "/upwards.csv", "/directory/host.csv", "/directory/*"):
            with pytest.raises((PondError, OSError)) as refused:
                session.sql(f"SELECT * FROM read('{path}')").table()
            assert MARK not in str(refused.value)


# --- while somebody changes it --------------------------------------------------------------------

_EXCHANGE = 2
_libc = ctypes.CDLL(None, use_errno=True)


def exchange(one: Path, other: Path) -> None:
    assert _libc.renameat2(-100, os.fsencode(one), -100, os.fsencode(other), _EXCHANGE) == 0


@pytest.fixture
def swapped(tmp_path: Path) -> Iterator[tuple[Path, Path]]:
    """Return a tree in which a thread exchanges ``d`` and a symlink, and where that leads."""
    top, private = tmp_path / "tree", tmp_path / "private"
    for place, text in ((top / "d", "open"), (private, MARK)):
        place.mkdir(parents=True)
        (place / "f").write_text(text)
    (top / "link").symlink_to(private)
    ended = threading.Event()

    def attack() -> None:
        while not ended.is_set():
            exchange(top / "d", top / "link")

    attacker = threading.Thread(target=attack)
    attacker.start()
    yield top, private
    ended.set()
    attacker.join()


@pytest.mark.campaign
def test_no_directory_is_exchanged_for_a_link_between_two_looks(
    swapped: tuple[Path, Path], campaign: Campaign
) -> None:
    """Root copied out what the user who owns the tree could not read."""
    top, _ = swapped
    tree = MountedTree(os.open(top, os.O_PATH | os.O_DIRECTORY), "the tree")
    found = 0
    rounds = campaign.rounds(suite=2000, long=100_000)
    try:
        for _ in range(rounds):
            try:
                text = b"".join(data for _, data in tree.read(b"d/f"))
                assert tree.lstat(b"d/f").size_bytes == len(text)
                assert [name for name, _ in tree.entries(b"d")] == [b"f"]
            except (NoSuchPath, OSError):
                continue
            assert text == b"open"
            found += 1
    finally:
        tree.close()
    assert found, "it was never there when it was looked for, so the test shows nothing"
    campaign.tell("exchanged-reads", rounds=rounds, faults=rounds - found, losses=0)


@pytest.mark.campaign
def test_a_copy_stays_in_its_target_whatever_is_exchanged(
    store: Path, swapped: tuple[Path, Path], campaign: Campaign
) -> None:
    top, private = swapped
    source = store.parent / "d"
    source.mkdir()
    (source / "new").write_text("x")
    assert pond(store, "cp", f"host:{source}", "pond:/") == 0
    rounds = campaign.rounds(suite=20, long=1000)
    codes = [pond(store, "cp", "--force", "pond:/d", f"host:{top}") for _ in range(rounds)]
    assert 0 in codes, "it never came to a copy, so the test shows nothing"
    assert os.listdir(private) == ["f"]
    assert (private / "f").read_text() == MARK
    faults = rounds - codes.count(0)
    campaign.tell("exchanged-copies", rounds=rounds, faults=faults, losses=0)


# --- no shell -------------------------------------------------------------------------------------


def test_nothing_goes_through_a_shell() -> None:
    """ruff's S602, S604, S605 and S609 say so of pondfs; here of every Python file there is."""
    top = Path(__file__).resolve().parents[2]
    shells = {"system", "popen", "getoutput", "getstatusoutput", "create_subprocess_shell"}
    looked_at = 0
    for file in [
        *top.glob("pondfs/**/*.py"),
        *top.glob("mount/**/*.py"),
        *top.glob("tools/**/*.py"),
    ]:
        looked_at += 1
        for node in ast.walk(ast.parse(file.read_text())):
            if not isinstance(node, ast.Call):
                continue
            name = getattr(node.func, "attr", getattr(node.func, "id", ""))
            where = f"{file}:{node.lineno}"
            assert name not in shells, where
            assert not any(word.arg == "shell" for word in node.keywords), where
    assert looked_at > 100
